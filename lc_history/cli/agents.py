"""What the commands for agents share: where their threads are kept, and which graph runs them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import platformdirs
import typer

from lc_history.bridge import drive
from lc_history.cli.app import given_keys, given_trail
from lc_history.errors import HistoryError, MissingExtraError, StoreError
from lc_history.rotation import PLAINTEXT, Refused, RotationError

if TYPE_CHECKING:
    from lc_history.agents import Checkpointer

PostgresUrl = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar=["DATABASE_URL", "LC_HISTORY_URL"],
        help="The agents' PostgreSQL; an embedded one in your data folder by default.",
    ),
]
Schema = Annotated[str | None, typer.Option(help="The schema of the tables; the connection's first by default.")]
ThreadId = Annotated[str, typer.Argument(metavar="THREAD", help="The thread's id.")]
GraphName = Annotated[
    str,
    typer.Option("--graph", "-g", help="The agent: a name in langgraph.json, module:attribute or file.py:name."),
]
POSTGRES = ("postgresql", "postgres", "postgresql+embedded")
CONFIGURATION = "langgraph.json"


def agents_at(url: str | None, schema: str | None, *, setup: bool | None = None) -> Checkpointer:
    """Return the checkpointer of a command, to be entered by either door.

    setup: make its tables; by default in a directory of one's own, which is made when it is first asked for.
    """
    from lc_history.agents import open_checkpointer

    kind = (url or "").partition(":")[0]
    if url and kind not in POSTGRES:
        message = f"agents keep their threads in PostgreSQL, and {kind} is another store: --url postgresql://..."
        raise StoreError(message)
    saver = open_checkpointer(url or embedded_url(), schema=schema, keys=given_keys(), audit=given_trail())
    if not url if setup is None else setup:
        saver.setup()
    return saver


def embedded_url() -> str:
    """Return the URL of the embedded server in the user's data folder, which langgraph.json's agents use too."""
    return f"postgresql+embedded://{platformdirs.user_data_path('lc-history') / 'postgresql'}"


def graph_called(name: str, saver: Checkpointer) -> Any:
    """Return the graph of that name with this checkpointer, resumable."""
    from langgraph.graph import StateGraph
    from langgraph.pregel import Pregel

    from lc_history.agents import resumable

    graph = attribute_at(_path_of(name), "graph")
    if isinstance(graph, StateGraph):
        graph = graph.compile()
    if not isinstance(graph, Pregel):
        message = f"{name!r} is no graph of LangGraph but {type(graph).__name__}: name a compiled one"
        raise HistoryError(message)
    return resumable(graph.copy({"checkpointer": saver}))


def attribute_at(path: str, what: str) -> Any:
    """Return what ``module:attribute`` or ``file.py:name`` names; what: its kind, for the error."""
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` would
    place, _, attribute = path.rpartition(":")
    try:
        return getattr(_module_at(place), attribute)
    except (ImportError, AttributeError, FileNotFoundError, ValueError) as error:
        message = f"there is no {what} {path!r}: {error}"
        raise HistoryError(message) from error


def _path_of(name: str) -> str:
    if ":" in name:
        return name
    file = Path(CONFIGURATION)
    graphs = json.loads(file.read_text()).get("graphs", {}) if file.exists() else {}
    if name not in graphs:
        known = f"{CONFIGURATION} here has {', '.join(graphs)}" if graphs else f"there is no {CONFIGURATION} here"
        message = f"no graph is called {name!r}, {known}: give --graph module:attribute"
        raise HistoryError(message)
    path: str = graphs[name]["path"] if isinstance(graphs[name], dict) else graphs[name]
    return path


def _module_at(place: str) -> Any:
    if not place.endswith(".py"):
        return import_module(place)
    path = Path(place).resolve()
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        message = f"{place} is no Python file"
        raise ImportError(message)
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # so that its classes can be found again
    spec.loader.exec_module(module)
    return module


def rotated_agents(url: str | None, *, seal_plaintext: bool, dry_run: bool) -> tuple[Counter[str], tuple[Refused, ...]]:
    """Seal what agents keep in this PostgreSQL with the current key; return what had sealed it, and what stays.

    Agents that were never sealed stay so unless it is asked for: whoever runs them has no keys.
    """
    try:
        saver = agents_at(url, None)
    except MissingExtraError:
        return Counter(), ()
    refused: tuple[Refused, ...] = ()
    with saver:
        if drive(saver.database.rows("SELECT to_regclass('lch_threads')")) == [(None,)]:
            return Counter(), ()
        count = Counter({key or PLAINTEXT: rows for key, rows in saver.rows_per_key().items()})
        if not dry_run and (seal_plaintext or set(count) - {PLAINTEXT}):
            try:
                saver.rotate_keys(seal_plaintext=seal_plaintext)
            except RotationError as error:
                refused = error.refused
        if not dry_run and not seal_plaintext and (left := count.pop(PLAINTEXT, 0)):
            stay = f"{left} rows of agents are not sealed and stay so"
            typer.echo(f"{stay}: --seal-plaintext seals them, and the agents need the keys then", err=True)
    return count, refused
