//! Which locks a statement takes on tables that are there already, and which of them go together. Pure.
//!
//! The modes and their conflicts are those of PostgreSQL's manual, chapter "Explicit Locking".

use sqlparser::ast::{
    AlterTableOperation, FromTable, ObjectType, Statement, TableConstraint, TableFactor, TableObject,
    TableWithJoins,
};

use super::lint::constraint_name;

/// A lock on a table, the weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    AccessShare,
    RowShare,
    RowExclusive,
    ShareUpdateExclusive,
    Share,
    ShareRowExclusive,
    Exclusive,
    AccessExclusive,
}

impl Mode {
    const ALL: [Self; 8] = [
        Self::AccessShare,
        Self::RowShare,
        Self::RowExclusive,
        Self::ShareUpdateExclusive,
        Self::Share,
        Self::ShareRowExclusive,
        Self::Exclusive,
        Self::AccessExclusive,
    ];

    /// As `pg_locks` writes it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::AccessShare => "AccessShareLock",
            Self::RowShare => "RowShareLock",
            Self::RowExclusive => "RowExclusiveLock",
            Self::ShareUpdateExclusive => "ShareUpdateExclusiveLock",
            Self::Share => "ShareLock",
            Self::ShareRowExclusive => "ShareRowExclusiveLock",
            Self::Exclusive => "ExclusiveLock",
            Self::AccessExclusive => "AccessExclusiveLock",
        }
    }

    /// Reads a mode of `pg_locks`.
    pub(super) fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.word() == word)
    }

    /// Whether a session that wants this has to wait for one that holds the other.
    pub(super) fn waits_for(self, held: Self) -> bool {
        // Those that go together with a mode are, but for one, all that are weak enough.
        let strongest = |mode: Self| match mode {
            Self::AccessShare => Self::Exclusive,
            Self::RowShare => Self::ShareRowExclusive,
            Self::RowExclusive => Self::ShareUpdateExclusive,
            Self::ShareUpdateExclusive => Self::RowExclusive,
            Self::Share | Self::ShareRowExclusive => Self::RowShare,
            Self::Exclusive | Self::AccessExclusive => Self::AccessShare,
        };
        match (self, held) {
            (Self::Share, Self::Share) => false,
            (Self::AccessExclusive, _) | (_, Self::AccessExclusive) => true,
            (wanted, held) => held > strongest(wanted),
        }
    }
}

/// What a statement takes on a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Touched {
    /// As it is written.
    pub table: String,
    pub mode: Mode,
    /// Where a block looks first: what it looks for. It is not touched where that is there.
    pub unless: Option<String>,
}

/// Which locks a statement takes. One that alters something in a way that is not known here takes the strongest.
pub(super) fn of(statement: &Statement, guarded: bool) -> Vec<Touched> {
    let mut touched = Vec::new();
    let mut take = |table: String, mode: Mode, object: &str| {
        let unless = (guarded && !object.is_empty()).then(|| object.to_owned());
        touched.push(Touched { table, mode, unless });
    };
    match statement {
        Statement::CreateIndex(index) => {
            let mode = if index.concurrently { Mode::ShareUpdateExclusive } else { Mode::Share };
            take(index.table_name.to_string(), mode, "");
        }
        Statement::CreateTrigger(trigger) => {
            take(trigger.table_name.to_string(), Mode::ShareRowExclusive, "");
        }
        Statement::AlterTable(alter) => {
            for operation in &alter.operations {
                let table = alter.name.to_string();
                match operation {
                    AlterTableOperation::AddConstraint { constraint, .. } => {
                        let name = constraint_name(constraint);
                        if let TableConstraint::ForeignKey(foreign) = constraint {
                            take(foreign.foreign_table.to_string(), Mode::ShareRowExclusive, &name);
                            take(table, Mode::ShareRowExclusive, &name);
                        } else {
                            take(table, Mode::AccessExclusive, &name);
                        }
                    }
                    AlterTableOperation::ValidateConstraint { .. } => {
                        take(table, Mode::ShareUpdateExclusive, "");
                    }
                    _ => take(table, Mode::AccessExclusive, ""),
                }
            }
        }
        Statement::Drop { object_type: ObjectType::Table, names, .. } => {
            for name in names {
                take(name.to_string(), Mode::AccessExclusive, "");
            }
        }
        Statement::Truncate(truncate) => {
            for target in &truncate.table_names {
                take(target.name.to_string(), Mode::AccessExclusive, "");
            }
        }
        Statement::Insert(insert) => {
            if let TableObject::TableName(name) = &insert.table {
                take(name.to_string(), Mode::RowExclusive, "");
            }
        }
        Statement::Update(update) => {
            if let Some(name) = table_of(&update.table) {
                take(name, Mode::RowExclusive, "");
            }
        }
        Statement::Delete(delete) => {
            let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
            for name in from.iter().filter_map(table_of) {
                take(name, Mode::RowExclusive, "");
            }
        }
        _ => {}
    }
    touched
}

fn table_of(table: &TableWithJoins) -> Option<String> {
    match &table.relation {
        TableFactor::Table { name, .. } => Some(name.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicts_are_the_manuals() {
        // A row for each mode that is wanted, a column for each that is held, in their order.
        let manual =
            ["-------x", "------xx", "----xxxx", "---xxxxx", "--xx-xxx", "--xxxxxx", "-xxxxxxx", "xxxxxxxx"];
        for (wanted, row) in Mode::ALL.into_iter().zip(manual) {
            let found: String =
                Mode::ALL.into_iter().map(|held| if wanted.waits_for(held) { 'x' } else { '-' }).collect();
            assert_eq!(found, row, "{wanted:?}");
        }
        assert!(Mode::ALL.into_iter().all(|mode| Mode::of_word(mode.word()) == Some(mode)));
    }
}
