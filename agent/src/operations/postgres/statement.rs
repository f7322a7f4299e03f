//! What the statements of a session's query are for.
//!
//! A server keeps the first kilobyte of what a client sent: several statements, cut anywhere, in a string, a comment or a
//! block. A parser of SQL refuses that; this takes tokens as PostgreSQL's scanner does, and looks at how each statement
//! begins.

/// A token, as far as it matters how a statement begins.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token<'a> {
    /// A word without quotes, in capitals.
    Word(String),
    /// What a string holds: `$$ … $$`, `'…'`.
    Text(&'a str),
    Open,
    Close,
    Semicolon,
    Other,
}

/// The kind of work that some statement of a query is: vacuum, index_build, migration, restore, backup, replication.
/// `None` for what any client does.
pub(super) fn purpose(query: &str) -> Option<&'static str> {
    statements(&tokens(query)).find_map(of_statement)
}

/// Whether a query takes locks by name and does nothing else, as a person does or a job that wants to be alone.
pub(super) fn only_locks(query: &str) -> bool {
    let tokens = tokens(query);
    let mut locks = false;
    let plain = statements(&tokens).all(|statement| {
        let first = word(statement.first());
        locks |= first == "LOCK";
        matches!(first, "LOCK" | "BEGIN" | "START" | "SET" | "SAVEPOINT" | "SHOW")
    });
    plain && locks
}

fn statements<'t, 'a>(tokens: &'t [Token<'a>]) -> impl Iterator<Item = &'t [Token<'a>]> {
    tokens.split(|token| *token == Token::Semicolon).filter(|statement| !statement.is_empty())
}

fn of_statement(tokens: &[Token<'_>]) -> Option<&'static str> {
    let first = word(tokens.first());
    match first {
        "COPY" => {
            let mut depth = 0_i32;
            tokens.iter().find_map(|token| {
                match token {
                    Token::Open => depth += 1,
                    Token::Close => depth -= 1,
                    Token::Word(word) if depth == 0 && word == "FROM" => return Some("restore"),
                    Token::Word(word) if depth == 0 && word == "TO" => return Some("backup"),
                    _ => {}
                }
                None
            })
        }
        "DO" => {
            tokens.iter().find_map(|token| if let Token::Text(body) = token { of_block(body) } else { None })
        }
        "BASE_BACKUP" | "START_REPLICATION" => Some("replication"),
        _ => of_definition(first, tokens.get(1..).unwrap_or_default()),
    }
}

/// What changes how data is kept, by its first word and those behind it.
fn of_definition(first: &str, behind: &[Token<'_>]) -> Option<&'static str> {
    Some(match first {
        "VACUUM" | "ANALYZE" | "CLUSTER" => "vacuum",
        "REINDEX" => "index_build",
        "CREATE" if behind.iter().take(3).any(|token| word(Some(token)) == "INDEX") => "index_build",
        "CREATE" | "ALTER" | "DROP" | "TRUNCATE" | "COMMENT" | "GRANT" | "REVOKE" | "REFRESH" | "IMPORT"
        | "REASSIGN" | "SECURITY" => "migration",
        _ => return None,
    })
}

/// A block of PL/pgSQL: a statement begins behind another one's end and behind the words that open a list of them; what
/// `EXECUTE` runs is put together from strings.
fn of_block(body: &str) -> Option<&'static str> {
    let tokens = tokens(body);
    let opens = |token: Option<&Token<'_>>| match token {
        None | Some(Token::Semicolon) => true,
        Some(Token::Word(word)) => matches!(word.as_str(), "BEGIN" | "THEN" | "ELSE" | "LOOP"),
        _ => false,
    };
    let executes = tokens.iter().any(|token| word(Some(token)) == "EXECUTE");
    tokens.iter().enumerate().find_map(|(at, token)| match token {
        Token::Word(word) if opens(at.checked_sub(1).and_then(|before| tokens.get(before))) => {
            of_definition(word, tokens.get(at + 1..).unwrap_or_default())
        }
        Token::Text(text) if executes => purpose(text),
        _ => None,
    })
}

fn word<'t>(token: Option<&'t Token<'_>>) -> &'t str {
    if let Some(Token::Word(word)) = token { word } else { "" }
}

fn tokens(sql: &str) -> Vec<Token<'_>> {
    let (mut found, mut rest) = (Vec::new(), sql);
    while let Some(first) = rest.chars().next() {
        if first.is_whitespace() {
            rest = rest.trim_start();
        } else if rest.starts_with("--") {
            rest = rest.split_once('\n').map_or("", |(_, next)| next);
        } else if rest.starts_with("/*") {
            rest = after_comment(rest);
        } else if first == '\'' {
            let escapes = matches!(found.last(), Some(Token::Word(word)) if word == "E");
            let after = after_quote(&rest[1..], escapes);
            found.push(Token::Text(within(&rest[1..], after, 1)));
            rest = after;
        } else if first == '"' {
            rest = rest[1..].split_once('"').map_or("", |(_, next)| next);
            found.push(Token::Other);
        } else if first == '$'
            && let Some((body, after)) = dollars(rest)
        {
            found.push(Token::Text(body));
            rest = after;
        } else if first.is_alphanumeric() || first == '_' {
            let end =
                rest.find(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '$')).unwrap_or(rest.len());
            found.push(Token::Word(rest[..end].to_ascii_uppercase()));
            rest = &rest[end..];
        } else {
            found.push(match first {
                '(' => Token::Open,
                ')' => Token::Close,
                ';' => Token::Semicolon,
                _ => Token::Other,
            });
            rest = &rest[first.len_utf8()..];
        }
    }
    found
}

/// What stands between an opening and a closing mark of so many bytes, the latter missing where the text was cut.
fn within<'a>(text: &'a str, after: &str, mark: usize) -> &'a str {
    let closed = text.len() - after.len();
    if after.is_empty() && !text.ends_with('\'') { text } else { &text[..closed.saturating_sub(mark)] }
}

/// Comments of this kind lie in one another.
fn after_comment(text: &str) -> &str {
    let (mut depth, mut at) = (0_u32, 0);
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return &text[at..];
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    ""
}

/// What follows a string's closing quote; nothing where the statement was cut within it.
pub(super) fn after_quote(text: &str, escapes: bool) -> &str {
    let mut bytes = text.bytes().enumerate().peekable();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' if escapes => {
                bytes.next();
            }
            b'\'' if bytes.peek().is_some_and(|(_, next)| *next == b'\'') => {
                bytes.next();
            }
            b'\'' => return &text[at + 1..],
            _ => {}
        }
    }
    ""
}

/// A string in dollars, `$tag$…$tag$`, and what follows it; `None` for a parameter such as `$1`.
pub(super) fn dollars(text: &str) -> Option<(&str, &str)> {
    let end = text[1..].find('$')? + 2;
    let tag = &text[..end];
    if tag[1..end - 1].chars().next().is_some_and(|c| c.is_ascii_digit())
        || !tag[1..end - 1].chars().all(|c| c.is_alphanumeric() || c == '_')
    {
        return None;
    }
    Some(text[end..].split_once(tag).unwrap_or((&text[end..], "")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_statement_counts() {
        for (query, kind) in [
            ("BEGIN; ALTER TABLE t ADD c int", "migration"),
            ("SET lock_timeout='5s'; ALTER TABLE t ADD c int; COMMIT", "migration"),
            ("SET statement_timeout = 0; CREATE INDEX CONCURRENTLY i ON t (a)", "index_build"),
            ("/* a /* b */ c */ -- d\n create  unique index concurrently i on t (a)", "index_build"),
            ("DO $$ BEGIN ALTER TABLE t ADD c int; END $$", "migration"),
            (
                "DO $x$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_type) THEN CREATE TYPE a AS ENUM ('x'); END IF; END $x$;",
                "migration",
            ),
            ("DO 'BEGIN DROP TABLE t; END'", "migration"),
            (
                "DO $$ DECLARE r record; BEGIN FOR r IN SELECT 1 LOOP EXECUTE format('ALTER TABLE %I ADD c int', r.t); END LOOP; END $$",
                "migration",
            ),
            ("DO $$ BEGIN REINDEX TABLE t; -- cut he", "index_build"),
            ("COPY public.t (a) FROM stdin;", "restore"),
            ("COPY t FROM '/srv/t.csv' WITH (FORMAT csv)", "restore"),
            ("COPY (SELECT * FROM t) TO STDOUT", "backup"),
            ("COPY public.t (a) TO stdout;", "backup"),
            ("INSERT INTO t VALUES (';'); TRUNCATE t", "migration"),
            ("GRANT SELECT ON t TO r", "migration"),
        ] {
            assert_eq!(purpose(query), Some(kind), "{query}");
        }
    }

    #[test]
    fn what_any_client_does() {
        for query in [
            "SELECT 1",
            "WITH a AS (SELECT 1) UPDATE t SET b = 2",
            "BEGIN; UPDATE t SET a = 'ALTER TABLE x; DROP TABLE t'",
            "SELECT $$; DROP TABLE t$$, $1",
            "INSERT INTO t VALUES (E'it\\'s; DROP TABLE t')",
            "SELECT \"a; DROP TABLE t\"",
            "-- ALTER TABLE t\nSELECT 1 /* ; DROP TABLE t */",
            "DO $$ BEGIN UPDATE t SET a = 'CREATE TABLE'; END $$",
            "SELECT 'cut; ALTER TABLE t",
            "LOCK TABLE t IN ACCESS EXCLUSIVE MODE",
            "",
        ] {
            assert_eq!(purpose(query), None, "{query}");
        }
    }

    #[test]
    fn locks_alone() {
        assert!(only_locks("LOCK TABLE t IN ACCESS EXCLUSIVE MODE;"));
        assert!(only_locks("BEGIN; SET LOCAL lock_timeout = '1s'; LOCK TABLE t;"));
        assert!(!only_locks("BEGIN; LOCK TABLE t; UPDATE t SET a = 1"));
        assert!(!only_locks("BEGIN"));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(DO |EXECUTE |\\$\\$|\\$a\\$|'|\"|/\\*|\\*/|--|\\n|;|\\(|E|\\\\|é|ALTER |COPY |FROM ){0,24}") {
            purpose(&text);
            only_locks(&text);
        }
    }
}
