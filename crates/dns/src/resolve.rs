//! The step of the request path that turns an allowed name into addresses.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use exeat_model::DnsName;
use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{Name, Record, RecordType},
};
use hickory_resolver::{Hosts, net::NetError};
use moka::future::Cache;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    cache::{Outcome, POSITIVE_TTL_MAX, cache},
    chain::{Family, Found, Walk},
    combine::{Half, combine},
    records::{self, Kept},
    upstream::{ResolverConfig, ResolverConfigError, Servers},
};

/// How many chains of queries may be under way, each with one socket at a time. What exceeds it waits, and the
/// wait counts against its time. A thousand sockets fit beside the connections of a proxy, and at 50 ms
/// an answer they serve ten thousand new names a second.
const QUERIES_MAX: usize = 1024;

/// Resolves names; shares answers between those who ask for the same name at the same time or soon after.
/// Cheap to clone.
#[derive(Clone)]
pub struct Resolver(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) servers: Servers,
    hosts: Hosts,
    queries: Semaphore,
    cache: Cache<DnsName, Outcome>,
    pub(crate) records: Cache<(DnsName, RecordType), Kept>,
    /// Names that the cache had no answer for.
    pub(crate) misses: AtomicU64,
}

/// The addresses of one name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// All of them, at least one and at most [`ADDRESSES_MAX`](crate::ADDRESSES_MAX), each once, IPv6 first, and in the
    /// servers' order within a family. Not canonical, and not checked in any way.
    pub addrs: Arc<[IpAddr]>,
    /// How long they remain good: the least time to live of all records used, held between 1 s and 1 h,
    /// less the time they have been kept.
    pub ttl: Duration,
    /// How many aliases lie between the name and the addresses; the more of the two families.
    pub chain: usize,
}

/// Why a name has no usable addresses.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ResolveError {
    /// The name, or what it is an alias of, does not exist (NXDOMAIN).
    #[error("no such name")]
    NoSuchName,
    /// The name exists and has no address of either family.
    #[error("the name has no address")]
    NoAddress,
    /// The name has more addresses than are used.
    #[error("the name has {count} addresses, more than {}", crate::ADDRESSES_MAX)]
    TooManyAddresses {
        /// How many.
        count: usize,
    },
    /// The name exists and has no record of the type that was asked for, which is not one of addresses.
    #[error("the name has no record of this type")]
    NoRecord,
    /// The name has more records of one type than are passed on.
    #[error("the name has too many records of this type, or too long ones")]
    TooManyRecords,
    /// The name leads through more aliases than are followed.
    #[error("the name leads through more than {max} aliases")]
    ChainTooLong {
        /// How many are followed.
        max: usize,
    },
    /// The name is an alias of itself, through others or at once.
    #[error("the name's aliases form a loop")]
    ChainLoop,
    /// No server answered in time.
    #[error("no answer in time")]
    Timeout,
    /// The servers refused or failed.
    #[error("the server answered {rcode}")]
    Server {
        /// The response code of the last one asked.
        rcode: ResponseCode,
    },
    /// The servers could not be asked, or did not answer in DNS.
    #[error("the servers could not be asked")]
    Failed(#[source] NetError),
}

impl Resolver {
    /// Returns a resolver for `config`. Reads the system's configuration and hosts file if `config` says so.
    ///
    /// # Errors
    ///
    /// See [`ResolverConfigError`].
    pub fn new(config: ResolverConfig) -> Result<Self, ResolverConfigError> {
        let hosts = if config.hosts_file {
            Hosts::from_system().map_err(ResolverConfigError::HostsFile)?
        } else {
            Hosts::default()
        };
        let servers = Servers::new(&config)?;
        Ok(Self(Arc::new(Inner {
            servers,
            hosts,
            queries: Semaphore::new(QUERIES_MAX),
            cache: cache(config.cache_entries),
            records: records::cache(config.cache_entries),
            misses: AtomicU64::new(0),
        })))
    }

    /// How many names are in the cache, about.
    pub fn cached(&self) -> u64 {
        self.0.cache.entry_count()
    }

    /// How many names the servers or the hosts file had to be asked for since the start.
    pub fn misses(&self) -> u64 {
        self.0.misses.load(Ordering::Relaxed)
    }

    /// Returns the addresses of `name`, which the policy must have allowed: to ask is to tell the servers.
    ///
    /// The name is asked for as it is; no search list is ever appended. Both families are asked for at
    /// the same time. If one of them fails, the other's addresses are all there are.
    ///
    /// # Errors
    ///
    /// See [`ResolveError`]; none of them is a denial.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops its queries; others who wait for the same name ask anew.
    pub async fn resolve(&self, name: &DnsName) -> Result<Answer, ResolveError> {
        if let Some(result) = reserved(name) {
            return result;
        }
        let outcome = match self.0.cache.get(name).await {
            Some(outcome) => outcome,
            // On the heap: what asks takes much room, and is not needed for most names.
            None => Box::pin(self.0.cache.get_with_by_ref(name, self.0.ask_both(name))).await,
        };
        let remaining = outcome.until.saturating_duration_since(Instant::now());
        outcome.result.map(|answer| Answer { ttl: remaining, ..answer })
    }
}

impl Inner {
    async fn ask_both(&self, name: &DnsName) -> Outcome {
        self.misses.fetch_add(1, Ordering::Relaxed);
        let (v6, v4) = tokio::join!(self.ask_one(name, Family::V6), self.ask_one(name, Family::V4));
        let (result, ttl) = match combine(v6, v4) {
            Ok(answer) => {
                let ttl = answer.ttl;
                (Ok(answer), ttl)
            }
            Err((error, ttl)) => (Err(error), ttl),
        };
        Outcome { result, until: Instant::now() + ttl }
    }

    async fn ask_one(&self, name: &DnsName, family: Family) -> Result<Half, ResolveError> {
        match timeout(self.servers.budget(), self.follow(name, family)).await {
            Ok(half) => half,
            Err(_) => Err(ResolveError::Timeout),
        }
    }

    async fn follow(&self, name: &DnsName, family: Family) -> Result<Half, ResolveError> {
        let asked = absolute(name)?;
        if let Some(half) = self.in_hosts_file(&asked, family) {
            return Ok(half);
        }
        let end = self.walk(asked, family.record_type(), |record| family.address(record)).await?;
        Ok(match end {
            End::Found { records, ttl, aliases } => Half::Addresses { addrs: records, ttl, chain: aliases },
            End::Nothing { ttl } => Half::NoAddress { ttl },
            End::NoSuchName { ttl } => Half::NoSuchName { ttl },
        })
    }

    /// Asks for the name, and again for every alias that an answer leaves open, as a server does that knows only
    /// its own zones. Ends, because every further query is one alias further.
    pub(crate) async fn walk<T>(
        &self,
        asked: Name,
        kind: RecordType,
        pick: impl Fn(&Record) -> Option<T>,
    ) -> Result<End<T>, ResolveError> {
        // Never closed, and if it were, nothing could be asked.
        let _place = self.queries.acquire().await.map_err(|_| ResolveError::Timeout)?;
        let mut walk = Walk::new(asked);
        while let Some(current) = walk.current() {
            if is_reserved(current) {
                // What an alias leads to is asked of nobody either. Not even `localhost`: no server may say that a name is us.
                return Ok(End::NoSuchName { ttl: None });
            }
            let reply = self.servers.ask(current, kind).await?;
            let found = walk.read(&reply.answers, &pick)?;
            if !reply.exists {
                return Ok(End::NoSuchName { ttl: reply.negative_ttl });
            }
            match found {
                Found::Records(records) => {
                    return Ok(End::Found { records, ttl: walk.ttl(), aliases: walk.aliases() });
                }
                // With an SOA record the server says that there is nothing at the end of the chain (RFC 2308 §2.2).
                Found::Alias if reply.negative_ttl.is_none() => {}
                Found::Alias | Found::Nothing => return Ok(End::Nothing { ttl: reply.negative_ttl }),
            }
        }
        Ok(End::Nothing { ttl: None })
    }

    fn in_hosts_file(&self, name: &Name, family: Family) -> Option<Half> {
        let query = |family: Family| Query::query(name.clone(), family.record_type());
        let Some(lookup) = self.hosts.lookup_static_host(&query(family)) else {
            // A name that the file gives only the other family for is not asked for elsewhere.
            let other = match family {
                Family::V4 => Family::V6,
                Family::V6 => Family::V4,
            };
            return self.hosts.lookup_static_host(&query(other)).map(|_| Half::NoAddress { ttl: None });
        };
        let addrs = lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
        Some(Half::Addresses { addrs, ttl: u32::MAX, chain: 0 })
    }
}

/// Where the way from a name ended. Times are in seconds.
pub(crate) enum End<T> {
    /// At least one record of what was looked for.
    Found { records: Vec<T>, ttl: u32, aliases: usize },
    /// The name exists and has nothing of the kind.
    Nothing { ttl: Option<u32> },
    /// The name does not exist.
    NoSuchName { ttl: Option<u32> },
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("cached", &self.0.cache.entry_count()).finish_non_exhaustive()
    }
}

/// The zones that no server may be asked for.
const RESERVED: [&str; 3] = ["localhost", "invalid", "onion"];

/// Answers for the names that no server may be asked for: `localhost` is this machine (RFC 6761 §6.3),
/// `invalid` never exists (§6.4), and `onion` is not in the DNS (RFC 7686 §2).
pub(crate) fn reserved(name: &DnsName) -> Option<Result<Answer, ResolveError>> {
    match name.as_str().rsplit('.').next()? {
        "localhost" => Some(Ok(Answer {
            addrs: Arc::new([IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)]),
            ttl: POSITIVE_TTL_MAX,
            chain: 0,
        })),
        "invalid" | "onion" => Some(Err(ResolveError::NoSuchName)),
        _ => None,
    }
}

/// Whether [`reserved`] answers for the name, or would for what is below it.
fn is_reserved(name: &Name) -> bool {
    let last = name.iter().next_back();
    last.is_some_and(|last| RESERVED.iter().any(|zone| last.eq_ignore_ascii_case(zone.as_bytes())))
}

/// Returns the name with its final dot, so that nothing is ever appended to it.
pub(crate) fn absolute(name: &DnsName) -> Result<Name, ResolveError> {
    let mut absolute =
        Name::from_ascii(name.as_str()).map_err(|error| ResolveError::Failed(NetError::Proto(error)))?;
    absolute.set_fqdn(true);
    Ok(absolute)
}

#[cfg(test)]
mod tests;
