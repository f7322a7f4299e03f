# shellcheck shell=bash
# The provider of the embeddings has a quota of its own, and that is used up: the tenants have room, and indexing again
# fails again.
# expect: runbook=quota-blocking cause=documents_fail remedy=-
break_it() {
    sql <<'SQL'
INSERT INTO knowledge_documents (id, tenant_id, name, status, error_reason)
    SELECT ('bbbbbbbb-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, '22222222-2222-4222-8222-222222222222', 'offer-' || n || '.pdf',
        'error', CASE WHEN n % 2 = 0 THEN '429 rate limit reached for text-embedding-3-small'
            ELSE '429 You exceeded your current quota, please check your plan and billing details' END FROM generate_series(1, 4) n;
SQL
}
cure_it() { seed_data; }
