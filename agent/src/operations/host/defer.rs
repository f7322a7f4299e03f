//! Putting a timer or a cron entry off, so that it comes back by itself.
//!
//! What brings it back is a transient timer of systemd, made before anything is changed: it does its work whether the
//! agent lives or not. A reboot undoes everything as well: a stopped timer is started by the boot, and a cron entry is
//! hidden by a mount over its table, which no boot keeps. The transient timer is the witness of what was done.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use vigie_proto::v1::{Job, JobDeferRequest, JobDeferResult, JobResumeRequest, JobResumeResult, result};

use super::{
    super::{Context, Fault},
    jobs::{self, NOTES, Note, cron, stop::stop},
};
use crate::host::{
    child::{Child, resolve},
    stacks::compose::{cannot_run, last_words, timed_out},
};

/// The transient units' names begin so.
pub(super) const PREFIX: &str = "vigie-resume-";

/// Where the tables lie that are shown to cron instead of its own.
const TABLES: &str = "/run/vigie/tables";

/// Minutes, when the request does not say.
const MINUTES: u32 = 60;

/// Puts a job off.
pub(in super::super) async fn defer(request: JobDeferRequest, cx: &Context) -> Result<JobDeferResult, Fault> {
    let before = known(&request.job, cx).await?;
    if before.deferred {
        return Err(Fault::refused("job_deferred", format!("{} is put off already", request.job))
            .hint(format!("put it back first: `vigiectl do job_resume --job {}`", request.job)));
    }
    let kept = Kept::of(&request.job, &before)?;
    // What brings a timer back starts it: one that somebody stopped is left as it is.
    if kept.entry.is_none() && kept.state(cx).await? != "active" {
        return Err(Fault::refused("job_inactive", format!("{} is stopped: nothing starts it", request.job))
            .hint("there is nothing to put off; whoever stopped it may want it so"));
    }
    // A covered table does not list it any more.
    let entry = cron::entries().into_iter().find(|entry| entry.name() == request.job);
    let minutes = if request.minutes == 0 { MINUTES } else { request.minutes };
    let until = crate::host::clock::now() + Duration::from_secs(u64::from(minutes) * 60);
    kept.write(until.timestamp_millis())?;
    // First what brings it back, then the deed.
    let armed = kept.arm(until, cx).await;
    let done = match armed {
        Ok(()) => kept.put_off(cx).await,
        Err(fault) => Err(fault),
    };
    if let Err(fault) = done {
        kept.undo(cx).await;
        return Err(fault);
    }
    let (mut stopped, mut left) = (String::new(), 0);
    if request.stop_running && before.running {
        if let Some(entry) = &entry {
            let (told, still) = stop(entry, cx.deadline).await;
            (stopped, left) = (format!("{told} processes of {}", request.job), still);
        } else if !before.unit.is_empty() {
            systemctl(&["stop", "--", &before.unit], cx).await?;
            stopped.clone_from(&before.unit);
        }
    }
    let after = jobs::one(&request.job, cx).await?.unwrap_or_default();
    let done = JobDeferResult {
        before: Some(before),
        until_ms: until.timestamp_millis(),
        restored_by: format!("{}.timer", kept.unit),
        stopped,
        after: Some(after.clone()),
    };
    if left > 0 {
        return Err(Fault::failed(
            "job_not_stopped",
            format!("{} is put off, and {left} of its processes have not ended", request.job),
        )
        .hint("they were told to end: `vigiectl probe host_jobs` shows what still runs")
        .partial(result::Operation::JobDefer(done)));
    }
    if kept.is_off(cx).await? && after.deferred {
        return Ok(done);
    }
    Err(Fault::failed("job_defer_failed", format!("{} would still be started", request.job))
        .hint("look at it: `vigiectl probe host_jobs`")
        .partial(result::Operation::JobDefer(done)))
}

/// Puts a job back before its time.
pub(in super::super) async fn resume(
    request: JobResumeRequest,
    cx: &Context,
) -> Result<JobResumeResult, Fault> {
    let before = known(&request.job, cx).await?;
    if !before.deferred {
        return Err(Fault::refused("job_not_deferred", format!("{} is not put off", request.job))
            .hint("`vigiectl probe host_jobs` shows what is"));
    }
    let kept = Kept::of(&request.job, &before)?;
    kept.put_back(cx).await?;
    // Its work is done.
    systemctl(&["stop", "--", &format!("{}.timer", kept.unit)], cx).await?;
    kept.forget();
    let after = jobs::one(&request.job, cx).await?.unwrap_or_default();
    Ok(JobResumeResult { before: Some(before), after: Some(after) })
}

async fn known(job: &str, cx: &Context) -> Result<Job, Fault> {
    if job.starts_with(PREFIX) || job.starts_with("vigie-") {
        return Err(Fault::refused("job_protected", format!("{job} is Vigie's own")).hint("name another job"));
    }
    jobs::one(job, cx).await?.ok_or_else(|| {
        Fault::refused("job_unknown", format!("this host has no timer and no cron entry {job}"))
            .hint("list them: `vigiectl probe host_jobs`")
    })
}

/// A job that is kept off, and what that takes.
struct Kept<'a> {
    job: &'a str,
    /// The transient units' name, without its suffix.
    unit: String,
    starts: String,
    /// For a cron entry: the table, and the line.
    entry: Option<(PathBuf, usize)>,
}

impl<'a> Kept<'a> {
    fn of(job: &'a str, known: &Job) -> Result<Self, Fault> {
        let entry = cron::split(job).map(|(file, line)| (file.to_owned(), line));
        let name = match (&entry, job.strip_suffix(".timer")) {
            (Some(_), _) => format!("cron-{}", &hex(job)[..12]),
            (None, Some(name)) => name.to_owned(),
            (None, None) => {
                return Err(Fault::refused(
                    "job_unknown",
                    format!("{job} is neither a timer nor a cron entry"),
                ));
            }
        };
        let starts = if known.unit.is_empty() { known.command.clone() } else { known.unit.clone() };
        Ok(Self { job, unit: format!("{PREFIX}{name}"), starts, entry })
    }

    fn note(&self) -> PathBuf {
        Path::new(NOTES).join(&self.unit)
    }

    /// One table is shown instead of cron's own for each table, whatever the entry: two cannot lie over one another.
    fn table(&self) -> PathBuf {
        Path::new(TABLES).join(&self.unit)
    }

    fn write(&self, until_ms: i64) -> Result<(), Fault> {
        let note = Note { job: self.job.to_owned(), until_ms, starts: self.starts.clone() };
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(NOTES)?;
            let text = serde_json::to_vec(&note)?;
            let mut file = fs::OpenOptions::new();
            file.write(true).create(true).truncate(true).mode(0o600).open(self.note())?.write_all(&text)
        };
        write().map_err(|error| {
            Fault::failed("job_defer_failed", format!("{} cannot be written: {error}", self.note().display()))
        })
    }

    /// Makes the transient timer that puts the job back.
    async fn arm(&self, until: chrono::DateTime<chrono::Utc>, cx: &Context) -> Result<(), Fault> {
        let path =
            |program: &str| Ok::<_, Fault>(resolve(program).map_err(cannot_run)?.display().to_string());
        let mut args = vec![
            "--quiet".to_owned(),
            "--collect".to_owned(),
            format!("--unit={}", self.unit),
            format!("--description=Vigie puts {} back", self.job),
            format!("--on-calendar={}", until.format("%Y-%m-%d %H:%M:%S UTC")),
            "--timer-property=AccuracySec=1s".to_owned(),
            format!("--property=ExecStartPost={} -f {}", path("rm")?, self.note().display()),
        ];
        if let Some((file, _)) = &self.entry {
            // cron looks again when a folder's time changes.
            args.push(format!("--property=ExecStartPost={} {}", path("touch")?, folder(file).display()));
            args.extend([path("umount")?, file.display().to_string()]);
        } else {
            args.extend([path("systemctl")?, "start".to_owned(), self.job.to_owned()]);
        }
        run("systemd-run", args, cx).await
    }

    async fn put_off(&self, cx: &Context) -> Result<(), Fault> {
        let Some((file, line)) = &self.entry else {
            return systemctl(&["stop", "--", self.job], cx).await;
        };
        if is_mounted(file) {
            return Err(Fault::refused(
                "job_table_taken",
                format!("{} is covered by a mount already", file.display()),
            )
            .hint("put the other entry of this table back first: `vigiectl probe host_jobs` shows it"));
        }
        self.cover(file, *line).map_err(|error| {
            Fault::failed("job_defer_failed", format!("{} cannot be copied: {error}", file.display()))
        })?;
        let (from, to) = (self.table().display().to_string(), file.display().to_string());
        run("mount", vec!["--bind".to_owned(), from, to], cx).await?;
        touch(folder(file));
        Ok(())
    }

    /// The table without the entry, with the owner and the mode that cron insists on.
    fn cover(&self, file: &Path, line: usize) -> std::io::Result<()> {
        let (text, data) = (fs::read_to_string(file)?, fs::metadata(file)?);
        fs::create_dir_all(TABLES)?;
        let mut out = fs::OpenOptions::new();
        let mut out =
            out.write(true).create(true).truncate(true).mode(data.mode() & 0o7777).open(self.table())?;
        out.write_all(without(&text, line).as_bytes())?;
        std::os::unix::fs::fchown(&out, Some(data.uid()), Some(data.gid()))?;
        out.set_permissions(data.permissions())
    }

    async fn put_back(&self, cx: &Context) -> Result<(), Fault> {
        match &self.entry {
            None => systemctl(&["start", "--", self.job], cx).await,
            Some((file, _)) => {
                run("umount", vec![file.display().to_string()], cx).await?;
                touch(folder(file));
                Ok(())
            }
        }
    }

    /// Whether the clock does not start it at this moment.
    async fn is_off(&self, cx: &Context) -> Result<bool, Fault> {
        match &self.entry {
            Some((file, line)) => Ok(is_mounted(file)
                && fs::read_to_string(file).is_ok_and(|text| {
                    text.lines().nth(line.saturating_sub(1)).is_some_and(|text| text.starts_with('#'))
                })),
            None => Ok(self.state(cx).await? == "inactive"),
        }
    }

    /// A timer's state, in systemd's word.
    async fn state(&self, cx: &Context) -> Result<String, Fault> {
        let child = Child::new("systemctl").map_err(cannot_run)?;
        let args = ["show", "--property=ActiveState", "--value", "--", self.job];
        let exit = child.args(args).run(cx.deadline).await.map_err(cannot_run)?;
        Ok(exit.stdout.text().text.trim().to_owned())
    }

    /// Takes back what was half done; the fault that led here says more than one from here would.
    async fn undo(&self, cx: &Context) {
        if self.entry.as_ref().is_none_or(|(file, _)| is_mounted(file) && self.table().exists()) {
            let _ = self.put_back(cx).await;
        }
        let _ = systemctl(&["stop", "--", &format!("{}.timer", self.unit)], cx).await;
        self.forget();
    }

    fn forget(&self) {
        // What is not there need not be removed.
        let _ = fs::remove_file(self.note());
        let _ = fs::remove_file(self.table());
    }
}

async fn systemctl(args: &[&str], cx: &Context) -> Result<(), Fault> {
    let mut all = vec!["--no-ask-password".to_owned()];
    all.extend(args.iter().map(|arg| (*arg).to_owned()));
    run("systemctl", all, cx).await
}

async fn run(program: &str, args: Vec<String>, cx: &Context) -> Result<(), Fault> {
    let exit =
        Child::new(program).map_err(cannot_run)?.args(args).run(cx.deadline).await.map_err(cannot_run)?;
    if exit.timed_out {
        return Err(timed_out(program));
    }
    if exit.success() {
        return Ok(());
    }
    Err(Fault::failed("job_defer_failed", format!("{program} failed: {}", last_words(&exit)))
        .hint("`vigiectl probe host_jobs` shows how things stand"))
}

/// The text with one of its lines made a comment.
fn without(text: &str, line: usize) -> String {
    (1..)
        .zip(text.lines())
        .map(
            |(number, text)| {
                if number == line { format!("# put off by Vigie: {text}\n") } else { format!("{text}\n") }
            },
        )
        .collect()
}

fn folder(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new("/"))
}

/// cron looks for changes every minute by the folder's time; where that cannot be set, it sees them later.
fn touch(folder: &Path) {
    let _ = fs::File::open(folder).and_then(|folder| folder.set_modified(std::time::SystemTime::now()));
}

fn is_mounted(file: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(4).is_some_and(|place| Path::new(place) == file))
}

fn hex(text: &str) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_becomes_a_comment_and_the_rest_stays() {
        let text = "SHELL=/bin/sh\n15 3 * * * root /srv/dump.sh\n0 4 * * * root other\n";
        assert_eq!(
            without(text, 2),
            "SHELL=/bin/sh\n# put off by Vigie: 15 3 * * * root /srv/dump.sh\n0 4 * * * root other\n"
        );
    }

    #[test]
    fn units_are_named_after_their_jobs() {
        let job = Job { unit: "backup.service".to_owned(), ..Job::default() };
        assert_eq!(Kept::of("backup.timer", &job).unwrap().unit, "vigie-resume-backup");
        let entry = Kept::of("/etc/cron.d/backup:3", &job).unwrap();
        assert!(entry.unit.starts_with("vigie-resume-cron-") && entry.unit.len() == 30);
        assert!(Kept::of("nginx.service", &job).is_err());
        assert!(!is_mounted(Path::new("/etc/cron.d/nothing")));
    }
}
