-- Incidents, and what people are to be told of them.

CREATE TABLE incidents (
    id                 TEXT    PRIMARY KEY,
    opened_at_ms       INTEGER NOT NULL,
    -- IncidentState, as its number in the contract.
    state              INTEGER NOT NULL,
    -- An encoded Incident.
    body               BLOB    NOT NULL
) STRICT;

CREATE INDEX incidents_newest ON incidents (opened_at_ms DESC, id DESC);

-- A notice for one channel, until it is delivered or given up.
CREATE TABLE notices (
    id                 INTEGER PRIMARY KEY AUTOINCREMENT,
    channel            TEXT    NOT NULL,
    -- JSON.
    body               TEXT    NOT NULL,
    made_at_ms         INTEGER NOT NULL,
    attempts           INTEGER NOT NULL DEFAULT 0,
    -- Not tried before this.
    next_at_ms         INTEGER NOT NULL
) STRICT;

CREATE INDEX notices_due ON notices (channel, next_at_ms);
