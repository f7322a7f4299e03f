# shellcheck shell=bash
# The migration was given an index and a constraint that fail when it is run again.
# expect: runbook=db-migration param=file=drizzle/0003_add_plans_and_knowledge.sql cause=not_idempotent remedy=-
break_it() {
    cat >>"$STACK/drizzle/0003_add_plans_and_knowledge.sql" <<'SQL'

CREATE INDEX knowledge_documents_created ON knowledge_documents (created_at);
ALTER TABLE plans ADD CONSTRAINT plans_name_check CHECK (name <> '');
SQL
}
cure_it() { restore "$STACK/drizzle/0003_add_plans_and_knowledge.sql"; }
