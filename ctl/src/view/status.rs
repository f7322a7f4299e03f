//! The fleet at a glance: what is wrong first, then every host in a line.

use vigie_proto::{
    text::escape,
    v1::{Container, Host, HostState},
};

use super::liveness;
use crate::output::{
    look::{Look, bytes, count, pad},
    names,
    table::Table,
};

/// Less memory than this share is worth a line, in percent.
const LITTLE_MEMORY: u64 = 10;

/// What is wrong with a host as far as its last report tells; the same text on several hosts is one line.
fn problems(host: &Host, look: &Look) -> Vec<String> {
    let mut problems = Vec::new();
    if !host.connected {
        problems.push(match host.last_seen_ms {
            0 => "never connected".to_owned(),
            _ => "not connected".to_owned(),
        });
    }
    problems.extend(liveness::problem(host, look).map(str::to_owned));
    let Some(state) = &host.state else { return problems };
    if !state.docker_error.is_empty() {
        problems.push(format!("Docker: {}", escape(&state.docker_error, false)));
    }
    if let Some(error) = state.policy.as_ref().map(|policy| &policy.error).filter(|error| !error.is_empty()) {
        problems.push(format!("policy: {} (every change is refused)", escape(error, false)));
    }
    for stack in &state.stacks {
        for service in stack.services.iter().filter(|service| is_unwell(service)) {
            let (stack, name) = (escape(&stack.name, false), escape(&service.service, false));
            problems.push(format!("{stack}: {name} is {}", unwell(service)));
        }
    }
    if let Some((percent, available)) = memory(state)
        && percent < LITTLE_MEMORY
    {
        problems.push(format!("little memory: {} available", bytes(available)));
    }
    if let Some(load) = &state.load
        && load.load_5 > f64::from(load.cpus.max(1)) * 2.0
    {
        problems.push(format!("load {:.1} on {}", load.load_5, count(load.cpus as usize, "processor")));
    }
    problems
}

/// Percent available, and how much that is.
fn memory(state: &HostState) -> Option<(u64, u64)> {
    let load = state.load.as_ref().filter(|load| load.memory_total_bytes > 0)?;
    Some((
        load.memory_available_bytes.saturating_mul(100) / load.memory_total_bytes,
        load.memory_available_bytes,
    ))
}

/// One that ran once and ended well is not down.
fn is_unwell(service: &Container) -> bool {
    if service.finished {
        return false;
    }
    service.state != "running" || service.health == "unhealthy"
}

fn unwell(service: &Container) -> String {
    let word = if service.state == "running" { &service.health } else { &service.state };
    escape(word, false).into_owned()
}

/// Problems first, hosts with the same one together; then all hosts; then the sum.
pub(crate) fn text(hosts: &[Host], look: &Look) -> String {
    let mut wrong: Vec<(String, Vec<&str>)> = Vec::new();
    for host in hosts {
        for problem in problems(host, look) {
            match wrong.iter_mut().find(|(other, _)| *other == problem) {
                Some((_, names)) => names.push(&host.name),
                None => wrong.push((problem, vec![&host.name])),
            }
        }
    }
    wrong.sort_by_key(|(_, names)| std::cmp::Reverse(names.len()));
    let labels: Vec<_> = wrong.iter().map(|(_, hosts)| names::counted(hosts.iter().copied())).collect();
    let width = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for ((problem, _), label) in wrong.iter().zip(&labels) {
        text.push_str(&format!("{} {}  {problem}\n", look.red("✗"), look.bold(&pad(label, width))));
    }
    if !wrong.is_empty() {
        text.push('\n');
    }
    text.push_str(&table(hosts, look));
    text + &footer(hosts, look)
}

fn footer(hosts: &[Host], look: &Look) -> String {
    let connected = hosts.iter().filter(|host| host.connected).count();
    let unwell = hosts.iter().filter(|host| !problems(host, look).is_empty()).count();
    let unwell = match unwell {
        0 => look.green("nothing wrong"),
        some => look.red(&format!("{some} with something wrong")),
    };
    format!("{}, {connected} connected, {unwell}\n", count(hosts.len(), "host"))
}

/// Every host in a line.
pub(crate) fn table(hosts: &[Host], look: &Look) -> String {
    let mut headings = vec!["HOST", "SESSION", "ANSWERS", "WORK", "LOAD", "MEMORY", "STACKS"];
    if look.wide {
        headings.extend(["LABELS", "AGENT", "ID"]);
    }
    let mut table = Table::new(headings);
    for host in hosts {
        let state = host.state.as_ref();
        let session = match (host.connected, host.connected_since_ms) {
            (true, since) => format!("up {}", look.ago(since)),
            (false, 0) => look.red("never"),
            (false, since) => look.red(&format!("down {}", look.ago(since))),
        };
        // A report of a host that is gone is a memory: it is shown as one.
        let stale = |text: String| if host.connected { text } else { look.dim(&text) };
        let load = state.and_then(|state| state.load.as_ref());
        let load = load.map_or_else(|| "-".to_owned(), |load| format!("{:.2} / {}", load.load_1, load.cpus));
        let used = state
            .and_then(memory)
            .map_or_else(|| "-".to_owned(), |(free, _)| format!("{} %", 100 - free.min(100)));
        let mut cells = vec![
            look.bold(&escape(&host.name, false)),
            session,
            liveness::answers(host, look),
            liveness::work(host, look),
            stale(load),
            stale(used),
            state.map_or_else(|| "-".to_owned(), |state| stale(stacks(state, look))),
        ];
        if look.wide {
            cells.push(labels(host));
            let version =
                state.and_then(|state| state.facts.as_ref()).map_or("-", |facts| &facts.agent_version);
            cells.push(escape(version, false).into_owned());
            cells.push(escape(&host.id, false).into_owned());
        }
        table.row(cells);
    }
    table.text(look)
}

/// `sylion: 3 up, backend exited`.
fn stacks(state: &HostState, look: &Look) -> String {
    let stacks: Vec<_> = state
        .stacks
        .iter()
        .map(|stack| {
            let well =
                stack.services.iter().filter(|service| !is_unwell(service) && !service.finished).count();
            let others = stack.services.iter().filter(|service| is_unwell(service));
            let others = others.map(|s| look.red(&format!(", {} {}", escape(&s.service, false), unwell(s))));
            format!("{}: {well} up{}", escape(&stack.name, false), others.collect::<String>())
        })
        .collect();
    if stacks.is_empty() { "none".to_owned() } else { stacks.join("; ") }
}

/// `env=prod,role=api`.
pub(crate) fn labels(host: &Host) -> String {
    let labels = host.labels.iter().map(|label| format!("{}={}", label.name, label.value));
    escape(&labels.collect::<Vec<_>>().join(","), false).into_owned()
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use vigie_proto::v1::{HostLoadResult, Label, Liveness, PolicySummary, Stack};

    use super::*;

    fn service(name: &str, state: &str, health: &str) -> Container {
        Container { service: name.into(), state: state.into(), health: health.into(), ..Default::default() }
    }

    fn host(number: usize, services: Vec<Container>) -> Host {
        let load = HostLoadResult {
            load_1: 0.31,
            load_5: 0.2,
            cpus: 2,
            memory_total_bytes: 4 << 30,
            memory_available_bytes: 3 << 30,
            ..Default::default()
        };
        Host {
            id: format!("id-{number}"),
            name: format!("vps{number}"),
            labels: vec![Label { name: "env".into(), value: "prod".into() }],
            connected: true,
            connected_since_ms: 1_700_000_000_000,
            last_seen_ms: 1_700_000_500_000,
            liveness: Some(Liveness {
                answering: true,
                answering_since_ms: 1_700_000_000_000,
                ..Default::default()
            }),
            state: Some(HostState {
                load: Some(load),
                stacks: vec![Stack { name: "sylion".into(), services, ..Default::default() }],
                policy: Some(PolicySummary::default()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn what_is_wrong_comes_first() {
        let migrated = Container { finished: true, ..service("migrate", "exited", "") };
        let well = || {
            vec![service("backend", "running", "healthy"), service("redis", "running", ""), migrated.clone()]
        };
        let ill = || vec![service("backend", "restarting", ""), service("redis", "running", "unhealthy")];
        let mut full = host(4, well());
        let state = full.state.as_mut().unwrap();
        state.load.as_mut().unwrap().memory_available_bytes = 200 << 20;
        state.policy.as_mut().unwrap().error = "line 3: unknown key `alow`".into();
        let gone = Host { connected: false, ..host(5, well()) };
        let never =
            Host { connected: false, state: None, connected_since_ms: 0, last_seen_ms: 0, ..host(6, well()) };
        let mut hung = host(7, well());
        let liveness = hung.liveness.as_mut().unwrap();
        (liveness.answering, liveness.probes, liveness.answering_since_ms) = (false, 1, 1_700_000_570_000);
        let hosts = [host(1, well()), host(2, ill()), host(3, ill()), full, gone, never, hung];
        assert_snapshot!(text(&hosts, &Look::plain()), @r#"
        ✗ vps[2-3] (2)  sylion: backend is restarting
        ✗ vps[2-3] (2)  sylion: redis is unhealthy
        ✗ vps4          policy: line 3: unknown key `alow` (every change is refused)
        ✗ vps4          little memory: 200.0 MiB available
        ✗ vps5          not connected
        ✗ vps6          never connected
        ✗ vps7          connected, and does not answer

        HOST  SESSION      ANSWERS       WORK     LOAD      MEMORY  STACKS
        vps1  up 10 min    10 min        idle     0.31 / 2  25 %    sylion: 2 up
        vps2  up 10 min    10 min        idle     0.31 / 2  25 %    sylion: 0 up, backend restarting, redis unhealthy
        vps3  up 10 min    10 min        idle     0.31 / 2  25 %    sylion: 0 up, backend restarting, redis unhealthy
        vps4  up 10 min    10 min        idle     0.31 / 2  96 %    sylion: 2 up
        vps5  down 10 min  -             -        0.31 / 2  25 %    sylion: 2 up
        vps6  never        -             -        -         -       -
        vps7  up 10 min    not for 30 s  1 probe  0.31 / 2  25 %    sylion: 2 up
        7 hosts, 5 connected, 6 with something wrong
        "#);
        let wide = Look { wide: true, ..Look::plain() };
        assert_snapshot!(table(&hosts[..1], &wide), @r#"
        HOST  SESSION    ANSWERS  WORK  LOAD      MEMORY  STACKS        LABELS    AGENT  ID
        vps1  up 10 min  10 min   idle  0.31 / 2  25 %    sylion: 2 up  env=prod  -      id-1
        "#);
    }
}
