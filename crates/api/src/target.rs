//! A destination as people write it: a URL, or a host with or without a port.

use exeat_model::{Authority, Port};
use exeat_policy::{Bound, Explanation, OpensWith, PolicySet};
use exeat_proxy::Target;

/// A destination, and what is going to be said to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Asked {
    /// The host and the port.
    pub authority: Authority,
    /// What opens the connection, if there is a scheme to say so.
    pub opens: Option<OpensWith>,
}

/// Why a text is no destination: the proxy refuses what asks for it before anything is decided.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TargetError {
    /// No proxy is asked for a URL of this scheme.
    #[error("URLs of `{scheme}` are not for a proxy; a tunnel is asked for as HOST:PORT")]
    Scheme {
        /// The scheme as written.
        scheme: String,
        /// How the proxy refuses it.
        #[source]
        source: exeat_proxy::TargetError,
    },
    /// What stands where host and port belong is neither.
    #[error("`{}` is not a host and port", .text.escape_debug())]
    Authority {
        /// What stands there.
        text: String,
        /// How the proxy refuses it.
        #[source]
        source: exeat_proxy::TargetError,
    },
}

impl TargetError {
    /// Returns what there is to explain: it is refused, whoever asks.
    #[must_use]
    pub fn explanation(&self, set: &PolicySet, bound: &Bound, target: &str) -> Explanation {
        let (Self::Scheme { source, .. } | Self::Authority { source, .. }) = self;
        Explanation::malformed(set, bound, target, source.reason(), crate::recorded::chain(self))
    }
}

/// Reads a URL, of which scheme, host and port count, or `HOST:PORT`, or a host, whose port then is 443.
///
/// # Errors
/// See [`TargetError`]. A URL of `http` is sent to a proxy as it is, the others are asked for with CONNECT; it is refused
/// with the reason of that.
pub fn parse_target(text: &str) -> Result<Asked, TargetError> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Ok(Asked { authority: tunnel(text, Port::HTTPS)?, opens: None });
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    // Letters of either case (RFC 3986 §3.1).
    let (authority, opens) = match scheme.to_ascii_lowercase().as_str() {
        "http" => (absolute(host)?, OpensWith::Http),
        // Browsers ask for a tunnel.
        "ws" => (tunnel(host, Port::HTTP)?, OpensWith::Http),
        "https" | "wss" => (tunnel(host, Port::HTTPS)?, OpensWith::Tls),
        _ => {
            let refused = Target::parse("GET", text).err();
            let source = refused.unwrap_or(exeat_proxy::TargetError::Scheme);
            return Err(TargetError::Scheme { scheme: scheme.escape_debug().to_string(), source });
        }
    };
    Ok(Asked { authority, opens: Some(opens) })
}

/// What a CONNECT for `text` asks for, the port filled in by its client.
fn tunnel(text: &str, default_port: Port) -> Result<Authority, TargetError> {
    let parsed = Authority::parse(text, Some(default_port)).map_err(exeat_proxy::TargetError::from);
    whole(text, parsed)
}

/// What a GET for a URL of `http` with this authority asks for.
fn absolute(text: &str) -> Result<Authority, TargetError> {
    let parsed = Target::parse("GET", &format!("http://{text}/"));
    whole(text, parsed.map(|target| target.authority().clone()))
}

fn whole(text: &str, parsed: Result<Authority, exeat_proxy::TargetError>) -> Result<Authority, TargetError> {
    // A request line ends at these, or is none (RFC 9112 §3).
    let is_cut = text.contains(|c: char| c.is_ascii_whitespace() || c.is_ascii_control());
    let parsed = if is_cut { Err(exeat_proxy::TargetError::Malformed) } else { parsed };
    parsed.map_err(|source| TargetError::Authority { text: text.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_urls_or_authorities() {
        let (tls, http) = (Some(OpensWith::Tls), Some(OpensWith::Http));
        for (text, want) in [
            ("https://example.com/x?y#z", Ok(("example.com:443", tls))),
            ("http://EXAMPLE.com", Ok(("example.com:80", http))),
            ("HTTP://example.com/", Ok(("example.com:80", http))),
            ("http://example.com#a@b", Ok(("example.com:80", http))),
            ("Https://example.com", Ok(("example.com:443", tls))),
            ("http://example.com:8080/", Ok(("example.com:8080", http))),
            ("http://example.com:443/", Ok(("example.com:443", http))),
            ("https://example.com:80/", Ok(("example.com:80", tls))),
            ("ws://example.com", Ok(("example.com:80", http))),
            ("wss://example.com/", Ok(("example.com:443", tls))),
            ("example.com", Ok(("example.com:443", None))),
            ("db.example.com:5432", Ok(("db.example.com:5432", None))),
            ("[2606:2800:220::1]:22", Ok(("[2606:2800:220::1]:22", None))),
            ("ftp://example.com", Err("scheme_not_allowed")),
            ("://example.com", Err("request_malformed")),
            ("http://user@example.com/", Err("request_malformed")),
            ("https://user@example.com/", Err("host_invalid")),
            ("https:///", Err("host_invalid")),
            ("http:///", Err("host_invalid")),
            ("http:example.com", Err("host_invalid")),
            ("", Err("host_invalid")),
            ("example.com:", Err("host_invalid")),
            ("example.com:0", Err("host_invalid")),
            ("example.com:0443", Err("host_invalid")),
            ("example.com:65536", Err("host_invalid")),
            ("http://example.com:65536/", Err("host_invalid")),
            ("2606:2800:220::1", Err("host_invalid")),
            ("0x7f.1:443", Err("host_invalid")),
            ("ex\u{e4}mple.com", Err("host_invalid")),
            ("example .com", Err("request_malformed")),
            ("https://example.com\n:443/", Err("request_malformed")),
        ] {
            let got = parse_target(text);
            let got = match &got {
                Ok(asked) => Ok((asked.authority.to_string(), asked.opens)),
                Err(TargetError::Scheme { source, .. } | TargetError::Authority { source, .. }) => {
                    Err(source.reason().token())
                }
            };
            assert_eq!(got, want.map(|(target, opens)| (target.to_owned(), opens)), "{text}");
        }
    }
}
