//! Which service of a stack is its backend, where that is published, and under which name nginx serves it.
//!
//! What is seen now counts over what was remembered; what cannot be seen now stays remembered, so that a port that is
//! no longer published, or a proxy that passes elsewhere, is measured against what it should be.

use std::{collections::BTreeMap, sync::Arc};

use vigie_proto::v1::{Container, PublishedPort};

use super::{KnownStack, compose::Configured};
use crate::host::nginx::routes::Route;

/// Fills in the roles of all stacks. `routes` is `None` while nginx does not tell.
pub(super) fn assign(
    known: &mut BTreeMap<String, KnownStack>,
    present: &[Container],
    models: &BTreeMap<String, Arc<Configured>>,
    routes: Option<&[Route]>,
) {
    for stack in known.values_mut() {
        let model = models.get(&stack.name).map(|configured| &configured.model);
        let published = |service: &str| -> Vec<PublishedPort> {
            let containers = present.iter().filter(|own| own.stack == stack.name && own.service == service);
            let live: Vec<_> =
                containers.flat_map(|own| own.ports.iter().cloned()).filter(is_published).collect();
            if !live.is_empty() {
                return live;
            }
            let declared = model.and_then(|model| model.service(service));
            declared
                .into_iter()
                .flat_map(|own| own.declared.ports.iter().cloned())
                .filter(is_published)
                .collect()
        };
        let ports: BTreeMap<String, Vec<PublishedPort>> =
            stack.services.keys().map(|service| (service.clone(), published(service))).collect();
        if let Some(service) = backend(stack, &ports, routes) {
            stack.backend_service = service;
        }
        let addresses: Vec<String> =
            ports.get(&stack.backend_service).into_iter().flatten().map(address).collect();
        let passed_to =
            addresses.iter().find(|address| routes.is_some_and(|routes| leads_to(routes, address).is_some()));
        // A backend published on several ports keeps the one it was known by.
        let same = addresses.iter().find(|address| **address == stack.backend_address);
        if let Some(found) = passed_to.or(same).or(addresses.first()) {
            stack.backend_address.clone_from(found);
        }
        let declared = model.and_then(|model| model.service(&stack.backend_service));
        if let Some(path) = declared.and_then(|service| service.health_path.as_ref()) {
            stack.health_path.clone_from(path);
        }
    }
    let Some(routes) = routes else { return };
    let addresses: Vec<String> = known.values().map(|stack| stack.backend_address.clone()).collect();
    for stack in known.values_mut() {
        let own = leads_to(routes, &stack.backend_address).or_else(|| {
            let mut named = routes.iter().filter(|route| {
                let name = route.plain_name();
                name.is_some_and(|name| stack.server_name.is_empty() || name == stack.server_name)
                    && !addresses.iter().any(|address| is_same(&route.address, address))
            });
            // Without a remembered name, only a proxy that could be nobody else's.
            let first = named.next()?;
            let alone = named.all(|route| route.plain_name() == first.plain_name()) && addresses.len() == 1;
            (alone || !stack.server_name.is_empty()).then_some(first)
        });
        if let Some(route) = own {
            if let Some(name) = route.plain_name() {
                name.clone_into(&mut stack.server_name);
            }
            if let Some(listen) = route.listen() {
                (stack.proxy_port, stack.proxy_tls) = (listen.port, listen.tls);
            }
        }
    }
}

/// The service called `backend`; else the one that nginx passes to; else the only one that publishes a port.
fn backend(
    stack: &KnownStack,
    ports: &BTreeMap<String, Vec<PublishedPort>>,
    routes: Option<&[Route]>,
) -> Option<String> {
    if !stack.backend_service.is_empty() && stack.services.contains_key(&stack.backend_service) {
        return None;
    }
    if stack.services.contains_key("backend") {
        return Some("backend".to_owned());
    }
    let publishing = || ports.iter().filter(|(_, ports)| ports.iter().any(may_be_http));
    let passed_to = publishing().find(|(_, ports)| {
        ports.iter().any(|port| routes.is_some_and(|routes| leads_to(routes, &address(port)).is_some()))
    });
    let only = || {
        let mut all = publishing();
        all.next().filter(|_| all.next().is_none())
    };
    passed_to.or_else(only).map(|(service, _)| service.clone())
}

fn is_published(port: &PublishedPort) -> bool {
    port.host_port != 0 && port.protocol != "udp"
}

/// Whether a port is none of the well-known ones of databases and queues.
fn may_be_http(port: &PublishedPort) -> bool {
    !matches!(port.container_port, 22 | 25 | 1433 | 1883 | 3306 | 5432 | 5672 | 6379 | 9092 | 11211 | 27017)
}

/// Where a published port is reached from this machine.
fn address(port: &PublishedPort) -> String {
    match port.host_address.as_str() {
        "" | "0.0.0.0" | "::" => format!("127.0.0.1:{}", port.host_port),
        host if host.contains(':') => format!("[{host}]:{}", port.host_port),
        host => format!("{host}:{}", port.host_port),
    }
}

fn leads_to<'a>(routes: &'a [Route], address: &str) -> Option<&'a Route> {
    let mut found = routes.iter().filter(|route| is_same(&route.address, address)).peekable();
    let first = found.peek().copied();
    // One with a name that can be asked for, TLS first.
    found
        .filter(|route| route.plain_name().is_some())
        .max_by_key(|route| route.listen().is_some_and(|l| l.tls))
        .or(first)
}

/// Whether two addresses are the same place on this machine.
pub fn is_same(one: &str, other: &str) -> bool {
    let canonical =
        |address: &str| address.replace("localhost:", "127.0.0.1:").replace("[::1]:", "127.0.0.1:");
    !one.is_empty() && canonical(one) == canonical(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::stacks::KnownService;

    fn stack(services: &[&str]) -> KnownStack {
        KnownStack {
            name: "shop".to_owned(),
            services: services.iter().map(|name| ((*name).to_owned(), KnownService::default())).collect(),
            ..KnownStack::default()
        }
    }

    fn up(service: &str, address: &str, host_port: u32, container_port: u32) -> Container {
        Container {
            stack: "shop".to_owned(),
            service: service.to_owned(),
            ports: vec![PublishedPort {
                host_address: address.to_owned(),
                host_port,
                container_port,
                protocol: "tcp".to_owned(),
            }],
            ..Container::default()
        }
    }

    fn route(name: &str, address: &str) -> Route {
        Route {
            server_names: vec![name.to_owned()],
            listens: vec!["80".to_owned(), "443 ssl".to_owned()],
            address: address.to_owned(),
            ..Route::default()
        }
    }

    fn assigned(stack: KnownStack, present: &[Container], routes: Option<&[Route]>) -> KnownStack {
        let mut known = BTreeMap::from([(stack.name.clone(), stack)]);
        assign(&mut known, present, &BTreeMap::new(), routes);
        known.remove("shop").unwrap()
    }

    #[test]
    fn the_backend_and_its_name_are_found() {
        let present = [up("backend", "0.0.0.0", 8000, 8000), up("postgres", "127.0.0.1", 5432, 5432)];
        let routes = [route("other.example", "127.0.0.1:9000"), route("shop.example", "localhost:8000")];
        let found = assigned(stack(&["backend", "postgres"]), &present, Some(&routes));
        assert_eq!(
            (found.backend_service.as_str(), found.backend_address.as_str()),
            ("backend", "127.0.0.1:8000")
        );
        assert_eq!(
            (found.server_name.as_str(), found.proxy_port, found.proxy_tls),
            ("shop.example", 443, true)
        );
    }

    #[test]
    fn what_was_known_survives_a_port_that_is_no_longer_published() {
        let known = KnownStack {
            backend_service: "backend".to_owned(),
            backend_address: "127.0.0.1:8000".to_owned(),
            server_name: "shop.example".to_owned(),
            ..stack(&["backend"])
        };
        let silent = Container { ports: Vec::new(), ..up("backend", "", 0, 8000) };
        assert_eq!(assigned(known.clone(), &[silent], None), known);
        assert_eq!(assigned(known.clone(), &[], Some(&[])), known);
    }

    #[test]
    fn a_proxy_that_passes_elsewhere_keeps_its_name() {
        let known = KnownStack {
            backend_address: "127.0.0.1:8000".to_owned(),
            backend_service: "backend".to_owned(),
            ..stack(&["backend"])
        };
        let wrong = [route("shop.example", "127.0.0.1:8001")];
        let found = assigned(known.clone(), &[], Some(&wrong));
        assert_eq!(
            (found.server_name.as_str(), found.backend_address.as_str()),
            ("shop.example", "127.0.0.1:8000")
        );
        let two = [route("a.example", "127.0.0.1:8001"), route("b.example", "127.0.0.1:8002")];
        assert_eq!(assigned(known, &[], Some(&two)).server_name, "");
    }

    #[test]
    fn without_a_service_of_that_name_nginx_decides_then_the_only_port() {
        let present = [up("api", "", 3000, 3000), up("admin", "", 3001, 3001), up("db", "", 5432, 5432)];
        let found =
            assigned(stack(&["api", "admin", "db"]), &present, Some(&[route("a.example", "127.0.0.1:3001")]));
        assert_eq!(found.backend_service, "admin");
        assert_eq!(assigned(stack(&["api", "admin", "db"]), &present, None).backend_service, "");
        assert_eq!(assigned(stack(&["api", "db"]), &present[..1], None).backend_service, "api");
    }
}
