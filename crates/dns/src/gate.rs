//! What lets a client's packets through to what a name resolved to, before the client learns of it.

use std::{future::Future, io, net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use exeat_identity::{Place, Principal};
use exeat_model::DnsName;
use exeat_policy::{Reach, Revision};

/// The least time that something is opened for. Clients keep addresses for longer than they were told: runtimes that
/// hold them for minutes, connection pools, retries.
pub const LIFETIME_MIN: Duration = Duration::from_secs(10 * 60);

/// What a client may reach because of one answer.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The address that the question came from, and packets will; never an IPv4-mapped one.
    pub client: IpAddr,
    /// Who asked, bound to the snapshot that decided.
    pub principal: Arc<Principal>,
    /// Where the client is, to find out who it is by a later snapshot.
    pub place: Place,
    /// The name that was asked for.
    pub name: DnsName,
    /// The addresses of both families with the transports and ports that the policy allows; never empty. No address but
    /// these is told to the client.
    pub reach: Vec<Reach>,
    /// How long from now on; at least [`LIFETIME_MIN`], and longer than any time to live that the client is told.
    pub lifetime: Duration,
    /// The snapshot that decided.
    pub revision: Revision,
}

/// Why nothing was opened.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The policy has changed since it was asked: it must decide again.
    #[error("a newer policy decides by now")]
    Outdated,
    /// There is room for nothing more.
    #[error("there is room for no more openings")]
    Full,
    /// The kernel refused, or could not be asked.
    #[error("the kernel did not take the opening")]
    Kernel(#[source] io::Error),
}

/// What an opening comes to, later.
pub type Opened<'a> = Pin<Box<dyn Future<Output = Result<(), GateError>> + Send + 'a>>;

/// What lets a client's packets through.
pub trait Gate: Send + Sync + 'static {
    /// Opens every (client, address, transport, ports) of `opening`, or renews it, and resolves once that is in force. It
    /// is called for every answer with addresses, also for one from the cache.
    ///
    /// # Errors
    /// If not all of it is in force: then nothing may be told to the client.
    fn open(&self, opening: Opening) -> Opened<'_>;

    /// Whether what it opens can lead to a relay, so that it may be asked for what only a relay can hold to its bounds.
    fn relays(&self) -> bool {
        false
    }
}

/// The gate of a resolver that only decides which names are resolved: nothing holds the client's packets back.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoGate;

impl Gate for NoGate {
    fn open(&self, _: Opening) -> Opened<'_> {
        Box::pin(std::future::ready(Ok(())))
    }
}
