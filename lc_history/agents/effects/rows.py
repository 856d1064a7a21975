"""What is known of every effect of an agent: that it began, and what came of it; one row each, in PostgreSQL.

The row is written before the effect and completed after it, each in one round trip. An effect whose row says
"started" and whose run is gone is in doubt: it may or may not have happened, and only its owner can tell.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal

import orjson
from langgraph.checkpoint.serde.base import SerializerProtocol

from lc_history.agents.checkpoints.database import Database, rows
from lc_history.agents.checkpoints.refusals import explained
from lc_history.errors import DecodeError, LeaseLostError
from lc_history.privacy.keyring import Keyring, bind, is_sealed

_TABLE = """
CREATE TABLE {schema}lch_effects (
    thread_id text NOT NULL,
    effect_key text NOT NULL,                      -- also what a tool hands on as its idempotency key
    tool text NOT NULL,
    tool_call_id text NOT NULL,
    state text NOT NULL DEFAULT 'started',         -- started, done, or unknown: reported as such, for good
    attempt text NOT NULL,                         -- who may complete it
    attempts integer NOT NULL DEFAULT 1,
    result_type text,
    result bytea,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    PRIMARY KEY (thread_id, effect_key)
);
"""

# Takes the right to start, or tells what came of it before. The lease stays locked until the commit, so nobody takes
# the thread over between the check and the row that says "started". Sent twice, it answers alike.
_BEGIN = """
CREATE FUNCTION {schema}lch_begin_effect(
    p_thread text, p_key text, p_tool text, p_call text, p_attempt text, p_run text,
    p_checkpoint_ns text, p_checkpoint text, p_again boolean,
    OUT standing text, OUT result_type text, OUT result bytea
) LANGUAGE plpgsql AS $$
DECLARE
    held text;
    known {schema}lch_effects;
BEGIN
    IF p_run IS NOT NULL THEN
        SELECT run_id INTO held FROM {schema}lch_leases WHERE thread_id = p_thread FOR SHARE;
        IF held IS DISTINCT FROM p_run THEN
            RAISE EXCEPTION USING ERRCODE = 'LCH01', MESSAGE = coalesce(held, 'nobody');
        END IF;
    END IF;
    IF p_checkpoint IS NOT NULL AND NOT EXISTS (SELECT FROM {schema}checkpoints WHERE
        thread_id = p_thread AND checkpoint_ns = p_checkpoint_ns AND checkpoint_id = p_checkpoint) THEN
        standing := 'early';
        RETURN;
    END IF;
    INSERT INTO {schema}lch_effects (thread_id, effect_key, tool, tool_call_id, attempt)
        VALUES (p_thread, p_key, p_tool, p_call, p_attempt) ON CONFLICT DO NOTHING;
    IF FOUND THEN
        standing := 'begun';
        RETURN;
    END IF;
    SELECT * INTO known FROM {schema}lch_effects e WHERE e.thread_id = p_thread AND e.effect_key = p_key FOR UPDATE;
    IF known.state = 'started' AND known.attempt <> p_attempt AND p_again THEN
        UPDATE {schema}lch_effects e SET attempt = p_attempt, attempts = attempts + 1
            WHERE e.thread_id = p_thread AND e.effect_key = p_key;
        known.attempt := p_attempt;
    END IF;
    standing := CASE WHEN known.state = 'started' AND known.attempt = p_attempt THEN 'begun' ELSE known.state END;
    result_type := known.result_type;
    result := known.result;
END $$;
"""

EFFECTS: Final = "effects"
EFFECT_STEPS: Final = (_TABLE, _BEGIN)
"""Numbered migrations: the position is the version, so a step that was released is never changed."""

_BEGIN_EFFECT = "SELECT standing, result_type, result FROM {schema}lch_begin_effect(%s, %s, %s, %s, %s, %s, %s, %s, %s)"
_FINISH = """
UPDATE {schema}lch_effects SET state = 'done', result_type = %s, result = %s, finished_at = clock_timestamp()
WHERE thread_id = %s AND effect_key = %s AND attempt = %s AND state IN ('started', 'done') RETURNING 1
"""
_GIVE_UP = """
UPDATE {schema}lch_effects SET state = 'unknown', result_type = %s, result = %s, finished_at = clock_timestamp()
WHERE thread_id = %s AND effect_key = %s AND state IN ('started', 'unknown') RETURNING 1
"""
_WITHDRAW = """
DELETE FROM {schema}lch_effects
WHERE thread_id = %s AND effect_key = %s AND attempt = %s AND state = 'started' AND attempts = 1 RETURNING 1
"""
_HAS_CHECKPOINT = "SELECT 1 FROM {schema}checkpoints WHERE thread_id = %s AND checkpoint_ns = %s AND checkpoint_id = %s"
_FIND = """
SELECT effect_key, state, result_type, result FROM {schema}lch_effects WHERE thread_id = %s AND effect_key = ANY (%s)
"""

State = Literal["begun", "started", "done", "unknown", "early"]
"""begun: it is ours to start now. started: in doubt. done, unknown: answered for good. early: not stored yet."""


@dataclass(frozen=True, slots=True)
class Effect:
    """One call of a tool, or one run of a node or task that has an effect."""

    thread_id: str
    key: str
    tool: str
    call: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """Who begins an effect: which run, and at which checkpoint, which has to be stored before."""

    name: str
    run_id: str | None = None
    checkpoint_ns: str = ""
    checkpoint_id: str | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of an effect."""

    state: State
    result: Any = None


def key_of(*names: Any) -> str:
    """Return the key of the effect that these names tell from all others, the same one each time."""
    options = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
    try:
        told = orjson.dumps(names, default=str, option=options)
    except orjson.JSONEncodeError:  # a lone surrogate, or an integer beyond 64 bits
        told = json.dumps(names, default=str, sort_keys=True).encode()
    return sha256(told).hexdigest()[:40]


def effect_place(thread_id: str, key: str, kind: str) -> bytes:
    """Return what names the row of an effect's result, to which its seal is bound."""
    return bind("effect", thread_id, key, kind)


class Effects:
    """The effects of agents on one PostgreSQL, their results packed, and sealed, as the checkpoints are.

    What a person may read without keys: thread, key, the tool's name, the call's id, state and times.
    """

    def __init__(self, database: Database, serde: SerializerProtocol, *, keys: Keyring | None = None) -> None:
        self.database, self._serde, self._keys = database, serde, keys

    async def begin(
        self, effect: Effect, attempt: Attempt, *, again: bool = False, connection: Any | None = None
    ) -> Standing:
        """Take the right to start the effect, or tell what came of it; with ``again``, also when it is in doubt.

        `LeaseLostError` if the run was taken over. With a connection it is part of that one's transaction.
        """
        asked = (effect.thread_id, effect.key, effect.tool, effect.call, attempt.name, attempt.run_id)
        where = (attempt.checkpoint_ns, attempt.checkpoint_id, again)
        [(state, kind, body)] = await self._rows(_BEGIN_EFFECT, (*asked, *where), effect.thread_id, connection)
        return Standing(state or "early", self._result(effect.thread_id, effect.key, kind, body))

    async def finish(self, effect: Effect, attempt: Attempt, result: Any, *, connection: Any | None = None) -> None:
        """Keep what came of the effect; `LeaseLostError` if it was reported as unknown or begun again meanwhile."""
        packed = self._packed(effect.thread_id, effect.key, result)
        values = (*packed, effect.thread_id, effect.key, attempt.name)
        if not await self._rows(_FINISH, values, effect.thread_id, connection):
            raise LeaseLostError(
                f"{effect.tool!r} of thread {effect.thread_id!r} ended after its run was taken over, and its result "
                f"was not kept: look at what it did (effect key {effect.key})"
            )

    async def give_up(self, thread_id: str, key: str, result: Any) -> None:
        """Keep, for good, that nobody knows what came of the effect, and what was said instead."""
        await self._rows(_GIVE_UP, (*self._packed(thread_id, key, result), thread_id, key), thread_id)

    async def withdraw(self, effect: Effect, attempt: Attempt) -> None:
        """Forget an effect that only asked a person and is to begin anew."""
        await self._rows(_WITHDRAW, (effect.thread_id, effect.key, attempt.name), effect.thread_id)

    async def find(self, thread_id: str, keys: Sequence[str]) -> dict[str, Standing]:
        """Return what is known of those effects."""
        found = await self._rows(_FIND, (thread_id, list(keys)), thread_id)
        return {key: Standing(state, self._result(thread_id, key, kind, body)) for key, state, kind, body in found}

    async def has_checkpoint(self, thread_id: str, namespace: str, checkpoint_id: str) -> bool:
        """Tell whether a checkpoint is stored."""
        return bool(await self._rows(_HAS_CHECKPOINT, (thread_id, namespace, checkpoint_id), thread_id))

    async def _rows(
        self, statement: str, values: tuple[Any, ...], thread_id: str, connection: Any | None = None
    ) -> list[tuple[Any, ...]]:
        if connection is None:
            return await self.database.rows(statement, values, thread_id=thread_id)
        with explained(thread_id):
            return await rows(connection, self.database.postgres.qualified(statement), values)

    def _packed(self, thread_id: str, key: str, result: Any) -> tuple[str, bytes]:
        kind, body = self._serde.dumps_typed(result)
        return kind, self._keys.seal(body, effect_place(thread_id, key, kind)) if self._keys else body

    def _result(self, thread_id: str, key: str, kind: str | None, body: bytes | None) -> Any:
        if kind is None or body is None:
            return None
        body = bytes(body)
        if self._keys is None and is_sealed(body):
            raise DecodeError(f"the effects of thread {thread_id!r} are sealed: open the checkpointer with its keys")
        try:
            plain = self._keys.open(body, effect_place(thread_id, key, kind)) if self._keys else body
        except DecodeError as error:
            raise DecodeError(f"the result of effect {key!r} of thread {thread_id!r} is {error}") from error
        return self._serde.loads_typed((kind, plain))
