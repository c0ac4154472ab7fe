//! Listening sockets: bound by us, or by whoever started the program.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

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

/// What is listened on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct At<'a> {
    /// The address; port 0 is any.
    pub(crate) address: SocketAddr,
    /// The device whose connections are taken; `None` is every device.
    pub(crate) interface: Option<&'a str>,
    /// Whether `[::]` leaves IPv4 alone, which the kernel lets it take as well.
    is_v6_only: bool,
}

impl<'a> At<'a> {
    /// An address, of every device.
    pub(crate) fn everywhere(address: SocketAddr) -> Self {
        Self { address, interface: None, is_v6_only: false }
    }

    /// Addresses of one protocol, with their devices. `[::]` takes IPv4 as well, unless `0.0.0.0` is there with the same
    /// port.
    pub(crate) fn all(asked: impl Iterator<Item = (SocketAddr, Option<&'a str>)> + Clone) -> Vec<Self> {
        let has = |wanted| asked.clone().any(|one| one == wanted);
        let at = |(address, interface): (SocketAddr, Option<&'a str>)| {
            let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            let is_v6_only = address.ip() == Ipv6Addr::UNSPECIFIED && has((v4, interface));
            Self { address, interface, is_v6_only }
        };
        asked.clone().map(at).collect()
    }
}

/// Listens with `count` sockets. A socket that was passed in is used instead of new ones, unless it is for one interface.
///
/// # Errors
/// If the address cannot be had, with what to do about it.
pub(crate) fn listen(at: At<'_>, count: usize, inherited: &mut Inherited) -> anyhow::Result<Listening> {
    let At { address, interface, .. } = at;
    let passed_in = if interface.is_none() { inherited.take(address) } else { None };
    let sockets = match passed_in {
        Some(socket) => share(socket, count),
        None => bind(at, count),
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
fn bind(at: At<'_>, count: usize) -> io::Result<Vec<TcpListener>> {
    let address = at.address;
    let first = new_socket(at)?;
    first.bind(&address.into())?;
    first.set_reuse_port(count > 1)?;
    first.listen(BACKLOG)?;
    let mut sockets = vec![TcpListener::from(first)];
    let address = sockets.first().map_or(Ok(address), TcpListener::local_addr)?;
    while sockets.len() < count {
        let next = new_socket(at)?;
        next.set_reuse_port(true)?;
        next.bind(&address.into())?;
        next.listen(BACKLOG)?;
        sockets.push(next.into());
    }
    Ok(sockets)
}

fn new_socket(at: At<'_>) -> io::Result<Socket> {
    let socket = unbound(at, Type::STREAM)?;
    // Connections of a process that has ended do not keep the address.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

fn unbound(at: At<'_>, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at.address), kind, None)?;
    socket.set_nonblocking(true)?;
    if at.is_v6_only {
        socket.set_only_v6(true)?;
    }
    if let Some(name) = at.interface {
        socket.bind_device(Some(name.as_bytes()))?;
    }
    Ok(socket)
}

/// One queue for all: whoever comes first takes from it. Another process may hold the same socket, and take over.
fn share(socket: TcpListener, count: usize) -> io::Result<Vec<TcpListener>> {
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

/// Listens for questions for names, with `count` sockets of each kind.
///
/// # Errors
/// If the address cannot be had, with what to do about it.
pub(crate) fn listen_dns(at: At<'_>, count: usize) -> anyhow::Result<DnsListening> {
    // A configured port 0 gets its number here, and is then the same by UDP.
    let Listening { address, sockets } = listen(at, count, &mut Inherited::default())?;
    let udp = bind_udp(At { address, ..at }, sockets.len()).map_err(|error| {
        let hint = hint(error.kind());
        anyhow::Error::new(error).context(format!("cannot listen on {address} by UDP; {hint}"))
    })?;
    Ok(DnsListening { address, sockets: udp.into_iter().zip(sockets).collect() })
}

/// As [`bind`], for datagrams.
fn bind_udp(at: At<'_>, count: usize) -> io::Result<Vec<UdpSocket>> {
    let mut sockets = Vec::new();
    while sockets.len() < count {
        let socket = unbound(at, Type::DGRAM)?;
        socket.set_recv_buffer_size(UDP_QUEUE_BYTES)?;
        if !sockets.is_empty() {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&at.address.into())?;
        socket.set_reuse_port(count > 1)?;
        sockets.push(socket.into());
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn loopback() -> At<'static> {
        At::everywhere(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    #[test]
    fn an_address_in_use_is_found_to_be_even_by_ourselves() {
        for (held, asked) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            let first = listen(loopback(), held, &mut Inherited::default()).unwrap();
            let error = listen(At::everywhere(first.address), asked, &mut Inherited::default()).unwrap_err();
            assert!(format!("{error:#}").contains("another program uses it"), "{held} {asked}: {error:#}");
        }
    }

    #[test]
    fn only_the_wildcard_of_the_same_port_and_device_takes_ipv4_away() {
        for (other, device, want) in [
            ("0.0.0.0:53", None, true),
            ("0.0.0.0:54", None, false),
            ("127.0.0.1:53", None, false),
            ("0.0.0.0:53", Some("br0"), false),
        ] {
            let asked = [("[::]:53".parse().unwrap(), None), (other.parse().unwrap(), device)];
            let all = At::all(asked.into_iter());
            assert_eq!((all[0].is_v6_only, all[1].is_v6_only), (want, false), "{other} {device:?}");
        }
        let asked = [("[::1]:53".parse().unwrap(), None), ("0.0.0.0:53".parse().unwrap(), None)];
        assert!(!At::all(asked.into_iter())[0].is_v6_only, "it takes no IPv4 anyway");
    }

    #[test]
    fn all_sockets_have_one_address_and_every_connection_reaches_one() {
        let Listening { address, sockets } = listen(loopback(), 3, &mut Inherited::default()).unwrap();
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
