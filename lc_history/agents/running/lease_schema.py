"""The functions that take a thread and give it back, each one round trip, and what they say of its last run."""

from __future__ import annotations

from typing import Final

# Takes the thread back to where it stood before a run. What the run's tasks had finished at that very checkpoint stays
# finished, as after a crash, unless nothing was open there: then all that is written there is the run's.
_ROLL_BACK = """
CREATE FUNCTION {schema}lch_roll_back(held {schema}lch_leases) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    base text := coalesce(held.base_checkpoint_id, '');
    was_settled boolean := base = coalesce(held.settled_checkpoint_id, '');
    steps bigint;
    inputs bigint;
BEGIN
    WITH gone AS (
        DELETE FROM {schema}checkpoints c WHERE c.thread_id = held.thread_id AND c.checkpoint_id > base
        RETURNING c.checkpoint_ns AS ns, c.metadata ->> 'source' AS source)
    SELECT count(*) FILTER (WHERE ns = ''), count(*) FILTER (WHERE ns = '' AND source = 'input')
        INTO steps, inputs FROM gone;
    DELETE FROM {schema}checkpoint_writes w WHERE w.thread_id = held.thread_id
        AND (w.checkpoint_id > base OR was_settled AND w.checkpoint_id = base);
    UPDATE {schema}lch_threads t SET checkpoints = t.checkpoints - steps, turns = t.turns - inputs,
        last_checkpoint_id = held.base_checkpoint_id, last_turn_id = held.base_turn_id,
        status = CASE WHEN was_settled THEN 'idle'
            WHEN {schema}lch_said(held.thread_id, base) = 'interrupted' THEN 'interrupted' ELSE 'failed' END
        WHERE t.thread_id = held.thread_id;
    UPDATE {schema}lch_turns o SET checkpoint_id = base
        WHERE o.thread_id = held.thread_id AND o.turn_id = held.base_turn_id AND o.checkpoint_id > base;
    UPDATE {schema}lch_turns o SET rolled_back = true, updated_at = clock_timestamp()
        WHERE o.thread_id = held.thread_id AND o.checkpoint_id > base;
    INSERT INTO {schema}lch_turns (thread_id, turn_id, checkpoint_id, rolled_back)
        SELECT held.thread_id, held.turn_id, '', true WHERE held.turn_id IS DISTINCT FROM held.base_turn_id
        AND held.turn_id IS NOT NULL ON CONFLICT DO NOTHING;
END $$;
"""

# Tells who holds the thread, or takes it: first come, first served; nobody waits inside. A row that a write has
# locked counts as busy. The commit need not reach the disk: a lease that a crash undoes refuses its writes.
_ACQUIRE = """
CREATE FUNCTION {schema}lch_acquire(
    p_thread text, p_user text, p_run text, p_holder text, p_lease interval, p_mode text, p_turn text,
    OUT granted boolean, OUT holder text, OUT ahead bigint, OUT base text,
    OUT turn_checkpoint text, OUT rolled_back boolean, OUT last_turn text, OUT settled boolean, OUT paused boolean
) LANGUAGE plpgsql AS $$
DECLARE
    held {schema}lch_leases;
    mine {schema}lch_queue;
    queued boolean;
    died boolean;
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
    base := held.base_checkpoint_id;
    IF p_turn IS NOT NULL THEN
        SELECT t.checkpoint_id, t.rolled_back INTO turn_checkpoint, rolled_back FROM {schema}lch_turns t
            WHERE t.thread_id = p_thread AND t.turn_id = p_turn;
    END IF;
    SELECT t.last_turn_id INTO last_turn FROM {schema}lch_threads t WHERE t.thread_id = p_thread;
    granted := coalesce(held.run_id = p_run, false);
    IF granted THEN                                -- the answer was lost with its connection
        settled := coalesce(held.settled_checkpoint_id = base, base IS NULL);
        paused := coalesce(held.paused_checkpoint_id = base, false);
        RETURN;
    ELSIF held.turn_id = p_turn AND p_mode <> 'reject' THEN
        p_mode := 'enqueue';                       -- a retry does not stop what it retries
    END IF;
    IF held.thread_id IS NOT NULL AND (p_mode = 'rollback' OR
        (ahead = 0 AND (held.run_id IS NULL OR held.expires_at <= clock))) THEN
        died := coalesce(held.expires_at <= clock, false);
        IF died THEN
            UPDATE {schema}lch_threads t SET status = {schema}lch_standing(t, held) WHERE t.thread_id = p_thread;
            held.settled_checkpoint_id := NULL;
        ELSIF held.run_id IS NOT NULL THEN
            PERFORM {schema}lch_roll_back(held);
            last_turn := held.base_turn_id;
            SELECT t.checkpoint_id, t.rolled_back INTO turn_checkpoint, rolled_back FROM {schema}lch_turns t
                WHERE t.thread_id = p_thread AND t.turn_id = p_turn;
        END IF;
        granted := true;
        SELECT max(c.checkpoint_id) INTO base FROM {schema}checkpoints c
            WHERE c.thread_id = p_thread AND c.checkpoint_ns = '';
        UPDATE {schema}lch_leases l SET epoch = held.epoch + 1, run_id = p_run, holder = p_holder, turn_id = p_turn,
            base_checkpoint_id = base, base_turn_id = last_turn, acquired_at = clock,
            settled_checkpoint_id = held.settled_checkpoint_id, expires_at = clock + p_lease,
            stop = NULL WHERE l.thread_id = p_thread;
        settled := coalesce(held.settled_checkpoint_id = base, base IS NULL);
        paused := coalesce(held.paused_checkpoint_id = base, false);
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
"""

# How a run left its thread: it "ended" with nothing left to do, or may have "paused" where it was told to; it "updated"
# the state; it "broke" off on the way; or it left the thread "untouched", and all stays said that was said before.
# Tells whether the run was undone before it could say so: whoever waits for it is not to hear that it has ended.
_RELEASE = """
CREATE FUNCTION {schema}lch_release(p_thread text, p_run text, p_outcome text, p_written text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    known {schema}lch_threads;
    said text;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    SELECT * INTO known FROM {schema}lch_threads t WHERE t.thread_id = p_thread;
    said := CASE WHEN {schema}lch_said(p_thread, known.last_checkpoint_id) = 'interrupted' THEN 'interrupted'
        WHEN p_outcome = 'broke' THEN 'failed' ELSE 'idle' END;
    UPDATE {schema}lch_leases SET run_id = NULL, holder = NULL, expires_at = NULL, stop = NULL,
        settled_checkpoint_id = CASE WHEN p_outcome = 'untouched' THEN settled_checkpoint_id
            WHEN p_outcome = 'ended' AND said = 'idle' THEN known.last_checkpoint_id END,
        paused_checkpoint_id = CASE p_outcome WHEN 'untouched' THEN paused_checkpoint_id
            WHEN 'paused' THEN known.last_checkpoint_id END
        WHERE thread_id = p_thread AND run_id = p_run;
    IF NOT FOUND THEN                              -- who was granted the lease is in the queue no more
        DELETE FROM {schema}lch_queue WHERE run_id = p_run;
        RETURN p_written IS NOT NULL AND NOT EXISTS (SELECT FROM {schema}checkpoints
            WHERE thread_id = p_thread AND checkpoint_ns = '' AND checkpoint_id = p_written);
    ELSIF p_outcome <> 'untouched' AND known.status <> said THEN
        UPDATE {schema}lch_threads t SET status = said WHERE t.thread_id = p_thread;
    END IF;
    RETURN false;
END $$;
"""

LEASING: Final = _ROLL_BACK + _ACQUIRE + _RELEASE
