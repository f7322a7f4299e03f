# shellcheck shell=bash
# A tenant's plan says its daily limit in words that are no number: nobody can tell whether it is reached.
# expect: runbook=quota-blocking cause=limit_invalid remedy=-
break_it() { sql <<<"UPDATE plans SET limits_json = jsonb_set(limits_json, '{maxDailyIndexing}', '\"a hundred\"') WHERE code = 'pro'"; }
cure_it() { seed_data; }
