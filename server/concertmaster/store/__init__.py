"""Where runs are kept: the journal that a store has to offer, on SQLite and on Postgres."""
