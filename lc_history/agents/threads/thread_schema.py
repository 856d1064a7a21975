"""The functions that delete and copy whole threads, with everything that is kept of them."""

from __future__ import annotations

from typing import Final

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
"""

# The lease of the new thread stays locked, so that nobody begins a run there meanwhile, and one that died there and
# wakes up later can write nothing. A run that is under way in the
# old one has died in the copy, at the moment of the snapshot.
_COPY = """
CREATE FUNCTION {schema}lch_copy(p_source text, p_target text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO {schema}lch_leases (thread_id) VALUES (p_target) ON CONFLICT DO NOTHING;
    PERFORM FROM {schema}lch_leases WHERE thread_id = p_target FOR UPDATE;
    IF EXISTS (SELECT FROM {schema}lch_threads WHERE thread_id = p_target AND deleted_at IS NULL)
        OR EXISTS (SELECT FROM {schema}checkpoints WHERE thread_id = p_target)
        OR EXISTS (SELECT FROM {schema}lch_leases WHERE thread_id = p_target AND expires_at > clock_timestamp())
    THEN
        RAISE EXCEPTION USING ERRCODE = 'LCH06', MESSAGE = p_source;
    END IF;
    UPDATE {schema}lch_leases SET run_id = NULL, holder = NULL, expires_at = NULL, stop = NULL, epoch = epoch + 1,
        settled_checkpoint_id = NULL, paused_checkpoint_id = NULL WHERE thread_id = p_target;
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
        SELECT p_target, name, type, body FROM {schema}lch_bodies WHERE thread_id = p_source;
    INSERT INTO {schema}lch_threads AS old
            (thread_id, user_id, title, status, checkpoints, turns, last_checkpoint_id)
        SELECT p_target, t.user_id, t.title,
            CASE {schema}lch_standing(t, l) WHEN 'busy' THEN 'failed' ELSE {schema}lch_standing(t, l) END,
            t.checkpoints, t.turns, t.last_checkpoint_id
        FROM {schema}lch_threads t LEFT JOIN {schema}lch_leases l USING (thread_id)
        WHERE t.thread_id = p_source AND t.deleted_at IS NULL
        ON CONFLICT (thread_id) DO UPDATE SET user_id = EXCLUDED.user_id, title = EXCLUDED.title,
            status = EXCLUDED.status, checkpoints = EXCLUDED.checkpoints, turns = EXCLUDED.turns,
            last_checkpoint_id = EXCLUDED.last_checkpoint_id, updated_at = clock_timestamp(),
            created_at = clock_timestamp(), deleted_at = NULL
            WHERE old.deleted_at IS NOT NULL;
END $$;
"""

WHOLE_THREADS: Final = _DELETE + _COPY
