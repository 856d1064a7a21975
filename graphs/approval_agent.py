"""A person approves each payment, on another day if need be; an approved payment is made once.

Try "pay 120 to Ann". The run stops at the payment. Restart the process, then resume with a decision:

    agent.invoke(Command(resume={"decisions": [{"type": "approve"}]}), config)
"""

from __future__ import annotations

import os
from pathlib import Path

from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.tools import tool

from graphs.model import chat_model
from lc_history.agents import ToolLedger, effect_key


@tool
def pay(amount: int, to: str) -> str:
    """Pay an amount to somebody."""
    # A bank takes an idempotency key with each order. This one is a file.
    with Path(os.environ.get("PAYMENTS", "payments.txt")).open("a") as bank:
        bank.write(f"{effect_key()} {amount} {to}\n")
    return f"paid {amount} to {to}"


graph = create_agent(
    chat_model(),
    [pay],
    middleware=[
        HumanInTheLoopMiddleware(interrupt_on={"pay": {"allowed_decisions": ["approve", "edit", "reject"]}}),
        # If the process dies while a payment is made, a person looks at the account and decides.
        ToolLedger({"pay": "ask"}),
    ],
)
