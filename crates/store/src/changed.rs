//! What is different between two configurations, in one line: which sections and files, not what they say.

use std::collections::BTreeMap;

use toml::{Table, Value};

use crate::keys;
use crate::written::{NamedFile, Written};

/// Sections and files that are named; more are counted. A line stays readable, and a list of revisions small.
const NAMED_MAX: usize = 6;

/// Longest name that is shown, in characters.
const NAME_CHARS_MAX: usize = 60;

/// Returns what `new` has changed, added and removed: `policy.app, +client.batch, -groups.old, file hosts.txt`.
pub(crate) fn line(old: &Written, new: &Written) -> String {
    let mut changes = Vec::new();
    if old.digest != new.digest {
        let (before, after) = (sections(&old.text), sections(&new.text));
        compare(&before, &after, "", &mut changes);
        if changes.is_empty() {
            changes.push("comments or layout".to_owned());
        }
    }
    fn files(written: &Written) -> BTreeMap<String, &NamedFile> {
        written.files.iter().map(|file| (file.name.to_string(), file)).collect()
    }
    compare(&files(old), &files(new), "file ", &mut changes);
    let more = changes.len().saturating_sub(NAMED_MAX);
    changes.truncate(NAMED_MAX);
    let line = changes.join(", ");
    if more > 0 { format!("{line} and {more} more") } else { line }
}

/// The parts of a text by the names of their headers: `proxy`, `policy.app`.
fn sections(text: &str) -> BTreeMap<String, Value> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // It has been loaded, so it parses.
    let table: Table = text.parse().unwrap_or_default();
    let mut found = BTreeMap::new();
    for (name, value) in table {
        let is_named = keys::SECTIONS.iter().any(|section| section.name == name && section.named);
        if let Some(tables) = value.as_table().filter(|_| is_named) {
            let tables = tables.iter().map(|(inner, value)| (format!("{name}.{inner}"), value.clone()));
            found.extend(tables);
        } else {
            found.insert(name, value);
        }
    }
    found
}

fn compare<T: PartialEq>(
    old: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
    kind: &str,
    changes: &mut Vec<String>,
) {
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let sign = match (old.get(name), new.get(name)) {
            (Some(before), Some(after)) if before == after => continue,
            (Some(_), Some(_)) => "",
            (None, _) => "+",
            (Some(_), None) => "-",
        };
        changes.push(format!("{sign}{kind}{}", cut(name)));
    }
}

fn cut(name: &str) -> String {
    match name.char_indices().nth(NAME_CHARS_MAX) {
        Some((end, _)) => format!("{}…", name.get(..end).unwrap_or_default()),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    #[test]
    fn sections_and_files_are_named() {
        let old = "[proxy]\ndisclose = true\n[policy.a]\nallow = [\"a.example\"]\n[policy.b]\n";
        for (case, new, want) in [
            ("the same", old, ""),
            (
                "a comment",
                "# A comment.\n[proxy]\ndisclose = true\n[policy.a]\nallow = [\"a.example\"]\n[policy.b]\n",
                "comments or layout",
            ),
            ("a rule", &old.replace("a.example", "b.example"), "policy.a"),
            ("a policy more, one less", &old.replace("policy.b", "policy.c"), "-policy.b, +policy.c"),
            ("a setting", &old.replace("true", "false"), "proxy"),
            ("everything", "", "-policy.a, -policy.b, -proxy"),
        ] {
            assert_eq!(line(&Written::new(old, vec![]), &Written::new(new, vec![])), want, "{case}");
        }
        let many: String = (0..9).map(|n| format!("[policy.p{n}]\n")).collect();
        let got = line(&Written::new("", vec![]), &Written::new(&many, vec![]));
        assert_eq!(got, "+policy.p0, +policy.p1, +policy.p2, +policy.p3, +policy.p4, +policy.p5 and 3 more");
        let file = |content: &str| NamedFile {
            name: "hosts.txt".into(),
            digest: Digest::of(content.as_bytes()),
            is_secret: false,
        };
        let with = |files: Vec<NamedFile>| Written::new(old, files);
        assert_eq!(line(&with(vec![file("a")]), &with(vec![file("b")])), "file hosts.txt");
        assert_eq!(line(&with(vec![]), &with(vec![file("b")])), "+file hosts.txt");
        let long = format!("[policy.{}]\n", "x".repeat(100));
        assert!(line(&Written::new("", vec![]), &Written::new(&long, vec![])).ends_with("xx…"));
    }
}
