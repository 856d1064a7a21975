"""A long run of many tools, which may be killed at any moment and goes on where it stopped.

Try "look up lease, ledger, repair; look up checkpoint; write report on agents" and kill the process meanwhile.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from langchain.agents import create_agent
from langchain_core.tools import tool

from graphs.model import chat_model
from lc_history.agents import ToolLedger, effect_key

SOURCES = Path(os.environ.get("RESEARCH_SOURCES", Path(__file__).parent.parent / "docs"))
NOTES = Path(os.environ.get("RESEARCH_NOTES", "notes.md"))
SECONDS = float(os.environ.get("RESEARCH_SECONDS", "1"))


@tool
def look_up(topic: str) -> str:
    """Look a topic up in the sources."""
    time.sleep(SECONDS)
    pages = [page for page in sorted(SOURCES.rglob("*.md")) if topic.lower() in page.read_text().lower()]
    return f"{topic}: in {', '.join(page.name for page in pages)}" if pages else f"{topic}: nothing found"


@tool
def write_report(title: str) -> str:
    """Add a report to the notes."""
    time.sleep(SECONDS)
    with NOTES.open("a") as notes:
        notes.write(f"# {title} <!-- {effect_key()} -->\n")
    return f"written: {title}"


graph = create_agent(
    chat_model(),
    [look_up, write_report],
    # Looking up again costs time only. Whether a report was written is left to the model to find out.
    middleware=[ToolLedger({"look_up": "retry"})],
)
