"""An agent whose tools leave marks in a file, and a process of it that can be killed at any instant."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from typing_extensions import override

from lc_history.agents.checkpoints.checkpointer import Checkpointer
from lc_history.agents.effects.execution import Rule, effect_key
from lc_history.agents.effects.ledger import ToolLedger
from lc_history.agents.running.graph import resumable
from lc_history.bridge import pause
from lc_history.postgres import Postgres
from lc_history.testing.models import StrictChatModel

SCHEMA = "striking"


def direct(messages: Sequence[BaseMessage]) -> AIMessage:
    """Do as told, "strike a; strike b | strike c" in two steps, with call ids that are never the same twice."""
    asked = max(place for place, message in enumerate(messages) if isinstance(message, HumanMessage))
    done = sum(isinstance(message, AIMessage) for message in messages[asked:])
    steps = [step.split(";") for step in messages[asked].text.split("|") if "strike" in step]
    if done < len(steps):
        calls = [
            {"name": name, "args": {"label": label}, "id": uuid.uuid4().hex}
            for name, label in (call.split() for call in steps[done])
        ]
        return AIMessage("", tool_calls=calls)
    return AIMessage("heard: " + ", ".join(m.text for m in messages if isinstance(m, ToolMessage)))


class Marks:
    """What was done to the world: a file that many processes append to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, label: str) -> None:
        with self.path.open("a") as file:
            file.write(f"{label} {effect_key()}\n")

    def all(self) -> list[tuple[str, str]]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [(label, key) for label, key in (line.split() for line in lines)]

    def labels(self) -> list[str]:
        return [label for label, _ in self.all()]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Mortal(Checkpointer):
    """A checkpointer that is slow, and dies when it is to store what a tool gave."""

    seconds = 0.0
    dies_at_results: Path | None = None
    """Where it says first which calls' results it was about to store."""

    @override
    async def aput(self, *args: Any, **kwargs: Any) -> Any:
        await pause(self.seconds)
        return await super().aput(*args, **kwargs)

    @override
    async def aput_writes(self, config: Any, writes: Any, *args: Any, **kwargs: Any) -> None:
        results = [m for _, v in writes if isinstance(v, list) for m in v if isinstance(m, ToolMessage)]
        if self.dies_at_results and results:
            with self.dies_at_results.open("a") as file:
                file.writelines(f"{message.tool_call_id}\n" for message in results)
            die()
        await super().aput_writes(config, writes, *args, **kwargs)


def agent(
    saver: Any, marks: Marks, *, instant: str = "", seconds: float = 0.0, rules: Mapping[str, Rule] | None = None
) -> Any:
    """Return an agent that dies at an instant of its first run: in the model, before, after or beside an effect."""

    @tool
    def strike(label: str) -> str:
        """Make a mark."""
        if instant == "before":
            die()
        time.sleep(seconds)
        marks.add(label)
        time.sleep(seconds)
        if instant == "after":
            die()
        if instant == "beside" and label.endswith("slow"):
            time.sleep(0.3)  # the others finish
            die()
        return f"struck {label}"

    def answer(messages: Sequence[BaseMessage]) -> AIMessage:
        if instant == "model" and isinstance(messages[-1], ToolMessage):
            die()
        return direct(messages)

    model = StrictChatModel(answer=answer, seconds=seconds)
    return create_agent(model, [strike], checkpointer=saver, middleware=[ToolLedger(rules)])


def storing(path: Path) -> Path:
    """Return the file beside the marks that names the calls whose results were being stored at the end."""
    return path.with_name(f"{path.name} storing")


def run(url: str, path: Path, thread: str, text: str, options: Mapping[str, Any]) -> None:
    """Take one turn, in a process of its own."""
    given = dict(options)
    with Mortal(Postgres.open(url, schema=SCHEMA)) as saver:
        saver.seconds = given.pop("storage", 0.0)
        saver.dies_at_results = storing(path) if given.get("instant") == "results" else None
        durability = given.pop("durability", "sync")
        where: Any = {"configurable": {"thread_id": thread}}
        lease = given.pop("lease", None)
        striking = agent(saver, Marks(path), **given)
        if lease is not None:
            striking = resumable(striking, lease=timedelta(seconds=lease))
        path.with_name(f"{path.name} begins").touch()
        striking.invoke({"messages": text}, where, durability=durability)
