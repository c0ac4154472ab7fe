//! `GET /v1/traffic`: who talks to what and what is refused, in numbers that only grow. Whoever asks twice has rates.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use exeat_policy::{Mode, Reason};
use exeat_proxy::{PairView, RefusedView, metrics::Key};
use serde::{Deserialize, Serialize};

use crate::{admin::Admin, error::Failure, flows::time_text};

/// Pairs in one answer, at about 150 bytes each, unless asked for fewer or more.
const PAIRS_DEFAULT: usize = 1000;
/// Pairs in one answer at most: as many as the default budget of connections can have open.
const PAIRS_MAX: usize = 10_000;

/// How much to tell.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HowMuch {
    limit: Option<usize>,
}

/// What the proxy does, since it began unless something else is said.
#[derive(Debug, Serialize)]
pub(crate) struct Traffic {
    uptime_seconds: f64,
    revision: u64,
    /// Whether the policy in use is the one of the last reload.
    is_current: bool,
    is_draining: bool,
    /// Policies in report mode.
    reporting: usize,
    is_audit_failing: bool,
    /// Selectors in quarantine.
    quarantined: usize,
    connections: usize,
    /// Tunnels that are open.
    tunnels: u64,
    /// Forwarded requests under way.
    requests: u64,
    decisions: Decisions,
    bytes_up: u64,
    bytes_down: u64,
    /// The number of the watch that `pairs` are counted since.
    watch: u64,
    pairs: Vec<Pair>,
    /// Pairs that the answer has no room for.
    pairs_left_out: usize,
    /// Ended flows that the proxy had no room to add up.
    flows_left_out: u64,
    refusals: Vec<Refused>,
}

/// Verdicts, as `exeat_decisions_total` counts them.
#[derive(Debug, Serialize)]
struct Decisions {
    allowed: u64,
    /// Allowed, and came to nothing.
    failed: u64,
    denied: u64,
    /// What the last two are for; a reason that has not occurred is left out.
    reasons: Vec<Counted>,
}

/// One reason.
#[derive(Debug, Serialize)]
struct Counted {
    reason: &'static str,
    failed: u64,
    denied: u64,
}

/// What one client moves to and from one target.
#[derive(Debug, Serialize)]
struct Pair {
    client: String,
    target: String,
    flows: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_seconds: Option<f64>,
    requests: u64,
    bytes_up: u64,
    bytes_down: u64,
}

/// What was refused to one client at one target, for one reason.
#[derive(Debug, Serialize)]
struct Refused {
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    target: String,
    reason: &'static str,
    count: u64,
    /// By how much `count` may be too high.
    count_error: u64,
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
