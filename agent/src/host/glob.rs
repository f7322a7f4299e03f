//! File name patterns as nginx's `include` and `.dockerignore` write them. Pure: no folder is read.

/// Whether a path matches a pattern: `*` and `?` within one folder, `[…]` sets.
pub fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<char>, Vec<char>) = (pattern.chars().collect(), path.chars().collect());
    // The usual two-pointer walk: on a mismatch the last star takes one character more.
    let (mut p, mut s) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while s < path.len() {
        let one = match pattern.get(p) {
            Some('*') => {
                star = Some((p, s));
                p += 1;
                continue;
            }
            Some('?') => (path[s] != '/').then_some(1),
            Some('[') => set(&pattern[p..], path[s]),
            Some(c) => (*c == path[s]).then_some(1),
            None => None,
        };
        if let Some(width) = one {
            p += width;
            s += 1;
        } else if let Some((at, taken)) = star.filter(|(_, taken)| path[*taken] != '/') {
            star = Some((at, taken + 1));
            (p, s) = (at + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Whether a character is in the set that a pattern begins with; how wide the set is written.
fn set(pattern: &[char], c: char) -> Option<usize> {
    let end = 2 + pattern.get(2..)?.iter().position(|c| *c == ']')?;
    let negated = matches!(pattern[1], '!' | '^');
    let members = &pattern[if negated { 2 } else { 1 }..end];
    let mut found = false;
    for (at, member) in members.iter().enumerate() {
        found |= *member == c;
        if *member == '-' && at > 0 && at + 1 < members.len() {
            found |= (members[at - 1]..=members[at + 1]).contains(&c);
        }
    }
    (found != negated && c != '/').then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns() {
        assert!(matches("/etc/nginx/*.conf", "/etc/nginx/a.conf"));
        assert!(!matches("/etc/nginx/*.conf", "/etc/nginx/a/b.conf"));
        assert!(matches("/a/*/[a-c]?[!x]", "/a/long/b1y"));
        assert!(!matches("/a/*/[a-c]?[!x]", "/a/long/b1x"));
        assert!(matches("/a/**", "/a/b"));
        assert!(!matches("/a/[", "/a/b"));
    }

    proptest! {
        #[test]
        fn patterns_end(pattern in "[a*?/\\[\\]!-]{0,20}", path in "[a/]{0,20}") {
            matches(&pattern, &path);
        }

        #[test]
        fn a_path_matches_itself(path in "(/[a-z0-9._-]{1,8}){1,4}") {
            prop_assert!(matches(&path, &path));
        }
    }
}
