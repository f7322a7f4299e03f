//! nginx as it is configured on this host: whether the configuration holds, and where requests are passed.
//!
//! The source is nginx itself (`nginx -t`, `nginx -T`), so that what is judged is what a reload would load. Nothing
//! here changes nginx.

pub mod parse;
pub mod routes;

use tokio::time::Instant;
use vigie_proto::v1::NginxTestResult;

use crate::{
    host::{
        child::Child,
        stacks::compose::{cannot_run, last_words, timed_out},
    },
    operations::Fault,
};
use parse::Directive;
use routes::{Route, TlsSite};

/// The effective configuration of a machine with hundreds of sites.
const CONFIG_BYTES: usize = 16 * 1024 * 1024;

/// Runs `nginx -t`.
///
/// # Errors
/// When there is no nginx. One whose configuration does not hold is no error here.
pub async fn test(deadline: Instant) -> Result<NginxTestResult, Fault> {
    let (exit, version) =
        tokio::join!(child()?.args(["-t"]).run(deadline), child()?.args(["-v"]).run(deadline),);
    let (exit, version) = (exit.map_err(cannot_run)?, version.map_err(cannot_run)?);
    if exit.timed_out {
        return Err(timed_out("nginx -t"));
    }
    let version = version.stderr.text().text;
    Ok(NginxTestResult {
        ok: exit.success(),
        lines: exit.stderr.lines(),
        version: version.trim().rsplit('/').next().unwrap_or_default().to_owned(),
    })
}

/// Where nginx would send requests, from its effective configuration.
///
/// # Errors
/// When there is no nginx, or its configuration does not hold.
pub async fn routes(deadline: Instant) -> Result<Vec<Route>, Fault> {
    Ok(routes::routes(&effective(deadline).await?))
}

/// The certificates that nginx is configured with.
///
/// # Errors
/// When there is no nginx, or its configuration does not hold.
pub async fn certificates(deadline: Instant) -> Result<Vec<TlsSite>, Fault> {
    Ok(routes::certificates(&effective(deadline).await?))
}

/// The configuration as a reload would load it.
async fn effective(deadline: Instant) -> Result<Vec<Directive>, Fault> {
    // `-q` leaves out the two lines that say that all is well.
    let exit = child()?.args(["-T", "-q"]).keep(CONFIG_BYTES).run(deadline).await.map_err(cannot_run)?;
    if exit.timed_out {
        return Err(timed_out("nginx -T"));
    }
    if !exit.success() {
        return Err(invalid(&exit.stderr.lines(), &last_words(&exit)));
    }
    Ok(parse::effective(&exit.stdout.text().text))
}

/// The fault of a configuration that does not hold, with nginx's own first complaint.
pub fn invalid(lines: &[String], otherwise: &str) -> Fault {
    let complaint =
        lines.iter().find_map(|line| line.split_once("[emerg] ")).map_or(otherwise, |(_, said)| {
            // `6287#6287: ` is the process that said it.
            let is_process = |words: &str| words.bytes().all(|byte| byte.is_ascii_digit() || byte == b'#');
            said.split_once(": ").filter(|(process, _)| is_process(process)).map_or(said, |(_, rest)| rest)
        });
    Fault::failed("nginx_config_invalid", format!("nginx's configuration does not hold: {complaint}"))
        .hint("correct the named file on the host, then test again: `vigiectl probe nginx-test`")
}

fn child<'a>() -> Result<Child<'a>, Fault> {
    Child::new("nginx").map_err(|_| {
        Fault::absent("nginx", "there is no nginx on this host")
            .hint("nothing to do where another proxy serves")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nginxs_complaint_without_its_trimmings() {
        // Captured from nginx 1.22.1, with and without the error log open.
        let logged = "2026/11/23 07:27:12 [emerg] 6285#6285: invalid parameter \"listen\" in /etc/nginx/sites-enabled/a:3";
        let plain = "nginx: [emerg] unexpected \"}\" in /etc/nginx/nginx.conf:9";
        let message = |line: &str| invalid(&["noise".to_owned(), line.to_owned()], "").failure.message;
        let begins = "nginx's configuration does not hold: ";
        assert_eq!(
            message(logged),
            format!("{begins}invalid parameter \"listen\" in /etc/nginx/sites-enabled/a:3")
        );
        assert_eq!(message(plain), format!("{begins}unexpected \"}}\" in /etc/nginx/nginx.conf:9"));
        assert_eq!(invalid(&[], "nothing was said").failure.message, format!("{begins}nothing was said"));
    }
}
