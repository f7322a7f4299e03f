//! Checks a syntax tree against what the probes answer, and resolves it on the way.
//!
//! cel checks nothing before it evaluates; here an unknown probe or field, a comparison that can never hold and a
//! pattern that is none are found when the runbook is read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SelectExpr, SourceInfo, operators};
use prost_reflect::MessageDescriptor;
use regex::{Regex, RegexBuilder};

use super::{
    expression::{Expression, Function, Operator, Reference, Verb},
    types::Type,
    value::{Value, enum_words},
};
use crate::{
    diagnostic::{Severity, suggest},
    parameters::ParameterType,
    read::Reader,
};

/// The deepest tree; chains such as `a + b + c` are as deep as they are long.
const MAX_TREE: usize = 100;

/// The largest compiled pattern, in bytes.
const MAX_PATTERN: usize = 1 << 18;

const METHODS: &[&str] = &[
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "extract",
    "exists",
    "all",
    "exists_one",
    "filter",
    "map",
    "first",
    "last",
    "answered",
    "failure",
    "int",
    "double",
    "string",
];

/// What a rule can speak of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    /// Probe ids with the messages that they answer with.
    pub(crate) probes: BTreeMap<String, MessageDescriptor>,
    /// Probes and definitions that did not read: their own error is enough.
    pub(crate) unreadable: BTreeSet<String>,
    pub(crate) parameters: BTreeMap<String, ParameterType>,
    /// Expressions that the runbook gave names to.
    pub(crate) definitions: BTreeMap<String, Definition>,
}

/// An expression under a name.
#[derive(Debug, Clone)]
pub(crate) struct Definition {
    pub(super) expression: Arc<Expression>,
    pub(super) kind: Type,
    pub(super) mentioned: Mentioned,
    /// How many definitions deep it is.
    pub(super) depth: usize,
}

/// The most definitions that may rest on each other.
const MAX_DEFINITIONS: usize = 16;

/// What a rule turned out to speak of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mentioned {
    pub(crate) probes: BTreeSet<String>,
    pub(crate) parameters: BTreeSet<String>,
    /// How many definitions deep it is.
    pub(super) depth: usize,
}

pub(super) struct Checker<'a, 't> {
    pub(super) names: &'a Names,
    pub(super) reader: &'a mut Reader<'t>,
    pub(super) info: SourceInfo,
    /// From an offset in the expression to line and column in the source.
    pub(super) place: &'a dyn Fn(usize) -> (u32, u32),
    pub(super) locals: Vec<(String, Type)>,
    pub(super) mentioned: Mentioned,
}

type Checked = (Expression, Type);

/// What stands for an expression with an error: nobody evaluates it, since the runbook is refused.
fn broken() -> Checked {
    (Expression::Literal(Value::Bool(false)), Type::Any)
}

impl Checker<'_, '_> {
    pub(super) fn expression(&mut self, node: &IdedExpr, depth: usize) -> Checked {
        if depth > MAX_TREE {
            self.error(node, "this expression is too long a chain", "split it, or use a list and `exists`");
            return broken();
        }
        let depth = depth + 1;
        match &node.expr {
            Expr::Ident(name) => self.name(node, name),
            Expr::Select(select) => self.select(node, select, depth),
            Expr::Literal(literal) => self.literal(node, literal),
            Expr::List(list) => {
                let items: Vec<_> = list.elements.iter().map(|item| self.expression(item, depth)).collect();
                let kind = items.iter().map(|(_, kind)| kind.clone()).reduce(Type::join).unwrap_or(Type::Any);
                (Expression::List(items.into_iter().map(|(item, _)| item).collect()), Type::list(kind))
            }
            Expr::Call(call) => self.call(node, call, depth),
            Expr::Map(_) | Expr::Struct(_) => {
                self.error(node, "rules do not build mappings or messages", "");
                broken()
            }
            Expr::Comprehension(_) | Expr::Unspecified => {
                self.error(node, "this is no expression that rules know", "");
                broken()
            }
        }
    }

    fn name(&mut self, node: &IdedExpr, name: &str) -> Checked {
        if let Some(place) = self.locals.iter().rposition(|(local, _)| local == name) {
            return (Expression::Local(place), self.locals[place].1.clone());
        }
        if let Some(definition) = self.names.definitions.get(name) {
            self.mentioned.probes.extend(definition.mentioned.probes.iter().cloned());
            self.mentioned.parameters.extend(definition.mentioned.parameters.iter().cloned());
            self.mentioned.depth = self.mentioned.depth.max(definition.depth);
            if definition.depth > MAX_DEFINITIONS {
                self.error(node, format!("more than {MAX_DEFINITIONS} definitions rest on each other"), "");
            }
            return (Expression::Defined(definition.expression.clone()), definition.kind.clone());
        }
        if self.names.unreadable.contains(name) {
            return broken();
        }
        match name {
            "stack" => (Expression::Stack, Type::Text),
            "host" => (Expression::Host, Type::Text),
            "now_ms" => (Expression::Now, Type::Int),
            "params" => {
                self.error(node, "`params` alone is nothing", "name one: `params.service`");
                broken()
            }
            _ => match self.names.probes.get(name) {
                Some(message) => {
                    self.mentioned.probes.insert(name.to_owned());
                    let reference = Reference { probe: name.to_owned(), path: Vec::new() };
                    (Expression::Reference(reference), Type::Message(message.clone()))
                }
                None => {
                    let known: Vec<_> = self.known_names();
                    let hint = suggest(name, known.iter().map(String::as_str));
                    self.error(node, format!("there is no probe `{name}` here"), &hint);
                    broken()
                }
            },
        }
    }

    fn known_names(&self) -> Vec<String> {
        let fixed = ["stack", "host", "now_ms", "params"].map(str::to_owned);
        let locals = self.locals.iter().map(|(name, _)| name.clone());
        let definitions = self.names.definitions.keys().cloned();
        self.names.probes.keys().cloned().chain(fixed).chain(locals).chain(definitions).collect()
    }

    fn select(&mut self, node: &IdedExpr, select: &SelectExpr, depth: usize) -> Checked {
        let field = select.field.as_str();
        let shadowed = self.locals.iter().any(|(local, _)| local == "params");
        if matches!(&select.operand.expr, Expr::Ident(name) if name == "params") && !shadowed {
            if let Some(kind) = self.names.parameters.get(field) {
                self.mentioned.parameters.insert(field.to_owned());
                return (Expression::Parameter(field.to_owned()), kind.in_rules());
            }
            let hint = suggest(field, self.names.parameters.keys().map(String::as_str));
            self.error_at(node, 1, format!("the runbook has no parameter `{field}`"), &hint);
            return broken();
        }
        let (operand, kind) = self.expression(&select.operand, depth);
        let message = match kind {
            Type::Any => return broken(),
            Type::Message(message) => message,
            Type::List(_) => {
                let hint = "ask its items: `.exists(x, …)`, `.map(x, …)`, `[0]`, `first(…)`";
                self.error_at(node, 1, format!("a list has no field `{field}`"), hint);
                return broken();
            }
            other => {
                self.error_at(node, 1, format!("{other} has no field `{field}`"), "");
                return broken();
            }
        };
        let Some(descriptor) = message.get_field_by_name(field) else {
            let fields: Vec<_> = message.fields().map(|field| field.name().to_owned()).collect();
            let hint = suggest(field, fields.iter().map(String::as_str));
            self.error_at(node, 1, format!("{} has no field `{field}`", message.name()), &hint);
            return broken();
        };
        let expression = match operand {
            Expression::Reference(mut reference) => {
                reference.path.push(field.to_owned());
                Expression::Reference(reference)
            }
            other => Expression::Field(Box::new(other), field.to_owned()),
        };
        (expression, Type::of(&descriptor))
    }

    fn literal(&mut self, node: &IdedExpr, literal: &LiteralValue) -> Checked {
        match literal {
            LiteralValue::Boolean(value) => (Expression::Literal(Value::Bool(*value.inner())), Type::Bool),
            LiteralValue::Int(value) => (Expression::Literal(Value::Int(*value.inner())), Type::Int),
            LiteralValue::Double(value) => (Expression::Literal(Value::Double(*value.inner())), Type::Double),
            LiteralValue::String(value) => (Expression::Literal(Value::text(value.inner())), Type::Text),
            LiteralValue::UInt(value) => {
                let hint = format!("write `{}`: every integer is of one kind here", value.inner());
                self.error(node, "rules have no unsigned numbers", &hint);
                broken()
            }
            LiteralValue::Null | LiteralValue::Bytes(_) => {
                let hint = "a field that is not set is empty, 0 or false; `answered(probe)` tells whether it is there";
                self.error(node, "rules have neither null nor bytes", hint);
                broken()
            }
        }
    }

    fn call(&mut self, node: &IdedExpr, call: &CallExpr, depth: usize) -> Checked {
        let CallExpr { func_name, target, args } = call;
        if let Some(verb) = target.as_ref().and_then(|_| verb(func_name)) {
            return self.each(node, verb, call, depth);
        }
        match (func_name.as_str(), args.as_slice()) {
            (operators::LOGICAL_AND | operators::LOGICAL_OR, [left, right]) => {
                let pair = Box::new([self.truth(left, depth), self.truth(right, depth)]);
                let and = func_name == operators::LOGICAL_AND;
                (if and { Expression::And(pair) } else { Expression::Or(pair) }, Type::Bool)
            }
            (operators::LOGICAL_NOT, [operand]) => {
                (Expression::Not(Box::new(self.truth(operand, depth))), Type::Bool)
            }
            (operators::CONDITIONAL, [condition, yes, no]) => {
                let condition = self.truth(condition, depth);
                let ((yes, a), (no, b)) = (self.expression(yes, depth), self.expression(no, depth));
                if !a.comparable(&b) {
                    self.error(node, format!("one side of `?:` is {a}, the other {b}"), "");
                }
                (Expression::Choice(Box::new([condition, yes, no])), a.join(b))
            }
            (operators::NEGATE, [operand]) => {
                let (operand, kind) = self.expression(operand, depth);
                if !kind.is_number() {
                    self.error(node, format!("`-` is for numbers, not for {kind}"), "");
                }
                (Expression::Negative(Box::new(operand)), kind)
            }
            (operators::INDEX, [list, index]) => {
                let ((list, of), (index, by)) = (self.expression(list, depth), self.expression(index, depth));
                let item = match of {
                    Type::List(item) => *item,
                    Type::Any => Type::Any,
                    other => {
                        self.error(node, format!("{other} has no items"), "");
                        Type::Any
                    }
                };
                if !matches!(by, Type::Int | Type::Any) {
                    self.error(node, format!("a list's items are counted with integers, not with {by}"), "");
                }
                (Expression::Index(Box::new([list, index])), item)
            }
            (name, [left, right]) if operator(name).is_some() => {
                let operator = operator(name).unwrap_or(Operator::Equal);
                self.binary(node, operator, (left, right), depth)
            }
            _ => self.function(node, call, depth),
        }
    }

    /// An operand that has to be true or false.
    fn truth(&mut self, node: &IdedExpr, depth: usize) -> Expression {
        let (expression, kind) = self.expression(node, depth);
        if !kind.is_bool() {
            let hint = match kind {
                Type::List(_) => "compare its size: `size(x) > 0`",
                Type::Text | Type::Word(_) => "compare it: `x != \"\"`",
                _ => "compare it: `x > 0`",
            };
            self.error(node, format!("true or false is needed here, and this is {kind}"), hint);
        }
        expression
    }

    fn binary(
        &mut self,
        node: &IdedExpr,
        operator: Operator,
        (left, right): (&IdedExpr, &IdedExpr),
        depth: usize,
    ) -> Checked {
        let ((a, left_kind), (b, right_kind)) = (self.expression(left, depth), self.expression(right, depth));
        let any = left_kind == Type::Any || right_kind == Type::Any;
        let both = |is: fn(&Type) -> bool| is(&left_kind) && is(&right_kind);
        let (fits, gives) = match operator {
            Operator::Equal | Operator::NotEqual => {
                self.word(right, &left_kind, &b);
                self.word(left, &right_kind, &a);
                (left_kind.comparable(&right_kind), Type::Bool)
            }
            Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => {
                (both(Type::is_number) || both(Type::is_text), Type::Bool)
            }
            Operator::In => match &right_kind {
                Type::List(item) => (left_kind.comparable(item), Type::Bool),
                _ => (any, Type::Bool),
            },
            Operator::Add => {
                let lists =
                    matches!((&left_kind, &right_kind), (Type::List(a), Type::List(b)) if a.comparable(b));
                let numbers = both(Type::is_number) && left_kind == right_kind;
                let gives = if both(Type::is_text) && !any {
                    Type::Text
                } else {
                    left_kind.clone().join(right_kind.clone())
                };
                (any || lists || numbers || both(Type::is_text), gives)
            }
            Operator::Remainder => (any || (left_kind == Type::Int && right_kind == Type::Int), Type::Int),
            Operator::Subtract | Operator::Multiply | Operator::Divide => {
                (any || (both(Type::is_number) && left_kind == right_kind), left_kind.clone())
            }
        };
        if !fits {
            let numbers = both(Type::is_number);
            let hint = if numbers { "turn one into the other: `double(x)` or `int(x)`" } else { "" };
            let message = format!("`{}` does not go with {left_kind} and {right_kind}", sign(operator));
            self.error(node, message, hint);
        }
        (Expression::Binary(operator, Box::new([a, b])), gives)
    }

    /// A word compared with a text that it can never be.
    fn word(&mut self, node: &IdedExpr, kind: &Type, other: &Expression) {
        let (Type::Word(descriptor), Expression::Literal(Value::Text(text))) = (kind, other) else { return };
        let words = enum_words(descriptor);
        if !text.is_empty() && !words.iter().any(|(word, _)| **word == **text) {
            let hint = suggest(text, words.iter().map(|(word, _)| word.as_str()));
            self.error(node, format!("it is never \"{text}\""), &hint);
        }
    }

    fn each(&mut self, node: &IdedExpr, verb: Verb, call: &CallExpr, depth: usize) -> Checked {
        let (Some(target), [binding, body]) = (&call.target, call.args.as_slice()) else {
            let hint = format!("`list.{}(x, …)`", call.func_name);
            self.error(node, format!("`{}` takes a name and an expression", call.func_name), &hint);
            return broken();
        };
        let Expr::Ident(name) = &binding.expr else {
            self.error(binding, "the first argument is a name for the item", "");
            return broken();
        };
        let named = self.names.probes.contains_key(name) || self.names.definitions.contains_key(name);
        if named || ["params", "stack", "host", "now_ms"].contains(&name.as_str()) {
            self.error(binding, format!("`{name}` has a meaning already"), "take another name for the item");
        }
        let (range, kind) = self.expression(target, depth);
        let item = match kind {
            Type::List(item) => *item,
            Type::Any => Type::Any,
            other => {
                self.error(
                    node,
                    format!("`{}` asks the items of a list, and this is {other}", call.func_name),
                    "",
                );
                Type::Any
            }
        };
        self.locals.push((name.clone(), item.clone()));
        let (body, gives) = match verb {
            Verb::Map => {
                let (body, kind) = self.expression(body, depth);
                (body, Type::list(kind))
            }
            Verb::Filter => (self.truth(body, depth), Type::list(item)),
            Verb::Exists | Verb::All | Verb::ExistsOne => (self.truth(body, depth), Type::Bool),
        };
        self.locals.pop();
        (Expression::Each { verb, range: Box::new(range), body: Box::new(body) }, gives)
    }

    fn function(&mut self, node: &IdedExpr, call: &CallExpr, depth: usize) -> Checked {
        let arguments: Vec<&IdedExpr> = call.target.as_deref().into_iter().chain(&call.args).collect();
        let name = call.func_name.as_str();
        match (name, arguments.as_slice()) {
            ("answered" | "failure", [argument]) => {
                let Expr::Ident(probe) = &argument.expr else {
                    self.error(argument, format!("`{name}` takes the id of a probe"), "");
                    return broken();
                };
                if let (_, Type::Any) = self.name(argument, probe) {
                    return broken();
                }
                match name {
                    "answered" => (Expression::Answered(probe.clone()), Type::Bool),
                    _ => (Expression::Failure(probe.clone()), Type::Text),
                }
            }
            ("matches" | "extract", [text, pattern]) => {
                let text = self.argument(text, name, Type::is_text, depth).0;
                let Some(pattern) = self.pattern(pattern) else { return broken() };
                match name {
                    "matches" => (Expression::Matches(Box::new(text), pattern), Type::Bool),
                    _ => (Expression::Extract(Box::new(text), pattern), Type::Text),
                }
            }
            ("size", [of]) => {
                let (of, _) =
                    self.argument(of, name, |kind| kind.is_text() || matches!(kind, Type::List(_)), depth);
                (Expression::Call(Function::Size, vec![of]), Type::Int)
            }
            ("contains" | "startsWith" | "endsWith", [text, part]) => {
                let (text, kind) = self.expression(text, depth);
                let (part, _) = self.argument(part, name, Type::is_text, depth);
                if let Type::List(_) = kind {
                    self.error(node, format!("`{name}` is for texts"), "for a list write `part in list`");
                } else if !kind.is_text() {
                    self.error(node, format!("`{name}` is for texts, not for {kind}"), "");
                }
                let function = match name {
                    "contains" => Function::Contains,
                    "startsWith" => Function::StartsWith,
                    _ => Function::EndsWith,
                };
                (Expression::Call(function, vec![text, part]), Type::Bool)
            }
            ("first" | "last", [list]) => {
                let (list, kind) =
                    self.argument(list, name, |kind| matches!(kind, Type::List(_) | Type::Any), depth);
                let item = if let Type::List(item) = kind { *item } else { Type::Any };
                (
                    Expression::Call(
                        if name == "first" { Function::First } else { Function::Last },
                        vec![list],
                    ),
                    item,
                )
            }
            ("int" | "double", [of]) => {
                let (of, _) = self.argument(of, name, |kind| kind.is_number() || kind.is_text(), depth);
                match name {
                    "int" => (Expression::Call(Function::Int, vec![of]), Type::Int),
                    _ => (Expression::Call(Function::Double, vec![of]), Type::Double),
                }
            }
            ("string", [of]) => {
                (Expression::Call(Function::Text, vec![self.expression(of, depth).0]), Type::Text)
            }
            ("has", _) => {
                let hint = "every field is there; `answered(probe)` tells whether there is evidence";
                self.error(node, "rules do not need `has`", hint);
                broken()
            }
            _ => {
                let message = match METHODS.contains(&name) {
                    true => format!("`{name}` does not take {} arguments", arguments.len()),
                    false => format!("there is no function `{name}`"),
                };
                let hint = if METHODS.contains(&name) {
                    String::new()
                } else {
                    suggest(name, METHODS.iter().copied())
                };
                self.error(node, message, &hint);
                broken()
            }
        }
    }

    fn argument(&mut self, node: &IdedExpr, of: &str, fits: impl Fn(&Type) -> bool, depth: usize) -> Checked {
        let (expression, kind) = self.expression(node, depth);
        if kind != Type::Any && !fits(&kind) {
            self.error(node, format!("`{of}` does not take {kind}"), "");
        }
        (expression, kind)
    }

    fn pattern(&mut self, node: &IdedExpr) -> Option<Regex> {
        let Expr::Literal(LiteralValue::String(pattern)) = &node.expr else {
            self.error(node, "a pattern is written out, not computed", "");
            return None;
        };
        match RegexBuilder::new(pattern.inner()).size_limit(MAX_PATTERN).dfa_size_limit(MAX_PATTERN).build() {
            Ok(regex) => Some(regex),
            Err(error) => {
                let said = error.to_string();
                let reason = said.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                self.error(node, format!("this is no regular expression: {reason}"), "");
                None
            }
        }
    }

    fn error(&mut self, node: &IdedExpr, message: impl Into<String>, hint: &str) {
        self.error_at(node, 0, message, hint);
    }

    /// With `after` 0 the place is the expression's beginning, otherwise so many characters after its own token.
    fn error_at(&mut self, node: &IdedExpr, after: usize, message: impl Into<String>, hint: &str) {
        let own = self.info.offset_for(node.id).map_or(0, |(start, _)| start as usize);
        let offset = if after > 0 { own + after } else { beginning(&self.info, node).unwrap_or(own) };
        self.reader.at((self.place)(offset), Severity::Error, message, hint);
    }
}

/// Where an expression begins: its own token may stand in its middle (`a == b`).
fn beginning(info: &SourceInfo, node: &IdedExpr) -> Option<usize> {
    let own = info.offset_for(node.id).map(|(start, _)| start as usize);
    let first = match &node.expr {
        Expr::Select(select) => beginning(info, &select.operand),
        Expr::Call(call) => match &call.target {
            Some(target) => beginning(info, target),
            None => call.args.first().and_then(|first| beginning(info, first)),
        },
        _ => None,
    };
    match (own, first) {
        // `size(x)`: the bracket is the token, and the name stands before it.
        (Some(own), first) => Some(first.unwrap_or(own).min(own).saturating_sub(name_len(node))),
        (None, first) => first,
    }
}

/// The length of a function's name; operators and methods have none before them.
fn name_len(node: &IdedExpr) -> usize {
    match &node.expr {
        Expr::Call(call) if call.target.is_none() && call.func_name.starts_with(char::is_alphabetic) => {
            call.func_name.len()
        }
        _ => 0,
    }
}

fn verb(name: &str) -> Option<Verb> {
    Some(match name {
        "exists" => Verb::Exists,
        "all" => Verb::All,
        "exists_one" | "existsOne" => Verb::ExistsOne,
        "filter" => Verb::Filter,
        "map" => Verb::Map,
        _ => return None,
    })
}

fn operator(name: &str) -> Option<Operator> {
    Some(match name {
        operators::EQUALS => Operator::Equal,
        operators::NOT_EQUALS => Operator::NotEqual,
        operators::LESS => Operator::Less,
        operators::LESS_EQUALS => Operator::LessOrEqual,
        operators::GREATER => Operator::Greater,
        operators::GREATER_EQUALS => Operator::GreaterOrEqual,
        operators::ADD => Operator::Add,
        operators::SUBSTRACT => Operator::Subtract,
        operators::MULTIPLY => Operator::Multiply,
        operators::DIVIDE => Operator::Divide,
        operators::MODULO => Operator::Remainder,
        operators::IN => Operator::In,
        _ => return None,
    })
}

fn sign(operator: Operator) -> &'static str {
    match operator {
        Operator::Equal => "==",
        Operator::NotEqual => "!=",
        Operator::Less => "<",
        Operator::LessOrEqual => "<=",
        Operator::Greater => ">",
        Operator::GreaterOrEqual => ">=",
        Operator::Add => "+",
        Operator::Subtract => "-",
        Operator::Multiply => "*",
        Operator::Divide => "/",
        Operator::Remainder => "%",
        Operator::In => "in",
    }
}
