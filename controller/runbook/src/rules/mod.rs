//! Rules: CEL expressions that are checked when a runbook is read and answered with true, false or unknown.
//!
//! Only cel's parser is used. Its interpreter has neither a third truth value nor a bound on work, so that the small
//! language that rules need is evaluated here.

mod check;
mod evaluate;
mod expression;
mod syntax;
mod template;
#[cfg(test)]
mod tests;
mod types;
mod value;

use std::sync::Arc;

use self::{check::Checker, expression::Expression};
pub(crate) use self::{
    check::{Definition, Mentioned, Names},
    evaluate::{Answer, Evaluator, Fact, Facts, Unknown, Used},
    template::{Stretch, Template, stretches},
    types::Type,
    value::{Value, enum_word, enum_words},
};
use crate::{
    diagnostic::Severity,
    read::{Node, Reader, Scalar},
};

/// An expression of a runbook.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) text: String,
    expression: Arc<Expression>,
    mentioned: Arc<Mentioned>,
}

impl Rule {
    /// Reads what is true or false.
    pub(crate) fn read(node: &Node, what: &str, names: &Names, reader: &mut Reader<'_>) -> Option<Self> {
        if let Some(value @ ("true" | "false")) =
            node.scalar().filter(|s| s.is_plain()).map(|s| s.text.as_str())
        {
            let expression = Expression::Literal(Value::Bool(value == "true"));
            return Some(Self {
                text: value.to_owned(),
                expression: Arc::new(expression),
                mentioned: Arc::default(),
            });
        }
        let scalar = reader.scalar(node, what)?;
        let (rule, kind) = Self::part(scalar, &scalar.text, 0, names, reader)?;
        if !kind.is_bool() {
            let place = scalar.position(reader.text, 0);
            reader.at(place, Severity::Error, format!("{what} is true or false, and this is {kind}"), "");
            return None;
        }
        Some(rule)
    }

    /// Reads an expression of any kind.
    pub(crate) fn read_any(node: &Node, what: &str, names: &Names, reader: &mut Reader<'_>) -> Option<Self> {
        let scalar = reader.scalar(node, what)?;
        Self::part(scalar, &scalar.text, 0, names, reader).map(|(rule, _)| rule)
    }

    /// Reads an expression that the runbook gives a name.
    pub(crate) fn define(node: &Node, names: &Names, reader: &mut Reader<'_>) -> Option<Definition> {
        let scalar = reader.scalar(node, "a definition")?;
        let (rule, kind) = Self::part(scalar, &scalar.text, 0, names, reader)?;
        let mentioned = rule.mentioned().clone();
        Some(Definition { expression: rule.expression, kind, depth: mentioned.depth + 1, mentioned })
    }

    /// Reads an expression that begins at `offset` (in characters) of a scalar.
    fn part(
        scalar: &Scalar,
        text: &str,
        offset: usize,
        names: &Names,
        reader: &mut Reader<'_>,
    ) -> Option<(Self, Type)> {
        let source = reader.text;
        let (tree, info) = match syntax::parse(text) {
            Ok(parsed) => parsed,
            Err(error) => {
                let place = scalar.position(source, offset + error.offset);
                reader.at(place, Severity::Error, format!("in the rule: {}", error.message), "");
                return None;
            }
        };
        // The parser counts bytes in its tree, and characters in its errors.
        let place = move |bytes: usize| {
            let within = text.char_indices().take_while(|(at, _)| *at < bytes).count();
            scalar.position(source, offset + within)
        };
        let mut checker = Checker {
            names,
            reader,
            info,
            place: &place,
            locals: Vec::new(),
            mentioned: Mentioned::default(),
        };
        let (expression, kind) = checker.expression(&tree, 0);
        let mentioned = Arc::new(checker.mentioned);
        Some((Self { text: text.trim().to_owned(), expression: Arc::new(expression), mentioned }, kind))
    }

    pub(crate) fn mentioned(&self) -> &Mentioned {
        &self.mentioned
    }

    /// Whether it is settled before anything is asked: it speaks of no probe and no parameter, or holds whatever they
    /// would say.
    pub(crate) fn is_constant(&self) -> bool {
        let speaks = !self.mentioned.probes.is_empty() || !self.mentioned.parameters.is_empty();
        let nothing = Facts::default();
        !speaks || self.holds(&mut Evaluator::new(&nothing)).0 == Ok(true)
    }

    /// Whether it holds, and the values that it looked at.
    pub(crate) fn holds(&self, evaluator: &mut Evaluator<'_>) -> (Answer<bool>, Vec<Used>) {
        evaluator.truth(&self.expression)
    }

    /// Its value.
    pub(crate) fn value(&self, evaluator: &mut Evaluator<'_>) -> Answer<Value> {
        evaluator.value(&self.expression).0
    }
}
