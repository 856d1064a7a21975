"""Processes that begin at once: forked from one that has everything imported already."""

from __future__ import annotations

from multiprocessing import get_context
from multiprocessing.context import ForkServerContext

READY = ["langchain.agents.middleware", "langchain.chat_models", "tests.striking_agent", "tests.graph_process"]


def forked() -> ForkServerContext:
    context = get_context("forkserver")
    context.set_forkserver_preload(READY)
    return context
