//! Who may connect, whatever they then ask for.

use std::net::SocketAddr;

/// Whose connections are taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Callers {
    /// Nobody on this host.
    pub restrict_localhost: bool,
}

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refused {
    /// Its other end is on this host.
    Local,
    /// Exeat has made it for somebody: that is how a confined command would come here.
    Confined,
    /// Who is at its other end cannot be told.
    Unknown,
}

impl Refused {
    pub(crate) const fn why(self) -> &'static str {
        match self {
            Self::Local => "it comes from this host",
            Self::Confined => "it comes from inside a sandbox",
            Self::Unknown => "it cannot be told where it comes from",
        }
    }
}

impl Callers {
    /// Says whether the connection from `peer` to `here` is taken. Asks the kernel, and looks at processes for a caller on this
    /// host: not for a thread that others wait for.
    pub(crate) fn check(self, peer: SocketAddr, here: SocketAddr) -> Result<(), Refused> {
        match exeat_proxy::is_of_this_host(peer) {
            Ok(false) => Ok(()),
            Ok(true) if self.restrict_localhost => Err(Refused::Local),
            Ok(true) => match exeat_proxy::is_relayed_by_exeat(peer, here) {
                Ok(false) => Ok(()),
                Ok(true) => Err(Refused::Confined),
                Err(_) => Err(Refused::Unknown),
            },
            Err(_) => Err(Refused::Unknown),
        }
    }
}
