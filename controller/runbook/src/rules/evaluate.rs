//! Evaluates checked expressions in Kleene's three-valued logic.
//!
//! `Err` is *unknown*, which is neither true nor false: evidence that is missing, or a computation that has no result.
//! An operand that is unknown makes its operation unknown, but for `&&`, `||`, `?:` and what is asked of lists, where
//! the operands that are known may settle it. Work is counted, not timed, so that the same evidence gives the same
//! judgement on every machine; what is left unfinished is unknown too.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    expression::{Expression, Function, Operator, Reference, Verb},
    value::Value,
};

/// How much work one rule may be, in nodes visited and texts looked at.
const RULE_FUEL: u64 = 500_000;

/// How much work all rules of one judgement may be: less than two seconds on the slowest build.
const JUDGEMENT_FUEL: u64 = 4_000_000;

/// The most values that are noted as evidence of one rule.
const MAX_USED: usize = 12;

/// What is known of one probe.
#[derive(Debug, Clone)]
pub(crate) enum Fact {
    /// Its evidence is there; `failure` is the code of what went wrong all the same, or empty.
    Here { result: Value, failure: String },
    /// It is not, and why.
    Missing { why: String, code: String },
}

/// Everything that rules can speak of, for one target.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(crate) probes: BTreeMap<String, Fact>,
    pub(crate) parameters: BTreeMap<String, Value>,
    pub(crate) stack: String,
    pub(crate) host: String,
    pub(crate) now_ms: i64,
}

/// Why a rule has no answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Unknown {
    /// Probes whose evidence is missing.
    pub(crate) probes: BTreeSet<String>,
    /// What could not be computed.
    pub(crate) troubles: BTreeSet<String>,
}

impl Unknown {
    fn probe(id: &str) -> Self {
        Self { probes: BTreeSet::from([id.to_owned()]), troubles: BTreeSet::new() }
    }

    fn trouble(what: impl Into<String>) -> Self {
        Self { probes: BTreeSet::new(), troubles: BTreeSet::from([what.into()]) }
    }

    fn and(mut self, other: Self) -> Self {
        self.probes.extend(other.probes);
        self.troubles.extend(other.troubles);
        self
    }

    /// For people: which evidence was missing, and why.
    pub(crate) fn explain(&self, facts: &Facts) -> String {
        let probes = self.probes.iter().map(|id| match facts.probes.get(id) {
            Some(Fact::Missing { why, .. }) => format!("{id}: {why}"),
            _ => format!("{id}: it was not asked"),
        });
        probes.chain(self.troubles.iter().cloned()).collect::<Vec<_>>().join("; ")
    }
}

pub(crate) type Answer<T> = Result<T, Unknown>;

/// A value that a rule looked at.
#[derive(Debug, Clone)]
pub(crate) struct Used {
    pub(crate) reference: String,
    pub(crate) value: Value,
}

/// Evaluates rules over one target's facts.
pub(crate) struct Evaluator<'a> {
    facts: &'a Facts,
    fuel: u64,
    rule_fuel: u64,
    locals: Vec<Value>,
    used: Vec<Used>,
}

impl<'a> Evaluator<'a> {
    pub(crate) fn new(facts: &'a Facts) -> Self {
        Self { facts, fuel: JUDGEMENT_FUEL, rule_fuel: 0, locals: Vec::new(), used: Vec::new() }
    }

    /// An expression's value, and the values of the references that it looked at on the way.
    pub(crate) fn value(&mut self, expression: &Expression) -> (Answer<Value>, Vec<Used>) {
        self.rule_fuel = RULE_FUEL.min(self.fuel);
        let before = self.rule_fuel;
        self.locals.clear();
        let answer = self.evaluate(expression);
        self.fuel -= before - self.rule_fuel;
        (answer, std::mem::take(&mut self.used))
    }

    /// The same for what is true or false.
    pub(crate) fn truth(&mut self, expression: &Expression) -> (Answer<bool>, Vec<Used>) {
        let (answer, used) = self.value(expression);
        (answer.and_then(|value| boolean(&value)), used)
    }

    fn spend(&mut self, work: u64) -> Answer<()> {
        match self.rule_fuel.checked_sub(work) {
            Some(left) => {
                self.rule_fuel = left;
                Ok(())
            }
            None => {
                self.rule_fuel = 0;
                Err(exhausted())
            }
        }
    }

    fn equal(&mut self, left: &Value, right: &Value) -> Answer<bool> {
        left.equals(right, &mut self.rule_fuel).ok_or_else(|| {
            self.rule_fuel = 0;
            exhausted()
        })
    }

    fn contains(&mut self, list: &Value, wanted: &Value) -> Answer<bool> {
        let Value::List(items) = list else { return Err(mismatch()) };
        for item in items.iter() {
            if self.equal(item, wanted)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn evaluate(&mut self, expression: &Expression) -> Answer<Value> {
        self.spend(1)?;
        match expression {
            Expression::Literal(value) => Ok(value.clone()),
            Expression::Reference(reference) => {
                let value = self.fetch(reference)?;
                self.note(reference, value.clone());
                Ok(value)
            }
            Expression::Parameter(name) => match self.facts.parameters.get(name) {
                Some(value) => Ok(value.clone()),
                None => Err(Unknown::trouble(format!("the parameter `{name}` has no value"))),
            },
            Expression::Stack => Ok(Value::text(self.facts.stack.as_str())),
            Expression::Host => Ok(Value::text(self.facts.host.as_str())),
            Expression::Now => Ok(Value::Int(self.facts.now_ms)),
            Expression::Local(place) => {
                self.locals.get(*place).cloned().ok_or_else(|| Unknown::trouble("a name has no value"))
            }
            Expression::Defined(expression) => {
                // It knows nothing of the names bound where it is used.
                let locals = std::mem::take(&mut self.locals);
                let answer = self.evaluate(expression);
                self.locals = locals;
                answer
            }
            Expression::Field(of, name) => field(&self.evaluate(of)?, name),
            Expression::Index(pair) => {
                let (list, index) = (self.evaluate(&pair[0])?, self.evaluate(&pair[1])?);
                let (Value::List(items), Value::Int(index)) = (&list, &index) else { return Err(mismatch()) };
                let item = usize::try_from(*index).ok().and_then(|index| items.get(index));
                item.cloned()
                    .ok_or_else(|| Unknown::trouble(format!("a list of {} has no item {index}", items.len())))
            }
            Expression::List(items) => {
                let items = items.iter().map(|item| self.evaluate(item)).collect::<Answer<Vec<_>>>()?;
                Ok(Value::List(items.into()))
            }
            Expression::And(pair) => self.settle(pair, false),
            Expression::Or(pair) => self.settle(pair, true),
            Expression::Not(operand) => {
                self.evaluate(operand).and_then(|v| boolean(&v)).map(|v| Value::Bool(!v))
            }
            Expression::Choice(three) => self.choice(three),
            Expression::Binary(operator, pair) => {
                let (left, right) = (self.evaluate(&pair[0])?, self.evaluate(&pair[1])?);
                match operator {
                    Operator::Equal => self.equal(&left, &right).map(Value::Bool),
                    Operator::NotEqual => self.equal(&left, &right).map(|equal| Value::Bool(!equal)),
                    Operator::In => self.contains(&right, &left).map(Value::Bool),
                    operator => {
                        self.spend(left.weight() + right.weight())?;
                        binary(*operator, &left, &right)
                    }
                }
            }
            Expression::Negative(operand) => match self.evaluate(operand)? {
                Value::Int(value) => value.checked_neg().map(Value::Int).ok_or_else(overflow),
                Value::Double(value) => Ok(Value::Double(-value)),
                _ => Err(mismatch()),
            },
            Expression::Call(function, arguments) => {
                let arguments =
                    arguments.iter().map(|argument| self.evaluate(argument)).collect::<Answer<Vec<_>>>()?;
                self.spend(arguments.iter().map(Value::weight).sum())?;
                call(*function, &arguments)
            }
            Expression::Matches(text, pattern) => {
                let text = self.haystack(text, pattern)?;
                Ok(Value::Bool(pattern.is_match(&text)))
            }
            Expression::Extract(text, pattern) => {
                let text = self.haystack(text, pattern)?;
                let found = pattern.captures(&text);
                let found =
                    found.as_ref().and_then(|found| found.iter().skip(1).flatten().next().or(found.get(0)));
                Ok(Value::text(found.map_or("", |found| found.as_str())))
            }
            Expression::Each { verb, range, body } => self.each(*verb, range, body),
            Expression::Answered(probe) => {
                Ok(Value::Bool(matches!(self.facts.probes.get(probe), Some(Fact::Here { .. }))))
            }
            Expression::Failure(probe) => Ok(Value::text(match self.facts.probes.get(probe) {
                Some(Fact::Here { failure, .. }) => failure.as_str(),
                Some(Fact::Missing { code, .. }) => code.as_str(),
                None => "",
            })),
        }
    }

    fn fetch(&self, reference: &Reference) -> Answer<Value> {
        let Some(Fact::Here { result, .. }) = self.facts.probes.get(&reference.probe) else {
            return Err(Unknown::probe(&reference.probe));
        };
        reference.path.iter().try_fold(result.clone(), |value, name| field(&value, name))
    }

    fn note(&mut self, reference: &Reference, value: Value) {
        let text = reference.text();
        let known = self.used.iter().any(|used| used.reference == text && used.value.is_same(&value));
        if !known && self.used.len() < MAX_USED {
            self.used.push(Used { reference: text, value });
        }
    }

    /// `&&` and `||`: either operand may settle it alone, whatever the other is.
    fn settle(&mut self, pair: &[Expression; 2], settles: bool) -> Answer<Value> {
        let left = self.evaluate(&pair[0]).and_then(|value| boolean(&value));
        if left == Ok(settles) {
            return Ok(Value::Bool(settles));
        }
        let right = self.evaluate(&pair[1]).and_then(|value| boolean(&value));
        match (left, right) {
            (_, Ok(right)) if right == settles => Ok(Value::Bool(settles)),
            (Ok(_), Ok(right)) => Ok(Value::Bool(right)),
            (Err(unknown), Ok(_)) | (Ok(_), Err(unknown)) => Err(unknown),
            (Err(left), Err(right)) => Err(left.and(right)),
        }
    }

    /// An unknown condition leaves the choice open, unless both sides are the same.
    fn choice(&mut self, [condition, yes, no]: &[Expression; 3]) -> Answer<Value> {
        match self.evaluate(condition).and_then(|value| boolean(&value)) {
            Ok(true) => self.evaluate(yes),
            Ok(false) => self.evaluate(no),
            Err(unknown) => match (self.evaluate(yes), self.evaluate(no)) {
                (Ok(yes), Ok(no)) if self.equal(&yes, &no)? => Ok(yes),
                _ => Err(unknown),
            },
        }
    }

    fn haystack(&mut self, text: &Expression, pattern: &regex::Regex) -> Answer<Arc<str>> {
        let Value::Text(text) = self.evaluate(text)? else { return Err(mismatch()) };
        self.spend(text.len() as u64 * (4 + pattern.as_str().len() as u64) / 32)?;
        Ok(text)
    }

    fn each(&mut self, verb: Verb, range: &Expression, body: &Expression) -> Answer<Value> {
        // The items that decide are better evidence than the whole list, so that the list is not noted as such.
        let (list, reference) = match range {
            Expression::Reference(reference) => (self.fetch(reference)?, Some(reference)),
            other => (self.evaluate(other)?, None),
        };
        let Value::List(items) = list else { return Err(mismatch()) };
        let (mut unknown, mut found): (Option<Unknown>, Vec<Value>) = (None, Vec::new());
        for item in items.iter() {
            self.locals.push(item.clone());
            let answer = self.evaluate(body);
            self.locals.pop();
            let held = match (verb, answer) {
                (Verb::Map, Ok(value)) => {
                    found.push(value);
                    continue;
                }
                (_, Ok(value)) => boolean(&value),
                (_, Err(reason)) => Err(reason),
            };
            match (verb, held) {
                (Verb::Exists, Ok(true)) | (Verb::All, Ok(false)) => {
                    // One item settles it, whatever the others are.
                    if let Some(reference) = reference {
                        self.note(reference, item.clone());
                    }
                    return Ok(Value::Bool(verb == Verb::Exists));
                }
                (_, Ok(true)) => found.push(item.clone()),
                (_, Ok(false)) => {}
                (_, Err(reason)) => unknown = Some(unknown.map_or(reason.clone(), |known| known.and(reason))),
            }
            // Two that hold settle `exists_one`.
            if verb == Verb::ExistsOne && found.len() > 1 {
                return Ok(Value::Bool(false));
            }
        }
        if let Some(unknown) = unknown {
            return Err(unknown);
        }
        if let Some(reference) = reference {
            let chosen = matches!(verb, Verb::Filter | Verb::ExistsOne) && !found.is_empty();
            self.note(reference, Value::List(if chosen { found.clone().into() } else { items }));
        }
        Ok(match verb {
            Verb::Exists => Value::Bool(false),
            Verb::All => Value::Bool(true),
            Verb::ExistsOne => Value::Bool(found.len() == 1),
            Verb::Filter | Verb::Map => Value::List(found.into()),
        })
    }
}

fn boolean(value: &Value) -> Answer<bool> {
    if let Value::Bool(value) = value { Ok(*value) } else { Err(mismatch()) }
}

/// What the check rules out, and what an older result without a field can still bring about.
fn mismatch() -> Unknown {
    Unknown::trouble("the evidence is not of the kind that the rule expects")
}

fn exhausted() -> Unknown {
    Unknown::trouble("the rule is too much work for this evidence")
}

fn overflow() -> Unknown {
    Unknown::trouble("a number in the rule is out of range")
}

fn field(value: &Value, name: &str) -> Answer<Value> {
    let Value::Message(fields) = value else { return Err(mismatch()) };
    fields.get(name).cloned().ok_or_else(mismatch)
}

fn binary(operator: Operator, left: &Value, right: &Value) -> Answer<Value> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let ordered = |accepts: &[std::cmp::Ordering]| match left.order(right) {
        Some(order) => Ok(Value::Bool(accepts.contains(&order))),
        // Only a decimal that is no number has no order; nothing is less or greater than it.
        None if matches!((left, right), (Value::Double(_), _) | (_, Value::Double(_))) => {
            Ok(Value::Bool(false))
        }
        None => Err(mismatch()),
    };
    match operator {
        Operator::Less => ordered(&[Less]),
        Operator::LessOrEqual => ordered(&[Less, Equal]),
        Operator::Greater => ordered(&[Greater]),
        Operator::GreaterOrEqual => ordered(&[Greater, Equal]),
        Operator::Add => match (left, right) {
            (Value::Text(a), Value::Text(b)) => Ok(Value::text(format!("{a}{b}"))),
            (Value::List(a), Value::List(b)) => Ok(Value::List(a.iter().chain(b.iter()).cloned().collect())),
            _ => arithmetic(operator, left, right),
        },
        _ => arithmetic(operator, left, right),
    }
}

fn arithmetic(operator: Operator, left: &Value, right: &Value) -> Answer<Value> {
    match (left, right) {
        (Value::Int(a), Value::Int(b)) => {
            let result = match operator {
                Operator::Add => a.checked_add(*b),
                Operator::Subtract => a.checked_sub(*b),
                Operator::Multiply => a.checked_mul(*b),
                Operator::Divide | Operator::Remainder if *b == 0 => {
                    return Err(Unknown::trouble("the rule divides by zero"));
                }
                Operator::Divide => a.checked_div(*b),
                Operator::Remainder => a.checked_rem(*b),
                _ => return Err(mismatch()),
            };
            result.map(Value::Int).ok_or_else(overflow)
        }
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(match operator {
            Operator::Add => a + b,
            Operator::Subtract => a - b,
            Operator::Multiply => a * b,
            Operator::Divide => a / b,
            _ => return Err(mismatch()),
        })),
        _ => Err(mismatch()),
    }
}

fn call(function: Function, arguments: &[Value]) -> Answer<Value> {
    let count = |n: usize| Ok(Value::Int(i64::try_from(n).unwrap_or(i64::MAX)));
    match (function, arguments) {
        (Function::Size, [Value::Text(text)]) => count(text.chars().count()),
        (Function::Size, [Value::List(items)]) => count(items.len()),
        (Function::Contains, [Value::Text(text), Value::Text(part)]) => {
            Ok(Value::Bool(text.contains(&**part)))
        }
        (Function::StartsWith, [Value::Text(text), Value::Text(part)]) => {
            Ok(Value::Bool(text.starts_with(&**part)))
        }
        (Function::EndsWith, [Value::Text(text), Value::Text(part)]) => {
            Ok(Value::Bool(text.ends_with(&**part)))
        }
        (Function::First | Function::Last, [Value::List(items)]) => {
            let item = if function == Function::First { items.first() } else { items.last() };
            item.cloned().ok_or_else(|| Unknown::trouble("an empty list has neither first nor last item"))
        }
        (Function::Int, [Value::Int(value)]) => Ok(Value::Int(*value)),
        (Function::Int, [Value::Double(value)]) if value.abs() < 9e15 => Ok(Value::Int(value.trunc() as i64)),
        (Function::Int, [Value::Text(text)]) => text.parse().map(Value::Int).map_err(|_| no_number(text)),
        (Function::Double, [Value::Int(value)]) => Ok(Value::Double(*value as f64)),
        (Function::Double, [Value::Double(value)]) => Ok(Value::Double(*value)),
        (Function::Double, [Value::Text(text)]) => {
            text.parse().map(Value::Double).map_err(|_| no_number(text))
        }
        (Function::Text, [value]) => Ok(match value {
            Value::Text(text) => Value::Text(text.clone()),
            other => Value::text(other.shown()),
        }),
        _ => Err(mismatch()),
    }
}

fn no_number(text: &str) -> Unknown {
    Unknown::trouble(format!("{:?} is no number", text.chars().take(40).collect::<String>()))
}
