//! Whether an address is one of this host, asked of the kernel (rtnetlink(7)): where it would send what is for it.
//!
//! What a socket is asked about is gone when the socket is; an address is not. Nobody has a connection from an address of
//! this host but this host: the kernel drops packets that come from outside with one.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAttribute, RouteMessage, RouteType},
};
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::io::Errno;

use crate::kernel_question;

/// Returns whether `address` is one of this host, in our own network namespace. With the index of a `device`, an address is
/// also looked for among those of that device alone (of one link, or of a VRF).
///
/// # Errors
/// If the kernel does not tell for certain.
pub(crate) fn is_ours(address: SocketAddr, device: Option<u32>) -> io::Result<bool> {
    let address = address.ip().to_canonical();
    Ok(is_local(address, None)? || (device.is_some() && is_local(address, device)?))
}

fn is_local(address: IpAddr, device: Option<u32>) -> io::Result<bool> {
    let request = RouteNetlinkMessage::GetRoute(question(address, device));
    let error = match kernel_question::ask(NETLINK_ROUTE, request) {
        Ok(RouteNetlinkMessage::NewRoute(route)) => return Ok(route.header.kind == RouteType::Local),
        Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
        Err(error) => error,
    };
    match Errno::from_io_error(&error) {
        // There is always a way to one's own addresses.
        Some(Errno::NETUNREACH | Errno::HOSTUNREACH) => Ok(false),
        Some(_) | None => Err(error),
    }
}

fn question(address: IpAddr, device: Option<u32>) -> RouteMessage {
    let mut message = RouteMessage::default();
    (message.header.address_family, message.header.destination_prefix_length) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.attributes.push(RouteAttribute::Destination(address.into()));
    message.attributes.extend(device.map(RouteAttribute::Oif));
    message
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn addresses_of_this_host_are_told_from_others() {
        let lo = nix::net::if_::if_nametoindex("lo").unwrap();
        for (address, want) in [
            (IpAddr::from(Ipv4Addr::LOCALHOST), true),
            (IpAddr::from([127, 1, 2, 3]), true),
            (IpAddr::from(Ipv6Addr::LOCALHOST), true),
            (IpAddr::from(Ipv4Addr::LOCALHOST.to_ipv6_mapped()), true),
            (IpAddr::from([192, 0, 2, 1]), false),
            (IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]), false),
        ] {
            for device in [None, Some(lo)] {
                let got = is_ours(SocketAddr::new(address, 1), device);
                assert_eq!(got.ok(), Some(want), "{address} {device:?}");
            }
        }
    }
}
