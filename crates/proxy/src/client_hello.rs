//! What the first bytes of a connection say when TLS is expected: one pure function over the bytes so far.
//!
//! Only the outside of the message is read: record headers, the handshake header, the list of extensions and
//! the server name. Everything else is the upstream's business and passes unchanged.

use std::borrow::Cow;

use exeat_model::DnsName;
use smallvec::SmallVec;
use tls_parser::{
    SNIType, TlsExtension, TlsExtensionType, TlsHandshakeType, TlsRecordType,
    parse_tls_extension_sni_hostname, parse_tls_extension_unknown, parse_tls_handshake_client_hello,
    parse_tls_record_header,
};

/// The longest ClientHello that is read, handshake header included. Post-quantum key shares and padding pass
/// 2 KiB; nothing in use comes near 64 KiB.
pub const HELLO_BYTES_MAX: usize = 64 * 1024;

/// The most records one ClientHello may be spread over, so that a hello sent as one record per byte cannot make
/// every later look at it slower. A post-quantum hello in one-byte records still fits.
const RECORDS_MAX: usize = 2048;

/// The longest plaintext fragment of one record, in bytes (RFC 8446 §5.1).
const FRAGMENT_BYTES_MAX: usize = 1 << 14;

/// Record header: type, version, length (RFC 8446 §5.1).
const RECORD_HEADER_BYTES: usize = 5;

/// Handshake header: type and a length of three bytes (RFC 8446 §4).
const HANDSHAKE_HEADER_BYTES: usize = 4;

/// `encrypted_client_hello` (RFC 9849), which tls-parser does not name.
const ENCRYPTED_CLIENT_HELLO: TlsExtensionType = TlsExtensionType(0xfe0d);

/// What the first bytes of a connection turned out to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Hello {
    /// A valid beginning of a ClientHello: read more. Never the answer once [`HELLO_BYTES_MAX`] bytes of the
    /// message are there.
    Incomplete,
    /// Not a TLS handshake record.
    NotTls,
    /// A ClientHello without a server name (RFC 6066 §3).
    NoServerName,
    /// A ClientHello for this name.
    ServerName(DnsName),
    /// An Encrypted ClientHello, real or GREASE (RFC 9849 §6.2): only the outer name can be seen.
    Encrypted {
        /// The name in the part that is not encrypted.
        outer: DnsName,
    },
    /// A ClientHello whose server name is no DNS name as RFC 6066 §3 wants it: an address, a trailing dot, a NUL,
    /// nothing at all.
    InvalidServerName,
    /// TLS that breaks the rules, says two names, or is longer than [`HELLO_BYTES_MAX`].
    Malformed,
}

/// Says what `bytes`, all that a client has sent so far, are.
///
/// The ClientHello may be spread over any number of TCP segments and over up to 2048 records; it must end where
/// its last record ends, since nothing may follow it before the server has spoken (RFC 8446 §5.1). Bytes after
/// that record (early data) are not looked at. No memory is taken for bytes that were announced and are not there.
#[must_use]
pub fn client_hello(bytes: &[u8]) -> Hello {
    match reassemble(bytes) {
        Ok(message) => read_message(&message),
        Err(unfinished) => unfinished,
    }
}

/// Joins the record fragments of the first handshake message.
///
/// # Errors
/// What the bytes are instead of a whole ClientHello.
fn reassemble(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Hello> {
    let mut fragments = SmallVec::<[&[u8]; 4]>::new();
    let mut announced = 0;
    let mut rest = bytes;
    for _ in 0..RECORDS_MAX {
        let not_ours = if fragments.is_empty() { Hello::NotTls } else { Hello::Malformed };
        let record = next_record(rest, not_ours)?;
        fragments.push(record.fragment);
        announced += record.length;
        let whole = record.fragment.len() == record.length;
        match message_length(&fragments)? {
            Some(length) if announced > length => return Err(Hello::Malformed),
            Some(length) if announced == length && whole => return Ok(joined(&fragments)),
            Some(_) | None if !whole => return Err(Hello::Incomplete),
            Some(_) | None => rest = record.rest,
        }
    }
    Err(Hello::Malformed)
}

/// One record of which at least the header is there.
struct Record<'a> {
    /// As much of the fragment as has arrived.
    fragment: &'a [u8],
    /// The length that the header announces.
    length: usize,
    /// What follows the fragment.
    rest: &'a [u8],
}

/// Reads one record of a ClientHello from the start of `bytes`; `not_ours` is the answer if it is no handshake
/// record of TLS.
fn next_record(bytes: &[u8], not_ours: Hello) -> Result<Record<'_>, Hello> {
    // Judged byte by byte, so that a client that speaks something else is told at once and not after a timeout.
    // Only the major version counts: RFC 8446 §5.1 says that the rest must be ignored.
    let expected = [TlsRecordType::Handshake.0, 3];
    if bytes.iter().zip(expected).any(|(byte, want)| *byte != want) {
        return Err(not_ours);
    }
    let Ok((rest, header)) = parse_tls_record_header(bytes) else {
        return Err(Hello::Incomplete);
    };
    debug_assert_eq!(bytes.len() - rest.len(), RECORD_HEADER_BYTES);
    let length = usize::from(header.len);
    // RFC 8446 §5.1: no zero-length fragments of handshake type.
    if length == 0 || length > FRAGMENT_BYTES_MAX {
        return Err(Hello::Malformed);
    }
    let (fragment, rest) = rest.split_at(length.min(rest.len()));
    Ok(Record { fragment, length, rest })
}

/// The length of the handshake message with its header, once the header is there.
fn message_length(fragments: &[&[u8]]) -> Result<Option<usize>, Hello> {
    let mut header = fragments.iter().copied().flatten().copied();
    match header.next() {
        None => return Ok(None),
        Some(kind) if kind != TlsHandshakeType::ClientHello.0 => return Err(Hello::Malformed),
        Some(_) => {}
    }
    let (Some(high), Some(middle), Some(low)) = (header.next(), header.next(), header.next()) else {
        return Ok(None);
    };
    let body = u32::from_be_bytes([0, high, middle, low]);
    match usize::try_from(body).map(|body| body + HANDSHAKE_HEADER_BYTES) {
        Ok(length) if length <= HELLO_BYTES_MAX => Ok(Some(length)),
        Ok(_) | Err(_) => Err(Hello::Malformed),
    }
}

fn joined<'a>(fragments: &[&'a [u8]]) -> Cow<'a, [u8]> {
    match fragments {
        [only] => Cow::Borrowed(only),
        many => Cow::Owned(many.concat()),
    }
}

/// Reads the server name from a whole handshake message.
fn read_message(message: &[u8]) -> Hello {
    let Some(body) = message.get(HANDSHAKE_HEADER_BYTES..) else {
        return Hello::Malformed;
    };
    match parse_tls_handshake_client_hello(body) {
        // The parser leaves over what the announced lengths do not cover.
        Ok(([], hello)) => hello.ext.map_or(Hello::NoServerName, read_extensions),
        Ok(_) | Err(_) => Hello::Malformed,
    }
}

/// Reads a list of extensions without interpreting those that do not matter here.
fn read_extensions(extensions: &[u8]) -> Hello {
    let mut server_name = None;
    let mut encrypted = false;
    let mut rest = extensions;
    while !rest.is_empty() {
        let Ok((after, TlsExtension::Unknown(kind, data))) = parse_tls_extension_unknown(rest) else {
            return Hello::Malformed;
        };
        // RFC 8446 §4.2: at most one of a kind. Two names would be read first-wins here and last-wins there.
        let again = match kind {
            TlsExtensionType::ServerName => server_name.replace(data).is_some(),
            ENCRYPTED_CLIENT_HELLO => std::mem::replace(&mut encrypted, true),
            _ => false,
        };
        if again {
            return Hello::Malformed;
        }
        rest = after;
    }
    match server_name {
        None => Hello::NoServerName,
        Some(data) => read_server_name(data, encrypted),
    }
}

/// Reads the content of a `server_name` extension (RFC 6066 §3): a list of exactly one `host_name`.
fn read_server_name(data: &[u8], encrypted: bool) -> Hello {
    let Some((length, list)) = data.split_first_chunk::<2>() else {
        return Hello::Malformed;
    };
    if usize::from(u16::from_be_bytes(*length)) != list.len() {
        return Hello::Malformed;
    }
    let Ok(([], (SNIType::HostName, name))) = parse_tls_extension_sni_hostname(list) else {
        return Hello::Malformed;
    };
    let name = std::str::from_utf8(name).ok().filter(|name| !name.ends_with('.'));
    match name.map(DnsName::parse) {
        Some(Ok(outer)) if encrypted => Hello::Encrypted { outer },
        Some(Ok(name)) => Hello::ServerName(name),
        Some(Err(_)) | None => Hello::InvalidServerName,
    }
}

#[cfg(test)]
pub(crate) mod tests;
