//! Whether a TCP connection was opened on this host, and by which user, asked of the kernel (sock_diag(7)).

use std::{io, net::SocketAddr, sync::Arc};

use exeat_identity::Part;
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, IPPROTO_TCP, SockDiagMessage, TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2,
    inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags},
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use crate::{kernel_question, local_address, unix_peer::UNMAPPED_USER};

/// The device and the cookie of a socket that is asked for by its addresses alone.
const ANY_DEVICE: u32 = 0;
const ANY_COOKIE: [u8; 8] = [0xff; 8];

/// Returns the user who owns the socket at `client` that is connected to `here`, both of this host; not known if there is
/// none any more, or the kernel does not tell for certain.
///
/// Our end of the connection is open while this asks, so nobody else can have one from the same address and port. A
/// client that has gone is not taken for somebody else: its socket has no file any more, and a new one at its address
/// cannot have connected.
pub(crate) fn of(client: SocketAddr, here: SocketAddr) -> Part<u32> {
    let (client, here) = (canonical(client), canonical(here));
    match ask(client, here, ANY_DEVICE) {
        Ok(Some(answer)) => owner(&answer, client, here),
        Ok(None) => Part::Unknown,
        Err(error) => {
            tracing::debug!(%error, "the user of a local client is not known");
            Part::Unknown
        }
    }
}

/// Returns the inode of the socket at `client` that is connected to `here`, both of this host.
///
/// # Errors
/// If there is none that somebody holds, or the kernel does not tell.
pub(crate) fn inode(client: SocketAddr, here: SocketAddr) -> io::Result<u32> {
    let (client, here) = (canonical(client), canonical(here));
    let answer = ask(client, here, ANY_DEVICE)?.filter(|answer| owner(answer, client, here) != Part::Unknown);
    answer.map(|answer| answer.inode).ok_or_else(|| io::ErrorKind::NotConnected.into())
}

/// Returns the device `interface`, unless the socket at `client` is one of this host, in our own network namespace,
/// although its connection came to a listener for that device alone: the kernel lets a connection to the address of a
/// device count as one that came in by it.
///
/// A socket of this host may have gone by now, and what it sent before is read still. So its address is asked for first,
/// which stays; the socket is for who connects from an address that is nobody's here, which takes privileges.
pub(crate) fn device(client: SocketAddr, here: SocketAddr, interface: &Arc<str>) -> Part<Arc<str>> {
    let (client, here) = (canonical(client), canonical(here));
    let Ok(index) = nix::net::if_::if_nametoindex(&**interface) else { return Part::Unknown };
    match local_address::is_ours(client, Some(index)) {
        Ok(true) => return Part::Nothing,
        Ok(false) => {}
        Err(error) => {
            tracing::debug!(%error, "whether a client is on this host is not known");
            return Part::Unknown;
        }
    }
    // A socket that is itself bound to the device is found by asking for that.
    match (ask(client, here, ANY_DEVICE), ask(client, here, index)) {
        (Ok(None), Ok(None)) => Part::Known(Arc::clone(interface)),
        (Ok(Some(_)), _) | (_, Ok(Some(_))) => Part::Nothing,
        (Err(_), _) | (_, Err(_)) => Part::Unknown,
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Returns what the kernel knows of the socket at `client` that is connected to `here`; `None` if there is none.
fn ask(client: SocketAddr, here: SocketAddr, device: u32) -> io::Result<Option<InetResponseHeader>> {
    let request = InetRequest {
        family: if client.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: client.port(),
            destination_port: here.port(),
            source_address: client.ip(),
            destination_address: here.ip(),
            interface_id: device,
            cookie: ANY_COOKIE,
        },
    };
    match kernel_question::ask(NETLINK_SOCK_DIAG, SockDiagMessage::InetRequest(request)) {
        Ok(SockDiagMessage::InetResponse(response)) => Ok(Some(response.header)),
        Ok(_) => Err(io::ErrorKind::InvalidData.into()),
        Err(absent) if absent.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the owner that an answer tells, if it is about this socket and the socket is somebody's.
fn owner(answer: &InetResponseHeader, client: SocketAddr, here: SocketAddr) -> Part<u32> {
    let id = &answer.socket_id;
    let ends = (
        SocketAddr::new(id.source_address.to_canonical(), id.source_port),
        SocketAddr::new(id.destination_address.to_canonical(), id.destination_port),
    );
    // A client may have ended its side already, and read still.
    let is_connected = matches!(answer.state, TCP_ESTABLISHED | TCP_FIN_WAIT1 | TCP_FIN_WAIT2);
    // Without a file it is nobody's, which the kernel may show as the user 0.
    let is_held = answer.inode != 0;
    match ends == (client, here) && is_connected && is_held {
        true if answer.uid == UNMAPPED_USER => Part::Nothing,
        true => Part::Known(answer.uid),
        false => Part::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream},
        time::Duration,
    };

    use netlink_packet_sock_diag::{TCP_LISTEN, TCP_SYN_SENT, TCP_TIME_WAIT};

    use super::*;

    fn pair(listen: SocketAddr, dial: impl Fn(u16) -> SocketAddr) -> (TcpStream, TcpStream, SocketAddr) {
        let listener = TcpListener::bind(listen).unwrap();
        let far = TcpStream::connect(dial(listener.local_addr().unwrap().port())).unwrap();
        let (near, peer) = listener.accept().unwrap();
        (far, near, peer)
    }

    #[test]
    fn the_user_of_a_local_client_is_found_while_it_is_there() {
        let (v4, v6) = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
        let own = Part::Known(rustix::process::getuid().as_raw());
        for (name, listen, dial) in [
            ("IPv4", SocketAddr::from((v4, 0)), SocketAddr::from((v4, 0))),
            ("IPv6", SocketAddr::from((v6, 0)), SocketAddr::from((v6, 0))),
            (
                "IPv4 to a listener of both",
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
                SocketAddr::from((v4, 0)),
            ),
        ] {
            let (far, near, peer) = pair(listen, |port| SocketAddr::new(dial.ip(), port));
            let here = near.local_addr().unwrap();
            assert_eq!(of(peer, here), own, "{name}");
            assert_eq!(
                of(SocketAddr::new(peer.ip(), here.port()), here),
                Part::Unknown,
                "{name}: another port"
            );
            far.shutdown(Shutdown::Write).unwrap();
            assert_eq!(of(peer, here), own, "{name}: it reads still");
            drop(far);
            assert_eq!(of(peer, here), Part::Unknown, "{name}: it has gone");
        }
    }

    #[test]
    fn a_socket_of_this_host_is_told_from_one_that_is_not() {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (far, near, peer) = pair(loopback, |port| SocketAddr::new(loopback.ip(), port));
        let here = near.local_addr().unwrap();
        let (lo, none) = (Arc::from("lo"), Arc::from("no-such-device"));
        assert_eq!(device(peer, here, &lo), Part::Nothing);
        let elsewhere = "192.0.2.1:1".parse().unwrap();
        assert_eq!(device(elsewhere, here, &lo), Part::Known(Arc::clone(&lo)));
        assert_eq!(device(elsewhere, here, &none), Part::Unknown, "fails closed");
        drop(far);
        assert_eq!(device(peer, here, &lo), Part::Nothing, "it has gone");
        let (far, near, peer) = pair(loopback, |port| SocketAddr::new(loopback.ip(), port));
        let here = near.local_addr().unwrap();
        socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO)).unwrap();
        drop(far);
        assert_eq!(ask(peer, here, ANY_DEVICE).unwrap(), None, "of one that was reset nothing is left");
        assert_eq!(device(peer, here, &lo), Part::Nothing, "and it was of this host all the same");
    }

    #[test]
    fn nobody_owns_a_socket_that_is_not_connected_or_has_no_file() {
        let (client, here) = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        let answer = |state, inode, uid| InetResponseHeader {
            family: AF_INET,
            state,
            timer: None,
            socket_id: SocketId {
                source_port: 1,
                destination_port: 2,
                source_address: Ipv4Addr::LOCALHOST.into(),
                destination_address: Ipv4Addr::LOCALHOST.into(),
                interface_id: 0,
                cookie: [0; 8],
            },
            recv_queue: 0,
            send_queue: 0,
            uid,
            inode,
        };
        for (name, answer, want) in [
            ("connected", answer(TCP_ESTABLISHED, 7, 1000), Part::Known(1000)),
            ("of root", answer(TCP_ESTABLISHED, 7, 0), Part::Known(0)),
            ("has no file", answer(TCP_ESTABLISHED, 0, 0), Part::Unknown),
            ("has ended its side", answer(TCP_FIN_WAIT2, 7, 1000), Part::Known(1000)),
            ("has ended its side and has no file", answer(TCP_FIN_WAIT2, 0, 0), Part::Unknown),
            ("a new one at its address", answer(TCP_SYN_SENT, 7, 1000), Part::Unknown),
            ("listens there", answer(TCP_LISTEN, 7, 1000), Part::Unknown),
            ("has gone", answer(TCP_TIME_WAIT, 0, 0), Part::Unknown),
            ("of a user without a number here", answer(TCP_ESTABLISHED, 7, UNMAPPED_USER), Part::Nothing),
        ] {
            assert_eq!(owner(&answer, client, here), want, "{name}");
        }
        let turned = owner(&answer(TCP_ESTABLISHED, 7, 1000), here, client);
        assert_eq!(turned, Part::Unknown, "the other way round");
    }
}
