# shellcheck shell=bash
# A tenant's counter says that its day is used up, and no document of today was indexed: it counted what never happened.
# expect: runbook=quota-blocking cause=counter_drifted remedy=-
break_it() {
    local tenant=11111111-1111-4111-8111-111111111111
    sql <<SQL
UPDATE usage_counters_daily SET docs_indexed_count = 5 WHERE tenant_id = '$tenant' AND date = CURRENT_DATE;
UPDATE knowledge_documents SET updated_at = now() - interval '3 days';
INSERT INTO knowledge_documents (id, tenant_id, name, status)
    SELECT ('bbbbbbbb-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, '$tenant', 'pending-' || n || '.pdf', 'uploaded' FROM generate_series(1, 2) n;
SQL
    curl -s -o /dev/null -X POST -H "X-Tenant-ID: $tenant" \
        http://127.0.0.1:8000/admin/knowledge/documents/bbbbbbbb-0000-4000-8000-000000000001/reindex
}
cure_it() { seed_data; }
