//! How an attempt speaks to a network: by the kernel's calls alone, without a library that would know of proxies.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::ipproto::TCP;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, SendFlags, SocketFlags, SocketType, connect, sendto, socket_with,
};

use super::attempt::{Stopped, Tried};
use crate::network::{NAMES, PROXY};

/// How long an answer may take: nothing here leaves the host.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of an answer that are looked at.
const ANSWER_BYTES: usize = 4096;

/// What the reason phrase of a refusal begins with.
const DENIED: &str = "egress denied";

/// What a web client says.
const REQUEST: &str = "GET / HTTP/1.0\r\nHost: selftest.test\r\n\r\n";

const fn family(to: SocketAddr) -> AddressFamily {
    if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

fn stream(to: SocketAddr, protocol: Protocol) -> Result<TcpStream, Stopped> {
    let socket: OwnedFd = socket_with(family(to), SocketType::STREAM, SocketFlags::CLOEXEC, Some(protocol))?;
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    connect(&socket, &to)?;
    Ok(socket.into())
}

/// Asks for a page of whoever is at an address, by TCP.
pub(super) fn page(to: SocketAddr, token: &str) -> Tried {
    answer(stream(to, TCP)?, REQUEST, token)
}

/// The same by a protocol that is like TCP, by its number.
pub(super) fn page_by(to: SocketAddr, protocol: Protocol, token: &str) -> Tried {
    answer(stream(to, protocol)?, REQUEST, token)
}

/// The same with the request in the first packet.
pub(super) fn page_at_once(to: SocketAddr, token: &str) -> Tried {
    let socket = socket_with(family(to), SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    let fast_open = SendFlags::from_bits_retain(libc::MSG_FASTOPEN.unsigned_abs());
    sendto(&socket, REQUEST.as_bytes(), fast_open | SendFlags::NOSIGNAL, &to)?;
    answer(socket.into(), "", token)
}

/// Asks the proxy for a tunnel to `authority`, and for a page through it.
pub(super) fn page_by_proxy(authority: &str, token: &str) -> Tried {
    let mut proxy = stream(PROXY, TCP)?;
    write!(proxy, "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n")?;
    let mut head = vec![0; ANSWER_BYTES];
    let count = proxy.read(&mut head)?;
    head.truncate(count);
    let head = String::from_utf8_lossy(&head);
    let status = head.lines().next().unwrap_or_default().to_owned();
    if head.starts_with("HTTP/1.1 200") {
        return answer(proxy, REQUEST, token);
    }
    // Anything else may be what came of an attempt to connect.
    Err(if status.contains(DENIED) { Stopped::Refused(status) } else { Stopped::Unclear(status) })
}

/// Whoever answers is outside, unless it is the proxy that says why not, or ends the connection.
fn answer(mut stream: TcpStream, request: &str, token: &str) -> Tried {
    stream.write_all(request.as_bytes())?;
    let mut text = Vec::new();
    (&mut stream).take(ANSWER_BYTES as u64).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    if text.contains(token) {
        return Ok("it answered".to_owned());
    }
    match text.lines().next() {
        None => Err(Stopped::Refused("the connection was closed".to_owned())),
        Some(status) if status.contains(DENIED) => Err(Stopped::Refused(status.to_owned())),
        Some(line) => Ok(format!("somebody answered: {line}")),
    }
}

/// Sends a datagram and waits for an answer.
pub(super) fn datagram(to: SocketAddr, data: &[u8]) -> Result<Vec<u8>, Stopped> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    // Without connecting it first, as what wants no answer does.
    socket.send_to(data, to)?;
    let mut answer = vec![0; ANSWER_BYTES];
    let (count, _) = socket.recv_from(&mut answer)?;
    answer.truncate(count);
    Ok(answer)
}

/// The kinds of records that are asked for (RFC 1035 §3.2.2).
pub(super) const A: u16 = 1;
pub(super) const TXT: u16 = 16;

/// Returns a question for a name (RFC 1035 §4.1).
pub(super) fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len().to_le_bytes()[0]);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

/// Asks the name server inside, and returns the address that it ends with.
pub(super) fn lookup(name: &str, kind: u16) -> Result<IpAddr, Stopped> {
    let [server, _] = NAMES;
    let answer = datagram(server, &question(name, kind))?;
    let (Some(code), Some(count)) = (answer.get(3).map(|byte| byte & 15), answer.get(7)) else {
        return Err(Stopped::Unclear("it answered with too little".to_owned()));
    };
    match (code, count, answer.last_chunk::<4>()) {
        (0, 1.., Some(address)) => Ok(IpAddr::V4(Ipv4Addr::from(*address))),
        _ => Err(Stopped::Refused(format!("response code {code}, {count} answers"))),
    }
}
