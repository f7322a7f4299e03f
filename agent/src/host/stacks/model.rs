//! What `compose config` prints: the files as Compose understands them, from JSON (Compose 2) or YAML (Compose 1).
//!
//! Only what the operations tell is read. Of the values of variables, which Compose prints too, only those that look
//! secret are taken up, for nothing but to be kept from leaving the host.

use serde_json::Value;
use vigie_proto::v1::{ComposeService, PublishedPort};

use crate::host::redaction::{Secret, of_variable};

/// The project as its files declare it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ComposeModel {
    pub services: Vec<ModelService>,
    pub secrets: Secrets,
}

/// The secrets among the services' variables, env files included.
#[derive(Clone, Default, PartialEq)]
pub struct Secrets(pub Vec<Secret>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

/// One service.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelService {
    pub declared: ComposeService,
    /// `container_name`, where it is fixed.
    pub container_name: String,
    /// The Dockerfile's path, relative to the build context.
    pub dockerfile: String,
    /// The path of the URL that the health check asks for, where it asks for one.
    pub health_path: Option<String>,
}

impl ComposeModel {
    /// Reads JSON or YAML.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self, serde_saphyr::Error> {
        let tree: Value = match serde_json::from_str(text) {
            Ok(tree) => tree,
            Err(_) => serde_saphyr::from_str(text)?,
        };
        let mut services: Vec<ModelService> = tree["services"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, declared)| service(name, declared))
            .collect();
        services.sort_by(|a, b| a.declared.service.cmp(&b.declared.service));
        let secrets = tree["services"].as_object().into_iter().flatten().flat_map(|(_, own)| secrets(own));
        Ok(Self { services, secrets: Secrets(secrets.collect()) })
    }

    /// A service by name.
    pub fn service(&self, name: &str) -> Option<&ModelService> {
        self.services.iter().find(|service| service.declared.service == name)
    }
}

/// The secrets in `environment`, a mapping or a list of `NAME=value`.
fn secrets(declared: &Value) -> Vec<Secret> {
    let environment = &declared["environment"];
    let mapped = environment.as_object().into_iter().flatten().filter_map(|(name, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Some((name.clone(), value)).filter(|_| !environment[name].is_null())
    });
    let listed = environment.as_array().into_iter().flatten().filter_map(Value::as_str);
    let listed = listed.filter_map(|line| line.split_once('='));
    mapped
        .chain(listed.map(|(name, value)| (name.to_owned(), value.to_owned())))
        .flat_map(|(name, value)| of_variable(name.as_bytes(), value.as_bytes()))
        .collect()
}

fn service(name: &str, declared: &Value) -> ModelService {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let build = &declared["build"];
    let test: Vec<&str> = match &declared["healthcheck"]["test"] {
        Value::String(line) => vec![line],
        Value::Array(words) => words.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let disabled =
        declared["healthcheck"]["disable"].as_bool() == Some(true) || test.first() == Some(&"NONE");
    let limit = match &declared["mem_limit"] {
        Value::Null => &declared["deploy"]["resources"]["limits"]["memory"],
        limit => limit,
    };
    let mut depends_on: Vec<String> = match &declared["depends_on"] {
        Value::Object(services) => services.keys().cloned().collect(),
        Value::Array(services) => services.iter().map(text).collect(),
        _ => Vec::new(),
    };
    depends_on.sort();
    ModelService {
        declared: ComposeService {
            service: name.to_owned(),
            image: text(&declared["image"]),
            build_context: build.as_str().map_or_else(|| text(&build["context"]), str::to_owned),
            ports: declared["ports"].as_array().into_iter().flatten().filter_map(port).collect(),
            memory_limit_bytes: bytes(limit),
            has_healthcheck: !test.is_empty() && !disabled,
            depends_on,
        },
        container_name: text(&declared["container_name"]),
        dockerfile: text(&build["dockerfile"]),
        health_path: if disabled { None } else { url_path(&test) },
    }
}

/// A port in the long form, or in the short form that Compose 1 prints: `127.0.0.1:8000:8000/tcp`.
fn port(declared: &Value) -> Option<PublishedPort> {
    let number = |value: &Value| match value {
        Value::Number(number) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    if let Some(short) = declared.as_str() {
        let (ports, protocol) = short.rsplit_once('/').unwrap_or((short, "tcp"));
        let (published, target) = ports.rsplit_once(':').unwrap_or(("", ports));
        let (address, host_port) = match published.rsplit_once(':') {
            Some((address, port)) => (address, port),
            None if published.contains('.') => (published, ""),
            None => ("", published),
        };
        return Some(PublishedPort {
            host_address: address.trim_matches(['[', ']']).to_owned(),
            host_port: host_port.parse().unwrap_or_default(),
            container_port: target.parse().ok()?,
            protocol: protocol.to_owned(),
        });
    }
    Some(PublishedPort {
        host_address: declared["host_ip"].as_str().unwrap_or_default().to_owned(),
        host_port: number(&declared["published"]).unwrap_or_default(),
        container_port: number(&declared["target"])?,
        protocol: declared["protocol"].as_str().unwrap_or("tcp").to_owned(),
    })
}

/// A size in bytes: a number, or a text such as `134217728`, `128m`, `1.5gb`.
fn bytes(size: &Value) -> u64 {
    if let Some(bytes) = size.as_u64() {
        return bytes;
    }
    let text = size.as_str().unwrap_or_default().trim().to_ascii_lowercase();
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let factor: f64 = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 1.0,
        "k" => 1024.0,
        "m" => 1_048_576.0,
        "g" => 1_073_741_824.0,
        "t" => 1_099_511_627_776.0,
        _ => return 0,
    };
    let number: f64 = number.trim().parse().unwrap_or_default();
    // The cast takes what is negative to 0, and what is beyond u64 to its greatest value: no limit that matters.
    (number * factor) as u64
}

/// The path of the first URL in a health check's command.
fn url_path(test: &[&str]) -> Option<String> {
    let (_, rest) =
        test.iter().find_map(|word| word.split_once("http://").or_else(|| word.split_once("https://")))?;
    let end = rest
        .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '|' | ';' | ')'))
        .unwrap_or(rest.len());
    let path = rest[..end].find('/').map_or("/", |slash| &rest[slash..end]);
    Some(path.to_owned()).filter(|path| !path.contains('$'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Captured from Compose 2.26.1, the values of the variables replaced.
    const JSON: &str = include_str!("fixtures/config-2.26.json");
    /// Captured from Compose 1.29.2.
    const YAML: &str = include_str!("fixtures/config-1.29.yaml");

    #[test]
    fn both_generations_say_the_same() {
        for (text, host_port) in [(JSON, 8765), (YAML, 8767)] {
            let model = ComposeModel::parse(text).unwrap();
            let names: Vec<_> =
                model.services.iter().map(|service| service.declared.service.as_str()).collect();
            assert_eq!(names, ["backend", "redis"]);
            let backend = model.service("backend").unwrap();
            assert!(backend.declared.build_context.ends_with("/backend"), "{backend:?}");
            assert_eq!(
                backend.declared.ports,
                [PublishedPort {
                    host_address: "127.0.0.1".to_owned(),
                    host_port,
                    container_port: 8000,
                    protocol: "tcp".to_owned(),
                }]
            );
            assert_eq!(backend.declared.memory_limit_bytes, 128 << 20);
            assert!(backend.declared.has_healthcheck);
            assert_eq!(backend.declared.depends_on, ["redis"]);
            assert_eq!(backend.health_path.as_deref(), Some("/health"));
            let redis = model.service("redis").unwrap();
            assert_eq!(redis.declared.image, "vigie-world/debian:33adbc2dfca3");
            assert!(redis.declared.build_context.is_empty() && redis.declared.ports.is_empty());
        }
    }

    #[test]
    fn values_of_variables_are_not_taken_up() {
        let model = format!("{:?}", ComposeModel::parse(JSON).unwrap());
        assert!(JSON.contains("value-of-password") && !model.contains("value-of-password"));
    }

    #[test]
    fn secret_variables_are_known_in_both_ways_of_writing_them() {
        for environment in [
            r#"{"DB_PASSWORD": "hunter22", "MODE": "production", "N": null}"#,
            r#"["DB_PASSWORD=hunter22", "MODE=production"]"#,
        ] {
            let text = format!(r#"{{"services": {{"a": {{"environment": {environment}}}}}}}"#);
            let Secrets(found) = ComposeModel::parse(&text).unwrap().secrets;
            assert!(found.iter().all(|secret| secret.as_slice() == b"hunter22") && !found.is_empty());
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("134217728", 134_217_728),
            ("128m", 128 << 20),
            ("128Mi", 128 << 20),
            ("1.5gb", 3 << 29),
            ("2t", 2 << 40),
            ("", 0),
            ("much", 0),
        ] {
            assert_eq!(bytes(&Value::from(text)), expected, "{text}");
        }
        assert_eq!(bytes(&Value::from(5)), 5);
    }

    #[test]
    fn short_ports() {
        let read = |text: &str| {
            port(&Value::from(text)).map(|p| (p.host_address, p.host_port, p.container_port, p.protocol))
        };
        assert_eq!(read("8000"), Some((String::new(), 0, 8000, "tcp".to_owned())));
        assert_eq!(read("80:8000"), Some((String::new(), 80, 8000, "tcp".to_owned())));
        assert_eq!(read("127.0.0.1::53/udp"), Some(("127.0.0.1".to_owned(), 0, 53, "udp".to_owned())));
        assert_eq!(read("[::1]:80:8000"), Some(("::1".to_owned(), 80, 8000, "tcp".to_owned())));
        assert_eq!(read("8000-8010"), None);
    }

    #[test]
    fn health_paths() {
        assert_eq!(
            url_path(&["CMD", "curl", "-f", "http://127.0.0.1:8000/health"]).as_deref(),
            Some("/health")
        );
        assert_eq!(
            url_path(&["CMD-SHELL", "wget -qO- 'http://localhost/api/up?x=1' || exit 1"]).as_deref(),
            Some("/api/up?x=1")
        );
        assert_eq!(url_path(&["CMD", "curl", "http://localhost:8000"]).as_deref(), Some("/"));
        assert_eq!(url_path(&["CMD-SHELL", "pg_isready"]), None);
    }
}
