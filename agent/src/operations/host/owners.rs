//! Whose a process is: a container's, a unit's, a person's session, or nobody's.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
};

use super::super::Context;
use crate::host::docker::container;

/// To whom a process belongs.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    /// container, unit, session, kernel; empty when none.
    pub kind: &'static str,
    pub name: String,
    pub stack: String,
    pub service: String,
}

/// What is known of this host's containers and users.
#[derive(Debug, Default)]
pub(super) struct Owners {
    containers: HashMap<String, Owner>,
    users: BTreeMap<u32, String>,
    /// The container that this host itself is, if it is one.
    itself: Option<String>,
}

impl Owners {
    /// Asks the engine for its containers. One that does not answer leaves them without names.
    pub(super) async fn look(cx: &Context) -> Self {
        let containers = cx.host.docker().containers(None).await.unwrap_or_default();
        let containers = containers
            .iter()
            .map(|found| {
                let own = container(found);
                let owner =
                    Owner { kind: "container", name: own.name, stack: own.stack, service: own.service };
                (own.id, owner)
            })
            .collect();
        let first = fs::read_to_string("/proc/1/cgroup").unwrap_or_default();
        Self {
            containers,
            users: users(&fs::read_to_string("/etc/passwd").unwrap_or_default()),
            itself: container_id(&first).map(str::to_owned),
        }
    }

    /// Whose a process is, by its control groups.
    pub(super) fn of(&self, pid: u32) -> Owner {
        self.judge(&fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default())
    }

    /// The same of one path, as the kernel's log writes it.
    pub(super) fn judge(&self, cgroups: &str) -> Owner {
        if let Some(id) = container_id(cgroups).filter(|id| self.itself.as_deref() != Some(id)) {
            return self.containers.get(id).cloned().unwrap_or_else(|| Owner {
                kind: "container",
                name: id.get(..12).unwrap_or(id).to_owned(),
                ..Owner::default()
            });
        }
        match unit(cgroups) {
            Some(session) if session.starts_with("session-") => {
                Owner { kind: "session", name: session.to_owned(), ..Owner::default() }
            }
            Some(unit) => Owner { kind: "unit", name: unit.to_owned(), ..Owner::default() },
            None => Owner::default(),
        }
    }

    /// Whether a control group is of this host: where several share a kernel, the kernel's log tells of all.
    pub(super) fn is_own(&self, cgroup: &str) -> bool {
        match container_id(cgroup) {
            Some(id) => self.containers.contains_key(id) || self.itself.as_deref() == Some(id),
            None => super::sample::whole_machine(),
        }
    }

    /// A user's name; the number where it has none.
    pub(super) fn user(&self, pid: u32) -> String {
        use std::os::unix::fs::MetadataExt as _;
        let Ok(metadata) = fs::metadata(format!("/proc/{pid}")) else { return String::new() };
        self.users.get(&metadata.uid()).cloned().unwrap_or_else(|| metadata.uid().to_string())
    }
}

/// The innermost container of a control group: 64 hexadecimal digits, as Docker, containerd and Podman name them.
fn container_id(cgroups: &str) -> Option<&str> {
    let is_id = |word: &&str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    cgroups.lines().find_map(|line| line.rsplit(['/', '-', '.', ':']).find(is_id))
}

/// The unit at the end of a control group.
fn unit(cgroups: &str) -> Option<&str> {
    let is_unit = |word: &&str| word.ends_with(".service") || word.ends_with(".scope");
    let systemd = cgroups.lines().filter(|line| line.contains(":name=systemd:") || line.starts_with("0::"));
    systemd.flat_map(|line| line.rsplit('/').find(is_unit)).next()
}

fn users(passwd: &str) -> BTreeMap<u32, String> {
    let entry = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name))
    };
    passwd.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "5daf4518bd85b048c4a91eab7d06b1c7ba2a22c299735262da5b01435c301fa6";
    const OWN: &str = "b048c4a91eab7d06b1c7ba2a22c299735262da5b01435c301fa6f6b09535dc3d";

    fn owners() -> Owners {
        let backend = Owner {
            kind: "container",
            name: "sylion-backend".to_owned(),
            stack: "sylion".to_owned(),
            service: "backend".to_owned(),
        };
        Owners {
            containers: HashMap::from([(ID.to_owned(), backend)]),
            itself: Some(OWN.to_owned()),
            ..Owners::default()
        }
    }

    #[test]
    fn containers_units_and_sessions() {
        let owners = owners();
        // Docker 20.10 with cgroupfs on v1, with systemd on v2, and on a host that is a container itself.
        assert_eq!(owners.judge(&format!("4:memory:/docker/{ID}\n0::/docker/{ID}\n")).service, "backend");
        assert_eq!(owners.judge(&format!("0::/system.slice/docker-{ID}.scope\n")).name, "sylion-backend");
        let nginx = owners.judge(&format!("9:name=systemd:/docker/{OWN}/system.slice/nginx.service\n0::/\n"));
        assert_eq!((nginx.kind, nginx.name.as_str()), ("unit", "nginx.service"));
        assert_eq!(owners.judge("0::/user.slice/user-0.slice/session-4.scope\n").kind, "session");
        assert_eq!(owners.judge(&format!("0::/docker/{OWN}\n")), Owner::default());
        let other = ID.replace('5', "6");
        assert_eq!(owners.judge(&format!("0::/docker/{other}\n")).name, other[..12]);
        assert!(owners.is_own(&format!("/docker/{ID}")) && !owners.is_own(&format!("/docker/{other}")));
    }

    #[test]
    fn users_as_in_passwd() {
        let found = users("root:x:0:0:root:/root:/bin/bash\nbad\nwww-data:x:33:33::/:/bin/false\n");
        assert_eq!(found.get(&33).map(String::as_str), Some("www-data"));
        assert_eq!(found.len(), 2);
    }
}
