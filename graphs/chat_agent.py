"""A conversation that goes on after a restart, with a tool that changes nothing.

>>> Try "I am Ann.", then "what day is it?" in another process, on the same thread.
"""

from __future__ import annotations

from datetime import UTC, datetime

from langchain.agents import create_agent
from langchain_core.tools import tool

from graphs.model import chat_model
from lc_history.agents import ToolLedger


@tool
def day_of_week() -> str:
    """Tell what day it is."""
    return f"{datetime.now(UTC):%A, %d %B %Y}"


# Running it again does no harm, so after a crash the tool is simply run again.
graph = create_agent(chat_model(), [day_of_week], middleware=[ToolLedger({"day_of_week": "retry"})])
