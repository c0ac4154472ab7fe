//! What must open a tunnel: the client's first bytes are read and judged before any of them goes upstream.
//!
//! | rule expects | agreed | refused |
//! |---|---|---|
//! | `tls` | ClientHello for the asked or a listed name; for an address also without a name | `tls_required`, `sni_missing`, `sni_mismatch`, `request_malformed` |
//! | `http` | HTTP/1 request head for the asked or a listed authority | `http_required`, `host_mismatch`, `request_malformed`, `header_too_large` |
//! | `any` | at once: the server may speak first | |
//!
//! A client that does not complete its opening in time is refused with `head_timeout`.

use std::io;

use bytes::{BufMut, BytesMut};
use exeat_model::{Authority, DnsName};
use exeat_policy::{Expect, OpeningRule, Reason};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

use crate::client_hello::{Hello, client_hello};
use crate::flows::Spoken;
use crate::guard::Scan;
use crate::http_opening;
use crate::limits::Limits;

/// Bytes asked for in one read. One read of this size takes in nearly every opening.
pub(crate) const READ_BYTES: usize = 4096;

/// Beginnings of requests that a refusal in HTTP makes sense to.
const HTTP_METHODS: [&[u8]; 7] = [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"PATCH ", b"OPTIONS "];

/// How a tunnel was opened.
#[derive(Debug)]
pub(crate) enum Opening {
    /// As the rule wants. The bytes, early ones included, go upstream unchanged.
    Agreed(BytesMut),
    /// Not as the rule wants. Nothing may go upstream.
    Refused(Refusal),
    /// The client went away before it had said enough: with an end of stream, or with an error.
    ClientGone(Option<io::Error>),
}

/// Why an opening is refused, and how to say so.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Refusal {
    /// Why.
    pub(crate) reason: Reason,
    /// The protocol that the client understands.
    pub(crate) speaks: Speaks,
}

/// The protocol that a client began to speak.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Speaks {
    /// TLS: answer with [`tls_alert`].
    Tls,
    /// HTTP/1: answer with a response.
    Http,
    /// Something else, or nothing yet: just close.
    Other,
}

/// What can be said of the bytes so far.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Judgement {
    ReadMore,
    Agreed,
    Refused(Reason),
}

/// Reads the opening of a tunnel to `asked` from `client`, of whose bytes `early` are already here.
///
/// Takes `limits.opening_timeout` at most, and no more bytes than `limits.opening_bytes` of TLS or
/// `limits.head_bytes` of HTTP (plus one read).
///
/// # Cancel safety
/// A dropped future loses the bytes read so far; the connection can only be closed then.
pub(crate) async fn read_opening(
    client: &mut (impl AsyncRead + Unpin),
    early: BytesMut,
    rule: &OpeningRule,
    asked: &Authority,
    limits: &Limits,
) -> Opening {
    let mut deadline = None;
    let mut scan = Scan::default();
    let mut bytes = early;
    loop {
        match judge(rule, asked, &mut scan, &bytes, limits) {
            Judgement::Agreed => return Opening::Agreed(bytes),
            Judgement::Refused(reason) => return refused(reason, &bytes),
            Judgement::ReadMore => {}
        }
        let mut room = (&mut bytes).limit(READ_BYTES);
        // From the first look at it, which is the only one where no opening is expected.
        let deadline = *deadline.get_or_insert_with(|| Instant::now() + limits.opening_timeout);
        match timeout_at(deadline, client.read_buf(&mut room)).await {
            Err(_) => return refused(Reason::HeadTimeout, &bytes),
            Ok(Ok(0)) => return Opening::ClientGone(None),
            Ok(Err(error)) => return Opening::ClientGone(Some(error)),
            Ok(Ok(_)) => {}
        }
    }
}

/// Judges the first bytes of a tunnel to `asked`. `scan` remembers what it has seen of the same bytes before.
pub(crate) fn judge(
    rule: &OpeningRule,
    asked: &Authority,
    scan: &mut Scan,
    bytes: &[u8],
    limits: &Limits,
) -> Judgement {
    match rule.expect() {
        Expect::Any => Judgement::Agreed,
        Expect::Tls => judge_tls(bytes, rule, limits),
        Expect::Http => http_opening::judge(scan, bytes, rule, asked, limits),
    }
}

/// For whom the first bytes of a tunnel speak, as far as `bytes` tell: what comes in pieces may stay unknown.
pub(crate) fn spoken(bytes: &[u8], asked: &Authority, limits: &Limits) -> Spoken {
    match client_hello(bytes) {
        Hello::NoServerName => Spoken::Tls(None),
        Hello::ServerName(name) | Hello::Encrypted { outer: name } => Spoken::Tls(Some(name)),
        Hello::NotTls => http_opening::host(bytes, asked, limits).map_or(Spoken::Unknown, Spoken::Http),
        Hello::Incomplete | Hello::InvalidServerName | Hello::Malformed => Spoken::Unknown,
    }
}

/// The record that tells a TLS client why it is refused: one fatal alert (RFC 8446 §6), after which the connection
/// is closed.
#[must_use]
pub(crate) const fn tls_alert(reason: Reason) -> [u8; 7] {
    const ALERT: u8 = 21;
    const FATAL: u8 = 2;
    // Record version 3.3, as every version since TLS 1.2 writes it, and a length of two.
    [ALERT, 3, 3, 0, 2, FATAL, reason.tls_alert()]
}

/// Judges the first bytes of a tunnel as a ClientHello.
fn judge_tls(bytes: &[u8], rule: &OpeningRule, limits: &Limits) -> Judgement {
    match client_hello(bytes) {
        Hello::Incomplete if bytes.len() >= limits.opening_bytes => {
            Judgement::Refused(Reason::RequestMalformed)
        }
        Hello::Incomplete => Judgement::ReadMore,
        Hello::NotTls => Judgement::Refused(Reason::TlsRequired),
        Hello::NoServerName if rule.literal() => Judgement::Agreed,
        Hello::NoServerName => Judgement::Refused(Reason::SniMissing),
        // Browsers send a GREASE ECH extension to everyone; with a real one the outer name is still the one that
        // was asked for, and the address the one that was permitted for it.
        Hello::ServerName(name) | Hello::Encrypted { outer: name } => judge_name(&name, rule),
        Hello::InvalidServerName => Judgement::Refused(Reason::SniMismatch),
        Hello::Malformed => Judgement::Refused(Reason::RequestMalformed),
    }
}

fn judge_name(name: &DnsName, rule: &OpeningRule) -> Judgement {
    if rule.accepts_name(name) { Judgement::Agreed } else { Judgement::Refused(Reason::SniMismatch) }
}

/// Whether the bytes of a client begin as requests of HTTP/1 do: with a method that is known, or with a whole request line.
pub(crate) fn begins_like_http(bytes: &[u8]) -> bool {
    HTTP_METHODS.iter().any(|method| bytes.starts_with(method)) || has_request_line(bytes)
}

/// Whether the first line, which is whole, is a method of any name, something, and the version (RFC 9112 §3).
fn has_request_line(bytes: &[u8]) -> bool {
    let mut lines = bytes.split(|b| *b == b'\n');
    let (Some(line), Some(_)) = (lines.next(), lines.next()) else { return false };
    let mut words = line.split(|b| *b == b' ');
    let (Some(method), Some(_), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return false;
    };
    let is_method = http::Method::from_bytes(method).is_ok() && !method.iter().any(u8::is_ascii_lowercase);
    is_method && version.starts_with(b"HTTP/1.")
}

fn refused(reason: Reason, bytes: &[u8]) -> Opening {
    let speaks = match client_hello(bytes) {
        Hello::NotTls if begins_like_http(bytes) => Speaks::Http,
        Hello::NotTls => Speaks::Other,
        Hello::Incomplete if bytes.is_empty() => Speaks::Other,
        Hello::Incomplete
        | Hello::NoServerName
        | Hello::ServerName(_)
        | Hello::Encrypted { .. }
        | Hello::InvalidServerName
        | Hello::Malformed => Speaks::Tls,
    };
    Opening::Refused(Refusal { reason, speaks })
}

#[cfg(test)]
mod tests;
