//! What the proxy answers at one moment, as the screen needs it.

use serde::Deserialize;

/// The answer of `GET /v1/traffic`. The counts only grow while `watch` stays the same.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Sample {
    pub(super) uptime_seconds: f64,
    pub(super) revision: u64,
    pub(super) is_current: bool,
    pub(super) is_draining: bool,
    pub(super) reporting: u64,
    pub(super) is_audit_failing: bool,
    pub(super) quarantined: u64,
    pub(super) connections: u64,
    pub(super) tunnels: u64,
    pub(super) requests: u64,
    pub(super) decisions: Decisions,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    pub(super) watch: u64,
    pub(super) pairs: Vec<Pair>,
    pub(super) pairs_left_out: u64,
    pub(super) refusals: Vec<Refused>,
}

/// Verdicts since the start of the proxy.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Decisions {
    pub(super) allowed: u64,
    pub(super) failed: u64,
    pub(super) denied: u64,
    pub(super) reasons: Vec<ReasonCount>,
}

/// How often a reason was given.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct ReasonCount {
    pub(super) reason: String,
    pub(super) failed: u64,
    pub(super) denied: u64,
}

/// What one client has moved to and from one target.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Pair {
    pub(super) client: String,
    pub(super) target: String,
    pub(super) flows: u64,
    pub(super) oldest_seconds: Option<f64>,
    pub(super) requests: u64,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
}

/// What was refused to one client at one target, for one reason.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Refused {
    pub(super) client: Option<String>,
    pub(super) target: String,
    pub(super) reason: String,
    pub(super) count: u64,
    pub(super) count_error: u64,
    pub(super) last: String,
}
