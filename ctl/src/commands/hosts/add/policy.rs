//! What the standard policy is to allow beside what it always does.

use vigie_proto::operation::{OPERATIONS, Operation};

use crate::error::Error;

/// What a host's owner asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) exec: Exec,
    /// Operations by name, of those that have to be asked for.
    pub(super) operations: Vec<&'static str>,
}

impl Wanted {
    /// What `--allow-exec` and `--allow` say.
    pub(super) fn of(programs: &[String], operations: &[String]) -> Result<Self, Error> {
        let known = |name: &String| {
            let found =
                Operation::find(name).filter(|operation| rare().any(|rare| rare.name == operation.name));
            found.map(|operation| operation.name).ok_or_else(|| {
                let names: Vec<_> = rare().map(|operation| operation.name).collect();
                Error::usage(
                    format!("--allow {name:?} is no operation that the standard policy leaves out"),
                    format!("those are {}", names.join(", ")),
                )
            })
        };
        let operations = operations.iter().map(known).collect::<Result<_, _>>()?;
        Ok(Self { exec: Exec::of(programs)?, operations })
    }

    /// Shell lines that look the programs up on the host, and the arguments of `vigie-agent policy standard`.
    pub(super) fn script(&self) -> (String, String) {
        let (lookups, mut arguments) = self.exec.script();
        for operation in &self.operations {
            arguments.push_str(&format!(" --allow {operation}"));
        }
        (lookups, arguments)
    }

    /// For the person who chose.
    pub(super) fn words(&self) -> String {
        let mut words = "orders may do on the stacks found here what can be undone or is bounded".to_owned();
        if !self.operations.is_empty() {
            words.push_str(&format!(", also {}", self.operations.join(", ")));
        }
        format!("{words}; {}", self.exec.words())
    }
}

/// The operations that the standard policy has to be asked for. Programs have a flag of their own.
pub(super) fn rare() -> impl Iterator<Item = &'static Operation> {
    OPERATIONS.iter().filter(|operation| operation.asked_for && operation.name != "exec")
}

/// Free-form programs that orders may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Exec {
    Nothing,
    Programs(Vec<String>),
    Anything,
}

impl Exec {
    /// What `--allow-exec` says.
    fn of(programs: &[String]) -> Result<Self, Error> {
        if programs.is_empty() {
            return Ok(Self::Nothing);
        }
        let fits = |program: &&String| {
            let is_word = program.bytes().all(|b| b.is_ascii_alphanumeric() || b"_./+-".contains(&b));
            // A path from somewhere is none; a bare name is looked up on the host.
            is_word
                && !program.is_empty()
                && !program.starts_with('-')
                && program.contains('/') == program.starts_with('/')
        };
        match programs.iter().find(|program| !fits(program)) {
            None => Ok(Self::Programs(programs.to_vec())),
            Some(bad) => Err(Error::usage(
                format!("--allow-exec {bad:?} is neither a program's name nor an absolute path"),
                "write it as on the host: --allow-exec uptime, --allow-exec /usr/bin/uptime",
            )),
        }
    }

    /// Shell lines that look the programs up on the host, and the arguments of `vigie-agent policy standard`.
    fn script(&self) -> (String, String) {
        match self {
            Self::Nothing => (String::new(), String::new()),
            Self::Anything => (String::new(), " --exec-any".to_owned()),
            Self::Programs(programs) => programs
                .iter()
                .enumerate()
                .map(|(n, program)| {
                    (format!("p{n}=$(find_program {program})\n"), format!(" --exec \"$p{n}\""))
                })
                .collect(),
        }
    }

    /// The same in words.
    fn words(&self) -> String {
        match self {
            Self::Nothing => "orders may run no program of their own".to_owned(),
            Self::Programs(programs) => format!("orders may also run {}", programs.join(", ")),
            Self::Anything => "orders may also run any program".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_and_whole_paths_are_let_through() {
        let of = |programs: &[&str]| Exec::of(&programs.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&[]).unwrap(), Exec::Nothing);
        let (lines, arguments) = of(&["/usr/bin/uptime", "df"]).unwrap().script();
        assert_eq!(lines, "p0=$(find_program /usr/bin/uptime)\np1=$(find_program df)\n");
        assert_eq!(arguments, " --exec \"$p0\" --exec \"$p1\"");
        for bad in ["./uptime", "bin/sh", "/bin/sh -c x", "/bin/$(id)", "/a'b", "-x", ""] {
            assert!(of(&[bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_what_has_to_be_asked_for_can_be() {
        for rare in rare() {
            let wanted = Wanted::of(&[], &[rare.name.to_owned()]).unwrap();
            assert_eq!(wanted.script().1, format!(" --allow {}", rare.name));
            assert!(wanted.words().contains(rare.name));
        }
        for bad in ["exec", "compose_restart", "host_load", "nonsense"] {
            assert!(Wanted::of(&[], &[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
