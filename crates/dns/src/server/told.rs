//! Which name each address was told for, to whom: all that a question for the name of an address is answered from.

use std::{net::IpAddr, time::Duration};

use exeat_model::DnsName;
use moka::sync::Cache;

/// Pairs of a client and an address that are remembered; 20 MB at the very most. Who asks for one that was forgotten is
/// told that it has no name.
const PAIRS_MAX: u64 = 100_000;

/// How long: the longest that a client is told an address for, many times over.
const REMEMBERED: Duration = Duration::from_secs(60 * 60);

/// What clients were told.
#[derive(Debug)]
pub(crate) struct Told(Cache<(IpAddr, IpAddr), DnsName>);

impl Default for Told {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(PAIRS_MAX).time_to_live(REMEMBERED).build())
    }
}

impl Told {
    /// Remembers that `client` was told this address of `name`.
    pub(crate) fn remember(&self, client: IpAddr, address: IpAddr, name: &DnsName) {
        self.0.insert((client, address), name.clone());
    }

    /// Returns the name that `client` was last told this address for.
    pub(crate) fn name(&self, client: IpAddr, address: IpAddr) -> Option<DnsName> {
        self.0.get(&(client, address))
    }
}
