"""The tables of a journal's file, and how those of an older program become today's."""

import sqlite3
from collections.abc import Container
from pathlib import Path

from concertmaster.errors import StoreError
from concertmaster.store.sqlite.errors import NO_JOURNAL

OFFERED = """CASE
    WHEN json_valid(data) THEN nullif(json_extract(data, '$.result.fingerprint'), '')
END"""
"""What a subtask's end says that others may take over. An index goes by these very words."""

ENDED = """EXISTS (
    SELECT 1 FROM events
    WHERE events.run_id = runs.run_id AND events.epoch = runs.epoch AND kind = 'run-ended'
)"""

_LAST = "(SELECT coalesce(max(seq), 0) FROM events WHERE events.run_id = runs.run_id)"

SELECT_ROWS = f"SELECT run_id, created_at, epoch, owner, principal, {_LAST} FROM runs"  # noqa: S608

_COST = "(SELECT total(usd) FROM events WHERE events.run_id = runs.run_id AND usd IS NOT NULL)"

SELECT_RESERVED = f"""
    SELECT owner, max(0, coalesce(budget_usd, 0) - {_COST}), EXISTS (
        SELECT 1 FROM events WHERE events.run_id = runs.run_id
        AND events.epoch = runs.epoch AND kind = 'cancel-requested'
    ) FROM runs
    WHERE principal = ? AND run_id <> ? AND NOT {ENDED}
"""  # noqa: S608
"""The owner of each unfinished run of a principal, what is left of its budget, and whether it is to
stop."""

SELECT_SPENT = """
    SELECT total(usd) FROM runs JOIN events USING (run_id)
    WHERE principal = ? AND at >= ? AND usd IS NOT NULL
"""
"""What model calls of a principal's runs cost since a time."""

SELECT_COST = "SELECT total(usd) FROM events WHERE run_id = ? AND usd IS NOT NULL"
"""What a run has cost."""

SELECT_OFFERING = f"""
    SELECT run_id FROM runs JOIN events USING (run_id)
    WHERE kind = 'subtask-finished' AND {OFFERED} = ? AND at >= ? AND principal = ?
    ORDER BY at DESC LIMIT ?
"""  # noqa: S608

SELECT_OUTLINES = """
    SELECT run_id, version, CASE
        WHEN kind = 'call-finished' AND json_valid(data)
        THEN json_set(data, '$.reply.text', '', '$.reply.tool_calls', json('[]'))
        ELSE data
    END
    FROM events
    WHERE run_id IN (SELECT value FROM json_each(?)) AND kind NOT IN ('call-started', 'tool-called')
    ORDER BY run_id, seq
"""

LET_GO = "UPDATE runs SET owner = '-' WHERE run_id = ? AND epoch = ? AND owner = ?"
"""No process has this id, so that none is taken for the owner."""

INSERT_EVENT = """
    INSERT INTO events (run_id, seq, epoch, name, kind, version, at, data, usd)
    SELECT
        run_id,
        (SELECT coalesce(max(seq), 0) + 1 FROM events WHERE events.run_id = runs.run_id),
        epoch, :name, :kind, :version, :at, :data, :usd
    FROM runs
    WHERE run_id = :run_id AND epoch = coalesce(:epoch, epoch)
"""

SELECT_SIZES = """
    SELECT
        run_id,
        (SELECT sum(length(CAST(data AS BLOB))) FROM events WHERE events.run_id = runs.run_id)
        + (
            SELECT coalesce(sum(length(CAST(text AS BLOB))), 0)
            FROM run_texts JOIN texts USING (digest)
            WHERE run_texts.run_id = runs.run_id
        )
    FROM runs
"""

SELECT_STANDING = """
    SELECT runs.run_id, runs.epoch, version, data
    FROM runs LEFT JOIN events
    ON events.run_id = runs.run_id AND events.epoch = runs.epoch
    AND kind IN ('cancel-requested', 'tool-answered')
    WHERE runs.run_id IN (SELECT value FROM json_each(?))
    ORDER BY seq
"""

DELETE_RUN = (
    "DELETE FROM events WHERE run_id = ?",
    "DELETE FROM run_texts WHERE run_id = ?",
    "DELETE FROM runs WHERE run_id = ?",
)


_STEPS = (
    (
        "CREATE TABLE meta (schema_version INTEGER NOT NULL)",
        "INSERT INTO meta VALUES (1)",
        """CREATE TABLE runs (
            run_id TEXT PRIMARY KEY,
            created_at REAL NOT NULL,
            epoch INTEGER NOT NULL,
            owner TEXT NOT NULL
        )""",
        "CREATE INDEX runs_by_time ON runs (created_at)",
        """CREATE TABLE events (
            run_id TEXT NOT NULL,
            seq INTEGER NOT NULL,
            epoch INTEGER NOT NULL,
            name TEXT NOT NULL,
            kind TEXT NOT NULL,
            version INTEGER NOT NULL,
            at REAL NOT NULL,
            data TEXT NOT NULL,
            PRIMARY KEY (run_id, seq),
            UNIQUE (run_id, epoch, name)
        )""",
        "CREATE TABLE texts (digest TEXT PRIMARY KEY, text TEXT NOT NULL)",
    ),
    (
        "ALTER TABLE runs ADD COLUMN idempotency_key TEXT",
        "CREATE UNIQUE INDEX runs_by_key ON runs (idempotency_key)",
        """CREATE TABLE run_texts (
            run_id TEXT NOT NULL,
            digest TEXT NOT NULL,
            PRIMARY KEY (run_id, digest)
        ) WITHOUT ROWID""",
        "CREATE INDEX runs_by_text ON run_texts (digest)",
        """INSERT OR IGNORE INTO run_texts
            SELECT run_id, json_extract(value, '$.digest')
            FROM events, json_each(data, '$.request.inputs')
            WHERE kind = 'run-started'""",
    ),
    (f"CREATE INDEX events_by_offer ON events ({OFFERED}, at) WHERE kind = 'subtask-finished'",),
    (
        "ALTER TABLE runs ADD COLUMN principal TEXT",
        "ALTER TABLE runs ADD COLUMN budget_usd REAL",
        "ALTER TABLE events ADD COLUMN usd REAL",
        """UPDATE runs SET principal = (
            SELECT coalesce(json_extract(data, '$.origin.principal'), '')
            FROM events WHERE events.run_id = runs.run_id AND seq = 1 AND json_valid(data)
        ), budget_usd = coalesce((
            SELECT coalesce(
                json_extract(data, '$.budget_usd'),
                json_extract(data, '$.request.limits.budget_usd')
            ) AS budget
            FROM events
            WHERE events.run_id = runs.run_id AND kind IN ('run-started', 'run-resumed')
            AND json_valid(data) AND budget IS NOT NULL
            ORDER BY seq DESC LIMIT 1
        ), 2.0)""",
        """UPDATE events SET usd = json_extract(
            data, CASE kind WHEN 'call-finished' THEN '$.reply.usage.usd' ELSE '$.usage.usd' END
        ) WHERE kind IN ('call-finished', 'call-failed') AND json_valid(data)""",
        "CREATE INDEX runs_by_principal ON runs (principal, created_at)",
        "CREATE INDEX events_by_cost ON events (run_id, at, usd) WHERE usd IS NOT NULL",
    ),
)
"""What makes each layout of the one before it."""

SHORTENABLE = "PRAGMA auto_vacuum = INCREMENTAL"
"""Lets a file be shortened in steps; takes effect on a new file, or with the next VACUUM."""

LAYOUT = len(_STEPS)
"""Version of the tables."""


def lay_out(writer: sqlite3.Connection, file: Path) -> None:
    """Create the tables in a new file, or bring those of an older program up to date.

    Raises:
        StoreError: the file is no journal, or one of a newer program; it stays as it was.
    """
    before = _layout_of(writer, file)
    if before == LAYOUT:
        return
    if before == 0:
        writer.execute(SHORTENABLE)
    with writer:
        writer.execute("BEGIN IMMEDIATE")
        for statements in _STEPS[before:]:
            for statement in statements:
                writer.execute(statement)
        writer.execute("UPDATE meta SET schema_version = ?", (LAYOUT,))


def _layout_of(writer: sqlite3.Connection, file: Path) -> int:
    tables = {name for (name,) in writer.execute("SELECT name FROM sqlite_master")}
    if not tables:
        return 0
    found = _version(writer, tables)
    if found is None:
        raise StoreError(NO_JOURNAL.format(file=file))
    if found > LAYOUT:
        raise StoreError(
            f"{file} was written by a newer Concertmaster (layout {found}; this one knows "
            f"{LAYOUT}). Install the newer one, or set CONCERTMASTER_DATA_FOLDER to another "
            "folder."
        )
    return found


def _version(writer: sqlite3.Connection, tables: Container[str]) -> int | None:
    if "meta" not in tables:
        return None
    found = writer.execute("SELECT schema_version FROM meta").fetchone()
    return found[0] if found else None
