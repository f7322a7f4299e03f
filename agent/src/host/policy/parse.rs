//! The text of a policy: TOML with no unknown key, every operation and object by its name.

use std::{
    collections::BTreeSet,
    ops::Range,
    path::{Component, PathBuf},
};

use serde::Deserialize;
use toml::Spanned;
use vigie_proto::operation::{Narrowing, Operation};

use super::{Allowance, Rules, key, nameable, plain_program};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: Spanned<u32>,
    #[serde(default)]
    allow: Vec<Allow>,
    #[serde(default)]
    read: Read,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Allow {
    operation: Spanned<String>,
    stacks: Option<Vec<String>>,
    units: Option<Vec<String>>,
    programs: Option<Vec<String>>,
    ports: Option<Vec<String>>,
    #[serde(default)]
    any: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Read {
    folders: Vec<Spanned<PathBuf>>,
    urls: Vec<String>,
    peers: Vec<String>,
    containers: Vec<String>,
}

/// What is wrong, and on which line, counted from 1.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub(super) struct ParseError {
    line: usize,
    reason: String,
}

/// Reads a policy's text, whole or not at all.
pub(super) fn parse(text: &str) -> Result<Rules, ParseError> {
    let at = |span: Range<usize>, reason: String| {
        let before = text.get(..span.start).unwrap_or(text);
        ParseError { line: before.matches('\n').count() + 1, reason }
    };
    let document: Document =
        toml::from_str(text).map_err(|error| at(error.span().unwrap_or(0..0), error.message().to_owned()))?;
    if *document.version.get_ref() != 1 {
        let reason = format!("version {} is unknown; this agent knows version 1", document.version.get_ref());
        return Err(at(document.version.span(), reason));
    }
    let mut rules = Rules::default();
    for allow in document.allow {
        let (span, name) = (allow.operation.span(), allow.operation.get_ref().clone());
        let (operation, allowance) = permission(&name, allow).map_err(|reason| at(span, reason))?;
        match rules.allow.iter_mut().find(|(known, _)| known.name == operation.name) {
            Some((_, known)) => {
                known.any |= allowance.any;
                known.named.extend(allowance.named);
            }
            None => rules.allow.push((operation, allowance)),
        }
    }
    for folder in document.read.folders {
        let (span, folder) = (folder.span(), folder.into_inner());
        let plain = folder.is_absolute()
            && folder.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if !plain || folder.parent().is_none() {
            return Err(at(span, format!("{} is no absolute path of a folder below /", folder.display())));
        }
        rules.folders.push(folder);
    }
    rules.urls = document.read.urls.into_iter().collect();
    rules.peers = document.read.peers.into_iter().collect();
    rules.containers = document.read.containers.into_iter().collect();
    Ok(rules)
}

/// One `[[allow]]` block.
fn permission(name: &str, allow: Allow) -> Result<(&'static Operation, Allowance), String> {
    let unknown = || {
        let names: Vec<_> = nameable().map(|operation| operation.name).collect();
        format!("`{name}` is no operation that needs an order; those are {}", names.join(", "))
    };
    let operation = nameable().find(|operation| operation.name == name).ok_or_else(unknown)?;
    let narrowing = operation.narrowed_by.ok_or_else(unknown)?;
    let given = [
        (Narrowing::Stacks, allow.stacks),
        (Narrowing::Units, allow.units),
        (Narrowing::Programs, allow.programs),
        (Narrowing::Ports, allow.ports),
    ];
    let mut named = BTreeSet::new();
    for (kind, values) in given {
        let Some(values) = values else { continue };
        if kind != narrowing {
            return Err(format!(
                "`{}` says nothing about {name}, which is narrowed by `{}`",
                key(kind),
                key(narrowing)
            ));
        }
        named.extend(values);
    }
    let whole = matches!(narrowing, Narrowing::Programs | Narrowing::Host);
    if allow.any && !whole {
        return Err(format!("{name} is allowed for named {} only, never for any", key(narrowing)));
    }
    if narrowing == Narrowing::Host && !allow.any {
        return Err(format!("{name} is about the whole host and needs `any = true`"));
    }
    if named.is_empty() && !allow.any {
        let any = if whole { ", or `any = true`" } else { "" };
        return Err(format!("{name} needs `{} = [\"…\"]`, naming at least one{any}", key(narrowing)));
    }
    match narrowing {
        Narrowing::Programs => named = named.into_iter().map(program).collect::<Result<_, _>>()?,
        Narrowing::Ports => named.iter().try_for_each(|port| is_port(port))?,
        _ => {}
    }
    Ok((operation, Allowance { named, any: allow.any }))
}

/// A port is written with its protocol.
fn is_port(written: &str) -> Result<(), String> {
    let fits = written.split_once('/').is_some_and(|(port, protocol)| {
        port.parse::<u16>().is_ok_and(|port| port > 0) && matches!(protocol, "tcp" | "udp")
    });
    if fits { Ok(()) } else { Err(format!("`{written}` is no port; one is written like \"443/tcp\"")) }
}

/// A program has to be absolute; where its folder exists, links in the folder's path are followed.
fn program(path: String) -> Result<String, String> {
    if !path.starts_with('/') {
        return Err(format!("`{path}` is no absolute path; a program is named like \"/usr/bin/uptime\""));
    }
    Ok(plain_program(path.as_ref()).and_then(|plain| plain.to_str().map(str::to_owned)).unwrap_or(path))
}
