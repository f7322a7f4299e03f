//! A file of SQL taken apart into its statements, each with its place. PL/pgSQL blocks (`DO $$ … $$`) are taken apart
//! too, with what guards the statements in them.

use std::ops::Range;

use sqlparser::{
    dialect::PostgreSqlDialect,
    tokenizer::{Location, Token, TokenWithSpan, Tokenizer},
};

/// One statement of a file.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// Where it begins, from 1.
    pub line: u32,
    pub tokens: Vec<TokenWithSpan>,
    /// Whether a block runs it only where its object is not there yet.
    pub guarded: bool,
    /// Whether it is a line for psql and no SQL.
    pub psql: bool,
    /// Whether it stands in a block.
    pub inner: bool,
    /// Where it is in the file, in bytes; empty for one in a block. What is sent to the server is cut out of the file:
    /// tokens do not keep every way of writing a string.
    pub place: Range<usize>,
}

impl Piece {
    /// Its words in capitals, without what quotes hold.
    pub(in crate::operations) fn words(&self) -> impl Iterator<Item = String> {
        self.tokens.iter().filter_map(|token| word(&token.token))
    }

    /// Its text, blanks evened out.
    pub(in crate::operations) fn text(&self) -> String {
        let text: String = self.tokens.iter().map(|token| token.token.to_string()).collect();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The body of a `DO` block, with the line on which it begins.
    fn body(&self) -> Option<(&str, u32)> {
        if self.words().next().as_deref() != Some("DO") {
            return None;
        }
        self.tokens.iter().find_map(|token| match &token.token {
            Token::DollarQuotedString(quoted) => Some((quoted.value.as_str(), line_of(token))),
            _ => None,
        })
    }
}

/// Why a file cannot be taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub line: u32,
    pub column: u32,
    pub message: String,
}

/// The statements of a file in their order, blocks replaced by what is in them.
pub(super) fn pieces(sql: &str) -> Result<Vec<Piece>, Unreadable> {
    let mut found = Vec::new();
    for piece in top(sql)? {
        match piece.body() {
            Some((body, line)) => found.extend(block(body, line)?),
            None => found.push(piece),
        }
    }
    Ok(found)
}

/// The statements as the server is sent them: blocks stay whole.
pub(super) fn top(sql: &str) -> Result<Vec<Piece>, Unreadable> {
    let places = Places::of(sql);
    let mut pieces = Vec::new();
    let mut open: Vec<TokenWithSpan> = Vec::new();
    let mut psql_line = None;
    let close = |pieces: &mut Vec<Piece>, open: &mut Vec<TokenWithSpan>, psql: bool, end: usize| {
        let tokens = std::mem::take(open);
        if let Some(first) = tokens.first() {
            let place = places.byte(first.span.start)..end;
            pieces.push(Piece { line: line_of(first), tokens, guarded: false, psql, inner: false, place });
        }
    };
    for token in tokens(sql)? {
        let line = line_of(&token);
        if psql_line.is_some_and(|psql| psql != line) {
            close(&mut pieces, &mut open, true, places.byte(token.span.start));
            psql_line = None;
        }
        match &token.token {
            Token::EOF => {}
            Token::SemiColon if psql_line.is_none() => {
                close(&mut pieces, &mut open, false, places.byte(token.span.start));
            }
            Token::Backslash if open.is_empty() => {
                psql_line = Some(line);
                open.push(token);
            }
            Token::Whitespace(_) if open.is_empty() => {}
            _ => open.push(token),
        }
    }
    close(&mut pieces, &mut open, psql_line.is_some(), sql.len());
    Ok(pieces)
}

/// Where lines begin, to find the byte of a line and column.
struct Places<'a> {
    sql: &'a str,
    lines: Vec<usize>,
}

impl<'a> Places<'a> {
    fn of(sql: &'a str) -> Self {
        let breaks = sql.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { sql, lines: std::iter::once(0).chain(breaks).collect() }
    }

    fn byte(&self, at: Location) -> usize {
        let (line, column) = (usize::try_from(at.line), usize::try_from(at.column));
        let (line, column) = (line.unwrap_or(usize::MAX), column.unwrap_or(usize::MAX));
        let Some(begin) = self.lines.get(line.saturating_sub(1)).copied() else { return self.sql.len() };
        let characters = self.sql[begin..].char_indices();
        characters.map(|(at, _)| begin + at).nth(column.saturating_sub(1)).unwrap_or(self.sql.len())
    }
}

fn tokens(sql: &str) -> Result<Vec<TokenWithSpan>, Unreadable> {
    // A psql line such as `\i file` is tokens like any other; its quotes may not be.
    Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize_with_location().map_err(|error| Unreadable {
        line: u32::try_from(error.location.line).unwrap_or_default(),
        column: u32::try_from(error.location.column).unwrap_or_default(),
        message: error.message,
    })
}

fn line_of(token: &TokenWithSpan) -> u32 {
    u32::try_from(token.span.start.line).unwrap_or_default()
}

/// A bare word in capitals; a quoted identifier is none.
fn word(token: &Token) -> Option<String> {
    match token {
        Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_uppercase()),
        _ => None,
    }
}

/// The statements of a PL/pgSQL body. A branch of `IF NOT EXISTS (…)`, and a block that takes `duplicate_object` and
/// its like, guards what is in it.
fn block(body: &str, first_line: u32) -> Result<Vec<Piece>, Unreadable> {
    let at = |line: u32| first_line + line.saturating_sub(1);
    let all = tokens(body).map_err(|error| Unreadable { line: at(error.line), ..error })?;
    let takes_duplicates = all
        .iter()
        .filter_map(|token| word(&token.token))
        .skip_while(|word| word != "EXCEPTION")
        .any(|word| word.starts_with("DUPLICATE_") || word == "UNIQUE_VIOLATION");
    // From `BEGIN` on: declarations are no statements.
    let begin = all.iter().position(|token| word(&token.token).as_deref() == Some("BEGIN"));
    let mut rest = &all[begin.map_or(0, |begin| begin + 1)..];
    let (mut guards, mut found): (Vec<bool>, Vec<Piece>) = (Vec::new(), Vec::new());
    while let Some(first) = rest.iter().position(|token| !matches!(token.token, Token::Whitespace(_))) {
        rest = &rest[first..];
        let until = |what: &str| rest.iter().position(|token| word(&token.token).as_deref() == Some(what));
        let semicolon = rest.iter().position(|token| token.token == Token::SemiColon);
        let statement_end = semicolon.unwrap_or(rest.len());
        let next = |end: usize| &rest[(end + 1).min(rest.len())..];
        match word(&rest[0].token).as_deref() {
            Some(kind @ ("IF" | "ELSIF" | "ELSEIF")) => {
                let Some(then) = until("THEN") else { break };
                let words: Vec<String> = rest[..then].iter().filter_map(|token| word(&token.token)).collect();
                let asks = |pair: [&str; 2]| words.windows(2).any(|words| words == pair);
                let guards_it = asks(["NOT", "EXISTS"]) || (asks(["IS", "NULL"])) || asks(["NOT", "FOUND"]);
                if kind != "IF" {
                    guards.pop();
                }
                guards.push(guards_it);
                rest = next(then);
            }
            Some("ELSE") => {
                // What stands here runs where the object is there.
                guards.pop();
                guards.push(false);
                rest = next(0);
            }
            Some("EXCEPTION") => break,
            Some("BEGIN" | "LOOP") => rest = next(0),
            Some("FOR" | "WHILE" | "FOREACH") => {
                let Some(body) = until("LOOP") else { break };
                rest = next(body);
            }
            Some("END") => {
                let ends_if =
                    rest[..statement_end].iter().filter_map(|token| word(&token.token)).nth(1).as_deref()
                        == Some("IF");
                if ends_if {
                    guards.pop();
                }
                rest = next(statement_end);
            }
            Some("RAISE" | "NULL" | "PERFORM" | "RETURN" | "GET" | "EXIT" | "CONTINUE") => {
                rest = next(statement_end);
            }
            _ => {
                let tokens = rest[..statement_end].to_vec();
                let assigns = tokens.iter().any(|token| token.token == Token::Assignment)
                    && !tokens.iter().take(3).any(|token| word(&token.token).is_some_and(|w| w == "EXECUTE"));
                if !assigns {
                    found.push(Piece {
                        line: at(line_of(&rest[0])),
                        tokens,
                        guarded: takes_duplicates || guards.iter().any(|guard| *guard),
                        psql: false,
                        inner: true,
                        place: 0..0,
                    });
                }
                rest = next(statement_end);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(sql: &str) -> Vec<(u32, bool, String)> {
        pieces(sql).unwrap().iter().map(|piece| (piece.line, piece.guarded, piece.text())).collect()
    }

    #[test]
    fn semicolons_in_quotes_end_nothing() {
        let sql = "-- a; b\nSELECT ';', $x$;$x$;\n\\echo hi;\n/* ; */ INSERT INTO a VALUES (1)";
        let found = top(sql).unwrap();
        assert_eq!(
            found.iter().map(|piece| (piece.line, piece.psql)).collect::<Vec<_>>(),
            [(2, false), (3, true), (4, false)]
        );
    }

    #[test]
    fn what_is_sent_is_the_files_own_text() {
        let sql = "-- é\nSELECT E'a\\'b', 'ü';\r\n  UPDATE \"Ö\" SET x = $$;$$ ;\nSELECT 3";
        let found: Vec<_> =
            top(sql).unwrap().into_iter().map(|piece| sql[piece.place].trim_end().to_owned()).collect();
        assert_eq!(found, ["SELECT E'a\\'b', 'ü'", "UPDATE \"Ö\" SET x = $$;$$", "SELECT 3"]);
    }

    #[test]
    fn guards_of_a_block_are_known() {
        let found = seen(
            "DO $$ BEGIN\n  IF NOT EXISTS (SELECT 1 FROM pg_constraint) THEN\n    ALTER TABLE a ADD CONSTRAINT b CHECK (c > 0);\n  \
             ELSE ALTER TABLE a ADD d int; END IF;\n  ALTER TABLE a ADD CONSTRAINT e CHECK (c > 1);\nEND $$;",
        );
        assert_eq!(
            found.iter().map(|(line, guarded, _)| (*line, *guarded)).collect::<Vec<_>>(),
            [(3, true), (4, false), (5, false)]
        );
        let taken = seen(
            "DO $$ BEGIN CREATE TYPE s AS ENUM ('a'); EXCEPTION WHEN duplicate_object THEN null; END $$",
        );
        assert_eq!(taken, [(1, true, "CREATE TYPE s AS ENUM ('a')".to_owned())]);
    }

    #[test]
    fn an_open_quote_says_where() {
        assert_eq!(pieces("SELECT 1;\nSELECT 'x").unwrap_err().line, 2);
    }
}
