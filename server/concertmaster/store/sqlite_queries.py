"""What a journal on SQLite is asked about runs, and what is written to it."""

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
