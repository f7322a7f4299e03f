//! The values that rules work on, and how results become them.
//!
//! Results are converted here and not through JSON, where 64-bit integers become texts and zeros vanish: every integer
//! is an `Int`, every field is there with its default, enumerations are their short names in lower case.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, ReflectMessage as _};
use vigie_proto::text::escape;

/// How deep messages are followed; the catalogue's are far flatter.
const MAX_DEPTH: usize = 16;

/// The longest value that is shown to people, in characters.
pub(crate) const MAX_SHOWN: usize = 200;

/// A value; cheap to copy.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Arc<str>),
    List(Arc<[Value]>),
    Message(Arc<BTreeMap<String, Value>>),
}

impl Value {
    pub(crate) fn text(text: impl Into<Arc<str>>) -> Self {
        Self::Text(text.into())
    }

    /// A message with all its fields.
    pub(crate) fn message(message: &DynamicMessage) -> Self {
        convert_message(message, 0)
    }

    /// Equality of rules: numbers by their value, different kinds never. `None` when the work for it is used up.
    pub(crate) fn equals(&self, other: &Self, fuel: &mut u64) -> Option<bool> {
        *fuel = fuel.checked_sub(1)?;
        Some(match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Text(a), Self::Text(b)) => {
                *fuel = fuel.checked_sub(a.len().min(b.len()) as u64 / 32)?;
                a == b
            }
            (Self::List(a), Self::List(b)) => {
                a.len() == b.len() && every(a.iter().zip(b.iter()).map(|(a, b)| a.equals(b, fuel)))?
            }
            (Self::Message(a), Self::Message(b)) => {
                let fields = a.iter().zip(b.iter());
                a.len() == b.len()
                    && every(
                        fields.map(|((k, a), (l, b))| if k == l { a.equals(b, fuel) } else { Some(false) }),
                    )?
            }
            (Self::Int(_) | Self::Double(_), Self::Int(_) | Self::Double(_)) => {
                self.order(other) == Some(std::cmp::Ordering::Equal)
            }
            _ => false,
        })
    }

    /// Whether it is a copy of the other; what only looks the same is not looked at.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => Arc::ptr_eq(a, b),
            (Self::List(a), Self::List(b)) => Arc::ptr_eq(a, b),
            (Self::Message(a), Self::Message(b)) => Arc::ptr_eq(a, b),
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Double(a), Self::Double(b)) => a == b,
            _ => false,
        }
    }

    /// The order of numbers and of texts; `None` between other things.
    pub(crate) fn order(&self, other: &Self) -> Option<std::cmp::Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b),
            // Evidence stays far below the 53 bits that a double holds exactly.
            (Self::Int(a), Self::Double(b)) => (*a as f64).partial_cmp(b),
            (Self::Double(a), Self::Int(b)) => a.partial_cmp(&(*b as f64)),
            _ => None,
        }
    }

    /// How much work it is to look at all of it.
    pub(crate) fn weight(&self) -> u64 {
        match self {
            Self::Text(text) => 1 + text.len() as u64 / 32,
            Self::List(items) => 1 + items.len() as u64,
            Self::Message(fields) => 1 + fields.len() as u64,
            _ => 1,
        }
    }

    /// For people: control characters escaped, lists joined by `, `, cut at [`MAX_SHOWN`] characters.
    pub(crate) fn shown(&self) -> String {
        let mut text = String::new();
        self.write(&mut text, 0);
        let text = escape(&text, false);
        match text.char_indices().nth(MAX_SHOWN - 1) {
            Some((end, _)) if text[end..].chars().nth(1).is_some() => format!("{}…", &text[..end]),
            _ => text.into_owned(),
        }
    }

    fn write(&self, to: &mut String, depth: usize) {
        // What is beyond this is cut off anyway.
        if to.len() > 8 * MAX_SHOWN || depth > MAX_DEPTH {
            return;
        }
        match self {
            Self::Bool(value) => to.push_str(if *value { "true" } else { "false" }),
            Self::Int(value) => _ = write!(to, "{value}"),
            Self::Double(value) => _ = write!(to, "{}", (value * 100.0).round() / 100.0),
            Self::Text(value) => to.extend(value.chars().take(2 * MAX_SHOWN)),
            Self::List(items) => {
                for (index, item) in items.iter().take(MAX_SHOWN).enumerate() {
                    to.push_str(if index > 0 { ", " } else { "" });
                    item.write(to, depth + 1);
                }
            }
            Self::Message(fields) => {
                to.push('{');
                for (index, (name, value)) in fields.iter().enumerate() {
                    _ = write!(to, "{}{name}: ", if index > 0 { ", " } else { "" });
                    value.write(to, depth + 1);
                }
                to.push('}');
            }
        }
    }
}

/// Whether all hold; `None` as soon as one cannot be told.
fn every(mut answers: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    answers.try_fold(true, |all, answer| answer.map(|answer| all && answer))
}

fn convert_message(message: &DynamicMessage, depth: usize) -> Value {
    let descriptor = message.descriptor();
    let convert = |field: FieldDescriptor| {
        let value = convert(&message.get_field(&field), &field.kind(), depth);
        (field.name().to_owned(), value)
    };
    Value::Message(Arc::new(if depth > MAX_DEPTH {
        BTreeMap::new()
    } else {
        descriptor.fields().map(convert).collect()
    }))
}

fn convert(value: &prost_reflect::Value, kind: &Kind, depth: usize) -> Value {
    use prost_reflect::Value as Wire;
    match value {
        Wire::Bool(value) => Value::Bool(*value),
        Wire::I32(value) => Value::Int(i64::from(*value)),
        Wire::I64(value) => Value::Int(*value),
        Wire::U32(value) => Value::Int(i64::from(*value)),
        Wire::U64(value) => Value::Int(i64::try_from(*value).unwrap_or(i64::MAX)),
        Wire::F32(value) => Value::Double(f64::from(*value)),
        Wire::F64(value) => Value::Double(*value),
        Wire::String(value) => Value::text(value.as_str()),
        Wire::Bytes(value) => Value::text(String::from_utf8_lossy(value)),
        Wire::EnumNumber(number) => match kind {
            Kind::Enum(descriptor) => Value::text(enum_word(descriptor, *number)),
            _ => Value::Int(i64::from(*number)),
        },
        Wire::Message(message) => convert_message(message, depth + 1),
        Wire::List(items) => Value::List(items.iter().map(|item| convert(item, kind, depth + 1)).collect()),
        // The contract has no maps; one that it gets one day is a list of what it holds.
        Wire::Map(entries) => {
            Value::List(entries.values().map(|item| convert(item, kind, depth + 1)).collect())
        }
    }
}

/// `HTTP_TARGET_PROXY` of `HttpTarget` as rules and runbooks write it: `proxy`.
pub(crate) fn enum_word(descriptor: &EnumDescriptor, number: i32) -> String {
    match descriptor.get_value(number) {
        Some(value) => short_word(descriptor, value.name()),
        None => number.to_string(),
    }
}

/// Every word of an enumeration but the one for "not set".
pub(crate) fn enum_words(descriptor: &EnumDescriptor) -> Vec<(String, i32)> {
    let set = descriptor.values().filter(|value| value.number() != 0);
    set.map(|value| (short_word(descriptor, value.name()), value.number())).collect()
}

fn short_word(descriptor: &EnumDescriptor, name: &str) -> String {
    let mut prefix = String::new();
    for c in descriptor.name().chars() {
        if c.is_ascii_uppercase() && !prefix.is_empty() {
            prefix.push('_');
        }
        prefix.push(c.to_ascii_uppercase());
    }
    prefix.push('_');
    name.strip_prefix(&prefix).unwrap_or(name).to_lowercase()
}

#[cfg(test)]
mod tests {
    use vigie_proto::{descriptors, v1};

    use super::*;

    fn converted(operation: &str, message: &impl prost::Message) -> Value {
        let mut dynamic = DynamicMessage::new(descriptors::result(operation).unwrap());
        dynamic.transcode_from(message).unwrap();
        Value::message(&dynamic)
    }

    #[test]
    fn defaults_are_there_and_every_integer_is_an_int() {
        let result =
            v1::ContainerInspectResult { memory_limit_bytes: u64::MAX, exit_code: -1, ..Default::default() };
        let Value::Message(fields) = converted("container_inspect", &result) else { panic!() };
        assert!(matches!(fields["memory_limit_bytes"], Value::Int(i64::MAX)));
        assert!(matches!(fields["exit_code"], Value::Int(-1)));
        assert!(matches!(fields["restart_count"], Value::Int(0)));
        assert!(matches!(&fields["health_output"], Value::Text(text) if text.is_empty()));
        assert!(matches!(&fields["ports"], Value::List(ports) if ports.is_empty()));
        assert_eq!(fields.len(), descriptors::result("container_inspect").unwrap().fields().len());
    }

    #[test]
    fn enumerations_are_short_words() {
        let descriptor = descriptors::pool().get_enum_by_name("vigie.v1.HttpTarget").unwrap();
        assert_eq!(enum_word(&descriptor, 2), "proxy");
        assert_eq!(enum_word(&descriptor, 77), "77");
        let words: Vec<_> = enum_words(&descriptor).into_iter().map(|(word, _)| word).collect();
        assert_eq!(words, ["backend", "proxy", "url"]);
    }

    #[test]
    fn what_is_shown_is_escaped_and_bounded() {
        let list = Value::List([Value::text("a\u{1b}[2J"), Value::Int(2)].into());
        assert_eq!(list.shown(), "a\\u{1b}[2J, 2");
        assert_eq!(Value::text("é".repeat(200)).shown().chars().count(), 200);
        let long = Value::text("é".repeat(201)).shown();
        assert_eq!((long.chars().count(), long.ends_with('…')), (200, true));
        assert_eq!(Value::Double(0.126).shown(), "0.13");
    }
}
