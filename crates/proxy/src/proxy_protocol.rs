//! The PROXY protocol, version 2, from load balancers in front: who the client is, before anything that it says.
//!
//! Whether a connection has such a header is not for its first bytes to say but for where it comes from: a configured
//! sender must send one, and from anybody else the same bytes are a malformed request.

use std::{io, net::SocketAddr};

use proxy_header::{ParseConfig, Protocol, ProxiedAddress, ProxyHeader};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use crate::{limits::Limits, listen::Client};

/// What every header begins with: signature, version and command, family, and the length of the rest.
const FIXED_BYTES: usize = 16;
/// Bytes of a whole header: what the specification says that a sender keeps to (§2, one IPv6 segment).
const HEADER_BYTES_MAX: usize = 536;
const PARSE: ParseConfig = ParseConfig { include_tlvs: false, allow_v1: false, allow_v2: true };

/// Why a connection of a sender has no client.
#[derive(Debug)]
pub(crate) enum Error {
    /// It ended before its first byte, as the checks of load balancers do.
    Closed,
    /// There is no header, or not one that can be used, or not in time.
    Malformed,
}

/// Reads the header of a connection from `sender`, and not a byte more: what follows may be TLS. Takes
/// `limits.head_timeout` at most. Returns the client that it tells of, or `sender` if it speaks for itself.
pub(crate) async fn read(stream: &mut TcpStream, sender: Client, limits: &Limits) -> Result<Client, Error> {
    match timeout(limits.head_timeout, read_header(stream)).await {
        Ok(Ok(header)) => parse(&header, sender).ok_or(Error::Malformed),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::Malformed),
    }
}

async fn read_header(stream: &mut TcpStream) -> Result<Vec<u8>, Error> {
    let mut header = vec![0; FIXED_BYTES];
    let (first, others) = header.split_at_mut(1);
    stream.read_exact(first).await.map_err(|_| Error::Closed)?;
    stream.read_exact(others).await.map_err(broke)?;
    let length = usize::from(header.last_chunk().copied().map_or(0, u16::from_be_bytes));
    if length > HEADER_BYTES_MAX - FIXED_BYTES {
        return Err(Error::Malformed);
    }
    header.resize(FIXED_BYTES + length, 0);
    stream.read_exact(header.get_mut(FIXED_BYTES..).unwrap_or_default()).await.map_err(broke)?;
    Ok(header)
}

fn broke(_: io::Error) -> Error {
    Error::Malformed
}

/// Returns the client that a whole `header` tells of.
fn parse(header: &[u8], sender: Client) -> Option<Client> {
    let (parsed, length) = ProxyHeader::parse(header, PARSE).ok()?;
    if length != header.len() {
        return None;
    }
    match parsed.proxied_address() {
        Some(ProxiedAddress { protocol: Protocol::Stream, source, destination }) => {
            Some(Client { peer: canonical(*source), local: canonical(*destination) })
        }
        Some(ProxiedAddress { protocol: Protocol::Datagram, .. }) => None,
        // LOCAL, or a family that has no addresses of use: the connection is the sender's own.
        None => Some(sender),
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    const V4: &[u8] = &[192, 0, 2, 1, 192, 0, 2, 2, 0x30, 0x39, 0x0c, 0x38];

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &length, rest].concat()
    }

    #[test]
    fn headers() {
        let sender = Client { peer: "10.0.0.9:9".parse().unwrap(), local: "10.0.0.1:3128".parse().unwrap() };
        let mapped = [&[0; 10][..], &[0xff; 2], &V4[..4], &[0; 10], &[0xff; 2], &V4[4..]].concat();
        let (client, own) = (Some("192.0.2.1:12345"), Some("10.0.0.9:9"));
        for (name, bytes, want) in [
            ("IPv4", header(0x21, 0x11, V4), client),
            ("IPv4 with more", header(0x21, 0x11, &[V4, &[4, 0, 1, 0]].concat()), client),
            ("IPv6 that is IPv4", header(0x21, 0x21, &mapped), client),
            ("LOCAL", header(0x20, 0, &[]), own),
            ("LOCAL with addresses", header(0x20, 0x11, V4), own),
            ("no family", header(0x21, 0, &[]), own),
            ("UDP", header(0x21, 0x12, V4), None),
            ("too short for its family", header(0x21, 0x11, &V4[1..]), None),
            ("IPv6 too short", header(0x21, 0x21, V4), None),
            ("another version", header(0x11, 0x11, V4), None),
            ("another command", header(0x22, 0x11, V4), None),
            ("another family", header(0x21, 0x41, V4), None),
            ("another signature", [b"\r\n\r\n\0\r\nQUIT\r", &header(0x21, 0x11, V4)[12..]].concat(), None),
            ("version 1", b"PROXY TCP4 192.0.2.1 192.0.2.2 12345 3128\r\n".to_vec(), None),
            ("nothing", Vec::new(), None),
        ] {
            let got = parse(&bytes, sender).map(|client| client.peer.to_string());
            assert_eq!(got.as_deref(), want, "{name}");
            for end in 0..bytes.len() {
                assert_eq!(parse(&bytes[..end], sender), None, "{name}: {end} bytes of it");
            }
        }
        assert_eq!(parse(&header(0x21, 0x11, V4), sender).unwrap().local, "192.0.2.2:3128".parse().unwrap());
    }
}
