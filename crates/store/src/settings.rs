//! What a configuration says, typed and checked.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use exeat_audit::Sink;
use exeat_dns::{Ranges, ResolverConfig, ServerConfig};
use exeat_firewall::{Device, Group};
use exeat_identity::{
    Certificates, Clients, Demand, Issuers, Peer, Principal, TokenError, TokenFacts, Workloads,
};
use exeat_model::IpBlock;
use exeat_policy::PolicySet;
use exeat_proxy::{Hops, KeySource, Limits, TlsFiles};

use crate::Report;
use crate::firewall;
use crate::written::Written;

/// Where the proxy listens unless told otherwise: loopback, and the port that Squid made customary.
pub const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 3128);

/// The parts of a configuration that are not policy.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen by TCP: each address and device once, and none only if there are `sockets`.
    pub listen: Vec<Listener>,
    /// The unix sockets to listen on, each once.
    pub sockets: Vec<SocketListener>,
    /// Whether clients may speak HTTP/2.
    pub http2: bool,
    /// The policy of clients without credentials; `None` asks everyone for credentials.
    pub anonymous: Option<String>,
    /// Whether a refusal carries the smallest entry that would allow the request.
    pub disclose: bool,
    /// Whether `/proxy.pac` is served.
    pub pac: bool,
    /// Whether this node is a central one, on which tokens that demand it count.
    pub central: bool,
    /// The load balancers whose connections begin with a PROXY header.
    pub proxy_protocol_from: Vec<IpBlock>,
    /// Every limit of the proxy.
    pub limits: Limits,
    /// How names are resolved.
    pub resolver: ResolverConfig,
    /// Where clients ask for names, and how they are answered.
    pub dns: DnsSettings,
    /// Whose packets the kernel holds to the policy; `None` is nobody's.
    pub firewall: Option<FirewallSettings>,
    /// Where decisions are recorded.
    pub audit: AuditSettings,
    /// The folder of what must outlive the process, already relative to the working directory or absolute. `None`
    /// keeps it in memory.
    pub state: Option<PathBuf>,
    /// Where operators see and steer the proxy.
    pub api: ApiSettings,
}

impl Settings {
    /// How long what a client was told of a name counts on redirected connections after its last use: as long as it does in
    /// the kernel. `None` if there are no such connections, or none that is known by what was told.
    #[must_use]
    pub fn answers_held(&self) -> Option<Duration> {
        let is_redirected = self.listen.iter().any(|listener| listener.is_redirected);
        let is_asked = !self.dns.listen.is_empty() && self.dns.virtual_ranges.is_none();
        let held = self.firewall.as_ref().map_or(firewall::LIFETIME_DEFAULT, |firewall| firewall.lifetime);
        (is_redirected && is_asked).then_some(held)
    }
}

/// Whose packets the kernel holds to the policy, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FirewallSettings {
    /// The network devices that they come by.
    pub devices: Vec<Device>,
    /// Whether packets are counted for each name.
    pub is_counted: bool,
    /// The control groups of this host whose processes are held as well; not both are empty.
    pub groups: Vec<Group>,
    /// How long what a name opened stays open after its last use.
    pub lifetime: Duration,
    /// Elements of each set of the kernel.
    pub elements: u32,
}

/// The policy server for names: off unless told where.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DnsSettings {
    /// Where it takes questions, by UDP and TCP: each address and device once.
    pub listen: Vec<DnsListener>,
    /// How it answers.
    pub server: ServerConfig,
    /// The networks of the addresses that it tells in place of those that names have; `None` tells those.
    pub virtual_ranges: Option<Ranges>,
    /// Where other name servers tell what they have answered; `None` listens to nobody.
    pub tap: Option<TapSettings>,
    /// Who is told what is asked here, and what was decided; `None` tells nobody.
    pub tap_out: Option<TapOutSettings>,
}

/// Where other name servers tell what they have answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TapSettings {
    /// The unix socket. Already relative to the working directory or absolute.
    pub socket: PathBuf,
    /// The user that they run as.
    pub uid: u32,
    /// Where clients ask them.
    pub servers: Vec<SocketAddr>,
}

/// Who is told, by dnstap, what is asked here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TapOutSettings {
    /// The unix socket that the collector listens on. Already relative to the working directory or absolute.
    pub socket: PathBuf,
    /// The user that it runs as.
    pub uid: u32,
    /// The name that it is told of this name server; `None` is the host's.
    pub identity: Option<String>,
}

/// Where clients ask for names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DnsListener {
    /// The address and port.
    pub address: SocketAddr,
    /// The network device whose questions it takes; `None` is every device.
    pub interface: Option<String>,
}

/// Where operators see and steer the proxy: nowhere unless told.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ApiSettings {
    /// The loopback address of health and metrics.
    pub listen: Option<SocketAddr>,
    /// The unix socket of the admin API. Already relative to the working directory or absolute.
    pub socket: Option<PathBuf>,
}

/// A unix socket that the proxy listens on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SocketListener {
    /// Its path, already relative to the working directory or absolute.
    pub path: PathBuf,
    /// Its permissions; connecting takes the one to write.
    pub mode: u32,
    /// The user whom it belongs to, if not the one of the process.
    pub owner: Option<u32>,
    /// The group likewise.
    pub group: Option<u32>,
    /// The proofs that it demands.
    pub demand: Demand,
}

/// Where clients connect.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listener {
    /// The address and port.
    pub address: SocketAddr,
    /// The certificate and key of a listener that speaks TLS; they were there and fine when they were last read.
    pub tls: Option<TlsFiles>,
    /// The network device whose connections it takes; `None` is every device.
    pub interface: Option<String>,
    /// The proofs that it demands.
    pub demand: Demand,
    /// Whether it takes connections that the kernel redirects to it, whose clients mean to reach somebody else.
    pub is_redirected: bool,
}

impl Listener {
    /// A listener without TLS.
    #[must_use]
    pub fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None, interface: None, demand: Demand::default(), is_redirected: false }
    }
}

/// Where decisions are recorded, and what happens if they cannot be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AuditSettings {
    /// Where records go. A file's path is already relative to the working directory or absolute.
    pub sink: Sink,
    /// Whether a decision that cannot be recorded is a denial.
    pub required: bool,
}

/// A configuration that has been read, checked and compiled: all that a snapshot of the proxy needs.
#[derive(Debug)]
pub struct Loaded {
    /// The parts that are not policy.
    pub settings: Settings,
    /// Every policy, group and ceiling, with the floor.
    pub policy: PolicySet,
    /// How the next hops of `policy` are spoken to.
    pub hops: Hops,
    /// The password principals.
    pub clients: Clients,
    /// The principals that are known by where they come from.
    pub workloads: Workloads,
    /// The principals that are known by a client certificate.
    pub certificates: Certificates,
    /// Whose tokens count.
    pub issuers: Issuers,
    /// Those of them whose keys are fetched.
    pub key_sources: Vec<Arc<KeySource>>,
    /// Who a client without credentials is, if such clients are let in.
    pub anonymous: Option<Arc<Principal>>,
    /// What the author of the configuration should know of; holds no error.
    pub warnings: Report,
    /// What all of this was read from. `None` if it was the command line.
    pub written: Option<Written>,
}

impl Loaded {
    /// Leaves one principal, who needs no proof, under the policy of this name; or under that of clients without credentials,
    /// if none is named. It is for a proxy that only one workload can reach. Returns whether there is such a policy.
    pub fn keep_one(&mut self, policy: Option<&str>) -> bool {
        if let Some(name) = policy {
            if !self.policy.has_policy(name) {
                return false;
            }
            self.anonymous = Some(crate::load::anonymous(name, &self.policy));
        }
        self.leave_anonymous();
        self.anonymous.is_some()
    }

    /// Leaves one principal, who needs no proof: the one that this token proves, for as long as it counts.
    ///
    /// # Errors
    /// Why it does not count: here and now, from no container in particular.
    pub fn keep_token(&mut self, token: &str, now: SystemTime) -> Result<(), TokenRefused> {
        let principal = self.issuers.verify(&self.policy, token, now)?;
        let counts = |facts: &Arc<TokenFacts>| facts.counts_at(&Peer::default(), self.settings.central);
        if !principal.token.as_ref().is_some_and(counts) {
            return Err(TokenRefused::Elsewhere);
        }
        self.anonymous = Some(principal);
        self.leave_anonymous();
        Ok(())
    }

    fn leave_anonymous(&mut self) {
        self.clients = Clients::default();
        self.workloads = Workloads::default();
        self.certificates = Certificates::default();
        self.issuers = Issuers::default();
    }

    /// Gives the one that [`Self::keep_one`] has left another name, for records.
    pub fn name_one(&mut self, name: &str) {
        if let Some(one) = &mut self.anonymous {
            Arc::make_mut(one).name = name.into();
        }
    }
}

/// Why a token is not what a command runs under.
#[derive(Debug, thiserror::Error)]
pub enum TokenRefused {
    /// Its issuer's configuration says so.
    #[error("the token is not accepted")]
    Invalid(#[from] TokenError),
    /// It is right, and counts from one container alone, or on central nodes.
    #[error("the token counts from its container or on central nodes alone")]
    Elsewhere,
}

impl Default for AuditSettings {
    /// Standard output, not required.
    fn default() -> Self {
        Self { sink: Sink::Stdout, required: false }
    }
}
