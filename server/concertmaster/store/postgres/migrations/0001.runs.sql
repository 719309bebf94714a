-- Processes that share the store. One is alive until the time it has named last; those that
-- work go on with runs that nobody has.
CREATE TABLE processes (
    process text PRIMARY KEY,
    works boolean NOT NULL,
    until timestamptz NOT NULL
);

CREATE TABLE runs (
    run_id text PRIMARY KEY,
    created_at float8 NOT NULL,
    place bigint GENERATED ALWAYS AS IDENTITY,
    epoch integer NOT NULL,
    owner text,
    ended boolean NOT NULL DEFAULT FALSE,
    idempotency_key text UNIQUE,
    principal text NOT NULL
);

CREATE INDEX runs_by_principal ON runs (principal, created_at, place);

CREATE INDEX runs_by_time ON runs (created_at, place);

CREATE INDEX runs_unfinished ON runs (created_at, place) WHERE NOT ended;

CREATE TABLE events (
    run_id text NOT NULL,
    seq bigint GENERATED ALWAYS AS IDENTITY,
    epoch integer NOT NULL,
    name text NOT NULL,
    kind text NOT NULL,
    version integer NOT NULL,
    at float8 NOT NULL,
    data text NOT NULL,
    light text,
    usd float8,
    PRIMARY KEY (run_id, seq),
    UNIQUE (run_id, epoch, name)
);

CREATE INDEX events_cancel_requested ON events (run_id) WHERE kind = 'cancel-requested';

-- Bytes, because a text cannot have the character NUL in it.
CREATE TABLE texts (digest text PRIMARY KEY, text bytea NOT NULL);

CREATE TABLE run_texts (run_id text, digest text, PRIMARY KEY (run_id, digest));

CREATE INDEX runs_by_text ON run_texts (digest);

CREATE VIEW living AS SELECT process, works FROM processes WHERE until > clock_timestamp();

CREATE VIEW run_rows AS
SELECT
    run_id,
    created_at,
    place,
    epoch,
    owner,
    ended,
    principal,
    EXISTS (SELECT FROM living WHERE process = owner) AS alive,
    EXISTS (SELECT FROM living WHERE works) AS attended
FROM runs;
