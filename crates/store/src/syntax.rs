//! From text to a tree, with every syntax error told once.
//!
//! One missing bracket makes a parser misread all that follows. So a text that does not parse is cut into
//! statements (headers, and keys at the start of a line), each is parsed alone, and the tree is made of those that
//! are right: one error for each broken statement, and the rest is still checked.

use std::ops::Range;
use std::thread;

use toml::Spanned;
use toml::de::{DeTable, Error};

use crate::problem::{Code, Finding, shown};

/// Largest text of which all duplicates are told: each takes memory, and a larger broken file has one cause.
const RECOVERABLE_BYTES_MAX: usize = 1024 * 1024;

/// Larger texts are parsed in a thread of their own, in bytes.
const APART_BYTES_MIN: usize = 1024 * 1024;

/// What the parser says of a key that is set again.
const DUPLICATE: &str = "duplicate key";

/// A text as a tree.
pub(crate) struct Parsed<'t> {
    pub(crate) table: Spanned<DeTable<'t>>,
    pub(crate) errors: Vec<(Range<usize>, Finding)>,
    /// Whether there is more in the text than in the tree: broken statements are told and left out.
    pub(crate) broken: bool,
}

/// The statements of a broken text that are right, every other byte but line ends replaced by a space, so that
/// offsets stay.
struct Repaired {
    text: String,
    errors: Vec<(Range<usize>, Finding)>,
}

/// Parses a text. If it is broken, what is right of it is put in `right`, for the tree to refer to.
pub(crate) fn parse<'t>(text: &'t str, right: &'t mut String) -> Parsed<'t> {
    match tree(text) {
        Ok(table) => Parsed { table, errors: Vec::new(), broken: false },
        Err(error) if is_duplicate(&error) => {
            let (table, errors) = with_duplicates(text);
            Parsed { table, errors, broken: false }
        }
        Err(error) => {
            let repaired = repair(text, &error);
            *right = repaired.text;
            let (table, mut errors) = with_duplicates(right);
            errors.extend(repaired.errors);
            Parsed { table, errors, broken: true }
        }
    }
}

/// Parses a text that should be right.
///
/// The tree of a large text takes fifteen times as much memory. An allocator keeps memory for each thread apart, so
/// that all of it can be given back when the tree is gone; from among what is made while it stands, none could.
fn tree(text: &str) -> Result<Spanned<DeTable<'_>>, Error> {
    if text.len() < APART_BYTES_MIN {
        return DeTable::parse(text);
    }
    thread::scope(|scope| {
        let parser = thread::Builder::new().spawn_scoped(scope, || DeTable::parse(text));
        match parser.map(thread::ScopedJoinHandle::join) {
            Ok(Ok(result)) => result,
            // There is no thread to be had, or it has ended badly: here, then.
            Ok(Err(_)) | Err(_) => DeTable::parse(text),
        }
    })
}

/// Parses a text in which nothing is broken: what may be left are keys set twice.
fn with_duplicates(text: &str) -> (Spanned<DeTable<'_>>, Vec<(Range<usize>, Finding)>) {
    let (table, errors) = if text.len() <= RECOVERABLE_BYTES_MAX {
        DeTable::parse_recoverable(text)
    } else {
        match DeTable::parse(text) {
            Ok(table) => (table, Vec::new()),
            Err(error) => (Spanned::new(0..0, DeTable::new()), vec![error]),
        }
    };
    (table, errors.iter().map(|error| (span(error, 0), finding(error))).collect())
}

/// Returns the errors of a text that the parser refuses with `error`, and the text without them.
fn repair(text: &str, error: &Error) -> Repaired {
    let mut repaired = Repaired { text: String::with_capacity(text.len()), errors: Vec::new() };
    let mut in_broken_table = false;
    for range in statements(text) {
        let statement = text.get(range.clone()).unwrap_or_default();
        let is_header = starts_header(statement);
        let error = DeTable::parse(statement).err();
        in_broken_table = if is_header { error.is_some() } else { in_broken_table };
        match &error {
            None if !in_broken_table => repaired.text.push_str(statement),
            Some(_) | None => repaired.text.extend(statement.chars().flat_map(blank)),
        }
        if let Some(error) = error {
            repaired.errors.push((span(&error, range.start), finding(&error)));
        }
    }
    // Every statement is right alone, so the cut was wrong: say what the parser says of the whole.
    if repaired.errors.is_empty() {
        repaired.errors.push((span(error, 0), finding(error)));
        repaired.text.clear();
    }
    repaired
}

/// Cuts a text before each header and each key at the start of a line.
fn statements(text: &str) -> Vec<Range<usize>> {
    let mut cuts = vec![0];
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if start > 0 && (starts_header(line) || starts_key(line)) {
            cuts.push(start);
        }
        start += line.len();
    }
    cuts.push(text.len());
    cuts.windows(2).filter_map(|cut| Some(*cut.first()?..*cut.last()?)).collect()
}

/// `[name` or `[[name` at the start of a line. A list's element that starts so is in quotes.
fn starts_header(line: &str) -> bool {
    line.starts_with('[')
        && line.trim_start_matches('[').trim_start().starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// `name =` or `name.name =` at the start of a line.
fn starts_key(line: &str) -> bool {
    let Some((key, _)) = line.split_once('=') else { return false };
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    !key.starts_with(char::is_whitespace) && !key.trim_end().is_empty() && key.trim_end().chars().all(is_part)
}

/// The character as spaces of the same length; line ends stay.
fn blank(character: char) -> impl Iterator<Item = char> {
    let (blank, len) =
        if matches!(character, '\n' | '\r') { (character, 1) } else { (' ', character.len_utf8()) };
    std::iter::repeat_n(blank, len)
}

fn is_duplicate(error: &Error) -> bool {
    error.message() == DUPLICATE
}

fn span(error: &Error, offset: usize) -> Range<usize> {
    let span = error.span().unwrap_or_default();
    span.start + offset..span.end + offset
}

fn finding(error: &Error) -> Finding {
    if is_duplicate(error) {
        let finding = Finding::error(Code::Duplicate, "this key is set twice").label("set again here");
        return finding.help("keep one of the two");
    }
    let (message, expected) = match error.message().split_once(", expected ") {
        Some((message, expected)) => (message, Some(expected)),
        None => (error.message(), None),
    };
    let finding = Finding::error(Code::Syntax, shown(message));
    match (message, expected) {
        ("string values must be quoted", _) => finding.help("put the text in double quotes"),
        (_, Some("nothing") | None) => finding,
        (_, Some(expected)) => finding.help(format!("expected {}", shown(expected))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_error_is_told_for_each_broken_statement_and_the_rest_is_kept() {
        let cases = [
            ("right", "[a]\nb = 1\n", None),
            ("set twice is not broken", "a = 1\na = 2\n", None),
            ("value", "[a]\nb = x\nc = 1\n", Some(("[a]\n     \nc = 1\n", vec![8]))),
            ("list that is not closed", "a = [1\nb = 2\n[c]\n", Some(("      \nb = 2\n[c]\n", vec![6]))),
            (
                "table that is not closed",
                "[a\nb = 1\n[c]\nd = 2\n",
                Some(("  \n     \n[c]\nd = 2\n", vec![2])),
            ),
            ("two", "a = \nb = [\"é\nc = 1", Some(("    \n        \nc = 1", vec![4, 13]))),
            ("list over lines", "a = [\n 1,\n]\nb = \n", Some(("a = [\n 1,\n]\n    \n", vec![16]))),
        ];
        for (name, text, want) in cases {
            let mut right = String::new();
            let parsed = parse(text, &mut right);
            let starts: Vec<usize> = parsed.errors.iter().map(|(span, _)| span.start).collect();
            let broken = parsed.broken;
            let got = broken.then_some((right.as_str(), starts));
            assert_eq!(got, want, "{name}");
            assert!(!broken || right.len() == text.len(), "{name}");
        }
    }

    #[test]
    fn a_large_text_is_parsed_like_any_other() {
        let filler = "# filler\n".repeat(APART_BYTES_MIN / 8);
        for (name, end, keys, broken) in [
            ("right", "a = 1\n", 1, false),
            ("broken", "a = 1\nb = \n", 1, true),
            ("twice", "a = 1\na = 2\n", 0, false),
        ] {
            let (text, mut right) = (format!("{filler}{end}"), String::new());
            let parsed = parse(&text, &mut right);
            assert_eq!((parsed.table.get_ref().len(), parsed.broken), (keys, broken), "{name}");
            assert_eq!(parsed.errors.is_empty(), name == "right", "{name}");
        }
    }
}
