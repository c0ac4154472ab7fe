//! The servers that answer, and how patiently they are asked.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{DnsRequestOptions, DnsResponse, Query, ResponseCode},
    rr::{Name, Record, RecordType},
};
use hickory_resolver::{
    NameServerPool, PoolContext, TlsConfig,
    config::{NameServerConfig, ResolverOpts, ServerOrderingStrategy},
    net::{
        DnsError, NetError, NoRecords,
        xfer::{DnsHandle, FirstAnswer},
    },
    system_conf::read_system_conf,
};
use tokio::time::timeout;

use crate::{own::Sockets, resolve::ResolveError, silence::Silence};

/// The port of a name server that has no other.
const PORT: u16 = 53;

/// How names are resolved.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ResolverConfig {
    /// The servers to ask. All must give the same answers: any may be asked, and an answer is not doubted.
    pub servers: Vec<Upstream>,
    /// How long one server may take over one query, retransmissions and the change to TCP included.
    pub timeout: Duration,
    /// How often a query is tried that times out or that a server fails or refuses. Every server is tried at
    /// least once. A whole resolution takes at most this many times `timeout`, however many aliases it follows.
    pub attempts: usize,
    /// Whether the system's hosts file is asked before the servers. It is read once, at the start.
    pub hosts_file: bool,
    /// The number of names whose answers, or absence of one, are kept.
    pub cache_entries: u64,
}

/// A server that answers queries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Upstream {
    /// The servers of the system's configuration (`/etc/resolv.conf`), without its search list and options.
    System,
    /// The server at this address, by UDP, and by TCP where an answer is too long for that.
    Address(SocketAddr),
}

/// Why no resolver can be made of a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ResolverConfigError {
    /// No server is configured.
    #[error("no DNS server to ask")]
    NoServer,
    /// The system's configuration cannot be read, or names no server.
    #[error("the system's DNS configuration cannot be used")]
    System(#[source] NetError),
    /// The hosts file cannot be read.
    #[error("the system's hosts file cannot be read")]
    HostsFile(#[source] std::io::Error),
}

impl Default for ResolverConfig {
    /// The system's servers; 2 s a try and 2 tries, so that a lost packet leaves most of a connect budget of
    /// 10 s; no hosts file; 10 000 names, 10 MB at the very most.
    fn default() -> Self {
        Self {
            servers: vec![Upstream::System],
            timeout: Duration::from_secs(2),
            attempts: 2,
            hosts_file: false,
            cache_entries: 10_000,
        }
    }
}

/// The configured servers, and which of them answered last.
pub(crate) struct Servers {
    servers: Vec<Server>,
    /// The position of the server to begin with: a dead one costs a timeout once and not for every name.
    preferred: AtomicUsize,
    tries: usize,
    timeout: Duration,
}

/// One of them.
struct Server {
    /// Where it is, for the log.
    address: SocketAddr,
    pool: NameServerPool<Sockets>,
    silence: Silence,
}

/// A server's definite answer, positive or negative.
pub(crate) struct Reply {
    /// The name that the answers end at exists.
    pub(crate) exists: bool,
    /// The answer section, in the server's order.
    pub(crate) answers: Vec<Record>,
    /// How long a negative answer holds, in seconds (RFC 2308 §5); absent without an SOA record.
    pub(crate) negative_ttl: Option<u32>,
}

impl Servers {
    pub(crate) fn new(config: &ResolverConfig) -> Result<Self, ResolverConfigError> {
        let mut servers = Vec::new();
        for upstream in &config.servers {
            match upstream {
                Upstream::Address(address) => servers.push(server_at(*address)),
                Upstream::System => {
                    let (system, _) = read_system_conf().map_err(ResolverConfigError::System)?;
                    servers.extend_from_slice(system.name_servers());
                }
            }
        }
        if servers.is_empty() {
            return Err(ResolverConfigError::NoServer);
        }
        // One pool a server: a pool of several takes the first server's failure for an answer.
        let context = Arc::new(PoolContext::new(
            options(config.timeout),
            TlsConfig::new().map_err(ResolverConfigError::System)?,
        ));
        let server = |server: NameServerConfig| {
            let port = server.connections.first().map_or(PORT, |connection| connection.port);
            let address = SocketAddr::new(server.ip, port);
            let pool = NameServerPool::from_config([server], Arc::clone(&context), Sockets::default());
            Server { address, pool, silence: Silence::default() }
        };
        let servers = servers.into_iter().map(server).collect::<Vec<_>>();
        let tries = config.attempts.max(servers.len());
        Ok(Self { servers, preferred: AtomicUsize::new(0), tries, timeout: config.timeout })
    }

    /// Returns the longest time that a resolution may take.
    pub(crate) fn budget(&self) -> Duration {
        self.timeout.saturating_mul(u32::try_from(self.tries).unwrap_or(u32::MAX))
    }

    /// Asks for the records of one type of exactly this name, one server after the other until one knows.
    pub(crate) async fn ask(&self, name: &Name, kind: RecordType) -> Result<Reply, ResolveError> {
        let start = self.preferred.load(Ordering::Relaxed);
        let order = (0..self.servers.len()).cycle().skip(start).take(self.tries);
        let mut last = ResolveError::Timeout;
        for position in order {
            let Some(server) = self.servers.get(position) else { break };
            let query = Query::query(name.clone(), kind);
            let response = server.pool.lookup(query, DnsRequestOptions::default()).first_answer();
            // A change to TCP would get a timeout of its own.
            let response = timeout(self.timeout, response).await.unwrap_or(Err(NetError::Timeout));
            match reply(response) {
                Ok(reply) => {
                    self.preferred.store(position, Ordering::Relaxed);
                    return Ok(reply);
                }
                Err(error) => {
                    server.warn_of(&error);
                    last = error;
                }
            }
        }
        Err(last)
    }
}

impl Server {
    /// Tells of a query that was not answered. What the server itself says, if only that it failed, is about a name.
    fn warn_of(&self, error: &ResolveError) {
        let server = self.address;
        tracing::debug!(%server, %error, "DNS server gave no answer");
        if matches!(error, ResolveError::Timeout | ResolveError::Failed(_))
            && let Some(queries) = self.silence.note(Instant::now())
        {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            let cause = cause.unwrap_or_else(|| error.to_string());
            tracing::warn!(%server, queries, %cause, "a name server of [resolver] does not answer");
        }
    }
}

fn server_at(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

/// Everything that this crate does itself is off: retries, caching, several servers at once.
fn options(timeout: Duration) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = timeout;
    options.attempts = 0;
    options.cache_size = 0;
    options.num_concurrent_reqs = 1;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    options
}

fn reply(response: Result<DnsResponse, NetError>) -> Result<Reply, ResolveError> {
    match response {
        Ok(response) if response.response_code == ResponseCode::NoError => Ok(positive(response, true)),
        // Aliases may come with it; it is about the last one (RFC 6604 §2).
        Ok(response) if response.response_code == ResponseCode::NXDomain => Ok(positive(response, false)),
        Ok(response) => Err(ResolveError::Server { rcode: response.response_code }),
        Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, negative_ttl, .. }))) => {
            let exists = response_code != ResponseCode::NXDomain;
            Ok(Reply { exists, answers: Vec::new(), negative_ttl })
        }
        Err(NetError::Dns(DnsError::ResponseCode(rcode))) => Err(ResolveError::Server { rcode }),
        Err(NetError::Timeout) => Err(ResolveError::Timeout),
        Err(error) => Err(ResolveError::Failed(error)),
    }
}

fn positive(response: DnsResponse, exists: bool) -> Reply {
    let negative_ttl = response.negative_ttl();
    Reply { exists, answers: response.into_message().answers, negative_ttl }
}
