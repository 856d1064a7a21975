"""The checkpointer of the three agents, for ``langgraph.json``: PostgreSQL at DATABASE_URL, or an embedded one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import platformdirs

from lc_history.agents import Checkpointer, open_checkpointer

EMBEDDED = f"postgresql+embedded://{platformdirs.user_data_path('lc-history') / 'postgresql'}"


def database_url() -> str:
    return os.environ.get("DATABASE_URL") or EMBEDDED


@asynccontextmanager
async def checkpointer() -> AsyncIterator[Checkpointer]:
    async with open_checkpointer(database_url()) as saver:
        await saver.asetup()
        yield saver
