"""Agents that resume exactly where they stopped: checkpointer, leases, runs, threads, ledger and repair.

    from lc_history.agents import ToolLedger, open_checkpointer, resumable

    with open_checkpointer("postgresql://localhost/agents") as saver:
        saver.setup()
        graph = create_agent(model, tools, checkpointer=saver, middleware=[ToolLedger({"pay": "ask"})])
        agent = resumable(graph)
        agent.invoke({"messages": "pay 120 to Ann"}, {"configurable": {"thread_id": "t1", "user_id": "ann"}})

LangGraph and psycopg come with the extra ``agents``; an import without them says so.
"""

from lc_history.errors import extra

with extra("agents"):
    from lc_history.agents.checkpoints.checkpointer import Checkpointer, open_checkpointer
    from lc_history.agents.effects.execution import Rule, effect_connection, effect_key
    from lc_history.agents.effects.ledger import ToolLedger, once
    from lc_history.agents.effects.repair import (
        Repaired,
        RepairMessages,
        arepair_thread,
        asettle_thread,
        problems,
        repair,
        repair_thread,
        settle_thread,
    )
    from lc_history.agents.offline import OfflineToolModel
    from lc_history.agents.running.approvals import Pending
    from lc_history.agents.running.graph import ResumableGraph, resumable
    from lc_history.agents.running.lease import OnBusy
    from lc_history.agents.threads.adoption import aadopt, adopt
    from lc_history.agents.threads.index import Status, ThreadInfo, ThreadPage, Threads
    from lc_history.agents.threads.retention import Retained
    from lc_history.rotation import Refused, RotationError

__all__ = [
    "Checkpointer",
    "OfflineToolModel",
    "OnBusy",
    "Pending",
    "Refused",
    "RepairMessages",
    "Repaired",
    "ResumableGraph",
    "Retained",
    "RotationError",
    "Rule",
    "Status",
    "ThreadInfo",
    "ThreadPage",
    "Threads",
    "ToolLedger",
    "aadopt",
    "adopt",
    "arepair_thread",
    "asettle_thread",
    "effect_connection",
    "effect_key",
    "once",
    "open_checkpointer",
    "problems",
    "repair",
    "repair_thread",
    "resumable",
    "settle_thread",
]
