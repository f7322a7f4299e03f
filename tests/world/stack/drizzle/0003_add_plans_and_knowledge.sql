-- Plans, tenants, knowledge documents and daily usage counters. Idempotent.

CREATE TABLE IF NOT EXISTS plans (
    code        text PRIMARY KEY,
    name        text NOT NULL,
    limits_json jsonb NOT NULL DEFAULT '{}'::jsonb,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS tenants (
    id         uuid PRIMARY KEY,
    name       text NOT NULL,
    plan_code  text NOT NULL DEFAULT 'free',
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS knowledge_documents (
    id           uuid PRIMARY KEY,
    tenant_id    uuid NOT NULL,
    name         text NOT NULL,
    status       text NOT NULL DEFAULT 'uploaded',
    error_reason text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now()
);

-- The embedding is an array: the distribution that this runs on has no pgvector package.
CREATE TABLE IF NOT EXISTS knowledge_chunks (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    document_id uuid NOT NULL,
    position    integer NOT NULL,
    content     text NOT NULL,
    embedding   real[]
);

CREATE TABLE IF NOT EXISTS usage_counters_daily (
    tenant_id          uuid NOT NULL,
    date               date NOT NULL DEFAULT CURRENT_DATE,
    docs_indexed_count integer NOT NULL DEFAULT 0,
    rag_queries_count  integer NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, date)
);

CREATE INDEX IF NOT EXISTS knowledge_documents_tenant_status ON knowledge_documents (tenant_id, status);
CREATE INDEX IF NOT EXISTS knowledge_chunks_document ON knowledge_chunks (document_id, position);

DO $$ BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conname = 'tenants_plan_code_fkey') THEN
        ALTER TABLE tenants ADD CONSTRAINT tenants_plan_code_fkey FOREIGN KEY (plan_code) REFERENCES plans (code);
    END IF;
    IF NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conname = 'knowledge_documents_tenant_fkey') THEN
        ALTER TABLE knowledge_documents ADD CONSTRAINT knowledge_documents_tenant_fkey FOREIGN KEY (tenant_id) REFERENCES tenants (id);
    END IF;
    IF NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conname = 'knowledge_chunks_document_fkey') THEN
        ALTER TABLE knowledge_chunks ADD CONSTRAINT knowledge_chunks_document_fkey FOREIGN KEY (document_id) REFERENCES knowledge_documents (id) ON DELETE CASCADE;
    END IF;
    IF NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conname = 'knowledge_documents_status_check') THEN
        ALTER TABLE knowledge_documents ADD CONSTRAINT knowledge_documents_status_check CHECK (status IN ('uploaded', 'indexing', 'indexed', 'error'));
    END IF;
END $$;

INSERT INTO plans (code, name, limits_json) VALUES
    ('free', 'Free', '{"maxDailyIndexing": 5, "maxDocuments": 20, "maxDailyRagQueries": 100}'),
    ('pro', 'Pro', '{"maxDailyIndexing": 100, "maxDocuments": 2000, "maxDailyRagQueries": 5000}'),
    ('enterprise', 'Enterprise', '{"maxDailyIndexing": 1000, "maxDocuments": 50000, "maxDailyRagQueries": 100000}')
ON CONFLICT (code) DO UPDATE SET name = EXCLUDED.name, limits_json = EXCLUDED.limits_json;
