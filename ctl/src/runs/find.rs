//! Runs by the beginning of their id.

use tonic::Code;
use vigie_proto::{id::RunId, v1::ListRunsRequest};

use super::ledger::Ledger;
use crate::{client::Client, error::Error};

/// How far back a beginning is looked for.
const RECENT: u32 = 1000;

/// The run that a person means.
pub(crate) async fn find(client: &Client, ledger: &Ledger, text: &str) -> Result<RunId, Error> {
    if let Ok(run) = text.parse() {
        return Ok(run);
    }
    let is_beginning = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    let mut found: Vec<RunId> = ledger.known();
    if is_beginning {
        let listed = client.runs().list_runs(ListRunsRequest { limit: RECENT }).await;
        match listed {
            Ok(listed) => {
                found.extend(listed.into_inner().runs.iter().filter_map(|run| run.run.parse::<RunId>().ok()));
            }
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(Error::rpc("looking for the run")(status)),
        }
    }
    choose(found, text)
}

fn choose(mut runs: Vec<RunId>, text: &str) -> Result<RunId, Error> {
    let beginning = text.to_ascii_lowercase();
    runs.retain(|run| !beginning.is_empty() && run.to_string().starts_with(&beginning));
    runs.sort();
    runs.dedup();
    match runs[..] {
        [run] => Ok(run),
        [] => {
            Err(Error::usage(format!("no run begins with {text:?}"), "`vigiectl runs list` shows the newest"))
        }
        _ => {
            let ids: Vec<_> = runs.iter().take(5).map(ToString::to_string).collect();
            Err(Error::usage(
                format!("{} runs begin with {text:?}", runs.len()),
                format!("write more of the id: {}", ids.join(", ")),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_names_one_run_or_none() {
        let [a, b] = ["0198aaaa-0000-7000-8000-000000000001", "0198bbbb-0000-7000-8000-000000000002"]
            .map(|id| id.parse::<RunId>().unwrap());
        assert_eq!(choose(vec![a, b, a], "0198A").unwrap(), a);
        let error = choose(vec![a, b], "0198").unwrap_err();
        assert!(error.hint().unwrap().contains(&b.to_string()));
        assert!(choose(vec![a, b], "ff").is_err() && choose(vec![a], "").is_err());
    }
}
