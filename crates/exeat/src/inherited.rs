//! Listeners that whoever started the program has bound already (socket activation, `LISTEN_FDS`).
//!
//! The sockets outlive the process, so another one can take them over while this one drains, and
//! a port below 1024 needs no privilege here.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, bail, ensure};
use listenfd::ListenFd;
use socket2::SockRef;

/// The sockets passed in that no configured address has claimed yet.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    sockets: Vec<(SocketAddr, TcpListener)>,
}

impl Inherited {
    /// Takes the sockets that the environment announces, and the announcement with them. Call it
    /// while there is one thread: it changes the environment.
    ///
    /// # Errors
    /// If one of them is not a listening TCP socket.
    pub(crate) fn from_env() -> anyhow::Result<Self> {
        let mut passed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for number in 0..passed.len() {
            let about = || format!("socket {number} of LISTEN_FDS cannot be used");
            let Some(socket) = passed.take_tcp_listener(number).with_context(about)? else { continue };
            ensure!(
                SockRef::from(&socket).is_listener().with_context(about)?,
                "socket {number} of LISTEN_FDS does not listen; a socket unit needs ListenStream= and Accept=no"
            );
            socket.set_nonblocking(true).with_context(about)?;
            sockets.push((socket.local_addr().with_context(about)?, socket));
        }
        Ok(Self { sockets })
    }

    /// Returns the socket of this address, if it was passed in.
    pub(crate) fn take(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let at = self.sockets.iter().position(|(own, _)| *own == address)?;
        Some(self.sockets.swap_remove(at).1)
    }

    /// Checks that every socket was claimed: one that nobody serves would leave its clients waiting.
    ///
    /// # Errors
    /// If one is left.
    pub(crate) fn check_all_taken<'a>(
        &self,
        mut configured: impl Iterator<Item = &'a SocketAddr>,
    ) -> anyhow::Result<()> {
        if self.sockets.is_empty() {
            return Ok(());
        }
        let list = |addresses: &mut dyn Iterator<Item = &SocketAddr>| {
            addresses.map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        bail!(
            "a listener for {} was passed in, but the configuration listens on {}; \
             make ListenStream= of the socket unit and `listen` of [proxy] (or [api]) say the same",
            list(&mut self.sockets.iter().map(|(address, _)| address)),
            list(&mut configured),
        )
    }
}
