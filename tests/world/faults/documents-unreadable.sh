# shellcheck shell=bash
# Documents are in error for what they are, not for want of quota: indexing them again would fail again.
# expect: runbook=quota-blocking cause=documents_fail remedy=-
break_it() {
    sql <<'SQL'
INSERT INTO knowledge_documents (id, tenant_id, name, status, error_reason)
    SELECT ('bbbbbbbb-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, '22222222-2222-4222-8222-222222222222', 'scan-' || n || '.pdf',
        'error', 'Unsupported file: the PDF is encrypted' FROM generate_series(1, 4) n;
SQL
}
cure_it() { seed_data; }
