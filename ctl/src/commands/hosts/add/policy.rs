//! What the standard policy is to let `exec` run.

use crate::error::Error;

/// Free-form programs that orders may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Exec {
    Nothing,
    Programs(Vec<String>),
    Anything,
}

impl Exec {
    /// What `--allow-exec` says.
    pub(super) fn of(programs: &[String]) -> Result<Self, Error> {
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
    pub(super) fn script(&self) -> (String, String) {
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

    /// For the person who chose.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Nothing => {
                "orders may restart and bring up the stacks found here, and run no other program".to_owned()
            }
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
}
