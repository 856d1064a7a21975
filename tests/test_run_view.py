"""What a run looks like: live on a terminal, lines where it is piped, and nothing that a terminal obeys."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from rich.console import Console

from lc_history.agents.offline import OfflineToolModel
from lc_history.cli.run_view import RunView

CLEARS_THE_SCREEN = "\x1b[2J"


def shown(*, live: bool) -> str:
    """Return what is written for a run whose tool gives back what would clear a terminal."""
    out = Console(file=StringIO(), force_terminal=live, width=1000, legacy_windows=False)

    @tool
    def look(topic: str) -> str:
        """Look something up."""
        if view._live:
            view._live.refresh()
        return f"{topic} {CLEARS_THE_SCREEN}"

    with RunView(out, (), live=live) as view:
        config: Any = {"callbacks": [view]}
        create_agent(OfflineToolModel(), [look]).invoke({"messages": "look tea"}, config)
    file: Any = out.file
    text: str = file.getvalue()
    return text


def test_piped_it_is_a_line_for_each_thing() -> None:
    lines = shown(live=False).splitlines()
    assert lines[0] == "calls look(topic='tea')"
    assert lines[1] == r"look: tea \x1b[2J"
    assert lines[2].startswith("model: ")


def test_live_the_tool_at_work_is_seen() -> None:
    written = shown(live=True)
    at_work, result = written.index("⠋"), written.index("look: tea")
    assert "look" in written[at_work : at_work + 30]
    assert written.index("calls look") < at_work < result


@pytest.mark.parametrize("live", [True, False])
def test_nothing_that_a_tool_gave_is_obeyed(live: bool) -> None:
    assert CLEARS_THE_SCREEN not in shown(live=live)
