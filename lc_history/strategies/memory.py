"""Memory that an agent keeps itself: a few named blocks that it always sees and edits through tools.

Each change is a side record of the session with the whole block, numbered; the latest one counts. Two editors at
once are put in order: the one who comes second edits what the first has left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, Final

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool
from typing_extensions import override

from lc_history.bridge import drive
from lc_history.errors import ConflictError
from lc_history.strategies.recall.index import Index
from lc_history.strategies.rendering import rendered, spoken
from lc_history.strategies.repair import SUMMARY
from lc_history.strategies.tokens import TokenCounter, estimate, estimate_messages
from lc_history.strategies.view import Strategy, View
from lc_history.transcript import Transcript

HEADING: Final = "What you chose to remember; edit it with your memory tools:"
TRIES: Final = 10
FOUND: Final = 5

Edit = Callable[[str], str]


class Blocks:
    """The memory blocks of one session.

    names: the blocks there are, each with what it is for.
    block_tokens: how large a block may become; a larger one is a `ValueError`, and nothing changes.
    """

    def __init__(self, names: Mapping[str, str], *, block_tokens: int = 500) -> None:
        if not names or any(":" in name for name in names):
            raise ValueError("give at least one block, and no colon in its name")
        self.names, self.block_tokens = dict(names), block_tokens

    async def texts(self, transcript: Transcript) -> dict[str, str]:
        """Return what stands in each block."""
        return {name: text for name, (_, text) in (await self._latest(transcript)).items()}

    async def edit(self, transcript: Transcript, block: str, edit: Edit) -> str:
        """Change a block, and return what stands in it now; `ValueError` where that cannot be done."""
        if block not in self.names:
            raise ValueError(f"there is no block {block!r}: there are {', '.join(sorted(self.names))}")
        for _ in range(TRIES):
            version, text = (await self._latest(transcript))[block]
            changed = edit(text)
            if (tokens := estimate(changed)) > self.block_tokens:
                raise ValueError(f"{block} would have {tokens} tokens, at most {self.block_tokens} are allowed")
            if await transcript.note("memory", f"block:{block}:{version + 1}", {"text": changed}):
                return changed
        raise ConflictError(f"others keep changing block {block!r} of {transcript.key}: try again")

    async def _latest(self, transcript: Transcript) -> dict[str, tuple[int, str]]:
        found = dict.fromkeys(self.names, (0, ""))
        for note in await transcript.notes("memory"):
            kind, _, rest = note.id.partition(":")
            block, _, version = rest.rpartition(":")
            if kind == "block" and block in found:
                found[block] = (int(version), note.value["text"])
        return found


class Memory(Strategy):
    """Shows what another strategy shows, and before it the blocks that the agent remembers.

    They change only when the agent edits them, so the prefix cache keeps its worth. Their tokens come beside the
    other strategy's budget.
    """

    def __init__(self, strategy: Strategy, blocks: Blocks, *, count: TokenCounter = estimate_messages) -> None:
        self._strategy, self._blocks, self._count = strategy, blocks, count

    @override
    async def view(
        self, transcript: Transcript, incoming: Sequence[BaseMessage] = (), *, turn_id: str | None = None
    ) -> View:
        view = await self._strategy.view(transcript, incoming, turn_id=turn_id)
        texts = await self._blocks.texts(transcript)
        lines = [
            f"<{name} purpose={purpose!r}>\n{texts[name]}\n</{name}>" for name, purpose in self._blocks.names.items()
        ]
        message = HumanMessage("\n".join([HEADING, *lines]), id="memory", additional_kwargs={SUMMARY: True})
        return replace(view, summary=[message, *view.summary], tokens=view.tokens + self._count([message]))


def memory_tools(
    session: Callable[[RunnableConfig], Transcript], blocks: Blocks, *, index: Index | None = None
) -> list[BaseTool]:
    """Return the tools by which an agent edits its blocks, and, with an index, searches what was said before.

    session: tells of which conversation it is from the config of the run.
    """

    async def aremember(block: str, text: str, config: RunnableConfig) -> str:
        """Add a line to one of your memory blocks."""
        return await _answered(blocks, session(config), block, lambda old: f"{old}\n{text}".strip())

    async def acorrect(block: str, old: str, new: str, config: RunnableConfig) -> str:
        """Replace words in one of your memory blocks; an empty new text forgets them."""

        def edit(text: str) -> str:
            if not old or old not in text:
                raise ValueError(f"{old!r} does not stand in the block, which reads: {text!r}")
            return text.replace(old, new)

        return await _answered(blocks, session(config), block, edit)

    async def asearch(query: str, config: RunnableConfig) -> str:
        """Search what was said earlier in this conversation."""
        transcript = session(config)
        hits = await index.search(transcript.key, query, scope="session", limit=FOUND) if index else []
        turns = []
        for one in sorted(hits, key=lambda found: found.first_seq):
            said = (await transcript.read(after=one.first_seq - 1, before=one.last_seq + 1)).said
            turns.append("\n".join([rendered(said[0]), *(spoken(after.message) for after in said[1:])]) if said else "")
        return "\n\n".join(filter(None, turns)) or "Nothing was found."

    tools: dict[str, Callable[..., Any]] = {"remember": aremember, "correct_memory": acorrect}
    if index:
        tools["search_history"] = asearch
    return [_tool(name, function) for name, function in tools.items()]


async def _answered(blocks: Blocks, transcript: Transcript, block: str, edit: Edit) -> str:
    """Edit, and tell the agent how it went: what it did wrong is an answer, not the end of its run."""
    try:
        return f"{block} now reads:\n{await blocks.edit(transcript, block, edit)}"
    except ValueError as error:
        return f"Not changed: {error}"


def _tool(name: str, function: Callable[..., Any]) -> BaseTool:
    """Return a tool with both doors."""

    @wraps(function)
    def blocking(*args: Any, **kwargs: Any) -> Any:
        return drive(function(*args, **kwargs))

    return StructuredTool.from_function(blocking, function, name=name, description=function.__doc__)
