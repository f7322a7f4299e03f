//! What a database is at one moment: its schema, and each table's rows as a number and a digest. Two moments are held
//! against each other to tell what ran in between.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use crate::operations::backup::tools::quoted;

/// A database at one moment.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// A digest of everything in the catalogue that a migration may change.
    schema: String,
    /// Rows, and the digest of all of them.
    tables: BTreeMap<String, (i64, String)>,
}

/// Each line is one fact of the schema, in an order of its own.
const SCHEMA: &str = "
    SELECT fact FROM (
        SELECT 'table ' || c.oid::regclass || ' ' || c.relkind::text || ' ' || c.relpersistence::text || ' ' || c.relrowsecurity
               || ' ' || coalesce(array_to_string(c.reloptions, ','), '') || ' ' || coalesce(array_to_string(c.relacl, ','), '')
               || ' ' || pg_get_userbyid(c.relowner) AS fact
        FROM pg_class c WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relnamespace IN (SELECT oid FROM spaces)
        UNION ALL
        SELECT 'column ' || a.attrelid::regclass || ' ' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull
               || ' ' || a.attidentity::text || ' ' || coalesce(pg_get_expr(d.adbin, d.adrelid), '')
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'f') AND c.relnamespace IN (SELECT oid FROM spaces)
        UNION ALL
        SELECT 'index ' || pg_get_indexdef(i.indexrelid) || ' ' || i.indisvalid
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace IN (SELECT oid FROM spaces)
        UNION ALL
        SELECT 'constraint ' || n.conrelid::regclass || ' ' || n.conname || ' ' || pg_get_constraintdef(n.oid) || ' ' || n.convalidated
        FROM pg_constraint n WHERE n.conrelid <> 0 AND n.connamespace IN (SELECT oid FROM spaces)
        UNION ALL
        SELECT 'function ' || p.oid::regprocedure || ' ' || md5(p.prosrc) || ' ' || p.prosecdef
        FROM pg_proc p WHERE p.pronamespace IN (SELECT oid FROM spaces)
        UNION ALL
        SELECT 'trigger ' || pg_get_triggerdef(t.oid) || ' ' || t.tgenabled::text
        FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal AND c.relnamespace IN (SELECT oid FROM spaces)
        UNION ALL
        SELECT 'view ' || c.oid::regclass || ' ' || md5(pg_get_viewdef(c.oid))
        FROM pg_class c WHERE c.relkind IN ('v', 'm') AND c.relnamespace IN (SELECT oid FROM spaces)
        UNION ALL
        SELECT 'value ' || e.enumtypid::regtype || ' ' || e.enumsortorder || ' ' || e.enumlabel FROM pg_enum e
        UNION ALL
        SELECT 'type ' || t.oid::regtype || ' ' || t.typtype::text FROM pg_type t
        WHERE t.typtype IN ('e', 'd', 'r') AND t.typnamespace IN (SELECT oid FROM spaces)
        UNION ALL
        SELECT 'policy ' || p.polrelid::regclass || ' ' || p.polname || ' ' || coalesce(pg_get_expr(p.polqual, p.polrelid), '') FROM pg_policy p
        UNION ALL
        SELECT 'extension ' || x.extname || ' ' || x.extversion FROM pg_extension x
        UNION ALL
        SELECT 'schema ' || s.nspname FROM spaces s
    ) facts ORDER BY fact COLLATE \"C\"";

const SPACES: &str = "WITH spaces AS (SELECT oid, nspname FROM pg_namespace WHERE nspname NOT IN ('pg_catalog', 'information_schema') \
                      AND nspname NOT LIKE 'pg\\_toast%' AND nspname NOT LIKE 'pg\\_temp%')";

impl Snapshot {
    /// Takes one. Every row of every table is read: for databases that are small enough to be copied.
    pub(in crate::operations) async fn take(session: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let facts: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(format!("{SPACES} {SCHEMA}"))).fetch_all(&mut *session).await?;
        let mut hash = Sha256::new();
        for fact in facts {
            hash.update(fact.as_bytes());
            hash.update(b"\n");
        }
        let names = sqlx::query(
            "SELECT n.nspname AS schema, c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%' \
             AND n.nspname NOT LIKE 'pg\\_temp%'",
        )
        .fetch_all(&mut *session)
        .await?;
        let mut tables = BTreeMap::new();
        for row in names {
            let (schema, name) = (row.try_get::<String, _>("schema")?, row.try_get::<String, _>("name")?);
            // A sum over hashes of whole rows needs no order, and no memory for them.
            let text = format!(
                "SELECT count(*) AS rows, coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text AS digest FROM ONLY {}.{} t",
                quoted(&schema),
                quoted(&name)
            );
            let found = sqlx::query(AssertSqlSafe(text)).fetch_one(&mut *session).await?;
            let shown = if schema == "public" { name } else { format!("{schema}.{name}") };
            tables.insert(shown, (found.try_get("rows")?, found.try_get("digest")?));
        }
        Ok(Self { schema: HEXLOWER.encode(&hash.finalize()), tables })
    }

    /// What is different afterwards: `schema`, tables that came or went, and tables whose rows are others.
    pub(in crate::operations) fn changes(&self, after: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        if self.schema != after.schema {
            changes.push("schema".to_owned());
        }
        for (table, now) in &after.tables {
            match self.tables.get(table) {
                Some(before) if before == now => {}
                Some((before, _)) if *before == now.0 => {
                    changes.push(format!("{table}: other values in its {before} rows"));
                }
                Some((before, _)) => changes.push(format!("{table}: {before} rows before, {} after", now.0)),
                None => changes.push(format!("{table}: new, {} rows", now.0)),
            }
        }
        changes.extend(
            self.tables
                .keys()
                .filter(|table| !after.tables.contains_key(*table))
                .map(|table| format!("{table}: gone")),
        );
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(schema: &str, tables: &[(&str, i64, &str)]) -> Snapshot {
        Snapshot {
            schema: schema.to_owned(),
            tables: tables
                .iter()
                .map(|(name, rows, digest)| ((*name).to_owned(), (*rows, (*digest).to_owned())))
                .collect(),
        }
    }

    #[test]
    fn every_change_is_told() {
        let before =
            snapshot("a", &[("plans", 3, "x"), ("old", 1, "y"), ("same", 1, "z"), ("grown", 1, "g")]);
        assert_eq!(before.changes(&before), Vec::<String>::new());
        let after = snapshot("b", &[("plans", 3, "w"), ("same", 1, "z"), ("new", 2, "n"), ("grown", 2, "h")]);
        assert_eq!(
            before.changes(&after),
            [
                "schema",
                "grown: 1 rows before, 2 after",
                "new: new, 2 rows",
                "plans: other values in its 3 rows",
                "old: gone"
            ]
        );
    }
}
