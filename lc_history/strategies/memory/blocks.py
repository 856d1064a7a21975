"""What an agent always has in view: a few named blocks of text, which it edits through tools.

Each change is a side record of the session with all of the blocks, numbered; the latest one counts, so that a view
reads one record, however often they were edited. Two editors at once are put in order: the one who comes second edits
what the first has left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from langchain_core.messages import BaseMessage, HumanMessage
from typing_extensions import override

from lc_history.errors import ConflictError
from lc_history.strategies.characters import mended
from lc_history.strategies.repair import SUMMARY
from lc_history.strategies.tokens import TokenCounter, estimate, estimate_messages
from lc_history.strategies.view import Strategy, View
from lc_history.transcript import Transcript

HEADING: Final = "What you chose to remember; edit it with your memory tools:"
PRESSURE: Final = (
    "(Note of the system, not of the user: the earliest turns will soon leave your view. Keep with your memory tools "
    "what you must not forget, then answer as usual.)"
)
TRIES: Final = 10

Edit = Callable[[str], str]


class Blocks:
    """The memory blocks of one session.

    names: the blocks there are, each with what it is for.
    block_tokens: how large a block may become, or each of them by its name; a larger one is a `ValueError`, and
        nothing changes.
    """

    def __init__(self, names: Mapping[str, str], *, block_tokens: int | Mapping[str, int] = 500) -> None:
        if not names:
            raise ValueError("give at least one block: its name, and what it is for")
        self.names = dict(names)
        self.most_tokens = {
            name: block_tokens if isinstance(block_tokens, int) else block_tokens[name] for name in names
        }

    async def texts(self, transcript: Transcript) -> dict[str, str]:
        """Return what stands in each block."""
        return (await self._latest(transcript))[1]

    async def edit(self, transcript: Transcript, block: str, edit: Edit) -> str:
        """Change a block, and return what stands in it now; `ValueError` where that cannot be done."""
        if block not in self.names:
            raise ValueError(f"there is no block {block!r}: there are {', '.join(sorted(self.names))}")
        for _ in range(TRIES):
            version, texts = await self._latest(transcript)
            changed = mended(edit(texts[block]))  # models write half characters, and it is sent each time
            if (tokens := estimate(changed)) > self.most_tokens[block]:
                most = self.most_tokens[block]
                raise ValueError(f"{block} would have {tokens} tokens, at most {most} are allowed: shorten it first")
            if await transcript.note("memory", f"blocks:{version + 1}", texts | {block: changed}):
                return changed
        raise ConflictError(f"others keep changing the memory of {transcript.key}: try again")

    async def _latest(self, transcript: Transcript) -> tuple[int, dict[str, str]]:
        """Return the number of the latest change, and what stands in each block since."""
        texts = dict.fromkeys(self.names, "")
        for note in await transcript.notes("memory", last=1):
            kept = {name: text for name, text in note.value.items() if name in texts}
            return int(note.id.partition(":")[2]), texts | kept
        return 0, texts


class Memory(Strategy):
    """Shows what another strategy shows, and before it the blocks that the agent remembers.

    They change only when the agent edits them, so the prefix cache keeps its worth. Their tokens come beside the
    other strategy's budget.

    warn_at_tokens: from this size of the other strategy's view on, tell the agent, right before the question, that
        the earliest turns will soon leave; a little below the budget at which they do.
    """

    def __init__(
        self,
        strategy: Strategy,
        blocks: Blocks,
        *,
        warn_at_tokens: int | None = None,
        count: TokenCounter = estimate_messages,
    ) -> None:
        self._strategy, self._blocks, self._count = strategy, blocks, count
        self.warn_at_tokens = warn_at_tokens

    @override
    async def view(
        self, transcript: Transcript, incoming: Sequence[BaseMessage] = (), *, turn_id: str | None = None
    ) -> View:
        view = await self._strategy.view(transcript, incoming, turn_id=turn_id)
        memory = [self._shown(await self._blocks.texts(transcript))]
        warning: list[BaseMessage] = []
        asked = not view.current or isinstance(
            view.current[0], HumanMessage
        )  # else it would part a call and its result
        if asked and self.warn_at_tokens is not None and view.tokens >= self.warn_at_tokens:
            warning = [HumanMessage(PRESSURE, id="memory-pressure", additional_kwargs={SUMMARY: True})]
        tokens = view.tokens + self._count([*memory, *warning])
        return replace(view, summary=[*memory, *view.summary], recalled=[*view.recalled, *warning], tokens=tokens)

    def _shown(self, texts: Mapping[str, str]) -> HumanMessage:
        lines = [HEADING]
        for name, purpose in self._blocks.names.items():
            used = f"{estimate(texts[name])} of {self._blocks.most_tokens[name]}"
            lines.append(f"<{name} purpose={purpose!r} tokens={used!r}>\n{texts[name]}\n</{name}>")
        return HumanMessage("\n".join(lines), id="memory", additional_kwargs={SUMMARY: True})
