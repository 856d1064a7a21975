"""The tables and functions that stand beside LangGraph's own: threads, leases and the queue before them, admission.

LangGraph's tables stay exactly as `langgraph-checkpoint-postgres` makes them; of types of our own are only the values
that hold messages, or are sealed. What must be decided atomically is decided in a function, so one round trip both
writes and may refuse.
"""

from __future__ import annotations

from typing import Final

from lc_history.agents.running.lease_schema import LEASING
from lc_history.agents.threads.thread_schema import WHOLE_THREADS

MIGRATIONS_NAME: Final = "agents"

# What a function raises, as SQLSTATE; the message names the holder or the owner.
LEASE_LOST: Final = "LCH01"
THREAD_BUSY: Final = "LCH02"
WRONG_USER: Final = "LCH03"
THREAD_DELETED: Final = "LCH04"
BODIES_GONE: Final = "LCH05"
THREAD_EXISTS: Final = "LCH06"

_TABLES = """
CREATE TABLE {schema}lch_threads (
    thread_id text PRIMARY KEY,
    user_id text NOT NULL,
    title bytea,
    status text NOT NULL DEFAULT 'idle',           -- idle, interrupted, failed; lch_standing tells the rest
    checkpoints bigint NOT NULL DEFAULT 0,
    turns bigint NOT NULL DEFAULT 0,
    last_checkpoint_id text,
    last_turn_id text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    deleted_at timestamptz                         -- a tombstone: what began before is not written any more
);
CREATE INDEX lch_threads_listing ON {schema}lch_threads (user_id, updated_at DESC, thread_id DESC)
    WHERE deleted_at IS NULL;
CREATE INDEX lch_threads_waiting ON {schema}lch_threads (user_id, updated_at) WHERE status = 'interrupted';
CREATE TABLE {schema}lch_leases (
    thread_id text PRIMARY KEY,
    epoch bigint NOT NULL DEFAULT 0,               -- grows with every owner
    run_id text,                                   -- the owner; NULL when free
    holder text,                                   -- who that is, for people
    turn_id text,                                  -- the turn that the run belongs to, where its caller named one
    base_checkpoint_id text,                       -- where the thread stood when the run began
    base_turn_id text,                             -- the turn of that checkpoint
    settled_checkpoint_id text,                    -- the last at which a run came to its end, with nothing left open
    paused_checkpoint_id text,                     -- the last at which a run may have stopped at a breakpoint
    acquired_at timestamptz,
    expires_at timestamptz,
    stop text                                      -- why the owner is asked to stop at its next step
);
CREATE TABLE {schema}lch_queue (
    ticket bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    thread_id text NOT NULL,
    run_id text NOT NULL UNIQUE,
    urgent boolean NOT NULL DEFAULT false,         -- goes before those who merely wait
    expires_at timestamptz NOT NULL                -- renewed while its owner waits
);
CREATE INDEX lch_queue_thread ON {schema}lch_queue (thread_id);
CREATE TABLE {schema}lch_turns (
    thread_id text NOT NULL,
    turn_id text NOT NULL,
    checkpoint_id text NOT NULL,                   -- the last that the turn has made
    rolled_back boolean NOT NULL DEFAULT false,    -- by a newer run, and that checkpoint is gone
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (thread_id, turn_id)
);
CREATE TABLE {schema}lch_answers (
    thread_id text NOT NULL,
    interrupt_id text NOT NULL,
    run_id text NOT NULL,                          -- which run took the answer
    answered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (thread_id, interrupt_id)
);
"""

_BODIES = """
CREATE TABLE {schema}lch_bodies (
    thread_id text NOT NULL,
    name bytea NOT NULL,                           -- a hash of type and body
    type text NOT NULL,                            -- of a message, or 'references' to a group of others
    body bytea NOT NULL,
    PRIMARY KEY (thread_id, name)
);
"""

# What a thread shows: a live lease is a run at work, one that ran out is a run that died. A question is open until its
# task has finished: LangGraph leaves it in its place.
_STANDING = """
CREATE FUNCTION {schema}lch_said(p_thread text, p_checkpoint text) RETURNS text LANGUAGE sql AS $$
    SELECT coalesce(max(CASE channel WHEN '__interrupt__' THEN 'interrupted' ELSE 'failed' END), 'idle')
    FROM {schema}checkpoint_writes said
    WHERE thread_id = p_thread AND checkpoint_ns = '' AND checkpoint_id = p_checkpoint
    AND (channel = '__error__' OR channel = '__interrupt__' AND NOT EXISTS (
        SELECT FROM {schema}checkpoint_writes done
        WHERE done.thread_id = p_thread AND done.checkpoint_ns = '' AND done.checkpoint_id = p_checkpoint
        AND done.task_id = said.task_id
        AND done.channel NOT IN ('__error__', '__error_source_node__', '__interrupt__', '__resume__')))
$$;
CREATE FUNCTION {schema}lch_standing(t {schema}lch_threads, l {schema}lch_leases) RETURNS text LANGUAGE sql AS $$
    SELECT CASE
        WHEN l.expires_at > clock_timestamp() THEN 'busy'
        WHEN l.run_id IS NULL THEN t.status
        WHEN {schema}lch_said(t.thread_id, t.last_checkpoint_id) = 'interrupted' THEN 'interrupted'
        ELSE 'failed'
    END
$$;
"""

# Called first in the transaction of every write: lease and thread stay locked until the commit, so nobody takes the
# thread over or deletes it between the check and the write. A write without a lease takes it over from a run that died;
# p_base is when its own run's first checkpoint was made. With p_checkpoint, a checkpoint of the root
# graph, the index moves on; the same one sent again counts once. Its tasks
# may have been faster: what they said is looked for, after the row is locked; a run tells that when it ends.
# The bodies that p_required names are checked while the thread is locked: nobody removes one of them before the
# commit. A step's writes lock it for keys alone, and so wait for nobody but a deletion.
_ADMIT = """
CREATE FUNCTION {schema}lch_check_user(p_thread text, p_user text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM {schema}lch_threads
        WHERE thread_id = p_thread AND deleted_at IS NULL AND user_id <> p_user)
    THEN
        RAISE EXCEPTION USING ERRCODE = 'LCH03', MESSAGE = 'another user';
    END IF;
END $$;
CREATE FUNCTION {schema}lch_admit(
    p_thread text, p_user text, p_run text, p_base timestamptz,
    p_checkpoint text, p_input boolean, p_status text, p_turn text,
    p_required bytea
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    held {schema}lch_leases;
    known {schema}lch_threads;
    indexed boolean := false;
BEGIN
    IF p_run IS NULL AND EXISTS (SELECT FROM {schema}lch_leases WHERE thread_id = p_thread AND run_id IS NOT NULL) THEN
        -- To take it from a run that died: two writes that shared it would wait for each other.
        SELECT * INTO held FROM {schema}lch_leases WHERE thread_id = p_thread FOR UPDATE;
    ELSE
        SELECT * INTO held FROM {schema}lch_leases WHERE thread_id = p_thread FOR SHARE;
    END IF;
    IF p_run IS NULL AND held.expires_at > clock_timestamp() THEN
        RAISE EXCEPTION USING ERRCODE = 'LCH02', MESSAGE = held.holder;
    ELSIF p_run IS NOT NULL AND held.run_id IS DISTINCT FROM p_run THEN
        RAISE EXCEPTION USING ERRCODE = 'LCH01', MESSAGE = coalesce(held.holder, 'nobody');
    ELSIF p_run IS NULL AND held.run_id IS NOT NULL THEN
        UPDATE {schema}lch_threads t SET status = {schema}lch_standing(t, held) WHERE t.thread_id = p_thread;
        UPDATE {schema}lch_leases SET run_id = NULL, holder = NULL, expires_at = NULL, stop = NULL, epoch = epoch + 1,
            settled_checkpoint_id = NULL WHERE thread_id = p_thread;
    END IF;
    IF p_checkpoint IS NOT NULL THEN
        INSERT INTO {schema}lch_threads AS t
                (thread_id, user_id, status, checkpoints, turns, last_checkpoint_id, last_turn_id)
            VALUES (p_thread, p_user, p_status, 1, p_input::int, p_checkpoint, p_turn)
            ON CONFLICT (thread_id) DO UPDATE SET updated_at = clock_timestamp(),
                status = CASE WHEN p_run IS NULL THEN {schema}lch_said(p_thread, p_checkpoint) ELSE p_status END,
                last_checkpoint_id = p_checkpoint, last_turn_id = p_turn,
                checkpoints = t.checkpoints + (p_checkpoint IS DISTINCT FROM t.last_checkpoint_id)::int,
                turns = t.turns + (p_input AND p_checkpoint IS DISTINCT FROM t.last_checkpoint_id)::int,
                user_id = p_user, deleted_at = NULL,
                created_at = CASE WHEN t.deleted_at IS NULL THEN t.created_at ELSE clock_timestamp() END
                WHERE CASE WHEN t.deleted_at IS NULL THEN t.user_id = p_user
                    ELSE p_run IS NOT NULL OR p_base IS NULL OR p_base > t.deleted_at END;
        indexed := FOUND;
    END IF;
    IF NOT indexed THEN
        SELECT * INTO known FROM {schema}lch_threads WHERE thread_id = p_thread FOR KEY SHARE;
        IF known.deleted_at IS NULL AND known.user_id <> p_user THEN
            RAISE EXCEPTION USING ERRCODE = 'LCH03', MESSAGE = 'another user';
        ELSIF p_run IS NULL AND p_base <= known.deleted_at THEN
            RAISE EXCEPTION USING ERRCODE = 'LCH04', MESSAGE = known.deleted_at::text;
        ELSIF p_status IS NOT NULL THEN
            UPDATE {schema}lch_threads SET updated_at = clock_timestamp(),
                status = CASE WHEN {schema}lch_said(p_thread, last_checkpoint_id) = 'interrupted'
                    THEN 'interrupted' ELSE p_status END
                WHERE thread_id = p_thread;
        END IF;
    END IF;
    IF p_checkpoint IS NOT NULL AND p_turn IS NOT NULL THEN
        INSERT INTO {schema}lch_turns (thread_id, turn_id, checkpoint_id) VALUES (p_thread, p_turn, p_checkpoint)
            ON CONFLICT (thread_id, turn_id) DO UPDATE SET checkpoint_id = EXCLUDED.checkpoint_id,
                updated_at = clock_timestamp();
    END IF;
    IF p_required IS NOT NULL THEN
        IF EXISTS (SELECT FROM generate_series(1, length(p_required), 16) AS at WHERE NOT EXISTS (
            SELECT FROM {schema}lch_bodies WHERE thread_id = p_thread AND name = substring(p_required FROM at FOR 16)))
        THEN
            RAISE EXCEPTION USING ERRCODE = 'LCH05', MESSAGE = 'bodies that were stored before are gone';
        END IF;
    END IF;
    RETURN held.stop;
END $$;
"""

STEPS: Final = (_TABLES, _BODIES, _STANDING, _ADMIT, LEASING, WHOLE_THREADS)
"""Numbered migrations: the position is the version, so a step that was released is never changed."""
