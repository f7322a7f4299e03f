//! Messages of the contract as JSON that scripts can rely on: the contract's own field names, numbers as numbers,
//! defaults present, enumerations by their short name in lower case, bytes in hexadecimal.
//!
//! This is not protobuf's canonical JSON: that makes strings of 64-bit numbers and leaves defaults out.

use data_encoding::HEXLOWER;
use prost::Message;
use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, ReflectMessage as _, Value};
use serde_json::{Map, Number, Value as Json};
use vigie_proto::descriptors;

/// A generated message under its descriptor; `None` for a name that the contract does not have.
pub fn reflect(message: &impl Message, name: &str) -> Option<DynamicMessage> {
    let descriptor = descriptors::pool().get_message_by_name(&format!("vigie.v1.{name}"))?;
    DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).ok()
}

/// A generated message as JSON; `null` for a name that the contract does not have.
pub fn json(message: &impl Message, name: &str) -> Json {
    reflect(message, name).map_or(Json::Null, |message| object(&message))
}

/// A message as a JSON object. Fields with presence (messages, members of a oneof) stand only when they are set.
pub fn object(message: &DynamicMessage) -> Json {
    let mut map = Map::new();
    for field in message.descriptor().fields() {
        if field.supports_presence() && !message.has_field(&field) {
            continue;
        }
        map.insert(field.name().to_owned(), value(&field, &message.get_field(&field)));
    }
    Json::Object(map)
}

fn value(field: &FieldDescriptor, value: &Value) -> Json {
    match value {
        Value::List(items) => Json::Array(items.iter().map(|item| single(&field.kind(), item)).collect()),
        other => single(&field.kind(), other),
    }
}

fn single(kind: &Kind, value: &Value) -> Json {
    match value {
        Value::Bool(value) => Json::Bool(*value),
        Value::I32(value) => (*value).into(),
        Value::I64(value) => (*value).into(),
        Value::U32(value) => (*value).into(),
        Value::U64(value) => (*value).into(),
        Value::F32(value) => Number::from_f64(f64::from(*value)).map_or(Json::Null, Json::Number),
        Value::F64(value) => Number::from_f64(*value).map_or(Json::Null, Json::Number),
        Value::String(value) => Json::String(value.clone()),
        Value::Bytes(value) => Json::String(HEXLOWER.encode(value)),
        Value::EnumNumber(number) => match kind {
            Kind::Enum(kind) => Json::String(enum_name(kind, *number)),
            _ => (*number).into(),
        },
        Value::Message(message) => object(message),
        // The contract holds no maps and no nested lists.
        Value::List(_) | Value::Map(_) => Json::Null,
    }
}

/// `OUTCOME_STATUS_IN_DOUBT` as `in_doubt`; the number itself where it has no name here.
pub fn enum_name(kind: &EnumDescriptor, number: i32) -> String {
    let Some(value) = kind.get_value(number) else { return number.to_string() };
    let mut prefix = String::new();
    for c in kind.name().chars() {
        if c.is_ascii_uppercase() && !prefix.is_empty() {
            prefix.push('_');
        }
        prefix.push(c.to_ascii_uppercase());
    }
    prefix.push('_');
    value.name().strip_prefix(&prefix).unwrap_or(value.name()).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use vigie_proto::v1;

    #[test]
    fn names_numbers_and_defaults_are_stable() {
        let outcome =
            v1::Outcome::ended(v1::OutcomeStatus::InDoubt, v1::Failure::new("lost", "the agent restarted"));
        assert_eq!(
            super::json(&outcome, "Outcome"),
            json!({
                "status": "in_doubt",
                "failure": { "code": "lost", "message": "the agent restarted", "hint": "" },
                "started_at_ms": 0,
                "duration_ms": 0,
                "found": "",
            })
        );
        let result = v1::ContainerInspectResult { memory_limit_bytes: 1 << 60, ..Default::default() };
        assert_eq!(super::json(&result, "ContainerInspectResult")["memory_limit_bytes"], json!(1_u64 << 60));
        let leaf = v1::Signature { key_id: vec![0xab], signature: vec![] };
        assert_eq!(super::json(&leaf, "Signature"), json!({ "key_id": "ab", "signature": "" }));
    }
}
