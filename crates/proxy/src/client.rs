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
    /// Where it comes from, and what its listener demands.
    pub shown: Arc<Shown>,
}

impl Client {
    /// Returns the client at `peer`, who reached `local`.
    #[must_use]
    pub fn new(peer: SocketAddr, local: SocketAddr, shown: Shown) -> Self {
        Self { peer, local, shown: Arc::new(shown) }
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
        Self::new(nowhere(high, low), nowhere(0, 0), shown)
    }

    /// Returns the client that a sender of PROXY headers tells of: its place is the address in the header, and nothing
    /// that is known of the sender.
    pub(crate) fn behind(&self, peer: SocketAddr, local: SocketAddr) -> Self {
        let place = Place { address: Some(peer.ip()), ..Place::default() };
        Self::new(peer, local, Shown { place, ..Shown::clone(&self.shown) })
    }

    /// Returns the same in a changed place.
    pub(crate) fn at(self, change: impl FnOnce(&mut Place)) -> Self {
        let mut shown = Shown::clone(&self.shown);
        change(&mut shown.place);
        Self { shown: Arc::new(shown), ..self }
    }

    /// Returns the same with the certificate that was presented in the handshake.
    pub(crate) fn with_certificate(self, certificate: Option<Arc<Presented>>) -> Self {
        if certificate.is_none() {
            return self;
        }
        let shown = Shown { certificate, ..Shown::clone(&self.shown) };
        Self { shown: Arc::new(shown), ..self }
    }

    /// Its address; `None` on a unix socket.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.shown.place.socket.is_none().then_some(self.peer)
    }

    /// Who it counts as before anybody knows who asks.
    pub(crate) fn source(&self) -> Source {
        match (&self.shown.place.socket, self.shown.place.user.known()) {
            (Some(path), user) => Source::by_socket(path, user.copied()),
            (None, Some(user)) => Source::User(*user),
            (None, None) => Source::from(self.peer.ip()),
        }
    }
}
