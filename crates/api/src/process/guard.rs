//! Whose requests are heard: those for this server, of no page of somebody else, with the secret.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::{ProcessApi, Setup};
use crate::error::Failure;

/// Answers a request that is not heard, whatever it asks for, before its body is read.
pub(crate) async fn check(State(api): State<ProcessApi>, request: Request, next: Next) -> Response {
    let setup = &api.0.setup;
    let refused = host(setup, &request)
        .and_then(|()| origin(setup, request.headers()))
        .and_then(|()| secret(setup, request.headers()));
    match refused {
        Ok(()) => next.run(request).await,
        Err(failure) => {
            let mut answer = failure.into_response();
            // Who does not know the secret has no use for the connection, and others may wait for its place.
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            if answer.status() == StatusCode::UNAUTHORIZED {
                // RFC 9110 §11.6.1, RFC 6750 §3.
                answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            answer
        }
    }
}

/// A name that leads here today and elsewhere tomorrow makes a browser take both for one place: only names that are known count.
fn host(setup: &Setup, request: &Request) -> Result<(), Failure> {
    let mut fields = request.headers().get_all(header::HOST).iter();
    let field = match (fields.next(), fields.next()) {
        (Some(one), None) => one.to_str().ok(),
        _ => None,
    };
    // It has to be there (RFC 9112 §3.2), but an absolute-form target counts for more (§3.2.2).
    let target = request.uri().authority().map(http::uri::Authority::as_str);
    let Some(host) = field.map(|field| target.unwrap_or(field)) else {
        return Err(Failure::request("the request needs one Host"));
    };
    let name = without_port(host);
    let is_known = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || setup.hosts.iter().any(|known| known.eq_ignore_ascii_case(name));
    if is_known {
        return Ok(());
    }
    Err(Failure::new(StatusCode::MISDIRECTED_REQUEST, format!("this is not `{name}`"))
        .help("call it by its address, or start it with --host NAME"))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Browsers say whose page asks, above all for WebSockets, which no other rule of theirs keeps from here.
fn origin(setup: &Setup, headers: &HeaderMap) -> Result<(), Failure> {
    for origin in headers.get_all(header::ORIGIN) {
        let is_known = origin.to_str().is_ok_and(|origin| setup.origins.iter().any(|known| known == origin));
        if !is_known {
            let error = "pages of this origin may not call the process API";
            return Err(Failure::forbidden(error).help("start it with --allow-origin ORIGIN"));
        }
    }
    Ok(())
}

fn secret(setup: &Setup, headers: &HeaderMap) -> Result<(), Failure> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    if let (Some(one), None) = (fields.next(), fields.next()) {
        let mut words = one.as_bytes().splitn(2, |byte| *byte == b' ');
        let scheme = words.next().unwrap_or_default();
        if scheme.eq_ignore_ascii_case(b"bearer") && setup.secret.is(words.next().unwrap_or_default()) {
            return Ok(());
        }
    }
    Err(Failure::new(StatusCode::UNAUTHORIZED, "this takes the secret of the process API").help(
        "send it as `Authorization: Bearer SECRET`; it is in the file that the server names when it starts",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_told_from_addresses() {
        for (host, want) in [
            ("127.0.0.1:8080", "127.0.0.1"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]:8080", "[::1]"),
            ("[::1]", "[::1]"),
            ("api.example.com:", "api.example.com"),
            ("api.example.com:x", "api.example.com:x"),
        ] {
            assert_eq!(without_port(host), want, "{host}");
        }
    }
}
