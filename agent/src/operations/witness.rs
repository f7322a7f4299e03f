//! What a look at the host tells of an action whose end nobody saw: the agent was killed, or the machine went down,
//! between the record that it began and the record that it ended.
//!
//! Only probes are asked here, and nothing is ever run again. Where what is seen fits both, it stays in doubt, and a person
//! says what they found: see [`ask`].

use std::collections::BTreeSet;

use vigie_proto::{
    descriptors,
    id::TaskId,
    v1::{
        BackupListRequest, ComposePreviewRequest, ContainerInspectRequest, ContainerInspectResult, Failure,
        FirewallChangePreview, HostJobsRequest, Outcome, RedisQueuesRequest, Request, UnitStatusRequest,
        UnitStatusResult, request, result,
    },
};

use super::{Context, Fault, compose, exec, redis, run};
use crate::host::child::{Exit, keeper::Found};

/// An order that had begun.
#[derive(Debug)]
pub struct Begun {
    pub order: TaskId,
    pub operation: request::Operation,
    /// When, by the host's clock, Unix milliseconds.
    pub at_ms: i64,
    /// For what loses something: what its preview had found.
    pub prepared: Option<result::Operation>,
    /// What became of the programs that it ran, in their order.
    pub programs: Vec<Found>,
}

/// What is known of it now.
#[derive(Debug)]
pub enum Witness {
    /// Its whole outcome: its one program was seen to its end.
    Seen(Box<Outcome>),
    /// It has happened, and by what that is seen.
    Done(String),
    /// Nothing of it has happened, and by what that is seen.
    NotDone(String),
    /// What is seen fits both, or only a part of it has happened.
    Unknown(String),
    /// What could tell does not answer at this moment.
    Silent(String),
}

impl From<Fault> for Witness {
    fn from(fault: Fault) -> Self {
        Self::Silent(fault.failure.message)
    }
}

/// What a person is asked to do about an order in doubt. An operator tells its run what was found; on the host itself, where
/// its root gave it, nobody knows a run or `vigiectl`, and looking is all.
pub fn ask(here: bool) -> &'static str {
    match here {
        true => {
            "look at this host: `vigie-agent journal` has what was begun and when, `vigie-agent diagnose` how things are now; \
             the order is never run again by itself"
        }
        false => {
            "look at the host, and say what you found: `vigiectl runs resolve`; the order is never run again"
        }
    }
}

/// Looks.
pub async fn look(begun: &Begun, cx: &Context) -> Witness {
    if let Some(seen) = by_its_program(begun, cx) {
        return seen;
    }
    by_its_traces(begun, cx).await.unwrap_or_else(Witness::from)
}

/// What the host shows of an order whose program was stopped.
pub async fn after_a_stop(begun: &Begun, cx: &Context) -> String {
    let seen = by_its_traces(begun, cx).await.unwrap_or_else(Witness::from);
    match seen {
        Witness::Done(seen) => format!("stopped, and done all the same: {seen}"),
        Witness::NotDone(seen) => format!("stopped before it took effect: {seen}"),
        Witness::Unknown(seen) | Witness::Silent(seen) => format!("stopped while it ran: {seen}"),
        Witness::Seen(_) => "stopped while it ran".to_owned(),
    }
}

/// What its program's own end tells, where there was one that is all of it.
fn by_its_program(begun: &Begun, cx: &Context) -> Option<Witness> {
    use request::Operation as Ask;
    let whole = matches!(
        begun.operation,
        Ask::Exec(_)
            | Ask::ComposeUp(_)
            | Ask::ComposeRestart(_)
            | Ask::ComposeBuild(_)
            | Ask::ComposeDown(_)
            | Ask::ComposeRollback(_)
    );
    if !whole {
        return None;
    }
    let what = begun.operation.name();
    match begun.programs.last() {
        Some(Found::Ended(exit)) => Some(match &begun.operation {
            Ask::Exec(ask) => Witness::Seen(Box::new(match exec::ended(&ask.program, exit, cx) {
                Ok(result) => Outcome::succeeded(result::Operation::Exec(result)),
                Err(fault) => fault.into(),
            })),
            Ask::ComposeBuild(_) if exit.success() => Witness::Done("its build ended well".to_owned()),
            _ => composed(what, exit)?,
        }),
        Some(Found::Failed(why)) => Some(Witness::NotDone(format!("its program could not be run: {why}"))),
        Some(Found::NeverBegan) => Some(Witness::NotDone("its program was never started".to_owned())),
        Some(Found::Lost) if matches!(begun.operation, Ask::Exec(_)) => {
            Some(Witness::Unknown("its program began, and nobody saw how it ended".to_owned()))
        }
        Some(Found::Lost) => None,
        None if matches!(begun.operation, Ask::Exec(_)) => {
            Some(Witness::Unknown("nothing is left of its program".to_owned()))
        }
        None => None,
    }
}

/// `None` where Compose ended well: what it did is looked for then.
fn composed(what: &str, exit: &Exit) -> Option<Witness> {
    let fault = compose::ended(exit, &what.replace('_', " "))?;
    Some(Witness::Seen(Box::new(fault.into())))
}

async fn by_its_traces(begun: &Begun, cx: &Context) -> Result<Witness, Fault> {
    use request::Operation as Ask;
    let at_ms = begun.at_ms;
    Ok(match &begun.operation {
        Ask::UnitRestart(ask) => {
            let unit = unit(&ask.unit, cx).await?;
            match (unit.active_state.as_str(), unit.since_ms >= at_ms) {
                ("active", true) => Witness::Done(format!("unit {} is active since after that", unit.unit)),
                ("active", false) => Witness::NotDone(format!("unit {} has run since before", unit.unit)),
                (state, _) => Witness::Unknown(format!("unit {} is {state}", unit.unit)),
            }
        }
        Ask::UnitReload(ask) => {
            let unit = unit(&ask.unit, cx).await?;
            Witness::Unknown(format!(
                "unit {} is {}, and a reload leaves no trace; another one does no harm",
                unit.unit, unit.active_state
            ))
        }
        Ask::JobDefer(ask) => deferred(&ask.job, true, cx).await?,
        Ask::JobResume(ask) => deferred(&ask.job, false, cx).await?,
        Ask::FirewallAllow(_) | Ask::FirewallDeny(_) => firewall(begun, cx).await?,
        Ask::ContainerRestart(ask) => {
            let inspect = ContainerInspectRequest {
                stack: ask.stack.clone(),
                service: ask.service.clone(),
                container: ask.container.clone(),
            };
            started_since(&[container(inspect, cx).await?], at_ms)
        }
        Ask::ComposeRestart(ask) => {
            started_since(&containers(&ask.stack, ask.services.clone(), cx).await?, at_ms)
        }
        Ask::ComposeUp(ask) => {
            let preview = ComposePreviewRequest {
                stack: ask.stack.clone(),
                services: ask.services.clone(),
                build: false,
            };
            as_the_files_say(preview, begun, cx).await?
        }
        Ask::ComposeDown(ask) => {
            let there = containers(&ask.stack, Vec::new(), cx).await?;
            let present: Vec<_> = there.iter().filter(|own| own.present).collect();
            match (present.len(), present.iter().any(|own| own.finished_at_ms >= at_ms)) {
                (0, _) => Witness::Done("the stack has no containers".to_owned()),
                (_, false) => Witness::NotDone("none of the stack's containers has stopped since".to_owned()),
                (left, true) => {
                    Witness::Unknown(format!("{left} containers are there, some of them stopped"))
                }
            }
        }
        Ask::ComposeRollback(ask) => {
            let Some(result::Operation::ComposeRollbackPreview(now)) = previewed(begun, cx).await? else {
                return Ok(Witness::Unknown(format!("what {} runs cannot be told", ask.service)));
            };
            let own = containers(&now.stack, vec![ask.service.clone()], cx).await?;
            match own.first() {
                Some(own) if own.created_at_ms >= at_ms => Witness::Done(format!(
                    "{} was made anew since, of image {}",
                    own.name,
                    short(&own.image_id)
                )),
                Some(own) if own.present => Witness::NotDone(format!("{} is the one of before", own.name)),
                _ => Witness::Unknown(format!("{} has no container", ask.service)),
            }
        }
        Ask::RedisFlush(ask) => redis::flushed(ask, begun, cx).await?,
        Ask::RedisQueueResume(ask) => {
            let asked = RedisQueuesRequest {
                stack: ask.stack.clone(),
                service: ask.service.clone(),
                prefix: ask.prefix.clone(),
            };
            let result::Operation::RedisQueues(found) =
                run(request::Operation::RedisQueues(asked), cx).await?
            else {
                return Ok(Witness::Unknown("the queues cannot be told".to_owned()));
            };
            let named = |name: &String| ask.queues.is_empty() || ask.queues.contains(name);
            let (mut paused, mut all) = (0, 0);
            for queue in found.queues.iter().filter(|queue| named(&queue.name)) {
                all += 1;
                paused += usize::from(queue.paused);
            }
            match (paused, all) {
                (0, 1..) => Witness::Done("none of the queues is paused".to_owned()),
                (_, 0) => Witness::Unknown("there are no such queues".to_owned()),
                _ if paused == all => Witness::NotDone(format!("all {all} queues are paused")),
                _ => Witness::Unknown(format!("{paused} of {all} queues are paused")),
            }
        }
        Ask::RedisPurgeMemory(_) => Witness::Unknown(
            "a purge leaves no trace; it takes no keys away, and another one does no harm".to_owned(),
        ),
        Ask::KnowledgeCounterReset(_) => match (previewed(begun, cx).await?, &begun.prepared) {
            (
                Some(result::Operation::KnowledgeCounterPreview(now)),
                Some(result::Operation::KnowledgeCounterPreview(before)),
            ) if before.used > 0 => match now.used {
                0 => Witness::Done("the counter is 0".to_owned()),
                used if used >= before.used => Witness::NotDone(format!("the counter is at {used}")),
                used => Witness::Unknown(format!("the counter is at {used}, and was at {}", before.used)),
            },
            _ => Witness::Unknown("the counter was at 0 before".to_owned()),
        },
        Ask::KnowledgeReindex(_) | Ask::KnowledgePlan(_) => Witness::Unknown(
            "look at the tenant's documents and plan: `vigiectl probe knowledge_quota`".to_owned(),
        ),
        Ask::BackupCreate(ask) => {
            let listed = BackupListRequest { stack: ask.stack.clone(), ..BackupListRequest::default() };
            let result::Operation::BackupList(found) =
                run(request::Operation::BackupList(listed), cx).await?
            else {
                return Ok(Witness::Unknown("the backups cannot be told".to_owned()));
            };
            match found.backups.iter().find(|backup| backup.modified_at_ms >= at_ms) {
                Some(made) if made.problem.is_empty() && made.integrity == "whole" => {
                    Witness::Done(format!("backup {} was made since, and is whole", made.name))
                }
                Some(made) => {
                    Witness::Unknown(format!("backup {} was begun since: {}", made.name, made.problem))
                }
                None => Witness::NotDone("there is no backup of since then".to_owned()),
            }
        }
        Ask::BackupVerify(_) | Ask::MigrationRehearse(_) => {
            Witness::NotDone("its result is lost, and nothing else depends on it".to_owned())
        }
        Ask::BackupRestore(_) => match (previewed(begun, cx).await?, &begun.prepared) {
            (
                Some(result::Operation::BackupRestorePreview(now)),
                Some(result::Operation::BackupRestorePreview(before)),
            ) => {
                let database = &now.database;
                match now.database_oid == before.database_oid {
                    true => Witness::Unknown(format!(
                        "database {database} is the one of before; whether its writers run, `vigiectl probe compose_ps` tells"
                    )),
                    false => Witness::Unknown(format!(
                        "database {database} is another one than before: the backup's is in service; whether its writers run, \
                         `vigiectl probe compose_ps` tells"
                    )),
                }
            }
            _ => Witness::Unknown("it is not known which database was there before".to_owned()),
        },
        Ask::BackupRebuild(_) => Witness::Unknown(
            "`vigiectl diagnose postgres-down` tells what the server's data are now".to_owned(),
        ),
        Ask::MigrationApply(ask) => Witness::Unknown(format!(
            "what {} did is told by `vigiectl probe table_check`; where it was one transaction, all of it or nothing",
            ask.file
        )),
        Ask::PostgresTerminate(_)
        | Ask::BackupPrune(_)
        | Ask::ContainerLogTruncate(_)
        | Ask::AptClean(_)
        | Ask::JournalVacuum(_)
        | Ask::DockerPrune(_)
        | Ask::DockerVolumePrune(_) => what_is_left(begun, cx).await?,
        other => Witness::Unknown(format!("{} leaves no trace that could tell", other.name())),
    })
}

async fn unit(name: &str, cx: &Context) -> Result<UnitStatusResult, Fault> {
    let ask = UnitStatusRequest { unit: name.to_owned(), ..UnitStatusRequest::default() };
    match run(request::Operation::UnitStatus(ask), cx).await? {
        result::Operation::UnitStatus(status) => Ok(status),
        other => Err(strange(&other)),
    }
}

async fn container(ask: ContainerInspectRequest, cx: &Context) -> Result<ContainerInspectResult, Fault> {
    match run(request::Operation::ContainerInspect(ask), cx).await? {
        result::Operation::ContainerInspect(found) => Ok(found),
        other => Err(strange(&other)),
    }
}

/// The containers of these services, or of all that the stack has.
async fn containers(
    stack: &str,
    mut services: Vec<String>,
    cx: &Context,
) -> Result<Vec<ContainerInspectResult>, Fault> {
    if services.is_empty() {
        services = cx.host.stacks().resolve(stack).await?.services.keys().cloned().collect();
    }
    let mut found = Vec::new();
    for service in services {
        let ask = ContainerInspectRequest { stack: stack.to_owned(), service, ..Default::default() };
        found.push(container(ask, cx).await?);
    }
    Ok(found)
}

fn started_since(containers: &[ContainerInspectResult], at_ms: i64) -> Witness {
    let names = |found: &[&ContainerInspectResult]| {
        found.iter().map(|own| own.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let (since, before): (Vec<_>, Vec<_>) =
        containers.iter().partition(|own| own.state == "running" && own.started_at_ms >= at_ms);
    let stopped = before.iter().any(|own| own.state != "running");
    match (since.is_empty(), before.is_empty(), stopped) {
        (false, true, _) => Witness::Done(format!("started since: {}", names(&since))),
        (true, _, false) => Witness::NotDone(format!("running since before: {}", names(&before))),
        (false, ..) => {
            Witness::Unknown(format!("started since: {}; not so: {}", names(&since), names(&before)))
        }
        (true, ..) => Witness::Unknown(format!("not all of these run: {}", names(&before))),
    }
}

/// Whether a stack is as its files say, and whether anything of it is newer than the order.
async fn as_the_files_say(
    preview: ComposePreviewRequest,
    begun: &Begun,
    cx: &Context,
) -> Result<Witness, Fault> {
    let own = containers(&preview.stack, preview.services.clone(), cx).await?;
    let result::Operation::ComposePreview(found) =
        run(request::Operation::ComposePreview(preview), cx).await?
    else {
        return Ok(Witness::Unknown("what Compose would do cannot be told".to_owned()));
    };
    let touched =
        own.iter().any(|own| own.present && own.started_at_ms.max(own.created_at_ms) >= begun.at_ms);
    let left: Vec<_> = found.changes.iter().filter(|change| change.change != "none").collect();
    Ok(match (found.predicted, left.as_slice(), touched) {
        (true, [], true) => {
            Witness::Done("the stack is as its files say, and was brought up since".to_owned())
        }
        (true, [], false) => Witness::NotDone("nothing of the stack was started since".to_owned()),
        (true, [_, ..], false) => {
            Witness::NotDone(format!("{} services are still to be brought up", left.len()))
        }
        (true, [_, ..], true) => {
            Witness::Unknown(format!("{} services are still to be brought up, others were", left.len()))
        }
        (false, ..) => Witness::Unknown("what Compose would still do cannot be told".to_owned()),
    })
}

async fn deferred(job: &str, wanted: bool, cx: &Context) -> Result<Witness, Fault> {
    let result::Operation::HostJobs(found) =
        run(request::Operation::HostJobs(HostJobsRequest {}), cx).await?
    else {
        return Ok(Witness::Unknown("the host's jobs cannot be told".to_owned()));
    };
    let job = found.jobs.into_iter().find(|own| own.name == job);
    Ok(match job {
        Some(job) if job.deferred == wanted => {
            Witness::Done(format!("{} is {}", job.name, if wanted { "put off" } else { "on" }))
        }
        Some(job) => Witness::NotDone(format!("{} is {}", job.name, if wanted { "on" } else { "put off" })),
        None => Witness::Unknown("there is no such job any more".to_owned()),
    })
}

async fn firewall(begun: &Begun, cx: &Context) -> Result<Witness, Fault> {
    let now: Option<FirewallChangePreview> = match previewed(begun, cx).await? {
        Some(result::Operation::FirewallAllowPreview(found)) => found.change,
        Some(result::Operation::FirewallDenyPreview(found)) => found.change,
        _ => None,
    };
    Ok(match now {
        Some(now) if now.already => Witness::Done(format!("ufw has it: {} {}", now.action, now.port)),
        Some(now) => Witness::NotDone(format!("ufw does not {} {}", now.action, now.port)),
        None => Witness::Unknown("ufw's rules cannot be told".to_owned()),
    })
}

/// What its preview finds now.
async fn previewed(begun: &Begun, cx: &Context) -> Result<Option<result::Operation>, Fault> {
    let request = Request { operation: Some(begun.operation.clone()) };
    match descriptors::preview_of(&request).and_then(|preview| preview.operation) {
        Some(preview) => run(preview, cx).await.map(Some),
        None => Ok(None),
    }
}

/// What of the things that were to go is still there.
async fn what_is_left(begun: &Begun, cx: &Context) -> Result<Witness, Fault> {
    let (Some(before), Some(now)) = (&begun.prepared, previewed(begun, cx).await?) else {
        return Ok(Witness::Unknown("it is not known what was to go".to_owned()));
    };
    let (before, now) = (things(before), things(&now));
    let left = before.intersection(&now).count();
    let all = before.len();
    Ok(match left {
        _ if all == 0 => Witness::NotDone("there was nothing that could go".to_owned()),
        0 => Witness::Done(format!("none of the {all} that were to go is there")),
        left if left == all => Witness::NotDone(format!("all {all} that were to go are there")),
        left => Witness::Unknown(format!("{left} of the {all} that were to go are there")),
    })
}

/// What would go, each thing by what tells it from all others.
fn things(found: &result::Operation) -> BTreeSet<String> {
    use result::Operation as Found;
    match found {
        Found::PostgresTerminatePreview(found) => {
            found.sessions.iter().map(|own| format!("{} {}", own.pid, own.backend_start_ms)).collect()
        }
        Found::BackupPrunePreview(found) => found.remove.iter().map(|own| own.name.clone()).collect(),
        Found::ContainerLogTruncatePreview(found) => {
            found.logs.iter().map(|own| format!("{} {}", own.path, own.inode)).collect()
        }
        Found::AptCleanPreview(found) => {
            let files = found.files.iter().map(|own| format!("{} {}", own.path, own.inode));
            files.chain(found.packages.iter().cloned()).collect()
        }
        Found::JournalVacuumPreview(found) => {
            found.files.iter().map(|own| format!("{} {}", own.path, own.inode)).collect()
        }
        Found::DockerPrunePreview(found) => {
            found.objects.iter().map(|own| format!("{} {}", own.kind, own.id)).collect()
        }
        Found::DockerVolumePrunePreview(found) => {
            found.objects.iter().map(|own| format!("{} {}", own.kind, own.name)).collect()
        }
        _ => BTreeSet::new(),
    }
}

fn short(id: &str) -> &str {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    id.get(..12).unwrap_or(id)
}

fn strange(found: &result::Operation) -> Fault {
    Fault::failed("internal", format!("{} answers another question", found.name()))
}

impl Witness {
    /// The outcome of an order that is seen like this, `interrupted` saying by what its end was missed, `here` whether the
    /// host's own root gave it.
    pub fn outcome(self, interrupted: &str, here: bool) -> Outcome {
        use vigie_proto::v1::OutcomeStatus;
        match self {
            Self::Seen(outcome) => Outcome {
                found: format!("{interrupted}; its program went on, and was seen to its end"),
                ..*outcome
            },
            Self::Done(seen) => Outcome {
                status: OutcomeStatus::Succeeded.into(),
                found: format!("{interrupted}; it has happened: {seen}"),
                ..Outcome::default()
            },
            Self::NotDone(seen) => {
                let message = format!("{interrupted}; it has not happened: {seen}");
                let failure =
                    Failure::new("interrupted", &message).hint("order it again if it is still wanted");
                Outcome { found: message, ..Outcome::ended(OutcomeStatus::Failed, failure) }
            }
            Self::Unknown(seen) | Self::Silent(seen) => {
                let message = format!("{interrupted}, and nobody knows how far it came: {seen}");
                let failure = Failure::new("agent_restarted", message).hint(ask(here));
                Outcome::ended(OutcomeStatus::InDoubt, failure)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use vigie_proto::v1::{
        AptCleanPreviewResult, DiskFile, OutcomeStatus, PostgresSession, PostgresTerminatePreviewResult,
    };

    use super::*;

    fn own(name: &str, state: &str, started_at_ms: i64) -> ContainerInspectResult {
        ContainerInspectResult {
            present: true,
            name: name.to_owned(),
            state: state.to_owned(),
            started_at_ms,
            ..ContainerInspectResult::default()
        }
    }

    #[test]
    fn a_restart_is_told_by_the_starts_of_all_its_containers() {
        let told = |all: &[ContainerInspectResult]| started_since(all, 1000);
        assert!(matches!(told(&[own("a", "running", 1000), own("b", "running", 2000)]), Witness::Done(_)));
        assert!(matches!(told(&[own("a", "running", 999)]), Witness::NotDone(_)));
        assert!(matches!(told(&[own("a", "running", 999), own("b", "running", 1000)]), Witness::Unknown(_)));
        assert!(matches!(told(&[own("a", "exited", 999)]), Witness::Unknown(_)));
        assert!(matches!(told(&[own("a", "exited", 1001)]), Witness::Unknown(_)));
    }

    #[test]
    fn a_session_that_took_a_dead_ones_pid_is_another() {
        let of = |pid, backend_start_ms| {
            let sessions = vec![PostgresSession { pid, backend_start_ms, ..PostgresSession::default() }];
            things(&result::Operation::PostgresTerminatePreview(PostgresTerminatePreviewResult {
                sessions,
                ..PostgresTerminatePreviewResult::default()
            }))
        };
        assert_eq!(of(7, 1), of(7, 1));
        assert!(of(7, 1).is_disjoint(&of(7, 2)));
    }

    #[test]
    fn files_and_packages_are_told_apart() {
        let file = |path: &str, inode| DiskFile { path: path.to_owned(), inode, ..DiskFile::default() };
        let found = things(&result::Operation::AptCleanPreview(AptCleanPreviewResult {
            files: vec![file("/a", 1), file("/a", 2)],
            packages: vec!["old-kernel".to_owned()],
            ..AptCleanPreviewResult::default()
        }));
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn what_is_seen_becomes_an_outcome() {
        let by = "the agent ended while the order ran";
        let done = Witness::Done("its containers were started since".to_owned()).outcome(by, false);
        assert_eq!((done.status(), done.failure), (OutcomeStatus::Succeeded, None));
        assert!(done.found.contains("it has happened: its containers"));
        let not = Witness::NotDone("it runs since before".to_owned()).outcome(by, false);
        assert_eq!(
            (not.status(), not.failure.unwrap().code.as_str()),
            (OutcomeStatus::Failed, "interrupted")
        );
        let unknown = Witness::Silent("Docker does not answer".to_owned()).outcome(by, false);
        assert_eq!(unknown.status(), OutcomeStatus::InDoubt);
        let failure = unknown.failure.unwrap();
        assert!(failure.message.contains("Docker does not answer") && failure.hint.contains("runs resolve"));
        let here = Witness::Unknown(String::new()).outcome(by, true).failure.unwrap();
        assert!(
            here.hint.contains("vigie-agent journal") && !here.hint.contains("vigiectl"),
            "{}",
            here.hint
        );
    }
}
