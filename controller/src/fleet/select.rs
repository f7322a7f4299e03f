//! Selectors, resolved against the hosts that there are.

use std::collections::{BTreeMap, BTreeSet};

use vigie_proto::{
    id::HostId,
    selector::Selector,
    v1::{self, Target},
};

use super::Known;
use crate::error::HostsError;

/// What a run is about.
pub use vigie_runbook::Scope;

type Hosts = BTreeMap<HostId, Known>;

/// The hosts that a selector means.
pub(super) fn matching<'a>(hosts: &'a Hosts, selector: &v1::Selector) -> Result<Vec<&'a Known>, HostsError> {
    Ok(resolve(hosts, selector)?.1)
}

fn resolve<'a>(hosts: &'a Hosts, selector: &v1::Selector) -> Result<(Selector, Vec<&'a Known>), HostsError> {
    let selector = Selector::try_from(selector)?;
    if hosts.is_empty() {
        return Err(HostsError::NoHosts);
    }
    let names: BTreeSet<&str> = hosts.values().map(|known| known.row.name.as_str()).collect();
    let unknown = selector.unknown_names(&names);
    if !unknown.is_empty() {
        return Err(HostsError::Unknown(unknown.into_iter().map(str::to_owned).collect()));
    }
    let mut matching: Vec<_> =
        hosts.values().filter(|known| selector.matches(&known.row.name, &known.row.labels())).collect();
    if matching.is_empty() {
        return Err(HostsError::NoMatch);
    }
    matching.sort_by(|a, b| a.row.name.cmp(&b.row.name));
    Ok((selector, matching))
}

/// The targets that a selector means, by name: hosts, or the stacks on them.
///
/// A host that is not connected counts by what it last reported. Where a run is about stacks, a host without one is
/// passed over; only when that leaves nothing is it an error.
pub(super) fn targets(
    hosts: &Hosts,
    selector: &v1::Selector,
    scope: Scope,
) -> Result<Vec<Target>, HostsError> {
    let (selector, hosts) = resolve(hosts, selector)?;
    let itself = (scope == Scope::Host && selector.stack.is_none()).then_some("");
    let by_stack = scope == Scope::Stack || selector.names_stacks();
    let targets: Vec<Target> = hosts
        .into_iter()
        .flat_map(|known| {
            let stacks = itself.into_iter().chain(known.stacks().filter(|_| by_stack));
            let meant = stacks.filter(|stack| selector.takes(&known.row.name, stack));
            meant.map(|stack| known.target(stack)).collect::<Vec<_>>()
        })
        .collect();
    // What was written out one by one is never passed over.
    let found: BTreeSet<_> = targets.iter().map(|t| (t.host_name.as_str(), t.stack.as_str())).collect();
    if let Some((host, stack)) = selector.places().find(|place| !found.contains(place)) {
        return Err(HostsError::NoPlace { host: host.to_owned(), stack: stack.to_owned() });
    }
    if targets.is_empty() {
        return Err(HostsError::NoStack { stack: selector.stack });
    }
    Ok(targets)
}

impl Known {
    fn stacks(&self) -> impl Iterator<Item = &str> {
        self.row.state.iter().flat_map(|state| &state.stacks).map(|stack| stack.name.as_str())
    }

    fn target(&self, stack: &str) -> Target {
        Target {
            host: self.row.id.to_string(),
            host_name: self.row.name.clone(),
            incarnation: self.row.incarnation,
            stack: stack.to_owned(),
        }
    }
}
