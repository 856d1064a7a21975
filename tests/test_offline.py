"""The offline model answers whatever it is shown."""

from __future__ import annotations

from langchain_core.messages import AIMessage, SystemMessage

from lc_history.offline import OfflineChatModel


def test_nobody_has_said_anything_yet() -> None:
    assert "nothing yet" in OfflineChatModel().invoke([SystemMessage("Be kind."), AIMessage("Hello?")]).text
