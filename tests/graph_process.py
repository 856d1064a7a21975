"""One turn with a graph of langgraph.json, in a process of its own."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lc_history.agents.checkpoints.checkpointer import open_checkpointer
from lc_history.agents.running.graph import resumable

CONFIGURATION = json.loads((Path(__file__).parent.parent / "langgraph.json").read_text())


def graph(name: str) -> Any:
    return loaded(CONFIGURATION["graphs"][name])


def loaded(place: str) -> Any:
    path, attribute = place.removeprefix("./").split(":")
    return getattr(import_module(path.removesuffix(".py").replace("/", ".")), attribute)


def turn(answer: Connection, url: str, name: str, given: Any, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    with open_checkpointer(url, schema="graphs") as saver:
        saver.setup()
        agent = resumable(graph(name).copy({"checkpointer": saver}), lease=timedelta(seconds=1))
        answer.send("begins")
        result = agent.invoke(given, {"configurable": {"thread_id": name}})
        answer.send([message.text for message in result["messages"]] + list(result.get("__interrupt__", ())))
