//! Flows as those outside of the proxy see them, and how they say which ones they mean.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::ParseIntError,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use exeat_identity::Proof;
use exeat_model::{Authority, Host};
use exeat_policy::{Labels, Mode, Reason, Revision, RuleView};

use crate::selector::Selector;

/// The number of a flow: no other flow of this process has it, before or after.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FlowId(pub u64);

impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for FlowId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}

/// What a flow is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FlowKind {
    /// A tunnel: bytes both ways until one side has had enough.
    Tunnel,
    /// A forwarded request and its response.
    Request,
}

impl FlowKind {
    /// Returns the stable lower-case word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Request => "request",
        }
    }
}

/// What was known of a live flow when somebody looked.
#[derive(Clone, Debug)]
pub struct FlowView {
    /// Its number.
    pub id: FlowId,
    /// The id that the client and the audit records have.
    pub request_id: Arc<str>,
    /// What it is.
    pub kind: FlowKind,
    /// The request method, or the opening's equivalent of it; printable ASCII.
    pub method: Arc<str>,
    /// The target, as it was decided on.
    pub target: Authority,
    /// Who asked.
    pub principal: Arc<str>,
    /// What proved it.
    pub proof: Proof,
    /// Where they belong, by the newest snapshot.
    pub labels: Labels,
    /// The address that the client's connection came from; `None` for a unix socket.
    pub source: Option<SocketAddr>,
    /// The user of this host who opened the connection, if that was looked up.
    pub user: Option<u32>,
    /// The workload that it came from, by the newest snapshot.
    pub workload: Option<Arc<str>>,
    /// The address that was dialled; `None` until one has answered.
    pub address: Option<SocketAddr>,
    /// The next hop that it leaves through; then `address` is the next hop's.
    pub via: Option<Arc<str>>,
    /// The rule that allows it, by the newest snapshot that has looked at it.
    pub rule: Option<RuleView>,
    /// The number of that snapshot.
    pub revision: Revision,
    /// The mode of the policies that hold for the principal.
    pub mode: Mode,
    /// In report mode: why it would have been refused.
    pub would_deny: Option<Reason>,
    /// When it was allowed.
    pub started: SystemTime,
    /// How long ago that was.
    pub age: Duration,
    /// Bytes that went upstream.
    pub bytes_up: u64,
    /// Bytes that went to the client.
    pub bytes_down: u64,
}

/// Which flows are meant: those for which everything that is set holds. Nothing set means every flow.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FlowFilter {
    /// This one alone.
    pub id: Option<FlowId>,
    /// Those of these principals.
    pub selector: Option<Selector>,
    /// Those to this host, whatever the port.
    pub host: Option<Host>,
    /// Those from this address.
    pub source: Option<IpAddr>,
}

impl From<FlowId> for FlowFilter {
    fn from(id: FlowId) -> Self {
        Self { id: Some(id), ..Self::default() }
    }
}

impl From<Selector> for FlowFilter {
    fn from(selector: Selector) -> Self {
        Self { selector: Some(selector), ..Self::default() }
    }
}
