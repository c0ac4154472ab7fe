//! Text from clients, made safe to keep.

use std::{
    fmt::{self, Write},
    sync::Arc,
};

use serde::Serialize;

/// The longest text that a record keeps of what a client sent, in bytes before escaping. Longer than any valid
/// authority (a name of 253 bytes and a port), so that only hostile targets are cut.
pub const TEXT_BYTES_MAX: usize = 512;

/// What a client sent, cut to [`TEXT_BYTES_MAX`] and escaped to printable ASCII.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Text(Arc<str>);

impl Text {
    /// Returns `bytes` with everything but printable ASCII, and the backslash, escaped as `\xNN`.
    /// A cut is shown by `…`, which cannot be part of the text.
    pub fn new(bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        let kept = bytes.get(..TEXT_BYTES_MAX).unwrap_or(bytes);
        if let Ok(text) = std::str::from_utf8(bytes)
            && kept.len() == bytes.len()
            && is_plain(bytes)
        {
            return Self(text.into());
        }
        let mut text = String::with_capacity(kept.len());
        for &byte in kept {
            match byte {
                b'\\' => text.push_str("\\\\"),
                b' '..=b'~' => text.push(char::from(byte)),
                _ => {
                    // Writing to a String does not fail.
                    let _ok = write!(text, "\\x{byte:02x}");
                }
            }
        }
        if kept.len() < bytes.len() {
            text.push('…');
        }
        Self(text.into())
    }

    /// Returns `text` as it is if it is printable ASCII in which what was not is escaped already, such as a name of DNS as
    /// zone files have it, and not too long; else as [`Self::new`] does.
    pub fn of_escaped(text: &str) -> Self {
        let is_printable = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if is_printable && text.len() <= TEXT_BYTES_MAX { Self(text.into()) } else { Self::new(text) }
    }

    /// Returns the escaped text, without another copy of it.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// Returns the escaped text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether nothing has to be escaped.
fn is_plain(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'\\')
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_escaped_is_not_escaped_again() {
        let long = "a".repeat(TEXT_BYTES_MAX + 1);
        for (name, text, want) in [
            ("plain", "a.example.com.", "a.example.com."),
            ("escaped", "a\\032b.example.com.", "a\\032b.example.com."),
            ("not printable", "a\nb", "a\\x0ab"),
            ("too long", &long, &format!("{}…", &long[1..])),
        ] {
            assert_eq!(Text::of_escaped(text).as_str(), want, "{name}");
        }
    }

    #[test]
    fn text_is_cut_and_escaped() {
        let long = "a".repeat(TEXT_BYTES_MAX + 1);
        let cut = format!("{}…", "a".repeat(TEXT_BYTES_MAX));
        let cases: &[(&str, &[u8], &str)] = &[
            ("plain", b"api.example.com:443", "api.example.com:443"),
            ("empty", b"", ""),
            ("line break", b"a\r\n{\"v\":1}", "a\\x0d\\x0a{\"v\":1}"),
            ("escape sequence", b"\x1b[2J", "\\x1b[2J"),
            ("delete and NUL", b"\x7f\0", "\\x7f\\x00"),
            ("not ASCII", "ä…".as_bytes(), "\\xc3\\xa4\\xe2\\x80\\xa6"),
            ("not UTF-8", b"\xff", "\\xff"),
            ("backslash", b"\\x0a", "\\\\x0a"),
            ("at the limit", &long.as_bytes()[1..], &long[1..]),
            ("beyond the limit", long.as_bytes(), &cut),
        ];
        for (name, input, want) in cases {
            assert_eq!(Text::new(input).as_str(), *want, "{name}");
        }
    }
}
