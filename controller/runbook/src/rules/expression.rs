//! A checked expression: every name is resolved, every pattern compiled, nothing is left to go wrong but the evidence.

use std::sync::Arc;

use regex::Regex;

use super::value::Value;

#[derive(Debug, Clone)]
pub(crate) enum Expression {
    Literal(Value),
    /// A probe's result, or a field in it.
    Reference(Reference),
    Parameter(String),
    Stack,
    Host,
    Now,
    /// A name that `exists`, `all`, … bind, counted from the outermost.
    Local(usize),
    /// An expression that the runbook gave a name.
    Defined(Arc<Expression>),
    Field(Box<Expression>, String),
    Index(Box<[Expression; 2]>),
    List(Vec<Expression>),
    And(Box<[Expression; 2]>),
    Or(Box<[Expression; 2]>),
    Not(Box<Expression>),
    Choice(Box<[Expression; 3]>),
    Binary(Operator, Box<[Expression; 2]>),
    Negative(Box<Expression>),
    Call(Function, Vec<Expression>),
    Matches(Box<Expression>, Regex),
    /// Of the first match the first group that took part, or all of it; empty when nothing matches.
    Extract(Box<Expression>, Regex),
    Each {
        verb: Verb,
        range: Box<Expression>,
        body: Box<Expression>,
    },
    /// Whether a probe's evidence is there.
    Answered(String),
    /// The code of a probe's failure; empty when it succeeded.
    Failure(String),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reference {
    pub(crate) probe: String,
    pub(crate) path: Vec<String>,
}

impl Reference {
    /// As it is written: `backend.restart_count`.
    pub(crate) fn text(&self) -> String {
        self.path.iter().fold(self.probe.clone(), |text, field| text + "." + field)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    In,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    First,
    Last,
    Int,
    Double,
    Text,
}

/// What is asked of the items of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Exists,
    All,
    ExistsOne,
    Filter,
    Map,
}
