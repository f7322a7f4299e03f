//! The catalogue, from the descriptors.

use prost_reflect::{Kind, MessageDescriptor};
use serde_json::{Value, json};
use vigie_proto::{
    descriptors,
    operation::{Authority, Effect, OPERATIONS, Operation},
};

use crate::{
    output::{
        json::enum_name,
        look::{Look, duration_ms},
        table::Table,
    },
    view::request::typed,
};

/// What an operation does to its host, in a word.
pub(crate) fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::Unspecified => "unknown",
        Effect::Observe => "observe",
        Effect::Change => "change",
        Effect::Destroy => "destroy",
    }
}

fn authority(authority: Authority) -> &'static str {
    match authority {
        Authority::Unspecified => "unknown",
        Authority::Role => "role",
        Authority::Order => "order",
        Authority::OrderChallenge => "order_challenge",
    }
}

/// All operations.
pub(crate) fn list(look: &Look) -> String {
    let mut table = Table::new(["OPERATION", "EFFECT", "WHAT IT DOES"]);
    for operation in OPERATIONS {
        let effect = match operation.effect {
            Effect::Observe => effect(operation.effect).to_owned(),
            Effect::Destroy => look.red(effect(operation.effect)),
            _ => look.yellow(effect(operation.effect)),
        };
        table.row([typed(operation.name), effect, operation.summary.to_owned()]);
    }
    table.text(look)
}

/// One operation: what it takes and what it gives.
pub(crate) fn text(operation: &Operation, look: &Look) -> String {
    let verb = if operation.effect == Effect::Observe { "probe" } else { "do" };
    let name = typed(operation.name);
    let mut text = format!("{}  {}\n\n", look.bold(&name), operation.summary);
    let limit = duration_ms(i64::try_from(operation.timeout().as_millis()).unwrap_or(i64::MAX));
    let needs = match operation.authority {
        Authority::Order => "an order that you sign",
        Authority::OrderChallenge => "an order that you sign, over a challenge of the agent",
        _ => "your certificate",
    };
    for (label, value) in [
        ("effect", effect(operation.effect).to_owned()),
        ("needs", needs.to_owned()),
        ("at most", limit),
        ("preview", operation.preview.map(typed).unwrap_or_default()),
        ("try", format!("vigiectl {verb} {name} --help")),
    ] {
        if !value.is_empty() {
            text.push_str(&format!("  {}  {value}\n", look.dim(&format!("{label:<7}"))));
        }
    }
    let mut arguments = Table::new(["ARGUMENT", "TYPE", "DEFAULT", "HELP"]);
    for field in descriptors::request(operation.name).iter().flat_map(MessageDescriptor::fields) {
        let rules = descriptors::rules(&field);
        let default = if rules.required { "(required)" } else { &rules.default };
        let list = if field.is_list() { "list of " } else { "" };
        let kind = format!("{list}{}", kind(&field.kind()));
        arguments.row([format!("--{}", typed(field.name())), kind, default.to_owned(), rules.help.clone()]);
    }
    let mut results = Table::new(["RESULT", "TYPE"]);
    for field in descriptors::result(operation.name).iter().flat_map(MessageDescriptor::fields) {
        let list = if field.is_list() { "list of " } else { "" };
        results.row([field.name().to_owned(), format!("{list}{}", kind(&field.kind()))]);
    }
    for table in [arguments, results] {
        let lines = table.text(look);
        if !lines.is_empty() {
            text.push_str(&format!("\n{lines}"));
        }
    }
    text
}

fn kind(kind: &Kind) -> String {
    match kind {
        Kind::String => "text".to_owned(),
        Kind::Bool => "yes or no".to_owned(),
        Kind::Bytes => "bytes".to_owned(),
        Kind::Enum(kind) => {
            let names = kind.values().filter(|value| value.number() != 0);
            names.map(|value| enum_name(kind, value.number())).collect::<Vec<_>>().join("|")
        }
        Kind::Message(message) => message.name().to_owned(),
        _ => "number".to_owned(),
    }
}

/// Operations as scripts read them.
pub(crate) fn document(operations: &[&Operation]) -> Value {
    let operations: Vec<_> = operations
        .iter()
        .map(|operation| {
            let fields = descriptors::request(operation.name);
            let fields = fields.iter().flat_map(MessageDescriptor::fields).map(|field| {
                let rules = descriptors::rules(&field);
                json!({
                    "name": field.name(),
                    "type": kind(&field.kind()),
                    "list": field.is_list(),
                    "required": rules.required,
                    "default": rules.default,
                    "help": rules.help,
                })
            });
            json!({
                "name": operation.name,
                "summary": operation.summary,
                "effect": effect(operation.effect),
                "authority": authority(operation.authority),
                "timeout_ms": operation.timeout().as_millis() as u64,
                "preview": operation.preview.unwrap_or(""),
                "arguments": fields.collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({ "operations": operations })
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    #[test]
    fn an_operation_tells_what_it_takes_and_gives() {
        let operation = Operation::find("compose_up").unwrap();
        assert_snapshot!(text(operation, &Look::plain()), @r#"
        compose-up  Bring a stack's services up as its files say; with `build`, rebuild first

          effect   change
          needs    an order that you sign
          at most  15 min
          preview  compose-preview
          try      vigiectl do compose-up --help

        ARGUMENT    TYPE          DEFAULT  HELP
        --stack     text                   The stack; may be left out where a host has one
        --services  list of text           Only these services
        --build     yes or no              Rebuild images first

        RESULT     TYPE
        stack      text
        changes    list of ServiceChange
        services   list of Container
        output     list of text
        exit_code  number
        "#);
    }

    #[test]
    fn the_list_has_all() {
        assert_eq!(list(&Look::plain()).lines().count(), OPERATIONS.len() + 1);
    }
}
