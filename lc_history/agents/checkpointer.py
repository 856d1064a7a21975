"""LangGraph's Postgres checkpointer, run on our connection and in our transaction, for sync and async graphs.

Every call makes one of LangGraph's own savers on a pooled connection, which costs microseconds: there is no lock
between calls. A write is one round trip that ends with `lch_admit`, so a run that was taken over, a deleted
thread or another user's thread refuses the whole of it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Self

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT
from typing_extensions import override

from lc_history.agents.address import NOTHING, Address, Index
from lc_history.agents.database import Database, rows, send
from lc_history.agents.installation import install, installation_script
from lc_history.agents.lease import Leases
from lc_history.agents.refusals import explained
from lc_history.agents.serializer import strict_serializer
from lc_history.agents.upkeep import copy_thread, delete_for_runs, delete_threads, keep_latest
from lc_history.bridge import collect, door, drive_each, is_blocking, settle
from lc_history.postgres import Postgres

_ADMIT: Final = "SELECT lch_admit(%s, %s, %s, %s, %s, %s, %s, %s)"
_CHECK_USER: Final = "SELECT lch_check_user(%s, %s)"


def open_checkpointer(
    url: str,
    *,
    schema: str | None = None,
    pool_size: int = 16,
    pgbouncer: bool = False,
    allow: Sequence[type] = (),
) -> Checkpointer:
    """Return a checkpointer for a PostgreSQL URL; nothing connects yet.

    schema: where the tables stand; default is the connection's first.
    pool_size: connections at most, of each colour; so many calls run at once.
    pgbouncer: the URL leads to a pooler in transaction mode: no pipelines, no prepared statements.
    allow: classes of your own in the state that may be read back; `resumable` finds them in the graph itself.

    >>> open_checkpointer("postgresql://localhost/agents").sql().startswith("CREATE")
    True
    """
    postgres = Postgres.open(url, schema=schema, pool_size=pool_size, pgbouncer=pgbouncer)
    return Checkpointer(postgres, allow=allow)


class Checkpointer(BaseCheckpointSaver[str]):
    """Keeps the checkpoints of agents in PostgreSQL; one object for sync and async graphs, threads and loops."""

    def __init__(self, postgres: Postgres, *, allow: Sequence[type] = ()) -> None:
        if not isinstance(postgres, Postgres):
            raise TypeError(
                f"a Checkpointer takes a Postgres, not {type(postgres).__name__}: use open_checkpointer(url), "
                "or Checkpointer(Postgres(pool=...)) for a pool of your own"
            )
        super().__init__(serde=strict_serializer(allow))
        self.database = Database(postgres)
        self.leases = Leases(self.database)

    async def asetup(self) -> None:
        """Create or upgrade the tables; any number of processes may call it at once, at every start."""
        await install(self.database, self._saver)

    setup = door(asetup)

    def sql(self) -> str:
        """Return every statement of `setup`, for a DBA to read or to run."""
        return installation_script(self.database.postgres.schema)

    def print_sql(self) -> None:
        """Print what `sql` returns."""
        print(self.sql())  # noqa: T201 - printing is the promise

    @override
    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        where = Address.of(config)
        found = await self._read(where, "get_tuple", config)
        return where.stamp(found) if found else None

    @override
    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[CheckpointTuple, None]:
        where = Address.of(config) if config else None
        for found in await self._read(where, "list", config, filter=filter, before=before, limit=limit):
            yield where.stamp(found) if where else found

    @override
    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        where = Address.of(config)
        index = NOTHING if where.namespace else Index(checkpoint["id"], metadata.get("source") == "input", "idle")
        base = where.checkpoint_id or checkpoint["id"]
        put: RunnableConfig = await self._write(where, base, index, "put", config, checkpoint, metadata, new_versions)
        return put

    @override
    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        where = Address.of(config)
        channels = {channel for channel, _ in writes}
        status = "interrupted" if INTERRUPT in channels else "failed" if ERROR in channels else None
        index = NOTHING if where.namespace else Index(status=status)
        base = where.checkpoint_id or ""
        await self._write(where, base, index, "put_writes", config, writes, task_id, task_path)

    @override
    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        found: Mapping[str, DeltaChannelHistory] = await self._read(
            Address.of(config), "get_delta_channel_history", config=config, channels=channels
        )
        return found

    @override
    async def adelete_thread(self, thread_id: str) -> None:
        await delete_threads(self.database, [str(thread_id)])

    @override
    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        await delete_for_runs(self.database, [str(run) for run in run_ids])

    @override
    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        await copy_thread(self.database, str(source_thread_id), str(target_thread_id))

    @override
    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        if isinstance(thread_ids, str):
            raise TypeError("thread_ids must be a sequence of thread ids, not a str")
        if strategy not in ("keep_latest", "delete"):
            raise ValueError(f'strategy must be "keep_latest" or "delete", not {strategy!r}')
        threads = [str(thread_id) for thread_id in thread_ids]
        if strategy == "delete":
            await delete_threads(self.database, threads)
            return
        for thread_id in threads:
            await keep_latest(self.database, self._saver, thread_id)

    @override
    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        return drive_each(self.alist(config, filter=filter, before=before, limit=limit))

    get_tuple = door(aget_tuple)
    put = door(aput)
    put_writes = door(aput_writes)
    get_delta_channel_history = door(aget_delta_channel_history)
    delete_thread = door(adelete_thread)
    delete_for_runs = door(adelete_for_runs)
    copy_thread = door(acopy_thread)
    prune = door(aprune)

    @override
    def get_next_version(self, current: str | None, channel: None) -> str:
        return PostgresSaver.get_next_version(self, current, channel)  # type: ignore[arg-type]  # uses no state

    @asynccontextmanager
    async def fenced(self, config: RunnableConfig) -> AsyncIterator[Any]:
        """Lend a connection in a transaction that commits only while the run of ``config`` has its thread.

        For rows of your own beside the checkpoints: the lease is locked from the beginning to the commit.
        Raises `LeaseLostError` if the thread was taken over.
        """
        where = Address.of(config)
        async with self.database.postgres.connection() as connection:
            with explained(where.thread_id):
                async with self.database.transaction(connection):
                    await rows(connection, _ADMIT, where.admission("", NOTHING))
                    yield connection

    async def acheck_lease(self, config: RunnableConfig) -> None:
        """Make sure, now, that the run of ``config`` still has its thread: call it right before an effect.

        Raises `LeaseLostError`. A run without a lease, outside `resumable`, passes.
        """
        if (lease := Address.of(config).lease) is not None:
            await self.leases.renew(lease)

    check_lease = door(acheck_lease)

    async def aclose(self) -> None:
        """Close the connections that this checkpointer has opened itself."""
        await self.database.close()

    close = door(aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _saver(self, connection: Any, pipe: Any = None) -> Any:
        kind: Any = PostgresSaver if is_blocking() else AsyncPostgresSaver
        return kind(connection, pipe, serde=self.serde)

    async def _read(self, where: Address | None, verb: str, *args: Any, **kwargs: Any) -> Any:
        async def work(connection: Any) -> Any:
            async with self.database.batch(connection):
                if where:
                    await send(connection, _CHECK_USER, (where.thread_id, where.user_id))
                answer = _verb(self._saver(connection, _SyncLater()), verb)(*args, **kwargs)
                return await (collect(answer) if verb == "list" else settle(answer))

        return await self.database.run(work, where.thread_id if where else None)

    async def _write(self, where: Address, base: str, index: Index, verb: str, *args: Any) -> Any:
        async def work(connection: Any) -> Any:
            async with self.database.batch(connection):
                answer = await settle(_verb(self._saver(connection, _SyncLater()), verb)(*args))
                admitted = await send(connection, _ADMIT, where.admission(base, index))
            if where.lease:
                where.lease.heard((await settle(admitted.fetchone()))[0])
            return answer

        return await self.database.run(work, where.thread_id)


class _SyncLater:
    """Stands for LangGraph's pipeline: its sync, and so the commit, is left to the end of our batch."""

    def sync(self) -> Self:
        return self

    def __await__(self) -> AsyncIterator[None]:
        return iter(())  # type: ignore[return-value]  # nothing to wait for, whichever colour asks


def _verb(saver: Any, name: str) -> Any:
    return getattr(saver, name if is_blocking() else f"a{name}")
