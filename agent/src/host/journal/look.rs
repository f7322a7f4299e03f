//! Reading a journal without touching it, for the host's root: while the agent writes, or after it broke.

use std::{fmt, io, path::Path};

use data_encoding::HEXLOWER;
use prost::Message as _;
use vigie_proto::{text::escape, v1::Outcome};

use super::{
    Entry, FileStorage, Record, Storage,
    log::{Log, RecoverError},
};

/// One record, with its place in the chain.
pub struct Line {
    seq: u64,
    hash: [u8; 32],
    record: Record,
}

/// Every record of the journal in a folder, in its order, and where the chain breaks if it does.
///
/// # Errors
/// When the folder cannot be read.
pub fn look(folder: &Path) -> io::Result<(Vec<Line>, Option<u64>)> {
    lines(FileStorage::new(folder)?)
}

/// The same for what a simulated disk holds: the records.
///
/// # Errors
/// When the storage fails.
#[cfg(feature = "sim")]
pub fn records(storage: impl Storage) -> io::Result<(Vec<Record>, Option<u64>)> {
    let (lines, broken) = lines(storage)?;
    Ok((lines.into_iter().map(|line| line.record).collect(), broken))
}

fn lines(storage: impl Storage) -> io::Result<(Vec<Line>, Option<u64>)> {
    let mut lines = Vec::new();
    let mut storage = Untouched(storage);
    let read = Log::recover(&mut storage, |record, position| {
        lines.push(Line { seq: position.seq, hash: position.hash, record });
    });
    match read {
        Ok(_) => Ok((lines, None)),
        Err(RecoverError::Corrupt { seq }) => Ok((lines, Some(seq))),
        Err(RecoverError::Storage(error)) => Err(error),
    }
}

/// What an order did here, in the journal's words.
pub struct Action {
    pub at_ms: i64,
    pub operation: &'static str,
    pub stack: String,
    pub person: String,
    pub run: String,
    /// For an order of the host's own root: the runbook with the remedy; empty otherwise.
    pub remedy: String,
    /// A short word such as `succeeded`; empty while it runs, and where its end is not known.
    pub outcome: String,
}

/// Every order that began since a moment, oldest first.
///
/// # Errors
/// When the folder cannot be read.
pub fn actions(folder: &Path, since_ms: i64) -> io::Result<Vec<Action>> {
    let (lines, _) = look(folder)?;
    let mut found: Vec<(String, Action)> = Vec::new();
    for line in lines {
        match line.record.entry {
            Some(Entry::Started(started)) if line.record.at_ms >= since_ms => {
                let Some(mut operation) = started.request.and_then(|request| request.operation) else {
                    continue;
                };
                let action = Action {
                    at_ms: line.record.at_ms,
                    operation: operation.name(),
                    stack: operation.stack_mut().map(|stack| stack.clone()).unwrap_or_default(),
                    person: started.person,
                    run: started.run,
                    remedy: started.here.map(|here| here.remedy).unwrap_or_default(),
                    outcome: String::new(),
                };
                found.push((started.order, action));
            }
            Some(Entry::Finished(finished)) => {
                if let Some((_, action)) = found.iter_mut().find(|(order, _)| *order == finished.order) {
                    let outcome = Outcome::decode(finished.outcome.as_slice()).unwrap_or_default();
                    outcome.status().word().clone_into(&mut action.outcome);
                }
            }
            _ => {}
        }
    }
    Ok(found.into_iter().map(|(_, action)| action).collect())
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = chrono::DateTime::from_timestamp_millis(self.record.at_ms).unwrap_or_default();
        let at = at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        write!(f, "{:>6} {} {at} ", self.seq, &HEXLOWER.encode(&self.hash)[..12])?;
        let show = |text: &str| escape(text, false).into_owned();
        match &self.record.entry {
            None => write!(f, "a record of a newer agent"),
            Some(Entry::Opened(opened)) => write!(f, "the agent {} starts", show(&opened.agent_version)),
            Some(Entry::Started(started)) => {
                let operation = started.request.as_ref().and_then(|request| request.operation.as_ref());
                let operation =
                    operation.map_or("an operation of a newer agent", |operation| operation.name());
                let by = if started.here.is_some() { "ordered here by" } else { "signed by" };
                write!(f, "started {} {operation}, {by} {}", show(&started.order), show(&started.person))
            }
            Some(Entry::Finished(finished)) => {
                let outcome = Outcome::decode(finished.outcome.as_slice()).unwrap_or_default();
                write!(f, "ended {} {}", show(&finished.order), outcome.status().word())?;
                match outcome.failure {
                    Some(failure) => write!(f, " ({}): {}", show(&failure.code), show(&failure.message)),
                    None => Ok(()),
                }
            }
            Some(Entry::Acknowledged(acknowledged)) => {
                write!(f, "acknowledged {}", show(&acknowledged.orders.join(" ")))
            }
            Some(Entry::Denied(denied)) => {
                write!(
                    f,
                    "denied ({}): {}; it called itself {:?}",
                    show(&denied.code),
                    show(&denied.reason),
                    denied.claimed
                )?;
                if denied.unrecorded > 0 {
                    write!(f, ", and {} more since the last", denied.unrecorded)
                } else {
                    Ok(())
                }
            }
        }
    }
}

/// A storage that only reads: what recovery would mend is left as it is.
struct Untouched<S>(S);

impl<S: Storage> Storage for Untouched<S> {
    fn segments(&mut self) -> io::Result<Vec<u64>> {
        self.0.segments()
    }

    fn create(&mut self, _: u64, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn read(&mut self, segment: u64) -> io::Result<Vec<u8>> {
        self.0.read(segment)
    }

    fn write(&mut self, _: u64, _: usize, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn sync(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn remove(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }
}
