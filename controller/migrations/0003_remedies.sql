-- When remedies were tried, so that none is tried again and again.
CREATE TABLE remedies (
    run                TEXT    NOT NULL REFERENCES runs (id),
    host               TEXT    NOT NULL,
    -- Empty when the runbook is about hosts.
    stack              TEXT    NOT NULL,
    -- `RUNBOOK/REMEDY`.
    remedy             TEXT    NOT NULL,
    -- When its first order was about to be sent.
    at_ms              INTEGER NOT NULL,
    PRIMARY KEY (run, host, stack, remedy)
) STRICT;

CREATE INDEX remedies_latest ON remedies (at_ms);
