"""The tables of a SQLite file, and what tells it from other programs' files."""

from __future__ import annotations

from typing import Final

APPLICATION_ID: Final = int.from_bytes(b"lchs")
"""What tells our files from those of other programs."""

MIGRATIONS: Final = (
    """
    -- What is known of a session, or, when it is erased or moved, what is remembered of it. Times in microseconds.
    CREATE TABLE sessions (
        id INTEGER PRIMARY KEY,
        user_id BLOB NOT NULL,
        session_id BLOB NOT NULL,
        state TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        expires_at INTEGER,
        archived INTEGER NOT NULL,
        description BLOB NOT NULL,
        version INTEGER NOT NULL,
        count INTEGER NOT NULL,
        erased_seq INTEGER NOT NULL,
        UNIQUE (user_id, session_id)
    );
    CREATE INDEX sessions_by_user ON sessions (user_id, updated_at) WHERE state = 'alive';
    CREATE INDEX sessions_by_shelf ON sessions (user_id, archived, updated_at) WHERE state = 'alive';
    CREATE INDEX sessions_by_age ON sessions (updated_at) WHERE state = 'alive';
    CREATE INDEX sessions_by_end ON sessions (expires_at) WHERE expires_at IS NOT NULL;

    -- The highest number ever given in a lane; id is sessions.id << 4 | lane.
    CREATE TABLE lanes (id INTEGER PRIMARY KEY, last_seq INTEGER NOT NULL);

    -- place is lanes.id << 30 | seq, so that a lane lies together, in order, and needs no second index.
    CREATE TABLE records (
        place INTEGER PRIMARY KEY,
        id BLOB NOT NULL,
        created_at INTEGER NOT NULL,
        body BLOB NOT NULL
    );
    CREATE UNIQUE INDEX records_by_id ON records (place >> 30, id);
    """,
)
"""Numbered by their position; only ever added to."""
