# shellcheck shell=bash
# Documents were uploaded an hour ago and never queued for indexing, with quota to spare.
# expect: runbook=quota-blocking cause=forgotten remedy=reindex
break_it() {
    sql <<'SQL'
INSERT INTO knowledge_documents (id, tenant_id, name, status, created_at, updated_at)
    SELECT ('bbbbbbbb-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, '33333333-3333-4333-8333-333333333333', 'forgotten-' || n || '.pdf',
        'uploaded', now() - interval '1 hour', now() - interval '1 hour' FROM generate_series(1, 3) n;
SQL
}
cure_it() { seed_data; }
