//! Finds what no report may print: passwords, in whatever key a slip of the hand put them.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::keys;

/// The keys of a client whose values are not secret.
const PUBLIC_CLIENT_KEYS: [&str; 2] = ["policies", "labels"];

/// The keys of a next hop whose values are not secret. What stands before an `@` in a URL is. A path is not one,
/// but in `password_file` and `key` somebody may have written what belongs in the file.
const PUBLIC_HOP_KEYS: [&str; 6] = ["url", "username", "ca", "server_name", "cert", "proxy_protocol"];

/// The keys of an issuer whose values are not secret. In `jwks` somebody may have put a private key.
const PUBLIC_ISSUER_KEYS: [&str; 9] = [
    "issuer",
    "audience",
    "ceiling",
    "policies",
    "max_lifetime",
    "leeway",
    "user_prefix",
    "password_prefix",
    "enforce_container_binding",
];

/// Parts of key names that announce a secret.
const SECRET_WORDS: [&str; 8] =
    ["passw", "pasw", "passphrase", "pwd", "secret", "hash", "credential", "token"];

/// How password hashes begin, wherever they stand.
const HASH_STARTS: [&str; 2] = ["$argon2", "sha256:"];

/// Returns the byte ranges that must not be printed. `broken` says that the text is not TOML, so that `table`
/// may miss parts of it: then whole lines are hidden on suspicion.
pub(crate) fn find(text: &str, table: &DeTable<'_>, broken: bool) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    find_hashes(text, &mut found);
    find_userinfo(text, &mut found);
    for (key, value) in table {
        if key.get_ref() == keys::CLIENT.name {
            in_named(value, &PUBLIC_CLIENT_KEYS, &mut found);
        } else if key.get_ref() == keys::NEXT_HOP.name {
            in_named(value, &PUBLIC_HOP_KEYS, &mut found);
            before_at_signs(value, &mut found);
        } else if key.get_ref() == keys::ISSUER.name {
            in_named(value, &PUBLIC_ISSUER_KEYS, &mut found);
        } else {
            under_secret_keys(key.get_ref(), value, &mut found);
        }
    }
    if broken {
        find_in_lines(text, &mut found);
    }
    found
}

/// Every value of every named table, but those known to be public.
fn in_named(tables: &Spanned<DeValue<'_>>, public: &[&str], found: &mut Vec<Range<usize>>) {
    let DeValue::Table(tables) = tables.get_ref() else { return strings(tables, found) };
    for table in tables.values() {
        let DeValue::Table(fields) = table.get_ref() else {
            strings(table, found);
            continue;
        };
        for (key, value) in fields {
            if !public.contains(&key.get_ref().as_ref()) {
                strings(value, found);
            }
        }
    }
}

/// Whole strings that have an `@` somewhere: what is secret in a malformed URL, nobody knows.
fn before_at_signs(value: &Spanned<DeValue<'_>>, found: &mut Vec<Range<usize>>) {
    match value.get_ref() {
        DeValue::String(text) if text.contains('@') => strings(value, found),
        DeValue::Table(table) => table.values().for_each(|value| before_at_signs(value, found)),
        DeValue::Array(list) => list.iter().for_each(|value| before_at_signs(value, found)),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => {}
    }
}

fn under_secret_keys(key: &str, value: &Spanned<DeValue<'_>>, found: &mut Vec<Range<usize>>) {
    if is_secret_word(key) {
        return strings(value, found);
    }
    match value.get_ref() {
        DeValue::Table(table) => {
            for (key, value) in table {
                under_secret_keys(key.get_ref(), value, found);
            }
        }
        DeValue::Array(list) => {
            for value in list {
                under_secret_keys("", value, found);
            }
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => {}
    }
}

/// The scalars of a value, without the quotes around strings.
fn strings(value: &Spanned<DeValue<'_>>, found: &mut Vec<Range<usize>>) {
    match value.get_ref() {
        DeValue::String(_) => {
            let span = value.span();
            found.push(span.start + 1..span.end.saturating_sub(1).max(span.start + 1));
        }
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Datetime(_) => found.push(value.span()),
        DeValue::Boolean(_) => {}
        DeValue::Array(list) => list.iter().for_each(|value| strings(value, found)),
        DeValue::Table(table) => table.values().for_each(|value| strings(value, found)),
    }
}

fn is_secret_word(key: &str) -> bool {
    let key = key.to_lowercase();
    SECRET_WORDS.iter().any(|word| key.contains(word))
}

/// Password hashes anywhere, comments included.
fn find_hashes(text: &str, found: &mut Vec<Range<usize>>) {
    for start in HASH_STARTS {
        for (at, _) in text.match_indices(start) {
            let rest = text.get(at..).unwrap_or_default();
            let len = rest
                .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ']' | '#'))
                .unwrap_or(rest.len());
            found.push(at..at + len);
        }
    }
}

/// The user and password of URLs.
fn find_userinfo(text: &str, found: &mut Vec<Range<usize>>) {
    for (at, mark) in text.match_indices("://") {
        let start = at + mark.len();
        let rest = text.get(start..).unwrap_or_default();
        let len = rest
            .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '/' | ','))
            .unwrap_or(rest.len());
        if let Some(end) = rest.get(..len).and_then(|authority| authority.rfind('@')) {
            found.push(start..start + end);
        }
    }
}

/// Reads lines as a person would: a key that may hold a secret hides the rest of its line and the lines that
/// continue it.
fn find_in_lines(text: &str, found: &mut Vec<Range<usize>>) {
    let (mut start, mut public, mut hiding) = (0, None::<&[&str]>, false);
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        let end = start + line.trim_end().len();
        let indent = line.len() - line.trim_start().len();
        let key = line.split_once('=').map(|(key, _)| key.trim().trim_matches(['"', '\'']));
        if is_header(trimmed) {
            let title = trimmed.trim_start_matches('[').trim_start();
            public = if title.starts_with(keys::CLIENT.name) {
                Some(&PUBLIC_CLIENT_KEYS)
            } else if title.starts_with(keys::NEXT_HOP.name) {
                Some(&PUBLIC_HOP_KEYS)
            } else if title.starts_with(keys::ISSUER.name) {
                Some(&PUBLIC_ISSUER_KEYS)
            } else {
                None
            };
            hiding = false;
        } else if let Some(key) = key.filter(|key| is_key(key)) {
            let name = key.rsplit('.').next().unwrap_or(key);
            let has_userinfo = name == "url" && line.contains('@');
            hiding = is_secret_word(line) || has_userinfo || public.is_some_and(|keys| !keys.contains(&name));
            if hiding {
                let after = line.find('=').map_or(0, |at| at + 1);
                let value = line.get(after..).unwrap_or_default();
                found.push(start + after + (value.len() - value.trim_start().len())..end);
            }
        } else if !trimmed.is_empty() && (hiding || is_secret_word(line)) {
            found.push(start + indent..end);
        }
        start += line.len();
    }
}

/// `[name` or `[[name`, and not the start of a list's element.
fn is_header(trimmed: &str) -> bool {
    trimmed.starts_with('[') && !trimmed.contains(['"', '\'']) && !trimmed.contains('=')
}

fn is_key(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ' '))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Source;

    /// The text with what is hidden replaced, line by line, as excerpts show it.
    fn shown(text: &str) -> String {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut source = Source::new("t".into(), text);
        source.hide(find(text, table.get_ref(), !errors.is_empty()));
        source.printable()
    }

    #[test]
    fn secrets_are_hidden_wherever_they_stand() {
        let hash = format!("sha256:{}", "0".repeat(64));
        let cases = [
            ("a list", "[client.a]\npasswords = [\"one\", 'two']\n".to_owned()),
            ("a misspelled key", "[client.a]\npaswords = \"one\"".to_owned()),
            ("a foreign key", "[client.a]\nkey = \"one\"".to_owned()),
            ("a misspelled section", "[clients.a]\npassword = \"one\"".to_owned()),
            ("an inline table", "client = { a = { passwords = [\"one\"] } }".to_owned()),
            ("a dotted key", "client.a.passwords = [\"one\"]".to_owned()),
            ("a number", "[client.a]\npasswords = [1111]".to_owned()),
            ("several lines", "[client.a]\npasswords = [\n  \"one\",\n  \"two\",\n]".to_owned()),
            ("an unclosed string", "[client.a]\npasswords = [\"one\npolicies = [\"p\"]".to_owned()),
            ("an unclosed list", "[client.a]\npasswords = [\n  \"one\"\n".to_owned()),
            ("no quotes", "[client.a]\npasswords = one".to_owned()),
            ("no equals sign", "[client.a]\npasswords \"one\"".to_owned()),
            ("a hash in a comment", format!("# was {hash}")),
            ("a hash elsewhere", format!("[policy.a]\nallow = [\"{hash}\"]")),
            ("the URL of a next hop", "[next_hop.a]\nurl = \"http://one:two@proxy.example:3128\"".to_owned()),
            (
                "a slash in its password",
                "[next_hop.a]\nurl = \"http://one:/two@proxy.example:3128\"".to_owned(),
            ),
            ("a list of URLs", "[next_hop.a]\nurl = [\"http://one:/two@proxy.example:3128\"]".to_owned()),
            (
                "a broken URL",
                "[next_hop.a]\nurl = \"http://one:/two@proxy.example:3128\nusername =".to_owned(),
            ),
            ("a foreign key of a next hop", "[next_hop.a]\nkey = \"one\"".to_owned()),
            ("userinfo", "[policy.a]\nallow = [\"https://one:two@api.example.com/\"]".to_owned()),
        ];
        for (name, text) in cases {
            let shown = shown(&text);
            for secret in ["one", "two", "1111", "000"] {
                assert!(!shown.contains(secret), "{name}: {shown}");
            }
            assert!(shown.contains('…'), "{name}: {shown}");
        }
    }

    #[test]
    fn what_is_not_secret_is_shown() {
        let texts = [
            "[client.a]\npolicies = [\"one\"]\nlabels = { app = \"two\" }",
            "[next_hop.one]\nurl = \"http://two.example:1111\"\nusername = \"one\"",
            "[policy.one]\nallow = [\"two.example.com\"]",
            "[proxy]\nlisten = [\"127.0.0.1:1111\"",
        ];
        for text in texts {
            assert_eq!(shown(text), text);
        }
    }
}
