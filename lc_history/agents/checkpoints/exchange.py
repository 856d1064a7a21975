"""Single calls of LangGraph's saver, each on a connection of ours: what is sent along, and what is made of the answer.

A write is one statement: `lch_admit`, which takes the bodies that are new and may refuse it all, and the saver's rows.
A read is one, or two when messages are among the values that this process has not seen.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final, TypeVar, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint, CheckpointTuple, DeltaChannelHistory
from langgraph.checkpoint.serde.base import SerializerProtocol

from lc_history.agents.checkpoints.address import Address, Index
from lc_history.agents.checkpoints.database import Database, rows, send
from lc_history.agents.checkpoints.notes import Notes
from lc_history.agents.checkpoints.refusals import BodiesGoneError, another_user
from lc_history.agents.checkpoints.savers import OWNER, STATEMENTS, SYNC_LATER, saver_into, saver_on, verb_of
from lc_history.agents.encoding.bodies import KEEP, Bodies, SeenBodies, reach, required
from lc_history.agents.encoding.sealing import READABLE, opened_tuple
from lc_history.agents.encoding.values import MissingBodyError, Stored, Values, is_folded, references_in
from lc_history.agents.threads.words import Speech, Words, changed_in
from lc_history.bridge import collect, settle
from lc_history.errors import PolicyError, StoreError
from lc_history.privacy.keyring import Keyring
from lc_history.stores.postgres.turn import UNJUDGED, Part, Turn, append_judged

T = TypeVar("T")
Put = Callable[[Any, Values], T]
Changes = Callable[..., Awaitable[Mapping[str, DeltaChannelHistory]]]

_ADMISSION: Final = ("thread_id", *(f"admitted{place}" for place in range(8)))
_FORMS: Final = (*("s",) * 8, "b::bytea")
_ADMITTED: Final = ", ".join(f"%({name}){form}" for name, form in zip(_ADMISSION, _FORMS, strict=True))
_ADMIT: Final = f"{{schema}}lch_admit({_ADMITTED})"
_CHECK_USER: Final = "SELECT {schema}lch_check_user(%s, %s)"


class Exchange:
    """Reads and writes through LangGraph's saver; ``keys`` seal, and open what was sealed."""

    def __init__(self, database: Database, keys: Keyring | None, speech: Speech | None) -> None:
        self._database, self._keys, self.speech = database, keys, speech
        self._seen = SeenBodies()
        self._statements = {name: database.postgres.qualified(text) for name, text in STATEMENTS.items()}
        self._admit, self._keep = database.postgres.qualified(_ADMIT), database.postgres.qualified(KEEP)

    async def read(
        self, serde: SerializerProtocol, where: Address | None, verb: str, *args: Any, **options: Any
    ) -> list[CheckpointTuple]:
        """Return the checkpoints that a verb of the saver finds."""
        if verb == "get_tuple" and where is not None and where.finds_nothing:
            return []

        async def work(connection: Any) -> list[CheckpointTuple]:
            saver = saver_on(connection, Values(serde, ""), statements=self._statements)
            answer = verb_of(saver, verb)(*args, **options)
            found = await (collect(answer) if verb == "list" else settle(answer))
            found = found if verb == "list" else [found] if found else []
            for one in found:
                _check_owner(one, where)
            made: list[CheckpointTuple] = []
            for thread_id, some in groupby(found, key=lambda one: one.config["configurable"]["thread_id"]):
                values = Values(serde, thread_id, self._keys, self._seen.originals(thread_id))
                tuples = [opened_tuple(values, one) for one in some]
                bodies = await self._bodies(connection, values, (v for one in tuples for v in _stored(one)))
                made += [_complete(values, one, bodies) for one in tuples]
            return made

        found = await self._patiently(work, where)
        if self.speech is not None and where is not None and verb == "get_tuple":
            for one in found:
                self.speech.heard(where, one)
        return found

    async def words(
        self,
        serde: SerializerProtocol,
        where: Address,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        changes: Changes,
    ) -> Words | None:
        """Return what a checkpoint says that its parent did not; None where no transcript is kept of it.

        changes: asks for what a parent holds that another process has made, and that keeps only changes.
        """
        if self.speech is None or where.namespace:
            return None
        if not self.speech.knows_parent(where):  # another process made it, or it was long ago
            for parent in await self.read(serde, where, "get_tuple", config):
                if not self.speech.heard(where, parent):
                    await changes(config=config, channels=changed_in(parent))
        return self.speech.of(where, checkpoint)

    def wrote(self, where: Address, writes: Iterable[tuple[str, Any]]) -> None:
        """Remember what is said in the writes of a step, which the next checkpoint may not hold."""
        if self.speech is not None:
            self.speech.wrote(where, where.checkpoint_id, writes)

    async def listed(
        self,
        serde: SerializerProtocol,
        where: Address | None,
        config: RunnableConfig | None,
        wanted: Mapping[str, Any],
        *,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> list[CheckpointTuple]:
        """Return checkpoints with such metadata, the latest first; what the server cannot read is compared here."""
        sealed = wanted.keys() - READABLE if self._keys else set()
        readable = {name: wanted[name] for name in wanted.keys() - sealed}
        asked: dict[str, Any] = {"before": before, "limit": None if sealed else limit, "filter": readable}
        found = []
        for one in await self.read(serde, where, "list", config, **asked):
            metadata: dict[str, Any] = {**one.metadata}
            if all(metadata.get(name) == wanted[name] for name in sealed):
                found.append(one)
        return found if limit is None else found[:limit]

    async def history(
        self, serde: SerializerProtocol, where: Address, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Return the changes of channels, and what they begin with; not for sealed threads."""

        async def work(connection: Any) -> Mapping[str, DeltaChannelHistory]:
            async with self._database.batch(connection):
                await self._database.look_into_schema(connection)  # these statements of LangGraph's are made as it goes
                await send(connection, self._database.postgres.qualified(_CHECK_USER), (where.thread_id, where.user_id))
                saver = saver_on(connection, Values(serde, ""), pipe=SYNC_LATER)
                found: Mapping[str, DeltaChannelHistory] = await settle(
                    verb_of(saver, "get_delta_channel_history")(config=config, channels=channels)
                )
            values = Values(serde, where.thread_id)
            entries = list(found.values())
            closed = [value for entry in entries for _, _, value in entry["writes"]]
            closed += [entry["seed"] for entry in entries if "seed" in entry]
            bodies = await self._bodies(connection, values, closed)
            for entry in entries:
                entry["writes"] = [(task, channel, _value(values, v, bodies)) for task, channel, v in entry["writes"]]
                if "seed" in entry:
                    entry["seed"] = _value(values, entry["seed"], bodies)
            return found

        return await self._patiently(work, where)

    def heard_changes(
        self, where: Address, found: Mapping[str, DeltaChannelHistory]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Return what `history` has found, after remembering what was said in it."""
        if self.speech is not None:
            self.speech.heard_changes(where, found)
        return found

    async def write(
        self,
        serde: SerializerProtocol,
        where: Address,
        base: str,
        index: Index,
        put: Put[T],
        words: Words | None = None,
    ) -> T:
        """Return what ``put`` returns on a saver, once it and the words are committed; base: what it builds on."""
        turn = None if words is None else words.turn
        said = turn.part() if turn else None
        known: Bodies = self._seen.of(where.thread_id)

        async def attempt() -> T:
            values = Values(serde, where.thread_id, self._keys, self._seen.originals(where.thread_id), known)
            notes = Notes()
            answer = put(saver_into(notes, values, self._statements), values)
            notes.executemany(self._keep, [values.body_row(name) for name in values.bodies])
            admission = _admission(where, base, index, required(values, known))
            stop = await self._database.run(lambda c: self._sent(c, notes, admission, turn, said), where.thread_id)
            self._seen.add(where.thread_id, values.bodies)
            if words is not None:
                words.remember()
            if where.lease:
                where.lease.heard(stop)
            return answer

        for _ in range(2):
            try:
                return await attempt()
            except BodiesGoneError:
                known = {}
                self._seen.forget(where.thread_id)
            except StoreError as error:
                if turn is None or getattr(error.__cause__, "sqlstate", None) not in UNJUDGED:
                    raise
                said = None
        return await attempt()

    async def _sent(
        self, connection: Any, notes: Notes, admission: dict[str, Any], turn: Turn | None, said: Part | None
    ) -> str | None:
        """Send a write, and return why its run is asked to stop."""
        if notes.few and (turn is None or said is not None):
            tables, appended, more = said or ("", "NULL", {})
            tables = self._database.postgres.qualified(tables)
            statement, values = notes.statement(f"{self._admit}, {appended}", tables)
            return cast("str | None", (await rows(connection, statement, values | more | admission))[0][0])
        async with self._database.transaction(connection):
            stop: str | None = (await rows(connection, f"SELECT {self._admit}", admission))[0][0]
            for insert, some in notes.inserts:
                await settle(connection.cursor().executemany(insert, some))
            if turn is not None:
                await append_judged(self._database.postgres, connection, turn)
        return stop

    async def _patiently(self, work: Callable[[Any], Awaitable[T]], where: Address | None) -> T:
        try:
            return await self._database.run(work, where.thread_id if where else None)
        except MissingBodyError:  # pruned between the two statements: the second look finds what there is now
            return await self._database.run(work, where.thread_id if where else None)

    async def _bodies(self, connection: Any, values: Values, found: Iterable[Any]) -> Bodies:
        folded = {one.body: references_in(one.body) for one in found if isinstance(one, Stored) and is_folded(one)}
        names = {name for some in folded.values() for name in some}
        known = self._seen.of(values.thread_id)
        if missing := [name for name in names if name not in known]:
            async with self._database.transaction(connection):
                fetched = await reach(connection, values, missing)
            self._seen.add(values.thread_id, fetched)
            return {**known, **fetched}
        return known


def _admission(where: Address, base: str, index: Index, needed: bytes | None) -> dict[str, Any]:
    return dict(zip(_ADMISSION, (*where.admission(base, index), needed), strict=True))


def _check_owner(found: CheckpointTuple, where: Address | None) -> None:
    metadata: dict[str, Any] = found.metadata  # type: ignore[assignment]  # it has whatever was put there
    owner = metadata.pop(OWNER)  # without it, nothing is known of the owner, and nothing is shown
    if where is not None and owner is not None and owner != where.user_id:
        raise PolicyError(another_user(f"thread {where.thread_id!r}"))


def _stored(found: CheckpointTuple) -> Iterable[Any]:
    yield from found.checkpoint["channel_values"].values()
    for _, _, value in found.pending_writes or ():
        yield value


def _complete(values: Values, found: CheckpointTuple, bodies: Bodies) -> CheckpointTuple:
    channels = {name: _value(values, value, bodies) for name, value in found.checkpoint["channel_values"].items()}
    writes = [(task, channel, _value(values, value, bodies)) for task, channel, value in found.pending_writes or ()]
    return found._replace(checkpoint={**found.checkpoint, "channel_values": channels}, pending_writes=writes)


def _value(values: Values, value: Any, bodies: Bodies) -> Any:
    return values.value_of(value, bodies) if isinstance(value, Stored) else value
