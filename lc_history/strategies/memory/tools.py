"""The tools by which an agent looks after its memory: its blocks, its archive, and what was said long ago."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool

from lc_history.bridge import drive
from lc_history.errors import StoreUnavailableError
from lc_history.strategies.memory.blocks import Blocks, Edit
from lc_history.strategies.recall.index import Index, SearchFailedError
from lc_history.strategies.recall.strategy import Recall, in_words
from lc_history.strategies.removal import remaining
from lc_history.strategies.rendering import clipped, rendered
from lc_history.strategies.view import Full
from lc_history.transcript import Transcript

logger = logging.getLogger("lc_history")

FOUND: Final = 5
"""How many turns or kept texts a page of a search shows."""

READ: Final = 10
"""How many messages a page of the conversation shows."""

RESULT_TOKENS: Final = 1500
"""How large a result may be; of a longer one the beginning is shown."""

Session = Callable[[RunnableConfig], Transcript]
Function = Callable[..., Any]


def memory_tools(
    session: Session,
    blocks: Blocks,
    *,
    index: Index | None = None,
    archive: Session | None = None,
    plaintext: bool = False,
) -> list[BaseTool]:
    """Return the tools by which an agent edits its blocks and reads what was said before; with an index, searches it.

    session: tells of which conversation it is from the config of the run.
    archive: tells in which conversation texts are kept that the agent wants to find again but not to have in view,
        such as one for each user; it wants an index. What is kept is erased with that conversation.
    plaintext: allow an index of sealed conversations, as for `Recall`.
    """
    if archive is not None and index is None:
        raise ValueError("an archive is there to be searched: give an index too")
    functions = {**_block_tools(session, blocks), **_reading_tools(session)}
    if index is not None:
        recall = Recall(Full(), index, plaintext=plaintext)
        functions |= _search_tools(session, recall)
        functions |= _archive_tools(archive, recall) if archive is not None else {}
    return [_tool(name, function) for name, function in functions.items()]


def _block_tools(session: Session, blocks: Blocks) -> dict[str, Function]:
    async def remember(block: str, text: str, config: RunnableConfig) -> str:
        """Add a line to one of your memory blocks."""
        return await _edited(blocks, session(config), block, lambda old: f"{old}\n{text}".strip())

    async def correct(block: str, old: str, new: str, config: RunnableConfig) -> str:
        """Replace words in one of your memory blocks; an empty new text forgets them."""

        def edit(text: str) -> str:
            if not old or old not in text:
                raise ValueError(f"{old!r} does not stand in the block, which reads: {text!r}")
            return text.replace(old, new)

        return await _edited(blocks, session(config), block, edit)

    async def rewrite(block: str, text: str, config: RunnableConfig) -> str:
        """Write one of your memory blocks anew, to shorten it or to put it in order."""
        return await _edited(blocks, session(config), block, lambda _: text)

    return {"remember": remember, "correct_memory": correct, "rewrite_memory": rewrite}


def _reading_tools(session: Session) -> dict[str, Function]:
    async def read_history(config: RunnableConfig, before: int = 0) -> str:
        """Read ten messages of this conversation, those before a number; without one, the latest."""
        found = await session(config).read(before=before if before > 0 else None, last=READ)
        lines = [f"#{one.seq} {rendered(one)}" for one in remaining(found.said)[0]]
        return _page(lines, f"Earlier ones: before={found.said[0].seq}." if found.said else "")

    return {"read_history": read_history}


def _search_tools(session: Session, recall: Recall) -> dict[str, Function]:
    async def search_history(query: str, config: RunnableConfig, page: int = 1) -> str:
        """Search what was said earlier in this conversation, the best first; the next page shows what fits less."""
        transcript = session(config)
        try:
            await recall.catch_up(transcript)
            turns = await recall.search(transcript, query, limit=FOUND, skip=FOUND * (max(page, 1) - 1))
        except (SearchFailedError, StoreUnavailableError) as error:
            return _not_searched(error)
        return _page([f"#{turn[0].seq} {in_words(turn)}" for turn in turns])

    return {"search_history": search_history}


def _archive_tools(archive: Session, recall: Recall) -> dict[str, Function]:
    async def keep(text: str, config: RunnableConfig) -> str:
        """Keep a text in your archive: it leaves your view and can be found again by searching."""
        if not text.strip():
            return "Nothing was kept: the text is empty."
        kept = archive(config)
        recall.check(kept)
        await kept.append([HumanMessage(text)])
        return "Kept."

    async def search_archive(query: str, config: RunnableConfig, page: int = 1) -> str:
        """Search the texts in your archive, the best first; the next page shows what fits less."""
        kept = archive(config)
        try:
            await recall.catch_up(kept, through=(await kept.read(last=1)).last_seq)
            turns = await recall.search(kept, query, limit=FOUND, skip=FOUND * (max(page, 1) - 1))
        except (SearchFailedError, StoreUnavailableError) as error:
            return _not_searched(error)
        return _page([f"[{turn[0].created_at:%Y-%m-%d}] {turn[0].message.text}" for turn in turns])

    return {"archive": keep, "search_archive": search_archive}


def _not_searched(error: Exception) -> str:
    """Tell the agent that there is no answer, and the log why, which may name servers."""
    logger.warning("an agent's search failed: %s", error)
    return "Not searched: the search does not answer at the moment. Go on without it, or try again later."


async def _edited(blocks: Blocks, transcript: Transcript, block: str, edit: Edit) -> str:
    """Edit, and tell the agent how it went: what it did wrong is an answer, not the end of its run."""
    try:
        return f"{block} now reads:\n{await blocks.edit(transcript, block, edit)}"
    except ValueError as error:
        return f"Not changed: {error}"


def _page(parts: list[str], more: str = "") -> str:
    if not parts:
        return "Nothing was found."
    share = RESULT_TOKENS // len(parts)
    return "\n\n".join(filter(None, [*(clipped(part, share) for part in parts), more]))


def _tool(name: str, function: Function) -> BaseTool:
    """Return a tool with both doors."""

    @wraps(function)
    def blocking(*args: Any, **kwargs: Any) -> Any:
        return drive(function(*args, **kwargs))

    return StructuredTool.from_function(blocking, function, name=name, description=function.__doc__)
