//! What the agent can do, one file a family.
//!
//! An operation is a function of its request and a [`Context`]. It has checked nothing before and checks everything
//! itself that only the host can know; grammar, order and policy were checked by [`crate::host`] before it is called.

mod backup;
mod compose;
mod containers;
mod disk;
mod exec;
mod files;
mod firewall;
mod host;
mod http;
mod knowledge;
mod migration;
mod network;
mod nginx;
mod postgres;
mod redis;
mod sockets;
mod text;
mod units;
pub mod witness;

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vigie_proto::{
    id::TaskId,
    v1::{Failure, Outcome, OutcomeStatus, request, result},
};

use crate::host::child::{Child, ChildError, Exit, OutputSink, keeper::Keeping};

/// What an operation may use.
pub struct Context {
    /// What the agent knows of this host: stacks, policy, the Docker engine, redaction.
    pub host: Arc<crate::host::Host>,
    /// When it has to be over.
    pub deadline: Instant,
    /// Takes output while it is produced.
    pub output: Arc<dyn OutputSink>,
    /// True when an operator signed for this request: targets that neither a stack nor the policy names are then
    /// allowed.
    pub ordered: bool,
    /// The order's id, for the witness that an operation leaves; `None` for a probe.
    pub order: Option<TaskId>,
    /// For an operation that loses something: what its preview found when the order was prepared, which is what the
    /// operator signed for. The operation acts on nothing else.
    pub prepared: Option<result::Operation>,
    /// Where the programs of an order go on without the agent; `None` for a probe, whose programs end with it.
    pub keeping: Option<Keeping>,
    /// Says that a person ended the run.
    pub stop: CancellationToken,
}

impl Context {
    /// Runs a program that acts: one that goes on when the agent does not, and that is stopped when a person ends the run.
    ///
    /// # Errors
    /// When it cannot be started, or its end was not seen.
    pub async fn act(&self, child: Child<'_>) -> Result<Exit, ChildError> {
        self.act_until(child, self.deadline).await
    }

    /// As [`act`](Self::act), with a deadline of its own.
    ///
    /// # Errors
    /// As there.
    pub async fn act_until(&self, child: Child<'_>, deadline: Instant) -> Result<Exit, ChildError> {
        let child = child.stop(self.stop.clone());
        match &self.keeping {
            Some(keeping) => child.run_kept(keeping, deadline).await,
            None => child.run(deadline).await,
        }
    }
}

/// Why an operation did not do what it is for.
#[derive(Debug)]
pub struct Fault {
    pub status: OutcomeStatus,
    pub failure: Failure,
    /// What was had until then. Boxed: most faults have nothing, and every operation's answer would be as large.
    pub partial: Option<Box<result::Operation>>,
}

impl Fault {
    /// It was tried and failed.
    pub fn failed(code: &str, message: impl std::fmt::Display) -> Self {
        Self { status: OutcomeStatus::Failed, failure: Failure::new(code, message), partial: None }
    }

    /// A precondition does not hold, so that nothing was tried.
    pub fn refused(code: &str, message: impl std::fmt::Display) -> Self {
        Self { status: OutcomeStatus::Refused, failure: Failure::new(code, message), partial: None }
    }

    /// The host lacks the component that was asked about, so that nothing was tried: `docker` becomes `docker_absent`.
    pub fn absent(component: &str, message: impl std::fmt::Display) -> Self {
        Self::refused(&format!("{component}_absent"), message)
    }

    /// A person ended the run while it was under way.
    pub fn stopped(what: &str) -> Self {
        Self {
            status: OutcomeStatus::Cancelled,
            failure: Failure::new(
                "stopped",
                format!("`{what}` was stopped while it ran, since the run was ended"),
            )
            .hint("look at what it had done until then"),
            partial: None,
        }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl std::fmt::Display) -> Self {
        self.failure = self.failure.hint(hint);
        self
    }

    /// Adds what was had until then.
    #[must_use]
    pub fn partial(mut self, partial: result::Operation) -> Self {
        self.partial = Some(Box::new(partial));
        self
    }
}

/// Does what a request asks for. Every text in the answer is redacted and escaped, a fault's words too.
///
/// # Errors
/// When the operation did not do what it is for; what it had until then is kept.
pub async fn run(request: request::Operation, cx: &Context) -> Result<result::Operation, Fault> {
    use request::Operation as Ask;
    use result::Operation as Answer;
    let done = match request {
        Ask::HostFacts(ask) => host::facts(ask, cx).await.map(Answer::HostFacts),
        Ask::HostLoad(ask) => host::load::load(ask, cx).await.map(Answer::HostLoad),
        Ask::HostProcesses(ask) => host::processes::list(ask, cx).await.map(Answer::HostProcesses),
        Ask::DiskIo(ask) => host::disks::io(ask, cx).await.map(Answer::DiskIo),
        Ask::HostJobs(ask) => host::jobs::list(ask, cx).await.map(Answer::HostJobs),
        Ask::HostChanges(ask) => host::changes::list(ask, cx).await.map(Answer::HostChanges),
        Ask::JobDefer(ask) => host::defer::defer(ask, cx).await.map(Answer::JobDefer),
        Ask::JobResume(ask) => host::defer::resume(ask, cx).await.map(Answer::JobResume),
        Ask::UnitStatus(ask) => units::status(ask, cx).await.map(Answer::UnitStatus),
        Ask::UnitRestart(ask) => units::restart(ask, cx).await.map(Answer::UnitRestart),
        Ask::UnitReload(ask) => units::reload(ask, cx).await.map(Answer::UnitReload),
        Ask::NginxTest(ask) => nginx::test(ask, cx).await.map(Answer::NginxTest),
        Ask::NginxUpstreams(ask) => nginx::upstreams(ask, cx).await.map(Answer::NginxUpstreams),
        Ask::SocketList(ask) => sockets::list(ask, cx).await.map(Answer::SocketList),
        Ask::ReachabilityCheck(ask) => network::reachability(ask, cx).await.map(Answer::ReachabilityCheck),
        Ask::CertificateCheck(ask) => network::certificates(ask, cx).await.map(Answer::CertificateCheck),
        Ask::FirewallStatus(ask) => firewall::status(ask, cx).await.map(Answer::FirewallStatus),
        Ask::FirewallAllow(ask) => firewall::allow(ask, cx).await.map(Answer::FirewallAllow),
        Ask::FirewallDeny(ask) => firewall::deny(ask, cx).await.map(Answer::FirewallDeny),
        Ask::FirewallAllowPreview(ask) => {
            firewall::allow_preview(ask, cx).await.map(Answer::FirewallAllowPreview)
        }
        Ask::FirewallDenyPreview(ask) => {
            firewall::deny_preview(ask, cx).await.map(Answer::FirewallDenyPreview)
        }
        Ask::ContainerList(ask) => containers::list(ask, cx).await.map(Answer::ContainerList),
        Ask::ContainerInspect(ask) => containers::inspect(ask, cx).await.map(Answer::ContainerInspect),
        Ask::ContainerLogs(ask) => containers::logs(ask, cx).await.map(Answer::ContainerLogs),
        Ask::StackLogs(ask) => containers::stack_logs(ask, cx).await.map(Answer::StackLogs),
        Ask::ContainerRestart(ask) => containers::restart(ask, cx).await.map(Answer::ContainerRestart),
        Ask::SocketSummary(ask) => sockets::summary::summary(ask, cx).await.map(Answer::SocketSummary),
        Ask::ContainerStats(ask) => containers::stats::stats(ask, cx).await.map(Answer::ContainerStats),
        Ask::ComposePs(ask) => compose::ps(ask, cx).await.map(Answer::ComposePs),
        Ask::ComposeConfig(ask) => compose::config(ask, cx).await.map(Answer::ComposeConfig),
        Ask::ComposeBuildCheck(ask) => compose::build_check(ask, cx).await.map(Answer::ComposeBuildCheck),
        Ask::ComposePreview(ask) => compose::preview(ask, cx).await.map(Answer::ComposePreview),
        Ask::ComposeUp(ask) => compose::up(ask, cx).await.map(Answer::ComposeUp),
        Ask::ComposeRestart(ask) => compose::restart(ask, cx).await.map(Answer::ComposeRestart),
        Ask::ComposeBuild(ask) => compose::images::build(ask, cx).await.map(Answer::ComposeBuild),
        Ask::ComposeDown(ask) => compose::images::down(ask, cx).await.map(Answer::ComposeDown),
        Ask::ComposeRollback(ask) => compose::rollback::rollback(ask, cx).await.map(Answer::ComposeRollback),
        Ask::ComposeRollbackPreview(ask) => {
            compose::rollback::preview(ask, cx).await.map(Answer::ComposeRollbackPreview)
        }
        Ask::HttpCheck(ask) => http::check(ask, cx).await.map(Answer::HttpCheck),
        Ask::FileTail(ask) => files::tail(ask, cx).await.map(Answer::FileTail),
        Ask::EnvCheck(ask) => files::env_check(ask, cx).await.map(Answer::EnvCheck),
        Ask::PostgresStatus(ask) => postgres::status(ask, cx).await.map(Answer::PostgresStatus),
        Ask::PostgresActivity(ask) => postgres::activity(ask, cx).await.map(Answer::PostgresActivity),
        Ask::PostgresLocks(ask) => postgres::locks(ask, cx).await.map(Answer::PostgresLocks),
        Ask::PostgresSize(ask) => postgres::size(ask, cx).await.map(Answer::PostgresSize),
        Ask::PostgresLogSigns(ask) => postgres::log_signs(ask, cx).await.map(Answer::PostgresLogSigns),
        Ask::PostgresTerminatePreview(ask) => {
            postgres::terminate_preview(ask, cx).await.map(Answer::PostgresTerminatePreview)
        }
        Ask::PostgresTerminate(ask) => postgres::terminate(ask, cx).await.map(Answer::PostgresTerminate),
        Ask::RedisStatus(ask) => redis::status(ask, cx).await.map(Answer::RedisStatus),
        Ask::RedisQueues(ask) => redis::queues(ask, cx).await.map(Answer::RedisQueues),
        Ask::RedisPurgeMemory(ask) => redis::purge_memory(ask, cx).await.map(Answer::RedisPurgeMemory),
        Ask::RedisQueueResume(ask) => redis::resume(ask, cx).await.map(Answer::RedisQueueResume),
        Ask::RedisFlushPreview(ask) => redis::flush_preview(ask, cx).await.map(Answer::RedisFlushPreview),
        Ask::RedisFlush(ask) => redis::flush(ask, cx).await.map(Answer::RedisFlush),
        Ask::KnowledgeQuota(ask) => knowledge::quota(ask, cx).await.map(Answer::KnowledgeQuota),
        Ask::KnowledgeStats(ask) => knowledge::stats(ask, cx).await.map(Answer::KnowledgeStats),
        Ask::KnowledgePlan(ask) => knowledge::plan(ask, cx).await.map(Answer::KnowledgePlan),
        Ask::KnowledgeCounterPreview(ask) => {
            knowledge::counter_preview(ask, cx).await.map(Answer::KnowledgeCounterPreview)
        }
        Ask::KnowledgeCounterReset(ask) => {
            knowledge::counter_reset(ask, cx).await.map(Answer::KnowledgeCounterReset)
        }
        Ask::KnowledgeReindex(ask) => knowledge::reindex(ask, cx).await.map(Answer::KnowledgeReindex),
        Ask::Exec(ask) => exec::exec(ask, cx).await.map(Answer::Exec),
        Ask::BackupList(ask) => backup::list(ask, cx).await.map(Answer::BackupList),
        Ask::BackupVerify(ask) => backup::verify(ask, cx).await.map(Answer::BackupVerify),
        Ask::BackupCreate(ask) => backup::create(ask, cx).await.map(Answer::BackupCreate),
        Ask::BackupRestorePreview(ask) => {
            backup::restore_preview(ask, cx).await.map(Answer::BackupRestorePreview)
        }
        Ask::BackupRestore(ask) => backup::restore(ask, cx).await.map(Answer::BackupRestore),
        Ask::BackupRebuildPreview(ask) => {
            backup::rebuild_preview(ask, cx).await.map(Answer::BackupRebuildPreview)
        }
        Ask::BackupRebuild(ask) => backup::rebuild(ask, cx).await.map(Answer::BackupRebuild),
        Ask::BackupPrunePreview(ask) => backup::prune_preview(ask, cx).await.map(Answer::BackupPrunePreview),
        Ask::BackupPrune(ask) => backup::prune(ask, cx).await.map(Answer::BackupPrune),
        Ask::MigrationLint(ask) => migration::lint_file(ask, cx).await.map(Answer::MigrationLint),
        Ask::TableCheck(ask) => migration::table_check(ask, cx).await.map(Answer::TableCheck),
        Ask::MigrationRehearse(ask) => migration::rehearse(ask, cx).await.map(Answer::MigrationRehearse),
        Ask::MigrationApply(ask) => migration::apply(ask, cx).await.map(Answer::MigrationApply),
        Ask::DiskUsage(ask) => disk::usage(ask, cx).await.map(Answer::DiskUsage),
        Ask::DiskDirectories(ask) => disk::directories(ask, cx).await.map(Answer::DiskDirectories),
        Ask::DiskDeletedOpen(ask) => disk::deleted_open(ask, cx).await.map(Answer::DiskDeletedOpen),
        Ask::DiskCulprits(ask) => disk::culprits(ask, cx).await.map(Answer::DiskCulprits),
        Ask::DockerUsage(ask) => disk::docker_usage(ask, cx).await.map(Answer::DockerUsage),
        Ask::ContainerLogTruncatePreview(ask) => {
            disk::logs_preview(ask, cx).await.map(Answer::ContainerLogTruncatePreview)
        }
        Ask::ContainerLogTruncate(ask) => {
            disk::logs_truncate(ask, cx).await.map(Answer::ContainerLogTruncate)
        }
        Ask::AptCleanPreview(ask) => disk::apt_preview(ask, cx).await.map(Answer::AptCleanPreview),
        Ask::AptClean(ask) => disk::apt_clean(ask, cx).await.map(Answer::AptClean),
        Ask::JournalVacuumPreview(ask) => {
            disk::journal_preview(ask, cx).await.map(Answer::JournalVacuumPreview)
        }
        Ask::JournalVacuum(ask) => disk::journal_vacuum(ask, cx).await.map(Answer::JournalVacuum),
        Ask::DockerPrunePreview(ask) => disk::prune_preview(ask, cx).await.map(Answer::DockerPrunePreview),
        Ask::DockerPrune(ask) => disk::prune(ask, cx).await.map(Answer::DockerPrune),
        Ask::DockerVolumePrunePreview(ask) => {
            disk::volume_prune_preview(ask, cx).await.map(Answer::DockerVolumePrunePreview)
        }
        Ask::DockerVolumePrune(ask) => disk::volume_prune(ask, cx).await.map(Answer::DockerVolumePrune),
    };
    done.map_err(|mut fault| {
        // A fault may quote what a program said.
        fault.failure.message = text::text(&cx.host, &fault.failure.message);
        fault.failure.hint = text::text(&cx.host, &fault.failure.hint);
        fault
    })
}

impl From<Fault> for Outcome {
    fn from(fault: Fault) -> Self {
        Self::ended(fault.status, fault.failure).with_result(fault.partial.map(|partial| *partial))
    }
}
