//! Whether a migration may be run twice, by what its statements are. Pure: reads text, touches nothing.
//!
//! The guarantees are the runbook's: tables and indexes `IF NOT EXISTS`, constraints in a `DO` block that looks first,
//! seeds with `ON CONFLICT`. What follows from the same idea for other statements is treated alike.

use sqlparser::{
    ast::{
        AlterColumnOperation, AlterTable, AlterTableOperation, AlterTypeOperation, ObjectType, Statement,
        TableConstraint,
    },
    dialect::PostgreSqlDialect,
    parser::Parser,
};
use vigie_proto::v1::MigrationIssue;

use super::{
    locks::{self, Touched},
    statements::{Piece, Unreadable, pieces, top},
};

/// What a file is.
#[derive(Debug, Default)]
pub(super) struct Linted {
    pub statements: u32,
    pub violations: Vec<MigrationIssue>,
    pub dangers: Vec<MigrationIssue>,
    pub understood: bool,
    pub own_transaction: bool,
    /// Lines that only psql understands: such a file is not run here.
    pub psql: bool,
    pub created: Created,
}

/// What a file creates, by its names as they are written.
#[derive(Debug, Default, Clone)]
pub(super) struct Created {
    pub tables: Vec<String>,
    pub indexes: Vec<String>,
    /// Table and column.
    pub columns: Vec<(String, String)>,
    /// Table and constraint.
    pub constraints: Vec<(String, String)>,
    /// The locks that it takes on tables which may be there already.
    pub touched: Vec<Touched>,
}

/// Looks at every statement.
pub(super) fn lint(sql: &str) -> Result<Linted, Unreadable> {
    let mut linted = Linted {
        statements: u32::try_from(top(sql)?.len()).unwrap_or(u32::MAX),
        understood: true,
        ..Linted::default()
    };
    let mut dropped: Vec<String> = Vec::new();
    for piece in pieces(sql)? {
        if piece.psql {
            linted.psql = true;
            linted.violation(&piece, "", "psql_command", "leave it out: only psql understands it".to_owned());
            continue;
        }
        let parsed = Parser::new(&PostgreSqlDialect {})
            .with_tokens_with_locations(piece.tokens.clone())
            .parse_statement();
        match parsed {
            Ok(statement) => {
                linted.created.touched.extend(locks::of(&statement, piece.guarded));
                linted.statement(&piece, &statement, &mut dropped);
            }
            Err(error) => linted.unparsed(&piece, &error.to_string()),
        }
    }
    if linted.own_transaction && linted.statements > 1 {
        linted.dangers.push(MigrationIssue {
            line: 1,
            statement: String::new(),
            object: String::new(),
            rule: "mixed_transaction".to_owned(),
            remedy: "it has transactions of its own, so that a failure leaves what went before: keep what cannot be in one \
                     (CREATE INDEX CONCURRENTLY, VACUUM) in a file by itself"
                .to_owned(),
        });
    }
    Ok(linted)
}

impl Linted {
    fn violation(&mut self, piece: &Piece, object: &str, rule: &str, remedy: String) {
        self.violations.push(issue(piece, object, rule, remedy));
    }

    fn danger(&mut self, piece: &Piece, object: &str, rule: &str, remedy: &str) {
        self.dangers.push(issue(piece, object, rule, remedy.to_owned()));
    }

    /// What the parser does not know is judged by its words where they are enough.
    fn unparsed(&mut self, piece: &Piece, error: &str) {
        let words: Vec<String> = piece.words().take(6).collect();
        let starts =
            |with: &[&str]| words.iter().map(String::as_str).take(with.len()).eq(with.iter().copied());
        if starts(&["VACUUM"]) || starts(&["REINDEX"]) {
            self.own_transaction = true;
            return;
        }
        if starts(&["COMMENT"])
            || starts(&["GRANT"])
            || starts(&["REVOKE"])
            || starts(&["SET"])
            || starts(&["ANALYZE"])
        {
            return;
        }
        self.understood = false;
        self.danger(
            piece,
            "",
            "not_understood",
            &format!("the parser does not know it ({error}): the rehearsal shows what it does"),
        );
    }

    fn statement(&mut self, piece: &Piece, statement: &Statement, dropped: &mut Vec<String>) {
        let guarded = piece.guarded;
        let create = |there: bool| !there && !guarded;
        match statement {
            Statement::CreateTable(table) => {
                let name = table.name.to_string();
                if create(table.if_not_exists || table.temporary) && !dropped.contains(&name) {
                    self.violation(
                        piece,
                        &name,
                        "create_without_if_not_exists",
                        format!("write CREATE TABLE IF NOT EXISTS {name}"),
                    );
                }
                if !table.temporary {
                    self.created.tables.push(name);
                }
            }
            Statement::CreateIndex(index) => {
                let name = index.name.as_ref().map(ToString::to_string).unwrap_or_default();
                let table = index.table_name.to_string();
                if index.concurrently {
                    self.own_transaction = true;
                } else if !self.created.tables.contains(&table) {
                    self.danger(piece, &name, "index_locks_writes",
                        "on a big table it locks out writers while it is built: CREATE INDEX CONCURRENTLY, in a file by itself");
                }
                if name.is_empty() {
                    self.violation(
                        piece,
                        &table,
                        "create_without_if_not_exists",
                        format!("give it a name: without one, every run makes another index on {table}"),
                    );
                } else if create(index.if_not_exists) && !dropped.contains(&name) {
                    self.violation(
                        piece,
                        &name,
                        "create_without_if_not_exists",
                        format!("write CREATE INDEX IF NOT EXISTS {name}"),
                    );
                }
                if !name.is_empty() {
                    self.created.indexes.push(name);
                }
            }
            Statement::CreateView(view) => {
                let name = view.name.to_string();
                if create(view.or_replace || view.if_not_exists || view.temporary) && !dropped.contains(&name)
                {
                    let remedy = if view.materialized {
                        "write CREATE MATERIALIZED VIEW IF NOT EXISTS"
                    } else {
                        "write CREATE OR REPLACE VIEW"
                    };
                    self.violation(piece, &name, "create_without_if_not_exists", remedy.to_owned());
                }
            }
            Statement::CreateFunction(function) => {
                let name = function.name.to_string();
                if create(function.or_replace) && !dropped.contains(&name) {
                    self.violation(
                        piece,
                        &name,
                        "create_without_if_not_exists",
                        "write CREATE OR REPLACE FUNCTION".to_owned(),
                    );
                }
            }
            Statement::CreateTrigger(trigger) => {
                let name = trigger.name.to_string();
                if create(trigger.or_replace) && !dropped.contains(&name) {
                    self.violation(
                        piece,
                        &name,
                        "create_without_if_not_exists",
                        "write CREATE OR REPLACE TRIGGER".to_owned(),
                    );
                }
            }
            Statement::CreateSequence { if_not_exists, name, temporary, .. }
                if create(*if_not_exists || *temporary) =>
            {
                self.violation(
                    piece,
                    &name.to_string(),
                    "create_without_if_not_exists",
                    format!("write CREATE SEQUENCE IF NOT EXISTS {name}"),
                );
            }
            Statement::CreateSchema { if_not_exists, schema_name, .. } if create(*if_not_exists) => {
                self.violation(
                    piece,
                    &schema_name.to_string(),
                    "create_without_if_not_exists",
                    format!("write CREATE SCHEMA IF NOT EXISTS {schema_name}"),
                );
            }
            Statement::CreateExtension(extension) if create(extension.if_not_exists) => {
                self.violation(
                    piece,
                    &extension.name.to_string(),
                    "create_without_if_not_exists",
                    "write CREATE EXTENSION IF NOT EXISTS".to_owned(),
                );
            }
            // These know no IF NOT EXISTS.
            Statement::CreateType { .. }
            | Statement::CreateDomain(_)
            | Statement::CreatePolicy(_)
            | Statement::CreateRole(_)
            | Statement::CreateRule(_)
            | Statement::CreateOperator(_)
            | Statement::CreateAggregate(_)
            | Statement::CreateCollation(_)
                if !guarded =>
            {
                let object = match statement {
                    Statement::CreateType { name, .. } => name.to_string(),
                    _ => String::new(),
                };
                if object.is_empty() || !dropped.contains(&object) {
                    self.violation(
                        piece,
                        &object,
                        "create_without_if_not_exists",
                        "put it into DO $$ BEGIN IF NOT EXISTS (SELECT …) THEN … END IF; END $$".to_owned(),
                    );
                }
            }
            Statement::CreateDatabase { .. } => {
                self.own_transaction = true;
                self.violation(
                    piece,
                    "",
                    "create_without_if_not_exists",
                    "a migration of one database creates no other".to_owned(),
                );
            }
            Statement::AlterTable(alter) => self.alter_table(piece, alter, dropped),
            Statement::AlterType(alter) => self.alter_type(piece, &alter.name.to_string(), &alter.operation),
            Statement::Insert(insert) => {
                let looks_first = piece.text().to_uppercase().contains("WHERE NOT EXISTS");
                if insert.on.is_none() && !guarded && !looks_first {
                    self.violation(
                        piece,
                        &insert.table.to_string(),
                        "insert_without_on_conflict",
                        "add ON CONFLICT (…) DO UPDATE SET … (or DO NOTHING)".to_owned(),
                    );
                }
            }
            Statement::Update(update) => {
                for assignment in &update.assignments {
                    let column = assignment.target.to_string();
                    let value = assignment.value.to_string();
                    let own =
                        value.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == column);
                    // A function of itself may still be stable; one that counts is not.
                    if own && value.contains(['+', '-', '*', '/', '|']) && !guarded {
                        self.violation(piece, &column, "update_not_repeatable",
                            format!("`{column}` is computed from itself: a second run computes it again; bound it by WHERE on what the first run leaves"));
                    }
                }
            }
            Statement::Delete(delete) if delete.selection.is_none() => {
                self.danger(piece, "", "truncate", "it deletes every row");
            }
            Statement::Truncate(_) => {
                self.danger(piece, "", "truncate", "it deletes every row, under a lock that stops readers");
            }
            Statement::Drop { object_type, if_exists, names, .. } => {
                for name in names.iter().map(ToString::to_string) {
                    if !if_exists && !guarded {
                        self.violation(
                            piece,
                            &name,
                            "drop_without_if_exists",
                            format!("write DROP {object_type} IF EXISTS {name}"),
                        );
                    }
                    if matches!(
                        object_type,
                        ObjectType::Table
                            | ObjectType::Schema
                            | ObjectType::MaterializedView
                            | ObjectType::Sequence
                            | ObjectType::Type
                    ) {
                        self.danger(
                            piece,
                            &name,
                            "drop",
                            "what it holds is lost: only a backup brings it back",
                        );
                    }
                    dropped.push(name);
                }
            }
            Statement::DropFunction(drop) => {
                dropped.extend(drop.func_desc.iter().map(|one| one.name.to_string()));
            }
            Statement::DropTrigger(drop) => dropped.push(drop.trigger_name.to_string()),
            Statement::RenameTable(_) if !guarded => {
                self.violation(
                    piece,
                    "",
                    "rename",
                    "a second run finds nothing to rename: guard it with a DO block".to_owned(),
                );
            }
            Statement::StartTransaction { .. } | Statement::Commit { .. } | Statement::Rollback { .. }
                if !piece.inner =>
            {
                self.own_transaction = true;
            }
            Statement::Vacuum(_) => self.own_transaction = true,
            Statement::Copy { .. } => {
                self.psql = true;
                self.violation(
                    piece,
                    "",
                    "psql_command",
                    "write INSERT … ON CONFLICT: rows after COPY are for psql".to_owned(),
                );
            }
            _ => {}
        }
    }

    fn alter_table(&mut self, piece: &Piece, alter: &AlterTable, dropped: &mut Vec<String>) {
        let (table, guarded) = (alter.name.to_string(), piece.guarded);
        for operation in &alter.operations {
            match operation {
                AlterTableOperation::AddConstraint { constraint, not_valid } => {
                    let name = constraint_name(constraint);
                    if !guarded && !dropped.contains(&name) {
                        self.violation(piece, &name, "constraint_without_guard", format!(
                            "put it into DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conname = '{name}') THEN … END IF; END $$"));
                    }
                    let checks =
                        matches!(constraint, TableConstraint::ForeignKey(_) | TableConstraint::Check(_));
                    if checks && !not_valid && !self.created.tables.contains(&table) {
                        self.danger(piece, &name, "rewrites_table",
                            "it reads the whole table under a lock: ADD … NOT VALID, then VALIDATE CONSTRAINT in a later file");
                    }
                    if !name.is_empty() {
                        self.created.constraints.push((table.clone(), name));
                    }
                }
                AlterTableOperation::AddColumn { if_not_exists, column_def, .. } => {
                    let column = column_def.name.to_string();
                    if !if_not_exists && !guarded {
                        self.violation(
                            piece,
                            &column,
                            "alter_without_guard",
                            format!("write ADD COLUMN IF NOT EXISTS {column}"),
                        );
                    }
                    self.created.columns.push((table.clone(), column));
                }
                AlterTableOperation::DropColumn { if_exists, column_names, .. } => {
                    let column = column_names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                    if !if_exists && !guarded {
                        self.violation(
                            piece,
                            &column,
                            "drop_without_if_exists",
                            format!("write DROP COLUMN IF EXISTS {column}"),
                        );
                    }
                    self.danger(
                        piece,
                        &column,
                        "drop",
                        "what it holds is lost: only a backup brings it back",
                    );
                }
                AlterTableOperation::DropConstraint { if_exists, name, .. } => {
                    if !if_exists && !guarded {
                        self.violation(
                            piece,
                            &name.to_string(),
                            "drop_without_if_exists",
                            format!("write DROP CONSTRAINT IF EXISTS {name}"),
                        );
                    }
                    dropped.push(name.to_string());
                }
                AlterTableOperation::RenameColumn { .. }
                | AlterTableOperation::RenameTable { .. }
                | AlterTableOperation::RenameConstraint { .. }
                    if !guarded =>
                {
                    self.violation(
                        piece,
                        &table,
                        "rename",
                        "a second run finds nothing to rename: guard it with a DO block".to_owned(),
                    );
                }
                AlterTableOperation::AlterColumn {
                    column_name,
                    op: AlterColumnOperation::SetDataType { .. },
                } => {
                    self.danger(
                        piece,
                        &column_name.to_string(),
                        "rewrites_table",
                        "another type rewrites the whole table, under a lock that stops readers",
                    );
                }
                AlterTableOperation::AlterColumn {
                    column_name,
                    op: AlterColumnOperation::AddGenerated { .. },
                } if !guarded => {
                    self.violation(
                        piece,
                        &column_name.to_string(),
                        "alter_without_guard",
                        "guard it with a DO block: a second run fails".to_owned(),
                    );
                }
                _ => {}
            }
        }
    }

    fn alter_type(&mut self, piece: &Piece, name: &str, operation: &AlterTypeOperation) {
        match operation {
            AlterTypeOperation::AddValue(add) => {
                if !add.if_not_exists && !piece.guarded {
                    self.violation(
                        piece,
                        name,
                        "alter_without_guard",
                        format!("write ALTER TYPE {name} ADD VALUE IF NOT EXISTS"),
                    );
                }
                self.danger(
                    piece,
                    name,
                    "alter_type",
                    "a value of an enum cannot be removed again, nor be used in the transaction that adds it",
                );
            }
            AlterTypeOperation::Rename(_) | AlterTypeOperation::RenameValue(_) => {
                if !piece.guarded {
                    self.violation(
                        piece,
                        name,
                        "rename",
                        "a second run finds nothing to rename: guard it with a DO block".to_owned(),
                    );
                }
                self.danger(piece, name, "alter_type", "programs that use the old name fail at once");
            }
        }
    }
}

fn issue(piece: &Piece, object: &str, rule: &str, remedy: String) -> MigrationIssue {
    MigrationIssue {
        line: piece.line,
        statement: kind(piece),
        object: object.trim_matches('"').to_owned(),
        rule: rule.to_owned(),
        remedy,
    }
}

/// `CREATE TABLE`, `ALTER TABLE`, `INSERT`: what a statement is, in its own words.
fn kind(piece: &Piece) -> String {
    let between = ["UNIQUE", "OR", "REPLACE", "TEMP", "TEMPORARY", "UNLOGGED", "MATERIALIZED"];
    let mut words = piece.words().filter(|word| !between.contains(&word.as_str()));
    match words.next() {
        Some(first) if matches!(first.as_str(), "CREATE" | "ALTER" | "DROP" | "COMMENT") => {
            format!("{first} {}", words.next().unwrap_or_default())
        }
        Some(first) => first,
        None => piece.text().chars().take(40).collect(),
    }
}

pub(super) fn constraint_name(constraint: &TableConstraint) -> String {
    let name = match constraint {
        TableConstraint::Unique(own) => own.name.as_ref(),
        TableConstraint::PrimaryKey(own) => own.name.as_ref(),
        TableConstraint::ForeignKey(own) => own.name.as_ref(),
        TableConstraint::Check(own) => own.name.as_ref(),
        TableConstraint::Exclude(own) => own.name.as_ref(),
        _ => None,
    };
    name.map(|name| name.value.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
