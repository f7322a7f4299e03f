//! A runbook's parameters: typed, checked, and never text that is parsed a second time.

use std::collections::BTreeMap;

use regex::Regex;
use vigie_proto::v1;

use crate::{
    diagnostic::suggest,
    read::duration_ms,
    rules::{Type, Value},
};

/// The longest value, in bytes.
const MAX_LEN: usize = 1024;

/// What a parameter's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterType {
    Text,
    Integer,
    Boolean,
    /// A length of time, written `90s`; milliseconds in rules.
    Duration,
}

impl ParameterType {
    pub(crate) const WORDS: &[(&str, Self)] = &[
        ("string", Self::Text),
        ("int", Self::Integer),
        ("bool", Self::Boolean),
        ("duration", Self::Duration),
    ];

    /// As runbooks write it.
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }

    /// What it is in a rule.
    pub(crate) fn in_rules(self) -> Type {
        match self {
            Self::Text => Type::Text,
            Self::Integer | Self::Duration => Type::Int,
            Self::Boolean => Type::Bool,
        }
    }
}

/// A parameter as the runbook declares it.
#[derive(Debug, Clone)]
pub struct Parameter {
    pub name: String,
    pub kind: ParameterType,
    /// What it is when the caller does not say; `None` when the caller has to.
    pub default: Option<ParameterValue>,
    /// One line for people; may be empty.
    pub help: String,
    /// What a text has to match as a whole.
    pub(crate) pattern: Option<Regex>,
}

/// A parameter's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParameterValue {
    Text(String),
    Integer(i64),
    Boolean(bool),
    /// Milliseconds.
    Duration(i64),
}

impl ParameterValue {
    pub(crate) fn in_rules(&self) -> Value {
        match self {
            Self::Text(text) => Value::text(text.as_str()),
            Self::Integer(value) | Self::Duration(value) => Value::Int(*value),
            Self::Boolean(value) => Value::Bool(*value),
        }
    }

    /// As it stands within a longer text.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Integer(value) => value.to_string(),
            Self::Boolean(value) => value.to_string(),
            Self::Duration(ms) if ms % 1000 == 0 => format!("{}s", ms / 1000),
            Self::Duration(ms) => format!("{ms}ms"),
        }
    }
}

/// Why a call's parameters cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parameter `{name}`: {reason}")]
pub struct ParameterError {
    pub name: String,
    pub reason: String,
}

impl Parameter {
    /// A value as a caller or a default writes it.
    ///
    /// # Errors
    /// Says what it would have to be.
    pub(crate) fn parse(&self, text: &str) -> Result<ParameterValue, String> {
        if text.len() > MAX_LEN {
            return Err(format!("it is longer than {MAX_LEN} bytes"));
        }
        match self.kind {
            ParameterType::Text => match &self.pattern {
                Some(pattern) if !pattern.is_match(text) => Err(format!("{text:?} does not match {pattern}")),
                _ => Ok(ParameterValue::Text(text.to_owned())),
            },
            ParameterType::Integer => match text.parse() {
                Ok(value) => Ok(ParameterValue::Integer(value)),
                Err(_) => Err(format!("{text:?} is no integer")),
            },
            ParameterType::Boolean => match text {
                "true" => Ok(ParameterValue::Boolean(true)),
                "false" => Ok(ParameterValue::Boolean(false)),
                _ => Err(format!("{text:?} is neither true nor false")),
            },
            ParameterType::Duration => match duration_ms(text) {
                Some(ms) => Ok(ParameterValue::Duration(ms)),
                None => Err(format!("{text:?} is no length of time such as 500ms, 90s, 2m, 1h")),
            },
        }
    }
}

pub(crate) type Values = BTreeMap<String, ParameterValue>;

/// The value of every parameter: the caller's, or its default.
pub(crate) fn bind(declared: &[Parameter], given: &[v1::Parameter]) -> Result<Values, Vec<ParameterError>> {
    let (mut values, mut errors) = (Values::new(), Vec::new());
    let mut refuse =
        |name: &str, reason: String| errors.push(ParameterError { name: name.to_owned(), reason });
    for v1::Parameter { name, value } in given {
        let Some(parameter) = declared.iter().find(|parameter| parameter.name == *name) else {
            let hint = suggest(name, declared.iter().map(|parameter| parameter.name.as_str()));
            let reason = "the runbook has no such parameter";
            refuse(name, if hint.is_empty() { reason.to_owned() } else { format!("{reason}; {hint}") });
            continue;
        };
        match parameter.parse(value) {
            Ok(_) if values.contains_key(name) => refuse(name, "it is given twice".to_owned()),
            Ok(value) => _ = values.insert(name.clone(), value),
            Err(reason) => refuse(name, reason),
        }
    }
    for parameter in declared {
        if given.iter().any(|given| given.name == parameter.name) {
            continue;
        }
        match &parameter.default {
            Some(default) => _ = values.insert(parameter.name.clone(), default.clone()),
            None => refuse(&parameter.name, "it is required".to_owned()),
        }
    }
    if errors.is_empty() { Ok(values) } else { Err(errors) }
}
