//! An operation with its arguments, as a runbook writes it.
//!
//! Arguments are checked against the catalogue's descriptors when the runbook is read, and become fields of a message
//! as typed values: a parameter's text is never parsed again, so that nothing in it can become another argument.

use std::collections::BTreeSet;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, Value};
use vigie_proto::{
    descriptors,
    operation::{self, FieldError, Operation},
    v1::Request,
};

use crate::{
    diagnostic::suggest,
    parameters::{ParameterType, ParameterValue, Values},
    read::{Content, Node, Reader, Scalar, Span, duration_ms},
    rules::{Names, Stretch, enum_words, stretches},
};

/// An operation and its arguments, some of which parameters will fill.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) operation: &'static Operation,
    span: Span,
    arguments: Vec<Argument>,
}

#[derive(Debug, Clone)]
struct Argument {
    field: FieldDescriptor,
    span: Span,
    value: Filling,
}

#[derive(Debug, Clone)]
enum Filling {
    Fixed(Value),
    /// The whole value is a parameter's.
    Parameter(String),
    /// A text with parameters in it.
    Pieces(Vec<Piece>),
    List(Vec<Filling>),
}

#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    Parameter(String),
}

/// Why a call's message cannot be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CallError {
    /// The argument that is wrong; `None` for one that is missing.
    field: Option<String>,
    pub(crate) reason: String,
}

impl Call {
    /// Reads `operation: { argument: value, … }`.
    pub(crate) fn read(
        name: &Scalar,
        arguments: &Node,
        names: &Names,
        reader: &mut Reader<'_>,
    ) -> Option<Self> {
        let operation = Operation::find(&name.text).filter(|operation| operation.name == name.text)?;
        let message = descriptors::request(operation.name)?;
        let mut call = Self { operation, span: name.span, arguments: Vec::new() };
        let entries = match &arguments.content {
            Content::Map(entries) => entries.as_slice(),
            _ if arguments.is_null() => &[],
            _ => {
                let message =
                    format!("the arguments of {} are a mapping, not {}", operation.name, arguments.kind());
                reader.error(arguments.span, message, "`{ name: value }`, or `{}` for none");
                return None;
            }
        };
        let mut sound = true;
        for (key, value) in entries {
            let Some(field) = message.get_field_by_name(&key.text) else {
                let fields: Vec<_> = message.fields().map(|field| field.name().to_owned()).collect();
                let hint = suggest(&key.text, fields.iter().map(String::as_str));
                reader.error(key.span, format!("{} has no argument `{}`", operation.name, key.text), &hint);
                sound = false;
                continue;
            };
            match filling(&field, value, names, reader) {
                Some(filled) => call.arguments.push(Argument { field, span: value.span, value: filled }),
                None => sound = false,
            }
        }
        sound.then_some(call)
    }

    /// Checks the call as it is with these values, and reports what is wrong at the argument's place.
    pub(crate) fn check(&self, values: &Values, reader: &mut Reader<'_>) {
        // A parameter without a default has no value yet: what it fills is checked when it is bound.
        if self.parameters().iter().any(|name| !values.contains_key(*name)) {
            return;
        }
        if let Err(error) = self.prepare(values) {
            let argument = self.arguments.iter().find(|a| error.field.as_deref() == Some(a.field.name()));
            reader.error(argument.map_or(self.span, |argument| argument.span), error.reason, "");
        }
    }

    /// The parameters that fill some of its arguments.
    pub(crate) fn parameters(&self) -> BTreeSet<&str> {
        fn collect<'a>(filling: &'a Filling, into: &mut BTreeSet<&'a str>) {
            match filling {
                Filling::Fixed(_) => {}
                Filling::Parameter(name) => _ = into.insert(name),
                Filling::Pieces(pieces) => into.extend(pieces.iter().filter_map(|piece| match piece {
                    Piece::Parameter(name) => Some(name.as_str()),
                    Piece::Text(_) => None,
                })),
                Filling::List(items) => items.iter().for_each(|item| collect(item, into)),
            }
        }
        let mut found = BTreeSet::new();
        self.arguments.iter().for_each(|argument| collect(&argument.value, &mut found));
        found
    }

    /// The parameter that an error is about, if it is about one.
    pub(crate) fn culprit(&self, error: &CallError) -> Option<&str> {
        let argument = self.arguments.iter().find(|a| error.field.as_deref() == Some(a.field.name()))?;
        let only = Self { operation: self.operation, span: self.span, arguments: vec![argument.clone()] };
        let name = only.parameters().into_iter().next()?.to_owned();
        self.parameters().into_iter().find(|parameter| *parameter == name)
    }

    /// The message with every parameter in it, checked against the catalogue's rules.
    pub(crate) fn prepare(&self, values: &Values) -> Result<Prepared, CallError> {
        let unknown =
            || CallError { field: None, reason: format!("{} is not in the catalogue", self.operation.name) };
        let mut message = DynamicMessage::new(descriptors::request(self.operation.name).ok_or_else(unknown)?);
        for Argument { field, value, .. } in &self.arguments {
            let value = fill(field, value, values)
                .map_err(|reason| CallError { field: Some(field.name().to_owned()), reason })?;
            message.set_field(field, value);
        }
        let prepared = Prepared { operation: self.operation, message };
        operation::check(&prepared.request("")).map_err(|error| CallError {
            field: match &error {
                FieldError::TooLong { field, .. }
                | FieldError::Pattern { field, .. }
                | FieldError::Range { field, .. } => Some((*field).to_owned()),
                FieldError::Unknown | FieldError::Missing { .. } => None,
            },
            reason: error.to_string(),
        })?;
        Ok(prepared)
    }
}

/// A call with all its values, but for the stack that it is about.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    pub(crate) operation: &'static Operation,
    message: DynamicMessage,
}

impl Prepared {
    /// The request for a target. Where the operation can name a stack and the runbook does not, it is the target's.
    pub(crate) fn request(&self, stack: &str) -> Request {
        let mut message = self.message.clone();
        descriptors::fill_stack(&mut message, stack);
        // Both sides are generated from the same descriptors.
        descriptors::wrap(self.operation.name, message)
            .unwrap_or_else(|| unreachable!("{} is a request of the contract", self.operation.name))
    }
}

fn filling(field: &FieldDescriptor, node: &Node, names: &Names, reader: &mut Reader<'_>) -> Option<Filling> {
    if !field.is_list() {
        return single(field, node, names, reader);
    }
    match &node.content {
        Content::List(items) => {
            let read: Vec<_> = items.iter().map(|item| single(field, item, names, reader)).collect();
            read.into_iter().collect::<Option<Vec<_>>>().map(Filling::List)
        }
        _ => {
            let message = format!("`{}` is a list, not {}", field.name(), node.kind());
            reader.error(node.span, message, "write it in brackets: `[a, b]`");
            None
        }
    }
}

fn single(field: &FieldDescriptor, node: &Node, names: &Names, reader: &mut Reader<'_>) -> Option<Filling> {
    let scalar = reader.scalar(node, &format!("`{}`", field.name()))?;
    let mut pieces = Vec::new();
    for stretch in stretches(&scalar.text) {
        match stretch {
            Stretch::Text(text) => pieces.push(Piece::Text(text.to_owned())),
            Stretch::Expression(text, offset) => {
                pieces.push(Piece::Parameter(parameter(field, scalar, text, offset, names, reader)?));
            }
            Stretch::Open(offset) => {
                let place = scalar.position(reader.text, offset);
                reader.at(place, crate::Severity::Error, "`{{` without `}}`", "");
                return None;
            }
        }
    }
    match pieces.as_slice() {
        [Piece::Parameter(name)] => {
            let kind = names.parameters.get(name)?;
            if !fits(*kind, field) {
                let message = format!("`{}` cannot be a parameter of type {}", field.name(), kind.word());
                reader.error(scalar.span, message, "");
                return None;
            }
            Some(Filling::Parameter(name.clone()))
        }
        pieces if pieces.iter().all(|piece| matches!(piece, Piece::Text(_))) => {
            match literal(field, scalar) {
                Ok(value) => Some(Filling::Fixed(value)),
                Err((reason, hint)) => {
                    reader.error(scalar.span, reason, &hint);
                    None
                }
            }
        }
        _ if field.kind() == Kind::String => Some(Filling::Pieces(pieces)),
        _ => {
            let message = format!("`{}` is no text that a parameter could be a part of", field.name());
            reader.error(scalar.span, message, "");
            None
        }
    }
}

/// The parameter that `{{ params.name }}` names. Evidence has no place in an argument: what would be done could then
/// not be known before it is signed.
fn parameter(
    field: &FieldDescriptor,
    scalar: &Scalar,
    text: &str,
    offset: usize,
    names: &Names,
    reader: &mut Reader<'_>,
) -> Option<String> {
    let name = text.trim().strip_prefix("params.").unwrap_or_default();
    if names.parameters.contains_key(name) {
        return Some(name.to_owned());
    }
    let place = scalar.position(reader.text, offset);
    let (message, hint) = match name {
        "" => (
            format!("`{}` can hold parameters and nothing else", field.name()),
            "`{{ params.name }}`".to_owned(),
        ),
        _ => (
            format!("the runbook has no parameter `{name}`"),
            suggest(name, names.parameters.keys().map(String::as_str)),
        ),
    };
    reader.at(place, crate::Severity::Error, message, &hint);
    None
}

/// A value as the runbook writes it out.
fn literal(field: &FieldDescriptor, scalar: &Scalar) -> Result<Value, (String, String)> {
    let (name, text) = (field.name(), scalar.text.as_str());
    let no = |what: &str, hint: &str| Err((format!("`{name}` is {what}, not `{text}`"), hint.to_owned()));
    match field.kind() {
        Kind::String => Ok(Value::String(text.to_owned())),
        Kind::Bool => match text {
            "true" if scalar.is_plain() => Ok(Value::Bool(true)),
            "false" if scalar.is_plain() => Ok(Value::Bool(false)),
            _ => no("`true` or `false`", ""),
        },
        Kind::Uint32 => {
            if let Some(value) = text.parse().ok().filter(|_| scalar.is_plain()) {
                return Ok(Value::U32(value));
            }
            match duration_ms(text).and_then(|ms| time(name, ms)) {
                Some(value) => Ok(Value::U32(value)),
                None => no("a number", if scalar.is_plain() { "" } else { "write it without quotes" }),
            }
        }
        Kind::Enum(descriptor) => {
            let words = enum_words(&descriptor);
            match words.iter().find(|(word, _)| word == text) {
                Some((_, number)) => Ok(Value::EnumNumber(*number)),
                None => Err((
                    format!("`{name}` is never `{text}`"),
                    suggest(text, words.iter().map(|(word, _)| word.as_str())),
                )),
            }
        }
        _ => no("of a kind that runbooks cannot write", ""),
    }
}

/// A length of time as a field counts it, which its name says.
fn time(field: &str, ms: i64) -> Option<u32> {
    let counted = if field.ends_with("_ms") {
        ms
    } else if field.ends_with("_s") && ms % 1000 == 0 {
        ms / 1000
    } else {
        return None;
    };
    u32::try_from(counted).ok()
}

fn fits(kind: ParameterType, field: &FieldDescriptor) -> bool {
    match (field.kind(), kind) {
        (Kind::String, _) | (Kind::Bool, ParameterType::Boolean) => true,
        (Kind::Uint32, ParameterType::Integer) | (Kind::Enum(_), ParameterType::Text) => true,
        (Kind::Uint32, ParameterType::Duration) => {
            field.name().ends_with("_ms") || field.name().ends_with("_s")
        }
        _ => false,
    }
}

fn fill(field: &FieldDescriptor, filling: &Filling, values: &Values) -> Result<Value, String> {
    let known = |name: &str| values.get(name).ok_or_else(|| format!("parameter `{name}` has no value"));
    match filling {
        Filling::Fixed(value) => Ok(value.clone()),
        Filling::Parameter(name) => typed(field, known(name)?),
        Filling::Pieces(pieces) => {
            let mut text = String::new();
            for piece in pieces {
                match piece {
                    Piece::Text(plain) => text.push_str(plain),
                    Piece::Parameter(name) => text.push_str(&known(name)?.text()),
                }
            }
            Ok(Value::String(text))
        }
        Filling::List(items) => {
            let filled = items.iter().map(|item| fill(field, item, values));
            Ok(Value::List(filled.collect::<Result<_, _>>()?))
        }
    }
}

fn typed(field: &FieldDescriptor, value: &ParameterValue) -> Result<Value, String> {
    let name = field.name();
    match (field.kind(), value) {
        (Kind::String, value) => Ok(Value::String(value.text())),
        (Kind::Bool, ParameterValue::Boolean(value)) => Ok(Value::Bool(*value)),
        (Kind::Uint32, ParameterValue::Integer(value)) => u32::try_from(*value)
            .map(Value::U32)
            .map_err(|_| format!("`{name}` is {value}, which is out of range")),
        (Kind::Uint32, ParameterValue::Duration(ms)) => {
            time(name, *ms).map(Value::U32).ok_or_else(|| format!("`{name}` cannot be {}", value.text()))
        }
        (Kind::Enum(descriptor), ParameterValue::Text(text)) => {
            let words = enum_words(&descriptor);
            let found = words.iter().find(|(word, _)| word == text);
            let hint = || suggest(text, words.iter().map(|(word, _)| word.as_str()));
            found
                .map(|(_, number)| Value::EnumNumber(*number))
                .ok_or_else(|| format!("`{name}` is never {text:?}; {}", hint()))
        }
        _ => Err(format!("`{name}` cannot be {}", value.text())),
    }
}
