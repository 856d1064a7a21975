"""What a run does, as it does it: live on a terminal, a plain line for each thing where the output is piped."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from json import dumps
from typing import Any, Self, TypeVar
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text
from typing_extensions import override

from lc_history.cli.app import visible

T = TypeVar("T")


class RunView(BaseCallbackHandler):
    """Shows the words of the model, the calls of tools and their results; what was said before the run is not shown."""

    run_inline = True  # in the order in which things happen

    def __init__(self, out: Console, said: Iterable[BaseMessage], *, live: bool) -> None:
        self._out = out
        self._seen = {_name_of(message) for message in said}
        self._words = ""
        self._at_work: dict[UUID, str] = {}
        self._live = Live(console=out, transient=True, get_renderable=self._now) if live else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    @override
    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        self._words += token if isinstance(token, str) else ""

    @override
    def on_tool_start(self, serialized: Mapping[str, Any], input_str: str, *, run_id: UUID, **kwargs: Any) -> None:
        self._at_work[run_id] = serialized.get("name", "a tool")

    @override
    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._at_work.pop(run_id, None)

    @override
    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._at_work.pop(run_id, None)

    @override
    def on_chain_end(self, outputs: Any, **kwargs: Any) -> None:
        for message in _messages_in(outputs):
            if _name_of(message) not in self._seen:
                self._seen.add(_name_of(message))
                self._show(message)

    # With these two a chat model streams for this handler; there is nothing to tap.

    def tap_output_iter(self, run_id: UUID, output: Iterator[T]) -> Iterator[T]:  # noqa: ARG002, D102
        return output

    def tap_output_aiter(self, run_id: UUID, output: AsyncIterator[T]) -> AsyncIterator[T]:  # noqa: ARG002, D102
        return output

    def _show(self, message: BaseMessage) -> None:
        if isinstance(message, AIMessage):
            self._words = ""
            for call in message.tool_calls:
                self._line(f"calls {_call(call['name'], call['args'])}", "cyan")
            if message.text:
                self._line(f"model: {message.text}", "bold")
        elif isinstance(message, ToolMessage):
            failed = message.status == "error"
            self._line(f"{message.name}{' failed' if failed else ''}: {message.text}", "yellow" if failed else "green")

    def _line(self, text: str, style: str) -> None:
        self._out.print(Text(visible(text), style=style))

    def _now(self) -> Group:
        words = [Text(f"model: {visible(self._words)}", style="bold")] if self._words else []
        return Group(*words, *(Spinner("dots", Text(visible(name))) for name in self._at_work.values()))


def asked(value: Any) -> str:
    """Return a question of an agent in one line: the calls that a person shall judge, or what the graph gave."""
    match value:
        case {"action_requests": [*actions]}:
            return "; ".join(_call(action.get("name"), action.get("args", {})) for action in actions)
        case {"in_doubt": {"tool": tool, "args": args}}:
            return f"was {_call(tool, args)} done? It had begun when its run stopped"
        case str():
            return value
    return dumps(value, default=str, ensure_ascii=False)


def _call(name: Any, args: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in args.items())})"


def _messages_in(outputs: Any) -> Iterator[BaseMessage]:
    """Yield the messages that a node has given: itself one, a list, a state's or a command's."""
    if isinstance(outputs, BaseMessage):
        yield outputs
    elif isinstance(outputs, Mapping):
        yield from _messages_in(outputs.get("messages"))
    elif isinstance(outputs, list | tuple):
        for one in outputs:
            yield from _messages_in(one)
    elif hasattr(outputs, "update") and hasattr(outputs, "goto"):
        yield from _messages_in(outputs.update)


def _name_of(message: BaseMessage) -> str | None:
    """Return what tells a message from others: a result has no id of its own before it is stored."""
    return f"result {message.tool_call_id}" if isinstance(message, ToolMessage) else message.id
