//! Selectors: which hosts, in the one language that every command uses.
//!
//! Labels: `env=prod`, `env!=prod`, `role in (api,web)`, `role notin (db)`, `canary`, `!canary`, joined by commas.
//! Hosts: `vps1`, `vps[2-9]`, `vps[01-12]`, joined by commas.

use std::collections::BTreeSet;

use crate::v1;

/// A parsed selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    labels: Vec<Requirement>,
    /// Host names, ranges expanded; empty when hosts are not named.
    names: BTreeSet<String>,
    all: bool,
    /// Narrows to one stack.
    pub stack: Option<String>,
    /// Hosts with one of their stacks each, written out one by one; an empty stack is the host itself.
    places: BTreeSet<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    label: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Present,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
}

/// Why a selector cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("no hosts selected: name them with -H, select them by label with -l, or say --all")]
    Empty,
    #[error("--all cannot be combined with -H or -l")]
    AllAndMore,
    #[error("label selector, column {column}: {reason}")]
    Labels { column: usize, reason: String },
    #[error("host {pattern:?}: {reason}")]
    Hosts { pattern: String, reason: String },
    #[error("stack {0:?} is not a Compose project name")]
    Stack(String),
    #[error("places that are written out cannot be combined with labels, hosts or a stack")]
    PlacesAndMore,
}

/// What a host may be called.
const NAMES: &str = "a host's name has lower-case letters, digits, `.`, `-` and `_`";

/// More names than this in one range are a slip.
const MAX_NAMES: usize = 20_000;

impl TryFrom<&v1::Selector> for Selector {
    type Error = SelectorError;

    fn try_from(selector: &v1::Selector) -> Result<Self, SelectorError> {
        let labels = parse_labels(&selector.labels)?;
        let names = parse_hosts(&selector.hosts)?;
        let places = parse_places(&selector.places)?;
        let stack = parse_stack(&selector.stack)?;
        let narrows = !labels.is_empty() || !names.is_empty();
        if !places.is_empty() && (selector.all || narrows || stack.is_some()) {
            return Err(SelectorError::PlacesAndMore);
        }
        match (selector.all, narrows || !places.is_empty()) {
            (true, true) => return Err(SelectorError::AllAndMore),
            (false, false) => return Err(SelectorError::Empty),
            _ => {}
        }
        Ok(Self { labels, names, all: selector.all, stack, places })
    }
}

impl Selector {
    /// Whether a host of this name with these labels is meant.
    pub fn matches(&self, name: &str, labels: &[v1::Label]) -> bool {
        if !self.places.is_empty() {
            return self.places.iter().any(|(host, _)| host == name);
        }
        self.all
            || ((self.names.is_empty() || self.names.contains(name))
                && self.labels.iter().all(|requirement| requirement.holds(labels)))
    }

    /// Whether a stack of a host that matches is meant; an empty one stands for the host itself.
    pub fn takes(&self, host: &str, stack: &str) -> bool {
        match self.places.is_empty() {
            true => self.stack.as_deref().is_none_or(|wanted| wanted == stack),
            false => self.places().any(|place| place == (host, stack)),
        }
    }

    /// Whether stacks are meant by their names.
    pub fn names_stacks(&self) -> bool {
        self.stack.is_some() || !self.places.is_empty()
    }

    /// The hosts with their stacks that were written out one by one.
    pub fn places(&self) -> impl Iterator<Item = (&str, &str)> {
        self.places.iter().map(|(host, stack)| (host.as_str(), stack.as_str()))
    }

    /// Names that were written out and that none of `known` has: they are a slip, and never passed over.
    pub fn unknown_names<'a>(&'a self, known: &BTreeSet<&str>) -> Vec<&'a str> {
        let written = self.names.iter().map(String::as_str).chain(self.places().map(|(host, _)| host));
        let unknown: BTreeSet<&str> = written.filter(|name| !known.contains(name)).collect();
        unknown.into_iter().collect()
    }
}

impl Requirement {
    fn holds(&self, labels: &[v1::Label]) -> bool {
        let value = labels.iter().find(|label| label.name == self.label).map(|label| &label.value);
        match (&self.test, value) {
            (Test::Present, value) => value.is_some(),
            (Test::Absent, value) => value.is_none(),
            (Test::In(values), value) => value.is_some_and(|value| values.contains(value)),
            (Test::NotIn(values), value) => value.is_none_or(|value| !values.contains(value)),
        }
    }
}

/// Whether a text may be a label's name or value.
pub fn is_label_word(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b))
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

/// Whether a text may be a host's name: a DNS label or several.
pub fn is_host_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
        && text.as_bytes()[0].is_ascii_alphanumeric()
        && !text.contains("..")
}

fn is_stack_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b))
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

fn parse_stack(text: &str) -> Result<Option<String>, SelectorError> {
    match text {
        "" => Ok(None),
        text if is_stack_name(text) => Ok(Some(text.to_owned())),
        text => Err(SelectorError::Stack(text.to_owned())),
    }
}

fn parse_places(places: &[v1::Place]) -> Result<BTreeSet<(String, String)>, SelectorError> {
    let place = |place: &v1::Place| {
        if !is_host_name(&place.host) {
            return Err(SelectorError::Hosts { pattern: place.host.clone(), reason: NAMES.to_owned() });
        }
        Ok((place.host.clone(), parse_stack(&place.stack)?.unwrap_or_default()))
    };
    places.iter().map(place).collect()
}

fn parse_labels(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    split_outside(text)
        .into_iter()
        .map(|(column, part)| {
            requirement(part.trim()).map_err(|reason| SelectorError::Labels { column: column + 1, reason })
        })
        .collect()
}

/// Splits at the commas that stand outside parentheses and brackets, with each part's place.
fn split_outside(text: &str) -> Vec<(usize, &str)> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ',' if depth <= 0 => {
                parts.push((start, &text[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push((start, &text[start..]));
    parts
}

fn requirement(part: &str) -> Result<Requirement, String> {
    let word = |text: &str| {
        let text = text.trim();
        if is_label_word(text) {
            Ok(text.to_owned())
        } else {
            Err(format!("{text:?} is not a label's name or value"))
        }
    };
    if let Some(label) = part.strip_prefix('!') {
        return Ok(Requirement { label: word(label)?, test: Test::Absent });
    }
    if let Some((label, value)) = part.split_once("!=") {
        return Ok(Requirement { label: word(label)?, test: Test::NotIn(vec![word(value)?]) });
    }
    if let Some((label, value)) = part.split_once('=') {
        return Ok(Requirement { label: word(label)?, test: Test::In(vec![word(value)?]) });
    }
    if let Some(list) = part.strip_suffix(')') {
        let (head, list) = list.split_once('(').ok_or("a `)` without its `(`")?;
        let (label, operator) = head
            .trim()
            .rsplit_once(char::is_whitespace)
            .ok_or_else(|| format!("{head:?} wants the form `label in (a,b)`"))?;
        let values = list.split(',').map(word).collect::<Result<Vec<_>, _>>()?;
        let test = match operator {
            "in" => Test::In(values),
            "notin" => Test::NotIn(values),
            other => return Err(format!("{other:?} is neither `in` nor `notin`")),
        };
        return Ok(Requirement { label: word(label)?, test });
    }
    Ok(Requirement { label: word(part)?, test: Test::Present })
}

fn parse_hosts(text: &str) -> Result<BTreeSet<String>, SelectorError> {
    let mut names = BTreeSet::new();
    if text.trim().is_empty() {
        return Ok(names);
    }
    for (_, pattern) in split_outside(text) {
        let pattern = pattern.trim();
        let error = |reason: String| SelectorError::Hosts { pattern: pattern.to_owned(), reason };
        for name in expand(pattern).map_err(error)? {
            if !is_host_name(&name) {
                return Err(error(NAMES.to_owned()));
            }
            names.insert(name);
        }
        if names.len() > MAX_NAMES {
            return Err(error(format!("more than {MAX_NAMES} hosts in all")));
        }
    }
    Ok(names)
}

/// `vps[08-10]` → vps08, vps09, vps10.
fn expand(pattern: &str) -> Result<Vec<String>, String> {
    let Some((head, rest)) = pattern.split_once('[') else { return Ok(vec![pattern.to_owned()]) };
    let (range, tail) = rest.split_once(']').ok_or("a `[` without its `]`")?;
    let mut names = Vec::new();
    for part in range.split(',') {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        if low.len() > 10 || high.len() > 10 {
            return Err(format!(
                "the range {} has more than 10 digits",
                part.chars().take(40).collect::<String>()
            ));
        }
        let number = |text: &str| text.parse::<u32>().map_err(|_| format!("{text:?} is not a number"));
        let (first, last) = (number(low)?, number(high)?);
        if first > last {
            return Err(format!("the range {part} runs backwards"));
        }
        if (last - first) as usize >= MAX_NAMES {
            return Err(format!("the range {part} holds more than {MAX_NAMES} hosts"));
        }
        let width = if low.starts_with('0') { low.len() } else { 0 };
        names.extend((first..=last).map(|n| format!("{head}{n:0width$}{tail}")));
    }
    if tail.contains('[') {
        return Err("one range is all that a name may have".to_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn select(labels: &str, hosts: &str) -> Result<Selector, SelectorError> {
        Selector::try_from(&v1::Selector {
            labels: labels.to_owned(),
            hosts: hosts.to_owned(),
            ..Default::default()
        })
    }

    fn labels(pairs: &[(&str, &str)]) -> Vec<v1::Label> {
        pairs.iter().map(|(n, v)| v1::Label { name: (*n).to_owned(), value: (*v).to_owned() }).collect()
    }

    #[test]
    fn every_form_of_requirement() {
        let host = labels(&[("env", "prod"), ("role", "api")]);
        for (text, expected) in [
            ("env=prod", true),
            ("env!=prod", false),
            ("role in (api, web)", true),
            ("role notin (api)", false),
            ("env", true),
            ("!canary", true),
            ("env=prod,role in (web),!canary", false),
            ("missing!=x", true),
        ] {
            assert_eq!(select(text, "").unwrap().matches("vps1", &host), expected, "{text}");
        }
    }

    #[test]
    fn ranges_keep_their_width() {
        let selector = select("", "vps[08-10],db1,web[1,3]").unwrap();
        for name in ["vps08", "vps09", "vps10", "db1", "web1", "web3"] {
            assert!(selector.matches(name, &[]), "{name}");
        }
        assert!(!selector.matches("vps8", &[]) && !selector.matches("web2", &[]));
        assert_eq!(selector.unknown_names(&["vps08", "vps09", "vps10", "db1", "web1"].into()), ["web3"]);
    }

    #[test]
    fn places_are_exactly_what_they_name() {
        let place = |host: &str, stack: &str| v1::Place { host: host.to_owned(), stack: stack.to_owned() };
        let written =
            v1::Selector { places: vec![place("vps1", "shop"), place("vps2", "")], ..Default::default() };
        let selector = Selector::try_from(&written).unwrap();
        assert!(selector.names_stacks() && selector.matches("vps1", &[]) && !selector.matches("vps3", &[]));
        let taken = [("vps1", "shop"), ("vps1", "blog"), ("vps1", ""), ("vps2", ""), ("vps2", "shop")]
            .map(|(host, stack)| selector.takes(host, stack));
        assert_eq!(taken, [true, false, false, true, false]);
        assert_eq!(selector.unknown_names(&["vps1"].into()), ["vps2"]);
        for more in [
            v1::Selector { all: true, ..written.clone() },
            v1::Selector { hosts: "vps1".to_owned(), ..written.clone() },
            v1::Selector { labels: "env=prod".to_owned(), ..written.clone() },
            v1::Selector { stack: "shop".to_owned(), ..written },
        ] {
            assert_eq!(Selector::try_from(&more).unwrap_err(), SelectorError::PlacesAndMore);
        }
        for bad in [place("", "shop"), place("vps[1-2]", "shop"), place("vps1", "Shop")] {
            let bad = v1::Selector { places: vec![bad], ..Default::default() };
            assert!(Selector::try_from(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn errors_name_the_place() {
        assert_eq!(select("", "").unwrap_err(), SelectorError::Empty);
        assert_eq!(
            select("env=prod,role on (a)", "").unwrap_err().to_string(),
            "label selector, column 10: \"on\" is neither `in` nor `notin`"
        );
        for bad in
            ["vps[3-1]", "vps[00000000001-2]", "vps[1-99999]", "vps[1", "vps[1-2][1-2]", "VPS1", "a..b", "-x"]
        {
            assert!(select("", bad).is_err(), "{bad}");
        }
        let all = v1::Selector { all: true, hosts: "vps1".to_owned(), ..Default::default() };
        assert_eq!(Selector::try_from(&all).unwrap_err(), SelectorError::AllAndMore);
    }

    proptest! {
        #[test]
        fn nothing_panics(labels in ".{0,60}", hosts in "[a-z0-9\\[\\],-]{0,20}") {
            let _ = select(&labels, &hosts);
        }
    }
}
