//! systemd units, through `systemctl` and `journalctl`.

use std::{collections::HashMap, path::Path, time::Duration};

use procfs::Current as _;
use tokio::time::Instant;
use vigie_proto::v1::{
    OutcomeStatus, UnitReloadRequest, UnitReloadResult, UnitRestartRequest, UnitRestartResult,
    UnitStatusRequest, UnitStatusResult, result,
};

use super::{Context, Fault, compose, disk::room, text};
use crate::host::{
    child::Child,
    nginx,
    stacks::compose::{cannot_run, last_words, timed_out},
};

/// What is asked of a unit. `StateChangeTimestampMonotonic` is a number on every systemd; the wall-clock properties
/// are words in the machine's own zone.
const PROPERTIES: &str =
    "--property=Id,LoadState,ActiveState,SubState,Result,MainPID,NRestarts,StateChangeTimestampMonotonic";

/// Journal lines when the request does not say.
const LINES: u32 = 10;

/// Shows a unit's state and its last journal lines.
pub(super) async fn status(request: UnitStatusRequest, cx: &Context) -> Result<UnitStatusResult, Fault> {
    let lines = if request.journal_lines == 0 { LINES } else { request.journal_lines };
    look(&request.unit, lines, cx, cx.deadline).await
}

/// Restarts a unit. nginx only when its configuration passes the test: a restart with a broken one stops it for good.
pub(super) async fn restart(request: UnitRestartRequest, cx: &Context) -> Result<UnitRestartResult, Fault> {
    let unit = &request.unit;
    let before = look(unit, 0, cx, cx.deadline).await?;
    usable(unit, &before, cx).await?;
    if room::is_database(&before.unit) {
        room::for_database(&cx.host, unit, &room::of_unit(&before.unit)).await?;
    }
    if before.unit == "docker.service"
        && before.active_state == "active"
        && cx.host.docker().version().await.is_ok()
    {
        let message =
            "Docker's engine runs and answers: restarting it would stop every container of this host";
        return Err(Fault::refused("engine_up", message)
            .hint("restart the container that is ill: `vigiectl do container-restart`"));
    }
    if before.unit == "docker.service" {
        compose::room_for_all_databases(cx).await?;
    }
    let exit = Child::new("systemctl")
        .map_err(cannot_run)?
        .args(["--no-ask-password", "restart", "--", unit])
        .run(cx.deadline)
        .await
        .map_err(cannot_run)?;
    // What became of it is looked at even when the time is up: that is what is asked next.
    let after = look(unit, LINES, cx, cx.deadline.max(Instant::now() + Duration::from_secs(2))).await?;
    let says = (exit.timed_out, exit.success(), after.active_state.clone(), last_words(&exit));
    let restarted = UnitRestartResult { before: Some(before), after: Some(after) };
    let partial = result::Operation::UnitRestart(restarted.clone());
    match says {
        (true, ..) => Err(timed_out(&format!("systemctl restart {unit}")).partial(partial)),
        (_, true, state, _) if matches!(state.as_str(), "active" | "reloading") => Ok(restarted),
        (_, true, state, _) => {
            Err(Fault::failed("unit_restart_failed", format!("unit {unit} is {state} after its restart"))
                .hint("its journal says why")
                .partial(partial))
        }
        (.., words) => {
            Err(Fault::failed("unit_restart_failed", format!("unit {unit} did not restart: {words}"))
                .hint("its journal says why")
                .partial(partial))
        }
    }
}

/// Refuses a unit that systemd cannot work with, and nginx while its configuration does not pass the test.
async fn usable(unit: &str, before: &UnitStatusResult, cx: &Context) -> Result<(), Fault> {
    if matches!(before.load_state.as_str(), "not-found" | "masked" | "bad-setting" | "error") {
        return Err(Fault::refused("unit_unusable", format!("unit {unit} is {}", before.load_state))
            .hint("look at it: `systemctl status` on the host"));
    }
    if before.unit == "nginx.service" {
        let test = nginx::test(cx.deadline).await?;
        if !test.ok {
            let mut fault = nginx::invalid(&test.lines, "nginx -t failed");
            fault.status = OutcomeStatus::Refused;
            return Err(fault);
        }
    }
    Ok(())
}

/// Has a running unit read its configuration again: connections stay, and so does its main process. nginx only when
/// its configuration passes the test: a reload with a broken one says so in a log that nobody reads, and changes nothing.
pub(super) async fn reload(request: UnitReloadRequest, cx: &Context) -> Result<UnitReloadResult, Fault> {
    let unit = &request.unit;
    let before = look(unit, 0, cx, cx.deadline).await?;
    usable(unit, &before, cx).await?;
    if before.active_state != "active" {
        return Err(Fault::refused("unit_not_active", format!("unit {unit} is {}", before.active_state))
            .hint("what does not run reads its configuration when it starts: `vigiectl do unit-restart`"));
    }
    if property(unit, "CanReload", cx).await? != "yes" {
        return Err(Fault::refused("unit_cannot_reload", format!("unit {unit} knows no reload"))
            .hint("it reads its configuration at its start alone: `vigiectl do unit-restart`"));
    }
    let exit = Child::new("systemctl")
        .map_err(cannot_run)?
        .args(["--no-ask-password", "reload", "--", unit])
        .run(cx.deadline)
        .await
        .map_err(cannot_run)?;
    let after = look(unit, LINES, cx, cx.deadline.max(Instant::now() + Duration::from_secs(2))).await?;
    let says = (exit.timed_out, exit.success(), after.active_state.clone(), last_words(&exit));
    let reloaded = UnitReloadResult { before: Some(before), after: Some(after) };
    let partial = result::Operation::UnitReload(reloaded.clone());
    match says {
        (true, ..) => Err(timed_out(&format!("systemctl reload {unit}")).partial(partial)),
        (_, true, state, _) if matches!(state.as_str(), "active" | "reloading") => Ok(reloaded),
        (_, true, state, _) => {
            Err(Fault::failed("unit_reload_failed", format!("unit {unit} is {state} after its reload"))
                .hint("its journal says why")
                .partial(partial))
        }
        (.., words) => {
            Err(Fault::failed("unit_reload_failed", format!("unit {unit} did not reload: {words}"))
                .hint("its journal says why")
                .partial(partial))
        }
    }
}

/// One property of a unit, as systemd words it; empty where it has none.
async fn property(unit: &str, name: &str, cx: &Context) -> Result<String, Fault> {
    let property = format!("--property={name}");
    let child = Child::new("systemctl").map_err(cannot_run)?;
    let exit = child.args(["show", "--value", &property, "--", unit]).run(cx.deadline).await;
    Ok(exit.map_err(cannot_run)?.stdout.text().text.trim().to_owned())
}

async fn look(unit: &str, lines: u32, cx: &Context, deadline: Instant) -> Result<UnitStatusResult, Fault> {
    let Ok(systemctl) = Child::new("systemctl") else {
        return Err(Fault::absent("systemd", "there is no systemd on this host"));
    };
    let show = systemctl.args(["show", PROPERTIES, "--", unit]).run(deadline);
    let journal = async {
        if lines == 0 {
            return Ok(None);
        }
        let child = Child::new("journalctl").map_err(cannot_run)?;
        let count = lines.to_string();
        let args = ["--no-pager", "--quiet", "--output=short-iso", "--lines", &count, "--unit", unit];
        child.args(args).keep(1024 * 1024).run(deadline).await.map(Some).map_err(cannot_run)
    };
    let (show, journal) = tokio::join!(show, journal);
    let (show, journal) = (show.map_err(cannot_run)?, journal?);
    if show.timed_out {
        return Err(timed_out("systemctl show"));
    }
    if !show.success() {
        return Err(silent(&last_words(&show)));
    }
    let uptime = procfs::Uptime::current().map(|uptime| uptime.uptime).unwrap_or_default();
    let mut status = read(&show.stdout.text().text, uptime, crate::host::clock::now().timestamp_millis());
    if let Some(journal) = journal {
        let all = if journal.success() {
            journal.stdout.lines()
        } else {
            vec![format!("(the journal cannot be read: {})", last_words(&journal))]
        };
        status.journal = text::last_lines(&cx.host, &all, lines as usize);
    }
    Ok(status)
}

/// The fault of a systemd that says nothing. In a container its programs may be there without it.
fn silent(words: &str) -> Fault {
    // The folder that systemd's own `sd_booted` looks for.
    if Path::new("/run/systemd/system").is_dir() {
        Fault::failed("systemd_unavailable", format!("systemd does not answer: {words}"))
            .hint("`systemctl status` on the host tells more")
    } else {
        Fault::absent("systemd", "this host was not started by systemd")
            .hint("units exist only where systemd is process 1")
    }
}

/// Reads what `systemctl show` prints.
fn read(show: &str, uptime_s: f64, now_ms: i64) -> UnitStatusResult {
    let values: HashMap<&str, &str> = show.lines().filter_map(|line| line.split_once('=')).collect();
    let text = |name: &str| values.get(name).copied().unwrap_or_default().to_owned();
    let changed_us: i64 =
        values.get("StateChangeTimestampMonotonic").and_then(|us| us.parse().ok()).unwrap_or(0);
    let booted_ms = now_ms - (uptime_s * 1000.0) as i64;
    UnitStatusResult {
        unit: text("Id"),
        load_state: text("LoadState"),
        active_state: text("ActiveState"),
        sub_state: text("SubState"),
        result: text("Result"),
        main_pid: values.get("MainPID").and_then(|pid| pid.parse().ok()).unwrap_or(0),
        restarts: values.get("NRestarts").and_then(|count| count.parse().ok()).unwrap_or(0),
        since_ms: if changed_us == 0 { 0 } else { booted_ms + changed_us / 1000 },
        journal: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_units() {
        // Captured from systemd 252.
        let active = read(
            "MainPID=105\nResult=success\nNRestarts=0\nId=nginx.service\nLoadState=loaded\nActiveState=active\n\
             SubState=running\nStateChangeTimestampMonotonic=2225747356\n",
            2262.64,
            1_795_416_215_000,
        );
        assert_eq!(
            (active.unit.as_str(), active.active_state.as_str(), active.main_pid),
            ("nginx.service", "active", 105)
        );
        assert_eq!(active.since_ms, 1_795_416_178_107);
        let absent = read(
            "MainPID=0\nResult=success\nNRestarts=0\nId=nope.service\nLoadState=not-found\nActiveState=inactive\n\
             SubState=dead\nStateChangeTimestampMonotonic=0\n",
            2262.64,
            1_795_416_215_000,
        );
        assert_eq!((absent.load_state.as_str(), absent.since_ms), ("not-found", 0));
    }
}
