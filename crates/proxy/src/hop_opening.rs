//! Asks a next hop for a connection to a target: CONNECT (RFC 9110 §9.3.6) or SOCKS5 (RFC 1928). Not a byte after the
//! hop's answer is read here, so that a server behind it may speak first.

use std::{io, net::IpAddr, time::Duration};

use exeat_model::{Authority, Host};
use exeat_policy::Reason;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    hop::{Hop, HopCredentials, HopProtocol},
    limits::Limits,
    socks5_wire, tls,
    upstream_stream::UpstreamStream,
};

/// Bytes looked at in one step while the head of an answer is read. Most answers are shorter.
const PEEK_BYTES: usize = 1024;
/// "Authentication required" (RFC 9110 §15.5.8).
const PROXY_AUTHENTICATION_REQUIRED: u16 = 407;

/// Why a next hop that is there gave no connection to the target.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpeningError {
    /// It answered a CONNECT with another status than 2xx.
    #[error("the next hop answered {status}")]
    Status {
        /// The status.
        status: u16,
    },
    /// It answered a SOCKS5 request with another reply than "succeeded".
    #[error("the next hop answered with SOCKS reply {reply}")]
    Reply {
        /// The reply (RFC 1928 §6).
        reply: u8,
    },
    /// It does not accept the configured credentials, or wants some and none are configured.
    #[error("the next hop wants other credentials")]
    Credentials,
    /// Its answer is not one of its protocol, or longer than the limit.
    #[error("the next hop's answer is malformed")]
    Malformed,
    /// It refused TLS after its handshake, as it does to a client that has no certificate which it takes (RFC 8446
    /// §4.4.2.4).
    #[error("the next hop refused TLS")]
    Alert(#[source] io::Error),
    /// It closed the connection before its answer, or the connection broke.
    #[error("the next hop closed the connection before its answer")]
    Closed(#[source] io::Error),
    /// It took the request and said nothing.
    #[error("the next hop did not answer in {limit:?}")]
    Silent {
        /// The time it had.
        limit: Duration,
    },
}

impl OpeningError {
    fn broke(error: io::Error) -> Self {
        if tls::is_alert(&error) { Self::Alert(error) } else { Self::Closed(error) }
    }

    /// Whether every request fails like this until an operator does something about it.
    pub(crate) const fn lasts(&self) -> bool {
        match self {
            Self::Credentials | Self::Alert(_) => true,
            Self::Status { .. }
            | Self::Reply { .. }
            | Self::Malformed
            | Self::Closed(_)
            | Self::Silent { .. } => false,
        }
    }

    /// The reason that the client is told.
    pub(crate) fn reason(&self) -> Reason {
        const GATEWAY_TIMEOUT: u16 = 504;
        const TTL_EXPIRED: u8 = 6;
        match self {
            Self::Status { status: GATEWAY_TIMEOUT }
            | Self::Reply { reply: TTL_EXPIRED }
            | Self::Silent { .. } => Reason::ConnectTimeout,
            Self::Status { .. }
            | Self::Reply { .. }
            | Self::Credentials
            | Self::Malformed
            | Self::Alert(_)
            | Self::Closed(_) => Reason::ConnectFailed,
        }
    }

    /// The status that the hop answered with, if it was one.
    pub(crate) fn received_status(&self) -> Option<u16> {
        match self {
            Self::Status { status } => Some(*status),
            Self::Reply { .. }
            | Self::Credentials
            | Self::Malformed
            | Self::Alert(_)
            | Self::Closed(_)
            | Self::Silent { .. } => None,
        }
    }
}

/// Asks the hop at the other end of `stream` for `target`, within `connect_timeout`. `via` is the `Via` field to send.
///
/// # Errors
/// What the hop said instead. The connection is of no use then.
pub(crate) async fn open(
    stream: &mut UpstreamStream,
    hop: &Hop,
    target: &Authority,
    via: &str,
    limits: &Limits,
) -> Result<(), OpeningError> {
    let asking = async {
        match hop.protocol {
            HopProtocol::Http => connect(stream, hop.credentials.as_ref(), target, via, limits).await,
            HopProtocol::Socks5 => socks5(stream, hop.credentials.as_ref(), target).await,
        }
    };
    let limit = limits.connect_timeout;
    timeout(limit, asking).await.unwrap_or(Err(OpeningError::Silent { limit }))
}

async fn connect(
    stream: &mut UpstreamStream,
    credentials: Option<&HopCredentials>,
    target: &Authority,
    via: &str,
    limits: &Limits,
) -> Result<(), OpeningError> {
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nVia: {via}\r\n");
    if let Some(credentials) = credentials {
        request += &format!("Proxy-Authorization: {}\r\n", credentials.basic());
    }
    request += "\r\n";
    write(stream, request.as_bytes()).await?;
    for _ in 0..=limits.informational_max {
        let head = read_head(stream, limits.response_head_bytes).await?;
        match status_of(&head, limits.header_count)? {
            101 => return Err(OpeningError::Malformed),
            100..=199 => {}
            200..=299 => return Ok(()),
            PROXY_AUTHENTICATION_REQUIRED => return Err(OpeningError::Credentials),
            status => return Err(OpeningError::Status { status }),
        }
    }
    Err(OpeningError::Malformed)
}

/// Reads to the empty line and not a byte further.
async fn read_head(stream: &mut UpstreamStream, bytes_max: usize) -> Result<Vec<u8>, OpeningError> {
    const END: &[u8] = b"\r\n\r\n";
    let mut head = Vec::new();
    while head.len() < bytes_max {
        let mut seen = [0; PEEK_BYTES];
        let count = stream.peek(&mut seen).await.map_err(OpeningError::broke)?;
        if count == 0 {
            return Err(OpeningError::Closed(io::ErrorKind::UnexpectedEof.into()));
        }
        let known = head.len();
        head.extend_from_slice(seen.get(..count).unwrap_or_default());
        // The end may have begun in what was read before.
        let from = known.saturating_sub(END.len() - 1);
        let ends = head.get(from..).and_then(|tail| tail.windows(END.len()).position(|four| four == END));
        if let Some(at) = ends {
            head.truncate(from + at + END.len());
        }
        let new = seen.get_mut(..head.len() - known).unwrap_or_default();
        stream.read_exact(new).await.map_err(OpeningError::broke)?;
        if ends.is_some() {
            return if head.len() <= bytes_max { Ok(head) } else { Err(OpeningError::Malformed) };
        }
    }
    Err(OpeningError::Malformed)
}

fn status_of(head: &[u8], header_count: usize) -> Result<u16, OpeningError> {
    let mut fields = vec![httparse::EMPTY_HEADER; header_count];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(head) {
        Ok(httparse::Status::Complete(_)) => response.code.ok_or(OpeningError::Malformed),
        Ok(httparse::Status::Partial) | Err(_) => Err(OpeningError::Malformed),
    }
}

async fn socks5(
    stream: &mut UpstreamStream,
    credentials: Option<&HopCredentials>,
    target: &Authority,
) -> Result<(), OpeningError> {
    const NONE: u8 = socks5_wire::Method::None as u8;
    const PASSWORD: u8 = socks5_wire::Method::Password as u8;
    const NO_METHOD: u8 = 0xff;
    const VERSION: u8 = socks5_wire::VERSION;
    const LOGIN_VERSION: u8 = 1;
    let greeting: &[u8] = if credentials.is_some() { &[VERSION, 1, PASSWORD] } else { &[VERSION, 1, NONE] };
    write(stream, greeting).await?;
    match (read::<2>(stream).await?, credentials) {
        ([VERSION, NONE], None) => {}
        ([VERSION, PASSWORD], Some(credentials)) => {
            let mut login = vec![LOGIN_VERSION];
            push_with_length(&mut login, credentials.user().as_bytes())?;
            push_with_length(&mut login, credentials.password().as_bytes())?;
            write(stream, &login).await?;
            match read::<2>(stream).await? {
                [LOGIN_VERSION, 0] => {}
                [LOGIN_VERSION, _] => return Err(OpeningError::Credentials),
                [_, _] => return Err(OpeningError::Malformed),
            }
        }
        ([VERSION, NO_METHOD], _) => return Err(OpeningError::Credentials),
        ([_, _], _) => return Err(OpeningError::Malformed),
    }
    write(stream, &socks5_request(target)?).await?;
    socks5_reply(stream).await
}

const IPV4: u8 = 1;
const DOMAIN: u8 = 3;
const IPV6: u8 = 4;

fn socks5_request(target: &Authority) -> Result<Vec<u8>, OpeningError> {
    const CONNECT: u8 = 1;
    let mut request = vec![socks5_wire::VERSION, CONNECT, 0];
    match &target.host {
        Host::Name(name) => {
            request.push(DOMAIN);
            push_with_length(&mut request, name.as_str().as_bytes())?;
        }
        Host::Address(ip) => match ip.get() {
            IpAddr::V4(ip) => {
                request.push(IPV4);
                request.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                request.push(IPV6);
                request.extend(ip.octets());
            }
        },
    }
    request.extend(target.port.get().to_be_bytes());
    Ok(request)
}

/// Reads the reply and the address that was bound, which nobody here needs to know.
async fn socks5_reply(stream: &mut UpstreamStream) -> Result<(), OpeningError> {
    let [version, reply, _, address_type] = read::<4>(stream).await?;
    if version != socks5_wire::VERSION {
        return Err(OpeningError::Malformed);
    }
    if reply != 0 {
        return Err(OpeningError::Reply { reply });
    }
    let address = match address_type {
        IPV4 => 4,
        DOMAIN => {
            let [length] = read::<1>(stream).await?;
            usize::from(length)
        }
        IPV6 => 16,
        _ => return Err(OpeningError::Malformed),
    };
    let mut bound = [0; 255 + 2];
    let bound = bound.get_mut(..address + 2).ok_or(OpeningError::Malformed)?;
    stream.read_exact(bound).await.map_err(OpeningError::broke)?;
    Ok(())
}

/// Configuration and names are both too short for this to fail.
fn push_with_length(message: &mut Vec<u8>, bytes: &[u8]) -> Result<(), OpeningError> {
    message.push(u8::try_from(bytes.len()).map_err(|_| OpeningError::Malformed)?);
    message.extend_from_slice(bytes);
    Ok(())
}

async fn write(stream: &mut UpstreamStream, bytes: &[u8]) -> Result<(), OpeningError> {
    stream.write_all(bytes).await.map_err(OpeningError::broke)?;
    // TLS may have taken what its socket has not.
    stream.flush().await.map_err(OpeningError::broke)
}

async fn read<const N: usize>(stream: &mut UpstreamStream) -> Result<[u8; N], OpeningError> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await.map_err(OpeningError::broke)?;
    Ok(bytes)
}
