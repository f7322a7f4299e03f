# shellcheck shell=bash
# Documents were refused yesterday for want of quota; the counters began anew, and nobody has tried them again.
# expect: runbook=quota-blocking cause=not_retried remedy=reindex
break_it() {
    sql <<'SQL'
INSERT INTO knowledge_documents (id, tenant_id, name, status, error_reason, created_at, updated_at)
    SELECT ('bbbbbbbb-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, '22222222-2222-4222-8222-222222222222', 'late-' || n || '.pdf',
        'error', 'Daily indexing limit reached: 100/100', now() - interval '26 hours', now() - interval '25 hours' FROM generate_series(1, 4) n;
SQL
}
cure_it() { seed_data; }
