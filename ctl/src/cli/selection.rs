//! Which hosts: the same options on every command.

use clap::Args;
use vigie_proto::{
    selector::{Selector, SelectorError},
    v1,
};

/// The selector as it is written on the command line.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Selection {
    /// By label: `env=prod,role in (api,web),!canary`
    #[arg(short = 'l', long = "labels", value_name = "LABELS", help_heading = "Hosts")]
    pub labels: Vec<String>,
    /// By name: `vps1,vps[2-9]`
    #[arg(short = 'H', long = "hosts", value_name = "HOSTS", help_heading = "Hosts")]
    pub hosts: Vec<String>,
    /// Every host
    #[arg(long, help_heading = "Hosts")]
    pub all: bool,
    /// Only this stack, where a host has several
    #[arg(long, value_name = "STACK", help_heading = "Hosts")]
    pub stack: Option<String>,
}

impl Selection {
    /// For what only looks: no selection stands for every host.
    pub(crate) fn observing(&self) -> Result<v1::Selector, SelectorError> {
        let none = self.labels.is_empty() && self.hosts.is_empty();
        self.checked(self.all || none)
    }

    /// For what changes hosts: they must be named.
    pub(crate) fn changing(&self) -> Result<v1::Selector, SelectorError> {
        self.checked(self.all)
    }

    fn checked(&self, all: bool) -> Result<v1::Selector, SelectorError> {
        let selector = v1::Selector {
            labels: self.labels.join(","),
            hosts: self.hosts.join(","),
            all,
            stack: self.stack.clone().unwrap_or_default(),
            ..v1::Selector::default()
        };
        Selector::try_from(&selector)?;
        Ok(selector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_may_mean_everyone_and_changing_may_not() {
        let none = Selection::default();
        assert!(none.observing().unwrap().all);
        assert_eq!(none.changing(), Err(SelectorError::Empty));
        let named = Selection { hosts: vec!["vps1".into(), "vps[3-4]".into()], ..Selection::default() };
        let selector = named.changing().unwrap();
        assert_eq!((selector.hosts.as_str(), selector.all), ("vps1,vps[3-4]", false));
        assert!(!named.observing().unwrap().all);
        let both = Selection { all: true, ..named };
        assert_eq!(both.changing(), Err(SelectorError::AllAndMore));
    }
}
