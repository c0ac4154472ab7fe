//! One problem found in a configuration: what, where, and what to write instead.

use std::fmt::Write as _;
use std::sync::Arc;

/// Whether a problem stops the configuration from loading.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration loads, but does something its author should know of.
    Warning,
}

impl Severity {
    /// Returns the word used in reports: `error` or `warning`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// What kind of problem it is: a stable token for editors and scripts.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub enum Code {
    /// A file could not be read.
    Unreadable,
    /// The file, a line or a list is larger than a limit.
    TooLarge,
    /// The text is not TOML.
    Syntax,
    /// A key or a table appears twice.
    Duplicate,
    /// A key or a section that does not exist.
    UnknownKey,
    /// A policy, group or label that is referred to but does not exist.
    UnknownReference,
    /// A key that must be there is not.
    MissingKey,
    /// A value of another type than the key takes.
    WrongType,
    /// A value of the right type that means nothing.
    InvalidValue,
    /// An entry of an allow or deny list that is refused.
    InvalidEntry,
    /// Keys or values that exclude each other.
    Conflict,
    /// A password that is not a hash.
    PlainPassword,
    /// Valid, but wider or narrower than it may look.
    Suspicious,
    /// Defined and never referred to.
    Unused,
    /// Stands for the problems of a file that are not shown.
    More,
    /// Others can read a file that holds secrets.
    Permissions,
}

impl Code {
    /// Returns the stable token, such as `unknown_key`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::TooLarge => "too_large",
            Self::Syntax => "syntax",
            Self::Duplicate => "duplicate",
            Self::UnknownKey => "unknown_key",
            Self::UnknownReference => "unknown_reference",
            Self::MissingKey => "missing_key",
            Self::WrongType => "wrong_type",
            Self::InvalidValue => "invalid_value",
            Self::InvalidEntry => "invalid_entry",
            Self::Conflict => "conflict",
            Self::PlainPassword => "plain_password",
            Self::Suspicious => "suspicious",
            Self::Unused => "unused",
            Self::More => "more",
            Self::Permissions => "permissions",
        }
    }
}

/// The words of a problem, before it is placed in a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) label: Option<String>,
    pub(crate) help: Option<String>,
}

impl Finding {
    /// An error with this message.
    pub(crate) fn error(code: Code, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, code, message: message.into(), label: None, help: None }
    }

    /// A warning with this message.
    pub(crate) fn warning(code: Code, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, message) }
    }

    /// Adds the words written under the underline.
    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Adds the correction.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Where a problem lies. Lines and columns start at 1; columns count characters, and `end_column` is one past
/// the last underlined character of the line.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct Location {
    /// The line.
    pub line: u32,
    /// The first underlined column.
    pub column: u32,
    /// The column after the last underlined one.
    pub end_column: u32,
}

/// The source line a problem lies in, safe to print: secrets and control characters are replaced and a long
/// line is cut around the underline.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Excerpt {
    pub(crate) text: String,
    /// Byte offset and length of the underline within `text`.
    pub(crate) start: usize,
    pub(crate) len: usize,
}

/// One problem: what, where, and what to write instead.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    pub(crate) file: Arc<str>,
    pub(crate) location: Option<Location>,
    pub(crate) excerpt: Option<Excerpt>,
    pub(crate) finding: Finding,
}

impl Problem {
    /// Places a finding in a file as a whole.
    pub(crate) fn of_file(file: &Arc<str>, finding: Finding) -> Self {
        Self { file: Arc::clone(file), location: None, excerpt: None, finding }
    }

    /// Returns the name of the file, as the operator wrote it.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Returns the place in the file, or `None` if the problem is the file itself.
    #[must_use]
    pub fn location(&self) -> Option<Location> {
        self.location
    }

    /// Returns whether this stops the configuration from loading.
    #[must_use]
    pub fn severity(&self) -> Severity {
        self.finding.severity
    }

    /// Returns the kind of the problem.
    #[must_use]
    pub fn code(&self) -> Code {
        self.finding.code
    }

    /// Returns what is wrong, on one line.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.finding.message
    }

    /// Returns the correction, if there is one to propose.
    #[must_use]
    pub fn help(&self) -> Option<&str> {
        self.finding.help.as_deref()
    }
}

/// Longest piece of the operator's text repeated in a message, in characters: enough to recognise any host
/// name's beginning, short enough to keep a message on a line or two.
const SHOWN_CHARS_MAX: usize = 80;

/// Returns `text` fit for a message: one line, without control characters, at most [`SHOWN_CHARS_MAX`] long.
pub(crate) fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(SHOWN_CHARS_MAX * 4));
    for (index, character) in text.chars().enumerate() {
        if index == SHOWN_CHARS_MAX {
            out.push('…');
            break;
        }
        if is_unprintable(character) {
            let _infallible = write!(out, "{}", character.escape_unicode());
        } else {
            out.push(character);
        }
    }
    out
}

/// Control characters, and the invisible ones that reorder or hide text on a terminal.
pub(crate) fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_text_is_one_printable_line() {
        let long = "a".repeat(100);
        let cut = format!("{}…", "a".repeat(80));
        let cases = [
            ("plain", "api.example.com", "api.example.com"),
            ("newline", "a\nb", "a\\u{a}b"),
            ("escape", "\u{1b}[31m", "\\u{1b}[31m"),
            ("right-to-left override", "a\u{202e}b", "a\\u{202e}b"),
            ("accent", "é", "é"),
            ("long", long.as_str(), cut.as_str()),
        ];
        for (name, input, want) in cases {
            assert_eq!(shown(input), want, "{name}");
        }
    }
}
