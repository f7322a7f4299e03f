# shellcheck shell=bash
# A tenant has used 60 % of its day, another has no daily limit at all, and a document was uploaded a moment ago.
# expect: healthy
# ci: yes
break_it() {
    sql <<'SQL'
UPDATE usage_counters_daily SET docs_indexed_count = 60 WHERE tenant_id = '22222222-2222-4222-8222-222222222222' AND date = CURRENT_DATE;
UPDATE plans SET limits_json = limits_json - 'maxDailyIndexing' WHERE code = 'enterprise';
UPDATE usage_counters_daily SET docs_indexed_count = 4000 WHERE tenant_id = '33333333-3333-4333-8333-333333333333' AND date = CURRENT_DATE;
INSERT INTO knowledge_documents (id, tenant_id, name, status) VALUES ('bbbbbbbb-0000-4000-8000-000000000001', '22222222-2222-4222-8222-222222222222', 'new.pdf', 'uploaded');
SQL
}
cure_it() { seed_data; }
