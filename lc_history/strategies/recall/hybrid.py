"""The strategy for production: a summary, a window and what is recalled, within one budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable
from typing_extensions import override

from lc_history.strategies.recall.index import Index, Scope
from lc_history.strategies.recall.strategy import Recall
from lc_history.strategies.summary import Summary
from lc_history.strategies.tokens import TokenCounter, estimate_messages
from lc_history.strategies.view import Strategy, View
from lc_history.transcript import Transcript


class Hybrid(Strategy):
    """Shows a summary of what has left the window, the window, and earlier turns that the question is about.

    model: writes the summaries, as for `Summary`.
    index: where to look, as for `Recall`.
    budget_tokens: how large the prompt may be, with everything in it.
    """

    def __init__(
        self,
        model: Runnable[Any, Any],
        index: Index,
        *,
        budget_tokens: int = 8000,
        summary_tokens: int = 800,
        recall_tokens: int = 1000,
        scope: Scope = "session",
        plaintext: bool = False,
        count: TokenCounter | None = None,
    ) -> None:
        if summary_tokens + recall_tokens >= budget_tokens:
            raise ValueError(f"summary_tokens and recall_tokens leave no room in a budget of {budget_tokens}")
        summary = Summary(
            model,
            budget_tokens=budget_tokens - recall_tokens,
            summary_tokens=summary_tokens,
            count=count,
            name="hybrid",
        )
        self.budget_tokens = budget_tokens
        self._recall = Recall(
            summary,
            index,
            recall_tokens=recall_tokens,
            scope=scope,
            plaintext=plaintext,
            count=count or estimate_messages,
        )

    @override
    async def view(
        self, transcript: Transcript, incoming: Sequence[BaseMessage] = (), *, turn_id: str | None = None
    ) -> View:
        return await self._recall.view(transcript, incoming, turn_id=turn_id)
