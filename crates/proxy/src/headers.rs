//! Which header fields pass the proxy, and which stay on their side of it.

use exeat_model::{Authority, Host, Port};
use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use smallvec::SmallVec;

use crate::{guard::length, hop::HopCredentials, trail::written};

/// Fields of one header that are looked at without asking for memory. Few messages drop more.
const DROPPED_FEW: usize = 8;
/// Fields by which some proxies tell an upstream who a client is. From a client they are a claim, not a fact.
const IDENTITY_PREFIXES: &[&str] = &["x-forwarded-", "x-org", "x-exeat-"];
/// Fields for proxies: credentials and challenges of the connection to this one.
const PROXY_PREFIX: &str = "proxy-";
const NOT_FROM_UPSTREAM_PREFIX: &str = "x-exeat-";

/// Makes a client's fields fit for the upstream: drops what is not for it, sets `Host` to the authority that was
/// decided on (RFC 9112 §3.2.2) and adds this proxy to `Via`. `Authorization` and the rest stay as they are.
pub(crate) fn for_upstream(headers: &mut HeaderMap, authority: &Authority, version: Version, instance: &str) {
    drop_where(headers, |name| {
        // Many servers take one for the other (RFC 3875 §4.1.18).
        let dashed = name.contains('_').then(|| name.replace('_', "-"));
        let name = dashed.as_deref().unwrap_or(name);
        // The 100 was ours to send, and was sent when the body was first asked for (RFC 9110 §10.1.1).
        name == "expect"
            || is_identity(name)
            || IDENTITY_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            || name.starts_with(PROXY_PREFIX)
    });
    if let Ok(host) = HeaderValue::try_from(host_field(authority)) {
        headers.insert(header::HOST, host);
    }
    add_via(headers, version, instance);
}

/// Adds what is for an HTTP next hop alone. `None` if the credentials cannot be a field's value.
pub(crate) fn for_hop(headers: &mut HeaderMap, credentials: Option<&HopCredentials>) -> Option<()> {
    if let Some(credentials) = credentials {
        let mut value = HeaderValue::try_from(credentials.basic()).ok()?;
        value.set_sensitive(true);
        headers.insert(header::PROXY_AUTHORIZATION, value);
    }
    Some(())
}

/// Makes an upstream's fields fit for the client.
pub(crate) fn for_client(headers: &mut HeaderMap, version: Version, instance: &str) {
    drop_where(headers, |name| {
        is_for_proxy_alone(name)
            || name.starts_with(NOT_FROM_UPSTREAM_PREFIX)
            || name.starts_with(PROXY_PREFIX)
    });
    add_via(headers, version, instance);
}

/// Makes one field of the lengths that a response says, all of them the same (RFC 9112 §6.3). Returns `None` if they are not,
/// or one is none.
pub(crate) fn keep_one_length(headers: &mut HeaderMap) -> Option<()> {
    let mut said = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = said.next() else { return Some(()) };
    if said.next().is_none() && first.as_bytes().iter().all(u8::is_ascii_digit) {
        return Some(());
    }
    let values = headers.get_all(header::CONTENT_LENGTH).iter();
    let mut lengths = values.flat_map(|value| value.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii);
    let one = length(lengths.next()?)?;
    if !lengths.all(|other| length(other) == Some(one)) {
        return None;
    }
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(one));
    Some(())
}

/// Whether one of the `Via` values names this instance (RFC 9110 §7.6.3).
pub(crate) fn names_instance<'a>(via: impl IntoIterator<Item = &'a [u8]>, instance: &str) -> bool {
    via.into_iter()
        .flat_map(|value| value.split(|b| matches!(b, b',' | b' ' | b'\t')))
        .any(|word| word.eq_ignore_ascii_case(instance.as_bytes()))
}

/// The authority as `Host` writes it.
pub(crate) fn host_field(authority: &Authority) -> String {
    match &authority.host {
        _ if authority.port != Port::HTTP => written("", authority),
        Host::Name(name) => name.as_str().to_owned(),
        host @ Host::Address(_) => host.to_string(),
    }
}

fn add_via(headers: &mut HeaderMap, version: Version, instance: &str) {
    let version = match version {
        Version::HTTP_10 => "1.0 ",
        Version::HTTP_2 => "2 ",
        _ => "1.1 ",
    };
    let mut entry = SmallVec::<[u8; 32]>::from_slice(version.as_bytes());
    entry.extend_from_slice(instance.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&entry) {
        headers.append(header::VIA, value);
    }
}

/// Fields of one connection alone (RFC 9110 §7.6.1), besides those that `Connection` names.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "http2-settings"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Likewise [`IDENTITY_PREFIXES`], by the whole name.
fn is_identity(name: &str) -> bool {
    matches!(name, "forwarded" | "x-container-id" | "x-jwt-payload" | "x-real-ip" | "x-upstream-https-proxy")
}

/// Fields of a response that speak for this proxy, or that would lead the client around it.
fn is_for_proxy_alone(name: &str) -> bool {
    matches!(name, "alt-svc" | "x-deny-reason")
}

/// Drops the fields of one connection alone, and those that `drop` names.
fn drop_where(headers: &mut HeaderMap, drop: impl Fn(&str) -> bool) {
    let mut dropped: SmallVec<[HeaderName; DROPPED_FEW]> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    let names = headers.keys().filter(|name| is_hop_by_hop(name.as_str()) || drop(name.as_str()));
    dropped.extend(names.cloned());
    for name in dropped {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
        }
        headers
    }

    fn shown(headers: &HeaderMap) -> Vec<String> {
        let mut shown: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        shown.sort();
        shown
    }

    #[test]
    fn requests() {
        let authority = Authority::parse("example.com:80", None).unwrap();
        let mut headers = map(&[
            ("host", "evil.test"),
            ("accept", "*/*"),
            ("authorization", "Bearer x"),
            ("connection", "close, X-Mine, Proxy-Authorization"),
            ("expect", "100-continue"),
            ("forwarded", "for=10.0.0.1"),
            ("http2-settings", "AAMAAABk"),
            ("proxy-authorization", "Basic x"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("upgrade", "h2c"),
            ("via", "1.1 other"),
            ("proxy_authorization", "Basic x"),
            ("x-container-id", "c"),
            ("x-container_id", "c"),
            ("x-my_own", "1"),
            ("x_forwarded_for", "10.0.0.1"),
            ("x_jwt_payload", "{}"),
            ("x_org_id", "o"),
            ("x_real_ip", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-host", "evil.test"),
            ("x-jwt-payload", "{}"),
            ("x-mine", "1"),
            ("x-org-id", "o"),
            ("x-organization-uuid", "o"),
            ("x-real-ip", "10.0.0.1"),
            ("x-upstream-https-proxy", "https://evil.test"),
        ]);
        for_upstream(&mut headers, &authority, Version::HTTP_11, "exeat-1");
        assert_eq!(
            shown(&headers),
            [
                "accept: */*",
                "authorization: Bearer x",
                "host: example.com",
                "via: 1.1 exeat-1",
                "via: 1.1 other",
                "x-my_own: 1"
            ]
        );
    }

    #[test]
    fn responses() {
        let mut headers = map(&[
            ("alt-svc", "h3=\":443\""),
            ("connection", "x-own"),
            ("content-type", "text/plain"),
            ("keep-alive", "timeout=5"),
            ("proxy-authenticate", "Basic"),
            ("proxy-status", "other; error=x"),
            ("transfer-encoding", "chunked"),
            ("x-deny-reason", "host_denied"),
            ("x-exeat-request-id", "forged"),
            ("x-own", "1"),
        ]);
        for_client(&mut headers, Version::HTTP_10, "exeat-1");
        assert_eq!(shown(&headers), ["content-type: text/plain", "via: 1.0 exeat-1"]);
    }

    #[test]
    fn lengths() {
        for (said, want) in [
            (&[][..], Some(&[][..])),
            (&["2"], Some(&["2"])),
            (&["2, 2"], Some(&["2"])),
            (&["2", "2"], Some(&["2"])),
            (&["2", "2 ,2"], Some(&["2"])),
            (&["2, 3"], None),
            (&["2", "3"], None),
            (&["2,"], None),
            (&["+2"], None),
            (&["2, x"], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in said {
                headers.append(header::CONTENT_LENGTH, HeaderValue::from_static(value));
            }
            let kept = keep_one_length(&mut headers);
            let got: Vec<_> =
                headers.get_all(header::CONTENT_LENGTH).iter().map(|v| v.to_str().unwrap()).collect();
            assert_eq!(kept.map(|()| &got[..]), want, "{said:?}");
        }
    }

    #[test]
    fn host_leaves_port_80_out() {
        for (authority, want) in [
            ("example.com:80", "example.com"),
            ("example.com:8080", "example.com:8080"),
            ("[2001:db8::1]:80", "[2001:db8::1]"),
            ("[2001:db8::1]:81", "[2001:db8::1]:81"),
        ] {
            assert_eq!(host_field(&Authority::parse(authority, None).unwrap()), want);
        }
    }

    #[test]
    fn loops() {
        for (via, want) in [
            ("1.1 exeat-1", true),
            ("1.0 a, 1.1 exeat-1 (comment)", true),
            ("HTTP/1.1 EXEAT-1", true),
            ("1.1 exeat-12", false),
            ("1.1 other", false),
            ("", false),
        ] {
            assert_eq!(names_instance([via.as_bytes()], "exeat-1"), want, "{via}");
        }
    }
}
