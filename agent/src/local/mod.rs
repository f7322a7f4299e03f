//! The local mode: `vigie-agent diagnose` and `vigie-agent run RUNBOOK`, on the host itself, without any network.
//!
//! A command is to the half that guards the host what a controller is: it asks probes and gives orders, by the same
//! messages, and a run's state machine says which. Where an agent runs, its door leads to its dispatch; where none does,
//! the command brings the same dispatch up in its own process, on the same journal. What is done either way is in that
//! journal, and the controller is told of it when it is there again.

mod drive;
mod error;
mod line;
mod opening;
mod place;
mod talk;

use std::sync::Arc;

use rustix::process::geteuid;
use tokio::sync::watch;
use vigie_proto::{
    text::escape,
    v1::{FindingState, RunMode, RunVerdict},
};
use vigie_view::{
    diagnose as view_diagnose, diagnose_json,
    exit::Exit,
    run::{Health, RunView},
    runs, timeline,
};

use crate::{
    config::{DiagnoseArgs, Format, LocalArgs, RunArgs},
    host::{
        clock::{Clock as _, SystemClock},
        journal,
    },
    net::enrol::JOURNAL,
};
use drive::{Consent, Drive};
use error::LocalError;
use opening::Call;
use place::Place;
pub use talk::{Interrupt, Talk, interrupts};

/// Why something is not known that only others can see.
const NO_VANTAGE: &str = "there is no other vantage on the host itself";

/// Within this time a remedy's tries are counted.
const TRIES_MS: i64 = vigie_runbook::run::HOUR_MS;

/// Says what is wrong with this host.
pub async fn diagnose(args: DiagnoseArgs, mut talk: Talk, interrupt: Interrupt) -> Exit {
    let DiagnoseArgs { runbook, local } = args;
    let call = Call::new(runbook, None, RunMode::Diagnose, &local);
    let consent = Consent { yes: false, yes_destroy: false };
    let done = carry_through(&call, &local, consent, &mut talk, interrupt).await;
    end(done, &mut talk)
}

/// Works through a runbook on this host.
pub async fn run(args: RunArgs, mut talk: Talk, interrupt: Interrupt) -> Exit {
    let RunArgs { runbook, remedy, yes, yes_destroy, local } = args;
    let call = Call::new(runbook, remedy, RunMode::Run, &local);
    let consent = Consent { yes: yes || yes_destroy, yes_destroy };
    let done = match geteuid().is_root() {
        true => carry_through(&call, &local, consent, &mut talk, interrupt).await,
        false => Err(LocalError::NotRoot),
    };
    end(done, &mut talk)
}

fn end(done: Result<Exit, LocalError>, talk: &mut Talk) -> Exit {
    done.unwrap_or_else(|error| {
        talk.error(&error);
        error.exit()
    })
}

/// Finds whoever guards the host, opens a run of its own, and takes it to its end.
async fn carry_through(
    call: &Call,
    args: &LocalArgs,
    consent: Consent,
    talk: &mut Talk,
    interrupt: watch::Receiver<bool>,
) -> Result<Exit, LocalError> {
    let runbooks = call.runbooks()?;
    let acts = call.mode == RunMode::Run;
    let mut place = Place::find(&args.place, &call.words(), talk).await?;
    let opened = opening::open(call, &runbooks, &place.welcome, &person(&place.welcome.name))?;
    if place.welcome.stacks.is_empty() && call.is_whole() {
        talk.say(opening::no_stacks(&place.welcome.docker_error));
    }
    let tries = match acts {
        true => {
            let (folder, since) = (args.place.state.join(JOURNAL), SystemClock.now_ms() - TRIES_MS);
            journal::actions(&folder, since).map_err(LocalError::Journal)?
        }
        false => Vec::new(),
    };
    let drive = Drive::new(opened, Arc::new(tries), consent, &mut place.line, talk, interrupt)?;
    let drove = drive.until_closed().await;
    let inside = place.is_inside();
    place.close(&drove, talk).await;
    let view = drove.map_err(|error| error.inside(inside))?;
    show(&view, args.output, talk)?;
    Ok(exit(&view))
}

/// The exit status. That the world's view of the host is missing here is said, and is no failure of a diagnosis.
fn exit(view: &RunView) -> Exit {
    if view.mode() == RunMode::Run {
        return view.exit();
    }
    let of = |target: u32| {
        let findings = view.conclusions.get(&target).map_or(&[][..], |conclusion| &conclusion.findings);
        let mut unknown =
            findings.iter().filter(|finding| finding.state() == FindingState::Unknown).peekable();
        let unseen = unknown.peek().is_some() && unknown.all(|finding| finding.missing.contains(NO_VANTAGE));
        match view.health(target) {
            Health::Broken => Exit::Findings,
            Health::Unknown if unseen => Exit::Ok,
            Health::Unknown => Exit::Failed,
            Health::Unreachable => Exit::Unreachable,
            Health::Noted | Health::Healthy => Exit::Ok,
        }
    };
    view.targets().map(of).collect()
}

/// Gives out what came of the run.
fn show(view: &RunView, format: Format, talk: &mut Talk) -> Result<(), LocalError> {
    talk.clear();
    if format == Format::Json {
        let text = serde_json::to_string_pretty(&diagnose_json::document(view)).unwrap_or_default();
        return talk.print(&text).map_err(LocalError::Output);
    }
    let look = talk.data.clone();
    // The diagnosis was on this screen when the plan was shown: what follows is what became of it.
    let text = match view.signed && talk.one_screen {
        true => view_diagnose::aftermath(view, &look) + "\n" + &view_diagnose::footer(view, &look),
        false => timeline::outcome(view, &look),
    };
    talk.print(text.trim_end()).map_err(LocalError::Output)?;
    if let Some(closed) = view.closed.as_ref().filter(|closed| !closed.reason.is_empty()) {
        let verdict = runs::verdict(closed.verdict(), &talk.talk);
        talk.say(format!("{verdict}: {}", escape(&closed.reason, false)));
    }
    if view.tasks.iter().any(|task| task.started_at_ms > 0) {
        talk.say("What was done is in this host's journal (`vigie-agent journal`), and the controller is told of it.");
    }
    if view.verdict() == RunVerdict::InDoubt {
        talk.say("Look at the host: what is in doubt is never run again by itself.");
    }
    Ok(())
}

/// Who is at the keyboard, as far as this host knows. No operator's name has a blank in it.
fn person(host: &str) -> String {
    let root = if geteuid().is_root() { "root" } else { "a user" };
    let plain = |name: &String| {
        (1..=32).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    match std::env::var("SUDO_USER").ok().filter(plain).filter(|name| name != "root") {
        Some(name) => format!("{name} as {root} on {host}"),
        None => format!("{root} on {host}"),
    }
}

#[cfg(test)]
mod tests;
