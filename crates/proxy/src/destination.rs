//! What a redirected connection asks for, as far as addresses tell: where the kernel says that it was meant to go, and the
//! name that this stands for. No socket is asked here, and time is an argument.

use std::{net::SocketAddr, time::Instant};

use exeat_dns::{Meaning, VirtualNames};
use exeat_model::{Authority, Host, Port};
use socket2::SockAddr;

/// Returns where a connection that `arrived` at this address was meant to go: to the `first` one that it had, if the kernel
/// has translated that and tells of it. An address that has several spellings is returned in the one that is decided on:
/// never an IPv4-mapped one, and without the scope and the flow of IPv6.
#[must_use]
pub fn original(arrived: SocketAddr, first: Option<&SockAddr>) -> SocketAddr {
    let meant = first.and_then(SockAddr::as_socket).unwrap_or(arrived);
    SocketAddr::new(meant.ip().to_canonical(), meant.port())
}

/// Returns the target that the bare address is; `None` without a port.
#[must_use]
pub fn literal(meant: SocketAddr) -> Option<Authority> {
    Port::new(meant.port()).map(|port| Authority { host: Host::Address(meant.ip().into()), port })
}

/// A virtual address that stands for no name that this client was told.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the address stands for no name that this client was told")]
pub struct Unknown;

/// Returns what the client `whose` asks for by a connection to `literal`: the name that it was told the address for, or the
/// address itself if it is an ordinary one.
///
/// # Errors
/// [`Unknown`] for any other virtual address, which is nobody's: it must never be connected to.
pub fn wanted(
    literal: Authority,
    names: &VirtualNames,
    whose: &str,
    now: Instant,
) -> Result<Authority, Unknown> {
    let Host::Address(ip) = &literal.host else { return Ok(literal) };
    match names.meaning(whose, ip.get(), now) {
        Meaning::Name(name) => Ok(Authority { host: Host::Name(name), port: literal.port }),
        Meaning::Ordinary => Ok(literal),
        Meaning::Unknown => Err(Unknown),
    }
}
