//! Host names folded into ranges: `db1,vps[1-3]`. What is written here, `-H` reads back.

use std::collections::{BTreeMap, BTreeSet};

/// Folds names into as few patterns as there are, each name once.
pub fn fold<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: BTreeSet<&str> = names.into_iter().collect();
    let numbered: Vec<_> = names.iter().map(|name| (*name, Numbered::of(name))).collect();
    // A number without leading zeros belongs to the padded ones of its width, if there are any: 08, 09, 10.
    let padded: BTreeSet<_> = numbered
        .iter()
        .filter_map(|(_, numbered)| numbered.as_ref().filter(|n| n.is_padded()))
        .map(|n| (n.head, n.tail, n.digits.len()))
        .collect();
    let mut patterns: BTreeMap<(&str, &str, usize), BTreeSet<u32>> = BTreeMap::new();
    let mut plain = Vec::new();
    for (name, numbered) in &numbered {
        let Some(n) = numbered else {
            plain.push((*name).to_owned());
            continue;
        };
        let width = n.digits.len();
        let width = if padded.contains(&(n.head, n.tail, width)) { width } else { 0 };
        patterns.entry((n.head, n.tail, width)).or_default().insert(n.value);
    }
    plain.extend(
        patterns.into_iter().map(|((head, tail, width), values)| pattern(head, tail, width, &values)),
    );
    plain.sort();
    plain.join(",")
}

/// The same with how many there are, where that is not one.
pub fn counted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: BTreeSet<&str> = names.into_iter().collect();
    match names.len() {
        1 => fold(names),
        count => format!("{} ({count})", fold(names)),
    }
}

/// A name around the last number in it.
struct Numbered<'a> {
    head: &'a str,
    digits: &'a str,
    tail: &'a str,
    value: u32,
}

impl<'a> Numbered<'a> {
    fn of(name: &'a str) -> Option<Self> {
        let end = name.rfind(|c: char| c.is_ascii_digit())? + 1;
        let start = name[..end]
            .rfind(|c: char| !c.is_ascii_digit())
            .map_or(0, |at| at + name[at..].chars().next().map_or(1, char::len_utf8));
        let digits = &name[start..end];
        Some(Self { head: &name[..start], digits, tail: &name[end..], value: digits.parse().ok()? })
    }

    fn is_padded(&self) -> bool {
        self.digits.len() > 1 && self.digits.starts_with('0')
    }
}

fn pattern(head: &str, tail: &str, width: usize, values: &BTreeSet<u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for value in values.iter().copied() {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == value => *last = value,
            _ => ranges.push((value, value)),
        }
    }
    if let [(only, last)] = ranges[..]
        && only == last
    {
        return format!("{head}{only:0width$}{tail}");
    }
    let parts: Vec<_> = ranges
        .into_iter()
        .map(|(first, last)| match last - first {
            0 => format!("{first:0width$}"),
            _ => format!("{first:0width$}-{last:0width$}"),
        })
        .collect();
    format!("{head}[{}]{tail}", parts.join(","))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vigie_proto::{selector::Selector, v1};

    use super::*;

    #[test]
    fn ranges() {
        for (names, folded) in [
            (&["vps3", "vps1", "vps2"][..], "vps[1-3]"),
            (&["vps1", "vps3", "vps4", "db"], "db,vps[1,3-4]"),
            (&["vps08", "vps09", "vps10"], "vps[08-10]"),
            (&["vps8", "vps9", "vps10"], "vps[8-10]"),
            (&["web1.eu", "web2.eu", "web1.us"], "web1.us,web[1-2].eu"),
            (&["vps7"], "vps7"),
            (&[], ""),
        ] {
            assert_eq!(fold(names.iter().copied()), folded);
        }
        assert_eq!(counted(["vps1", "vps2"]), "vps[1-2] (2)");
        assert_eq!(counted(["vps1"]), "vps1");
    }

    proptest! {
        /// No host is lost and none is made up, whatever the names: `-H` selects exactly these again.
        #[test]
        fn what_is_folded_selects_the_same_hosts(
            names in prop::collection::btree_set("[a-c][0-9]{0,3}(-[0-9]{1,2})?[a-b]?", 1..30),
            others in prop::collection::btree_set("[a-c][0-9]{0,3}(-[0-9]{1,2})?[a-b]?", 0..30),
        ) {
            let hosts = fold(names.iter().map(String::as_str));
            let selector =
                Selector::try_from(&v1::Selector { hosts: hosts.clone(), ..Default::default() }).unwrap();
            for name in &names {
                prop_assert!(selector.matches(name, &[]), "{} is not in {}", name, hosts);
            }
            for name in others.difference(&names) {
                prop_assert!(!selector.matches(name, &[]), "{} is in {}", name, hosts);
            }
        }
    }
}
