"""A conversation of 200 turns in an agent's checkpoints: ours beside LangGraph's own PostgresSaver."""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import Any

import psycopg
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import START, MessagesState, StateGraph

from benchmarks.conversation import ANSWERED, ASKED
from benchmarks.measure import QUICK, without_gc
from lc_history.agents.checkpoints.checkpointer import open_checkpointer
from lc_history.testing.servers import PostgresServer

TURNS = 20 if QUICK else 200
SHOWN = (1, 10, 20) if QUICK else (1, 50, 200)
THREADS = 1 if QUICK else 3
SIZE = """
SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind = 'r'
"""


def measure() -> dict[str, Any]:
    """Return, for each saver: milliseconds of each turn, and the bytes of its tables and of the log after it."""
    with PostgresServer() as server, psycopg.connect(server.url, autocommit=True) as watch:
        watch.execute("CREATE SCHEMA theirs")
        with (
            PostgresSaver.from_conn_string(f"{server.url}?options=-csearch_path%3Dtheirs") as theirs,
            open_checkpointer(server.url, schema="ours") as ours,
        ):
            theirs.setup()
            ours.setup()
            savers = {"PostgresSaver": ("theirs", theirs), "**lc-history** Checkpointer": ("ours", ours)}
            found = {name: {"milliseconds": [], "bytes": [], "wal": []} for name in savers}
            with without_gc():
                for thread in range(THREADS):
                    _run(savers, watch, f"thread {thread}", found)
    return {"shown": SHOWN, "threads": THREADS, "savers": {name: _summary(rows) for name, rows in found.items()}}


def _run(savers: dict[str, Any], watch: psycopg.Connection, thread: str, found: dict[str, Any]) -> None:
    graphs = {name: _graph(saver) for name, (_, saver) in savers.items()}
    base = {name: _bytes(watch, schema) for name, (schema, _) in savers.items()}
    wal: dict[str, int] = dict.fromkeys(savers, 0)
    columns = {name: {"milliseconds": [], "bytes": [], "wal": []} for name in savers}
    for _ in range(TURNS):
        for name, (schema, _saver) in savers.items():
            before, begin = _wal(watch), perf_counter()
            graphs[name].invoke({"messages": [HumanMessage(ASKED)]}, {"configurable": {"thread_id": thread}})
            columns[name]["milliseconds"].append((perf_counter() - begin) * 1e3)
            wal[name] += _wal(watch) - before
            columns[name]["wal"].append(wal[name])
            columns[name]["bytes"].append(_bytes(watch, schema) - base[name])
    for name, parts in columns.items():
        for part, values in parts.items():
            found[name][part].append(values)


def _graph(saver: Any) -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("answer", lambda _: {"messages": [AIMessage(ANSWERED)]})
    graph.add_edge(START, "answer")
    return graph.compile(checkpointer=saver)


def _wal(watch: psycopg.Connection) -> int:
    return int(watch.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()[0])


def _bytes(watch: psycopg.Connection, schema: str) -> int:
    return int(watch.execute(SIZE, (schema,)).fetchone()[0] or 0)


def _summary(rows: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Return each column at the turns that are shown; a time is the median of its neighbourhood and all threads."""

    def around(turn: int) -> list[float]:
        low, high = max(0, turn - 4), min(TURNS, turn + 3)
        return sorted(value for values in rows["milliseconds"] for value in values[low:high])

    return {
        "milliseconds": {turn: median(around(turn)) for turn in SHOWN},
        "spread": {
            turn: (around(turn)[len(around(turn)) // 4], around(turn)[-len(around(turn)) // 4]) for turn in SHOWN
        },
        "bytes": {turn: median(values[turn - 1] for values in rows["bytes"]) for turn in SHOWN},
        "wal": {turn: median(values[turn - 1] for values in rows["wal"]) for turn in SHOWN},
        "curve": [median(column) for column in zip(*rows["milliseconds"], strict=True)],
    }
