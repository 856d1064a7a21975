"""Names as PostgreSQL can keep them: identifiers quoted, texts of any characters escaped."""

from __future__ import annotations

import re
from typing import Final

MAX_IDENTIFIER_BYTES: Final = 63


def quoted(identifier: str) -> str:
    """Return a name of a schema or table, quoted for SQL."""
    if not identifier or "\0" in identifier or len(identifier.encode()) > MAX_IDENTIFIER_BYTES:
        message = f"{identifier!r} cannot be a name in PostgreSQL: use 1 to {MAX_IDENTIFIER_BYTES} bytes without NUL"
        raise ValueError(message)
    return '"' + identifier.replace('"', '""') + '"'


def escaped(name: str) -> str:
    r"""Return any str as one that PostgreSQL can keep as text; no two become the same. `unescaped` undoes it.

    >>> escaped("a\0b"), escaped("C:\x"), escaped("\ud83d")
    ('a\\0b', 'C:\\\\x', '\\ud83d')
    """
    return name.replace("\\", "\\\\").replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def unescaped(text: str) -> str:
    """Return the str that was escaped."""
    return _ESCAPE.sub(_meaning, text) if "\\" in text else text


_ESCAPE = re.compile(r"\\(\\|0|u[0-9a-f]{4})")


def _meaning(match: re.Match[str]) -> str:
    sign = match[1]
    return {"\\": "\\", "0": "\0"}.get(sign) or chr(int(sign[1:], 16))
