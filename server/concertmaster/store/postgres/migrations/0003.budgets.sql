-- What a run may spend, so that what is not spent yet counts for its principal.
ALTER TABLE runs ADD COLUMN budget_usd float8;

-- Quotes within texts are escaped, so that only the field itself can match. Where there is none, the
-- run is older than budgets, and has the usual one.
UPDATE runs SET budget_usd = coalesce((
    SELECT substring(data FROM '[{,] ?"budget_usd": ?([0-9.]+(?:[eE][-+]?[0-9]+)?)')::float8
    FROM events
    WHERE events.run_id = runs.run_id AND kind IN ('run-started', 'run-resumed')
    AND data ~ '[{,] ?"budget_usd": ?[0-9]'
    ORDER BY seq DESC LIMIT 1
), 2);

CREATE INDEX events_by_cost ON events (run_id, at) INCLUDE (usd) WHERE usd IS NOT NULL;
