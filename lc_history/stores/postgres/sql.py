"""The SQL of the PostgreSQL store: two tables, and one statement for each verb that is used in every turn.

A stream is one lane of one session: the session's id and the lane's number in one bigint. Where a stream is looked
up by message id, it is written ``stream + 0``, for which only the index of ids exists; a planner that has no
statistics yet would else prefer the primary key and read the whole stream. The order of the columns in the primary
key of the sessions is there for the same reason.
"""

# ruff: noqa: S608 - what is put into these texts are names of this module; what comes from outside is a parameter
from __future__ import annotations

from functools import cache, lru_cache
from typing import Final, Literal

from lc_history.model import LANES, MESSAGES, Lane

LANE_NUMBERS: Final[dict[Lane, int]] = {
    "messages": 0,
    "summaries": 1,
    "anchors": 2,
    "memory": 3,
    "audit": 4,
    "quarantine": 5,
}
"""Stored: a lane's number never changes, and there is room for sixteen."""

HIGHEST: Final = 2**63 - 1
"""No record has this number."""

STEPS: Final = [
    """
    CREATE TABLE {schema}lc_history_sessions (
        id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
        version bigint NOT NULL DEFAULT (extract(epoch FROM now()) * 1000000)::bigint, -- which no former life has had
        messages bigint NOT NULL DEFAULT 0,   -- the last number given in each lane
        summaries bigint NOT NULL DEFAULT 0,
        anchors bigint NOT NULL DEFAULT 0,
        memory bigint NOT NULL DEFAULT 0,
        audit bigint NOT NULL DEFAULT 0,
        quarantine bigint NOT NULL DEFAULT 0,
        count bigint NOT NULL DEFAULT 0,
        erased_seq bigint NOT NULL DEFAULT 0,
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        expires_at timestamptz,
        alive boolean NOT NULL,               -- else only what is remembered of a session: how far its numbers came
        moved boolean NOT NULL DEFAULT false,
        archived boolean NOT NULL DEFAULT false,
        user_id text COLLATE "C" NOT NULL,
        session_id text COLLATE "C" NOT NULL,
        full_user_id text,                    -- where it is too long for an index
        full_session_id text,
        description bytea NOT NULL DEFAULT '',
        PRIMARY KEY (session_id, user_id)
    );
    CREATE INDEX lc_history_sessions_listing ON {schema}lc_history_sessions (user_id, archived, updated_at, id)
        WHERE alive;
    CREATE INDEX lc_history_sessions_scan ON {schema}lc_history_sessions (updated_at, id) WHERE alive;
    CREATE INDEX lc_history_sessions_expiry ON {schema}lc_history_sessions (expires_at) WHERE expires_at IS NOT NULL;

    CREATE TABLE {schema}lc_history_records (
        stream bigint NOT NULL,               -- sessions.id * 16 + the lane's number
        seq bigint NOT NULL,
        created_at timestamptz NOT NULL,
        id text COLLATE "C" NOT NULL,
        full_id text,                         -- where it is too long for an index
        body bytea NOT NULL,
        PRIMARY KEY (stream, seq)
    );
    CREATE UNIQUE INDEX lc_history_records_ids ON {schema}lc_history_records ((stream + 0), id)
    """,
]
"""What `Postgres.migrate` runs: only ever added to."""

_UNEXPIRED: Final = "(expires_at IS NULL OR expires_at > now())"
_LIVING: Final = f"alive AND {_UNEXPIRED}"
_NAMED: Final = "session_id = %(session)b::text AND user_id = %(user)b::text"
# Not "alive", for which the index of a user's listing would do as well: a planner without statistics prefers it.
_NAMED_LIVING: Final = f"{_NAMED} AND alive >= true AND {_UNEXPIRED}"
_STATE: Final = (
    "id, version, alive, moved, archived, erased_seq, count, created_at, updated_at, expires_at, description, "
    f"{', '.join(LANES)}, clock_timestamp()"
)
_INFO: Final = (
    "coalesce(full_user_id, user_id), coalesce(full_session_id, session_id), "
    "messages, count, created_at, updated_at, expires_at, archived, description, version, id"
)


_END: Final = "now() + %(ttl)b::interval"
_ANSWER: Final = "SELECT NULL AS id, last_seq, created FROM head UNION ALL SELECT id, seq, false FROM known"


@cache
def append(
    lane: Lane,
    size: int,
    *,
    expiry: Literal["fixed", "sliding"] | None,
    shortens: bool,
    create: bool,
    expected: bool,
    since: bool,
) -> str:
    """Return the statement of a turn: it appends all entries, or none if an id or a condition stands against it.

    It answers one row with the last number given; or the numbers of the ids that were there; or nothing. Its rows
    are found in a snapshot from before it waited for the session's lock: an id that another writer has added
    meanwhile breaks the index of ids, and the whole statement with it.
    """
    n = LANE_NUMBERS[lane]
    ids = ", ".join(f"%(id{place})b::text" for place in range(size))
    rows = ", ".join(f"({place + 1}, %(id{place})b::text, %(body{place})b::bytea)" for place in range(size))
    condition = "NOT EXISTS (SELECT FROM known)"
    allowed = f"s.alive >= true AND {_UNEXPIRED.replace('expires_at', 's.expires_at')}"
    allowed += _conditions(lane, expected, since, None if shortens else expiry)
    change = _change(lane, size, expiry)
    update = f"UPDATE {{schema}}lc_history_sessions AS s SET {change} WHERE {_NAMED} AND {condition} AND {allowed}"
    insert = f"""INSERT INTO {{schema}}lc_history_sessions AS s
            (user_id, session_id, alive, {lane}, count, created_at, updated_at, expires_at)
        SELECT %(user)b::text, %(session)b::text, true, {size}, {size if lane == MESSAGES else 0}, now(), now(),
            {_END if expiry else "NULL"} WHERE {condition}
        ON CONFLICT (session_id, user_id) DO UPDATE SET {change} WHERE {allowed}"""
    created = "s.xmax = 0" if create else "false"  # a row that met a conflict carries the lock it was updated under
    return f"""
    WITH known AS MATERIALIZED (
        SELECT id, seq FROM {{schema}}lc_history_records WHERE id IN ({ids}) AND stream + 0 = (
            SELECT id * 16 + {n} FROM {{schema}}lc_history_sessions WHERE {_NAMED_LIVING})
    ), head AS (
        {insert if create else update}
        RETURNING s.id, s.{lane} AS last_seq, s.updated_at, {created} AS created
    ), added AS (
        INSERT INTO {{schema}}lc_history_records (stream, seq, created_at, id, body)
        SELECT head.id * 16 + {n}, head.last_seq - {size} + v.place, head.updated_at, v.id, v.body
        FROM head, (VALUES {rows}) AS v (place, id, body)
    )
    {_ANSWER}
    """


@cache
def or_fail(statement: str, size: int) -> tuple[str, str]:
    """Return the tables of `append`, and what to select from them: it divides by zero unless all stand there.

    Whoever sends others along, and cannot look at its answer before they are committed, has all of them refused.
    """
    tables = statement.replace(_ANSWER, "").strip().removeprefix("WITH ")
    return tables, f"1 / (EXISTS (SELECT FROM head) OR (SELECT count(*) FROM known) = {size})::int"


def _change(lane: Lane, size: int, expiry: Literal["fixed", "sliding"] | None) -> str:
    """Return what a turn of so many entries changes in the session."""
    change = f"""
        version = s.version + 1, {lane} = s.{lane} + {size}, updated_at = greatest(s.updated_at, clock_timestamp())"""
    if lane == MESSAGES:
        change += f", count = s.count + {size}"
    if expiry is not None:
        change += f", expires_at = {_END if expiry == 'sliding' else f'coalesce(s.expires_at, {_END})'}"
    return change


def _conditions(lane: Lane, expected: bool, since: bool, kept: Literal["fixed", "sliding"] | None) -> str:
    """Return what must hold of the session; kept: the kind of expiry that must not end it sooner."""
    return "".join(
        (
            f" AND s.{lane} = %(expected)b::bigint" if expected else "",
            " AND s.erased_seq <= %(since)b::bigint" if since else "",
            " AND s.expires_at IS NOT NULL" if kept == "fixed" else "",
            f" AND s.expires_at <= {_END}" if kept == "sliding" else "",
        )
    )


@lru_cache(maxsize=200)
def read(lane: Lane, *, backwards: bool, before: bool, limit: int | None) -> str:
    """Return the statement that reads a range of a lane: a row for each record, or one of NULLs.

    The limit is part of the text: as a parameter it would have the server plan anew for each read. A limited range
    compares stream and number as one: where sessions are short on average, a planner that sees ``stream =`` expects
    fewer rows than the limit, and would rather sort the whole of a long session than walk the index.
    """
    stream = f"s.id * 16 + {LANE_NUMBERS[lane]}"
    highest = "%(before)b::bigint" if before else f"{HIGHEST}"
    if limit is None:
        records = f"""stream = {stream} AND seq > %(after)b::bigint AND seq < {highest}
        ORDER BY seq {"DESC" if backwards else ""} OFFSET 0"""
    else:
        records = f"""(stream, seq) > ({stream}, %(after)b::bigint) AND (stream, seq) < ({stream}, {highest})
        ORDER BY {"stream DESC, seq DESC" if backwards else "stream, seq"} LIMIT {limit:d}"""
    return f"""
    SELECT r.seq, r.id, r.body, r.created_at, s.last_seq
    FROM (SELECT id, {lane} AS last_seq FROM {{schema}}lc_history_sessions WHERE {_NAMED} AND {_UNEXPIRED}) AS s
    LEFT JOIN LATERAL (
        SELECT seq, coalesce(full_id, id) AS id, body, created_at FROM {{schema}}lc_history_records
        WHERE {records}
    ) AS r ON true
    """


@cache
def replace(lane: Lane) -> str:
    """Return the statement that replaces the expected body and tells how many it has."""
    record = f"r.stream = s.id * 16 + {LANE_NUMBERS[lane]} AND r.seq = %(seq)b::bigint AND r.body = %(expected)b::bytea"
    return f"""
    WITH s AS (
        UPDATE {{schema}}lc_history_sessions AS s SET version = version + 1 WHERE {_NAMED_LIVING}
            AND EXISTS (SELECT FROM {{schema}}lc_history_records AS r WHERE {record})
        RETURNING id
    ), done AS (
        UPDATE {{schema}}lc_history_records AS r SET body = %(body)b::bytea FROM s WHERE {record} RETURNING 1
    )
    SELECT count(*) FROM done
    """


@cache
def listing(archived: bool | None, *, after: bool) -> str:
    """Return the statement of a page of a user's sessions; each half of the index is read in its order.

    All four columns of the index are compared and ordered by as one: a planner that sees ``user_id =`` would sort all
    sessions of a user, or walk those of everybody by time, where it takes a user to have few or most of them.
    """
    place = "%(time)b::timestamptz, %(id)b::bigint" if after else f"'infinity'::timestamptz, {HIGHEST}"
    halves = [
        f"""(SELECT {_INFO} FROM {{schema}}lc_history_sessions
        WHERE (user_id, archived) >= (%(user)b::text, {half}) AND {_LIVING}
            AND (user_id, archived, updated_at, id) < (%(user)b::text, {half}, {place})
        ORDER BY user_id DESC, archived DESC, updated_at DESC, id DESC LIMIT %(limit)b::bigint)"""
        for half in ((False, True) if archived is None else (archived,))
    ]
    order = "ORDER BY updated_at DESC, id DESC LIMIT %(limit)b::bigint"
    return f"SELECT * FROM ({' UNION ALL '.join(halves)}) AS s {order}"


@cache
def scan(*, idle: bool, after: bool) -> str:
    """Return the statement of a page of everybody's sessions."""
    return f"""
    SELECT {_INFO} FROM {{schema}}lc_history_sessions WHERE {_LIVING}
        {"AND (updated_at, id) > (%(time)b::timestamptz, %(id)b::bigint)" if after else ""}
        {"AND updated_at <= %(idle)b::timestamptz" if idle else ""}
    ORDER BY updated_at, id LIMIT %(limit)b::bigint
    """


DESCRIBED: Final = f"""
    SELECT {_INFO} FROM unnest(%(sessions)b::text[], %(users)b::text[]) AS asked (session, "user")
    JOIN {{schema}}lc_history_sessions ON session_id = asked.session AND user_id = asked."user"
    WHERE {_LIVING}
"""

DESCRIBE: Final = f"SELECT {_INFO} FROM {{schema}}lc_history_sessions WHERE {_NAMED_LIVING}"

LOCK: Final = f"SELECT {_STATE} FROM {{schema}}lc_history_sessions WHERE {_NAMED} FOR UPDATE"

LOCK_OR_BEGIN: Final = f"""
    INSERT INTO {{schema}}lc_history_sessions AS s
        (user_id, session_id, full_user_id, full_session_id, alive, created_at, updated_at, expires_at)
    SELECT %(user)b::text, %(session)b::text, %(full_user)b::text, %(full_session)b::text, false, now(), now(), now()
    ON CONFLICT (session_id, user_id) DO UPDATE SET version = s.version
    RETURNING {_STATE}
"""
"""Takes the lock of a session; of one that was not there, as of one that has expired."""

SAVE: Final = f"""
    UPDATE {{schema}}lc_history_sessions SET
        version = %(version)b::bigint, alive = %(alive)b, moved = %(moved)b, archived = %(archived)b,
        erased_seq = %(erased_seq)b::bigint, count = %(count)b::bigint, created_at = %(created_at)b::timestamptz,
        updated_at = %(updated_at)b::timestamptz, expires_at = %(expires_at)b::timestamptz,
        description = %(description)b::bytea, {", ".join(f"{lane} = %({lane})b::bigint" for lane in LANES)}
    WHERE {_NAMED}
"""

KNOWN: Final = """
    SELECT coalesce(full_id, id), seq FROM {schema}lc_history_records
    WHERE stream + 0 = %(stream)b::bigint AND id = ANY(%(ids)b::text[])
"""

ADD: Final = """
    COPY {schema}lc_history_records (stream, seq, created_at, id, full_id, body) FROM STDIN (FORMAT BINARY)
"""

TRIM: Final = "DELETE FROM {schema}lc_history_records WHERE stream = %(stream)b::bigint AND seq <= %(through)b::bigint"

CLEAR: Final = """
    DELETE FROM {schema}lc_history_records
    WHERE stream BETWEEN %(id)b::bigint * 16 AND %(id)b::bigint * 16 + 15
"""

SWEEP: Final = """
    WITH gone AS (
        DELETE FROM {schema}lc_history_sessions WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM {schema}lc_history_sessions WHERE expires_at < now() - interval '1 minute'
            ORDER BY expires_at LIMIT 8 FOR UPDATE SKIP LOCKED
        )) RETURNING id
    )
    DELETE FROM {schema}lc_history_records AS r USING gone WHERE r.stream BETWEEN gone.id * 16 AND gone.id * 16 + 15
"""
"""Deletes some of what expired or was erased long ago: the minute lets every statement end that still saw it."""
