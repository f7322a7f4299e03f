//! The command line's grammar, apart from what the commands do.
//!
//! Everything that the catalogue describes (the operations of `probe` and `do`, their fields, their help) is built
//! from the descriptors in [`operation`]; the rest is written here.

pub(crate) mod operation;
pub(crate) mod selection;

use std::{path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, Parser, Subcommand};
use vigie_proto::v1::{Label, NoteIncidentRequest, Parameter};

use crate::output::Format;
use operation::{Change, Observation};
use selection::Selection;

/// Find out what is wrong on a fleet of hosts, and put it right.
///
/// Data goes to stdout, talk to stderr. Exit status: 0 all succeeded, 1 some or all failed, 2 wrong usage,
/// 3 some hosts unreachable, 4 refused, 5 in doubt, 6 findings confirmed, 7 the controller cannot be reached,
/// 130 interrupted (the run goes on). The worst outcome decides: 5 > 1 > 4 > 3 > 6 > 0.
#[derive(Debug, Parser)]
#[command(
    name = "vigiectl",
    version,
    max_term_width = 110,
    arg_required_else_help = true,
    after_help = "What is wrong?         vigiectl status; vigiectl diagnose -l env=prod\n\
                  What would be done?    vigiectl plan backend-502 -H vps1\n\
                  Do it, and verify:     vigiectl run backend-502 -H vps1"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// How data is given out (wide: with ids; ndjson: one JSON value a line, for each host, run or event)
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Global options"
    )]
    pub output: Format,
    /// The controller to talk to, by the name that `login` gave it
    #[arg(long, global = true, value_name = "NAME", help_heading = "Global options")]
    pub context: Option<String>,
    /// Agree beforehand: do not ask
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub yes: bool,
    /// Agree beforehand to lose what a plan shows, too: --yes alone does not
    #[arg(long, global = true, help_heading = "Global options")]
    pub yes_destroy: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Become an operator: redeem the token that `vigie-controller init` printed (on stdin)
    Login(Login),
    /// Show what is wrong first, then every host in a line
    Status {
        #[command(flatten)]
        selection: Selection,
    },
    /// What changed on hosts, newest first: deployments, files, packages, reboots, Vigie's own actions
    Changes(Changes),
    /// Find out what is wrong, with evidence; changes nothing
    Diagnose(Diagnose),
    /// Show exactly what a runbook's remedy would do, and where; changes nothing
    Plan(Remedied),
    /// Diagnose, propose, ask, act and verify
    Run(Remedied),
    /// Ask hosts one thing; changes nothing
    #[command(
        subcommand_value_name = "OPERATION",
        subcommand_help_heading = "Operations",
        arg_required_else_help = true
    )]
    Probe {
        #[command(subcommand)]
        call: Observation,
    },
    /// Do one thing on hosts, after you agreed to the plan
    #[command(
        subcommand_value_name = "OPERATION",
        subcommand_help_heading = "Operations",
        arg_required_else_help = true
    )]
    Do {
        #[command(subcommand)]
        call: Change,
    },
    /// Read the end of logs: all services of a stack, or one service, container, unit or file
    Logs(Logs),
    /// Run a program on hosts (never a shell); asks first unless every host is named
    Exec(Exec),
    /// What was asked of the fleet, and what became of it
    #[command(subcommand)]
    Runs(Runs),
    /// What went wrong on the fleet, and how it was mended and written up
    #[command(subcommand)]
    Incidents(Incidents),
    /// The runbooks that the controller knows
    #[command(subcommand)]
    Runbooks(Runbooks),
    /// The catalogue: everything that an agent can do
    #[command(subcommand)]
    Operations(Operations),
    /// Hosts, and how they join
    #[command(subcommand)]
    Hosts(Hosts),
}

#[derive(Debug, Args)]
pub(crate) struct Login {
    /// The file that holds the token; `-` reads it from stdin
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub token_file: PathBuf,
    /// The name to go by: it stands in the audit log and under what you sign [default: your user name]
    #[arg(long)]
    pub name: Option<String>,
    /// Log in anew although this context exists; its keys are replaced
    #[arg(long)]
    pub replace: bool,
}

/// What changed, where, and since when.
#[derive(Debug, Args)]
pub(crate) struct Changes {
    #[command(flatten)]
    pub selection: Selection,
    /// How far back to look: `2h`, `7d`
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "24h")]
    pub since: Duration,
    /// How many at most from each host
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub limit: u32,
}

/// A runbook, where, and with what.
#[derive(Debug, Args)]
pub(crate) struct Runbook {
    /// The runbook's id; `vigiectl runbooks list` shows them
    pub runbook: String,
    /// A parameter of the runbook
    #[arg(short, long = "param", value_name = "KEY=VALUE", value_parser = parameter)]
    pub parameters: Vec<Parameter>,
    #[command(flatten)]
    pub selection: Selection,
}

#[derive(Debug, Args)]
pub(crate) struct Diagnose {
    /// The runbook's id; without one every runbook is run, and what is found is ranked over the fleet
    pub runbook: Option<String>,
    /// A parameter of the runbook
    #[arg(short, long = "param", value_name = "KEY=VALUE", value_parser = parameter, requires = "runbook")]
    pub parameters: Vec<Parameter>,
    #[command(flatten)]
    pub selection: Selection,
    /// Write what the probes answered as a case for `vigiectl runbooks test`; a folder takes several targets
    #[arg(long, value_name = "FILE", requires = "runbook")]
    pub record: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Remedied {
    #[command(flatten)]
    pub runbook: Runbook,
    /// The remedy, instead of the one that the rules choose
    #[arg(long, value_name = "REMEDY")]
    pub remedy: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    pub selection: Selection,
    #[command(flatten)]
    pub limit: Limit,
    /// A container by its name, whatever made it
    #[arg(value_name = "CONTAINER", conflicts_with_all = ["services", "unit", "file"])]
    pub container: Option<String>,
    /// Only this Compose service; may be repeated
    #[arg(long = "service", value_name = "SERVICE", conflicts_with_all = ["unit", "file"])]
    pub services: Vec<String>,
    /// The journal of a systemd unit
    #[arg(long, value_name = "UNIT", conflicts_with = "file")]
    pub unit: Option<String>,
    /// A file, in a folder that the host's policy allows
    #[arg(long, value_name = "PATH")]
    pub file: Option<String>,
    /// How many lines (of each service)
    #[arg(short = 'n', long, default_value_t = 100, value_name = "LINES")]
    pub lines: u32,
    /// Only what was written since then: `10m`
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with_all = ["unit", "file"])]
    pub since: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    pub selection: Selection,
    #[command(flatten)]
    pub limit: Limit,
    /// The program and its arguments, handed over as they are
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    pub words: Vec<String>,
}

/// How long an operation may run.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Limit {
    /// How long it may run on a host: `30s`, `5m` [default: the catalogue's]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub timeout: Option<Duration>,
}

impl Limit {
    /// In milliseconds; 0 stands for the catalogue's.
    pub(crate) fn ms(self) -> u32 {
        self.timeout.map_or(0, |limit| u32::try_from(limit.as_millis()).unwrap_or(u32::MAX))
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Runs {
    /// The newest runs
    List {
        /// How many
        #[arg(short = 'n', long, default_value_t = 20)]
        limit: u32,
    },
    /// One run from its opening to its end
    Show {
        /// Its id, or the beginning of it
        run: String,
        /// As a report in Markdown, for the post-mortem
        #[arg(long)]
        report: bool,
        /// Write what the probes answered as a case for `vigiectl runbooks test`; a folder takes several targets
        #[arg(long, value_name = "FILE", conflicts_with = "report")]
        record: Option<PathBuf>,
    },
    /// Attach to a run that goes on
    Watch {
        /// Its id, or the beginning of it
        run: String,
    },
    /// Take a run up again: send it if it never arrived, agree to its plan if it waits
    Resume {
        /// Its id, or the beginning of it
        run: String,
    },
    /// Say that a person has done what the run waits for
    #[command(visible_alias = "done")]
    Approve {
        /// Its id, or the beginning of it
        run: String,
        /// On this host alone; may be repeated. Without it: wherever a person is waited for
        #[arg(short = 'H', long = "host")]
        hosts: Vec<String>,
        /// What to remember with it, for the timeline
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Say what you found where an order was left in doubt: it happened, or it did not
    #[command(group = ArgGroup::new("found").args(["done", "not_done"]).required(true))]
    Resolve {
        /// Its id, or the beginning of it
        run: String,
        /// On this host alone; may be repeated. Without it: wherever something is in doubt
        #[arg(short = 'H', long = "host")]
        hosts: Vec<String>,
        /// Of this stack alone, where a host has several
        #[arg(long)]
        stack: Option<String>,
        /// What was ordered has happened
        #[arg(long)]
        done: bool,
        /// It has not
        #[arg(long)]
        not_done: bool,
        /// By what you saw it, for the timeline
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Ask for the same again where it did not go well, stack by stack: a new run, with new orders. What is in doubt is left
    /// out until `runs resolve`
    Retry {
        /// Its id, or the beginning of it
        run: String,
        /// On this host alone; may be repeated
        #[arg(short = 'H', long = "host")]
        hosts: Vec<String>,
        /// On this stack alone, where a host has several
        #[arg(long)]
        stack: Option<String>,
    },
    /// End a run, or say no to its plan; what runs is stopped where it can be
    Cancel {
        /// Its id, or the beginning of it
        run: String,
        /// Why, for the timeline
        #[arg(long, default_value = "")]
        reason: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Incidents {
    /// The newest incidents
    List {
        /// Those that are closed too
        #[arg(long)]
        closed: bool,
        /// How many
        #[arg(short = 'n', long, default_value_t = 20)]
        limit: u32,
    },
    /// One incident: what shows, its causes, what was done
    Show {
        /// Its id, or the beginning of it
        incident: String,
    },
    /// The post-mortem in Markdown
    Report {
        /// Its id, or the beginning of it
        incident: String,
        /// The text of a ticket for the permanent fix instead
        #[arg(long)]
        ticket: bool,
    },
    /// Write something to an incident: a note, its cause, its fix, a ticket, what is done
    Note(IncidentNote),
    /// End an incident for good
    Close {
        /// Its id, or the beginning of it
        incident: String,
        /// Also while something shows
        #[arg(long)]
        force: bool,
    },
}

/// A person's word about an incident.
#[derive(Debug, Args)]
#[group(id = "word", required = true, multiple = true, args = ["note", "cause", "fix", "ticket", "done"])]
pub(crate) struct IncidentNote {
    /// Its id, or the beginning of it
    pub incident: String,
    /// A line for the timeline
    pub note: Option<String>,
    /// Why it happened
    #[arg(long, value_name = "TEXT")]
    pub cause: Option<String>,
    /// What was done
    #[arg(long, value_name = "TEXT")]
    pub fix: Option<String>,
    /// Where the permanent fix is followed up; `none` where none is needed
    #[arg(long, value_name = "TEXT")]
    pub ticket: Option<String>,
    /// A line of the checklist that is done, by its number; may be repeated
    #[arg(long, value_name = "LINE", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub done: Vec<u32>,
}

impl IncidentNote {
    pub(crate) fn request(self) -> NoteIncidentRequest {
        NoteIncidentRequest {
            incident: self.incident,
            note: self.note.unwrap_or_default(),
            cause: self.cause.unwrap_or_default(),
            fix: self.fix.unwrap_or_default(),
            ticket: self.ticket.unwrap_or_default(),
            done: self.done,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Runbooks {
    /// All of them
    List,
    /// One runbook's text
    Show { runbook: String },
    /// Check runbook files; needs no controller
    Lint {
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Judge recorded cases, and say what does not come out as they demand; needs no controller
    Test {
        /// Runbook files, folders of them, single cases, or ids [default: the runbooks here that have cases]
        #[arg(value_name = "FILE|ID")]
        named: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Operations {
    /// All of them
    List,
    /// One operation: its arguments, its result, and what it needs
    Show { operation: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Hosts {
    /// Install the agent over ssh, enrol it, give it the standard policy, start it
    Add(Box<HostsAdd>),
    /// Every host in a line
    List {
        #[command(flatten)]
        selection: Selection,
    },
    /// One host: facts, stacks, policy
    Show {
        /// Its name or id
        host: String,
    },
    /// Make a one-time join token, printed on stdout, for `vigie-agent enroll`
    Token {
        /// The host's name
        name: String,
        #[command(flatten)]
        joining: Joining,
    },
}

/// What a host's token says of it.
#[derive(Debug, Args)]
pub(crate) struct Joining {
    /// A label of the host; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<Label>,
    /// The name belongs to a host that is to be enrolled anew
    #[arg(long)]
    pub replace: bool,
}

#[derive(Debug, Args)]
pub(crate) struct HostsAdd {
    /// Where ssh goes: `root@vps1`
    #[arg(value_name = "USER@HOST")]
    pub destination: String,
    /// The host's name [default: the destination's, up to the first dot]
    #[arg(long)]
    pub name: Option<String>,
    #[command(flatten)]
    pub joining: Joining,
    /// The agent to install [default: `vigie-agent` beside vigiectl]
    #[arg(long, value_name = "PATH")]
    pub agent_binary: Option<PathBuf>,
    /// An option for ssh, as in `-o`; may be repeated
    #[arg(long = "ssh-option", value_name = "OPTION")]
    pub ssh_options: Vec<String>,
    /// A configuration file for ssh
    #[arg(short = 'F', long = "ssh-config", value_name = "FILE")]
    pub ssh_config: Option<PathBuf>,
    /// Let signed orders run this program there; may be repeated
    #[arg(long = "allow-exec", value_name = "PROGRAM")]
    pub allow_exec: Vec<String>,
    /// Let signed orders run this operation, which the standard policy leaves out (`redis_flush`, `backup_restore`, …);
    /// may be repeated
    #[arg(long = "allow", value_name = "OPERATION")]
    pub allow: Vec<String>,
}

fn pair(text: &str) -> Result<(&str, &str), String> {
    text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form KEY=VALUE"))
}

fn parameter(text: &str) -> Result<Parameter, String> {
    let (name, value) = pair(text)?;
    Ok(Parameter { name: name.to_owned(), value: value.to_owned() })
}

fn label(text: &str) -> Result<Label, String> {
    let (name, value) = pair(text)?;
    for word in [name, value] {
        if !vigie_proto::selector::is_label_word(word) {
            return Err(format!(
                "{word:?} is not a label's name or value (letters, digits, `.`, `_`, `-`, `/`)"
            ));
        }
    }
    Ok(Label { name: name.to_owned(), value: value.to_owned() })
}

/// `500ms`, `30s`, `5m`, `1h`; a bare number is seconds.
fn time(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 =
        text[..digits].parse().map_err(|_| format!("{text:?} is not a time such as 30s or 5m"))?;
    let unit = match &text[digits..] {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        other => return Err(format!("{other:?} is no unit of time: use ms, s, m or h")),
    };
    match number.checked_mul(unit) {
        Some(ms) if ms > 0 && u32::try_from(ms).is_ok() => Ok(Duration::from_millis(ms)),
        _ => Err(format!("{text} is not between 1ms and 1000h")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_stand_anywhere() {
        let cli = parse("vigiectl runs list -o json --context work").unwrap();
        assert_eq!((cli.global.output, cli.global.context.as_deref()), (Format::Json, Some("work")));
        assert_eq!(parse("vigiectl -o yaml runs list").unwrap().global.output, Format::Yaml);
    }

    #[test]
    fn exec_takes_words_after_the_dashes_as_they_are() {
        let Command::Exec(exec) =
            parse("vigiectl exec -H vps1 --timeout 5m -- uptime -p --yes").unwrap().command
        else {
            panic!("not exec")
        };
        assert_eq!(exec.words, ["uptime", "-p", "--yes"]);
        assert_eq!(exec.limit.ms(), 300_000);
        assert!(parse("vigiectl exec -H vps1 uptime").is_err());
    }

    #[test]
    fn logs_are_of_one_thing() {
        let Command::Logs(logs) =
            parse("vigiectl logs -H vps1 --service backend -n 20 --since 10m").unwrap().command
        else {
            panic!("not logs")
        };
        assert_eq!((logs.services.len(), logs.lines, logs.since), (1, 20, Some(Duration::from_secs(600))));
        for both in
            ["c --service s", "--unit nginx --file /var/log/a", "c --file /a", "--unit nginx --since 1m"]
        {
            assert!(parse(&format!("vigiectl logs {both}")).is_err(), "{both}");
        }
    }

    #[test]
    fn a_token_is_never_an_argument() {
        assert!(parse("vigiectl login vig1.a.b.c.d").is_err());
        assert!(parse("vigiectl login --token vig1.a.b.c.d").is_err());
    }

    #[test]
    fn bad_values_say_what_would_be_good() {
        for (line, words) in [
            ("vigiectl hosts token vps1 --label env", "KEY=VALUE"),
            ("vigiectl hosts token vps1 --label env=a,b", "not a label"),
            ("vigiectl exec -H a --timeout 5x -- ls", "no unit of time"),
            ("vigiectl exec -H a --timeout 0 -- ls", "not between"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
