//! Open runs after a restore.

use super::PAGE;
use crate::{clock::now_ms, error::RunsError, store::Store};
use vigie_proto::v1::{Owned, RunEvent, run_event::Event};
use vigie_runbook::run::State;

/// Puts every open run under an epoch that no agent can have seen. Agents refuse an order under an older epoch than the
/// newest that they know of its run, and the controller that went on after the backup may have raised it any number of
/// times: so the new one is the time in seconds, above whatever starts of a controller and earlier restores came to.
///
/// # Errors
/// When the store fails, or a log is damaged.
pub(crate) async fn leap(store: &dyn Store, controller: &str) -> Result<usize, RunsError> {
    let open = store.open_runs().await?;
    let count = open.len();
    for mandate in open {
        let mut events: Vec<RunEvent> = Vec::new();
        loop {
            let after = events.last().map_or(0, |event| event.seq);
            let page = store.events(mandate.run(), after, PAGE).await?;
            if page.is_empty() {
                break;
            }
            events.extend(page);
        }
        let mut state = State::fold(mandate.run(), &events)?;
        let at_ms = now_ms();
        let seconds = u64::try_from(at_ms / 1000).unwrap_or(0);
        let epoch = seconds.max(state.epoch() + 1);
        let owned = Event::Owned(Owned { epoch, controller: format!("{controller}, restored") });
        let owned = RunEvent { seq: state.last_seq() + 1, at_ms, event: Some(owned) };
        state.apply(&owned)?;
        store.append(&mandate, &[owned], &state.summary(), &[]).await?;
    }
    Ok(count)
}
