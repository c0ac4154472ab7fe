//! What the proxy's own port answers itself: a few requests in origin-form, for those who can ask nothing else. Every
//! other one stays malformed. They take no credentials and make no record: nothing is decided, and nothing is told
//! that whoever connected does not know.

use std::net::SocketAddr;

use exeat_model::{Authority, Port};

use crate::{guard::HeadError, listen::Client, target::TargetError};

/// Which of the resources there are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Resources {
    /// `/proxy.pac`
    pub(crate) pac: bool,
}

/// What is known of a request.
struct Asked<'a> {
    /// The whole head.
    head: &'a [u8],
    client: Client,
    /// Whether it came through TLS.
    is_tls: bool,
    resources: Resources,
}

/// A resource's path, type and content; `None` if it is switched off.
type Resource = (&'static str, &'static str, fn(&Asked<'_>) -> Option<String>);

const RESOURCES: &[Resource] = &[
    // For load balancers that can ask nothing else.
    ("/healthz", "text/plain", |_| Some("ok\n".to_owned())),
    ("/proxy.pac", "application/x-ns-proxy-autoconfig", pac),
];

/// Returns the response if `head`, refused with `error`, is a GET of a resource and nothing but its form is wrong. The
/// connection is closed after it, as after every head that the guard did not pass.
pub(crate) fn answer(
    resources: Resources,
    client: Client,
    is_tls: bool,
    error: &HeadError,
    head: &[u8],
) -> Option<Vec<u8>> {
    if !matches!(error, HeadError::Target(TargetError::NotForProxy)) {
        return None;
    }
    let path = path(head)?;
    let (_, content_type, content) = RESOURCES.iter().find(|(of, _, _)| of.as_bytes() == path)?;
    let body = content(&Asked { head, client, is_tls, resources })?;
    Some(
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncache-control: no-store\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
        .into_bytes(),
    )
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
fn pac(asked: &Asked<'_>) -> Option<String> {
    let (kind, default_port) = if asked.is_tls { ("HTTPS", Port::HTTPS) } else { ("PROXY", Port::HTTP) };
    let here = host(asked.head, default_port).unwrap_or_else(|| shown(asked.client.local));
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
    use super::*;
    use crate::{guard::check, limits::Limits};

    fn get(head: &str, is_tls: bool, pac: bool) -> Option<String> {
        let client = Client {
            peer: "192.0.2.1:1".parse().unwrap(),
            local: "[::ffff:192.0.2.7]:3128".parse().unwrap(),
        };
        let error = check(head.as_bytes(), &Limits::default()).err()?;
        let answer = answer(Resources { pac }, client, is_tls, &error, head.as_bytes())?;
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
}
