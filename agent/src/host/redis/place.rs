//! Where a stack's Redis is, and what else could be meant.
//!
//! A Redis is emptied by what is found here, so that a look-alike never stands in for what the stack names: a service is
//! taken for it by its name, its container's, an alias on the stack's networks or an address, and by its looks only where
//! nothing names another machine.

use std::{collections::BTreeSet, path::PathBuf};

use bollard::models::{ContainerInspectResponse, ContainerSummary};
use vigie_proto::v1::Container;
use zeroize::Zeroizing;

use super::{
    Credential,
    address::{PORT, address},
    named::{Named, PASSWORDS, Said, Set, is_local, said},
};
use crate::{
    host::{
        Host,
        docker::{EngineError, container},
        stacks::KnownStack,
    },
    operations::Fault,
};

/// A stack's Redis, whether it answers or not.
#[derive(Default)]
pub struct Place {
    pub service: String,
    pub container_name: String,
    /// As in the catalogue's Container; empty outside Docker.
    pub container_state: String,
    pub container: Option<ContainerInspectResponse>,
    /// Host and port to dial; empty while there is none.
    pub address: String,
    /// The name by which it has to prove itself, where the stack speaks TLS to it.
    pub tls: Option<String>,
    pub database: u32,
    pub credentials: Vec<Credential>,
    /// Why this may not be the place that the stack uses; empty where nothing speaks against it. Nothing is emptied in
    /// doubt.
    pub doubt: String,
}

/// Where Redis's data is on this machine.
pub struct DataFolder {
    pub volume: String,
    pub source: PathBuf,
    pub destination: String,
}

impl Place {
    /// The mount that holds Redis's data: `/data`, else the only one that it may write to.
    pub fn data(&self) -> Option<DataFolder> {
        let mounts = self.container.as_ref()?.mounts.as_deref().unwrap_or_default();
        let writable: Vec<_> = mounts.iter().filter(|mount| mount.rw != Some(false)).collect();
        let data = writable.iter().find(|mount| mount.destination.as_deref() == Some("/data"));
        let mount = data.or(if let [only] = &*writable { Some(only) } else { None })?;
        Some(DataFolder {
            volume: mount.name.clone().unwrap_or_default(),
            source: mount.source.clone().unwrap_or_default().into(),
            destination: mount.destination.clone().unwrap_or_default(),
        })
    }
}

/// Where a stack's Redis is; `None` when it has none.
///
/// # Errors
/// When the Docker engine cannot be asked, or the service that was named is not of this stack.
pub async fn locate(host: &Host, stack: &KnownStack, service: &str) -> Result<Option<Place>, Fault> {
    let settings = host.settings().stacks.get(&stack.name);
    let settled = settings
        .and_then(|settings| settings.redis_url.as_ref())
        .map(crate::config::DatabaseUrl::secret)
        .filter(|_| service.is_empty());
    let written = said(|names| {
        let found = stack.variable(names)?;
        Some(Set { name: found.name, value: found.value, place: found.file.to_string_lossy().into_owned() })
    });
    if let Some((name, reason)) = &written.unreadable {
        // What cannot be read is not this stack's way of saying it.
        tracing::debug!(variable = name, reason, "no address of Redis");
    }
    if let Some(url) = settled {
        let parsed =
            address(url).map_err(|reason| invalid("`redis_url` in /etc/vigie/agent.toml", &reason))?;
        let mut place = Place { database: parsed.database, ..Place::default() };
        place.credentials.push(parsed.credential("settings", "redis_url", "/etc/vigie/agent.toml"));
        credentials_of(written, ["env_url", "env_password"], &mut place);
        outside(&parsed.host, parsed.port, parsed.tls, &mut place);
        return Ok(Some(place));
    }
    let mut absent = None;
    let own = match host.docker().containers(Some(&stack.name)).await {
        Ok(own) => own,
        // Without an engine there can still be a Redis of this machine or of another one, but no service.
        Err(error @ EngineError::Absent(_)) => {
            absent = Some(error);
            Vec::new()
        }
        Err(_) if stack.services.is_empty() => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let backend = backend_of(host, stack, &own).await;
    let given = backend.as_ref().map(|(name, found)| given_to(name, found)).unwrap_or_default();
    let named: Vec<&Named> = written.named.iter().chain(&given.named).collect();
    // An env file for a developer's machine says `localhost`, and Compose hands the container something else.
    let first = named.iter().position(|own| !own.is_local()).unwrap_or(0);
    let target = named.get(first).copied().cloned();
    let Some(found) =
        service_of(host, stack, service, target.as_ref().map_or("", |own| &own.host), &own).await?
    else {
        let Some(target) = target else { return Ok(None) };
        let mut place = Place { database: target.database, ..Place::default() };
        place.doubt = doubt(&target, None, &named);
        outside(&target.host, target.port, target.tls, &mut place);
        credentials_of(written, ["env_url", "env_password"], &mut place);
        credentials_of(given, ["backend", "backend"], &mut place);
        return Ok(Some(place));
    };
    if let Some(absent) = absent {
        return Err(absent.into());
    }
    let target = target.unwrap_or(Named {
        by: String::new(),
        host: found.service.clone(),
        port: PORT,
        database: 0,
        tls: false,
    });
    let mut place = Place { database: target.database, ..Place::default() };
    if target.tls {
        place.tls = Some(target.host.clone());
    }
    place.doubt = doubt(&target, Some(&found), &named);
    credentials_of(written, ["env_url", "env_password"], &mut place);
    credentials_of(given, ["backend", "backend"], &mut place);
    inside(stack, found, target.port, &mut place);
    Ok(Some(place))
}

pub(super) fn invalid(what: &str, reason: &str) -> Fault {
    Fault::failed("redis_url_invalid", format!("{what} is no address of a Redis: {reason}"))
        .hint("write `redis://HOST:PORT/DATABASE`, or `rediss://` for TLS")
}

/// A Redis that is none of the stack's containers. What containers call their machine is this one.
fn outside(host: &str, port: u16, tls: bool, place: &mut Place) {
    let dialled = match host {
        "" | "host.docker.internal" | "0.0.0.0" => "127.0.0.1",
        host => host,
    };
    place.address = at(dialled, port);
    place.tls = tls.then(|| host.to_owned());
}

fn at(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The ways in that a place names: the address's own, and the password that stands alone.
fn credentials_of(said: Said, [by_url, by_password]: [&'static str; 2], place: &mut Place) {
    let alone_too = by_url != by_password;
    let has_url = said.url.is_some();
    if let Some((set, parsed)) = said.url {
        place.credentials.push(parsed.credential(by_url, &set.name, &set.place));
    }
    if let Some((set, username)) = said.password.filter(|_| alone_too || !has_url) {
        place.credentials.push(Credential {
            source: by_password,
            name: set.name,
            place: set.place,
            username,
            password: Some(set.value),
            outcome: "untried",
        });
    }
}

/// What the stack says elsewhere and is not the same place; what a service's own container does not fit to.
fn doubt(target: &Named, found: Option<&Service>, named: &[&Named]) -> String {
    let same_host = |own: &Named| {
        own.host == target.host
            || found.is_some_and(|found| is_local(&own.host) || found.answers_to(&own.host))
            || (is_local(&own.host) && is_local(&target.host))
    };
    let same_port = |own: &Named| {
        own.port == target.port
            || found.is_some_and(|found| found.inner_port(own.port) == found.inner_port(target.port))
    };
    let other =
        named.iter().find(|own| !(same_host(own) && same_port(own) && own.database == target.database));
    if let Some(other) = other {
        return format!(
            "{} names database {} at {}, and {} database {} at {}",
            target.by,
            target.database,
            at(&target.host, target.port),
            other.by,
            other.database,
            at(&other.host, other.port),
        );
    }
    match found {
        Some(found)
            if is_local(&target.host)
                && !target.host.is_empty()
                && !found.is_on_this_machine(target.port) =>
        {
            format!(
                "{} names port {} of the machine itself, where the container `{}` is not reached",
                target.by, target.port, found.container_name
            )
        }
        _ => String::new(),
    }
}

/// A service that is the stack's Redis, and its container where it has one.
struct Service {
    service: String,
    container_name: String,
    /// Its container as it is listed, and looked at.
    container: Option<(Container, ContainerInspectResponse)>,
}

impl Service {
    /// Whether others on the stack's networks find it under this name or address.
    fn answers_to(&self, name: &str) -> bool {
        name == self.service
            || name == self.container_name
            || self.container.as_ref().is_some_and(|(_, found)| names_of(found).contains(name))
    }

    /// The container's own port that a port leads to.
    fn inner_port(&self, port: u16) -> u16 {
        let ports = self.container.as_ref().map(|(listed, _)| listed.ports.as_slice()).unwrap_or_default();
        if ports.iter().any(|own| own.container_port == u32::from(port)) {
            return port;
        }
        let published = ports.iter().find(|own| own.host_port == u32::from(port));
        published.and_then(|own| own.container_port.try_into().ok()).unwrap_or(port)
    }

    /// Whether this machine's port leads to it; unknown, and not denied, while it does not run.
    fn is_on_this_machine(&self, port: u16) -> bool {
        self.container.as_ref().is_none_or(|(listed, found)| {
            let mode = found.host_config.as_ref().and_then(|host| host.network_mode.as_deref());
            listed.state != "running"
                || mode == Some("host")
                || listed.ports.iter().any(|own| own.host_port == u32::from(port))
        })
    }
}

/// The names and addresses of a container on its networks.
fn names_of(found: &ContainerInspectResponse) -> BTreeSet<String> {
    let networks = found.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    let endpoints = networks.into_iter().flatten().map(|(_, endpoint)| endpoint);
    endpoints
        .flat_map(|endpoint| {
            let aliases = endpoint.aliases.iter().chain(&endpoint.dns_names).flatten().cloned();
            aliases.chain(endpoint.ip_address.clone().filter(|address| !address.is_empty()))
        })
        .collect()
}

/// The service that is the stack's Redis: the one asked for, the one that its address names, or the one that looks so
/// where no address names another machine.
async fn service_of(
    host: &Host,
    stack: &KnownStack,
    asked: &str,
    named: &str,
    own: &[ContainerSummary],
) -> Result<Option<Service>, Fault> {
    if !asked.is_empty() && !stack.services.contains_key(asked) {
        let known: Vec<&str> = stack.services.keys().map(String::as_str).collect();
        return Err(Fault::refused(
            "service_unknown",
            format!("stack `{}` has no service `{asked}`", stack.name),
        )
        .hint(format!("it has {}", known.join(", "))));
    }
    let by_name = if asked.is_empty() { by_name(stack, named) } else { Some(asked.to_owned()) };
    if let Some(name) = by_name {
        return looked_at(host, stack, name, own).await.map(Some);
    }
    for name in look_alikes(stack) {
        let found = looked_at(host, stack, name, own).await?;
        if is_local(named) || found.answers_to(named) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn by_name(stack: &KnownStack, named: &str) -> Option<String> {
    let same = |(name, known): &(&String, &crate::host::stacks::KnownService)| {
        !named.is_empty() && (*name == named || known.container == named)
    };
    stack.services.iter().find(same).map(|(name, _)| name.clone())
}

/// Services whose name or image is Redis's or a relative's, the likeliest first.
fn look_alikes(stack: &KnownStack) -> Vec<String> {
    let looks = |name: &str, image: &str| {
        let image = image.rsplit('/').next().unwrap_or(image);
        ["redis", "valkey", "keydb"].iter().any(|kind| name.contains(kind) || image.contains(kind))
            && !["exporter", "commander", "insight", "sentinel"]
                .iter()
                .any(|other| image.contains(other) || name.contains(other))
    };
    let mut like: Vec<String> = stack
        .services
        .iter()
        .filter(|(name, known)| looks(name, &known.image))
        .map(|(name, _)| name.clone())
        .collect();
    like.sort_by_key(|name| (name != "redis", name.len()));
    like
}

async fn looked_at(
    host: &Host,
    stack: &KnownStack,
    service: String,
    own: &[ContainerSummary],
) -> Result<Service, Fault> {
    let listed = own.iter().map(container).find(|own| own.service == service);
    let known = stack.services.get(&service).map(|known| known.container.clone()).unwrap_or_default();
    let container = match listed {
        Some(listed) => {
            let found = host.docker().inspect(&listed.id).await?;
            Some((listed, found))
        }
        None => None,
    };
    let container_name = container.as_ref().map_or(known, |(listed, _)| listed.name.clone());
    Ok(Service { service, container_name, container })
}

/// The backend's container, with its name.
async fn backend_of(
    host: &Host,
    stack: &KnownStack,
    own: &[ContainerSummary],
) -> Option<(String, ContainerInspectResponse)> {
    if stack.backend_service.is_empty() {
        return None;
    }
    let backend = own.iter().map(container).find(|own| own.service == stack.backend_service)?;
    let found = host.docker().inspect(&backend.id).await.ok()?;
    Some((backend.name, found))
}

fn given_to(name: &str, found: &ContainerInspectResponse) -> Said {
    let variables = environment(found);
    said(|names| {
        names.iter().find_map(|variable| {
            let value = self::variable(&variables, variable)?;
            Some(Set { name: (*variable).to_owned(), value, place: name.to_owned() })
        })
    })
}

/// What the service's container tells.
fn inside(stack: &KnownStack, found: Service, port: u16, place: &mut Place) {
    let port = found.inner_port(port);
    place.container_name.clone_from(&found.container_name);
    place.service = found.service;
    let Some((running, inspected)) = found.container else {
        "missing".clone_into(&mut place.container_state);
        place.container_name =
            stack.services.get(&place.service).map(|known| known.container.clone()).unwrap_or_default();
        return;
    };
    place.container_state.clone_from(&running.state);
    place.credentials.push(made_with(&inspected, &running.name));
    let networks = inspected.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    let address = networks
        .into_iter()
        .flatten()
        .filter_map(|(_, network)| network.ip_address.as_deref())
        .find(|address| !address.is_empty());
    let published =
        running.ports.iter().find(|own| own.container_port == u32::from(port) && own.host_port > 0);
    place.address = match (address, published) {
        (Some(address), _) => at(address, port),
        (None, Some(own)) => format!("127.0.0.1:{}", own.host_port),
        // On the host's own network.
        (None, None) if running.state == "running" => format!("127.0.0.1:{port}"),
        (None, None) => String::new(),
    };
    place.container = Some(inspected);
}

/// The password that Redis's container was made with: its `--requirepass`, else its variable.
fn made_with(found: &ContainerInspectResponse, name: &str) -> Credential {
    let config = found.config.clone().unwrap_or_default();
    let words: Vec<String> =
        config.entrypoint.into_iter().flatten().chain(config.cmd.into_iter().flatten()).collect();
    let argument =
        words.iter().position(|word| word == "--requirepass").and_then(|at| words.get(at + 1)).cloned();
    let variables = environment(found);
    let variable = PASSWORDS.iter().find_map(|name| Some(((*name).to_owned(), variable(&variables, name)?)));
    let (variable, password) = match (argument, variable) {
        (Some(argument), _) => ("--requirepass".to_owned(), Some(Zeroizing::new(argument))),
        (None, Some((name, value))) => (name, Some(value)),
        (None, None) => (String::new(), None),
    };
    let outcome = if password.is_some() { "untried" } else { "none" };
    Credential {
        source: "container",
        name: variable,
        place: name.to_owned(),
        username: None,
        password,
        outcome,
    }
}

fn environment(found: &ContainerInspectResponse) -> Vec<String> {
    found.config.as_ref().and_then(|config| config.env.clone()).unwrap_or_default()
}

fn variable(environment: &[String], name: &str) -> Option<Zeroizing<String>> {
    let set = environment.iter().filter_map(|line| line.split_once('=')).find(|(own, _)| *own == name);
    set.map(|(_, value)| Zeroizing::new(value.to_owned())).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_services_look_like_redis() {
        let mut stack = KnownStack { name: "s".to_owned(), ..KnownStack::default() };
        let mut add = |name: &str, image: &str| {
            let known = crate::host::stacks::KnownService {
                container: format!("s-{name}-1"),
                image: image.to_owned(),
            };
            stack.services.insert(name.to_owned(), known);
        };
        add("backend", "shop/backend");
        add("redis-exporter", "oliver006/redis_exporter");
        add("cache", "docker.io/valkey/valkey:8");
        add("queue", "redis:7");
        assert_eq!(by_name(&stack, "queue").as_deref(), Some("queue"));
        assert_eq!(by_name(&stack, "s-cache-1").as_deref(), Some("cache"));
        assert_eq!(by_name(&stack, "cache.internal"), None, "another machine's");
        assert_eq!(by_name(&stack, ""), None);
        assert_eq!(look_alikes(&stack), ["cache", "queue"]);
    }

    fn service(aliases: &[&str], ports: &[(u32, u32)]) -> Service {
        let found: ContainerInspectResponse = serde_json::from_value(serde_json::json!({
            "NetworkSettings": { "Networks": { "shop_default": { "Aliases": aliases, "IPAddress": "172.18.0.3" } } },
            "HostConfig": { "NetworkMode": "shop_default" },
        }))
        .unwrap();
        let listed = Container {
            name: "shop-redis".to_owned(),
            state: "running".to_owned(),
            ports: ports
                .iter()
                .map(|(container_port, host_port)| vigie_proto::v1::PublishedPort {
                    container_port: *container_port,
                    host_port: *host_port,
                    ..Default::default()
                })
                .collect(),
            ..Container::default()
        };
        Service {
            service: "redis".to_owned(),
            container_name: "shop-redis".to_owned(),
            container: Some((listed, found)),
        }
    }

    fn named(by: &str, host: &str, port: u16, database: u32) -> Named {
        Named { by: by.to_owned(), host: host.to_owned(), port, database, tls: false }
    }

    #[test]
    fn a_service_answers_to_its_names() {
        let own = service(&["redis", "queue-store"], &[(6379, 0)]);
        for name in ["redis", "shop-redis", "queue-store", "172.18.0.3"] {
            assert!(own.answers_to(name), "{name}");
        }
        assert!(!own.answers_to("cache.internal") && !own.answers_to("10.0.0.5"));
        let published = service(&[], &[(6379, 16379)]);
        assert_eq!((published.inner_port(16379), published.inner_port(6379)), (6379, 6379));
    }

    #[test]
    fn what_speaks_against_a_place() {
        let own = service(&["redis"], &[(6379, 16379)]);
        let url = named("REDIS_URL", "redis", 6379, 0);
        let none = |others: &[&Named]| doubt(&url, Some(&own), others);
        assert_eq!(none(&[&url, &named("REDIS_HOST", "shop-redis", 6379, 0)]), "");
        assert_eq!(none(&[&named("REDIS_HOST", "localhost", 16379, 0), &url]), "");
        assert!(none(&[&url, &named("REDIS_DB", "redis", 6379, 3)]).contains("database 3"));
        assert!(none(&[&url, &named("REDIS_HOST", "10.0.0.5", 6379, 0)]).contains("10.0.0.5:6379"));
        let local = named("REDIS_HOST", "localhost", 6379, 0);
        assert!(doubt(&local, Some(&own), &[&local]).contains("the machine itself"));
        let local = named("REDIS_HOST", "localhost", 16379, 0);
        assert_eq!(doubt(&local, Some(&own), &[&local]), "");
        let away = named("REDIS_URL", "cache.internal", 6379, 0);
        assert_eq!(doubt(&away, None, &[&away]), "");
    }

    #[test]
    fn what_containers_call_their_machine_is_this_one() {
        let address = |host: &str| {
            let mut place = Place::default();
            outside(host, 6379, true, &mut place);
            (place.address, place.tls.unwrap())
        };
        assert_eq!(
            address("host.docker.internal"),
            ("127.0.0.1:6379".to_owned(), "host.docker.internal".to_owned())
        );
        assert_eq!(address("fd00::5").0, "[fd00::5]:6379");
        assert_eq!(address("cache.internal").0, "cache.internal:6379");
    }
}
