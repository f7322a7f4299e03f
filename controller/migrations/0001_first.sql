-- The controller's first schema. Times are Unix milliseconds, digests and keys are raw bytes, ids are UUIDs as text.

CREATE TABLE hosts (
    id                 TEXT    PRIMARY KEY,
    name               TEXT    NOT NULL UNIQUE,
    -- A JSON object, name to value.
    labels             TEXT    NOT NULL,
    -- Grows each time the host is enrolled anew.
    incarnation        INTEGER NOT NULL,
    enrolled_at_ms     INTEGER NOT NULL,
    -- When its latest session opened or ended; 0 when there never was one.
    connected_since_ms INTEGER NOT NULL DEFAULT 0,
    last_seen_ms       INTEGER NOT NULL DEFAULT 0,
    -- An encoded HostState; NULL when there never was one.
    state              BLOB
) STRICT;

-- Every certificate issued to a peer.
CREATE TABLE certificates (
    serial             TEXT    PRIMARY KEY,
    identity           TEXT    NOT NULL,
    -- The host's incarnation that it was issued to; 0 for an operator's.
    incarnation        INTEGER NOT NULL,
    not_after_ms       INTEGER NOT NULL,
    issued_at_ms       INTEGER NOT NULL,
    der                BLOB    NOT NULL
) STRICT;

-- One-time tokens. The secret itself is nowhere.
CREATE TABLE tokens (
    id                 TEXT    PRIMARY KEY,
    -- 'agent' or 'operator'.
    role               TEXT    NOT NULL,
    secret_sha256      BLOB    NOT NULL,
    -- For an agent's: the host that may be enrolled with it.
    host_name          TEXT    NOT NULL,
    labels             TEXT    NOT NULL,
    -- 1 when a host of this name is to be enrolled anew.
    replaces           INTEGER NOT NULL,
    expires_at_ms      INTEGER NOT NULL,
    -- The key that it was used with, and the certificate that came of it; NULL while it is unused.
    used_by            BLOB,
    certificate        TEXT REFERENCES certificates (serial)
) STRICT;

CREATE TABLE operators (
    name               TEXT    PRIMARY KEY,
    -- Ed25519, 32 bytes: what orders are signed with.
    public_key         BLOB    NOT NULL,
    enrolled_at_ms     INTEGER NOT NULL
) STRICT;

-- Who may sign, in every version that there was.
CREATE TABLE trust_lists (
    version            INTEGER PRIMARY KEY,
    -- An encoded SignedTrustList.
    list               BLOB    NOT NULL,
    received_at_ms     INTEGER NOT NULL
) STRICT;

-- A run's summary columns are written together with the events that they are a fold of.
CREATE TABLE runs (
    id                 TEXT    PRIMARY KEY,
    title              TEXT    NOT NULL,
    operator           TEXT    NOT NULL,
    opened_at_ms       INTEGER NOT NULL,
    -- 0 while the run is open.
    closed_at_ms       INTEGER NOT NULL,
    -- RunPhase and RunVerdict, as their numbers in the contract.
    phase              INTEGER NOT NULL,
    verdict            INTEGER NOT NULL,
    targets            INTEGER NOT NULL,
    last_seq           INTEGER NOT NULL
) STRICT;

CREATE INDEX runs_open ON runs (opened_at_ms) WHERE closed_at_ms = 0;
CREATE INDEX runs_newest ON runs (opened_at_ms DESC, id DESC);

CREATE TABLE events (
    run                TEXT    NOT NULL REFERENCES runs (id),
    seq                INTEGER NOT NULL,
    -- An encoded RunEvent.
    body               BLOB    NOT NULL,
    PRIMARY KEY (run, seq)
) STRICT;

-- Append-only; each hash covers the one before.
CREATE TABLE audit (
    seq                INTEGER PRIMARY KEY,
    at_ms              INTEGER NOT NULL,
    -- 'opened', 'closed', 'done', 'denied'.
    kind               TEXT    NOT NULL,
    -- For 'closed': which entry it closes.
    about              INTEGER REFERENCES audit (seq),
    actor              TEXT    NOT NULL,
    address            TEXT    NOT NULL,
    action             TEXT    NOT NULL,
    subject            TEXT    NOT NULL,
    detail             TEXT    NOT NULL,
    hash               BLOB    NOT NULL
) STRICT;

-- Finds what was opened and never closed.
CREATE INDEX audit_about ON audit (about) WHERE about IS NOT NULL;
CREATE INDEX audit_opened ON audit (seq) WHERE kind = 'opened';
