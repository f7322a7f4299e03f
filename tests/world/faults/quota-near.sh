# shellcheck shell=bash
# A tenant has used 85 % of its day's indexing: nothing is blocked yet.
# expect: runbook=quota-blocking cause=quota_near remedy=-
break_it() { sql <<<"UPDATE usage_counters_daily SET docs_indexed_count = 85 WHERE tenant_id = '22222222-2222-4222-8222-222222222222' AND date = CURRENT_DATE"; }
cure_it() { seed_data; }
