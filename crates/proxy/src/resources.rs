//! What the proxy's own port answers itself: a few requests in origin-form, for those who can ask nothing else. Every
//! other one stays malformed. They take no credentials and make no record: nothing is decided, and nothing is told
//! that whoever connected does not know.
//!
//! HTTP/2 has no origin-form: there, what counts is that the authority is this listener itself, as the client knows it.

use std::net::SocketAddr;

use exeat_model::{Authority, DnsName, Host, Port};
use http::{Method, request::Parts};

use crate::{client::Client, client_stream::ClientStream, guard::HeadError, target::TargetError};

/// Which of the resources there are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Resources {
    /// `/proxy.pac`
    pub(crate) pac: bool,
}

/// What is known of a request.
struct Asked {
    /// Where the client reached us, as it writes it.
    here: String,
    /// Whether it came through TLS.
    is_tls: bool,
    resources: Resources,
}

/// The listener that a connection came to, as its client may call it.
#[derive(Clone, Debug)]
pub(crate) struct Here {
    /// The name that the certificate was asked for (RFC 6066 §3).
    name: Option<DnsName>,
    address: SocketAddr,
    is_tls: bool,
}

impl Here {
    /// That of `client`, whose connection is `stream`.
    pub(crate) fn of(client: &Client, stream: &ClientStream) -> Self {
        let (name, is_tls) = match stream {
            ClientStream::Tls(stream) => (stream.get_ref().1.server_name(), true),
            ClientStream::Plain(_) | ClientStream::Unix(_) | ClientStream::Http2(_) => (None, false),
        };
        let address = SocketAddr::new(client.local.ip().to_canonical(), client.local.port());
        Self { name: name.and_then(|name| DnsName::parse(name).ok()), address, is_tls }
    }

    fn is(&self, authority: &Authority) -> bool {
        let is_host = match &authority.host {
            Host::Name(name) => self.name.as_ref() == Some(name),
            Host::Address(ip) => ip.get() == self.address.ip(),
        };
        is_host && authority.port.get() == self.address.port()
    }
}

/// A resource's path, type and content; `None` if it is switched off.
type Resource = (&'static str, &'static str, fn(&Asked) -> Option<String>);

const RESOURCES: &[Resource] = &[
    // For load balancers that can ask nothing else.
    ("/healthz", "text/plain", |_| Some("ok\n".to_owned())),
    ("/proxy.pac", "application/x-ns-proxy-autoconfig", pac),
];

/// Returns the response if `head`, refused with `error`, is a GET of a resource and nothing but its form is wrong. The
/// connection is closed after it, as after every head that the guard did not pass.
pub(crate) fn answer(
    resources: Resources,
    client: &Client,
    is_tls: bool,
    error: &HeadError,
    head: &[u8],
) -> Option<Vec<u8>> {
    if !matches!(error, HeadError::Target(TargetError::NotForProxy)) {
        return None;
    }
    let path = path(head)?;
    let here = host(head, default_port(is_tls)).unwrap_or_else(|| shown(client.local));
    let (content_type, body) = find(path, &Asked { here, is_tls, resources })?;
    Some(
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncache-control: no-store\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
        .into_bytes(),
    )
}

/// Returns the type and the content if a request in HTTP/2 is a GET of a resource of the listener `here` itself, in the
/// scheme that it speaks.
pub(crate) fn answer_http2(
    resources: Resources,
    here: &Here,
    parts: &Parts,
) -> Option<(&'static str, String)> {
    let scheme = if here.is_tls { "https" } else { "http" };
    if parts.method != Method::GET || parts.uri.scheme_str() != Some(scheme) {
        return None;
    }
    let authority = parts.uri.authority()?.as_str();
    let authority = Authority::parse(authority, Some(default_port(here.is_tls))).ok()?;
    let path = parts.uri.path_and_query()?.as_str().as_bytes();
    let asked = Asked { here: authority.to_string(), is_tls: here.is_tls, resources };
    if here.is(&authority) { find(path, &asked) } else { None }
}

fn find(path: &[u8], asked: &Asked) -> Option<(&'static str, String)> {
    let (_, content_type, content) = RESOURCES.iter().find(|(of, _, _)| of.as_bytes() == path)?;
    Some((content_type, content(asked)?))
}

const fn default_port(is_tls: bool) -> Port {
    if is_tls { Port::HTTPS } else { Port::HTTP }
}

/// The path of a GET, as it was written: no query, no other spelling.
fn path(head: &[u8]) -> Option<&[u8]> {
    let line = head.split(|b| *b == b'\r').next()?;
    let mut words = line.split(|b| *b == b' ');
    match (words.next(), words.next()) {
        (Some(b"GET"), Some(path)) => Some(path),
        (_, _) => None,
    }
}

/// A proxy auto-configuration file that sends everything here.
fn pac(asked: &Asked) -> Option<String> {
    let (kind, here) = (if asked.is_tls { "HTTPS" } else { "PROXY" }, &asked.here);
    asked.resources.pac.then(|| {
        format!("// Everything goes through the proxy that served this file.\nfunction FindProxyForURL(url, host) {{\n  return \"{kind} {here}\";\n}}\n")
    })
}

/// The address as the client wrote it, if its `Host` is one. What passes is a name or an address in its standard
/// spelling and a port, so it cannot end the string that it is put in.
fn host(head: &[u8], default_port: Port) -> Option<String> {
    let mut values = head.split(|b| *b == b'\n').skip(1).filter_map(|line| {
        let (name, value) = line.split_at(line.iter().position(|b| *b == b':')?);
        name.eq_ignore_ascii_case(b"host").then(|| value.get(1..).unwrap_or_default().trim_ascii())
    });
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    Authority::parse_bytes(value, Some(default_port)).ok().map(|authority| authority.to_string())
}

fn shown(address: SocketAddr) -> String {
    SocketAddr::new(address.ip().to_canonical(), address.port()).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{guard::check, limits::Limits};

    fn get(head: &str, is_tls: bool, pac: bool) -> Option<String> {
        let (peer, local) = ("192.0.2.1:1".parse().unwrap(), "[::ffff:192.0.2.7]:3128".parse().unwrap());
        let client = Client::new(peer, local, Arc::default());
        let error = check(head.as_bytes(), &Limits::default()).err()?;
        let answer = answer(Resources { pac }, &client, is_tls, &error, head.as_bytes())?;
        Some(String::from_utf8(answer).unwrap())
    }

    #[test]
    fn resources_are_one_spelling_each() {
        for (head, want) in [
            ("GET /proxy.pac HTTP/1.1\r\nHost: a.test\r\n\r\n", true),
            ("GET /proxy.pac HTTP/1.0\r\n\r\n", true),
            ("GET /healthz HTTP/1.1\r\nHost: a.test\r\n\r\n", true),
            ("GET /healthz HTTP/1.0\r\n\r\n", true),
            ("GET /healthz/ HTTP/1.1\r\nHost: a.test\r\n\r\n", false),
            ("GET /metrics HTTP/1.1\r\nHost: a.test\r\n\r\n", false),
            ("GET /proxy.pac/ HTTP/1.1\r\nHost: a.test\r\n\r\n", false),
            ("GET /proxy.pac?a HTTP/1.1\r\nHost: a.test\r\n\r\n", false),
            ("GET //proxy.pac HTTP/1.1\r\nHost: a.test\r\n\r\n", false),
            ("GET /other HTTP/1.1\r\nHost: a.test\r\n\r\n", false),
            ("POST /proxy.pac HTTP/1.1\r\nHost: a.test\r\n\r\n", false),
            ("HEAD /proxy.pac HTTP/1.1\r\nHost: a.test\r\n\r\n", false),
            ("GET  /proxy.pac HTTP/1.1\r\nHost: a.test\r\n\r\n", false),
            ("GET /proxy.pac HTTP/1.1\r\nHost: a.test\r\n b\r\n\r\n", false),
            ("GET http://a.test/proxy.pac HTTP/1.1\r\nHost: a.test\r\n\r\n", false),
            ("CONNECT /proxy.pac HTTP/1.1\r\nHost: a.test\r\n\r\n", false),
        ] {
            assert_eq!(get(head, false, true).is_some(), want, "{head:?}");
            let is_left = want && head.contains("healthz");
            assert_eq!(get(head, false, false).is_some(), is_left, "switched off: {head:?}");
        }
    }

    #[test]
    fn a_pac_names_the_address_that_the_client_used() {
        for (fields, want) in [
            ("Host: Proxy.Example.com:3128\r\n", "PROXY proxy.example.com:3128"),
            ("Accept: */*\r\nhost:192.0.2.9:8080 \r\n", "PROXY 192.0.2.9:8080"),
            ("Host: [2001:db8::1]:3128\r\n", "PROXY [2001:db8::1]:3128"),
            ("Host: proxy.example.com\r\n", "PROXY proxy.example.com:80"),
            ("", "PROXY 192.0.2.7:3128"),
            ("Host: a.test\r\nHost: b.test\r\n", "PROXY 192.0.2.7:3128"),
            ("Host: \"; alert(1); \"\r\n", "PROXY 192.0.2.7:3128"),
            ("Host: user@a.test\r\n", "PROXY 192.0.2.7:3128"),
            ("Host: 0x7f.1\r\n", "PROXY 192.0.2.7:3128"),
        ] {
            let answer = get(&format!("GET /proxy.pac HTTP/1.1\r\n{fields}\r\n"), false, true).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.contains("\r\ncontent-type: application/x-ns-proxy-autoconfig\r\n"), "{head}");
            assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())), "{head}");
            assert!(body.contains(&format!("  return \"{want}\";\n")), "{fields}: {body}");
        }
    }

    #[test]
    fn a_pac_from_a_tls_listener_leads_to_tls() {
        for (fields, want) in [
            ("Host: proxy.example.com:3129\r\n", "HTTPS proxy.example.com:3129"),
            ("Host: proxy.example.com\r\n", "HTTPS proxy.example.com:443"),
            ("", "HTTPS 192.0.2.7:3128"),
        ] {
            let answer = get(&format!("GET /proxy.pac HTTP/1.1\r\n{fields}\r\n"), true, true).unwrap();
            assert!(answer.contains(&format!("  return \"{want}\";\n")), "{fields}: {answer}");
        }
    }

    #[test]
    fn http2_asks_a_listener_by_its_name_or_address() {
        let here = |name: Option<&str>, address: &str| Here {
            name: name.map(|name| DnsName::parse(name).unwrap()),
            address: address.parse().unwrap(),
            is_tls: name.is_some(),
        };
        let named = here(Some("proxy.example.com"), "192.0.2.7:3129");
        let plain = here(None, "192.0.2.7:3128");
        for (here, method, uri, want) in [
            (&named, "GET", "https://proxy.example.com:3129/healthz", Some("ok\n")),
            (&named, "GET", "https://PROXY.example.com:3129/healthz", Some("ok\n")),
            (&named, "GET", "https://192.0.2.7:3129/healthz", Some("ok\n")),
            (&named, "GET", "https://proxy.example.com:3129/proxy.pac", Some("HTTPS proxy.example.com:3129")),
            (&named, "GET", "https://proxy.example.com/healthz", None),
            (&named, "GET", "https://other.example.com:3129/healthz", None),
            (&named, "GET", "https://proxy.example.com:3129/healthz?", None),
            (&named, "GET", "https://proxy.example.com:3129/metrics", None),
            (&named, "GET", "http://proxy.example.com:3129/healthz", None),
            (&named, "HEAD", "https://proxy.example.com:3129/healthz", None),
            (&plain, "GET", "http://192.0.2.7:3128/healthz", Some("ok\n")),
            (&plain, "GET", "http://192.0.2.7:3128/proxy.pac", Some("PROXY 192.0.2.7:3128")),
            (&plain, "GET", "http://192.0.2.8:3128/healthz", None),
            (&plain, "GET", "http://proxy.example.com:3128/healthz", None),
            (&plain, "GET", "https://192.0.2.7:3128/healthz", None),
        ] {
            let (parts, ()) = http::Request::builder().method(method).uri(uri).body(()).unwrap().into_parts();
            let got = answer_http2(Resources { pac: true }, here, &parts).map(|(_, body)| body);
            assert_eq!(got.is_some(), want.is_some(), "{method} {uri}: {got:?}");
            assert!(got.unwrap_or_default().contains(want.unwrap_or_default()), "{uri}");
            let off = answer_http2(Resources { pac: false }, here, &parts);
            assert_eq!(off.is_some(), want.is_some() && uri.contains("healthz"), "switched off: {uri}");
        }
    }
}
