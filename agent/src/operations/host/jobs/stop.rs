//! Ending what cron has started: it has no unit, and is known as the shell that runs the entry and all below it.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::Instant;

use super::{
    super::sample::{self, Key, Seen},
    cron::Entry,
    runs,
};

/// How long they have to end. What a script has to clean up takes seconds; more is told.
const END: Duration = Duration::from_secs(10);

/// Tells every process of an entry to end. Returns how many were told, and how many of them have not ended in time.
pub(in super::super) async fn stop(entry: &Entry, deadline: Instant) -> (usize, usize) {
    let told = tell(entry);
    let until = (Instant::now() + END).min(deadline);
    let mut interval = tokio::time::interval(Duration::from_millis(200));
    loop {
        interval.tick().await;
        let now = sample::all(false);
        // One that is dead and not waited for has ended.
        let left = told.iter().filter(|key| now.get(*key).is_some_and(|seen| seen.state != 'Z')).count();
        if left == 0 || Instant::now() >= until {
            return (told.len(), left);
        }
    }
}

fn tell(entry: &Entry) -> Vec<Key> {
    let all = sample::all(false);
    let shells = all.keys().filter(|(pid, _)| runs(*pid, entry)).map(|(pid, _)| *pid).collect();
    below(shells, &all).into_iter().filter(|key| terminate(*key)).collect()
}

/// These processes and all that they started.
fn below(mut wanted: HashSet<u32>, all: &HashMap<Key, Seen>) -> Vec<Key> {
    loop {
        let more: Vec<u32> = all
            .iter()
            .filter(|((pid, _), seen)| wanted.contains(&seen.parent) && !wanted.contains(pid))
            .map(|((pid, _), _)| *pid)
            .collect();
        if more.is_empty() {
            return all.keys().filter(|(pid, _)| wanted.contains(pid)).copied().collect();
        }
        wanted.extend(more);
    }
}

/// Tells this very process to end: it is held while its beginning is looked at again.
fn terminate((pid, started): Key) -> bool {
    let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    let Ok(held) = pidfd_open(id, PidfdFlags::empty()) else { return false };
    sample::began(pid) == Some(started) && pidfd_send_signal(&held, Signal::TERM).is_ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[tokio::test]
    async fn all_that_an_entry_started_ends_and_nothing_else() {
        let command = "sleep 54321 & sleep 54322; true";
        let entry = Entry { command: command.to_owned(), ..Entry::default() };
        let spawn =
            |words: &[&str]| Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).spawn().unwrap();
        let mut job = spawn(&["/bin/sh", "-c", command]);
        let mut other = spawn(&["sleep", "54323"]);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (told, left) = stop(&entry, Instant::now() + Duration::from_secs(8)).await;
        assert_eq!((told, left), (3, 0));
        assert!(job.wait().is_ok() && other.try_wait().unwrap().is_none());
        assert_eq!(stop(&entry, Instant::now() + Duration::from_secs(1)).await, (0, 0));
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
