# shellcheck shell=bash
# A word of the migration is misspelt.
# expect: runbook=db-migration param=file=drizzle/0003_add_plans_and_knowledge.sql cause=syntax_error remedy=-
break_it() { sed -i 's/^CREATE TABLE IF NOT EXISTS knowledge_chunks/CREATE TABEL IF NOT EXISTS knowledge_chunks/' "$STACK/drizzle/0003_add_plans_and_knowledge.sql"; }
cure_it() { restore "$STACK/drizzle/0003_add_plans_and_knowledge.sql"; }
