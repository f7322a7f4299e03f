//! Where a configuration sends requests: every pass directive, with its server's names and the addresses that it
//! comes down to.

use std::{collections::BTreeMap, net::IpAddr};

use super::parse::Directive;

/// One address to which requests are passed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Route {
    /// The server block's names, as written.
    pub server_names: Vec<String>,
    /// The parameters of its `listen` directives, one text each.
    pub listens: Vec<String>,
    pub location: String,
    /// The directive's argument.
    pub pass: String,
    /// `127.0.0.1:8000`, `unix:/run/app.sock`; empty where a variable decides.
    pub address: String,
    /// 0 for a Unix socket and where a variable decides.
    pub port: u32,
    pub file: String,
    pub line: u32,
}

/// A port on which a server block listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    pub port: u16,
    pub tls: bool,
}

impl Route {
    /// The first name that can be asked for: no catch-all, wildcard or expression.
    pub fn plain_name(&self) -> Option<&str> {
        plain_name(&self.server_names)
    }

    /// Where the server block listens, TLS first.
    pub fn listen(&self) -> Option<Listen> {
        let ports = self.listens.iter().filter_map(|listen| {
            let mut words = listen.split_whitespace();
            let address = words.next().filter(|address| !address.starts_with("unix:"))?;
            let (_, port) = host_and_port(address, 80);
            // HTTP/3 listens on UDP.
            let words: Vec<&str> = words.collect();
            let tls = words.contains(&"ssl");
            (!words.contains(&"quic"))
                .then_some(Listen { port: u16::try_from(port).ok().filter(|port| *port > 0)?, tls })
        });
        ports.max_by_key(|listen| listen.tls)
    }

    /// The host part of the address.
    pub fn host(&self) -> &str {
        self.address.rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']'])
    }
}

/// A certificate that a server block names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsSite {
    pub server_names: Vec<String>,
    /// The port of its first `listen … ssl`.
    pub port: u16,
    /// The certificate's file, absolute.
    pub file: String,
    /// Where the configuration names it.
    pub config_file: String,
    pub config_line: u32,
}

impl TlsSite {
    /// The first name that can be asked for.
    pub fn plain_name(&self) -> Option<&str> {
        plain_name(&self.server_names)
    }
}

/// Every certificate of a configuration's server blocks. Where a block names none, that of the `http` block holds.
pub fn certificates(tree: &[Directive]) -> Vec<TlsSite> {
    let mut found = Vec::new();
    for http in blocks(tree, "http") {
        for server in blocks(http, "server") {
            let base = block(server);
            let Some(listen) = base.listen().filter(|listen| listen.tls) else { continue };
            let of = |tree: &[Directive]| {
                let named = tree.iter().filter(|directive| directive.name == "ssl_certificate");
                named.cloned().collect::<Vec<_>>()
            };
            let mut named = of(server);
            if named.is_empty() {
                named = of(http);
            }
            for directive in named {
                let Some(file) = directive.args.first().filter(|file| !file.contains('$')) else { continue };
                found.push(TlsSite {
                    server_names: base.server_names.clone(),
                    port: listen.port,
                    // What is relative begins at the main file's folder.
                    file: if file.starts_with('/') { file.clone() } else { format!("/etc/nginx/{file}") },
                    config_file: directive.file.to_string(),
                    config_line: directive.line,
                });
            }
        }
    }
    found
}

/// A server block's names and ports.
fn block(server: &[Directive]) -> Route {
    let all = |name: &'static str| {
        server.iter().filter(move |directive| directive.name == name).map(|directive| &directive.args)
    };
    let mut base = Route {
        server_names: all("server_name").flatten().cloned().collect(),
        listens: all("listen").map(|args| args.join(" ")).collect(),
        ..Route::default()
    };
    if base.listens.is_empty() {
        // What nginx does without the directive.
        base.listens.push("80".to_owned());
    }
    base
}

/// The first name that can be asked for: no catch-all, wildcard or expression.
fn plain_name(names: &[String]) -> Option<&str> {
    names.iter().map(String::as_str).find(|name| {
        !name.is_empty() && *name != "_" && !name.contains(['*', '~', '$']) && !name.starts_with('.')
    })
}

/// The directives that pass a request on, with the port that stands for none.
const PASSES: [&str; 5] = ["proxy_pass", "grpc_pass", "fastcgi_pass", "uwsgi_pass", "scgi_pass"];

/// All routes of a configuration.
pub fn routes(tree: &[Directive]) -> Vec<Route> {
    let mut found = Vec::new();
    for http in blocks(tree, "http") {
        let upstreams: BTreeMap<&str, Vec<&str>> =
            http.iter()
                .filter(|directive| directive.name == "upstream")
                .filter_map(|directive| {
                    let servers = directive.block.as_deref()?.iter().filter(|server| {
                        server.name == "server" && !server.args.iter().any(|arg| arg == "down")
                    });
                    let addresses =
                        servers.filter_map(|server| server.args.first().map(String::as_str)).collect();
                    Some((directive.args.first()?.as_str(), addresses))
                })
                .collect();
        for server in blocks(http, "server") {
            let base = block(server);
            passes(server, &base, &upstreams, &mut found);
        }
    }
    found
}

fn blocks<'a>(tree: &'a [Directive], name: &'a str) -> impl Iterator<Item = &'a [Directive]> {
    tree.iter()
        .filter(move |directive| directive.name == name)
        .filter_map(|directive| directive.block.as_deref())
}

fn passes(tree: &[Directive], base: &Route, upstreams: &BTreeMap<&str, Vec<&str>>, found: &mut Vec<Route>) {
    for directive in tree {
        if let Some(block) = &directive.block {
            let location = match directive.name.as_str() {
                "location" => directive.args.join(" "),
                _ => base.location.clone(),
            };
            passes(block, &Route { location, ..base.clone() }, upstreams, found);
        } else if PASSES.contains(&directive.name.as_str())
            && let Some(pass) = directive.args.first()
        {
            for (address, port) in addresses(pass, upstreams) {
                found.push(Route {
                    pass: pass.clone(),
                    address,
                    port,
                    file: directive.file.to_string(),
                    line: directive.line,
                    ..base.clone()
                });
            }
        }
    }
}

/// The addresses that a pass directive's argument comes down to, with their ports.
fn addresses(pass: &str, upstreams: &BTreeMap<&str, Vec<&str>>) -> Vec<(String, u32)> {
    let (scheme, rest) = pass.split_once("://").unwrap_or(("", pass));
    let default = if matches!(scheme, "https" | "grpcs") { 443 } else { 80 };
    let target = if rest.starts_with("unix:") { rest } else { rest.split(['/', '?']).next().unwrap_or(rest) };
    if target.contains('$') || target.is_empty() {
        return vec![(String::new(), 0)];
    }
    let targets = upstreams.get(target).cloned().unwrap_or_else(|| vec![target]);
    targets.into_iter().map(|target| address(target, default)).collect()
}

fn address(target: &str, default: u32) -> (String, u32) {
    if let Some(path) = target.strip_prefix("unix:") {
        // `unix:/path:/uri`
        let path = path.split(':').next().unwrap_or(path);
        return (format!("unix:{path}"), 0);
    }
    let (host, port) = host_and_port(target, default);
    let host = if host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    (format!("{host}:{port}"), port)
}

/// Splits `host:port`, `[::1]:port`, `host` or a bare `port`, as `listen` takes them.
fn host_and_port(text: &str, default: u32) -> (&str, u32) {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').unwrap_or((rest, ""));
        return (host, after.trim_start_matches(':').parse().unwrap_or(default));
    }
    match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().unwrap_or(default)),
        None => text.parse().map_or((text, default), |port| ("", port)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::nginx::parse::{effective, parse};

    /// Captured from nginx 1.22.1 on Debian 12.
    const CAPTURED: &str = include_str!("fixtures/nginx-T-1.22.txt");

    #[test]
    fn a_real_dump() {
        let found = routes(&effective(CAPTURED));
        assert_eq!(found.len(), 1, "{found:?}");
        let route = &found[0];
        assert_eq!(route.server_names, ["api.sylion.tech"]);
        assert_eq!(route.listens, ["80", "443 ssl"]);
        assert_eq!((route.location.as_str(), route.pass.as_str()), ("/", "http://127.0.0.1:8000"));
        assert_eq!((route.address.as_str(), route.port), ("127.0.0.1:8000", 8000));
        assert_eq!((route.file.as_str(), route.line), ("/etc/nginx/sites-enabled/api.sylion.tech", 15));
        assert_eq!(route.listen(), Some(Listen { port: 443, tls: true }));
        assert_eq!(route.plain_name(), Some("api.sylion.tech"));
    }

    fn read(http: &str) -> Vec<(String, String, u32)> {
        let tree = parse(&format!("http {{ {http} }}"), "f", 1);
        routes(&tree).into_iter().map(|route| (route.location, route.address, route.port)).collect()
    }

    #[test]
    fn upstreams_sockets_and_variables() {
        let found = read(
            "upstream app { server 127.0.0.1:8000 weight=2; server [::1]:8001; server 10.0.0.9:1 down; keepalive 8; }
             upstream php { server unix:/run/php.sock; }
             server {
                 location ~ ^/api/ { if ($a) { proxy_pass http://app/v1; } }
                 location /php { fastcgi_pass php; }
                 location /s { proxy_pass http://unix:/run/app.sock:/x/; }
                 location /v { proxy_pass http://$backend; }
                 location /d { proxy_pass https://example.net/; }
             }",
        );
        let expected = [
            ("~ ^/api/", "127.0.0.1:8000", 8000),
            ("~ ^/api/", "[::1]:8001", 8001),
            ("/php", "unix:/run/php.sock", 0),
            ("/s", "unix:/run/app.sock", 0),
            ("/v", "", 0),
            ("/d", "example.net:443", 443),
        ];
        let expected =
            expected.map(|(location, address, port)| (location.to_owned(), address.to_owned(), port));
        assert_eq!(found, expected);
    }

    #[test]
    fn names_and_ports_that_can_be_asked() {
        let route = |names: &[&str], listens: &[&str]| Route {
            server_names: names.iter().map(|name| (*name).to_owned()).collect(),
            listens: listens.iter().map(|listen| (*listen).to_owned()).collect(),
            ..Route::default()
        };
        assert_eq!(route(&["_", "*.a.b", "~^x$", ".c.d", "e.f"], &[]).plain_name(), Some("e.f"));
        assert_eq!(route(&[], &["[::]:8080", "80"]).listen().map(|listen| listen.tls), Some(false));
        assert_eq!(
            route(&[], &["443 quic", "127.0.0.1:8443 ssl"]).listen(),
            Some(Listen { port: 8443, tls: true })
        );
        assert_eq!(route(&[], &["unix:/run/n.sock"]).listen(), None);
    }

    #[test]
    fn certificates_and_where_they_are_named() {
        let found = certificates(&effective(CAPTURED));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].plain_name(), found[0].port), (Some("api.sylion.tech"), 443));
        assert_eq!(found[0].file, "/etc/nginx/tls/api.sylion.tech.crt");
        assert!(found[0].config_file.ends_with("api.sylion.tech") && found[0].config_line > 0);
        let tree = parse(
            "http { ssl_certificate common.pem; server { listen 80; } server { listen 8443 ssl; server_name a; } \
             server { listen 443 ssl; ssl_certificate $file; } }",
            "f",
            1,
        );
        let found = certificates(&tree);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].file.as_str(), found[0].port), ("/etc/nginx/common.pem", 8443));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(http|server|upstream a|location /|proxy_pass|listen|unix:|\\[|\\]|://|[a-z0-9:/$.{}; ]){0,60}") {
            for route in routes(&parse(&text, "f", 1)) {
                route.listen();
                route.plain_name();
                route.host();
            }
        }
    }
}
