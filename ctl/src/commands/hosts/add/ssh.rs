//! The system's ssh, one connection for all steps.

use std::{ffi::OsString, process::Stdio};

use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, process::Command};
use vigie_proto::text::escape;

use crate::{cli::HostsAdd, error::Error, view::request::quoted};

/// Commands for one destination.
pub(super) struct Ssh {
    destination: String,
    options: Vec<OsString>,
    /// Holds the control socket; removed with its folder.
    _control: TempDir,
}

/// What a command on the host left.
pub(super) struct Answer {
    pub(super) code: i32,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// By this status ssh tells of its own failures.
const SSH_FAILED: i32 = 255;

impl Ssh {
    pub(super) fn new(add: &HostsAdd) -> Result<Self, Error> {
        if add.destination.starts_with('-') {
            return Err(Error::usage("a destination does not begin with `-`", "write it as root@HOST"));
        }
        // Unix sockets have short paths; the temporary folder's is short enough everywhere.
        let control = tempfile::Builder::new()
            .prefix("vigie-")
            .tempdir()
            .map_err(|source| Error::Write { path: std::env::temp_dir(), source })?;
        let mut socket = OsString::from("ControlPath=");
        socket.push(control.path().join("ssh"));
        let mut options: Vec<OsString> = Vec::new();
        if let Some(config) = &add.ssh_config {
            options.extend(["-F".into(), config.into()]);
        }
        for option in &add.ssh_options {
            options.extend(["-o".into(), option.into()]);
        }
        for option in ["ControlMaster=auto", "ControlPersist=60", "ConnectTimeout=10"] {
            options.extend(["-o".into(), option.into()]);
        }
        options.extend(["-o".into(), socket]);
        Ok(Self { destination: add.destination.clone(), options, _control: control })
    }

    pub(super) fn destination(&self) -> &str {
        &self.destination
    }

    /// Runs a script in the host's `sh`, with these bytes on its stdin.
    ///
    /// # Errors
    /// When ssh itself fails; how the script ends is in the answer.
    pub(super) async fn run(&self, script: &str, input: &[u8]) -> Result<Answer, Error> {
        let failed = |source| Error::Step {
            message: format!("ssh cannot be run: {source}"),
            hint: "install an ssh client, or see that `ssh` is in PATH".to_owned(),
        };
        let mut child = Command::new("ssh")
            .args(&self.options)
            .args(["--", &self.destination])
            .arg(format!("sh -c {}", single_quoted(script)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let stdin = child.stdin.take();
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A script that ends before it has read everything says itself why.
                stdin.write_all(input).await.unwrap_or_default();
                stdin.shutdown().await.unwrap_or_default();
            }
        };
        let ((), output) = tokio::join!(feed, child.wait_with_output());
        let output = output.map_err(failed)?;
        let answer = Answer {
            code: output.status.code().unwrap_or(SSH_FAILED),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        };
        if answer.code == SSH_FAILED {
            return Err(Error::Step {
                message: format!("ssh to {} failed: {}", self.destination, escape(&answer.stderr, false)),
                hint: format!(
                    "`ssh {}` must work first; --ssh-option and -F are handed to it",
                    quoted(&self.destination)
                ),
            });
        }
        Ok(answer)
    }

    /// Ends the shared connection; that there is none is fine.
    pub(super) async fn close(&self) {
        let closing = Command::new("ssh")
            .args(&self.options)
            .args(["-O", "exit", "--", &self.destination])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        closing.await.map(drop).unwrap_or_default();
    }
}

/// One word for whatever shell the account has: every one of them takes single quotes literally.
fn single_quoted(script: &str) -> String {
    format!("'{}'", script.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_stays_one_word() {
        let output = std::process::Command::new("sh")
            .args(["-c", &format!("sh -c {}", single_quoted("printf %s 'a  b' \"$((1+1))\" '$(id)'"))])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "a  b2$(id)");
    }
}
