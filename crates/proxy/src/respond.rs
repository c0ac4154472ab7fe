//! The one place that writes a refusal. The same content goes to a CONNECT, to hyper and to a socket over its limit.

use std::{fmt::Write as _, sync::Arc};

use bytes::Bytes;
use exeat_policy::Reason;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use hyper::ext::ReasonPhrase;

/// The longest reason phrase, in bytes. Clients print it on one line, and some cut it at 128.
const PHRASE_BYTES_MAX: usize = 120;
/// Room for a head and a body as most are, so that they are written where they stay.
const HEAD_BYTES: usize = 512;
const BODY_BYTES: usize = 256;
/// When a client that met a limit may try again, in seconds: rates are of one event a second or more, so the next one is
/// due by then.
const RETRY_AFTER_SECONDS: &str = "1";
/// The methods that a 405 offers (RFC 9110 §15.5.6).
const METHODS_ALLOWED: &str = "CONNECT, GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
/// The challenge of every 407 (RFC 7617 §2.1). It comes first: many clients read one challenge.
const CHALLENGE: &str = "Basic realm=\"exeat\", charset=\"UTF-8\"";
/// The further one where tokens are accepted (RFC 6750 §3).
const TOKEN_CHALLENGE: &str = "Bearer realm=\"exeat\"";

/// A refusal, before it takes the form of a response.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    /// Why.
    pub(crate) reason: Reason,
    /// The status code: the reason's own unless the caller knows a better one.
    pub(crate) status: u16,
    /// The `Proxy-Status` error type: the reason's own unless the caller knows a better one.
    pub(crate) error: &'static str,
    /// The SOCKS5 reply: the reason's own unless the caller knows a better one.
    pub(crate) socks_reply: u8,
    /// What happened, in a few words of ours: never text from a client or another rule.
    pub(crate) detail: Option<String>,
    /// The next hop that could not be reached or did not do as asked.
    pub(crate) next_hop: Option<NextHop>,
    /// The canonical authority that was asked for.
    pub(crate) target: Option<String>,
    /// The smallest entry that would allow the request, if it may be told.
    pub(crate) allow: Option<String>,
}

/// What `Proxy-Status` tells of a next hop (RFC 9209 §2.1.2, §2.1.5).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct NextHop {
    /// Its name in the configuration: letters, digits, `-`, `_` and `.`.
    pub(crate) name: Arc<str>,
    /// The status that it answered with, if it did.
    pub(crate) status: Option<u16>,
}

/// Who refuses, and under which id the audit log knows the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signature<'a> {
    /// This instance's name, as in `Via`.
    pub(crate) instance: &'a str,
    /// The id of the request.
    pub(crate) request_id: &'a str,
    /// Whether credentials may be a token.
    pub(crate) takes_tokens: bool,
}

/// Whether the connection lives on after the refusal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum After {
    /// It is closed.
    Close,
    /// The client may send its next request.
    KeepAlive,
}

/// How far a SOCKS client has come, which gives its refusal its form.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SocksStep {
    /// It speaks SOCKS4.
    Version4,
    /// It offers methods (RFC 1928 §3).
    Method,
    /// It sends user and password (RFC 1929 §2).
    Password,
    /// It asks for a connection (RFC 1928 §4).
    Request,
}

impl Refusal {
    /// Returns the refusal for `reason`, without a target.
    pub(crate) const fn new(reason: Reason) -> Self {
        Self {
            reason,
            status: reason.http_status(),
            error: reason.proxy_status_error(),
            socks_reply: reason.socks_reply(),
            detail: None,
            next_hop: None,
            target: None,
            allow: None,
        }
    }

    /// Adds what happened.
    pub(crate) fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Returns the whole response as bytes for a client that hyper does not serve. `has_body` is false for HEAD.
    pub(crate) fn to_bytes(&self, by: Signature<'_>, after: After, has_body: bool) -> Vec<u8> {
        let body = self.body(by);
        let mut text = String::with_capacity(HEAD_BYTES + body.len());
        let _ = write!(text, "HTTP/1.1 {} ", self.status);
        self.push_phrase(&mut text);
        text.push_str("\r\n");
        self.each_field(by, |name, value| {
            for part in [name, ": ", value, "\r\n"] {
                text.push_str(part);
            }
        });
        let connection = match after {
            After::Close => "close",
            After::KeepAlive => "keep-alive",
        };
        let _ = write!(text, "content-length: {}\r\nconnection: {connection}\r\n\r\n", body.len());
        if has_body {
            text.push_str(&body);
        }
        text.into_bytes()
    }

    /// Returns the whole response for hyper, which leaves the body out where the method has none.
    pub(crate) fn to_response(&self, by: Signature<'_>, after: After) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(self.body(by)));
        // A status outside the registry's range cannot be in the table; 403 still refuses.
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::FORBIDDEN);
        if let Ok(phrase) = ReasonPhrase::try_from(self.phrase().into_bytes()) {
            response.extensions_mut().insert(phrase);
        }
        self.each_field(by, |name, value| {
            if let Ok(value) = HeaderValue::try_from(value) {
                response.headers_mut().append(HeaderName::from_static(name), value);
            }
        });
        if after == After::Close {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Returns what a SOCKS client gets: a number is all that there is room for.
    pub(crate) fn to_socks(&self, step: SocksStep) -> Vec<u8> {
        match step {
            // "Request rejected or failed", without an address.
            SocksStep::Version4 => vec![0, 0x5b, 0, 0, 0, 0, 0, 0],
            // "No acceptable methods".
            SocksStep::Method => vec![5, 0xff],
            SocksStep::Password => vec![1, 1],
            // The address that was bound is 0.0.0.0:0: there is none.
            SocksStep::Request => vec![5, self.socks_reply, 0, 1, 0, 0, 0, 0, 0, 0],
        }
    }

    /// `egress denied: host_not_allowed api.example.com:443`: the only text that many clients print.
    fn phrase(&self) -> String {
        let mut phrase = String::with_capacity(PHRASE_BYTES_MAX);
        self.push_phrase(&mut phrase);
        phrase
    }

    fn push_phrase(&self, text: &mut String) {
        let start = text.len();
        for part in [self.kind(), ": ", self.reason.token()] {
            text.push_str(part);
        }
        if let Some(target) = &self.target {
            let room = PHRASE_BYTES_MAX.saturating_sub(text.len() - start + 1);
            text.push(' ');
            push_shortened(text, target, room);
        }
    }

    const fn kind(&self) -> &'static str {
        match self.status {
            403 | 421 => "egress denied",
            405 => "method not allowed",
            407 => "proxy authentication required",
            408 => "request timeout",
            414 => "request target too long",
            429 => "too many requests",
            431 => "request head too large",
            505 => "HTTP version not supported",
            508 => "loop detected",
            400..=499 => "bad request",
            _ => "egress failed",
        }
    }

    fn each_field(&self, by: Signature<'_>, mut take: impl FnMut(&'static str, &str)) {
        take("content-type", "application/json");
        take("cache-control", "no-store");
        take("x-deny-reason", self.reason.token());
        take("proxy-status", &self.proxy_status(by));
        take("x-exeat-request-id", by.request_id);
        match self.status {
            405 => take("allow", METHODS_ALLOWED),
            407 => {
                take("proxy-authenticate", CHALLENGE);
                if by.takes_tokens {
                    take("proxy-authenticate", TOKEN_CHALLENGE);
                }
            }
            429 | 503 => take("retry-after", RETRY_AFTER_SECONDS),
            _ => {}
        }
    }

    fn proxy_status(&self, by: Signature<'_>) -> String {
        let parts = [by.instance, "; error=", self.error, "; details=\"", self.reason.token(), "\""];
        let mut field = parts.concat();
        if let Some(NextHop { name, status }) = &self.next_hop {
            let _ = write!(field, "; next-hop=\"{name}\"");
            if let Some(status) = status {
                let _ = write!(field, "; received-status={status}");
            }
        }
        field
    }

    fn body(&self, by: Signature<'_>) -> String {
        let mut body = String::with_capacity(BODY_BYTES);
        body.push_str("{\"error\":\"");
        // What has nothing to escape is ours.
        for part in [self.kind(), ": ", self.reason.token()] {
            body.push_str(part);
        }
        if let Some(target) = &self.target {
            body.push(' ');
            push_json(&mut body, target);
        }
        if let Some(detail) = &self.detail {
            body.push_str(" (");
            push_json(&mut body, detail);
            body.push(')');
        }
        for part in ["\",\"reason\":\"", self.reason.token(), "\""] {
            body.push_str(part);
        }
        for (key, value) in [(",\"target\":\"", &self.target), (",\"allow\":\"", &self.allow)] {
            if let Some(value) = value {
                body.push_str(key);
                push_json(&mut body, value);
                body.push('"');
            }
        }
        body.push_str(",\"request_id\":\"");
        push_json(&mut body, by.request_id);
        body.push_str("\"}\n");
        body
    }
}

/// Appends `text` in `room` bytes. The end stays: the registered name and the port say more than the first labels.
fn push_shortened(out: &mut String, text: &str, room: usize) {
    if text.len() <= room {
        out.push_str(text);
        return;
    }
    let kept = room.saturating_sub("...".len());
    out.push_str("...");
    out.push_str(text.get(text.len() - kept..).unwrap_or_default());
}

/// Appends what stands between the quotes of a JSON string (RFC 8259 §7) in ASCII.
fn push_json(out: &mut String, text: &str) {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
        out.push_str(text);
        return;
    }
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BY: Signature<'_> = Signature { instance: "exeat-0a1b2c3d", request_id: "r1", takes_tokens: false };

    fn denied(target: &str) -> Refusal {
        Refusal { target: Some(target.to_owned()), ..Refusal::new(Reason::HostNotAllowed) }
    }

    #[test]
    fn a_denial_says_why_in_three_places() {
        let refusal =
            Refusal { allow: Some("\"api.example.com\"".to_owned()), ..denied("api.example.com:443") };
        let text = String::from_utf8(refusal.to_bytes(BY, After::Close, true)).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 403 egress denied: host_not_allowed api.example.com:443\r\n"),
            "{head}"
        );
        for line in [
            "x-deny-reason: host_not_allowed",
            "proxy-status: exeat-0a1b2c3d; error=http_request_denied; details=\"host_not_allowed\"",
            "x-exeat-request-id: r1",
            "cache-control: no-store",
            "connection: close",
            &format!("content-length: {}", body.len()),
        ] {
            assert!(head.lines().any(|l| l == line), "{line} in {head}");
        }
        assert_eq!(
            body,
            "{\"error\":\"egress denied: host_not_allowed api.example.com:443\",\"reason\":\"host_not_allowed\",\
             \"target\":\"api.example.com:443\",\"allow\":\"\\\"api.example.com\\\"\",\"request_id\":\"r1\"}\n"
        );
    }

    #[test]
    fn both_forms_have_the_same_content() {
        for reason in Reason::ALL {
            let refusal = Refusal { target: Some("example.com:80".to_owned()), ..Refusal::new(*reason) };
            let response = refusal.to_response(BY, After::Close);
            let text = String::from_utf8(refusal.to_bytes(BY, After::Close, true)).unwrap();
            let phrase = response.extensions().get::<ReasonPhrase>().unwrap();
            let line = format!(
                "HTTP/1.1 {} {}\r\n",
                response.status().as_u16(),
                std::str::from_utf8(phrase.as_bytes()).unwrap()
            );
            assert!(text.starts_with(&line), "{reason}");
            for (name, value) in response.headers() {
                let line = format!("\r\n{name}: {}\r\n", value.to_str().unwrap());
                assert!(text.contains(&line), "{reason} {line}");
            }
            assert!(text.as_bytes().ends_with(response.body()), "{reason}");
        }
    }

    #[test]
    fn challenges_go_with_407_alone() {
        for reason in Reason::ALL {
            let refusal = Refusal::new(*reason);
            let response = refusal.to_response(BY, After::KeepAlive);
            assert_eq!(
                response.headers().contains_key("proxy-authenticate"),
                refusal.status == 407,
                "{reason}"
            );
        }
    }

    #[test]
    fn tokens_are_asked_for_where_they_are_accepted() {
        let refusal = Refusal::new(Reason::AuthRequired);
        for (takes_tokens, want) in
            [(false, &[CHALLENGE][..]), (true, &[CHALLENGE, "Bearer realm=\"exeat\""][..])]
        {
            let by = Signature { takes_tokens, ..BY };
            let response = refusal.to_response(by, After::KeepAlive);
            let challenges: Vec<_> = response.headers().get_all("proxy-authenticate").iter().collect();
            assert_eq!(challenges, want);
            let text = String::from_utf8(refusal.to_bytes(by, After::KeepAlive, true)).unwrap();
            for challenge in want {
                assert!(text.contains(&format!("\r\nproxy-authenticate: {challenge}\r\n")), "{text}");
            }
        }
    }

    #[test]
    fn phrases_are_short_ascii() {
        let long = format!("{}.example.com:443", "a".repeat(63));
        let longest = format!("{}.{long}", ["b".repeat(63), "c".repeat(63)].join("."));
        for target in ["example.com:443", &long, &longest] {
            let phrase = denied(target).phrase();
            assert!(phrase.len() <= PHRASE_BYTES_MAX && phrase.is_ascii(), "{phrase}");
            assert!(phrase.ends_with("example.com:443"), "{phrase}");
        }
    }

    #[test]
    fn json_strings() {
        for (text, want) in [("a", "a"), ("a\"b\\c", "a\\\"b\\\\c"), ("\n\u{1F600}", "\\u000a\\ud83d\\ude00")]
        {
            let mut out = String::new();
            push_json(&mut out, text);
            assert_eq!(out, want);
        }
    }

    #[test]
    fn head_gets_no_body() {
        let text = String::from_utf8(denied("example.com:80").to_bytes(BY, After::Close, false)).unwrap();
        assert!(text.ends_with("\r\n\r\n"));
    }
}
