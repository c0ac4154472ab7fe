//! The request target of a forward proxy: authority-form for CONNECT, absolute-form for the rest.

use exeat_model::{Authority, AuthorityError, Port};
use exeat_policy::Reason;

/// What a request asks the proxy to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// CONNECT: open a tunnel to this authority (RFC 9110 §9.3.6).
    Tunnel(Authority),
    /// Fetch from this authority (absolute-form, RFC 9112 §3.2.2).
    Forward(Forward),
}

/// The parts of an absolute-form target.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Forward {
    /// The scheme: nothing but `http` is ever forwarded, `https` is refused after the decision on the name.
    pub scheme: Scheme,
    /// The host and port, the scheme's default port filled in.
    pub authority: Authority,
    /// The origin-form to send upstream: starts with `/`, query included, never a fragment.
    pub path: String,
}

/// The schemes that a target may have and still reach the decision.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

/// Why a request target is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TargetError {
    /// Origin-form or asterisk-form: a request for an origin server, sent to a proxy.
    #[error("this is a forward proxy: the request target must be a full URL")]
    NotForProxy,
    /// Neither form that a proxy takes.
    #[error("the request target is malformed")]
    Malformed,
    /// A scheme that this proxy does not speak.
    #[error("the scheme is not http")]
    Scheme,
    /// An absolute-form target with userinfo (RFC 9110 §4.2.4).
    #[error("the target has userinfo")]
    Userinfo,
    /// The port is missing or is not one.
    #[error("the port is missing or malformed")]
    Port,
    /// The host is not a name or an address in its standard spelling.
    #[error("the host is malformed")]
    Host(#[source] AuthorityError),
}

impl TargetError {
    /// Returns the reason that the refusal shows.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::NotForProxy | Self::Malformed | Self::Userinfo => Reason::RequestMalformed,
            Self::Scheme => Reason::SchemeNotAllowed,
            Self::Port | Self::Host(_) => Reason::HostInvalid,
        }
    }
}

impl Scheme {
    /// The scheme as it stands before an authority.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Http => "http://",
            Self::Https => "https://",
        }
    }
}

impl Target {
    /// Returns the target that `text` writes in a request with `method`. Whatever is not ASCII is refused: in the
    /// authority as a malformed host, because mappings to ASCII differ between programs.
    ///
    /// # Errors
    /// The rule of RFC 9112 §3.2 or of the model's authority grammar that it breaks.
    pub fn parse(method: &str, text: &str) -> Result<Self, TargetError> {
        if method == "CONNECT" {
            return authority(text, None).map(Self::Tunnel);
        }
        if text.starts_with('/') || text == "*" {
            return Err(TargetError::NotForProxy);
        }
        let (scheme, rest) = split_scheme(text).ok_or(TargetError::Malformed)?;
        let (scheme, default_port) = if scheme.eq_ignore_ascii_case("http") {
            (Scheme::Http, Port::HTTP)
        } else if scheme.eq_ignore_ascii_case("https") {
            (Scheme::Https, Port::HTTPS)
        } else {
            return Err(TargetError::Scheme);
        };
        let rest = rest.strip_prefix("//").ok_or(TargetError::Malformed)?;
        let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if host.contains('@') {
            return Err(TargetError::Userinfo);
        }
        // Some parsers end the host at these, others do not: two readings of one target.
        if host.contains(['\\', '#']) {
            return Err(TargetError::Malformed);
        }
        if path.contains(|c: char| !c.is_ascii_graphic() || c == '#') {
            return Err(TargetError::Malformed);
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self::Forward(Forward { scheme, authority: authority(host, Some(default_port))?, path }))
    }

    /// The authority that is asked for.
    pub const fn authority(&self) -> &Authority {
        match self {
            Self::Tunnel(authority) => authority,
            Self::Forward(forward) => &forward.authority,
        }
    }
}

impl From<AuthorityError> for TargetError {
    fn from(error: AuthorityError) -> Self {
        match error {
            AuthorityError::Port(_) | AuthorityError::PortMissing => Self::Port,
            AuthorityError::NotAscii
            | AuthorityError::Userinfo
            | AuthorityError::Brackets
            | AuthorityError::Name(_)
            | AuthorityError::Address
            | AuthorityError::ZoneId => Self::Host(error),
        }
    }
}

fn authority(text: &str, default_port: Option<Port>) -> Result<Authority, TargetError> {
    Ok(Authority::parse(text, default_port)?)
}

/// Splits `scheme ":" rest` (RFC 3986 §3.1). `host:443` has the same shape, so a rest of digits is no URL.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let starts_well = scheme.starts_with(|c: char| c.is_ascii_alphabetic());
    // `_` is no scheme character, yet `cache_object:` is a scheme that proxies have served.
    let is_scheme = scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_'));
    let is_port = rest.bytes().all(|b| b.is_ascii_digit());
    (starts_well && is_scheme && !is_port).then_some((scheme, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        type Case = (&'static str, &'static str, Result<(&'static str, &'static str), Reason>);
        let cases: &[Case] = &[
            ("CONNECT", "example.com:443", Ok(("example.com:443", ""))),
            ("CONNECT", "EXAMPLE.com.:443", Ok(("example.com:443", ""))),
            ("CONNECT", "[2001:db8::1]:443", Ok(("[2001:db8::1]:443", ""))),
            ("CONNECT", "example.com", Err(Reason::HostInvalid)),
            ("CONNECT", "example.com:", Err(Reason::HostInvalid)),
            ("CONNECT", "example.com:0", Err(Reason::HostInvalid)),
            ("CONNECT", "example.com:65536", Err(Reason::HostInvalid)),
            ("CONNECT", "user@example.com:443", Err(Reason::HostInvalid)),
            ("CONNECT", "http://example.com:443", Err(Reason::HostInvalid)),
            ("CONNECT", "0x7f.1:443", Err(Reason::HostInvalid)),
            ("CONNECT", "/", Err(Reason::HostInvalid)),
            ("GET", "http://example.com", Ok(("example.com:80", "/"))),
            ("GET", "HTTP://example.com:8080/a?b", Ok(("example.com:8080", "/a?b"))),
            ("GET", "http://example.com?x=1/2", Ok(("example.com:80", "/?x=1/2"))),
            ("GET", "http://example.com//a/../b", Ok(("example.com:80", "//a/../b"))),
            ("GET", "https://example.com/", Ok(("example.com:443", "/"))),
            ("GET", "http://user:pw@example.com/", Err(Reason::RequestMalformed)),
            ("GET", "http://example.com\\@example.org/", Err(Reason::RequestMalformed)),
            ("GET", "http://example.com\\.example.org/", Err(Reason::RequestMalformed)),
            ("GET", "http:///path", Err(Reason::HostInvalid)),
            ("GET", "http:example.com", Err(Reason::RequestMalformed)),
            ("GET", "/", Err(Reason::RequestMalformed)),
            ("GET", "http://example.com/ä", Err(Reason::RequestMalformed)),
            ("GET", "http://example.com/#a", Err(Reason::RequestMalformed)),
            ("GET", "http://example.com#a", Err(Reason::RequestMalformed)),
            ("GET", "http://exämple.com/", Err(Reason::HostInvalid)),
            ("CONNECT", "ｅxample.com:443", Err(Reason::HostInvalid)),
            ("OPTIONS", "*", Err(Reason::RequestMalformed)),
            ("GET", "example.com:443", Err(Reason::RequestMalformed)),
            ("GET", "example.com", Err(Reason::RequestMalformed)),
            ("GET", "ftp://example.com/", Err(Reason::SchemeNotAllowed)),
            ("GET", "gopher://example.com/", Err(Reason::SchemeNotAllowed)),
            ("GET", "file:///etc/passwd", Err(Reason::SchemeNotAllowed)),
            ("GET", "urn:x", Err(Reason::SchemeNotAllowed)),
            ("GET", "cache_object://example.com/", Err(Reason::SchemeNotAllowed)),
        ];
        for (method, text, want) in cases {
            let got = Target::parse(method, text);
            let shown = match &got {
                Ok(Target::Tunnel(authority)) => Ok((authority.to_string(), String::new())),
                Ok(Target::Forward(f)) => Ok((f.authority.to_string(), f.path.clone())),
                Err(error) => Err(error.reason()),
            };
            assert_eq!(shown, want.map(|(a, p)| (a.to_owned(), p.to_owned())), "{method} {text}");
        }
    }

    #[test]
    fn scheme_is_kept() {
        let got = Target::parse("GET", "https://example.com/");
        assert!(matches!(got, Ok(Target::Forward(Forward { scheme: Scheme::Https, .. }))));
    }
}
