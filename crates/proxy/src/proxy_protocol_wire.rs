//! The header of the PROXY protocol, version 2, as bytes: what one that has come says, and how one is written.

use std::net::{IpAddr, SocketAddr};

use proxy_header::{ParseConfig, Protocol, ProxiedAddress, ProxyHeader, Tlv};

/// The two ends of a connection that a header tells of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ends {
    /// Where the client is.
    pub peer: SocketAddr,
    /// The address that it reached.
    pub local: SocketAddr,
}

/// What every header of version 2 begins with (§2.2).
pub const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The part of a header that has a fixed length: signature, version and command, family, and the length of the rest.
pub const FIXED_BYTES: usize = 16;
/// Bytes of a whole header: what the specification says that a sender keeps to (§2, one IPv6 segment).
pub const HEADER_BYTES_MAX: usize = 536;
/// The type of the field that says who the client is, from those that are free for such use (§2.2.7).
pub const PRINCIPAL_TYPE: u8 = 0xe0;
/// Bytes of a principal that a header says: more would not leave room for the rest.
const PRINCIPAL_BYTES_MAX: usize = 255;

const PARSE: ParseConfig = ParseConfig { include_tlvs: false, allow_v1: false, allow_v2: true };

/// Returns how long the whole header is that begins with `fixed`; `None` if there is none, or one that is too long.
#[must_use]
pub fn length(fixed: &[u8; FIXED_BYTES]) -> Option<usize> {
    let rest = fixed.last_chunk().copied().map_or(0, u16::from_be_bytes);
    let length = FIXED_BYTES + usize::from(rest);
    (fixed.starts_with(SIGNATURE) && length <= HEADER_BYTES_MAX).then_some(length)
}

/// Returns the connection that a whole `header` tells of, or that of its `sender` if it speaks for itself; `None` if it
/// is malformed.
#[must_use]
pub fn parse(header: &[u8], sender: Ends) -> Option<Ends> {
    let (parsed, length) = ProxyHeader::parse(header, PARSE).ok()?;
    if length != header.len() {
        return None;
    }
    match parsed.proxied_address() {
        Some(ProxiedAddress { protocol: Protocol::Stream, source, destination }) => {
            Some(Ends { peer: canonical(*source), local: canonical(*destination) })
        }
        Some(ProxiedAddress { protocol: Protocol::Datagram, .. }) => None,
        // LOCAL, or a family that has no addresses of use: the connection is the sender's own.
        None => Some(sender),
    }
}

/// Returns the header that tells of a client: its two ends, which are `None` if it has no addresses, the id of its request and, if it is given, who it is.
/// A principal of more than 255 bytes is left out.
#[must_use]
pub fn header(ends: Option<Ends>, request_id: &str, principal: Option<&str>) -> Vec<u8> {
    let mut header = ends.map_or_else(ProxyHeader::with_local, |ends| {
        let (source, destination) = of_one_family(canonical(ends.peer), canonical(ends.local));
        ProxyHeader::with_address(ProxiedAddress::stream(source, destination))
    });
    header.append_tlv(Tlv::UniqueId(request_id.as_bytes().into()));
    if let Some(principal) = principal.filter(|name| name.len() <= PRINCIPAL_BYTES_MAX) {
        header.append_tlv(Tlv::Custom(PRINCIPAL_TYPE, principal.as_bytes().into()));
    }
    let mut bytes = Vec::with_capacity(HEADER_BYTES_MAX);
    // Fails for addresses of two families and for more bytes than a length can say. Neither is left.
    let _ = header.encode_v2(&mut bytes);
    bytes
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A header has one family for both addresses: an IPv4 address beside an IPv6 one is written as IPv6 (RFC 4291
/// §2.5.5.2).
fn of_one_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    (mapped(source), mapped(destination))
}

#[cfg(test)]
mod tests;
