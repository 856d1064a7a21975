"""The figures on disk: JSON for whoever wants to compare, and the tables and charts of docs/performance.md."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.measure import QUICK

DOCS = Path(__file__).parent.parent / "docs"
PAGE, JSON, CHARTS = DOCS / "performance.md", DOCS / "performance" / "results.json", DOCS / "performance"
FIGURES = re.compile(
    r"(<!-- figures: made by `python -m benchmarks --write` -->\n).*?(<!-- end of figures -->)", re.DOTALL
)
PACKAGES = (
    "langchain-core", "langchain-community", "langchain-postgres", "langchain-google-firestore", "openai-agents",
    "langgraph", "langgraph-checkpoint-postgres", "redis", "hiredis", "psycopg", "SQLAlchemy", "asyncpg",
    "orjson", "pydantic",
)  # fmt: skip


class Results:
    """What was measured so far, by part, each with where and when."""

    def __init__(self, parts: dict[str, Any]) -> None:
        self.parts = parts

    @classmethod
    def read(cls) -> Results:
        return cls(json.loads(JSON.read_text()) if JSON.exists() else {})

    def keep(self, name: str, figures: Any) -> None:
        self.parts[name] = json.loads(json.dumps(figures)) | {"measured": _circumstances()}

    def text(self) -> str:
        """Return every table that the figures allow."""
        return tables.all_of(self.parts)

    def write(self) -> None:
        from benchmarks import charts

        CHARTS.mkdir(exist_ok=True)
        JSON.write_text(json.dumps(self.parts, indent=1) + "\n")
        charts.draw(self.parts, CHARTS)
        page = PAGE.read_text()
        PAGE.write_text(FIGURES.sub(lambda found: f"{found[1]}{self.text()}{found[2]}", page))


def _circumstances() -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": commit.stdout.strip(),
        "load": round(os.getloadavg()[0], 1),
        "quick": QUICK,
        "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }


def _processor() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.processor()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
