//! What a configuration was read from: its text and the files it names, so that two loads can be told apart.

use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::load::CONFIGURATION_BYTES_MAX;
use crate::regular::open_regular;

/// The SHA-256 of a text or a file, as `sha256sum` prints it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Returns the digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Reads what [`fmt::Display`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut digest = [0; 32];
        let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
        let is_hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        for (byte, pair) in digest.iter_mut().zip(pairs) {
            *byte = u8::from_str_radix(pair.filter(|_| is_hex)?, 16).ok()?;
        }
        is_hex.then_some(Self(digest))
    }
}

/// Returns the digest of a file of the size that a configuration may have. `None` if it cannot be read, is larger, or is
/// no regular file.
#[must_use]
pub fn digest_of_file(path: &Path) -> Option<Digest> {
    let mut reading = Digesting::new(open_regular(path).ok()?.take(CONFIGURATION_BYTES_MAX + 1));
    let bytes = io::copy(&mut reading, &mut io::sink()).ok()?;
    (bytes <= CONFIGURATION_BYTES_MAX).then(|| reading.finish())
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A file that a configuration names and that is part of what it says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NamedFile {
    /// Its path, as reports show it.
    pub name: Arc<str>,
    /// Of its content.
    pub digest: Digest,
    /// Whether it holds a password. Then nobody is shown the digest: a short password could be found from it.
    pub is_secret: bool,
}

/// What a configuration was read from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Written {
    /// The text of the configuration file, byte for byte.
    pub text: Arc<str>,
    /// Of the text.
    pub digest: Digest,
    /// The group files and password files that were read, by name.
    pub files: Vec<NamedFile>,
}

impl Written {
    /// A text, and what was read of the files that it names.
    pub(crate) fn new(text: &str, mut files: Vec<NamedFile>) -> Self {
        files.sort_by(|one, other| one.name.cmp(&other.name));
        files.dedup_by(|one, other| one.name == other.name);
        Self { text: text.into(), digest: Digest::of(text.as_bytes()), files }
    }

    /// Returns the files whose digests may be shown.
    pub fn shown_files(&self) -> impl Iterator<Item = &NamedFile> {
        self.files.iter().filter(|file| !file.is_secret)
    }
}

/// Reads on and digests what was read.
pub(crate) struct Digesting<R> {
    inner: R,
    digest: Sha256,
}

impl<R: Read> Digesting<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, digest: Sha256::new() }
    }

    /// The digest of all that was read.
    pub(crate) fn finish(self) -> Digest {
        Digest(self.digest.finalize().into())
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.digest.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_sha256sum_and_read_back() {
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::of(b"abc").to_string(), text);
        assert_eq!(Digest::parse(text), Some(Digest::of(b"abc")));
        for wrong in ["", &text[1..], &format!("{text}0"), &text.replace('b', "x"), &text.replace("ba", "+1")]
        {
            assert_eq!(Digest::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_file_is_digested_as_it_is_read() {
        let mut reading = Digesting::new(&b"abc"[..]);
        let mut text = String::new();
        reading.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), reading.finish()), ("abc", Digest::of(b"abc")));
    }

    #[test]
    fn a_file_that_is_named_twice_counts_once_and_a_secret_is_not_shown() {
        let file =
            |name: &str, is_secret| NamedFile { name: name.into(), digest: Digest::of(b""), is_secret };
        let written = Written::new("", vec![file("b", false), file("a", true), file("b", false)]);
        assert_eq!(written.files, [file("a", true), file("b", false)]);
        assert_eq!(written.shown_files().map(|file| &*file.name).collect::<Vec<_>>(), ["b"]);
    }
}
