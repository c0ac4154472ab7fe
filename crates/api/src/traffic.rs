//! `GET /v1/traffic`: who talks to what and what is refused, in numbers that only grow. Whoever asks twice has rates.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use exeat_policy::{Mode, Reason};
use exeat_proxy::{PairView, RefusedView, metrics::Key};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{admin::Admin, error::Failure, flows::time_text};

/// Pairs in one answer, at about 150 bytes each, unless asked for fewer or more.
const PAIRS_DEFAULT: usize = 1000;
/// Pairs in one answer at most: as many as the default budget of connections can have open.
const PAIRS_MAX: usize = 10_000;

/// How much to tell.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HowMuch {
    /// List at most so many pairs: those with open flows first, then those that have moved most.
    #[schemars(extend("maximum" = PAIRS_MAX, "default" = PAIRS_DEFAULT))]
    limit: Option<usize>,
}

/// What the proxy does, since it began unless something else is said.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Traffic {
    /// Since the proxy began.
    uptime_seconds: f64,
    /// The number of the policy in use.
    revision: u64,
    /// Whether the last reload succeeded.
    is_current: bool,
    /// Whether the proxy is ending.
    is_draining: bool,
    /// Policies in report mode.
    reporting: usize,
    /// Whether the audit log cannot be written at present.
    is_audit_failing: bool,
    /// Selectors in quarantine.
    quarantined: usize,
    /// Client connections that are open.
    connections: usize,
    /// Tunnels that are open.
    tunnels: u64,
    /// Forwarded requests under way.
    requests: u64,
    /// Verdicts.
    decisions: Decisions,
    /// Bytes that went to upstreams, since the start.
    bytes_up: u64,
    /// Bytes that went to clients, since the start.
    bytes_down: u64,
    /// The number of the watch since which `pairs` are counted. Another one begins when nobody has asked for a minute.
    watch: u64,
    /// Who moves how much to where.
    pairs: Vec<Pair>,
    /// Pairs beyond the limit.
    pairs_left_out: usize,
    /// Ended flows that there was no room to add up, since the watch began.
    flows_left_out: u64,
    /// At most 512, the newest first. A rare row gives way to a new one.
    refusals: Vec<Refused>,
}

/// Verdicts, as `exeat_decisions_total` counts them.
#[derive(Debug, Serialize, JsonSchema)]
struct Decisions {
    /// Allowed and passed on.
    allowed: u64,
    /// Allowed, and came to nothing.
    failed: u64,
    /// Denied.
    denied: u64,
    /// Why, without those that have not occurred.
    reasons: Vec<Counted>,
}

/// One reason.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ReasonCount")]
struct Counted {
    /// A token of docs/reasons.md.
    reason: &'static str,
    /// Allowed, and failed for it.
    failed: u64,
    /// Denied for it.
    denied: u64,
}

/// What one client moves to and from one target.
#[derive(Debug, Serialize, JsonSchema)]
struct Pair {
    /// The client's name, or `anonymous`.
    client: String,
    /// Host and port.
    target: String,
    /// Flows that are open.
    flows: u64,
    /// The age of the oldest of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_seconds: Option<f64>,
    /// Tunnels that were opened and requests that were answered, since the watch began.
    requests: u64,
    /// Bytes that went upstream, of open flows and of those that have ended since the watch began.
    bytes_up: u64,
    /// Bytes that went to the client, likewise.
    bytes_down: u64,
}

/// What was refused to one client at one target, for one reason.
#[derive(Debug, Serialize, JsonSchema)]
struct Refused {
    /// Left out if it was not known who asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    /// Host and port, or what was sent instead, escaped.
    target: String,
    /// A token of docs/reasons.md.
    reason: &'static str,
    /// How often since the start; no less than it was.
    count: u64,
    /// By how much `count` may be too high.
    count_error: u64,
    /// When it happened last, in RFC 3339.
    last: String,
}

pub(crate) async fn get(
    State(admin): State<Admin>,
    query: Result<Query<HowMuch>, QueryRejection>,
) -> Result<Json<Traffic>, Failure> {
    let Query(HowMuch { limit }) = query.map_err(|error| Failure::request(error.body_text()))?;
    let limit = limit.unwrap_or(PAIRS_DEFAULT).min(PAIRS_MAX);
    let proxy = &admin.proxy;
    let metrics = proxy.metrics();
    let snapshot = proxy.snapshot();
    // The pairs first: what is in them is then in the sums, too.
    let mut view = proxy.traffic();
    // What is cut off has moved least, or is at least not open.
    view.pairs.sort_unstable_by_key(|pair| {
        let bytes = pair.bytes_up.saturating_add(pair.bytes_down);
        std::cmp::Reverse((pair.flows > 0, bytes, pair.requests))
    });
    let pairs_left_out = view.pairs.len().saturating_sub(limit);
    Ok(Json(Traffic {
        uptime_seconds: proxy.uptime().as_secs_f64(),
        revision: snapshot.policy.revision().0,
        is_current: admin.status.reloading().is_successful,
        is_draining: proxy.is_draining(),
        reporting: snapshot.policy.owners().filter(|owner| owner.mode == Mode::Report).count(),
        is_audit_failing: proxy.audit().is_failing(),
        quarantined: proxy.quarantined().len(),
        connections: proxy.connections(),
        tunnels: metrics.tunnels.active(),
        requests: metrics.requests.active(),
        decisions: Decisions::of(metrics),
        bytes_up: metrics.bytes_up.get(),
        bytes_down: metrics.bytes_down.get(),
        watch: view.watch,
        pairs: view.pairs.into_iter().take(limit).map(Pair::from).collect(),
        pairs_left_out,
        flows_left_out: view.left_out,
        refusals: proxy.refusals().into_iter().map(Refused::from).collect(),
    }))
}

impl Decisions {
    fn of(metrics: &exeat_proxy::metrics::Metrics) -> Self {
        let of = |reason: &Reason| Counted {
            reason: reason.label(),
            failed: metrics.failed.get(*reason),
            denied: metrics.denied.get(*reason),
        };
        let all = Reason::ALL.iter().map(of);
        let reasons: Vec<Counted> = all.filter(|counted| counted.failed + counted.denied > 0).collect();
        Self {
            allowed: metrics.allowed.get(),
            failed: reasons.iter().map(|counted| counted.failed).sum(),
            denied: reasons.iter().map(|counted| counted.denied).sum(),
            reasons,
        }
    }
}

impl From<PairView> for Pair {
    fn from(pair: PairView) -> Self {
        Self {
            client: pair.principal.to_string(),
            target: pair.target.to_string(),
            flows: pair.flows,
            oldest_seconds: pair.oldest.map(|age| age.as_secs_f64()),
            requests: pair.requests,
            bytes_up: pair.bytes_up,
            bytes_down: pair.bytes_down,
        }
    }
}

impl From<RefusedView> for Refused {
    fn from(refused: RefusedView) -> Self {
        Self {
            client: refused.principal.map(|principal| principal.to_string()),
            target: refused.target.to_string(),
            reason: refused.reason.token(),
            count: refused.count,
            count_error: refused.error,
            last: time_text(refused.last),
        }
    }
}
