"""Names that have broken a store somewhere: each is just a name, and no two of them are the same."""

from __future__ import annotations

from typing import Final

from lc_history.model import MAX_NAME_CHARACTERS

HOSTILE_NAMES: Final[tuple[str, ...]] = (
    *("a:b", "a", "b", ":", "::", "a:", ":a"),  # separators of keys
    *("/", "a/b", "..", ".", "../x", "a//b", "\\", "C:\\x"),  # separators of paths and documents
    *("*", "?", "[a-z]", "a*", "%", "%41", "A", "_", "a%b", "%00", "%2F"),  # patterns and escapes
    *("{}", "{a}", "}{", "{a", "{user}:x", "#", "#1", "$x", "|", "+", ",", "=", "&", "~", "^", "@", "!"),
    *("__x__", "__name__", "-", "-1", "0", "00", "1", "1.0", "None", "null", "true", "NaN", "[]", '"', "'", "''"),
    *("'; DROP TABLE sessions; --", "<script>", "${jndi:x}", "{{7*7}}", "%s", "%(x)s"),
    *(" ", "  ", " a", "a ", "\t", "\n", "a\nb", "\r\n", "\r", "\x00", "a\x00", "a\x00b", "\x1f", "\x7f", "\ufeff"),
    *(
        "é",
        "e\u0301",
        "É",
        "ß",
        "ss",
        "ẞ",
        "\u0130",
        "i",
        "I",
        "\u0131",
        "K",
        "\u212a",
    ),  # NFC and NFD, case and lookalikes
    *("\u200b", "\u202e", "😀", "👩\u200d👩\u200d👧", "日本", "\uffff", "\U0010ffff"),
    *("\ud800", "\udfff", "a\ud800", "\ud83d\ude00", "\\ud800"),  # lone surrogates; the fourth is no emoji
    *("x" * MAX_NAME_CHARACTERS, "x" * (MAX_NAME_CHARACTERS - 1), "😀" * MAX_NAME_CHARACTERS),
)
"""As user_id, session_id or id of a message."""

SEPARATORS: Final[tuple[str, ...]] = (*":/|#\\\x00\n\t .,;%*{}~_-+=@", "::", "%3A", "%00", "__", "\x1f", "\uffff")
"""What a careless key joins two names with: ``("a:b", "c")`` and ``("a", "b:c")`` are two sessions."""
