//! An operation with its arguments as one line, the way one would type it.

use prost_reflect::{FieldDescriptor, Value};
use vigie_proto::{descriptors, text::escape, v1};

use crate::json::{enum_name, reflect};

/// The operation's name, or a field's, as people type it.
pub fn typed(name: &str) -> String {
    name.replace('_', "-")
}

/// `compose-restart --services backend --stack sylion`; `None` for an operation that this ctl does not know.
///
/// Every field that is set is in the line: it is what a person agrees to.
pub fn line(request: &v1::Request) -> Option<String> {
    let union = reflect(request, "Request")?;
    let (operation, message) =
        union.fields().find_map(|(field, value)| Some((field, value.as_message()?.clone())))?;
    let mut line = typed(operation.name());
    let mut trailing = String::new();
    for (field, value) in message.fields() {
        if descriptors::rules(&field).trailing {
            trailing = format!(" -- {}", words(&field, value, " "));
            continue;
        }
        let flag = typed(field.name());
        match value {
            Value::Bool(true) => line.push_str(&format!(" --{flag}")),
            Value::Bool(false) => {}
            value => line.push_str(&format!(" --{flag} {}", words(&field, value, ","))),
        }
    }
    Some(line + &trailing)
}

fn words(field: &FieldDescriptor, value: &Value, between: &str) -> String {
    match value {
        Value::List(items) => {
            items.iter().map(|item| words(field, item, between)).collect::<Vec<_>>().join(between)
        }
        Value::String(text) => quoted(text),
        Value::EnumNumber(number) => {
            field.kind().as_enum().map_or_else(|| number.to_string(), |kind| enum_name(kind, *number))
        }
        Value::U32(number) => number.to_string(),
        // A kind that no argument has today; its value must be seen all the same.
        other => format!("{other:?}"),
    }
}

/// A word that a shell would take as it stands, or the same in quotes, control characters escaped.
pub fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", escape(text, false).replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use vigie_proto::v1::request::Operation;

    use super::*;

    fn show(operation: Operation) -> String {
        line(&v1::Request { operation: Some(operation) }).unwrap()
    }

    #[test]
    fn everything_that_is_asked_for_is_in_the_line() {
        let up = v1::ComposeUpRequest {
            stack: "sylion".into(),
            services: vec!["a".into(), "b".into()],
            build: true,
        };
        assert_eq!(show(Operation::ComposeUp(up)), "compose-up --stack sylion --services a,b --build");
        let exec = v1::ExecRequest {
            program: "sh".into(),
            args: vec!["-c".into(), "rm -rf /\u{1b}[2K; it's".into()],
        };
        assert_eq!(show(Operation::Exec(exec)), "exec --program sh -- -c 'rm -rf /\\u{1b}[2K; it'\\''s'");
        let http =
            v1::HttpCheckRequest { target: v1::HttpTarget::Proxy.into(), wait_ms: 5, ..Default::default() };
        assert_eq!(show(Operation::HttpCheck(http)), "http-check --target proxy --wait-ms 5");
        assert_eq!(line(&v1::Request { operation: None }), None);
    }
}
