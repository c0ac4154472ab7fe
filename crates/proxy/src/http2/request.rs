//! What a request must be besides what h2 has seen to: one authority that everything agrees on, and the same limits as
//! in HTTP/1.

use exeat_model::{Authority, Port};
use http::{HeaderValue, Method, header, request::Parts};

use crate::{
    guard::{HeadError, METHODS_REFUSED, length},
    limits::Limits,
    target::{Scheme, Target, TargetError},
};

/// What RFC 9113 §6.5.2 adds to each field for the size of a field section, in bytes.
const FIELD_OVERHEAD_BYTES: usize = 32;

/// Returns what a request asks for, from `:authority` alone (RFC 9113 §8.3.1).
///
/// # Errors
/// The first rule that it breaks.
pub(super) fn check(parts: &Parts, limits: &Limits) -> Result<Target, HeadError> {
    check_size(parts, limits)?;
    let method = parts.method.as_str();
    if method.bytes().any(|b| b.is_ascii_lowercase()) {
        return Err(HeadError::Method);
    }
    let authority = parts.uri.authority().ok_or(TargetError::Malformed)?;
    if authority.as_str().contains('@') {
        return Err(TargetError::Userinfo.into());
    }
    let target = Target::parse(method, &asked(parts))?;
    if METHODS_REFUSED.contains(&method) {
        return Err(HeadError::MethodRefused);
    }
    check_host(parts, &target)?;
    check_length(parts)?;
    Ok(target)
}

/// The target as HTTP/1 would write it.
pub(super) fn asked(parts: &Parts) -> String {
    match (&parts.method, parts.uri.authority()) {
        (&Method::CONNECT, Some(authority)) => authority.to_string(),
        // Written one after the other they would be another host.
        (_, _) if is_asterisk(parts) => "*".to_owned(),
        (_, _) => parts.uri.to_string(),
    }
}

/// Whether the request is for a server as a whole (RFC 9113 §8.3.1).
fn is_asterisk(parts: &Parts) -> bool {
    parts.uri.path() == "*"
}

fn check_size(parts: &Parts, limits: &Limits) -> Result<(), HeadError> {
    let line = parts.method.as_str().len() + asked(parts).len();
    if line > limits.uri_bytes {
        return Err(HeadError::LineTooLong);
    }
    let fields: usize = parts
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD_BYTES)
        .sum();
    if line + fields > limits.head_bytes {
        return Err(HeadError::TooLong);
    }
    if parts.headers.len() > limits.header_count {
        return Err(HeadError::TooManyFields);
    }
    Ok(())
}

/// A `Host` beside `:authority` must name the same: the next one to look may look at the other.
fn check_host(parts: &Parts, target: &Target) -> Result<(), HeadError> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return if parts.headers.contains_key(header::HOST) { Err(HeadError::Host) } else { Ok(()) };
    };
    let default_port = match target {
        Target::Tunnel(_) => Port::HTTPS,
        Target::Forward(forward) => match forward.scheme {
            Scheme::Http => Port::HTTP,
            Scheme::Https => Port::HTTPS,
        },
    };
    let host = host.to_str().ok().and_then(|host| Authority::parse(host, Some(default_port)).ok());
    if host.as_ref() == Some(target.authority()) { Ok(()) } else { Err(HeadError::HostMismatch) }
}

/// At most one length, and none for a CONNECT: its data is the tunnel's. That the data has the length h2 checks.
fn check_length(parts: &Parts) -> Result<(), HeadError> {
    let mut lengths = parts.headers.get_all(header::CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(()),
        (Some(value), None) if parts.method != Method::CONNECT => {
            length(value.as_bytes()).map(drop).ok_or(HeadError::Framing)
        }
        (Some(_), _) => Err(HeadError::Framing),
    }
}

/// Makes the fields those of a request in HTTP/1: the pieces of a cookie become one (RFC 9113 §8.2.3).
pub(super) fn join_cookies(parts: &mut Parts) {
    let pieces: Vec<&[u8]> =
        parts.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if pieces.len() > 1
        && let Ok(cookie) = HeaderValue::from_bytes(&pieces.join(&b"; "[..]))
    {
        parts.headers.insert(header::COOKIE, cookie);
    }
}

/// The error for a request whose target is written in a way that only other versions have.
pub(super) const fn extended_connect() -> HeadError {
    HeadError::Target(TargetError::Malformed)
}
