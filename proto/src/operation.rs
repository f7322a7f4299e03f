//! The table of operations and the validators, both generated from the descriptors' options.

use std::{sync::OnceLock, time::Duration};

use regex_lite::Regex;

pub use crate::v1::{Authority, Effect, Narrowing};
use crate::v1::{Request, request, result};

/// What the catalogue says of one operation.
#[derive(Debug)]
pub struct Operation {
    /// The field's name in the catalogue: `compose_up`.
    pub name: &'static str,
    pub effect: Effect,
    pub authority: Authority,
    timeout_ms: u32,
    /// One line, in the imperative.
    pub summary: &'static str,
    /// The operation that tells what this one would do.
    pub preview: Option<&'static str>,
    /// Whether output is sent while it runs.
    pub streams: bool,
    /// By what a host's policy narrows it; `None` for what needs no order.
    pub narrowed_by: Option<Narrowing>,
    /// The standard policy leaves it out unless the host's owner asks for it.
    pub asked_for: bool,
}

impl Operation {
    /// Finds an operation by its name; `-` stands for `_`, as on the command line.
    pub fn find(name: &str) -> Option<&'static Self> {
        OPERATIONS.iter().find(|operation| {
            operation.name.len() == name.len()
                && operation.name.bytes().zip(name.bytes()).all(|(a, b)| a == b || (a == b'_' && b == b'-'))
        })
    }

    /// What the catalogue says of the operation that this request asks for.
    ///
    /// # Errors
    /// When the request holds no operation: it comes from a program that knows more operations than this one.
    pub fn of(request: &Request) -> Result<&'static Self, FieldError> {
        let operation = request.operation.as_ref().ok_or(FieldError::Unknown)?;
        Self::find(request_name(operation)).ok_or(FieldError::Unknown)
    }

    /// How long it may run when its caller does not say.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(u64::from(self.timeout_ms))
    }

    /// Whether it needs an order.
    pub fn needs_order(&self) -> bool {
        self.authority != Authority::Role
    }
}

impl request::Operation {
    /// The operation's name in the catalogue.
    pub fn name(&self) -> &'static str {
        request_name(self)
    }

    /// The stack that it names, empty when it leaves that to the host; `None` when it is not about a stack.
    pub fn stack_mut(&mut self) -> Option<&mut String> {
        stack_field(self)
    }
}

impl result::Operation {
    /// The operation's name in the catalogue.
    pub fn name(&self) -> &'static str {
        result_name(self)
    }
}

/// Why a request is not a valid one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("the request holds no operation that this program knows")]
    Unknown,
    #[error("{operation}: `{field}` is required")]
    Missing { operation: &'static str, field: &'static str },
    #[error("{operation}: `{field}` is longer than {max}")]
    TooLong { operation: &'static str, field: &'static str, max: usize },
    #[error("{operation}: `{field}` is {value:?}, which does not match {pattern}")]
    Pattern { operation: &'static str, field: &'static str, value: String, pattern: &'static str },
    #[error("{operation}: `{field}` is {value}, which is not within {min} to {max}")]
    Range { operation: &'static str, field: &'static str, value: i64, min: i64, max: i64 },
}

/// Checks a request against the rules of its fields.
///
/// # Errors
/// Names the operation, the field and the rule.
pub fn check(request: &Request) -> Result<(), FieldError> {
    check_fields(request.operation.as_ref().ok_or(FieldError::Unknown)?)
}

/// Strings without a bound of their own.
const MAX_BYTES: usize = 4096;
/// Lists without a bound of their own.
const MAX_ELEMENTS: usize = 256;

/// One field's rules, as its options give them.
struct Rules {
    operation: &'static str,
    field: &'static str,
    required: bool,
    pattern: &'static str,
    /// Compiled when the field is first checked: most agents never see most operations. `None` when the pattern
    /// is no regular expression, which build.rs rules out.
    compiled: OnceLock<Option<Regex>>,
    max_len: usize,
    min: i64,
    max: i64,
}

impl Rules {
    const fn new(
        operation: &'static str,
        field: &'static str,
        required: bool,
        pattern: &'static str,
        max_len: usize,
        min: i64,
        max: i64,
    ) -> Self {
        Self { operation, field, required, pattern, compiled: OnceLock::new(), max_len, min, max }
    }

    fn string(&self, value: &str) -> Result<(), FieldError> {
        if value.is_empty() {
            return self.present(false);
        }
        self.bounded(value.len(), if self.max_len == 0 { MAX_BYTES } else { self.max_len })?;
        self.matches(value)
    }

    fn strings(&self, values: &[String]) -> Result<(), FieldError> {
        self.present(!values.is_empty())?;
        self.bounded(values.len(), if self.max_len == 0 { MAX_ELEMENTS } else { self.max_len })?;
        for value in values {
            self.bounded(value.len(), MAX_BYTES)?;
            self.matches(value)?;
        }
        Ok(())
    }

    fn number(&self, value: u32) -> Result<(), FieldError> {
        let value = i64::from(value);
        if value == 0 {
            return self.present(false);
        }
        if (self.min, self.max) == (0, 0) || (self.min..=self.max).contains(&value) {
            return Ok(());
        }
        Err(FieldError::Range {
            operation: self.operation,
            field: self.field,
            value,
            min: self.min,
            max: self.max,
        })
    }

    fn numbers(&self, values: &[u32]) -> Result<(), FieldError> {
        self.present(!values.is_empty())?;
        self.bounded(values.len(), if self.max_len == 0 { MAX_ELEMENTS } else { self.max_len })?;
        values.iter().try_for_each(|value| self.number(*value))
    }

    /// Enumerations are open in protobuf: a number that this program has no name for is refused.
    fn number_enum(&self, value: i32, greatest: i32) -> Result<(), FieldError> {
        if (0..=greatest).contains(&value) {
            return self.present(value != 0);
        }
        Err(FieldError::Range {
            operation: self.operation,
            field: self.field,
            value: i64::from(value),
            min: 0,
            max: i64::from(greatest),
        })
    }

    fn present(&self, present: bool) -> Result<(), FieldError> {
        if present || !self.required {
            return Ok(());
        }
        Err(FieldError::Missing { operation: self.operation, field: self.field })
    }

    fn bounded(&self, len: usize, max: usize) -> Result<(), FieldError> {
        if len <= max {
            return Ok(());
        }
        Err(FieldError::TooLong { operation: self.operation, field: self.field, max })
    }

    fn matches(&self, value: &str) -> Result<(), FieldError> {
        if self.pattern.is_empty() {
            return Ok(());
        }
        let compiled = self.compiled.get_or_init(|| Regex::new(&format!("^(?:{})$", self.pattern)).ok());
        if compiled.as_ref().is_some_and(|regex| regex.is_match(value)) {
            return Ok(());
        }
        Err(FieldError::Pattern {
            operation: self.operation,
            field: self.field,
            value: value.chars().take(80).collect(),
            pattern: self.pattern,
        })
    }
}

include!(concat!(env!("OUT_DIR"), "/operations.rs"));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    fn request(operation: request::Operation) -> Request {
        Request { operation: Some(operation) }
    }

    #[test]
    fn names_are_found_with_either_dash() {
        assert_eq!(Operation::find("compose-up").map(|o| o.name), Some("compose_up"));
        assert_eq!(Operation::find("compose_up").map(|o| o.effect), Some(Effect::Change));
        assert!(Operation::find("compose").is_none());
    }

    #[test]
    fn an_empty_request_is_no_operation() {
        assert_eq!(check(&Request { operation: None }), Err(FieldError::Unknown));
    }

    #[test]
    fn hostile_arguments_are_refused_by_their_grammar() {
        for unit in ["; id", "$(id)", "`id`", "-v", "a\nb", "../x", "", "x y"] {
            let error = check(&request(request::Operation::UnitRestart(v1::UnitRestartRequest {
                unit: unit.to_owned(),
            })));
            assert!(error.is_err(), "{unit:?} passed");
        }
        let fine = v1::UnitRestartRequest { unit: "nginx.service".to_owned() };
        assert_eq!(check(&request(request::Operation::UnitRestart(fine))), Ok(()));
    }

    #[test]
    fn numbers_lists_and_enums_are_bounded() {
        let ports = v1::SocketListRequest { ports: vec![80, 70_000] };
        assert!(matches!(
            check(&request(request::Operation::SocketList(ports))),
            Err(FieldError::Range { field: "ports", value: 70_000, .. })
        ));
        let http = v1::HttpCheckRequest { target: 99, ..Default::default() };
        assert!(matches!(
            check(&request(request::Operation::HttpCheck(http))),
            Err(FieldError::Range { .. })
        ));
        let exec = v1::ExecRequest { program: "ls".to_owned(), args: vec![String::new(); 300] };
        assert!(matches!(
            check(&request(request::Operation::Exec(exec))),
            Err(FieldError::TooLong { field: "args", .. })
        ));
    }

    #[test]
    fn what_changes_a_host_needs_an_order() {
        for operation in OPERATIONS {
            assert!(operation.effect == Effect::Observe || operation.needs_order(), "{}", operation.name);
            assert!(!operation.summary.ends_with('.'), "{}", operation.name);
        }
    }
}
