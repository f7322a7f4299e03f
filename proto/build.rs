//! Compiles the contract without protoc, and reads the catalogue's options into a constant table and validators.

use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf};

use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _, Value,
};

type Fallible<T> = Result<T, Box<dyn Error>>;

fn main() -> Fallible<()> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut files: Vec<_> = fs::read_dir(root.join("vigie/v1"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    println!("cargo:rerun-if-changed={}", root.join("vigie").display());

    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_source_info(true).include_imports(true).open_files(&files)?;
    // Only the encoded set keeps the options: prost_types' own set drops extensions.
    let descriptors = compiler.encode_file_descriptor_set();
    fs::write(out.join("descriptors.bin"), &descriptors)?;

    let set = prost_types::FileDescriptorSet::decode(descriptors.as_slice())?;
    tonic_prost_build::configure().compile_fds(set)?;

    let pool = DescriptorPool::decode(descriptors.as_slice())?;
    fs::write(out.join("operations.rs"), operations(&pool)?)?;
    Ok(())
}

/// The table of operations, their names by variant, and one validator over all requests.
fn operations(pool: &DescriptorPool) -> Fallible<String> {
    let request = oneof(pool, "vigie.v1.Request")?;
    let result = oneof(pool, "vigie.v1.Result")?;
    let (mut table, mut names, mut result_names, mut checks, mut statics, mut stacks) =
        (String::new(), String::new(), String::new(), String::new(), String::new(), String::new());
    for field in &request {
        let answer = result
            .iter()
            .find(|answer| answer.name() == field.name() && answer.number() == field.number())
            .ok_or_else(|| {
                format!("operation `{}` has no result of the same name and number", field.name())
            })?;
        let Kind::Message(message) = field.kind() else {
            return Err(format!("operation `{}` is not a message", field.name()).into());
        };
        let options = extension(&message.options(), pool, "vigie.v1.operation")
            .ok_or_else(|| format!("message {} has no (operation) option", message.full_name()))?;
        let (effect, authority) = (short(&options, "effect")?, short(&options, "authority")?);
        let (summary, preview) = (text(&options, "summary"), text(&options, "preview"));
        if summary.is_empty() || number(&options, "timeout_ms") == 0 {
            return Err(format!("operation `{}` lacks a summary or a timeout", field.name()).into());
        }
        if !preview.is_empty() && !request.iter().any(|other| other.name() == preview) {
            return Err(format!("operation `{}` names an unknown preview `{preview}`", field.name()).into());
        }
        let narrowed_by = narrowing(&options, field.name(), &message, authority != "Role")?;
        if authority == "OrderChallenge" && preview.is_empty() {
            return Err(format!("operation `{}` needs a challenge and has no preview", field.name()).into());
        }
        let variant = camel(field.name());
        if message.get_field_by_name("stack").is_some() {
            writeln!(stacks, "        request::Operation::{variant}(m) => Some(&mut m.stack),")?;
        }
        writeln!(
            table,
            "    Operation {{ name: {:?}, effect: Effect::{effect}, authority: Authority::{authority}, timeout_ms: {}, \
             summary: {summary:?}, preview: {}, streams: {}, narrowed_by: {narrowed_by}, asked_for: {} }},",
            field.name(),
            number(&options, "timeout_ms"),
            if preview.is_empty() { "None".to_owned() } else { format!("Some({preview:?})") },
            flag(&options, "streams"),
            flag(&options, "asked_for"),
        )?;
        writeln!(names, "        request::Operation::{variant}(_) => {:?},", field.name())?;
        writeln!(
            result_names,
            "        result::Operation::{}(_) => {:?},",
            camel(answer.name()),
            answer.name()
        )?;
        checks.push_str(&validator(pool, field, &message, &variant, &mut statics)?);
    }
    if let Some(stray) =
        result.iter().find(|answer| !request.iter().any(|field| field.name() == answer.name()))
    {
        return Err(format!("result `{}` belongs to no operation", stray.name()).into());
    }
    Ok(format!(
        "/// Every operation, in the catalogue's order.\npub const OPERATIONS: &[Operation] = &[\n{table}];\n\n\
         fn request_name(operation: &request::Operation) -> &'static str {{\n    match operation {{\n{names}    }}\n}}\n\n\
         fn result_name(operation: &result::Operation) -> &'static str {{\n    match operation {{\n{result_names}    }}\n}}\n\n\
         /// The stack that a request names; `None` for one that is not about a stack.\n\
         fn stack_field(operation: &mut request::Operation) -> Option<&mut String> {{\n    match operation {{\n{stacks}        \
         _ => None,\n    }}\n}}\n\n\
         {statics}\n\
         fn check_fields(operation: &request::Operation) -> Result<(), FieldError> {{\n    match operation {{\n{checks}    }}\n    Ok(())\n}}\n"
    ))
}

/// The arm that checks one request's fields against their rules.
fn validator(
    pool: &DescriptorPool,
    operation: &FieldDescriptor,
    message: &MessageDescriptor,
    variant: &str,
    statics: &mut String,
) -> Fallible<String> {
    let mut arm = String::new();
    for field in message.fields() {
        let rules = extension(&field.options(), pool, "vigie.v1.rules")
            .ok_or_else(|| format!("field {} has no (rules) option", field.full_name()))?;
        let name = format!("{}_{}", operation.name(), field.name()).to_uppercase();
        let pattern = text(&rules, "pattern");
        regex_lite::Regex::new(&pattern).map_err(|error| format!("field {}: {error}", field.full_name()))?;
        if field.kind() == Kind::Bool {
            continue;
        }
        writeln!(
            statics,
            "static {name}: Rules = Rules::new({:?}, {:?}, {}, {:?}, {}, {}, {});",
            operation.name(),
            field.name(),
            flag(&rules, "required"),
            pattern,
            number(&rules, "max_len"),
            number(&rules, "min"),
            number(&rules, "max"),
        )?;
        let check = match (field.is_list(), field.kind()) {
            (false, Kind::String) => "string",
            (true, Kind::String) => "strings",
            (false, Kind::Uint32) => "number",
            (true, Kind::Uint32) => "numbers",
            (false, Kind::Enum(_)) => "",
            (_, kind) => return Err(format!("field {}: no validator for {kind:?}", field.full_name()).into()),
        };
        if let Kind::Enum(kind) = field.kind() {
            let greatest = kind.values().map(|value| value.number()).max().unwrap_or_default();
            writeln!(arm, "            {name}.number_enum(m.{}, {greatest})?;", field.name())?;
        } else {
            let reference = if check == "number" { "" } else { "&" };
            writeln!(arm, "            {name}.{check}({reference}m.{})?;", field.name())?;
        }
    }
    let binding = if arm.is_empty() { "_" } else { "m" };
    Ok(format!("        request::Operation::{variant}({binding}) => {{\n{arm}        }}\n"))
}

fn oneof(pool: &DescriptorPool, message: &str) -> Fallible<Vec<FieldDescriptor>> {
    let message =
        pool.get_message_by_name(message).ok_or_else(|| format!("{message} is not in the contract"))?;
    Ok(message.fields().collect())
}

fn extension(options: &DynamicMessage, pool: &DescriptorPool, name: &str) -> Option<DynamicMessage> {
    let extension = pool.get_extension_by_name(name)?;
    if !options.has_extension(&extension) {
        return None;
    }
    options.get_extension(&extension).as_message().cloned()
}

fn text(message: &DynamicMessage, field: &str) -> String {
    message.get_field_by_name(field).and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn flag(message: &DynamicMessage, field: &str) -> bool {
    message.get_field_by_name(field).is_some_and(|value| value.as_bool() == Some(true))
}

/// The narrowing of an operation that needs an order, as the table writes it: the request must have the fields that it
/// speaks of.
fn narrowing(
    options: &DynamicMessage,
    operation: &str,
    request: &MessageDescriptor,
    ordered: bool,
) -> Fallible<String> {
    if !ordered {
        return Ok("None".to_owned());
    }
    let by =
        options.get_field_by_name("narrowed_by").and_then(|value| value.as_enum_number()).unwrap_or_default();
    let (word, fields): (_, &[&str]) = match by {
        1 => ("Stacks", &["stack"]),
        2 => ("Units", &["unit"]),
        3 => ("Programs", &["program"]),
        4 => ("Ports", &["port", "protocol"]),
        5 => ("Host", &[]),
        _ => {
            return Err(
                format!("operation `{operation}` needs an order and does not say `narrowed_by`").into()
            );
        }
    };
    match fields.iter().find(|field| request.get_field_by_name(field).is_none()) {
        Some(field) => {
            Err(format!("operation `{operation}` is narrowed by {word} and has no field `{field}`").into())
        }
        None => Ok(format!("Some(Narrowing::{word})")),
    }
}

fn number(message: &DynamicMessage, field: &str) -> i64 {
    match message.get_field_by_name(field).as_deref() {
        Some(Value::U32(n)) => i64::from(*n),
        Some(Value::I64(n)) => *n,
        _ => 0,
    }
}

/// `EFFECT_OBSERVE` as prost names it: `Observe`.
fn short(message: &DynamicMessage, field: &str) -> Fallible<String> {
    let descriptor = message.descriptor().get_field_by_name(field).ok_or("no such option")?;
    let Kind::Enum(kind) = descriptor.kind() else { return Err(format!("{field} is not an enum").into()) };
    let value = message.get_field(&descriptor).as_enum_number().unwrap_or_default();
    let value = kind
        .get_value(value)
        .filter(|value| value.number() != 0)
        .ok_or_else(|| format!("option {field} of {} is unspecified", message.descriptor().full_name()))?;
    let prefix = format!("{}_", field.to_uppercase());
    Ok(camel(&value.name().trim_start_matches(&prefix).to_lowercase()))
}

fn camel(name: &str) -> String {
    name.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}
