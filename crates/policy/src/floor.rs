//! What no policy opens, besides the addresses that are never reachable: our own listeners.

use std::net::{IpAddr, SocketAddr};

use exeat_model::{CanonicalIp, Port};

use crate::carried::{edges, with_carried};

/// Addresses that no policy can open.
///
/// A listener on the unspecified address is given as such, and besides as one pair for each address that this host is
/// known to have. It answers on others, too: which of them are this host's can change at any time and is not known here.
/// What can be told without asking is refused here, and of the rest a permit says that somebody has to ask.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Floor {
    /// Our own listeners.
    pub listeners: Vec<SocketAddr>,
}

impl Floor {
    /// Returns whether a connection to this address and port, or to an IPv4 address that it carries, certainly comes to
    /// one of our listeners.
    #[must_use]
    pub fn contains(&self, ip: CanonicalIp, port: Port) -> bool {
        let mut listeners = self.listeners.iter().filter(|listener| listener.port() == port.get());
        listeners.any(|listener| speaks_of(listener, ip))
    }

    /// Returns whether a listener on every address has the port, so that a connection to this address comes to it if the
    /// address is one of this host.
    #[must_use]
    pub fn may_contain(&self, ip: CanonicalIp, port: Port) -> bool {
        let mut listeners = self.listeners.iter().filter(|listener| listener.port() == port.get());
        listeners.any(|listener| with_carried(ip).any(|ip| is_on_every(listener, ip)))
    }

    /// Where addresses begin and end that are not to be decided on like their neighbours. Those of loopback are of a class
    /// of their own anyway.
    pub(crate) fn edges(&self) -> impl Iterator<Item = IpAddr> {
        self.listeners.iter().flat_map(|listener| edges(CanonicalIp::new(listener.ip()).into()))
    }
}

/// Whether a connection to the address, or to one that it carries, certainly comes to the listener if it has its port.
pub(crate) fn speaks_of(listener: &SocketAddr, ip: CanonicalIp) -> bool {
    let own = CanonicalIp::new(listener.ip());
    // Every loopback address is this host's, whether an interface has it or not.
    with_carried(ip).any(|ip| ip == own || (ip.get().is_loopback() && is_on_every(listener, ip)))
}

/// Whether the listener answers on every address of the family. One on `[::]` answers on IPv4, too.
fn is_on_every(listener: &SocketAddr, ip: CanonicalIp) -> bool {
    let own = listener.ip().to_canonical();
    own.is_unspecified() && (own.is_ipv6() || ip.get().is_ipv4())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_an_own_listener_is_known() {
        let on_v4 = "0.0.0.0:3128";
        let on_v6 = "[::]:3128";
        // Listener, address, certainly ours, ours if the address is.
        let cases = [
            (on_v4, "127.0.0.1", true, true),
            (on_v4, "127.9.8.7", true, true),
            (on_v4, "::ffff:127.0.0.2", true, true),
            (on_v4, "64:ff9b::127.0.0.2", true, true),
            (on_v4, "2002:7f00:2::1", true, true),
            (on_v4, "fd00::5efe:7f00:2", true, true),
            (on_v4, "192.0.2.1", false, true),
            (on_v4, "64:ff9b::192.0.2.1", false, true),
            (on_v4, "::1", false, false),
            (on_v4, "2001:db8::1", false, false),
            (on_v6, "::1", true, true),
            (on_v6, "127.0.0.2", true, true),
            (on_v6, "2001:db8::1", false, true),
            (on_v6, "192.0.2.1", false, true),
            ("192.0.2.1:3128", "192.0.2.1", true, false),
            ("[::ffff:192.0.2.1]:3128", "192.0.2.1", true, false),
            ("192.0.2.1:3128", "64:ff9b::192.0.2.1", true, false),
            ("192.0.2.1:3128", "192.0.2.2", false, false),
            ("127.0.0.1:3128", "127.0.0.2", false, false),
        ];
        for (listener, address, contains, may_contain) in cases {
            let floor = Floor { listeners: vec![listener.parse().unwrap()] };
            let ip = CanonicalIp::new(address.parse().unwrap());
            let at = |port: u16| Port::new(port).unwrap();
            let got = (floor.contains(ip, at(3128)), floor.may_contain(ip, at(3128)));
            assert_eq!(got, (contains, may_contain), "{address} of {listener}");
            assert!(
                !floor.contains(ip, at(3129)) && !floor.may_contain(ip, at(3129)),
                "{address}, next port"
            );
        }
    }
}
