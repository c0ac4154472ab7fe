//! A token's outer form: three parts, of which the first says how it is signed (RFC 7515 §7.1).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::json;

/// The longest token, in bytes: a list of 500 hosts of 18 bytes, and what `Basic` can carry.
pub const TOKEN_BYTES_MAX: usize = 12 * 1024;

/// The longest `kid`, in bytes: a certificate's fingerprint takes 64.
pub(crate) const KID_BYTES_MAX: usize = 256;

/// Members of a header that are never accepted: keys of the sender's own choice (RFC 8725 §3.10), tokens in tokens,
/// compression, and whatever must be understood and is not.
const REFUSED: [&str; 8] = ["jwk", "jku", "x5u", "x5c", "crit", "cty", "zip", "b64"];

/// A token whose header has been read. Nothing of it is proven.
#[derive(Debug)]
pub struct TokenText<'t> {
    /// What the header says of the algorithm.
    pub alg: String,
    /// Which key it names.
    pub kid: Option<String>,
    /// The claims, decoded: JSON.
    pub payload: Vec<u8>,
    /// What is signed.
    pub(crate) signed: &'t str,
    /// The signature, encoded.
    pub(crate) signature: &'t str,
}

/// Why a text has not the form of a token.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HeaderError {
    /// It is too long.
    #[error("the token is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    /// It has not three parts; five are an encrypted token's.
    #[error("a signed token has three parts")]
    Parts,
    /// A part is not base64url without padding.
    #[error("a part is not base64url without padding")]
    Base64,
    /// The header is not a JSON object, or has a member twice.
    #[error("the header is not a JSON object with each member once")]
    Json,
    /// The header has a member that is never accepted.
    #[error("the header has `{0}`")]
    Refused(&'static str),
    /// The header has no `alg`, or a member of another type than it must have.
    #[error("`{0}` in the header is missing or not usable")]
    Member(&'static str),
}

impl<'t> TokenText<'t> {
    /// Reads a token's header and decodes its claims.
    ///
    /// # Errors
    /// For anything that is not a signed token in compact form, and for what a header may not say.
    pub fn parse(token: &'t str) -> Result<Self, HeaderError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(HeaderError::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(HeaderError::Parts)?;
        let (header, payload) = signed.split_once('.').ok_or(HeaderError::Parts)?;
        if payload.contains('.') {
            return Err(HeaderError::Parts);
        }
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| HeaderError::Base64);
        let (header, payload) = (decode(header)?, decode(payload)?);
        decode(signature)?;
        let header = json::object(&header).map_err(|_| HeaderError::Json)?;
        if let Some(name) = REFUSED.into_iter().find(|name| header.contains_key(*name)) {
            return Err(HeaderError::Refused(name));
        }
        let alg = text(&header, "alg")?.ok_or(HeaderError::Member("alg"))?.to_owned();
        text(&header, "typ")?;
        let kid = text(&header, "kid")?.map(str::to_owned);
        if kid.as_ref().is_some_and(|kid| kid.is_empty() || kid.len() > KID_BYTES_MAX) {
            return Err(HeaderError::Member("kid"));
        }
        Ok(Self { alg, kid, payload, signed, signature })
    }
}

fn text<'h>(header: &'h Map<String, Value>, name: &'static str) -> Result<Option<&'h str>, HeaderError> {
    match header.get(name) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or(HeaderError::Member(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_header(header: &str) -> String {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", encode(header), encode("{}"), encode("signature"))
    }

    #[test]
    fn only_plain_signed_tokens_have_the_form() {
        let long = with_header(&format!(r#"{{"alg":"ES256","x":"{}"}}"#, "x".repeat(TOKEN_BYTES_MAX)));
        let (member, refused) = (HeaderError::Member, |name| Err(HeaderError::Refused(name)));
        let cases: &[(&str, String, Result<(), HeaderError>)] = &[
            ("usual", with_header(r#"{"alg":"ES256","kid":"k1","typ":"JWT"}"#), Ok(())),
            ("no kid", with_header(r#"{"alg":"ES256"}"#), Ok(())),
            ("no alg", with_header("{}"), Err(member("alg"))),
            ("alg of another type", with_header(r#"{"alg":256}"#), Err(member("alg"))),
            ("kid of another type", with_header(r#"{"alg":"ES256","kid":1}"#), Err(member("kid"))),
            ("empty kid", with_header(r#"{"alg":"ES256","kid":""}"#), Err(member("kid"))),
            ("typ of another type", with_header(r#"{"alg":"ES256","typ":[]}"#), Err(member("typ"))),
            ("twice", with_header(r#"{"alg":"ES256","alg":"ES256"}"#), Err(HeaderError::Json)),
            ("no object", with_header(r#""ES256""#), Err(HeaderError::Json)),
            ("a key", with_header(r#"{"alg":"ES256","jwk":{}}"#), refused("jwk")),
            ("a key's address", with_header(r#"{"alg":"ES256","jku":"https://x.test"}"#), refused("jku")),
            ("a certificate", with_header(r#"{"alg":"ES256","x5c":[]}"#), refused("x5c")),
            ("a certificate's address", with_header(r#"{"alg":"ES256","x5u":""}"#), refused("x5u")),
            ("critical", with_header(r#"{"alg":"ES256","crit":["x"]}"#), refused("crit")),
            ("nothing critical", with_header(r#"{"alg":"ES256","crit":[]}"#), refused("crit")),
            ("nested", with_header(r#"{"alg":"ES256","cty":"JWT"}"#), refused("cty")),
            ("compressed", with_header(r#"{"alg":"ES256","zip":"DEF"}"#), refused("zip")),
            ("not encoded", with_header(r#"{"alg":"ES256","b64":false}"#), refused("b64")),
            ("encrypted", "a.b.c.d.e".to_owned(), Err(HeaderError::Parts)),
            ("two parts", "e30.e30".to_owned(), Err(HeaderError::Parts)),
            ("one part", "e30".to_owned(), Err(HeaderError::Parts)),
            ("empty", String::new(), Err(HeaderError::Parts)),
            ("padding", "e30=.e30.e30".to_owned(), Err(HeaderError::Base64)),
            ("not base64url", "e30.e3+.e30".to_owned(), Err(HeaderError::Base64)),
            ("trailing bits", "e31.e30.e30".to_owned(), Err(HeaderError::Base64)),
            ("a signature that is not", "e30.e30.!".to_owned(), Err(HeaderError::Base64)),
            ("too long", long, Err(HeaderError::TooLong)),
        ];
        for (name, token, want) in cases {
            assert_eq!(TokenText::parse(token).map(drop), *want, "{name}");
        }
    }
}
