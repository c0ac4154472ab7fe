//! Small readers, one per type of value: each returns the value, or says what is wrong and returns `None`.

use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use exeat_model::{duration_text, parse_duration};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::keys;
use crate::notes::Notes;
use crate::problem::{Code, Finding, shown};
use crate::suggest::{closest, listed};

/// A value with its place.
pub(crate) type Value<'i> = Spanned<DeValue<'i>>;

/// What a value is, in messages.
#[derive(Clone, Copy)]
pub(crate) enum What<'w> {
    /// The value of a key.
    Key(&'w str),
    /// An element of a list, with its article: `a port`.
    Element(&'w str),
}

impl What<'_> {
    /// The correction: this text instead of what is there.
    fn write(self, text: &str) -> String {
        match self {
            Self::Key(key) => format!("write {} = {text}", shown(key)),
            Self::Element(_) => format!("write {text}"),
        }
    }
}

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "`{}`", shown(key)),
            Self::Element(element) => f.write_str(element),
        }
    }
}

/// A table whose keys have been checked against those it may have.
pub(crate) struct Fields<'v, 'i> {
    table: &'v DeTable<'i>,
    span: Range<usize>,
}

impl<'v, 'i> Fields<'v, 'i> {
    /// Reports every key of `table` that is not in `known`. `title` names the table, such as `[proxy]`; `span`
    /// is where a missing key is reported.
    pub(crate) fn check(
        table: &'v DeTable<'i>,
        span: Range<usize>,
        title: &str,
        known: &[&'static str],
        notes: &mut Notes,
    ) -> Self {
        for key in table.keys() {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                let finding =
                    Finding::error(Code::UnknownKey, format!("unknown key `{}` in {title}", shown(name)));
                let finding = finding.label("this key has no meaning");
                notes.push(
                    key.span(),
                    if notes.is_full() { finding } else { finding.help(key_help(name, title, known)) },
                );
            }
        }
        Self { table, span }
    }

    /// Returns the value of a key, if it is there.
    pub(crate) fn get(&self, key: &str) -> Option<&'v Value<'i>> {
        self.table.get(key)
    }

    /// Returns the span of a key, if it is there.
    pub(crate) fn key_span(&self, key: &str) -> Option<Range<usize>> {
        self.table.get_key_value(key).map(|(key, _)| key.span())
    }

    /// Returns the span of the whole table, or of its header.
    pub(crate) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Reads a string.
    pub(crate) fn string(&self, key: &str, notes: &mut Notes) -> Option<&'v str> {
        string(self.get(key)?, What::Key(key), notes)
    }

    /// Reads `true` or `false`.
    pub(crate) fn boolean(&self, key: &str, notes: &mut Notes) -> Option<bool> {
        let value = self.get(key)?;
        if let DeValue::Boolean(boolean) = value.get_ref() {
            return Some(*boolean);
        }
        let help = value.get_ref().as_str().filter(|text| matches!(*text, "true" | "false"));
        wrong_type(
            value,
            What::Key(key),
            "`true` or `false`",
            help.map(|text| format!("write {key} = {text}")),
            notes,
        );
        None
    }

    /// Reads a list, and its elements one by one.
    pub(crate) fn list(&self, key: &str, of: &str, notes: &mut Notes) -> Option<&'v [Value<'i>]> {
        list(self.get(key)?, What::Key(key), of, notes)
    }

    /// Reads an integer within a range.
    pub(crate) fn integer(&self, key: &str, range: &RangeInclusive<u64>, notes: &mut Notes) -> Option<u64> {
        integer(self.get(key)?, What::Key(key), range, notes)
    }

    /// Reads a duration within a range.
    pub(crate) fn duration(
        &self,
        key: &str,
        range: &RangeInclusive<Duration>,
        notes: &mut Notes,
    ) -> Option<Duration> {
        let value = self.get(key)?;
        let (low, high) = (duration_text(*range.start()), duration_text(*range.end()));
        let read = match value.get_ref() {
            DeValue::String(text) => parse_duration(text),
            DeValue::Integer(number) if number.as_str().bytes().all(|byte| byte.is_ascii_digit()) => {
                let help = format!("write {key} = \"{number}s\"");
                wrong_type(value, What::Key(key), "a duration such as \"10s\"", Some(help), notes);
                return None;
            }
            DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => {
                wrong_type(value, What::Key(key), "a duration such as \"10s\"", None, notes);
                return None;
            }
        };
        let (message, help) = match read {
            Some(read) if range.contains(&read) => return Some(read),
            Some(_) => {
                (format!("`{key}` is out of range"), format!("write a duration from \"{low}\" to \"{high}\""))
            }
            None => {
                let text = shown(value.get_ref().as_str().unwrap_or_default());
                let units = "write a whole number and a unit (ms, s, m, h or d), such as \"10s\" or \"5m\"";
                (format!("`{text}` is not a duration"), units.to_owned())
            }
        };
        notes.push(value.span(), Finding::error(Code::InvalidValue, message).help(help));
        None
    }

    /// Reads one word of a fixed set, through the function that parses it.
    pub(crate) fn word<T>(
        &self,
        key: &str,
        words: &[&'static str],
        parse: impl Fn(&str) -> Option<T>,
        notes: &mut Notes,
    ) -> Option<T> {
        let text = self.string(key, notes)?;
        let parsed = parse(text);
        if parsed.is_none() {
            let message = format!("`{}` is not a value of `{key}`", shown(text));
            let guess = closest(text, words.iter().copied());
            let choice = format!(
                "write {}",
                words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ")
            );
            let help = guess.map_or(choice.clone(), |guess| format!("did you mean \"{guess}\"? {choice}"));
            let span = self.get(key).map_or(self.span(), Spanned::span);
            notes.push(span, Finding::error(Code::InvalidValue, message).help(help));
        }
        parsed
    }

    /// Returns the value of a key that must be there.
    pub(crate) fn required(
        &self,
        key: &str,
        title: &str,
        help: &str,
        notes: &mut Notes,
    ) -> Option<&'v Value<'i>> {
        let value = self.get(key);
        if value.is_none() {
            let finding = Finding::error(Code::MissingKey, format!("{title} needs `{key}`"));
            notes.push(self.span(), finding.help(help));
        }
        value
    }
}

/// Reads a string; `what` is the key or the list it stands in.
pub(crate) fn string<'v>(value: &'v Value<'_>, what: What<'_>, notes: &mut Notes) -> Option<&'v str> {
    if let DeValue::String(text) = value.get_ref() {
        return Some(text);
    }
    let help = match value.get_ref() {
        DeValue::Integer(number) => Some(what.write(&format!("\"{}\"", shown(&number.to_string())))),
        DeValue::String(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => None,
    };
    wrong_type(value, what, "a string", help, notes);
    None
}

/// Reads an integer within a range; `what` is the key or the list it stands in.
pub(crate) fn integer(
    value: &Value<'_>,
    what: What<'_>,
    range: &RangeInclusive<u64>,
    notes: &mut Notes,
) -> Option<u64> {
    let DeValue::Integer(number) = value.get_ref() else {
        let digits = value.get_ref().as_str().filter(|text| text.parse::<u64>().is_ok());
        wrong_type(value, what, "an integer", digits.map(|text| what.write(text)), notes);
        return None;
    };
    let read = u64::from_str_radix(number.as_str(), number.radix()).ok().filter(|read| range.contains(read));
    if read.is_none() {
        let message = format!("{what} is out of range");
        let help = format!("write a number from {} to {}", range.start(), range.end());
        notes.push(value.span(), Finding::error(Code::InvalidValue, message).help(help));
    }
    read
}

/// Reads a list; `of` says what its elements are, such as `entries`.
pub(crate) fn list<'v, 'i>(
    value: &'v Value<'i>,
    what: What<'_>,
    of: &str,
    notes: &mut Notes,
) -> Option<&'v [Value<'i>]> {
    if let DeValue::Array(list) = value.get_ref() {
        return Some(list);
    }
    let alone = value.get_ref().as_str().map(|text| what.write(&format!("[\"{}\"]", shown(text))));
    wrong_type(value, what, &format!("a list of {of}"), alone, notes);
    None
}

/// Reads a table; `help` shows how to write it.
pub(crate) fn table<'v, 'i>(
    value: &'v Value<'i>,
    what: What<'_>,
    help: &str,
    notes: &mut Notes,
) -> Option<&'v DeTable<'i>> {
    if let DeValue::Table(table) = value.get_ref() {
        return Some(table);
    }
    wrong_type(value, what, "a table", Some(help.to_owned()), notes);
    None
}

/// Reports a value of another type than expected.
pub(crate) fn wrong_type(
    value: &Value<'_>,
    what: What<'_>,
    expected: &str,
    help: Option<String>,
    notes: &mut Notes,
) {
    let found = type_of(value.get_ref());
    let finding = Finding::error(Code::WrongType, format!("{what} must be {expected}, not {found}"));
    let finding = finding.label(format!("this is {found}"));
    notes.push(value.span(), Finding { help, ..finding });
}

fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The correction of an unknown key: the key it looks like, or the section where it belongs.
fn key_help(name: &str, title: &str, known: &[&'static str]) -> String {
    let known_keys = format!("{title} takes {}", listed(known.iter().copied()));
    if let Some(guess) = closest(name, known.iter().copied()) {
        return format!("did you mean `{guess}`? {known_keys}");
    }
    match keys::sections_of(name) {
        Some(sections) => format!("`{name}` belongs in {sections}; {known_keys}"),
        None => known_keys,
    }
}
