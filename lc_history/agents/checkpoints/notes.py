"""What LangGraph's saver would send for a write, noted instead, and made one statement with ours.

So a write is one statement: admission comes first, then the saver's rows and the words, and all of it stands or falls.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, count
from typing import Any, Final

from lc_history.errors import StoreError

ONE_STATEMENT: Final = 32
"""A write of up to so many rows is one statement; a larger one is sent insert by insert, in a transaction."""

_SHARED: Final = ("thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "task_path")
"""Columns that are the same in all rows of a write."""
_INSERT: Final = re.compile(r"(.*\(([\w, ]+)\)\s+VALUES\s+)\([%s, ]+\)(.*?)[;\s]*", re.DOTALL)


class Notes:
    """Stands for a cursor of LangGraph's saver, and keeps the rows that it inserts."""

    def __init__(self) -> None:
        self.inserts: list[tuple[str, Sequence[Sequence[Any]]]] = []

    def execute(self, insert: str, row: Sequence[Any]) -> None:
        """Note an insert of one row."""
        self.inserts.append((insert, [row]))

    def executemany(self, insert: str, rows: Sequence[Sequence[Any]]) -> None:
        """Note an insert of some rows."""
        if rows:
            self.inserts.append((insert, rows))

    @property
    def few(self) -> bool:
        """Tell whether the rows fit into one statement."""
        return sum(len(rows) for _, rows in self.inserts) <= ONE_STATEMENT

    def statement(self, answer: str, tables: str) -> tuple[str, dict[str, Any]]:
        """Return a statement that selects the answer and inserts all rows, and the rows' parameters.

        tables: more of what stands after its WITH, or nothing.
        """
        text, names = _together(tuple((insert, len(rows)) for insert, rows in self.inserts), answer, tables)
        values = chain.from_iterable(row for _, rows in self.inserts for row in rows)
        return text, dict(zip(names, values, strict=True))


@lru_cache(maxsize=1000)
def _together(inserts: tuple[tuple[str, int], ...], answer: str, tables: str) -> tuple[str, list[str]]:
    names: list[str] = []
    parts, number = [], count()
    for place, (insert, rows) in enumerate(inserts):
        found = _INSERT.fullmatch(insert)
        if found is None:
            message = f"this langgraph-checkpoint-postgres writes in a way that lc-history does not know ({insert:.60})"
            raise StoreError(f"{message}: nothing was written; upgrade lc-history, or take an older one of the former")
        head, columns, conflict = found.groups()
        placed = []
        for _ in range(rows):
            row = [name if name in _SHARED else f"value{next(number)}" for name in columns.split(", ")]
            placed.append(f"({', '.join(f'%({name})s' for name in row)})")
            names += row
        parts.append(f"insert{place} AS ({head}{', '.join(placed)}{conflict})")
    if tables:
        parts.append(tables)
    return f"{'WITH ' if parts else ''}{', '.join(parts)} SELECT {answer}", names
