//! The byte guard: reads a request head once, before any other parser, and refuses what two parsers could read in
//! two ways (RFC 9112 §2.2, §3, §5, §6.3). It counts and checks bytes and interprets nothing else.

use std::fmt;

use exeat_policy::Reason;

use crate::{
    limits::Limits,
    target::{Target, TargetError},
};

/// Decimal digits of the largest `Content-Length` taken: one below those of `u64::MAX`, so that no value overflows.
const LENGTH_DIGITS_MAX: usize = 19;
/// Fields for which there is room without asking for memory. A CONNECT has three or four.
const FIELDS_FEW: usize = 16;
/// Bytes that are looked at together.
const CHUNK_BYTES: usize = 8;
/// Fields that decide where a message ends or whom it is for. `Connection` must not name them (RFC 9110 §7.6.1).
const NOT_HOP_BY_HOP: &[&str] = &["host", "content-length", "transfer-encoding"];
/// Methods that no forward proxy passes on: TRACE echoes the request, credentials included.
pub(crate) const METHODS_REFUSED: &[&str] = &["TRACE", "TRACK", "DEBUG"];

/// A request head that passed the guard. Its `Debug` form leaves the credentials out.
#[derive(Clone, Eq, PartialEq)]
pub struct Head {
    /// The method: a token without lower-case letters.
    pub method: String,
    /// What the request asks for.
    pub target: Target,
    /// An absolute-form target once more, as hyper will read it.
    pub uri: Option<http::Uri>,
    /// How the body after the head is framed.
    pub framing: Framing,
    /// The client means to use the connection again: HTTP/1.1 without `Connection: close` (RFC 9112 §9.3).
    pub is_persistent: bool,
    /// Of a CONNECT the values of every `Proxy-Authorization` field, in order. Of any other request hyper has them.
    pub proxy_authorization: Vec<Vec<u8>>,
    /// Likewise those of every `Via` field.
    pub via: Vec<Vec<u8>>,
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, target, uri: _, framing, is_persistent, proxy_authorization: _, via: _ } = self;
        f.debug_struct("Head")
            .field("method", method)
            .field("target", target)
            .field("framing", framing)
            .field("is_persistent", is_persistent)
            .finish_non_exhaustive()
    }
}

/// Where the body after a head ends (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    /// After this many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
}

/// Why a request head is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HeadError {
    /// The request line is longer than the limit.
    #[error("the request line is too long")]
    LineTooLong,
    /// The head is longer than the limit.
    #[error("the request head is too long")]
    TooLong,
    /// More header fields than the limit.
    #[error("too many header fields")]
    TooManyFields,
    /// The head did not arrive in time.
    #[error("the request head did not arrive in time")]
    Timeout,
    /// A CR without LF, or an LF without CR.
    #[error("a line does not end in CRLF")]
    LineEnd,
    /// NUL or another control character.
    #[error("a control character in the request head")]
    Control,
    /// The request line is not method, target and version with one space between each.
    #[error("the request line is malformed")]
    RequestLine,
    /// A method with lower-case letters, which are not those that they look like (RFC 9110 §9.1).
    #[error("the method is malformed")]
    Method,
    /// TRACE and its kin.
    #[error("the method is not forwarded")]
    MethodRefused,
    /// A version other than HTTP/1.0 and HTTP/1.1.
    #[error("the HTTP version is not supported")]
    Version,
    /// A line that continues the one before (RFC 9112 §5.2).
    #[error("a folded header line")]
    Folding,
    /// A header line that is not a token, a colon and a value.
    #[error("a malformed header line")]
    Field,
    /// No `Host` in HTTP/1.1, or more than one, or one that is not a host (RFC 9112 §3.2).
    #[error("the Host field is missing, repeated or malformed")]
    Host,
    /// The message length can be read in two ways (RFC 9112 §6.3).
    #[error("the length of the message is ambiguous")]
    Framing,
    /// `Connection` names a field that is not hop-by-hop.
    #[error("Connection names a field that is not hop-by-hop")]
    Connection,
    /// `Host` and `:authority` name different hosts (RFC 9113 §8.3.1).
    #[error("the Host field is not the authority")]
    HostMismatch,
    /// The request target is refused.
    #[error(transparent)]
    Target(#[from] TargetError),
}

impl HeadError {
    /// Returns the reason that the refusal shows.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::LineTooLong => Reason::UriTooLong,
            Self::TooLong | Self::TooManyFields => Reason::HeaderTooLarge,
            Self::Timeout => Reason::HeadTimeout,
            Self::MethodRefused => Reason::MethodNotAllowed,
            Self::Framing => Reason::FramingAmbiguous,
            Self::HostMismatch => Reason::HostMismatch,
            Self::Target(error) => error.reason(),
            Self::LineEnd
            | Self::Control
            | Self::RequestLine
            | Self::Method
            | Self::Version
            | Self::Folding
            | Self::Field
            | Self::Host
            | Self::Connection => Reason::RequestMalformed,
        }
    }

    /// Returns the status code of the refusal: the reason's own, but 505 for a version that is not spoken here.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Version => 505,
            Self::HostMismatch => 400,
            Self::LineTooLong
            | Self::TooLong
            | Self::TooManyFields
            | Self::Timeout
            | Self::LineEnd
            | Self::Control
            | Self::RequestLine
            | Self::Method
            | Self::MethodRefused
            | Self::Folding
            | Self::Field
            | Self::Host
            | Self::Framing
            | Self::Connection
            | Self::Target(_) => self.reason().http_status(),
        }
    }
}

/// How far a head has been looked at, so that each byte is looked at once however the head trickles in.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Bytes looked at.
    at: usize,
    /// Where the line being looked at starts.
    line_start: usize,
    /// Lines that ended, the request line included.
    lines: usize,
}

impl Scan {
    /// Looks at the bytes of `buffer` that were not there before. Returns the length of the head, its empty line
    /// included, or `None` if it has not ended.
    pub(crate) fn advance(&mut self, buffer: &[u8], limits: &Limits) -> Result<Option<usize>, HeadError> {
        while let Some(&byte) = buffer.get(self.at) {
            let position = self.at;
            let after_cr = position > self.line_start && buffer.get(position - 1) == Some(&b'\r');
            self.at += 1;
            match byte {
                b'\n' if after_cr => {
                    let line = buffer.get(self.line_start..position - 1).unwrap_or_default();
                    if self.end_line(line, limits)? {
                        // The last byte counts too: hyper has the same limit, and its refusal would not be ours.
                        return if self.at > limits.head_bytes {
                            Err(HeadError::TooLong)
                        } else {
                            Ok(Some(self.at))
                        };
                    }
                }
                b'\n' => return Err(HeadError::LineEnd),
                _ if after_cr => return Err(HeadError::LineEnd),
                b'\r' => {}
                b'\t' if self.lines == 0 => return Err(HeadError::RequestLine),
                b' ' | b'\t' if position == self.line_start && self.lines > 0 => {
                    return Err(HeadError::Folding);
                }
                b'\t' => {}
                0..=31 | 127 => return Err(HeadError::Control),
                _ => {}
            }
            if self.lines == 0 && byte != b'\r' && self.at - self.line_start > limits.uri_bytes {
                return Err(HeadError::LineTooLong);
            }
            if self.at > limits.head_bytes {
                return Err(HeadError::TooLong);
            }
            if byte > b' ' {
                self.at += self.plain(buffer, limits);
            }
        }
        Ok(None)
    }

    /// How many bytes follow, in the same line as the last one and within the limits, that mean nothing here. One by one
    /// they would take most of the time of a whole request.
    fn plain(&self, buffer: &[u8], limits: &Limits) -> usize {
        let of_line = (self.line_start + limits.uri_bytes).saturating_sub(self.at);
        let of_head = limits.head_bytes.saturating_sub(self.at);
        let room = if self.lines == 0 { of_line.min(of_head) } else { of_head };
        let rest = buffer.get(self.at..).unwrap_or_default();
        let rest = rest.get(..room).unwrap_or(rest);
        let is_plain = |byte: &u8| (*byte >= b' ') & (*byte != 127);
        // All of a chunk at once, as long as all of it is: no branch in between.
        let (chunks, _) = rest.as_chunks::<CHUNK_BYTES>();
        let chunks =
            chunks.iter().take_while(|chunk| chunk.iter().fold(true, |all, byte| all & is_plain(byte)));
        let sure = chunks.count() * CHUNK_BYTES;
        sure + rest.iter().skip(sure).take_while(|byte| is_plain(byte)).count()
    }

    /// Takes a complete line. Returns whether it was the empty line that ends the head.
    fn end_line(&mut self, line: &[u8], limits: &Limits) -> Result<bool, HeadError> {
        self.line_start = self.at;
        if self.lines == 0 {
            // Early, because a request without a version (HTTP/0.9) has no end that could be waited for.
            RequestLine::parse(line)?;
        } else if line.is_empty() {
            return Ok(true);
        } else if self.lines > limits.header_count {
            return Err(HeadError::TooManyFields);
        }
        self.lines += 1;
        Ok(false)
    }
}

/// Returns the head that `bytes` hold: a request line, header lines and an empty line, nothing before or after.
///
/// # Errors
/// The first rule that the head breaks.
pub fn check(bytes: &[u8], limits: &Limits) -> Result<Head, HeadError> {
    match Scan::default().advance(bytes, limits)? {
        Some(length) if length == bytes.len() => checked(bytes, limits),
        Some(_) | None => Err(HeadError::LineEnd),
    }
}

/// [`check`] for bytes that a [`Scan`] has found to be one whole head.
pub(crate) fn checked(bytes: &[u8], limits: &Limits) -> Result<Head, HeadError> {
    with_fields(bytes, limits, |fields| checked_in(bytes, fields))
}

/// Gives `parse` room for the fields of `head`, of which there may be as many as the limit.
pub(crate) fn with_fields<'a, T>(
    head: &'a [u8],
    limits: &Limits,
    parse: impl FnOnce(&mut [httparse::Header<'a>]) -> T,
) -> T {
    let lines: usize = head.iter().map(|byte| usize::from(*byte == b'\n')).sum();
    let mut few = [httparse::EMPTY_HEADER; FIELDS_FEW];
    match few.get_mut(..limits.header_count) {
        None if lines <= FIELDS_FEW => parse(&mut few),
        Some(_) | None => parse(&mut vec![httparse::EMPTY_HEADER; limits.header_count]),
    }
}

/// [`checked`] with room for the fields.
fn checked_in<'a>(bytes: &'a [u8], fields: &mut [httparse::Header<'a>]) -> Result<Head, HeadError> {
    let mut request = httparse::Request::new(fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(HeadError::LineEnd),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyFields),
        // Not every byte of a target passes httparse: let the target's own parser say what is wrong.
        Err(_) => return Err(target_error(bytes).unwrap_or(HeadError::Field)),
    }
    let line = RequestLine::parse(bytes.split(|b| *b == b'\r').next().unwrap_or_default())?;
    // The target first: a malformed host is what to say even where `Host` repeats it.
    let target = line.target()?;
    let counts = Counts::of(request.headers)?;
    if METHODS_REFUSED.contains(&line.method) {
        return Err(HeadError::MethodRefused);
    }
    if counts.hosts > 1 || (counts.hosts == 0 && line.is_http11) {
        return Err(HeadError::Host);
    }
    let framing = counts.framing(line.is_http11)?;
    if matches!(target, Target::Tunnel(_)) && framing != Framing::Length(0) {
        // Bytes after a CONNECT head belong to the tunnel (RFC 9110 §9.3.6); some old clients do send a zero length.
        return Err(HeadError::Framing);
    }
    let (uri, [proxy_authorization, via]) = match &target {
        // What hyper will parse again must not fail there, where the refusal would not be ours.
        Target::Forward(_) => {
            let uri = http::Uri::try_from(line.target).map_err(|_| TargetError::Malformed)?;
            (Some(uri), [Vec::new(), Vec::new()])
        }
        Target::Tunnel(_) => (None, ["proxy-authorization", "via"].map(|name| values(request.headers, name))),
    };
    Ok(Head {
        method: line.method.to_owned(),
        target,
        uri,
        framing,
        is_persistent: line.is_http11 && !counts.says_close,
        proxy_authorization,
        via,
    })
}

fn target_error(bytes: &[u8]) -> Option<HeadError> {
    let line = RequestLine::parse(bytes.split(|b| *b == b'\r').next()?).ok()?;
    line.target().err()
}

fn values(fields: &[httparse::Header<'_>], name: &str) -> Vec<Vec<u8>> {
    fields.iter().filter(|f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value.to_vec()).collect()
}

/// The three parts of a request line (RFC 9112 §3).
struct RequestLine<'a> {
    method: &'a str,
    target: &'a [u8],
    is_http11: bool,
}

impl<'a> RequestLine<'a> {
    fn parse(line: &'a [u8]) -> Result<Self, HeadError> {
        let mut parts = line.split(|b| *b == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(HeadError::RequestLine);
        };
        if method.is_empty() || target.is_empty() {
            return Err(HeadError::RequestLine);
        }
        let method = std::str::from_utf8(method).map_err(|_| HeadError::Method)?;
        if method.bytes().any(|b| b.is_ascii_lowercase()) || http::Method::try_from(method).is_err() {
            return Err(HeadError::Method);
        }
        let is_http11 = match version {
            b"HTTP/1.1" => true,
            b"HTTP/1.0" => false,
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                return Err(HeadError::Version);
            }
            _ => return Err(HeadError::RequestLine),
        };
        Ok(Self { method, target, is_http11 })
    }

    fn target(&self) -> Result<Target, HeadError> {
        // Nearly all are text; the general way takes several times as long.
        Ok(match std::str::from_utf8(self.target) {
            Ok(target) => Target::parse(self.method, target)?,
            Err(_) => Target::parse(self.method, &String::from_utf8_lossy(self.target))?,
        })
    }
}

/// The fields whose number and form decide where a message ends and whom it is for.
#[derive(Default)]
struct Counts {
    hosts: usize,
    lengths: usize,
    length: u64,
    codings: usize,
    says_close: bool,
}

impl Counts {
    fn of(fields: &[httparse::Header<'_>]) -> Result<Self, HeadError> {
        let mut counts = Self::default();
        for field in fields {
            let value = field.value.trim_ascii();
            if field.name.eq_ignore_ascii_case("host") {
                counts.hosts += 1;
                if !is_host_text(value) {
                    return Err(HeadError::Host);
                }
            } else if field.name.eq_ignore_ascii_case("content-length") {
                counts.lengths += 1;
                counts.length = length(value).ok_or(HeadError::Framing)?;
            } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
                counts.codings += 1;
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(HeadError::Framing);
                }
            } else if field.name.eq_ignore_ascii_case("connection") {
                for name in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    if NOT_HOP_BY_HOP.iter().any(|n| name.eq_ignore_ascii_case(n.as_bytes())) {
                        return Err(HeadError::Connection);
                    }
                    counts.says_close |= name.eq_ignore_ascii_case(b"close");
                }
            }
        }
        Ok(counts)
    }

    fn framing(&self, is_http11: bool) -> Result<Framing, HeadError> {
        match (self.lengths, self.codings) {
            (0, 0) => Ok(Framing::Length(0)),
            (1, 0) => Ok(Framing::Length(self.length)),
            (0, 1) if is_http11 => Ok(Framing::Chunked),
            (_, _) => Err(HeadError::Framing),
        }
    }
}

/// Returns the length that `value` writes in digits alone: no sign, no list, no overflow.
pub(crate) fn length(value: &[u8]) -> Option<u64> {
    let is_number = (1..=LENGTH_DIGITS_MAX).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    is_number
        .then(|| value.iter().fold(0, |sum: u64, digit| sum.saturating_mul(10) + u64::from(digit - b'0')))
}

/// Whether `value` could be a host with an optional port (RFC 3986 §3.2.2). Nothing but its form counts: what the
/// request is for is in its target (RFC 9112 §3.2.2), and the `Host` that goes upstream is written from there.
fn is_host_text(value: &[u8]) -> bool {
    value.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=:[]".contains(b))
}

#[cfg(test)]
mod tests;
