//! What `docker compose --dry-run up --no-start` prints, read as changes.
//!
//! The lines were captured from Compose 2.26. `up -d` is not asked for: its dry run also waits for dependencies to
//! become healthy (half a second when they are, an error when one is stopped), and says nothing more about what would
//! change.

use std::collections::BTreeMap;

/// What would become of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    None,
    /// It exists, does not run, and would be started as it is.
    Start,
    Create,
    Recreate,
}

impl Change {
    /// The catalogue's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Start => "start",
            Self::Create => "create",
            Self::Recreate => "recreate",
        }
    }
}

/// What a dry run says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DryRun {
    /// By container name.
    pub containers: BTreeMap<String, Change>,
    /// Services whose image does not exist and would be built first.
    pub builds: Vec<String>,
    /// Variables that the files use and that nothing sets.
    pub unset: Vec<String>,
}

impl DryRun {
    /// Reads what Compose wrote on its standard error.
    pub fn parse(text: &str) -> Self {
        let mut found = Self { unset: unset_variables(text), ..Self::default() };
        for line in text.lines() {
            let Some(line) = line.trim_start().strip_prefix("DRY-RUN MODE -") else { continue };
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["build", "service", service] => found.builds.push((*service).to_owned()),
                ["Container", name, state] => found.container(name, state),
                _ => {}
            }
        }
        found
    }

    fn container(&mut self, name: &str, state: &str) {
        let change = match state {
            "Running" => Change::None,
            // `Created` alone means that it exists and is stopped; after `Creating` it says nothing new. A paused
            // container is `Restart`.
            "Created" | "Restart" => Change::Start,
            "Creating" => Change::Create,
            "Recreate" => Change::Recreate,
            _ => return,
        };
        let known = self.containers.entry(name.to_owned()).or_insert(change);
        *known = (*known).max(change);
    }

    /// Whether a container would be made anew.
    pub fn recreates(&self) -> bool {
        self.containers.values().any(|change| *change == Change::Recreate)
    }
}

/// The variables that Compose warns of (or stops at) because nothing sets them, in either generation's words.
pub fn unset_variables(stderr: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in stderr.lines() {
        let line = line.replace("\\\"", "\"");
        let name = if let Some(rest) = line.split_once("required variable ").map(|(_, rest)| rest) {
            rest.split_once(" is missing a value").map(|(name, _)| name)
        } else if let Some((before, _)) = line.split_once(" variable is not set") {
            before.rsplit_once("he ").map(|(_, name)| name)
        } else if line.starts_with("Missing mandatory value for ") {
            // Compose 1 shows the whole section that holds the variable.
            line.split("${").find_map(|part| {
                let (name, message) = part.split_once('?')?;
                let name = name.strip_suffix(':').unwrap_or(name);
                (!message.is_empty() && !name.contains('}')).then_some(name)
            })
        } else {
            None
        };
        let name = name.map(|name| name.trim_matches('"'));
        if let Some(name) = name.filter(|name| !name.is_empty() && !found.iter().any(|known| known == name)) {
            found.push(name.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn changes(text: &str) -> Vec<(String, Change)> {
        DryRun::parse(text).containers.into_iter().collect()
    }

    fn one(name: &str, change: Change) -> (String, Change) {
        (name.to_owned(), change)
    }

    /// Captured from Compose 2.26.1 against Docker 20.10.
    #[test]
    fn captured_dry_runs() {
        let running = " DRY-RUN MODE -  Container opstest-redis  Running\n DRY-RUN MODE -  Container opstest-backend  Running\n";
        assert_eq!(
            changes(running),
            [one("opstest-backend", Change::None), one("opstest-redis", Change::None)]
        );
        let stopped = " DRY-RUN MODE -  Container opstest-redis  Running\n DRY-RUN MODE -  Container opstest-backend  Created\n";
        assert_eq!(
            changes(stopped),
            [one("opstest-backend", Change::Start), one("opstest-redis", Change::None)]
        );
        let gone = " DRY-RUN MODE -    build service backend \n DRY-RUN MODE -  ==> ==> writing image dryRun-754a \n \
                    DRY-RUN MODE -  Network opstest_default  Creating\n DRY-RUN MODE -  Network opstest_default  Created\n \
                    DRY-RUN MODE -  Volume \"opstest-redis-data\"  Creating\n \
                    DRY-RUN MODE -  Container opstest-backend  Creating\n DRY-RUN MODE -  Container opstest-backend  Created\n";
        assert_eq!(changes(gone), [one("opstest-backend", Change::Create)]);
        assert_eq!(DryRun::parse(gone).builds, ["backend"]);
        let changed = " DRY-RUN MODE -  Container opstest-redis  Running\n DRY-RUN MODE -  Container opstest-backend  Recreate\n \
                       DRY-RUN MODE -  Container opstest-backend  Recreated\n";
        assert_eq!(
            changes(changed),
            [one("opstest-backend", Change::Recreate), one("opstest-redis", Change::None)]
        );
        assert!(DryRun::parse(changed).recreates());
        let paused = " DRY-RUN MODE -  Container a  Restart\n DRY-RUN MODE -  Container a  Restarted\n";
        assert_eq!(changes(paused), [one("a", Change::Start)]);
    }

    /// Captured from Compose 2.26.1 and 1.29.2.
    #[test]
    fn captured_warnings() {
        let v2 = "time=\"2026-11-23T06:38:41Z\" level=warning msg=\"The \\\"ENV_FILE\\\" variable is not set. Defaulting to a blank string.\"\n\
                  time=\"2026-11-23T06:38:41Z\" level=warning msg=\"The \\\"ENV_FILE\\\" variable is not set. Defaulting to a blank string.\"\n\
                  env file  not found: stat : no such file or directory\n";
        assert_eq!(unset_variables(v2), ["ENV_FILE"]);
        assert_eq!(
            unset_variables("The NOPE variable is not set. Defaulting to a blank string.\n"),
            ["NOPE"]
        );
        let required =
            "error while interpolating services.a.image: required variable TAG is missing a value: set it\n";
        assert_eq!(unset_variables(required), ["TAG"]);
        let required = "Missing mandatory value for \"environment\" option interpolating {'REDIS_PASSWORD': \
                        '${REDIS_PASSWORD}', 'X': '${NOPE:?set it}'} in service \"redis\": set it";
        assert_eq!(unset_variables(required), ["NOPE"]);
        assert_eq!(unset_variables("no configuration file provided: not found"), [""; 0]);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "( DRY-RUN MODE - |Container|  |Recreate|\\n|The |\" variable is not set|\\PC){0,40}") {
            DryRun::parse(&text);
            unset_variables(&text);
        }
    }
}
