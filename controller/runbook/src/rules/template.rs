//! Texts for people with `{{ expression }}` in them.

use vigie_proto::text::escape;

use super::{Evaluator, Mentioned, Names, Rule, syntax::quoted};
use crate::{
    diagnostic::Severity,
    read::{Node, Reader, Scalar},
};

/// The longest rendered text, in characters.
const MAX_RENDERED: usize = 2000;

/// A text whose expressions are put in when there is evidence.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Rule(Rule),
}

/// A stretch of a template's text: what it is, and where it begins, in characters.
pub(crate) enum Stretch<'a> {
    Text(&'a str),
    Expression(&'a str, usize),
    /// `{{` without its end.
    Open(usize),
}

/// Takes a text apart at its `{{ … }}`. Braces within the texts of an expression do not end it.
pub(crate) fn stretches(text: &str) -> Vec<Stretch<'_>> {
    let mut found = Vec::new();
    let (mut rest, mut offset) = (text, 0);
    while let Some(begin) = rest.find("{{") {
        if begin > 0 {
            found.push(Stretch::Text(&rest[..begin]));
        }
        offset += rest[..begin].chars().count();
        let inner = &rest[begin + 2..];
        let Some(end) = end_of_expression(inner) else {
            found.push(Stretch::Open(offset));
            return found;
        };
        found.push(Stretch::Expression(&inner[..end], offset + 2));
        offset += inner[..end].chars().count() + 4;
        rest = &inner[end + 2..];
    }
    if !rest.is_empty() {
        found.push(Stretch::Text(rest));
    }
    found
}

fn end_of_expression(text: &str) -> Option<usize> {
    let mut place = 0;
    while let Some(c) = text[place..].chars().next() {
        if text[place..].starts_with("}}") {
            return Some(place);
        }
        place += quoted(text, place).unwrap_or(c.len_utf8());
    }
    None
}

impl Template {
    pub(crate) fn read(node: &Node, what: &str, names: &Names, reader: &mut Reader<'_>) -> Option<Self> {
        let scalar = reader.scalar(node, what)?;
        Self::of(scalar, names, reader)
    }

    fn of(scalar: &Scalar, names: &Names, reader: &mut Reader<'_>) -> Option<Self> {
        let (mut parts, mut sound) = (Vec::new(), true);
        for stretch in stretches(&scalar.text) {
            match stretch {
                Stretch::Text(text) => parts.push(Part::Text(text.to_owned())),
                Stretch::Expression(text, offset) => match Rule::part(scalar, text, offset, names, reader) {
                    Some((rule, _)) => parts.push(Part::Rule(rule)),
                    None => sound = false,
                },
                Stretch::Open(offset) => {
                    let place = scalar.position(reader.text, offset);
                    reader.at(place, Severity::Error, "`{{` without `}}`", "");
                    sound = false;
                }
            }
        }
        sound.then_some(Self { parts })
    }

    /// What its expressions speak of.
    pub(crate) fn mentioned(&self) -> impl Iterator<Item = &Mentioned> {
        self.parts.iter().filter_map(|part| match part {
            Part::Rule(rule) => Some(rule.mentioned()),
            Part::Text(_) => None,
        })
    }

    /// The text with the values in it: unknown ones as `?`, each escaped and bounded.
    pub(crate) fn render(&self, evaluator: &mut Evaluator<'_>) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Rule(rule) => {
                    text.push_str(
                        &rule.value(evaluator).map_or_else(|_| "?".to_owned(), |value| value.shown()),
                    );
                }
            }
        }
        let text = escape(text.trim_end(), true);
        text.chars().take(MAX_RENDERED).collect()
    }
}
