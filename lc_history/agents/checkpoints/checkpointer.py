"""LangGraph's Postgres checkpointer, run on our connection and in our transaction, for sync and async graphs.

Every call makes one of LangGraph's own savers; there is no lock between calls. A write is one statement with
`lch_admit`, so a run taken over, a deleted thread or another user's thread refuses the whole of it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT
from typing_extensions import override

from lc_history.agents.checkpoints.address import NOTHING, Address, Index
from lc_history.agents.checkpoints.database import Database
from lc_history.agents.checkpoints.exchange import Exchange
from lc_history.agents.checkpoints.installation import install, installation_script
from lc_history.agents.encoding.sealing import sealed_put, sealed_writes
from lc_history.agents.encoding.serializer import strict_serializer
from lc_history.agents.encoding.values import Values
from lc_history.agents.running.lease import Leases
from lc_history.agents.threads.copies import copy_thread
from lc_history.agents.threads.index import Threads
from lc_history.agents.threads.removal import delete_for_runs, delete_threads, keep_latest
from lc_history.agents.threads.retention import Retained, retain
from lc_history.agents.threads.rotation import rotate, rows_per_key
from lc_history.agents.threads.words import Speech
from lc_history.bridge import Closing, door, drive_each
from lc_history.model import DEFAULT_USER, SessionKey, several
from lc_history.postgres import Postgres
from lc_history.privacy.audit import Action, AuditTrail
from lc_history.privacy.keyring import Keyring
from lc_history.stores.postgres import PostgresStore
from lc_history.transcript import Policy


def open_checkpointer(
    url: str,
    *,
    schema: str | None = None,
    pool_size: int = 16,
    pgbouncer: bool = False,
    keys: Keyring | None = None,
    allow: Sequence[type] = (),
    transcript: bool | Policy = True,
    audit: AuditTrail | None = None,
) -> Checkpointer:
    """Return a checkpointer for a PostgreSQL URL; nothing connects yet.

    schema: where the tables stand; default is the connection's first.
    pool_size: connections at most, of each colour; so many calls run at once.
    pgbouncer: the URL leads to a pooler in transaction mode: nothing is prepared, nor pipelined beyond a transaction.
    keys: seal everything that users supplied, bound to its row; what is not sealed is refused then.
    allow: classes of your own in the state that may be read back; `resumable` finds them in the graph itself.
    transcript: what is said in a thread is kept for `ChatHistories` on the same URL too, as the session of its name;
        a `Policy` says what is redacted of it, and when it expires.
    audit: records who answers an agent's questions, changes its state, forks, renames and deletes its threads.

    >>> open_checkpointer("postgresql://localhost/agents").sql().startswith("CREATE")
    True
    """
    postgres = Postgres.open(url, schema=schema, pool_size=pool_size, pgbouncer=pgbouncer)
    return Checkpointer(postgres, keys=keys, allow=allow, transcript=transcript, audit=audit)


class Checkpointer(BaseCheckpointSaver[str], Closing):
    """Keeps the checkpoints of agents in PostgreSQL; one object for sync and async graphs, threads and loops."""

    def __init__(
        self,
        postgres: Postgres,
        *,
        keys: Keyring | None = None,
        allow: Sequence[type] = (),
        transcript: bool | Policy = True,
        audit: AuditTrail | None = None,
    ) -> None:
        if not isinstance(postgres, Postgres):
            raise TypeError(
                f"a Checkpointer takes a Postgres, not {type(postgres).__name__}: use open_checkpointer(url), "
                "or Checkpointer(Postgres(pool=...)) for a pool of your own"
            )
        super().__init__(serde=strict_serializer(allow))
        self.database = Database(postgres)
        self.leases = Leases(self.database)
        self.keys, self.audit = keys, audit
        self._transcripts = PostgresStore(postgres)
        policy = transcript if isinstance(transcript, Policy) else Policy()
        if policy.audit is not None:
            raise ValueError("what is said in a thread is not recorded: give audit= to the checkpointer instead")
        self.exchange = Exchange(self.database, keys, Speech(postgres, policy, keys) if transcript else None)
        self.threads = Threads(self)

    async def asetup(self) -> None:
        """Create or upgrade the tables; any number of processes may call it at once, at every start."""
        await install(self.database)

    setup = door(asetup)

    def sql(self) -> str:
        """Return every statement of `setup`, for a DBA to read or to run."""
        return installation_script(self.database.postgres.schema)

    @override
    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        where = Address.of(config)
        found = await self.exchange.read(self.serde, where, "get_tuple", config)
        return where.stamp(found[0]) if found else None

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
        for found in await self.exchange.listed(self.serde, where, config, filter or {}, before=before, limit=limit):
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

        def put(saver: PostgresSaver, values: Values) -> RunnableConfig:
            return saver.put(*sealed_put(values, config, checkpoint, metadata), new_versions)

        words = await self.exchange.words(self.serde, where, config, checkpoint, self.aget_delta_channel_history)
        return where.onward(await self.exchange.write(self.serde, where, base, index, put, words))

    @override
    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        where = Address.of(config)
        channels = {channel for channel, _ in writes}
        status = "interrupted" if INTERRUPT in channels else "failed" if ERROR in channels else None
        index = NOTHING if where.namespace else Index(status=status)
        writes = list(dict(writes).items()) if channels.issubset(WRITES_IDX_MAP) else writes  # one row each: the last

        def put_writes(saver: PostgresSaver, values: Values) -> None:
            saver.put_writes(config, sealed_writes(values, config, task_id, writes), task_id, task_path)

        self.exchange.wrote(where, writes)
        await self.exchange.write(self.serde, where, where.checkpoint_id or "", index, put_writes)

    @override
    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        where = Address.of(config)
        if self.keys is not None:  # a write is bound to its checkpoint, which only the walk over all of them tells
            earlier = await super().aget_delta_channel_history(config=config, channels=channels)
        else:
            earlier = await self.exchange.history(self.serde, where, config, channels)
        return self.exchange.heard_changes(where, earlier)

    @override
    async def adelete_thread(self, thread_id: str) -> None:
        await delete_threads(self.database, [str(thread_id)])

    @override
    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        await delete_for_runs(self.database, [str(run) for run in several("run_ids", run_ids, object)])

    @override
    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        await copy_thread(self, str(source_thread_id), str(target_thread_id))

    @override
    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        if strategy not in ("keep_latest", "delete"):
            raise ValueError(f'strategy must be "keep_latest" or "delete", not {strategy!r}')
        threads = [str(thread_id) for thread_id in several("thread_ids", thread_ids, object)]
        if strategy == "delete":
            await delete_threads(self.database, threads)
            threads = []
        for thread_id in threads:
            await keep_latest(self.database, thread_id)

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

    async def arecord(self, thread_id: str, user_id: str | None, action: Action, /, **detail: Any) -> None:
        """Record in the audit trail, where there is one, what is about to be done to a thread."""
        if self.audit is not None:
            key = SessionKey(user_id or DEFAULT_USER, thread_id)
            await self.audit.before(self._transcripts, key, action, **detail)

    record = door(arecord)

    async def acheck_lease(self, config: RunnableConfig) -> None:
        """Raise `LeaseLostError` unless the run of ``config`` has its thread now, or none: call it before an effect."""
        if (lease := Address.of(config).lease) is not None:
            await self.leases.renew(lease)

    check_lease = door(acheck_lease)

    async def aretain(
        self,
        *,
        max_age: timedelta | None = None,
        keep_last: int | None = None,
        max_idle: timedelta | None = None,
        max_retry: timedelta | None = None,
        dry_run: bool = False,
    ) -> Retained:
        """Remove old checkpoints, and threads that were long idle, and return what that was; with dry_run, would be.

        max_age, keep_last: of each namespace of a thread stays what is younger, and so many checkpoints at least; of a
            task's own namespace nothing stays once the checkpoint is gone that the task began at.
        max_idle: threads without any activity for so long are deleted.
        max_retry: how long a client may ask again: older turns and answers are forgotten, and deleted threads, so that
            a write of a run that began before the deletion is not refused any more.
        The latest checkpoint stays, and what it is rebuilt from. A thread that a run holds is left alone, and one that
        waits for a person is never deleted. The turn of a run that failed or died is known until it is retried.
        """
        ages = {"max_age": max_age, "max_idle": max_idle, "max_retry": max_retry}
        return await retain(self.database, **ages, keep_last=keep_last, dry_run=dry_run)

    retain = door(aretain)

    async def arotate_keys(self, *, seal_plaintext: bool = False) -> int:
        """Seal anew every row that an older key has sealed, beside running agents, and return how many.

        What cannot be opened stays as it is: when the others are sealed, `RotationError`, a `DecodeError`, names it.
        seal_plaintext: also what was stored before there were keys, or planted since, and is refused otherwise.
        """
        return await rotate(self.database, self.serde, self.keys, seal_plaintext=seal_plaintext)

    rotate_keys = door(arotate_keys)

    async def arows_per_key(self) -> dict[str | None, int]:
        """Return how many rows each key has sealed; None for rows that are not, "(altered)" for damaged seals."""
        return await rows_per_key(self.database, self.keys)

    rows_per_key = door(arows_per_key)

    @override
    async def aclose(self) -> None:
        await self.database.close()
