//! A destination as people write it: a URL, or a host with or without a port.

use exeat_model::{Authority, AuthorityError, Port};

/// Why a text is no destination.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TargetError {
    /// The scheme says nothing of a port.
    #[error("the scheme `{0}` has no known port; write HOST:PORT")]
    Scheme(String),
    /// What stands where host and port belong is neither.
    #[error("`{text}` is not a host and port")]
    Authority {
        /// What stands there.
        text: String,
        /// What is wrong with it.
        #[source]
        source: AuthorityError,
    },
}

/// Reads a URL, of which scheme, host and port count, or `HOST:PORT`, or a host, whose port then is 443.
///
/// # Errors
/// See [`TargetError`].
pub fn parse_target(text: &str) -> Result<Authority, TargetError> {
    let (rest, default) = match text.split_once("://") {
        // Letters of either case (RFC 3986 §3.1).
        Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
            "http" | "ws" => (rest, Port::HTTP),
            "https" | "wss" => (rest, Port::HTTPS),
            _ => return Err(TargetError::Scheme(scheme.to_owned())),
        },
        None => (text, Port::HTTPS),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    Authority::parse(authority, Some(default))
        .map_err(|source| TargetError::Authority { text: authority.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_urls_or_authorities() {
        for (text, want) in [
            ("https://example.com/x?y#z", Some("example.com:443")),
            ("http://EXAMPLE.com", Some("example.com:80")),
            ("HTTP://example.com/", Some("example.com:80")),
            ("Https://example.com", Some("example.com:443")),
            ("http://example.com:8080/", Some("example.com:8080")),
            ("example.com", Some("example.com:443")),
            ("db.example.com:5432", Some("db.example.com:5432")),
            ("[2606:2800:220::1]:22", Some("[2606:2800:220::1]:22")),
            ("ftp://example.com", None),
            ("https://user@example.com/", None),
            ("https:///", None),
        ] {
            assert_eq!(parse_target(text).ok().map(|t| t.to_string()).as_deref(), want, "{text}");
        }
    }
}
