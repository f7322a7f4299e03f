-- Which run a run tries again, so that none is tried again past what became of an earlier retry. Empty for one that tries none.
ALTER TABLE runs ADD COLUMN retry_of TEXT NOT NULL DEFAULT '';

CREATE INDEX runs_retries ON runs (retry_of) WHERE retry_of != '';
