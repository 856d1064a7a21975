"""Call a runnable or a history by either door, so that each test is written once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Door:
    """One of the two ways into the library."""

    name: str

    def call(self, target: Any, verb: str, *args: Any, **kwargs: Any) -> Any:
        """Return ``target.verb(...)``, or what awaiting ``target.averb(...)`` gives."""
        if self.name == "blocking":
            return getattr(target, verb)(*args, **kwargs)
        return asyncio.run(self._await(getattr(target, f"a{verb}"), args, kwargs))

    async def _await(self, function: Any, args: Any, kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    def stream(self, runnable: Any, value: Any, config: Any, *, stop_after: int | None = None) -> list[Any]:
        """Return the chunks of a stream, or stop reading after some and close it."""
        if self.name == "blocking":
            chunks, items = [], runnable.stream(value, config)
            for chunk in items:
                chunks.append(chunk)
                if len(chunks) == stop_after:
                    items.close()
            return chunks

        async def read() -> list[Any]:
            chunks, items = [], runnable.astream(value, config)
            async for chunk in items:
                chunks.append(chunk)
                if len(chunks) == stop_after:
                    await items.aclose()
            return chunks

        return asyncio.run(read())


BLOCKING, ASYNC = Door("blocking"), Door("async")
BOTH = [BLOCKING, ASYNC]
