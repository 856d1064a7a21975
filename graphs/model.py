"""The chat model of the three agents: OpenAI's where OPENAI_API_KEY is set, else one that needs no network."""

from __future__ import annotations

import os

from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel

from lc_history.agents import OfflineToolModel


def chat_model() -> BaseChatModel:
    if os.environ.get("OPENAI_API_KEY"):
        return init_chat_model(os.environ.get("OPENAI_MODEL", "gpt-5-mini"), model_provider="openai")
    return OfflineToolModel()
