//! The client of a connection: its two ends, and what the connection shows of whoever is there.

use std::{
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use exeat_identity::{Place, Presented, Shown};

use crate::flows::Source;

/// The two ends of a client's connection, and what it shows.
#[derive(Clone, Debug)]
pub struct Client {
    /// Where the client is. On a unix socket no address at all, and no other client has the same.
    pub peer: SocketAddr,
    /// The address that it reached; the unspecified one on a unix socket.
    pub local: SocketAddr,
    /// Where it comes from, but for its address, and what its listener demands. Most connections of a listener share it:
    /// there are many that wait, and each takes as little room as it can.
    rest: Arc<Shown>,
}

impl Client {
    /// Returns the client at `peer`, who reached `local`. Its address is no part of `shown`.
    #[must_use]
    pub fn new(peer: SocketAddr, local: SocketAddr, shown: Arc<Shown>) -> Self {
        Self { peer, local, rest: shown }
    }

    /// Returns a client of a unix socket, who has no address.
    pub(crate) fn of_unix(shown: Shown) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // What tells it from others stands where an address has what is not part of it: connections to upstreams that
        // were told of one client must not serve another.
        let [high, low] =
            [number >> 32, number].map(|part| u32::try_from(part & 0xffff_ffff).unwrap_or_default());
        let nowhere = |high, low| SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, high, low));
        Self::new(nowhere(high, low), nowhere(0, 0), Arc::new(shown))
    }

    /// Returns the client that a sender of PROXY headers tells of: its place is the address in the header, and nothing
    /// that is known of the sender.
    pub(crate) fn behind(&self, peer: SocketAddr, local: SocketAddr) -> Self {
        Self { peer, local, ..self.clone().at(|place| *place = Place::default()) }
    }

    /// Returns the same in a changed place.
    pub(crate) fn at(self, change: impl FnOnce(&mut Place)) -> Self {
        let mut rest = Shown::clone(&self.rest);
        change(&mut rest.place);
        if rest.place == self.rest.place { self } else { Self { rest: Arc::new(rest), ..self } }
    }

    /// Returns the same with the certificate that was presented in the handshake.
    pub(crate) fn with_certificate(self, certificate: Option<Arc<Presented>>) -> Self {
        if certificate.is_none() {
            return self;
        }
        Self { rest: Arc::new(Shown { certificate, ..Shown::clone(&self.rest) }), ..self }
    }

    /// Where it comes from, what its listener demands, and its certificate.
    #[must_use]
    pub fn shown(&self) -> Shown {
        let mut shown = Shown::clone(&self.rest);
        shown.place.address = self.address().map(|address| address.ip());
        shown
    }

    /// The certificate that was presented in the handshake.
    pub(crate) fn certificate(&self) -> Option<&Presented> {
        self.rest.certificate.as_deref()
    }

    /// The user who opened its connection, where that was looked up.
    pub(crate) fn user(&self) -> Option<u32> {
        self.rest.place.user.known().copied()
    }

    /// Where it comes from, but for its address.
    pub(crate) fn place(&self) -> &Place {
        &self.rest.place
    }

    /// Its address; `None` on a unix socket.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.rest.place.socket.is_none().then_some(self.peer)
    }

    /// Who it counts as before anybody knows who asks.
    pub(crate) fn source(&self) -> Source {
        match (&self.rest.place.socket, self.user()) {
            (Some(path), user) => Source::by_socket(path, user),
            (None, Some(user)) => Source::User(user),
            (None, None) => Source::from(self.peer.ip()),
        }
    }
}

#[cfg(test)]
mod tests {
    use exeat_identity::Part;

    use super::*;

    #[test]
    fn clients_of_a_listener_share_what_they_show_but_for_their_addresses() {
        let place = Place { interface: Part::Known("veth1".into()), ..Place::default() };
        let shared = Arc::new(Shown { place, ..Shown::default() });
        let [one, other] = [1, 2].map(|number| {
            let peer = SocketAddr::from(([10, 0, 0, number], 1));
            Client::new(peer, SocketAddr::from(([10, 0, 0, 9], 2)), Arc::clone(&shared))
        });
        assert!(Arc::ptr_eq(&one.rest, &other.rest));
        assert_eq!(one.shown().place.address, Some([10, 0, 0, 1].into()));
        assert_eq!(other.shown().place.interface, Part::Known("veth1".into()));
        let moved = one.clone().at(|place| place.user = Part::Known(7));
        assert_eq!((moved.user(), one.user(), other.user()), (Some(7), None, None));
        // Nothing that is known of the sender is known of whom it tells of.
        let behind = moved.behind(SocketAddr::from(([192, 0, 2, 1], 3)), moved.local);
        let want = Place { address: Some([192, 0, 2, 1].into()), ..Place::default() };
        assert_eq!(behind.shown().place, want);
        let socket = Place { socket: Some(std::path::Path::new("/run/s").into()), ..Place::default() };
        assert_eq!(Client::of_unix(Shown { place: socket, ..Shown::default() }).shown().place.address, None);
    }
}
