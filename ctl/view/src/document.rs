//! Any message of the catalogue as readable lines: scalars as aligned names and values, lists as tables, logs as
//! lines. Read from the descriptors, so that a new operation is shown well without a line of code here.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage as _, Value};
use vigie_proto::{text::escape, v1};

use super::{
    json::{enum_name, reflect},
    look::{Look, bytes, duration_ms, pad},
    table::Table,
};

/// Lists of strings under these names are text in lines; others are words.
const LINES: [&str; 3] = ["lines", "journal", "output"];

/// An operation's result as lines.
pub fn result(result: &v1::Result, look: &Look) -> Vec<String> {
    let Some(union) = reflect(result, "Result") else { return Vec::new() };
    let message = union.fields().find_map(|(_, value)| value.as_message().cloned());
    match message {
        Some(message) => lines(&message, look),
        None => vec!["a result that this vigiectl does not know; upgrade it".to_owned()],
    }
}

/// A message as lines.
pub fn lines(message: &DynamicMessage, look: &Look) -> Vec<String> {
    let mut pairs = Vec::new();
    let mut blocks = Vec::new();
    for field in message.descriptor().fields() {
        if field.supports_presence() && !message.has_field(&field) {
            continue;
        }
        let value = message.get_field(&field);
        match block(&field, &value, look) {
            Some(block) if block.is_empty() => {}
            Some(block) => {
                blocks.push(look.dim(&label(&field)));
                blocks.extend(block.into_iter().map(|line| format!("  {line}")));
            }
            None => pairs.extend(cell(&field, &value, look).map(|value| (label(&field), value))),
        }
    }
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut lines: Vec<_> =
        pairs.into_iter().map(|(name, value)| format!("{}  {value}", look.dim(&pad(&name, width)))).collect();
    lines.extend(blocks);
    lines
}

/// What takes lines of its own: text, tables, nested messages. `None` for what fits beside its name.
fn block(field: &FieldDescriptor, value: &Value, look: &Look) -> Option<Vec<String>> {
    match value {
        Value::String(text) if text.trim_end().contains('\n') => Some(text_lines(text)),
        Value::List(items) if LINES.contains(&field.name()) => {
            Some(items.iter().filter_map(Value::as_str).flat_map(text_lines).collect())
        }
        Value::List(items) if matches!(field.kind(), Kind::Message(_)) => {
            let rows: Vec<_> = items.iter().filter_map(Value::as_message).collect();
            if rows.iter().all(|row| compact(row).is_some()) { None } else { Some(table(&rows, look)) }
        }
        Value::Message(message) if message.descriptor().name() == "CapturedText" => Some(captured(message)),
        Value::Message(message) => Some(lines(message, look)),
        _ => None,
    }
}

/// Output of a program: its text, and whether something is left out.
fn captured(message: &DynamicMessage) -> Vec<String> {
    let Ok(captured) = message.transcode_to::<v1::CapturedText>() else { return Vec::new() };
    let mut lines = text_lines(&captured.text);
    if captured.truncated {
        lines.push(format!("({} in all, the middle is left out)", bytes(captured.total_bytes)));
    }
    lines
}

/// Rows under the fields that any of them has.
fn table(rows: &[&DynamicMessage], look: &Look) -> Vec<String> {
    let Some(first) = rows.first() else { return Vec::new() };
    let fields: Vec<_> = first
        .descriptor()
        .fields()
        .filter(|field| rows.iter().any(|row| row.has_field(field)))
        .filter(|field| look.wide || !(field.name() == "id" || field.name().ends_with("_id")))
        .collect();
    let mut table = Table::new(fields.iter().map(|field| label(field).to_uppercase()));
    for row in rows {
        table.row(fields.iter().map(|field| cell(field, &row.get_field(field), look).unwrap_or_default()));
    }
    table.lines(look)
}

/// A value beside its name or in a column; `None` when it says nothing.
fn cell(field: &FieldDescriptor, value: &Value, look: &Look) -> Option<String> {
    let text = match value {
        Value::List(items) => {
            let items: Vec<_> = items.iter().filter_map(|item| cell(field, item, look)).collect();
            items.join(" ")
        }
        Value::Message(message) => compact(message).unwrap_or_else(|| {
            let cells = message.fields().filter_map(|(field, value)| cell(&field, value, look));
            cells.collect::<Vec<_>>().join(" ")
        }),
        Value::Bool(value) => if *value { "yes" } else { "no" }.to_owned(),
        Value::String(text) => escape(text.trim_end(), false).into_owned(),
        Value::Bytes(bytes) => data_encoding::HEXLOWER.encode(bytes),
        Value::F32(value) => format!("{value:.2}"),
        Value::F64(value) => format!("{value:.2}"),
        Value::EnumNumber(number) => match field.kind() {
            Kind::Enum(kind) => enum_name(&kind, *number),
            _ => number.to_string(),
        },
        Value::I32(value) => number(field.name(), i64::from(*value)),
        Value::U32(value) => number(field.name(), i64::from(*value)),
        // The contract's signed milliseconds are points in time, its unsigned ones are spans.
        Value::I64(0) if field.name().ends_with("_ms") => String::new(),
        Value::I64(value) if field.name().ends_with("_ms") => look.time(*value),
        Value::I64(value) => value.to_string(),
        Value::U64(value) => number(field.name(), i64::try_from(*value).unwrap_or(i64::MAX)),
        Value::Map(_) => String::new(),
    };
    (!text.is_empty()).then_some(text)
}

/// A number in the unit that its name ends with.
fn number(name: &str, value: i64) -> String {
    let is = |suffix: &str| name.ends_with(suffix);
    if is("_bytes") {
        return bytes(value.unsigned_abs());
    }
    if is("_ms") {
        return duration_ms(value);
    }
    if is("_s") {
        return duration_ms(value.saturating_mul(1000));
    }
    value.to_string()
}

/// Messages that have a customary short form: a published port as Docker writes it, a name with its value.
fn compact(message: &DynamicMessage) -> Option<String> {
    match message.descriptor().name() {
        "PublishedPort" => {
            let port = message.transcode_to::<v1::PublishedPort>().ok()?;
            let inside = format!("{}/{}", port.container_port, escape(&port.protocol, false));
            Some(match port.host_port {
                0 => inside,
                host => format!("{}:{host}->{inside}", escape(&port.host_address, false)),
            })
        }
        "JsonField" => {
            let field = message.transcode_to::<v1::JsonField>().ok()?;
            Some(format!("{}={}", escape(&field.name, false), escape(&field.value, false)))
        }
        _ => None,
    }
}

fn label(field: &FieldDescriptor) -> String {
    let name = field.name();
    let name =
        ["_at_ms", "_bytes", "_ms"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
    let name = name.strip_suffix("_s").unwrap_or(name);
    name.replace('_', " ")
}

/// Text from a host as lines, made safe.
pub fn text_lines(text: &str) -> Vec<String> {
    escape(text.trim_end_matches(['\n', '\r']), true).lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use vigie_proto::v1::{Result as OperationResult, result::Operation};

    use super::*;

    fn show(operation: Operation) -> String {
        result(&OperationResult { operation: Some(operation) }, &Look::plain()).join("\n")
    }

    fn container(service: &str, state: &str) -> v1::Container {
        v1::Container {
            name: format!("sylion-{service}"),
            id: "0123456789ab".to_owned(),
            stack: "sylion".to_owned(),
            service: service.to_owned(),
            state: state.to_owned(),
            ports: vec![v1::PublishedPort {
                host_address: "127.0.0.1".to_owned(),
                host_port: 8000,
                container_port: 8000,
                protocol: "tcp".to_owned(),
            }],
            ..Default::default()
        }
    }

    #[test]
    fn lists_of_messages_are_tables() {
        let listed = v1::ContainerListResult {
            containers: vec![container("backend", "running"), container("redis", "exited")],
            missing: vec!["postgres".to_owned()],
        };
        assert_snapshot!(show(Operation::ContainerList(listed)), @r#"
        missing  postgres
        containers
          NAME            STACK   SERVICE  STATE    PORTS
          sylion-backend  sylion  backend  running  127.0.0.1:8000->8000/tcp
          sylion-redis    sylion  redis    exited   127.0.0.1:8000->8000/tcp
        "#);
    }

    #[test]
    fn numbers_have_the_unit_of_their_name() {
        let inspected = v1::ContainerInspectResult {
            present: true,
            name: "sylion-backend".to_owned(),
            restart_count: 14,
            uptime_s: 3,
            started_at_ms: 1_700_000_000_000,
            memory_limit_bytes: 512 << 20,
            health_output: "curl: (7)\nfailed".to_owned(),
            ..Default::default()
        };
        assert_snapshot!(show(Operation::ContainerInspect(inspected)), @r#"
        present          yes
        name             sylion-backend
        exit code        0
        oom killed       no
        restart count    14
        started          2023-11-14 23:13:20 +01:00
        uptime           3.0 s
        memory limit     512.0 MiB
        health failures  0
        health output
          curl: (7)
          failed
        "#);
    }

    #[test]
    fn logs_are_lines_and_cannot_move_the_cursor() {
        let logs = v1::ContainerLogsResult {
            present: true,
            container: "sylion-backend".to_owned(),
            lines: vec!["KeyError: 'DB_PASSWORD'".to_owned(), "\u{1b}[2J\u{202e}owned".to_owned()],
            truncated: true,
        };
        assert_snapshot!(show(Operation::ContainerLogs(logs)), @r#"
        present    yes
        container  sylion-backend
        truncated  yes
        lines
          KeyError: 'DB_PASSWORD'
          \u{1b}[2J\u{202e}owned
        "#);
    }

    #[test]
    fn what_is_left_out_is_said() {
        let exec = v1::ExecResult {
            program: "/usr/bin/uptime".to_owned(),
            stdout: Some(v1::CapturedText {
                text: "up 3 days\n".to_owned(),
                total_bytes: 70_000,
                truncated: true,
            }),
            ..Default::default()
        };
        assert_snapshot!(show(Operation::Exec(exec)), @r#"
        program    /usr/bin/uptime
        exit code  0
        signal     0
        stdout
          up 3 days
          (68.4 KiB in all, the middle is left out)
        "#);
    }
}
