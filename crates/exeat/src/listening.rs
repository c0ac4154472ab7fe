//! Listening sockets: bound by us, or by whoever started the program.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, SockRef, Socket, Type};

use crate::cores::DnsSockets;
use crate::inherited::Inherited;

/// Connections that the kernel keeps until they are accepted; it keeps no more than `net.core.somaxconn`, 4096 by
/// default. Who finds the queue full tries again after a second.
const BACKLOG: i32 = 4096;

/// Octets of questions that the kernel keeps until they are read, or `net.core.rmem_max` if that is less: about 1300
/// questions, so that a burst which lasts as long as a busy core is away is not lost.
const UDP_QUEUE_BYTES: usize = 1024 * 1024;

/// The sockets that listen on one address, one for each core.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) address: SocketAddr,
    pub(crate) sockets: Vec<TcpListener>,
}

/// Listens on `address` with `count` sockets, for the connections of one `interface` if it is given. A socket that was
/// passed in is used instead of new ones, unless it is for one interface.
///
/// # Errors
/// If the address cannot be had, with what to do about it.
pub(crate) fn listen(
    address: SocketAddr,
    interface: Option<&str>,
    count: usize,
    inherited: &mut Inherited,
) -> anyhow::Result<Listening> {
    let passed_in = if interface.is_none() { inherited.take(address) } else { None };
    let sockets = match passed_in {
        Some(socket) => share(socket, count),
        None => bind(address, interface, count),
    };
    let listening = sockets.and_then(|sockets| {
        // A configured port 0 has got its number by now.
        let address = sockets.first().map_or(Ok(address), TcpListener::local_addr)?;
        Ok(Listening { address, sockets })
    });
    listening.map_err(|error| {
        let hint = hint(error.kind());
        let by = interface.map(|name| format!(" for {name}")).unwrap_or_default();
        anyhow::Error::new(error).context(format!("cannot listen on {address}{by}; {hint}"))
    })
}

/// Lets the sockets take connections to any address, which `tproxy` of nftables hands to them as they are. Without the right
/// to that only `redirect` leads here.
pub(crate) fn take_any_address(listening: &Listening) {
    let address = listening.address;
    let allowed = listening.sockets.iter().try_for_each(|socket| match address {
        SocketAddr::V4(_) => SockRef::from(socket).set_ip_transparent_v4(true),
        SocketAddr::V6(_) => SockRef::from(socket).set_ip_transparent_v6(true),
    });
    if let Err(error) = allowed {
        tracing::info!(%address, %error, "connections come by `redirect` alone: `tproxy` needs CAP_NET_ADMIN");
    }
}

/// The kernel deals connections out to the sockets. The first one is bound as if it were alone, so that an address which
/// another program listens on is found to be in use; only then it lets the others in.
fn bind(address: SocketAddr, interface: Option<&str>, count: usize) -> io::Result<Vec<TcpListener>> {
    let first = new_socket(address, interface)?;
    first.bind(&address.into())?;
    first.set_reuse_port(count > 1)?;
    first.listen(BACKLOG)?;
    let mut sockets = vec![TcpListener::from(first)];
    let address = sockets.first().map_or(Ok(address), TcpListener::local_addr)?;
    while sockets.len() < count {
        let next = new_socket(address, interface)?;
        next.set_reuse_port(true)?;
        next.bind(&address.into())?;
        next.listen(BACKLOG)?;
        sockets.push(next.into());
    }
    Ok(sockets)
}

fn new_socket(address: SocketAddr, interface: Option<&str>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Connections of a process that has ended do not keep the address.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if let Some(name) = interface {
        socket.bind_device(Some(name.as_bytes()))?;
    }
    Ok(socket)
}

/// One queue for all: whoever comes first takes from it. Another process may hold the same socket, and take over.
pub(crate) fn share(socket: TcpListener, count: usize) -> io::Result<Vec<TcpListener>> {
    let mut sockets = vec![socket];
    while let Some(first) = sockets.first().filter(|_| sockets.len() < count) {
        sockets.push(first.try_clone()?);
    }
    Ok(sockets)
}

/// What to do about a listener that cannot be had.
fn hint(kind: ErrorKind) -> &'static str {
    if kind == ErrorKind::AddrInUse {
        "another program uses it: stop that one, or choose another port"
    } else if kind == ErrorKind::AddrNotAvailable {
        "this host has no such address"
    } else if kind == ErrorKind::PermissionDenied {
        "ports below 1024 need CAP_NET_BIND_SERVICE"
    } else {
        "see `proxy.listen`, `dns.listen` or --listen"
    }
}

/// The sockets of one address that names are asked for at, one pair for each core.
pub(crate) struct DnsListening {
    /// The address, with the port that it got.
    pub(crate) address: SocketAddr,
    pub(crate) sockets: Vec<DnsSockets>,
}

/// Listens on `address` for questions for names, with `count` sockets of each kind, from one `interface` if it is given.
///
/// # Errors
/// If the address cannot be had, with what to do about it.
pub(crate) fn listen_dns(
    address: SocketAddr,
    interface: Option<&str>,
    count: usize,
) -> anyhow::Result<DnsListening> {
    // A configured port 0 gets its number here, and is then the same by UDP.
    let Listening { address, sockets } = listen(address, interface, count, &mut Inherited::default())?;
    let udp = bind_udp(address, interface, sockets.len()).map_err(|error| {
        let hint = hint(error.kind());
        anyhow::Error::new(error).context(format!("cannot listen on {address} by UDP; {hint}"))
    })?;
    Ok(DnsListening { address, sockets: udp.into_iter().zip(sockets).collect() })
}

/// As [`bind`], for datagrams.
fn bind_udp(address: SocketAddr, interface: Option<&str>, count: usize) -> io::Result<Vec<UdpSocket>> {
    let mut sockets = Vec::new();
    while sockets.len() < count {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(UDP_QUEUE_BYTES)?;
        if let Some(name) = interface {
            socket.bind_device(Some(name.as_bytes()))?;
        }
        if !sockets.is_empty() {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&address.into())?;
        socket.set_reuse_port(count > 1)?;
        sockets.push(socket.into());
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn an_address_in_use_is_found_to_be_even_by_ourselves() {
        for (held, asked) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            let first = listen(loopback(), None, held, &mut Inherited::default()).unwrap();
            let error = listen(first.address, None, asked, &mut Inherited::default()).unwrap_err();
            assert!(format!("{error:#}").contains("another program uses it"), "{held} {asked}: {error:#}");
        }
    }

    #[test]
    fn all_sockets_have_one_address_and_every_connection_reaches_one() {
        let Listening { address, sockets } = listen(loopback(), None, 3, &mut Inherited::default()).unwrap();
        assert_eq!(sockets.len(), 3);
        assert!(sockets.iter().all(|socket| socket.local_addr().unwrap() == address));
        let clients: Vec<TcpStream> = (0..32).map(|_| TcpStream::connect(address).unwrap()).collect();
        let accepted: Vec<usize> =
            sockets.iter().map(|socket| std::iter::from_fn(|| socket.accept().ok()).count()).collect();
        assert_eq!(accepted.iter().sum::<usize>(), clients.len());
        // All 32 with one of three: one chance in 10^15.
        assert!(accepted.iter().all(|count| *count < clients.len()), "{accepted:?}");
    }
}
