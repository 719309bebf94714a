"""The tables of a journal's file, and how those of an older program become today's."""

import sqlite3
from collections.abc import Container
from pathlib import Path

from concertmaster.errors import StoreError
from concertmaster.store.sqlite_errors import NO_JOURNAL
from concertmaster.store.sqlite_queries import OFFERED

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
