//! A user and a password: from `Proxy-Authorization: Basic` (RFC 7617 §2), or as they stand (RFC 1929 §2).

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::{Zeroize, Zeroizing};

/// The longest encoded `user:password` that is decoded, in bytes. A container's token in the password takes
/// a few KiB; anything longer is not a credential, and costs no more than this.
const ENCODED_BYTES_MAX: usize = 16 * 1024;

/// A user and a password as they were sent. The password is wiped from memory on drop, and has no `Debug`.
pub(crate) struct Credentials {
    text: Zeroizing<String>,
    /// Where in it the user name ends.
    user_end: usize,
    /// Where in it the password begins.
    password_start: usize,
}

/// Why bytes hold no credentials. The client is told no more than that they are invalid.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum BasicError {
    /// The scheme is not `Basic`, or nothing follows it.
    Scheme,
    /// Longer than [`ENCODED_BYTES_MAX`].
    TooLong,
    /// Not the base64 of RFC 4648 §4 with its padding, or followed by anything.
    Base64,
    /// The decoded bytes are not UTF-8.
    Utf8,
    /// The decoded text has a control character, which RFC 7617 §2 excludes.
    Control,
    /// The decoded text has no colon.
    Colon,
}

impl Credentials {
    /// Decodes one field value: `Basic`, in any case, one or more spaces, and base64. Splits at the first colon, so
    /// that a password may hold colons and a user name may not.
    ///
    /// # Errors
    ///
    /// For anything else; nothing is repaired or ignored.
    pub(crate) fn decode(value: &[u8]) -> Result<Self, BasicError> {
        let (scheme, rest) = value.split_at_checked(b"Basic ".len()).ok_or(BasicError::Scheme)?;
        if !scheme.eq_ignore_ascii_case(b"Basic ") {
            return Err(BasicError::Scheme);
        }
        let spaces = rest.iter().take_while(|&&byte| byte == b' ').count();
        let encoded = rest.get(spaces..).unwrap_or_default();
        if encoded.len() > ENCODED_BYTES_MAX {
            return Err(BasicError::TooLong);
        }
        let text = decode_base64(encoded)?;
        if has_control(&text) {
            return Err(BasicError::Control);
        }
        let user_end = text.find(':').ok_or(BasicError::Colon)?;
        Ok(Self { text, user_end, password_start: user_end + 1 })
    }

    /// Takes a user and a password that were sent apart from each other, under the rules of [`Self::decode`]; only
    /// a colon in the user name is no separator here.
    ///
    /// # Errors
    ///
    /// If one is not UTF-8 or has a control character.
    pub(crate) fn of_parts(user: &[u8], password: &[u8]) -> Result<Self, BasicError> {
        let user = std::str::from_utf8(user).map_err(|_| BasicError::Utf8)?;
        let password = std::str::from_utf8(password).map_err(|_| BasicError::Utf8)?;
        if has_control(user) || has_control(password) {
            return Err(BasicError::Control);
        }
        let text = Zeroizing::new([user, password].concat());
        Ok(Self { text, user_end: user.len(), password_start: user.len() })
    }

    /// Returns the user name; may be empty.
    pub(crate) fn user(&self) -> &str {
        self.text.get(..self.user_end).unwrap_or_default()
    }

    /// Returns the password as text.
    pub(crate) fn password_text(&self) -> &str {
        self.text.get(self.password_start..).unwrap_or_default()
    }

    /// Returns the password; may be empty.
    pub(crate) fn password(&self) -> &[u8] {
        self.password_text().as_bytes()
    }
}

/// Whether there is a control character, of which some are not ASCII. Hardly any credentials have other characters than
/// those of ASCII that are shown, and this looks at all bytes alike for that.
fn has_control(text: &str) -> bool {
    let is_plain = text.bytes().fold(true, |is_plain, byte| is_plain & (b' '..=b'~').contains(&byte));
    !is_plain && text.chars().any(char::is_control)
}

/// Returns the token of `Bearer` (RFC 6750 §2.1), in any case, one or more spaces and a text without spaces; `None` if the
/// value is of another scheme, or the text is none.
pub(crate) fn bearer(value: &[u8]) -> Option<&str> {
    let (scheme, rest) = value.split_at_checked(b"Bearer ".len())?;
    if !scheme.eq_ignore_ascii_case(b"Bearer ") {
        return None;
    }
    let token = std::str::from_utf8(rest).ok()?.trim_start_matches(' ');
    (!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())).then_some(token)
}

/// The standard engine is strict: it wants canonical padding, zero trailing bits and no other character.
fn decode_base64(encoded: &[u8]) -> Result<Zeroizing<String>, BasicError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(encoded.len()));
    STANDARD.decode_vec(encoded, &mut bytes).map_err(|_| BasicError::Base64)?;
    match String::from_utf8(std::mem::take(&mut *bytes)) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) => {
            error.into_bytes().zeroize();
            Err(BasicError::Utf8)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Decoded = Result<(String, String), BasicError>;

    fn decode(value: &[u8]) -> Decoded {
        let credentials = Credentials::decode(value)?;
        let password = String::from_utf8(credentials.password().to_vec()).unwrap();
        Ok((credentials.user().to_owned(), password))
    }

    #[test]
    fn parts_follow_the_rules_of_basic() {
        type Case = (&'static str, &'static [u8], &'static [u8], Option<BasicError>);
        let cases: &[Case] = &[
            ("plain", b"app", b"secret", None),
            ("empty", b"", b"", None),
            ("colons", b"a:b", b"c:d", None),
            ("longest", &[b'a'; 255], &[b'b'; 255], None),
            ("NUL in the user", b"app\0x", b"secret", Some(BasicError::Control)),
            ("NUL in the password", b"app", b"sec\0ret", Some(BasicError::Control)),
            ("line break", b"app\r\n", b"secret", Some(BasicError::Control)),
            ("user not UTF-8", b"\xff", b"secret", Some(BasicError::Utf8)),
            ("password not UTF-8", b"app", b"\xff", Some(BasicError::Utf8)),
        ];
        for (name, user, password, want) in cases {
            let got = Credentials::of_parts(user, password);
            assert_eq!(got.as_ref().err(), want.as_ref(), "{name}");
            if let Ok(got) = got {
                assert_eq!((got.user().as_bytes(), got.password()), (*user, *password), "{name}");
            }
        }
    }

    #[test]
    fn only_strict_basic_is_decoded() {
        let encode = |text: &[u8]| [b"Basic ".as_slice(), STANDARD.encode(text).as_bytes()].concat();
        let ok = |user: &str, password: &str| Ok((user.to_owned(), password.to_owned()));
        let long = encode(&[b'a'; ENCODED_BYTES_MAX]);
        let cases: &[(&str, Vec<u8>, Decoded)] = &[
            ("plain", encode(b"app:secret"), ok("app", "secret")),
            ("scheme in any case", b"bAsIc YTpi".to_vec(), ok("a", "b")),
            ("several spaces", b"Basic   YTpi".to_vec(), ok("a", "b")),
            ("first colon splits", encode(b"app:se:cret:"), ok("app", "se:cret:")),
            ("UTF-8", encode("bjørn:pässword".as_bytes()), ok("bjørn", "pässword")),
            ("empty user", encode(b":secret"), ok("", "secret")),
            ("empty password", encode(b"app:"), ok("app", "")),
            ("empty value", b"".to_vec(), Err(BasicError::Scheme)),
            ("scheme alone", b"Basic".to_vec(), Err(BasicError::Scheme)),
            ("tab instead of space", b"Basic\tYTpi".to_vec(), Err(BasicError::Scheme)),
            ("another scheme", b"Bearer YTpi".to_vec(), Err(BasicError::Scheme)),
            ("scheme that begins alike", b"Basics YTpi".to_vec(), Err(BasicError::Scheme)),
            ("leading space", b" Basic YTpi".to_vec(), Err(BasicError::Scheme)),
            ("nothing encoded", b"Basic ".to_vec(), Err(BasicError::Colon)),
            ("no colon", encode(b"secret"), Err(BasicError::Colon)),
            ("padding missing", b"Basic YTpiYw".to_vec(), Err(BasicError::Base64)),
            ("padding in excess", b"Basic YTpi====".to_vec(), Err(BasicError::Base64)),
            ("trailing space", b"Basic YTpi ".to_vec(), Err(BasicError::Base64)),
            ("trailing garbage", b"Basic YTpi,x".to_vec(), Err(BasicError::Base64)),
            ("inner line break", b"Basic YT\r\npi".to_vec(), Err(BasicError::Base64)),
            ("url-safe alphabet", b"Basic YTr_-_8=".to_vec(), Err(BasicError::Base64)),
            ("trailing bits not zero", b"Basic YTpiYx==".to_vec(), Err(BasicError::Base64)),
            ("not UTF-8", encode(b"app:\xff\xfe"), Err(BasicError::Utf8)),
            ("NUL", encode(b"app:sec\0ret"), Err(BasicError::Control)),
            ("line break", encode(b"app\r\nx:y"), Err(BasicError::Control)),
            ("C1 control", encode("app:\u{85}".as_bytes()), Err(BasicError::Control)),
            ("too long", long, Err(BasicError::TooLong)),
        ];
        for (name, input, want) in cases {
            assert_eq!(decode(input), *want, "{name}");
        }
    }
}
