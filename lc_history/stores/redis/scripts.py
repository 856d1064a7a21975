"""The Lua scripts of the Redis store, in ``lua/``: each verb is one of them, atomic where the data lives.

A script is sent by its hash; a server that does not know it (new, restarted, flushed, failed over) is sent the
text. Everything a script touches is declared in KEYS:

    the head of the session and the numbers of its ids (a hash)
    its records (one list per lane, in the order of `LANES`; a script of one lane gets only that one)
    the user's index: sessions by their last change, and by their expiry (two sorted sets)
    the same for a shard of all sessions

Times are microseconds since 1970, from the server's own clock; 0 is never. Where the sessions are spread over
several servers, the indexes are left out, and `NOTE` is sent to the servers that keep them.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files
from typing import Final

from lc_history.model import LANES

_LUA: Final = files("lc_history.stores.redis") / "lua"
_PLACES: Final = (
    f"local LIST = {{{', '.join(f'{lane} = {place}' for place, lane in enumerate(LANES, 2))}}}\n"
    f"local LASTS = {{{', '.join(repr('last.' + lane) for lane in LANES)}}}\n"
    f"local INDEXES = {len(LANES) + 2}\n"
)


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, and the hash by which a server remembers it."""

    text: str
    sha: str

    @classmethod
    def of(cls, *parts: str) -> Script:
        """Join files of ``lua/``: what is needed first, the script itself last."""
        text = _PLACES + "".join((_LUA / f"{part}.lua").read_text() for part in parts)
        return cls(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


APPEND: Final = Script.of("find", "index", "session", "append")
READ: Final = Script.of("find", "read")
REPLACE: Final = Script.of("find", "replace")
TRIM: Final = Script.of("find", "trim")
ERASE: Final = Script.of("find", "index", "session", "erase")
DESCRIBE: Final = Script.of("find", "index", "session", "known", "describe")
INFO: Final = Script.of("find", "known", "info")
LOAD: Final = Script.of("find", "index", "session", "load")
PAGE: Final = Script.of("page")
NOTE: Final = Script.of("find", "index", "note")
SWEEP: Final = Script.of("find", "index", "sweep")
