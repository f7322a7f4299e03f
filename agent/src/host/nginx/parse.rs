//! nginx's configuration language, as far as `nginx -T` prints it: directives, blocks, and the files they stand in.
//!
//! The dump holds every file once, each after its marker, with `include` left as written; [`effective`] puts the
//! files where they are included. Text that is no valid configuration gives some tree and never a failure: nginx has
//! judged it already.

use std::{collections::BTreeMap, sync::Arc};

use crate::host::glob::matches;

/// One directive, with the block that it opens, if it opens one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    pub name: String,
    pub args: Vec<String>,
    pub block: Option<Vec<Directive>>,
    pub file: Arc<str>,
    pub line: u32,
}

/// Deeper nesting than any configuration has; the bound keeps a hostile file off the stack.
const DEPTH: usize = 32;
/// More directives than any configuration has: files that include each other many times over would multiply.
const DIRECTIVES: usize = 200_000;

/// Reads a whole dump, includes resolved, beginning with the main file.
pub fn effective(dump: &str) -> Vec<Directive> {
    let files = split(dump);
    let Some((main, _, _)) = files.first() else { return Vec::new() };
    let prefix = main.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
    let main = main.clone();
    let parsed: BTreeMap<Arc<str>, Vec<Directive>> =
        files.into_iter().map(|(file, line, text)| (file.clone(), parse(text, &file, line))).collect();
    let mut inclusion = Inclusion { files: &parsed, prefix: &prefix, open: vec![&main], room: DIRECTIVES };
    parsed.get(&main).map(|tree| inclusion.resolve(tree)).unwrap_or_default()
}

/// The files of a dump: path, number of the first line (always 1), text.
fn split(dump: &str) -> Vec<(Arc<str>, u32, &str)> {
    let mut files: Vec<(Arc<str>, u32, &str)> = Vec::new();
    let (mut begin, mut current): (usize, Option<Arc<str>>) = (0, None);
    let mut at = 0;
    for line in dump.split_inclusive('\n') {
        let marker =
            line.trim_end().strip_prefix("# configuration file ").and_then(|rest| rest.strip_suffix(':'));
        if let Some(path) = marker {
            if let Some(file) = current.replace(Arc::from(path)) {
                files.push((file, 1, &dump[begin..at]));
            }
            begin = at + line.len();
        }
        at += line.len();
    }
    if let Some(file) = current {
        files.push((file, 1, &dump[begin..]));
    }
    files
}

/// Puts files where they are included.
struct Inclusion<'a> {
    files: &'a BTreeMap<Arc<str>, Vec<Directive>>,
    /// What relative patterns begin at.
    prefix: &'a str,
    /// The files that are being included, each by the one before it: none is included into itself.
    open: Vec<&'a str>,
    /// How many directives may still be put in place.
    room: usize,
}

impl Inclusion<'_> {
    fn resolve(&mut self, tree: &[Directive]) -> Vec<Directive> {
        let mut out = Vec::new();
        for directive in tree {
            if self.room == 0 {
                break;
            }
            self.room -= 1;
            if directive.name != "include" || directive.block.is_some() {
                let block = directive.block.as_ref().map(|block| self.resolve(block));
                out.push(Directive { block, ..directive.clone() });
                continue;
            }
            let Some(pattern) = directive.args.first() else { continue };
            let pattern =
                if pattern.starts_with('/') { pattern.clone() } else { format!("{}/{pattern}", self.prefix) };
            let files = self.files;
            for (path, included) in files.iter().filter(|(path, _)| matches(&pattern, path)) {
                if self.open.len() < DEPTH && !self.open.iter().any(|open| *open == &**path) {
                    self.open.push(path);
                    out.extend(self.resolve(included));
                    self.open.pop();
                }
            }
        }
        out
    }
}

/// Reads one file.
pub fn parse(text: &str, file: &str, first_line: u32) -> Vec<Directive> {
    let mut tokens = Tokens { rest: text, line: first_line };
    let file = Arc::from(file);
    let (mut stack, mut open): (Vec<(Directive, Vec<Directive>)>, Vec<Directive>) = (Vec::new(), Vec::new());
    let (mut words, mut line): (Vec<String>, u32) = (Vec::new(), first_line);
    while let Some((token, at)) = tokens.next() {
        match token {
            Token::Word(word) => {
                if words.is_empty() {
                    line = at;
                }
                words.push(word);
            }
            Token::End => {
                open.extend(directive(&mut words, &file, line));
            }
            Token::Open => {
                // Past the bound, blocks are read as if they were closed at once.
                let opener = directive(&mut words, &file, line).unwrap_or_else(|| Directive {
                    name: String::new(),
                    args: Vec::new(),
                    block: None,
                    file: Arc::clone(&file),
                    line: at,
                });
                if stack.len() < DEPTH {
                    stack.push((opener, std::mem::take(&mut open)));
                }
            }
            Token::Close => {
                words.clear();
                if let Some((mut opener, outer)) = stack.pop() {
                    opener.block = Some(std::mem::replace(&mut open, outer));
                    open.push(opener);
                }
            }
        }
    }
    while let Some((mut opener, outer)) = stack.pop() {
        opener.block = Some(std::mem::replace(&mut open, outer));
        open.push(opener);
    }
    open
}

fn directive(words: &mut Vec<String>, file: &Arc<str>, line: u32) -> Option<Directive> {
    let mut words = std::mem::take(words).into_iter();
    let name = words.next()?;
    Some(Directive { name, args: words.collect(), block: None, file: Arc::clone(file), line })
}

enum Token {
    Word(String),
    End,
    Open,
    Close,
}

struct Tokens<'a> {
    rest: &'a str,
    line: u32,
}

impl Tokens<'_> {
    fn next(&mut self) -> Option<(Token, u32)> {
        loop {
            let first = self.rest.chars().next()?;
            let line = self.line;
            match first {
                '#' => {
                    let end = self.rest.find('\n').unwrap_or(self.rest.len());
                    self.rest = &self.rest[end..];
                }
                c if c.is_whitespace() => self.skip(c),
                ';' => {
                    self.skip(first);
                    return Some((Token::End, line));
                }
                '{' => {
                    self.skip(first);
                    return Some((Token::Open, line));
                }
                '}' => {
                    self.skip(first);
                    return Some((Token::Close, line));
                }
                quote @ ('"' | '\'') => {
                    self.skip(quote);
                    return Some((Token::Word(self.quoted(quote)), line));
                }
                _ => return Some((Token::Word(self.bare()), line)),
            }
        }
    }

    fn skip(&mut self, c: char) {
        self.line = self.line.saturating_add(u32::from(c == '\n'));
        self.rest = &self.rest[c.len_utf8()..];
    }

    fn quoted(&mut self, quote: char) -> String {
        let mut word = String::new();
        while let Some(c) = self.rest.chars().next() {
            self.skip(c);
            match c {
                '\\' => {
                    if let Some(escaped) = self.rest.chars().next() {
                        self.skip(escaped);
                        if escaped != quote && escaped != '\\' {
                            word.push('\\');
                        }
                        word.push(escaped);
                    }
                }
                c if c == quote => break,
                c => word.push(c),
            }
        }
        word
    }

    fn bare(&mut self) -> String {
        let mut word = String::new();
        while let Some(c) = self.rest.chars().next() {
            // `${name}` is a variable and no block.
            let variable = c == '{' && word.ends_with('$');
            if c.is_whitespace() || c == ';' || (c == '{' && !variable) {
                break;
            }
            if c == '}' && word.rsplit_once("${").is_none_or(|(_, name)| name.contains('}')) {
                break;
            }
            self.skip(c);
            word.push(c);
            if c == '\\'
                && let Some(escaped) = self.rest.chars().next()
            {
                self.skip(escaped);
                word.push(escaped);
            }
        }
        word
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(tree: &[Directive]) -> Vec<&str> {
        tree.iter().map(|directive| directive.name.as_str()).collect()
    }

    #[test]
    fn words_quotes_variables_and_comments() {
        let tree = parse(
            "a 'x;y' \"q\\\"{\" $b${c}d; # e;\nf { g ~ \\.php$ { h; } }\nlog '{' 'two words'\n  'three';\n",
            "f",
            1,
        );
        assert_eq!(names(&tree), ["a", "f", "log"]);
        assert_eq!(tree[0].args, ["x;y", "q\"{", "$b${c}d"]);
        let inner = tree[1].block.as_ref().unwrap();
        assert_eq!(inner[0].args, ["~", "\\.php$"]);
        assert_eq!(names(inner[0].block.as_ref().unwrap()), ["h"]);
        assert_eq!((tree[1].line, tree[2].line), (2, 3));
        assert_eq!(tree[2].args, ["{", "two words", "three"]);
    }

    #[test]
    fn files_stand_where_they_are_included() {
        let dump = "# configuration file /etc/nginx/nginx.conf:\nhttp {\n  include conf.d/*.conf;\n  include mime.types;\n}\n\
                    # configuration file /etc/nginx/conf.d/a.conf:\nserver {\n  include /etc/nginx/snippets/l;\n}\n\n\
                    # configuration file /etc/nginx/snippets/l:\n\nlocation / { proxy_pass http://x; }\n\
                    # configuration file /etc/nginx/mime.types:\ntypes { text/html html; }\n";
        let tree = effective(dump);
        assert_eq!(names(&tree), ["http"]);
        let http = tree[0].block.as_ref().unwrap();
        assert_eq!(names(http), ["server", "types"]);
        let location = &http[0].block.as_ref().unwrap()[0];
        assert_eq!(
            (location.name.as_str(), &*location.file, location.line),
            ("location", "/etc/nginx/snippets/l", 2)
        );
    }

    #[test]
    fn a_file_that_includes_itself_ends() {
        let tree = effective(
            "# configuration file /a/b:\nx;\ninclude /a/*;\ninclude b;\n# configuration file /a/c:\ny;\ninclude b;\n",
        );
        assert_eq!(names(&tree), ["x", "y"]);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(# configuration file /a:\\n|include /\\*;|[a-z{};\"'\\\\#$ \\n]|\\PC){0,120}") {
            effective(&text);
            parse(&text, "f", u32::MAX);
        }
    }
}
