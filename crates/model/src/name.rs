//! DNS names in the one form that everything else compares.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Octets in a name without its trailing dot: 255 on the wire (RFC 1035 §2.3.4), less the first
/// length octet and the root label.
pub const NAME_OCTETS_MAX: usize = 253;

/// Octets in a label (RFC 1035 §2.3.4).
pub const LABEL_OCTETS_MAX: usize = 63;

/// A DNS name in canonical form.
///
/// Lower-case ASCII (RFC 4343), no trailing dot, at most [`NAME_OCTETS_MAX`] octets, labels of 1 to
/// [`LABEL_OCTETS_MAX`] octets of `a-z 0-9 _ -` that neither start nor end with a hyphen. The last
/// label is not a number in the sense of the WHATWG URL rule "ends in a number", so `127.1`,
/// `2130706433` and `0x7f.0x1`, which C resolvers read as addresses, are not names. Non-ASCII text
/// is refused, not mapped: names arrive on the wire as A-labels (RFC 5890 §2.3.2.1). A clone shares the text: a request
/// is remembered in several places at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(Arc<str>);

/// Why a text is not a DNS name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing is there, or only the root's dot.
    #[error("the name is empty")]
    Empty,
    /// The name is longer than [`NAME_OCTETS_MAX`].
    #[error("the name has {len} octets, more than {NAME_OCTETS_MAX}")]
    TooLong {
        /// Octets of the name without its trailing dot.
        len: usize,
    },
    /// Two dots in a row, or a dot at the start.
    #[error("the name has an empty label")]
    EmptyLabel,
    /// A label is longer than [`LABEL_OCTETS_MAX`].
    #[error("a label has {len} octets, more than {LABEL_OCTETS_MAX}")]
    LabelTooLong {
        /// Octets of the label.
        len: usize,
    },
    /// A character outside ASCII; such a name is written as A-labels (`xn--…`).
    #[error("the name is not ASCII: write its xn-- form")]
    NotAscii,
    /// An ASCII character that no host name has.
    #[error("the character {character:?} cannot be part of a name")]
    Character {
        /// The first such character.
        character: char,
    },
    /// A label starts or ends with a hyphen (RFC 1123 §2.1).
    #[error("a label starts or ends with a hyphen")]
    Hyphen,
    /// The last label is a number, so that some resolvers would read the text as an IPv4 address.
    #[error("the last label is a number, as in an IPv4 address")]
    NumericLastLabel,
}

impl DnsName {
    /// Returns the canonical form of `text`: one trailing dot removed, upper case folded.
    ///
    /// # Errors
    /// The first rule that `text` breaks.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > NAME_OCTETS_MAX {
            return Err(NameError::TooLong { len: text.len() });
        }
        if !text.is_ascii() {
            return Err(NameError::NotAscii);
        }
        // By bytes, which each character is by now: this is done for every request.
        for label in text.as_bytes().split(|byte| *byte == b'.') {
            check_label(label)?;
        }
        if text.rsplit('.').next().is_some_and(is_number) {
            return Err(NameError::NumericLastLabel);
        }
        let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        Ok(Self(if is_lower { text.into() } else { text.to_ascii_lowercase().into() }))
    }

    /// Returns the canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the labels, leftmost first; there is at least one.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// Returns the names above this one, nearest first: `b.c` and `c` for `a.b.c`. A single label
    /// has none.
    pub fn parents(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(parent(&self.0), |name| parent(name))
    }

    /// Returns whether the name has one label only, as `localhost` or `com` have.
    #[must_use]
    pub fn is_single_label(&self) -> bool {
        !self.0.contains('.')
    }

    /// Returns whether the name lies below `parent`, at any depth. A name is not below itself.
    #[must_use]
    pub fn is_below(&self, parent: &Self) -> bool {
        self.0.strip_suffix(parent.as_str()).is_some_and(|below| below.ends_with('.'))
    }
}

fn parent(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, parent)| parent)
}

fn check_label(label: &[u8]) -> Result<(), NameError> {
    if label.is_empty() {
        return Err(NameError::EmptyLabel);
    }
    if label.len() > LABEL_OCTETS_MAX {
        return Err(NameError::LabelTooLong { len: label.len() });
    }
    let is_foreign = |byte: &&u8| !(byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if let Some(byte) = label.iter().find(is_foreign) {
        return Err(NameError::Character { character: char::from(*byte) });
    }
    if label.starts_with(b"-") || label.ends_with(b"-") {
        return Err(NameError::Hyphen);
    }
    Ok(())
}

/// The WHATWG URL Standard's "ends in a number" test of one label: decimal or octal digits, or
/// `0x` with any count of hexadecimal digits, none included.
fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => label.bytes().all(|b| b.is_ascii_digit()),
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for DnsName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl AsRef<str> for DnsName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for DnsName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests;
