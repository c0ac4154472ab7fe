//! The network inside: loopback, and nothing else.
//!
//! Every address is routed to loopback, so that a connection to any of them can be redirected to the proxy. A connection must
//! come from somewhere: loopback has one more address of each family for that, which belongs to nobody (RFC 7600, RFC 9780).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_ROUTE};

/// Where the proxy listens inside, for clients that know of it.
pub const PROXY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 3128);

/// Where it listens for the connections that the kernel redirects.
pub const REDIRECTED: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 3129),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 3129),
];

/// Where questions for names go (RFC 1035 §4.2).
pub const NAMES: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 53),
];

/// The loopback device, which is the first one of every network namespace.
const LOOPBACK: u32 = 1;

/// Where connections come from. These go by no route anywhere.
const OWN_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
const OWN_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 1, 0, 0, 0, 1);

/// Bytes of the kernel's answer to one request, which carries the request.
const ANSWER_BYTES: usize = 8192;

/// Sets up loopback, its addresses and routes. Returns whether there is IPv6: a kernel may be without.
pub(crate) fn bring_up() -> io::Result<bool> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    ask(&socket, RouteNetlinkMessage::SetLink(up()), 0)?;
    let has_ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let own: &[IpAddr] =
        if has_ipv6 { &[IpAddr::V4(OWN_V4), IpAddr::V6(OWN_V6)] } else { &[IpAddr::V4(OWN_V4)] };
    for own in own {
        ask(&socket, RouteNetlinkMessage::NewAddress(address(*own)), NLM_F_CREATE | NLM_F_EXCL)?;
        ask(&socket, RouteNetlinkMessage::NewRoute(everywhere(*own)), NLM_F_CREATE | NLM_F_EXCL)?;
    }
    Ok(has_ipv6)
}

/// Binds what is served from outside, in the order of [`crate::wire::ToLauncher::Listening`].
pub(crate) fn listen(has_ipv6: bool) -> io::Result<Vec<OwnedFd>> {
    let mut sockets = vec![TcpListener::bind(PROXY)?.into()];
    for (redirected, names) in REDIRECTED.into_iter().zip(NAMES) {
        if redirected.is_ipv4() || has_ipv6 {
            sockets.push(TcpListener::bind(redirected)?.into());
            sockets.push(UdpSocket::bind(names)?.into());
            sockets.push(TcpListener::bind(names)?.into());
        }
    }
    Ok(sockets)
}

fn up() -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = LOOPBACK;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

fn address(own: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(own);
    message.header.prefix_len = if own.is_ipv4() { 32 } else { 128 };
    message.header.index = LOOPBACK;
    // It counts at once: nobody else can have it.
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes = vec![AddressAttribute::Local(own), AddressAttribute::Address(own)];
    message
}

/// The route that everything takes for which there is no other.
fn everywhere(own: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(own);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.scope = RouteScope::Host;
    message.header.kind = RouteType::Local;
    message.attributes = vec![RouteAttribute::Oif(LOOPBACK), RouteAttribute::PrefSource(own.into())];
    message
}

const fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// Has the kernel carry out one request.
fn ask(socket: &Socket, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    socket.recv(&mut answer, 0)?;
    let unexpected = || io::Error::from(io::ErrorKind::InvalidData);
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(|_| unexpected())?;
    let NetlinkPayload::Error(error) = answer.payload else { return Err(unexpected()) };
    // Without a code it is an acknowledgement.
    if error.code.is_none() { Ok(()) } else { Err(error.to_io()) }
}
