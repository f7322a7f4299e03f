//! Connected, answering, getting on: three things, told apart.

use vigie_proto::v1::{Host, Liveness};

use crate::output::look::{Look, count};

/// A probe ends within its deadline, most within 10 s: where none has for so long, the agent does not get on.
const STALLED_MS: i64 = 60_000;

/// What is wrong with the agent behind an open session.
pub(crate) fn problem(host: &Host, look: &Look) -> Option<&'static str> {
    let liveness = host.liveness.as_ref().filter(|_| host.connected)?;
    match (liveness.answering, is_stalled(liveness, look)) {
        (false, _) => Some("connected, and does not answer"),
        (true, true) => Some("answers, and none of its probes ends"),
        (true, false) => None,
    }
}

/// Orders may take their time: only a probe that never ends shows that nothing goes on.
fn is_stalled(liveness: &Liveness, look: &Look) -> bool {
    liveness.probes > 0 && liveness.quiet_since_ms > 0 && look.now_ms - liveness.quiet_since_ms > STALLED_MS
}

/// Whether it answers, and since when.
pub(crate) fn answers(host: &Host, look: &Look) -> String {
    match host.liveness.as_ref().filter(|_| host.connected) {
        None => "-".to_owned(),
        Some(liveness) if liveness.answering => look.ago(liveness.answering_since_ms),
        Some(liveness) => look.red(&format!("not for {}", look.ago(liveness.answering_since_ms))),
    }
}

/// What it has at hand, and for how long none of it has come to an end where that is worth telling.
pub(crate) fn work(host: &Host, look: &Look) -> String {
    let Some(liveness) = host.liveness.as_ref().filter(|_| host.connected) else { return "-".to_owned() };
    let parts: Vec<_> = [(liveness.probes, "probe"), (liveness.orders, "order")]
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, noun)| count(number as usize, noun))
        .collect();
    if parts.is_empty() {
        return "idle".to_owned();
    }
    let quiet = match liveness.quiet_since_ms {
        since if since > 0 && look.now_ms - since > STALLED_MS => {
            format!(", none ended for {}", look.ago(since))
        }
        _ => String::new(),
    };
    let text = format!("{}{quiet}", parts.join(", "));
    if is_stalled(liveness, look) { look.red(&text) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_the_three_is_told_with_its_time() {
        let look = Look::plain();
        let ago = |seconds: i64| look.now_ms - seconds * 1000;
        let host = |liveness| Host { connected: true, liveness: Some(liveness), ..Default::default() };
        let told = |liveness: Liveness| {
            let host = host(liveness);
            (answers(&host, &look), work(&host, &look), problem(&host, &look))
        };
        let well = Liveness { answering: true, answering_since_ms: ago(600), ..Default::default() };
        assert_eq!(told(well), ("10 min".to_owned(), "idle".to_owned(), None));
        let busy = Liveness { probes: 2, orders: 1, quiet_since_ms: ago(5), ..well };
        assert_eq!(told(busy).1, "2 probes, 1 order");
        let restoring = Liveness { orders: 1, quiet_since_ms: ago(300), ..well };
        assert_eq!(told(restoring), ("10 min".to_owned(), "1 order, none ended for 5 min".to_owned(), None));
        let stalled = Liveness { probes: 1, quiet_since_ms: ago(300), ..well };
        assert_eq!(told(stalled).2, Some("answers, and none of its probes ends"));
        let hung = Liveness { answering: false, answering_since_ms: ago(12), ..well };
        assert_eq!(
            told(hung),
            ("not for 12 s".to_owned(), "idle".to_owned(), Some("connected, and does not answer"))
        );
        // What is not connected is told by that alone.
        let gone = Host { connected: false, ..host(hung) };
        assert_eq!((answers(&gone, &look).as_str(), problem(&gone, &look)), ("-", None));
    }
}
