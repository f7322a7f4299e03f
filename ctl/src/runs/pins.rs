//! Which host a name stood for when this machine last signed for it. The controller says what a name means; from the
//! first signature on, it cannot say something else.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use vigie_proto::{text::escape, v1::Target};
use vigie_transport::credential::{read_private, write_private};

use super::consent::Distrust;
use crate::error::Error;

/// One context's names: a line `NAME ID INCARNATION` each.
pub(crate) struct Pins {
    file: PathBuf,
    known: BTreeMap<String, (String, u64)>,
}

impl Pins {
    /// The pins in a context's state folder; none where nothing was signed yet.
    pub(crate) fn of(state: &Path) -> Result<Self, Error> {
        let file = state.join("hosts");
        let text = if file.exists() { read_private(&file)?.to_string() } else { String::new() };
        let line = |line: &str| {
            let mut words = line.split_whitespace();
            let (name, id, incarnation) = (words.next()?, words.next()?, words.next()?.parse().ok()?);
            Some((name.to_owned(), (id.to_owned(), incarnation)))
        };
        Ok(Self { known: text.lines().filter_map(line).collect(), file })
    }

    /// Holds targets against what their names stood for. An enrolment may be newer than the one that is known, and never
    /// older.
    pub(crate) fn check<'a>(&self, targets: impl Iterator<Item = &'a Target>) -> Result<(), Distrust> {
        for target in targets {
            if let Some((id, incarnation)) = self.known.get(&target.host_name)
                && (*id != target.host || target.incarnation < *incarnation)
            {
                let show = |text: &str| escape(text, false).into_owned();
                return Err(Distrust::OtherIdentity {
                    name: show(&target.host_name),
                    told: format!("{} (enrolment {})", show(&target.host), target.incarnation),
                    known: format!("{id} (enrolment {incarnation})"),
                });
            }
        }
        Ok(())
    }

    /// Remembers targets that are signed for.
    pub(crate) fn remember<'a>(mut self, targets: impl Iterator<Item = &'a Target>) -> Result<(), Error> {
        let before = self.known.clone();
        for target in targets {
            self.known.insert(target.host_name.clone(), (target.host.clone(), target.incarnation));
        }
        if self.known == before {
            return Ok(());
        }
        let lines = self.known.iter().map(|(name, (id, incarnation))| format!("{name} {id} {incarnation}\n"));
        write_private(&self.file, lines.collect::<String>().as_bytes())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str, host: &str, incarnation: u64) -> Target {
        Target { host: host.to_owned(), host_name: name.to_owned(), incarnation, stack: String::new() }
    }

    #[test]
    fn a_name_that_was_signed_for_stays_the_same_host() {
        let state = tempfile::tempdir().unwrap();
        let pins = || Pins::of(state.path()).unwrap();
        let staging = target("staging1", "a", 1);
        assert_eq!(pins().check([&staging].into_iter()), Ok(()));
        pins().remember([&staging].into_iter()).unwrap();
        assert_eq!(pins().check([&staging, &target("prod1", "b", 1)].into_iter()), Ok(()));
        assert!(
            pins().check([&target("staging1", "b", 1)].into_iter()).is_err(),
            "another host under its name"
        );
        assert_eq!(pins().check([&target("staging1", "a", 2)].into_iter()), Ok(()), "enrolled anew");
        pins().remember([&target("staging1", "a", 2)].into_iter()).unwrap();
        assert!(pins().check([&staging].into_iter()).is_err(), "an enrolment that is over");
    }
}
