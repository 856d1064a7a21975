"""The day langchain-core 2.0 drops the deprecated classes: the library still imports and `with_history` works."""

from __future__ import annotations

import subprocess
import sys

WITHOUT_THE_OLD_CLASSES = """
import importlib.abc, sys

class Gone(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in ("langchain_core.chat_history", "langchain_core.runnables.history"):
            raise ImportError(f"{name} was removed in 2.0")

sys.meta_path.insert(0, Gone())
import langchain_core
from lc_history import ChatHistories, InMemoryChatMessageHistory, with_history
from lc_history.offline import OfflineChatModel

histories = ChatHistories.open("memory://")
chat = with_history(OfflineChatModel(), histories)
config = {"configurable": {"session_id": "s1"}}
chat.invoke("I am Ann.", config)
print(chat.invoke("Who am I?", config).text)
history = InMemoryChatMessageHistory()
history.add_messages(histories.session("s1").messages)
print(len(history.messages))
"""


def test_without_the_deprecated_classes() -> None:
    command = [sys.executable, "-W", "error", "-c", WITHOUT_THE_OLD_CLASSES]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert 'The first was "I am Ann."' in result.stdout
    assert result.stdout.splitlines()[-1] == "4"
