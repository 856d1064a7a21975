"""The tables and functions that stand beside LangGraph's own: threads, leases and the queue before them.

LangGraph's tables stay exactly as `langgraph-checkpoint-postgres` makes them; of types of our own are only the values
that hold messages, or are sealed. What must be decided atomically is decided in a function, so one round trip both
writes and may refuse.
"""

from __future__ import annotations

from typing import Final

MIGRATIONS_NAME: Final = "agents"

# What a function raises, as SQLSTATE; the message names the holder or the owner.
LEASE_LOST: Final = "LCH01"
THREAD_BUSY: Final = "LCH02"
WRONG_USER: Final = "LCH03"
THREAD_DELETED: Final = "LCH04"
BODIES_GONE: Final = "LCH05"

_TABLES = """
CREATE TABLE {schema}lch_threads (
    thread_id text PRIMARY KEY,
    user_id text NOT NULL,
    title bytea,
    status text NOT NULL DEFAULT 'idle',           -- idle, interrupted, failed; busy is a live lease
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
    settled_checkpoint_id text,                    -- the last at which a run came to its end, with nothing left open
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

# Called first in the transaction of every write: lease and thread stay locked until the commit, so nobody takes the
# thread over or deletes it between the check and the write. p_base is when the run's first checkpoint was made.
# With p_checkpoint, a checkpoint of the root graph, the index moves on; the same one sent again counts once.
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
    SELECT * INTO held FROM {schema}lch_leases WHERE thread_id = p_thread FOR SHARE;
    IF p_run IS NULL AND held.expires_at > clock_timestamp() THEN
        RAISE EXCEPTION USING ERRCODE = 'LCH02', MESSAGE = held.holder;
    ELSIF p_run IS NOT NULL AND held.run_id IS DISTINCT FROM p_run THEN
        RAISE EXCEPTION USING ERRCODE = 'LCH01', MESSAGE = coalesce(held.holder, 'nobody');
    END IF;
    IF p_checkpoint IS NOT NULL THEN
        INSERT INTO {schema}lch_threads AS t
                (thread_id, user_id, status, checkpoints, turns, last_checkpoint_id, last_turn_id)
            VALUES (p_thread, p_user, p_status, 1, p_input::int, p_checkpoint, p_turn)
            ON CONFLICT (thread_id) DO UPDATE SET status = p_status, updated_at = clock_timestamp(),
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
            UPDATE {schema}lch_threads SET status = p_status, updated_at = clock_timestamp() WHERE thread_id = p_thread;
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

# Tells who holds the thread, or takes it: first come, first served; nobody waits inside. A row that a write has
# locked counts as busy. The commit need not reach the disk: a lease that a crash undoes refuses its writes.
_ACQUIRE = """
CREATE FUNCTION {schema}lch_acquire(
    p_thread text, p_user text, p_run text, p_holder text, p_lease interval, p_mode text, p_turn text,
    OUT granted boolean, OUT epoch bigint, OUT holder text, OUT ahead bigint, OUT base text, OUT took_over text,
    OUT turn_checkpoint text, OUT last_turn text, OUT settled boolean
) LANGUAGE plpgsql AS $$
DECLARE
    held {schema}lch_leases;
    mine {schema}lch_queue;
    queued boolean;
    clock timestamptz := clock_timestamp();
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    PERFORM {schema}lch_check_user(p_thread, p_user);
    INSERT INTO {schema}lch_leases (thread_id) VALUES (p_thread) ON CONFLICT DO NOTHING;
    ahead := 0;
    queued := EXISTS (SELECT FROM {schema}lch_queue q WHERE q.thread_id = p_thread);
    IF queued THEN
        SELECT * INTO mine FROM {schema}lch_queue q WHERE q.run_id = p_run;
        SELECT count(*) INTO ahead FROM {schema}lch_queue q
            WHERE q.thread_id = p_thread AND q.run_id <> p_run AND q.expires_at > clock
            AND (mine.ticket IS NULL OR (NOT q.urgent, q.ticket) < (NOT mine.urgent, mine.ticket));
    END IF;
    SELECT * INTO held FROM {schema}lch_leases l WHERE l.thread_id = p_thread FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        holder := held.holder;
    ELSE
        SELECT l.holder INTO holder FROM {schema}lch_leases l WHERE l.thread_id = p_thread;
    END IF;
    epoch := held.epoch;
    base := held.base_checkpoint_id;
    IF p_turn IS NOT NULL THEN
        SELECT t.checkpoint_id INTO turn_checkpoint FROM {schema}lch_turns t
            WHERE t.thread_id = p_thread AND t.turn_id = p_turn;
    END IF;
    SELECT t.last_turn_id INTO last_turn FROM {schema}lch_threads t WHERE t.thread_id = p_thread;
    granted := coalesce(held.run_id = p_run, false);
    IF granted THEN
        RETURN;
    ELSIF held.turn_id = p_turn AND p_mode <> 'reject' THEN
        p_mode := 'enqueue';                       -- a retry does not stop what it retries
    END IF;
    IF held.thread_id IS NOT NULL AND (p_mode = 'rollback' OR
        (ahead = 0 AND (held.run_id IS NULL OR held.expires_at <= clock))) THEN
        IF p_mode = 'rollback' AND held.expires_at > clock THEN
            DELETE FROM {schema}checkpoints c WHERE c.thread_id = p_thread AND c.checkpoint_id > coalesce(base, '');
            DELETE FROM {schema}checkpoint_writes w
                WHERE w.thread_id = p_thread AND w.checkpoint_id > coalesce(base, '');
        END IF;
        granted := true;
        took_over := held.run_id;
        SELECT max(c.checkpoint_id) INTO base FROM {schema}checkpoints c
            WHERE c.thread_id = p_thread AND c.checkpoint_ns = '';
        UPDATE {schema}lch_leases l SET epoch = held.epoch + 1, run_id = p_run, holder = p_holder, turn_id = p_turn,
            base_checkpoint_id = base, acquired_at = clock, expires_at = clock + p_lease, stop = NULL
            WHERE l.thread_id = p_thread RETURNING l.epoch INTO epoch;
        settled := coalesce(held.settled_checkpoint_id = base, base IS NULL);
        IF queued THEN
            DELETE FROM {schema}lch_queue q
                WHERE q.run_id = p_run OR (q.thread_id = p_thread AND q.expires_at <= clock);
        END IF;
    ELSIF p_mode <> 'reject' THEN
        INSERT INTO {schema}lch_queue AS q (thread_id, run_id, urgent, expires_at)
            VALUES (p_thread, p_run, p_mode = 'interrupt', clock + p_lease)
            ON CONFLICT (run_id) DO UPDATE SET expires_at = EXCLUDED.expires_at;
        IF p_mode = 'interrupt' AND held.stop IS NULL THEN
            UPDATE {schema}lch_leases l SET stop = 'a newer run was told to interrupt it'
                WHERE l.thread_id = held.thread_id;
        END IF;
    END IF;
END $$;
CREATE FUNCTION {schema}lch_release(p_thread text, p_run text, p_finished boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE {schema}lch_leases SET run_id = NULL, holder = NULL, expires_at = NULL, stop = NULL,
        settled_checkpoint_id = (
            SELECT t.last_checkpoint_id FROM {schema}lch_threads t
            WHERE t.thread_id = p_thread AND t.status = 'idle' AND p_finished)
        WHERE thread_id = p_thread AND run_id = p_run;
    IF NOT FOUND THEN                              -- who was granted the lease is in the queue no more
        DELETE FROM {schema}lch_queue WHERE run_id = p_run;
    END IF;
END $$;
"""

# Locks leases before threads, as lch_admit does. A run under way loses its lease in the same commit, and what it
# sends later is refused.
_DELETE = """
CREATE FUNCTION {schema}lch_delete(p_threads text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE {schema}lch_leases SET run_id = NULL, holder = NULL, expires_at = NULL, stop = NULL, epoch = epoch + 1
        WHERE thread_id = ANY (p_threads);
    PERFORM FROM {schema}lch_threads WHERE thread_id = ANY (p_threads) ORDER BY thread_id FOR UPDATE;
    INSERT INTO {schema}lch_threads AS known (thread_id, user_id, deleted_at)
        SELECT thread, 'default', clock_timestamp() FROM unnest(p_threads) AS thread
        ON CONFLICT (thread_id) DO UPDATE SET deleted_at = clock_timestamp(), title = NULL, status = 'idle',
            checkpoints = 0, turns = 0, last_checkpoint_id = NULL, last_turn_id = NULL;
    DELETE FROM {schema}checkpoints WHERE thread_id = ANY (p_threads);
    DELETE FROM {schema}checkpoint_blobs WHERE thread_id = ANY (p_threads);
    DELETE FROM {schema}checkpoint_writes WHERE thread_id = ANY (p_threads);
    DELETE FROM {schema}lch_bodies WHERE thread_id = ANY (p_threads);
    DELETE FROM {schema}lch_turns WHERE thread_id = ANY (p_threads);
    DELETE FROM {schema}lch_answers WHERE thread_id = ANY (p_threads);
    DELETE FROM {schema}lch_effects WHERE thread_id = ANY (p_threads);
END $$;
CREATE FUNCTION {schema}lch_copy(p_source text, p_target text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO {schema}checkpoints
            (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata)
        SELECT p_target, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata
        FROM {schema}checkpoints WHERE thread_id = p_source;
    INSERT INTO {schema}checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
        SELECT p_target, checkpoint_ns, channel, version, type, blob
        FROM {schema}checkpoint_blobs WHERE thread_id = p_source;
    INSERT INTO {schema}checkpoint_writes
            (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
        SELECT p_target, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob
        FROM {schema}checkpoint_writes WHERE thread_id = p_source;
    INSERT INTO {schema}lch_bodies (thread_id, name, type, body)
        SELECT p_target, name, type, body FROM {schema}lch_bodies WHERE thread_id = p_source ON CONFLICT DO NOTHING;
    INSERT INTO {schema}lch_threads AS old
            (thread_id, user_id, title, status, checkpoints, turns, last_checkpoint_id)
        SELECT p_target, user_id, title, status, checkpoints, turns, last_checkpoint_id
        FROM {schema}lch_threads WHERE thread_id = p_source AND deleted_at IS NULL
        ON CONFLICT (thread_id) DO UPDATE SET user_id = EXCLUDED.user_id, title = EXCLUDED.title,
            status = EXCLUDED.status, checkpoints = EXCLUDED.checkpoints, turns = EXCLUDED.turns,
            last_checkpoint_id = EXCLUDED.last_checkpoint_id, updated_at = clock_timestamp(),
            created_at = clock_timestamp(), deleted_at = NULL
            WHERE old.deleted_at IS NOT NULL;
END $$;
"""

STEPS: Final = (_TABLES, _BODIES, _ADMIT, _ACQUIRE, _DELETE)
"""Numbered migrations: the position is the version, so a step that was released is never changed."""
