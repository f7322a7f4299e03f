//! From text to cel's syntax tree, without trusting its parser with everything.
//!
//! The parser recurses and has no bound on work, so length and nesting are looked at first; and it may panic on odd
//! input, which here is a syntax error like any other.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cel::{
    Env,
    common::ast::{IdedExpr, SourceInfo},
};

/// The longest expression, in bytes.
pub(crate) const MAX_LEN: usize = 2000;
/// The deepest nesting of brackets.
pub(crate) const MAX_NESTING: usize = 32;

/// Why a text is no expression. `offset` counts characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) offset: usize,
    pub(crate) message: String,
}

fn error(offset: usize, message: impl Into<String>) -> SyntaxError {
    SyntaxError { offset, message: message.into() }
}

/// The syntax tree, macros (`exists`, `all`, …) left as the calls that they are written as.
pub(crate) fn parse(text: &str) -> Result<(IdedExpr, SourceInfo), SyntaxError> {
    bounded(text)?;
    let env = Env::default().with_optional_support(false);
    let parsed = catch_unwind(AssertUnwindSafe(|| {
        env.parser()
            .max_recursion_depth(2 * MAX_NESTING as u16)
            .error_recovery_limit(4)
            .parse_with_source_info(text)
    }));
    match parsed {
        Ok(Ok(parsed)) => Ok(parsed),
        Ok(Err(errors)) => Err(errors.errors.first().map_or_else(
            || error(0, "this is no expression"),
            |first| error(offset(text, first.pos), worded(&first.msg)),
        )),
        Err(_) => Err(error(0, "the expression parser gave up on this")),
    }
}

/// Line and column (both from 1) within an expression as an offset.
fn offset(text: &str, (line, column): (isize, isize)) -> usize {
    let line = usize::try_from(line - 1).unwrap_or_default();
    let before: usize = text.split_inclusive('\n').take(line).map(|line| line.chars().count()).sum();
    before + usize::try_from(column - 1).unwrap_or_default()
}

/// The first sentence of the parser's message: the rest lists tokens.
fn worded(message: &str) -> String {
    let message = message.strip_prefix("Syntax error: ").unwrap_or(message);
    let message = message.split(" expecting ").next().unwrap_or(message);
    message.replace("<EOF>", "the end").replace('\n', " ").chars().take(160).collect()
}

/// Looks at length and nesting without recursion; brackets in texts do not count.
fn bounded(text: &str) -> Result<(), SyntaxError> {
    if text.trim().is_empty() {
        return Err(error(0, "the expression is empty"));
    }
    if text.len() > MAX_LEN {
        return Err(error(0, format!("the expression has {} bytes; at most {MAX_LEN} are read", text.len())));
    }
    let (mut depth, mut choices, mut place) = (0_usize, 0_usize, 0);
    while let Some(c) = text[place..].chars().next() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            // Each choice nests in the one before it.
            '?' => choices += 1,
            _ => {}
        }
        if depth > MAX_NESTING || choices > MAX_NESTING {
            let offset = text[..place].chars().count();
            return Err(error(offset, format!("nested more than {MAX_NESTING} deep")));
        }
        place += quoted(text, place).unwrap_or(c.len_utf8());
    }
    Ok(())
}

/// The length of the text literal whose quote stands at `place`, to its end or that of the expression. In one with
/// the prefix `r` a backslash is like any other character.
pub(crate) fn quoted(text: &str, place: usize) -> Option<usize> {
    let rest = &text[place..];
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let before = &text.as_bytes()[..place];
    let prefix = before.iter().rev().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
    let raw = matches!(
        &before[before.len() - prefix..],
        [b'r' | b'R'] | [b'r' | b'R', b'b' | b'B'] | [b'b' | b'B', b'r' | b'R']
    );
    let single = &rest[..1];
    let long = rest.starts_with(&single.repeat(3));
    let ending = if long { single.repeat(3) } else { single.to_owned() };
    let mut at = ending.len();
    while let Some(c) = rest[at..].chars().next() {
        if c == quote && rest[at..].starts_with(&ending) {
            return Some(at + ending.len());
        }
        at += c.len_utf8();
        if c == '\\' && !raw {
            at += rest[at..].chars().next().map_or(0, char::len_utf8);
        }
    }
    Some(rest.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::guard::on_a_big_stack;

    #[test]
    fn length_nesting_and_emptiness_are_looked_at_first() {
        assert_eq!(parse(" ").unwrap_err().message, "the expression is empty");
        assert!(parse(&"a".repeat(MAX_LEN + 1)).unwrap_err().message.contains("at most 2000"));
        let deep = format!("{}1{}", "(".repeat(33), ")".repeat(33));
        assert_eq!(parse(&deep).unwrap_err(), error(32, "nested more than 32 deep"));
        assert!(parse("'((((((((((((((((((((((((((((((((((((((((((' == x").is_ok());
        // A backslash does not hide the end of a raw text, nor two quotes that of a long one.
        for text in [r#"r"\" == "#, r#"'"' == "#, "\"\"\"\"x\"\"\" == ", r#""\"" == "#] {
            assert!(parse(&format!("{text}{deep}")).unwrap_err().message.contains("nested more"), "{text}");
        }
        assert!(parse(&format!("{}1", "a ? b : ".repeat(40))).is_err());
    }

    #[test]
    fn a_syntax_error_knows_its_place() {
        let wrong = parse("a &&\n  b ==").unwrap_err();
        assert_eq!(wrong.offset, 11, "{wrong:?}");
        assert!(parse("a.?b").is_err());
    }

    #[test]
    fn runs_of_operators_do_not_overflow() {
        for text in ["!", "-", "[", "(", "{", "a.", "1+", "a?", "a&&", "f(", "[1,"] {
            let text: String = text.chars().cycle().take(MAX_LEN).collect();
            let outcome = on_a_big_stack(|| parse(&text).is_ok());
            assert!(outcome.is_ok(), "{}", &text[..8]);
        }
    }

    proptest! {
        #[test]
        fn no_text_brings_the_parser_down(text in r#"[a-c0-9.()\[\]{}!&|?:<>=+*/%'", \\-]{0,120}"#) {
            prop_assert!(on_a_big_stack(|| parse(&text).is_ok()).is_ok());
        }
    }
}
