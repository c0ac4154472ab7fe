//! The floor: our own listeners, which no policy opens.

use std::io;
use std::net::{IpAddr, SocketAddr};

use exeat_policy::Floor;

/// Returns the floor for these listeners. One on the unspecified address stands for itself and for a pair with each
/// address that this host has now; those that it gets later are asked for when one is dialled.
///
/// # Errors
/// If the host's addresses are needed and cannot be listed.
pub(crate) fn floor(listeners: impl IntoIterator<Item = SocketAddr>) -> io::Result<Floor> {
    let mut pairs = Vec::new();
    let mut host: Option<Vec<IpAddr>> = None;
    for listener in listeners {
        if listener.ip().to_canonical().is_unspecified() {
            let addresses = match host.take() {
                Some(addresses) => addresses,
                None => host_addresses()?,
            };
            pairs.extend(addresses.iter().map(|&address| SocketAddr::new(address, listener.port())));
            host = Some(addresses);
        }
        pairs.push(listener);
    }
    pairs.sort_unstable();
    pairs.dedup();
    Ok(Floor { listeners: pairs })
}

/// Every address of every interface. A listener on `[::]` answers on IPv4 addresses too.
fn host_addresses() -> io::Result<Vec<IpAddr>> {
    let interfaces = nix::ifaddrs::getifaddrs().map_err(io::Error::from)?;
    let addresses = interfaces.filter_map(|interface| interface.address).filter_map(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    Ok(addresses.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_stands_for_each_of_them() {
        let given: Vec<SocketAddr> =
            ["0.0.0.0:3128", "192.0.2.1:80", "192.0.2.1:80"].iter().filter_map(|a| a.parse().ok()).collect();
        let pairs = floor(given).map(|floor| floor.listeners).unwrap_or_default();
        for want in ["127.0.0.1:3128", "0.0.0.0:3128", "192.0.2.1:80"] {
            assert_eq!(
                pairs.iter().filter(|pair| pair.to_string() == want).count(),
                1,
                "{want} in {pairs:?}"
            );
        }
    }
}
