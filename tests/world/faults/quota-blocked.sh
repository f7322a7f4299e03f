# shellcheck shell=bash
# A tenant on the free plan has used up its daily indexing: documents are in error, jobs have failed.
# expect: runbook=quota-blocking cause=quota_reached remedy=-
# ci: yes
break_it() {
    local tenant=11111111-1111-4111-8111-111111111111 document
    sql <<SQL
UPDATE usage_counters_daily SET docs_indexed_count = 5 WHERE tenant_id = '$tenant' AND date = CURRENT_DATE;
INSERT INTO knowledge_documents (id, tenant_id, name, status)
    SELECT ('bbbbbbbb-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, '$tenant', 'pending-' || n || '.pdf', 'uploaded' FROM generate_series(1, 3) n;
SQL
    # The backend itself refuses them, so that its log and the error in the rows are its own words.
    for document in 1 2; do
        curl -s -o /dev/null -X POST -H "X-Tenant-ID: $tenant" \
            "http://127.0.0.1:8000/admin/knowledge/documents/bbbbbbbb-0000-4000-8000-00000000000$document/reindex"
        redis >/dev/null <<REDIS
HSET bull:rag:index-document:3$document name index-document data "{\"documentId\":\"bbbbbbbb-0000-4000-8000-00000000000$document\",\"tenantId\":\"$tenant\"}" failedReason "Daily indexing limit reached: 5/5" attemptsMade 3 timestamp $(date +%s%3N)
ZADD bull:rag:index-document:failed $(date +%s%3N) 3$document
REDIS
    done
}
cure_it() { seed_data; }
