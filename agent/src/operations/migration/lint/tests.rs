use super::{locks::Mode, *};

fn rules(sql: &str) -> Vec<(u32, String)> {
    lint(sql).unwrap().violations.into_iter().map(|issue| (issue.line, issue.rule)).collect()
}

#[test]
fn the_worlds_own_migration_keeps_all_four_guarantees() {
    let sql = include_str!("../../../../../tests/world/stack/drizzle/0003_add_plans_and_knowledge.sql");
    let linted = lint(sql).unwrap();
    assert!(linted.violations.is_empty() && linted.understood, "{linted:?}");
    assert!(!linted.own_transaction && !linted.psql);
    assert_eq!(linted.statements, 9);
    assert_eq!(linted.created.tables.len(), 5, "{:?}", linted.created);
    assert_eq!(linted.created.indexes.len(), 2);
    let names: Vec<_> = linted.created.constraints.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "tenants_plan_code_fkey",
            "knowledge_documents_tenant_fkey",
            "knowledge_chunks_document_fkey",
            "knowledge_documents_status_check"
        ]
    );
}

#[test]
fn each_guarantee_that_is_broken_is_named_with_its_line() {
    let found = rules(
        "CREATE TABLE plans (code text);\nCREATE INDEX plans_code ON plans (code);\n\
         ALTER TABLE plans ADD CONSTRAINT c CHECK (code <> '');\nINSERT INTO plans VALUES ('free');",
    );
    let expected = [
        (1, "create_without_if_not_exists"),
        (2, "create_without_if_not_exists"),
        (3, "constraint_without_guard"),
        (4, "insert_without_on_conflict"),
    ];
    assert_eq!(found, expected.map(|(line, rule)| (line, rule.to_owned())));
}

#[test]
fn what_looks_first_is_no_violation() {
    assert_eq!(
        rules(
            "DO $$ BEGIN CREATE TYPE s AS ENUM ('a'); EXCEPTION WHEN duplicate_object THEN null; END $$;\n\
             --> statement-breakpoint\nALTER TABLE a DROP CONSTRAINT IF EXISTS b;\nALTER TABLE a ADD CONSTRAINT b UNIQUE (c);\n\
             INSERT INTO a SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM a);\nCREATE OR REPLACE VIEW v AS SELECT 1;\n\
             ALTER TABLE a ADD COLUMN IF NOT EXISTS d int;\nUPDATE a SET d = 1;\nDELETE FROM a WHERE d = 2;"
        ),
        []
    );
}

#[test]
fn what_a_second_run_would_do_again() {
    let found = rules(
        "UPDATE t SET n = n + 1;\nALTER TABLE t ADD COLUMN x int;\nALTER TABLE t RENAME COLUMN a TO b;\nDROP TABLE u;\n\
         CREATE TYPE s AS ENUM ('a');\nCREATE INDEX ON t (n);\n\\i other.sql\nALTER TYPE s ADD VALUE 'b';",
    );
    let names: Vec<_> = found.iter().map(|(_, rule)| rule.as_str()).collect();
    assert_eq!(
        names,
        [
            "update_not_repeatable",
            "alter_without_guard",
            "rename",
            "drop_without_if_exists",
            "create_without_if_not_exists",
            "create_without_if_not_exists",
            "psql_command",
            "alter_without_guard"
        ]
    );
}

#[test]
fn dangers_are_told_and_transactions_seen() {
    let linted = lint("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (n);").unwrap();
    assert!(
        linted.own_transaction && linted.dangers.is_empty() && linted.violations.is_empty(),
        "{linted:?}"
    );
    let linted =
        lint("BEGIN; DROP TABLE IF EXISTS t; CREATE INDEX IF NOT EXISTS i ON u (n); COMMIT;").unwrap();
    let rules: Vec<_> = linted.dangers.iter().map(|issue| issue.rule.as_str()).collect();
    assert_eq!(rules, ["drop", "index_locks_writes", "mixed_transaction"]);
    assert!(linted.own_transaction);
}

#[test]
fn the_locks_that_it_takes_are_known() {
    let sql = "CREATE TABLE IF NOT EXISTS a (b int);\nCREATE INDEX IF NOT EXISTS i ON a (b);\n\
               ALTER TABLE plans ADD COLUMN IF NOT EXISTS c int;\nUPDATE plans SET c = 1;\nDELETE FROM old WHERE b = 1;\n\
               DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conname = 'f') THEN\n\
               ALTER TABLE a ADD CONSTRAINT f FOREIGN KEY (b) REFERENCES plans (code); END IF; END $$;\n\
               INSERT INTO plans VALUES (1) ON CONFLICT DO NOTHING;\nTRUNCATE gone;\nDROP TABLE IF EXISTS gone;";
    let touched = lint(sql).unwrap().created.touched;
    let found: Vec<_> = touched
        .iter()
        .map(|own| (own.table.as_str(), own.mode, own.unless.as_deref().unwrap_or_default()))
        .collect();
    assert_eq!(
        found,
        [
            ("a", Mode::Share, ""),
            ("plans", Mode::AccessExclusive, ""),
            ("plans", Mode::RowExclusive, ""),
            ("old", Mode::RowExclusive, ""),
            ("plans", Mode::ShareRowExclusive, "f"),
            ("a", Mode::ShareRowExclusive, "f"),
            ("plans", Mode::RowExclusive, ""),
            ("gone", Mode::AccessExclusive, ""),
            ("gone", Mode::AccessExclusive, ""),
        ]
    );
}

#[test]
fn what_is_not_understood_is_said() {
    let linted = lint("CREATE FROBNICATION x;").unwrap();
    assert!(!linted.understood);
    assert_eq!(linted.dangers[0].rule, "not_understood");
}
