"""What the library is for, in a minute: a chat and an agent that outlive their processes. ``make demo`` runs it.

Nothing is staged: each step is a process of its own, the kill is a SIGKILL, and what was done is counted in a file
that the tools write to.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from rich.console import Console
from rich.markup import escape

from lc_history.bridge import drive, pause
from lc_history.histories import ChatHistories
from lc_history.offline import OfflineChatModel
from lc_history.postgres import start_embedded
from lc_history.with_history import with_history

ORDER = "Reserve seat 12. Charge 120 to Ann. Send a receipt to Ann."
THREAD: Any = {"configurable": {"thread_id": "order-1", "user_id": "ann"}}
SESSION: Any = {"configurable": {"session_id": "hello", "user_id": "ann"}}

console = Console(highlight=False)


def main() -> None:
    """Run the demo, or one of its processes."""
    match sys.argv[1:]:
        case ["say", url, text]:
            say(url, text)
        case ["act", url, world, *texts]:
            act(url, Path(world), texts[0] if texts else None)
        case _:
            with TemporaryDirectory(prefix="lc-history-demo-") as directory:
                chat_survives(Path(directory))
                agent_survives(Path(directory))


def chat_survives(directory: Path) -> None:
    """Talk in one process, go on in another."""
    console.rule("A chat that survives its process")
    url = f"sqlite:///{directory / 'chats.sqlite3'}"
    for text in ("My name is Ann.", "What did I tell you?"):
        process = start("say", url, text)
        process.wait()
        note(f"process {process.pid} has ended")
    with ChatHistories.open(url) as histories:
        kept = histories.session("hello", user_id="ann").messages
    told(f"{len(kept)} messages are kept, each once.")


def say(url: str, text: str) -> None:
    """Say something in the chat, and show the answer."""
    with ChatHistories.open(url) as histories:
        histories.migrate()
        console.print(f"[bold]Ann:[/] {escape(text)}")
        console.print(
            f"[bold]model:[/] {escape(with_history(OfflineChatModel(), histories).invoke(text, SESSION).text)}"
        )


def agent_survives(directory: Path) -> None:
    """Kill an agent in the middle of a tool, go on in another process, count what was done."""
    from lc_history.agents import open_checkpointer

    console.print()
    console.rule("An agent that survives kill -9 in the middle of a tool")
    world = directory / "world"
    note("starting PostgreSQL in a directory of its own")
    with embedded_postgresql(directory / "postgresql") as url:
        with open_checkpointer(url) as saver:
            saver.setup()
        process = start("act", url, str(world), ORDER)
        while "charge" not in done(world) and process.poll() is None:
            drive(pause(0.01))
        process.kill()
        process.wait()
        note(f"process {process.pid} was killed (signal {-process.returncode}) while charging; the money has moved")
        process = start("act", url, str(world))
        process.wait()
        note(f"process {process.pid} has ended")
    for tool, times in done(world).items():
        told(f"{tool} took effect {'once' if times == 1 else f'{times} times'}.")
    if set(done(world).values()) != {1}:
        sys.exit("That should not have happened: please report it.")


def act(url: str, world: Path, text: str | None) -> None:
    """Give the agent an order, or let it go on where it stopped, and show what it does."""
    from lc_history.agents import open_checkpointer, resumable

    with open_checkpointer(url) as saver:
        agent = resumable(booking_agent(world, saver), lease=timedelta(seconds=2))
        given = None if text is None else {"messages": [HumanMessage(text)]}
        console.print(f"[bold]Ann:[/] {escape(text)}" if text else "[bold]resume[/]")
        for update in agent.stream(given, THREAD, stream_mode="updates"):
            for message in [one for node in update.values() if node for one in node.get("messages", ())]:
                show(message)


def booking_agent(world: Path, saver: Any) -> Any:
    """Return an agent whose tools write what they do to a file, and then take their time."""
    from langchain.agents import create_agent
    from langchain_core.tools import tool

    from lc_history.agents import OfflineToolModel, ToolLedger

    def take_effect(what: str) -> str:
        with world.open("a") as file:
            file.write(f"{what}\n")
        drive(pause(0.5))
        return what

    @tool
    def reserve(seat: int) -> str:
        """Reserve a seat."""
        return take_effect(f"reserve seat {seat}")

    @tool
    def charge(amount: int, who: str) -> str:
        """Charge an amount to somebody."""
        return take_effect(f"charge {amount} to {who}")

    @tool
    def send(what: str) -> str:
        """Send something to somebody."""
        return take_effect(f"send {what}")

    tools = [reserve, charge, send]
    return create_agent(OfflineToolModel(), tools, checkpointer=saver, middleware=[ToolLedger()])


def show(message: Any) -> None:
    """Show what the agent does, a line each."""
    if isinstance(message, AIMessage):
        for call in message.tool_calls:
            console.print(f"  calls {call['name']}({', '.join(f'{k}={v!r}' for k, v in call['args'].items())})")
        if message.text:
            console.print(f"[bold]model:[/] {escape(message.text)}")
    elif isinstance(message, ToolMessage):
        console.print(f"  {'[yellow]' if message.status == 'error' else '[green]'}{escape(message.text)}[/]")


@contextmanager
def embedded_postgresql(directory: Path) -> Iterator[str]:
    """Run a PostgreSQL that belongs to this process alone: one that is killed would never let go of a shared one."""
    server = start_embedded(directory)
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def done(world: Path) -> Counter[str]:
    """Count what the tools have done to the world."""
    return Counter(line.split()[0] for line in world.read_text().splitlines()) if world.exists() else Counter()


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """Start another process of this demo."""
    command = [sys.executable, "-W", "ignore", "-m", "lc_history.demo", *arguments]
    return subprocess.Popen(command)  # noqa: S603 - this program itself, with arguments of its own


def note(text: str) -> None:
    """Say what happens around the conversation."""
    console.print(f"[dim]-- {escape(text)}[/]")


def told(text: str) -> None:
    """Say what came of it."""
    console.print(f"[bold green]=> {escape(text)}[/]")


if __name__ == "__main__":
    main()
