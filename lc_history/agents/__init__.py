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
    from lc_history.agents.adoption import aadopt, adopt
    from lc_history.agents.approvals import Pending
    from lc_history.agents.checkpointer import Checkpointer, open_checkpointer
    from lc_history.agents.lease import OnBusy
    from lc_history.agents.ledger import ToolLedger, once
    from lc_history.agents.offline import OfflineToolModel
    from lc_history.agents.performance import Rule, effect_connection, effect_key
    from lc_history.agents.repair import (
        Repaired,
        RepairMessages,
        arepair_thread,
        asettle_thread,
        problems,
        repair,
        repair_thread,
        settle_thread,
    )
    from lc_history.agents.retention import Retained
    from lc_history.agents.runs import ResumableGraph, resumable
    from lc_history.agents.threads import Status, ThreadInfo, ThreadPage, Threads

__all__ = [
    "Checkpointer",
    "OfflineToolModel",
    "OnBusy",
    "Pending",
    "RepairMessages",
    "Repaired",
    "ResumableGraph",
    "Retained",
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
