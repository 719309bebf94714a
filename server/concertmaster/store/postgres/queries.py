"""What the Postgres journal says to its server.

Every write holds the row of its run until it is committed, and so does a take-over: what an
owner has written is there when the next one begins, and nothing of it comes after. Clocks
are compared on the server alone.

Each transaction reaches the server in one message, so that the server can bring it to its end
without its client: a process that is stopped at any moment leaves no row locked.
"""

from typing import LiteralString

_ADDED: LiteralString = """
WITH given AS (
    SELECT * FROM unnest(
        %(run_id)s::text[], %(epoch)s::int[], %(name)s::text[], %(kind)s::text[],
        %(at)s::float8[], %(data)s::text[], %(light)s::text[], %(usd)s::float8[],
        %(fingerprint)s::text[]
    ) WITH ORDINALITY
        AS given (run_id, epoch, name, kind, at, data, light, usd, fingerprint, place)
), held AS (
    SELECT run_id, epoch FROM runs WHERE run_id = ANY (%(run_id)s)
    ORDER BY run_id FOR NO KEY UPDATE
), added AS (
    INSERT INTO events (run_id, epoch, name, kind, version, at, data, light, usd, fingerprint)
    SELECT given.run_id, held.epoch, name, kind, %(version)s, at, data, light, usd, fingerprint
    FROM given JOIN held USING (run_id)
    WHERE given.epoch IS NULL OR given.epoch = held.epoch
    ORDER BY place
    ON CONFLICT DO NOTHING
    RETURNING run_id, name, epoch, kind, data
), ended AS (
    UPDATE runs SET ended = TRUE
    WHERE run_id IN (SELECT run_id FROM added WHERE kind = 'run-ended')
)
"""

_REFERRING: LiteralString = """
, referring AS (
    SELECT DISTINCT run_id, digest
    FROM unnest(%(places)s::int[], %(refers)s::text[]) AS refers (place, digest)
    JOIN given USING (place) JOIN added USING (run_id, name, data)
)
"""
"""What was added refers to these. Of two of one name, the data tell which was."""

_KEPT: LiteralString = """
, kept AS (
    INSERT INTO texts
    SELECT * FROM unnest(%(digests)s::text[], %(texts)s::bytea[]) AS given_texts (digest, text)
    WHERE digest IN (SELECT digest FROM referring)
    ORDER BY digest
    ON CONFLICT DO NOTHING
), referred AS (
    INSERT INTO run_texts SELECT run_id, digest FROM referring ON CONFLICT DO NOTHING
)
"""
"""In one order everywhere, so that two who keep the same texts do not block each other."""

_TELL: LiteralString = """
SELECT run_id, name, epoch, pg_notify(%(channel)s, run_id)::text, CASE
    WHEN kind IN ('cancel-requested', 'tool-answered', 'run-ended')
    THEN pg_notify(%(channel)s, '')::text
END
FROM added
"""
"""Without a run's id, those are told who drive runs: one is to hear of something, or there is
room."""

APPEND: LiteralString = _ADDED + _TELL

APPEND_WITH_TEXTS: LiteralString = _ADDED + _REFERRING + _KEPT + _TELL

USAGE: LiteralString = """
WITH unfinished AS (
    SELECT
        alive OR run_rows.owner IS NULL OR run_rows.owner = %(me)s OR attended AS active,
        greatest(0, budget_usd - (
            SELECT coalesce(sum(usd), 0) FROM events
            WHERE events.run_id = run_rows.run_id AND usd IS NOT NULL
        )) AS reserved
    FROM run_rows JOIN runs USING (run_id)
    WHERE run_rows.principal = %(reserving)s AND NOT run_rows.ended AND run_id <> %(without)s
    AND (alive OR run_rows.owner = %(me)s OR NOT EXISTS (
        SELECT FROM events WHERE events.run_id = run_rows.run_id
        AND events.epoch = run_rows.epoch AND kind = 'cancel-requested'
    ))
)
SELECT
    (SELECT count(*) FROM unfinished WHERE active) AS runs,
    (SELECT coalesce(sum(reserved), 0) FROM unfinished) AS reserved,
    (
        SELECT coalesce(sum(usd), 0) FROM runs JOIN events USING (run_id)
        WHERE principal = %(reserving)s AND at >= %(since)s AND usd IS NOT NULL
    ) AS spent,
    (
        SELECT coalesce(sum(usd), 0) FROM events WHERE run_id = %(without)s AND usd IS NOT NULL
    ) AS spent_before
"""

"""A run that was to stop, and whose process has died, does not go on by itself."""

_FITS: LiteralString = (
    """(
SELECT (%(most_runs)s::int IS NULL OR runs < %(most_runs)s::int) AND (
    %(most_usd)s::float8 IS NULL
    OR spent + reserved + greatest(0, %(reserve_usd)s - spent_before)
        <= %(most_usd)s::float8 + %(rounding)s
) FROM (
"""
    + USAGE
    + ") AS used)"
)

HOLD_PRINCIPAL: LiteralString = """
SELECT pg_advisory_xact_lock(hashtext('concertmaster principal'), hashtext(%(reserving)s))
"""
"""So that no two runs of a principal are given what is left for one."""

_BEGIN: LiteralString = """
WITH begun AS (
    INSERT INTO runs (run_id, created_at, epoch, owner, idempotency_key, principal, budget_usd)
    SELECT
        %(run_id)s, %(at)s, %(epoch)s, %(owner)s::text, %(key)s::text, %(principal)s,
        %(budget_usd)s::float8
    WHERE
"""

_BEGUN: LiteralString = " ON CONFLICT DO NOTHING RETURNING run_id)"

BEGIN: LiteralString = _BEGIN + "TRUE" + _BEGUN

BEGIN_RESERVED: LiteralString = _BEGIN + _FITS + _BEGUN

_TAKE_OVER: LiteralString = """
WITH begun AS (
    UPDATE runs SET
        epoch = %(epoch)s,
        owner = %(owner)s,
        ended = FALSE,
        budget_usd = coalesce(%(budget_usd)s::float8, budget_usd)
    WHERE run_id = %(run_id)s AND epoch = %(epoch)s - 1 AND (
        ended
        OR owner IS NULL
        OR owner = %(me)s
        OR NOT EXISTS (SELECT FROM living WHERE process = owner)
    ) AND (
        %(most)s::int IS NULL
        OR (SELECT count(*) FROM run_rows WHERE NOT ended AND alive) < %(most)s::int
    ) AND
"""

_TAKEN: LiteralString = " RETURNING run_id)"

TAKE_OVER: LiteralString = _TAKE_OVER + "TRUE" + _TAKEN

TAKE_OVER_RESERVED: LiteralString = _TAKE_OVER + _FITS + _TAKEN

_FIRST_ADDED: LiteralString = """
, added AS (
    INSERT INTO events (run_id, epoch, name, kind, version, at, data)
    SELECT run_id, %(epoch)s, %(name)s, %(kind)s, %(version)s, %(at)s, %(data)s FROM begun
    ON CONFLICT DO NOTHING
    RETURNING run_id
)
"""

_FIRST_REFERRING: LiteralString = """
, referring AS (SELECT run_id, unnest(%(digests)s::text[]) AS digest FROM added)
"""

_FIRST_TELL: LiteralString = """
SELECT pg_notify(%(channel)s, run_id)::text, CASE
    WHEN %(owner)s::text IS NULL THEN pg_notify(%(channel)s, '')::text
END
FROM added
"""

FIRST_EVENT: LiteralString = _FIRST_ADDED + _FIRST_TELL

FIRST_EVENT_WITH_TEXTS: LiteralString = _FIRST_ADDED + _FIRST_REFERRING + _KEPT + _FIRST_TELL

WAIT_BRIEFLY: LiteralString = "SELECT set_config('lock_timeout', '500ms', TRUE)"
"""For claims: a run that another session keeps locked is not free, and others must not wait."""

LOCK: LiteralString = "SELECT pg_advisory_xact_lock(hashtext('concertmaster runs'))"
"""Held by whoever counts the runs under way, so that nobody adds to them meanwhile."""

COME: LiteralString = """
INSERT INTO processes VALUES (%s, %s, clock_timestamp() + make_interval(secs => %s))
ON CONFLICT (process) DO UPDATE SET until = EXCLUDED.until
"""

BEAT: LiteralString = """
UPDATE processes SET until = clock_timestamp() + make_interval(secs => %s) WHERE process = %s
"""

LEAVE: LiteralString = """
WITH handed_back AS (
    UPDATE runs SET owner = NULL
    WHERE owner = %(me)s AND NOT ended AND (SELECT works FROM processes WHERE process = %(me)s)
), gone AS (
    DELETE FROM processes
    WHERE process = %(me)s OR until < clock_timestamp() - interval '1 day'
)
SELECT pg_notify(%(channel)s, '')
"""

LET_GO: LiteralString = """
WITH gone AS (
    UPDATE runs SET owner = '-'
    WHERE run_id = %(run_id)s AND epoch = %(epoch)s AND owner = %(me)s
    RETURNING run_id
)
SELECT pg_notify(%(channel)s, run_id)::text, pg_notify(%(channel)s, '')::text FROM gone
"""
"""No process has the id that the owner gets, so that none is taken for it."""

WHY_NOT: LiteralString = """
SELECT runs.epoch, (
    SELECT data FROM events
    WHERE events.run_id = runs.run_id AND name = %(name)s
    AND events.epoch = coalesce(%(epoch)s, runs.epoch)
)
FROM runs WHERE run_id = %(run_id)s
"""

ROWS: LiteralString = """
SELECT run_id, created_at, epoch, alive OR coalesce(owner = %(me)s, FALSE),
    coalesce(owner = %(me)s, FALSE), owner IS NULL, attended, principal,
    (SELECT coalesce(max(seq), 0) FROM events WHERE events.run_id = run_rows.run_id)
FROM run_rows
"""

ROW: LiteralString = ROWS + "WHERE run_id = %(run_id)s"

RECENT: LiteralString = (
    ROWS
    + """
WHERE %(principal)s::text IS NULL OR principal = %(principal)s
ORDER BY created_at DESC, place DESC LIMIT %(limit)s
"""
)

OFFERING: LiteralString = """
SELECT run_id FROM runs JOIN events USING (run_id)
WHERE fingerprint = %s AND at >= %s AND principal = %s
ORDER BY at DESC LIMIT %s
"""

UNFINISHED: LiteralString = ROWS + "WHERE NOT ended ORDER BY created_at, place"

LEAST_LOAD: LiteralString = """
SELECT min(load) FROM (
    SELECT count(run_id) AS load FROM living LEFT JOIN runs ON owner = process AND NOT ended
    WHERE works AND process <> %s GROUP BY process
) AS loads
"""

STANDING: LiteralString = """
SELECT runs.run_id, runs.epoch, version, data
FROM runs LEFT JOIN events
ON events.run_id = runs.run_id AND events.epoch = runs.epoch
AND kind IN ('cancel-requested', 'tool-answered')
WHERE runs.run_id = ANY (%s)
ORDER BY seq
"""

WITH_KEY: LiteralString = "SELECT run_id FROM runs WHERE idempotency_key = %s"

EVENTS: LiteralString = "SELECT version, data FROM events WHERE run_id = %s ORDER BY seq"

OUTLINES: LiteralString = """
SELECT run_id, version, coalesce(light, data) FROM events
WHERE run_id = ANY (%s) AND kind NOT IN ('call-started', 'tool-called') ORDER BY run_id, seq
"""

TEXTS: LiteralString = "SELECT digest, text FROM texts WHERE digest = ANY (%s)"

STOCK: LiteralString = """
SELECT run_id, created_at, (
    SELECT coalesce(sum(octet_length(data)), 0) FROM events
    WHERE events.run_id = run_rows.run_id
) + (
    SELECT coalesce(sum(octet_length(text)), 0) FROM run_texts JOIN texts USING (digest)
    WHERE run_texts.run_id = run_rows.run_id
), NOT ended AND (alive OR owner IS NULL)
FROM run_rows ORDER BY created_at DESC, place DESC
"""

HOLD_TEXTS: LiteralString = "LOCK TABLE run_texts IN SHARE ROW EXCLUSIVE MODE"
"""Else an event that is added could refer to a text that is just being deleted. Whoever keeps
texts waits for this before all else, so that he then sees which of them are gone."""

HOLD_RUNS: LiteralString = """
SELECT FROM runs WHERE run_id = ANY (%(run_ids)s) ORDER BY run_id FOR UPDATE
"""

DELETE: LiteralString = """
WITH wanted AS (
    SELECT run_id, NOT ended AND (alive OR owner IS NULL) AS busy
    FROM run_rows WHERE run_id = ANY (%(run_ids)s)
), doomed AS (
    SELECT run_id FROM wanted WHERE NOT EXISTS (SELECT FROM wanted WHERE busy)
    AND (%(again)s OR (SELECT count(*) FROM wanted) = cardinality(%(run_ids)s::text[]))
), one AS (
    DELETE FROM runs WHERE run_id IN (SELECT run_id FROM doomed)
), two AS (
    DELETE FROM events WHERE run_id IN (SELECT run_id FROM doomed)
), three AS (
    DELETE FROM run_texts WHERE run_id IN (SELECT run_id FROM doomed) RETURNING digest
), four AS (
    DELETE FROM texts WHERE digest IN (SELECT digest FROM three) AND NOT EXISTS (
        SELECT FROM run_texts
        WHERE run_texts.digest = texts.digest AND run_id NOT IN (SELECT run_id FROM doomed)
    )
)
SELECT run_id, busy FROM wanted
"""
"""Deletes all of the runs or none, and the texts that no other refers to."""
