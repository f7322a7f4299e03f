//! YAML as a tree in which every node knows where it stands.
//!
//! Scalars stay text: what `5` or `true` means is for the reader of a field to say, so that nothing is guessed twice.
//! Tags, several documents, keys that are not scalars and keys that come twice are refused. Aliases are copied, within
//! a bound on all nodes and all text, so that a small document cannot become a large tree.

use std::collections::BTreeMap;

use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle};

use crate::diagnostic::{Diagnostic, Severity};

/// The largest document.
pub(crate) const MAX_BYTES: usize = 256 * 1024;
/// The deepest nesting of lists and mappings.
pub(crate) const MAX_DEPTH: usize = 32;
/// The most nodes, aliases counted as what they stand for.
const MAX_NODES: usize = 50_000;
/// The most text in all scalars, aliases counted as what they stand for.
const MAX_TEXT: usize = 4 * MAX_BYTES;

/// A stretch of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Span {
    /// From 1.
    pub(crate) line: u32,
    /// From 1, in characters.
    pub(crate) column: u32,
    start: usize,
    end: usize,
}

impl Span {
    fn of(span: &granit_parser::Span) -> Self {
        let start = span.start;
        Self {
            line: u32::try_from(start.line()).unwrap_or(u32::MAX),
            column: u32::try_from(start.col() + 1).unwrap_or(u32::MAX),
            start: start.byte_offset().unwrap_or_default(),
            end: span.end.byte_offset().unwrap_or_default(),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    pub(crate) span: Span,
    style: ScalarStyle,
}

impl Scalar {
    /// Whether it is written without quotes: only then can it be a number, a truth value or nothing.
    pub(crate) fn is_plain(&self) -> bool {
        self.style == ScalarStyle::Plain
    }

    pub(crate) fn is_null(&self) -> bool {
        self.is_plain() && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// Where in the source the character at `offset` of the text stands, through quotes, escapes and folded lines.
    pub(crate) fn position(&self, source: &str, offset: usize) -> (u32, u32) {
        let slice = source.get(self.span.start..self.span.end).unwrap_or_default();
        let mut at = Walk { rest: slice, line: self.span.line, column: self.span.column };
        match self.style {
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => at.step(),
            ScalarStyle::Literal | ScalarStyle::Folded if slice.starts_with(['|', '>']) => {
                while at.peek().is_some_and(|c| c != '\n') {
                    at.step();
                }
            }
            _ => {}
        }
        for (index, wanted) in self.text.chars().enumerate() {
            at.find(wanted, self.style);
            if index == offset {
                break;
            }
            at.consume(wanted, self.style);
        }
        (at.line, at.column)
    }
}

/// A place that moves through a scalar's source.
struct Walk<'a> {
    rest: &'a str,
    line: u32,
    column: u32,
}

impl Walk<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn step(&mut self) {
        let Some(c) = self.peek() else { return };
        self.rest = &self.rest[c.len_utf8()..];
        if c == '\n' {
            self.line += 1;
            self.column = 1;
        } else {
            self.column += 1;
        }
    }

    /// Moves to the source of a character of the text: over indentation and folded line ends.
    fn find(&mut self, wanted: char, style: ScalarStyle) {
        while let Some(c) = self.peek() {
            let escape = style == ScalarStyle::DoubleQuoted && c == '\\';
            if c == wanted || escape || (wanted.is_whitespace() && c.is_whitespace()) {
                return;
            }
            self.step();
        }
    }

    /// Moves past the source of a character of the text.
    fn consume(&mut self, wanted: char, style: ScalarStyle) {
        let Some(c) = self.peek() else { return };
        self.step();
        if style == ScalarStyle::DoubleQuoted && c == '\\' {
            let digits = match self.peek() {
                Some('x') => 2,
                Some('u') => 4,
                Some('U') => 8,
                _ => 0,
            };
            (0..=digits).for_each(|_| self.step());
        } else if style == ScalarStyle::SingleQuoted && c == '\'' {
            self.step();
        } else if c == '\n' && wanted == ' ' {
            while self.peek().is_some_and(char::is_whitespace) {
                self.step();
            }
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Content {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<(Scalar, Node)>),
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) content: Content,
}

impl Node {
    /// `a text`, `a list`, `a mapping`, `nothing`.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.content {
            Content::Scalar(scalar) if scalar.is_null() => "nothing",
            Content::Scalar(_) => "a text",
            Content::List(_) => "a list",
            Content::Map(_) => "a mapping",
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar(scalar) if scalar.is_null())
    }

    pub(crate) fn scalar(&self) -> Option<&Scalar> {
        match &self.content {
            Content::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// Nodes and bytes of text in it.
    fn weight(&self) -> (usize, usize) {
        let add = |a: (usize, usize), b: (usize, usize)| (a.0 + b.0, a.1 + b.1);
        match &self.content {
            Content::Scalar(scalar) => (1, scalar.text.len()),
            Content::List(items) => items.iter().map(Self::weight).fold((1, 0), add),
            Content::Map(entries) => {
                entries.iter().map(|(key, value)| add((1, key.text.len()), value.weight())).fold((1, 0), add)
            }
        }
    }
}

/// Reads one document.
///
/// # Errors
/// The first place that is not YAML, or not YAML as runbooks may use it.
pub(crate) fn parse(text: &str) -> Result<Node, Diagnostic> {
    if text.len() > MAX_BYTES {
        let message = format!("the document has {} bytes; at most {MAX_BYTES} are read", text.len());
        return Err(diagnostic(Span { line: 1, column: 1, start: 0, end: 0 }, message, ""));
    }
    let mut options = granit_parser::Options::default();
    options.set_emit_comments(false);
    options.disallow_directives = true;
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    let mut builder = Builder {
        parser: Parser::new_from_str_with_options(text, options),
        anchors: BTreeMap::new(),
        nodes: 0,
        text: 0,
    };
    builder.document()
}

struct Builder<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    /// Finished nodes only: an alias inside its own anchor finds nothing.
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
    text: usize,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Diagnostic> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, Span::of(&span))),
            Some(Err(error)) => {
                let marker = error.marker();
                let line = u32::try_from(marker.line()).unwrap_or(u32::MAX);
                let column = u32::try_from(marker.col() + 1).unwrap_or(u32::MAX);
                let span = Span { line: line.max(1), column, start: 0, end: 0 };
                let info = error.info();
                // What a rule written without quotes runs into.
                let hint = match info.contains("mapping values are not allowed") {
                    true => "a text with `: ` in it needs quotes, or `>-` before it and a line of its own",
                    false => "",
                };
                Err(diagnostic(span, format!("this is not YAML: {info}"), hint))
            }
            None => Ok((Event::StreamEnd, Span { line: 1, column: 1, start: 0, end: 0 })),
        }
    }

    fn document(&mut self) -> Result<Node, Diagnostic> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(..) if root.is_some() => {
                    return Err(diagnostic(
                        span,
                        "a second document begins here",
                        "a file holds one runbook",
                    ));
                }
                Event::DocumentStart(..) => {
                    let (event, span) = self.next()?;
                    root = Some(self.node(event, span, 0)?);
                }
                Event::StreamEnd => {
                    let start = Span { line: 1, column: 1, start: 0, end: 0 };
                    return root.ok_or_else(|| diagnostic(start, "the document is empty", ""));
                }
                _ => return Err(diagnostic(span, "this is not YAML: nothing may stand here", "")),
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Diagnostic> {
        if depth > MAX_DEPTH {
            return Err(diagnostic(span, format!("nested more than {MAX_DEPTH} deep"), ""));
        }
        if event.tag().is_some() {
            let hint = "quote a text that begins with `!`: \"!answered(x)\"";
            return Err(diagnostic(span, "tags are not used in runbooks", hint));
        }
        let anchor = event.anchor_id().filter(|id| *id != 0);
        let content = match event {
            Event::Scalar(text, style, ..) => {
                self.spend(span, 1, text.len())?;
                Content::Scalar(Scalar { text: text.into_owned(), span, style })
            }
            Event::SequenceStart(..) => {
                self.spend(span, 1, 0)?;
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break Content::List(items),
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(..) => {
                self.spend(span, 1, 0)?;
                let mut entries: Vec<(Scalar, Node)> = Vec::new();
                loop {
                    let key = match self.next()? {
                        (Event::MappingEnd, _) => break Content::Map(entries),
                        (event, span) => self.key(event, span, depth)?,
                    };
                    if let Some((first, _)) = entries.iter().find(|(first, _)| first.text == key.text) {
                        let message = format!("`{}` is here a second time", key.text);
                        let hint = format!("the first is on line {}", first.span.line);
                        return Err(diagnostic(key.span, message, &hint));
                    }
                    let (event, span) = self.next()?;
                    entries.push((key, self.node(event, span, depth + 1)?));
                }
            }
            Event::Alias(id) => {
                let inside = || diagnostic(span, "this alias stands inside what it stands for", "");
                let (nodes, text) = self.anchors.get(&id).ok_or_else(inside)?.weight();
                self.spend(span, nodes, text)?;
                return self.anchors.get(&id).cloned().ok_or_else(inside);
            }
            _ => return Err(diagnostic(span, "this is not YAML: nothing may stand here", "")),
        };
        let node = Node { span, content };
        if let Some(id) = anchor {
            // The copy that is kept counts too.
            let (nodes, text) = node.weight();
            self.spend(span, nodes, text)?;
            self.anchors.insert(id, node.clone());
        }
        Ok(node)
    }

    fn key(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Scalar, Diagnostic> {
        match self.node(event, span, depth + 1)?.content {
            Content::Scalar(key) => Ok(key),
            _ => Err(diagnostic(
                span,
                "a key is a plain word",
                "a text that begins with `{{` needs quotes: \"{{ params.service }}\"",
            )),
        }
    }

    fn spend(&mut self, span: Span, nodes: usize, text: usize) -> Result<(), Diagnostic> {
        self.nodes += nodes;
        self.text += text;
        if self.nodes <= MAX_NODES && self.text <= MAX_TEXT {
            return Ok(());
        }
        let message =
            format!("the document stands for more than {MAX_NODES} nodes or {MAX_TEXT} bytes of text");
        Err(diagnostic(span, message, "write it with fewer aliases"))
    }
}

fn diagnostic(span: Span, message: impl Into<String>, hint: &str) -> Diagnostic {
    Diagnostic {
        line: span.line,
        column: span.column,
        severity: Severity::Error,
        message: message.into(),
        hint: hint.to_owned(),
    }
}
