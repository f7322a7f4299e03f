//! Which values of an env file are secrets.

use zeroize::Zeroizing;

/// Shorter values stand in every text by chance.
const SHORTEST: usize = 6;

/// A variable with one of these in its name holds a secret.
const SECRET: [&str; 16] = [
    "PASS",
    "PWD",
    "SECRET",
    "TOKEN",
    "KEY",
    "AUTH",
    "PRIVATE",
    "WEBHOOK",
    "SALT",
    "PEPPER",
    "COOKIE",
    "SESSION",
    "SIGN",
    "CREDENTIAL",
    "DSN",
    "CERT",
];

/// So many lines a quoted value may go on: more than the longest private key has, and a bound on how often a file of
/// open quotes is read.
const LINES: usize = 256;

/// A name that ends so says something *about* a secret: `REDIS_KEY_PREFIX=sylion` must not take the stack's own name
/// out of every text. A long value is taken for a secret all the same.
const ABOUT: [&str; 18] = [
    "PREFIX",
    "ID",
    "NAME",
    "FILE",
    "PATH",
    "TTL",
    "ALGORITHM",
    "ISSUER",
    "AUDIENCE",
    "HEADER",
    "LENGTH",
    "TYPE",
    "MODE",
    "DOMAIN",
    "DRIVER",
    "STORE",
    "TIMEOUT",
    "ENABLED",
];
const LONG: usize = 20;

/// A value as it may appear elsewhere.
pub type Value = Zeroizing<Vec<u8>>;

/// The secrets in an env file's text, each in the spellings that the file's own quoting allows.
pub(super) fn of(text: &[u8]) -> Vec<Value> {
    let mut secrets = Vec::new();
    let mut lines = text.split(|byte| *byte == b'\n');
    while let Some(line) = lines.next() {
        let Some((name, mut raw)) = assignment(line) else { continue };
        let mut whole: Value;
        if let Some(&quote @ (b'"' | b'\'')) = raw.first()
            && !raw[1..].contains(&quote)
        {
            // A quoted value goes on over the following lines, as private keys do; each of its lines is a secret too.
            // They are looked at again as lines of their own: a quote that somebody forgot hides no other variable.
            whole = Zeroizing::new(raw.to_vec());
            for line in lines.clone().take(LINES) {
                whole.push(b'\n');
                whole.extend_from_slice(line);
                if line.contains(&quote) {
                    break;
                }
            }
            raw = &whole;
        }
        secrets.extend(of_variable(name, raw));
    }
    secrets
}

/// The secrets in one variable's value, in the spellings that quoting and escaping allow.
pub fn of_variable(name: &[u8], raw: &[u8]) -> Vec<Value> {
    let mut secrets = Vec::new();
    for spelling in spellings(raw) {
        if is_secret(name, spelling.len()) {
            let parts =
                spelling.split(|byte| *byte == b'\n').map(|part| Zeroizing::new(part.trim_ascii().to_vec()));
            secrets.extend(parts);
        }
        secrets.extend(url_passwords(&spelling));
    }
    secrets.retain(|secret| secret.len() >= SHORTEST);
    secrets
}

fn assignment(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.trim_ascii();
    let line = line.strip_prefix(b"export ").unwrap_or(line);
    let at = line.iter().position(|byte| *byte == b'=')?;
    let name = line[..at].trim_ascii();
    // A comment may hold yesterday's password, so that it is read like the rest.
    Some((name.trim_ascii_start().strip_prefix(b"#").unwrap_or(name), line[at + 1..].trim_ascii()))
}

fn is_secret(name: &[u8], length: usize) -> bool {
    let name = String::from_utf8_lossy(name).to_ascii_uppercase();
    // The shell's own: a folder.
    if name == "PWD" {
        return false;
    }
    let about = name.rsplit('_').next().is_some_and(|last| ABOUT.contains(&last));
    SECRET.iter().any(|word| name.contains(word)) && (!about || length >= LONG)
}

/// A value as it stands, without its quotes, without a comment behind it, and with its escapes resolved: which of them
/// a program sees depends on who reads the file.
fn spellings(raw: &[u8]) -> Vec<Value> {
    let mut spellings = vec![Zeroizing::new(raw.to_vec())];
    if let Some((&quote @ (b'"' | b'\''), rest)) = raw.split_first() {
        let end = rest.iter().rposition(|byte| *byte == quote).unwrap_or(rest.len());
        let inner = &rest[..end];
        spellings.push(Zeroizing::new(inner.to_vec()));
        if let Some(first) = inner.iter().position(|byte| *byte == quote) {
            spellings.push(Zeroizing::new(inner[..first].to_vec()));
        }
        spellings.push(unescaped(inner));
    } else if let Some(at) = raw.windows(2).position(|pair| pair == b" #") {
        spellings.push(Zeroizing::new(raw[..at].trim_ascii().to_vec()));
    }
    for at in 0..spellings.len() {
        if spellings[at].windows(2).any(|pair| pair == b"$$") {
            spellings.push(replaced(&spellings[at], b"$$", b"$"));
        }
    }
    spellings
}

fn unescaped(text: &[u8]) -> Value {
    let mut plain = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        plain.push(match (byte, bytes.as_slice().first()) {
            (b'\\', Some(&next)) => {
                bytes.next();
                match next {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    other => other,
                }
            }
            _ => byte,
        });
    }
    plain
}

fn replaced(text: &[u8], from: &[u8; 2], to: &[u8]) -> Value {
    let mut plain = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text;
    while let Some(&first) = rest.first() {
        if rest.starts_with(from) {
            plain.extend_from_slice(to);
            rest = &rest[2..];
        } else {
            plain.push(first);
            rest = &rest[1..];
        }
    }
    plain
}

/// The passwords of `scheme://user:password@host`, wherever one ends: a password may itself hold an `@` or a `/`.
fn url_passwords(value: &[u8]) -> Vec<Value> {
    let Some(at) = value.windows(3).position(|window| window == b"://") else { return Vec::new() };
    let rest = &value[at + 3..];
    let Some(colon) = rest.iter().position(|byte| *byte == b':') else { return Vec::new() };
    let mut passwords = Vec::new();
    for (end, _) in rest.iter().enumerate().filter(|(end, byte)| **byte == b'@' && *end > colon) {
        let password = &rest[colon + 1..end];
        passwords.push(Zeroizing::new(password.to_vec()));
        passwords.push(percent_decoded(password));
    }
    passwords
}

fn percent_decoded(text: &[u8]) -> Value {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut plain = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        match (first, after) {
            (b'%', [high, low, after @ ..]) if digit(high).is_some() && digit(low).is_some() => {
                plain.push(digit(high).unwrap_or(0) * 16 + digit(low).unwrap_or(0));
                rest = after;
            }
            _ => {
                plain.push(first);
                rest = after;
            }
        }
    }
    plain
}
