-- Of the work whose result other runs may take over.
ALTER TABLE events ADD COLUMN fingerprint text;

CREATE INDEX events_by_offer ON events (fingerprint, at) WHERE fingerprint IS NOT NULL;
