//! The opening of a tunnel where HTTP/1 is expected: the first request must be for the authority that was asked for.
//!
//! Later requests on the same connection are not looked at: they reach the same permitted address and nothing else.

use exeat_model::{Authority, Host};
use exeat_policy::{OpeningRule, Reason};

use crate::guard::{HeadError, Scan, with_fields};
use crate::limits::Limits;
use crate::opening::Judgement;
use crate::target::{Scheme, Target};

/// Judges the first bytes of a tunnel to `asked` as the head of an HTTP/1 request. `scan` remembers what it has seen
/// of the same bytes before.
pub(crate) fn judge(
    scan: &mut Scan,
    bytes: &[u8],
    rule: &OpeningRule,
    asked: &Authority,
    limits: &Limits,
) -> Judgement {
    let head = match scan.advance(bytes, limits) {
        Ok(None) => return Judgement::ReadMore,
        Ok(Some(length)) => bytes.get(..length).unwrap_or_default(),
        Err(error) => return Judgement::Refused(scan_reason(&error, bytes)),
    };
    let is_asked = |authority: &Authority| {
        let accepted = match &authority.host {
            // For an address any server name would do, but `Host` has no reason to differ from it.
            Host::Name(name) => !rule.literal() && rule.accepts_name(name),
            Host::Address(_) => authority.host == asked.host,
        };
        accepted && authority.port == asked.port
    };
    match authorities(head, asked, limits) {
        Ok((host, target)) if is_asked(&host) && target.as_ref().is_none_or(|target| *target == host) => {
            Judgement::Agreed
        }
        Ok(_) => Judgement::Refused(Reason::HostMismatch),
        Err(reason) => Judgement::Refused(reason),
    }
}

/// The host of the request at the beginning of `bytes`, if they begin with a complete head.
pub(crate) fn host(bytes: &[u8], asked: &Authority, limits: &Limits) -> Option<Host> {
    let length = Scan::default().advance(bytes, limits).ok()??;
    let (host, _) = authorities(bytes.get(..length)?, asked, limits).ok()?;
    Some(host.host)
}

/// A first line that is not a request line of HTTP/1 means another protocol; everything after it is bad HTTP.
fn scan_reason(error: &HeadError, bytes: &[u8]) -> Reason {
    match error {
        HeadError::RequestLine | HeadError::Method | HeadError::Version => Reason::HttpRequired,
        HeadError::Control if is_control_in_first_line(bytes) => Reason::HttpRequired,
        HeadError::Control
        | HeadError::HostMismatch
        | HeadError::LineTooLong
        | HeadError::TooLong
        | HeadError::TooManyFields
        | HeadError::Timeout
        | HeadError::LineEnd
        | HeadError::MethodRefused
        | HeadError::Folding
        | HeadError::Field
        | HeadError::Host
        | HeadError::Framing
        | HeadError::Connection
        | HeadError::Target(_) => error.reason(),
    }
}

/// Whether the first control character that no head has comes before the end of the first line.
fn is_control_in_first_line(bytes: &[u8]) -> bool {
    let refused = |b: &u8| b.is_ascii_control() && !matches!(b, b'\r' | b'\n' | b'\t');
    let up_to = bytes.iter().position(refused).unwrap_or(bytes.len());
    !bytes.iter().take(up_to).any(|b| *b == b'\n')
}

/// The authorities that a request head says: in its one `Host` field, and in its target if that is in absolute-form.
/// A port that `Host` leaves out is the asked one: many clients leave it out whatever it is.
fn authorities(
    head: &[u8],
    asked: &Authority,
    limits: &Limits,
) -> Result<(Authority, Option<Authority>), Reason> {
    with_fields(head, limits, |fields| authorities_in(head, asked, fields))
}

/// [`authorities`] with room for the fields.
fn authorities_in<'a>(
    head: &'a [u8],
    asked: &Authority,
    fields: &mut [httparse::Header<'a>],
) -> Result<(Authority, Option<Authority>), Reason> {
    let mut request = httparse::Request::new(fields);
    if !request.parse(head).is_ok_and(|status| status.is_complete()) {
        return Err(Reason::RequestMalformed);
    }
    let (Some(method), Some(target)) = (request.method, request.path) else {
        return Err(Reason::RequestMalformed);
    };
    let target = match (method, target) {
        // A tunnel in the tunnel would make an upstream proxy's reach the client's.
        ("CONNECT", _) => return Err(Reason::MethodNotAllowed),
        ("OPTIONS", "*") => None,
        (_, origin) if origin.starts_with('/') => None,
        (_, absolute) => Some(absolute_authority(method, absolute)?),
    };
    // RFC 9112 §3.2: exactly one.
    let mut hosts = request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("host"));
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(Reason::RequestMalformed);
    };
    let host = Authority::parse_bytes(host.value.trim_ascii(), Some(asked.port))
        .map_err(|_| Reason::HostMismatch)?;
    Ok((host, target))
}

fn absolute_authority(method: &str, target: &str) -> Result<Authority, Reason> {
    match Target::parse(method, target) {
        Ok(Target::Forward(forward)) => match forward.scheme {
            Scheme::Http => Ok(forward.authority),
            Scheme::Https => Err(Reason::SchemeNotAllowed),
        },
        Ok(Target::Tunnel(_)) => Err(Reason::MethodNotAllowed),
        Err(error) => Err(error.reason()),
    }
}
