//! Every metric in one table: its name, what it means, and where its numbers come from. `docs/metrics.md` shows the
//! same table, and a test compares them.
//!
//! Labels take values from closed sets only. No name of a client and no host is ever one: whoever can ask for hosts
//! could otherwise make series without end, and whoever reads metrics could read who talks to whom.

use std::time::UNIX_EPOCH;

use crate::status::Status;
use exeat_firewall::Counted;
use exeat_policy::{Mode, Reason};
use exeat_proxy::{
    Proxy,
    metrics::{Counters, Distribution, Ends, Key, Metrics},
};

mod render;

pub(crate) use render::CONTENT_TYPE;
pub use render::render;

/// What stands before every name.
const PREFIX: &str = "exeat";

/// One metric.
#[derive(Clone, Copy)]
pub struct Family {
    /// Its name, without prefix and without the `_total` or `_info` that its kind adds.
    name: &'static str,
    kind: Kind,
    /// Its labels, as they are shown to people.
    pub labels: &'static str,
    /// What it means, without a final dot.
    pub help: &'static str,
    read: fn(&View<'_>) -> Numbers,
}

/// The kinds of metrics.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
    Info,
}

/// What metrics are read from.
struct View<'a> {
    proxy: &'a Proxy,
    metrics: &'a Metrics,
    status: &'a Status,
}

/// The labels of one number.
type Labels = Vec<(&'static str, &'static str)>;

/// The numbers of one metric.
enum Numbers {
    Counts(Vec<(Labels, u64)>),
    Gauge(Vec<(Labels, f64)>),
    Histogram(Distribution),
    Info(Labels),
}

impl Family {
    /// The name as it is scraped; of a histogram, what its `_bucket`, `_sum` and `_count` begin with.
    pub fn name(&self) -> String {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        format!("{PREFIX}_{}{suffix}", self.name)
    }

    /// The word for its kind.
    pub const fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        }
    }
}

/// Every metric, in the order of the documentation.
pub const fn families() -> &'static [Family] {
    FAMILIES
}

const FAMILIES: &[Family] = &[
    Family {
        name: "decisions",
        kind: Kind::Counter,
        labels: "`verdict`: `allow`, `deny`; `reason`: `none` or a [reason](reasons.md)",
        help: "Verdicts on requests. An allow with a reason came to nothing. A tunnel whose opening is refused counts as an allow first and as a deny then",
        read: |view| Numbers::Counts(decisions(view.metrics)),
    },
    Family {
        name: "would_deny",
        kind: Kind::Counter,
        labels: "`reason`",
        help: "Requests that only report mode let through",
        read: |view| Numbers::Counts(by_key("reason", &view.metrics.would_deny)),
    },
    Family {
        name: "connections_active",
        kind: Kind::Gauge,
        labels: "",
        help: "Client connections that are open",
        read: |view| gauge(count(view.proxy.connections())),
    },
    Family {
        name: "connections",
        kind: Kind::Counter,
        labels: "",
        help: "Client connections that were taken",
        read: |view| counter(view.metrics.connections.get()),
    },
    Family {
        name: "tls_handshakes_failed",
        kind: Kind::Counter,
        labels: "",
        help: "TLS handshakes with clients that failed",
        read: |view| counter(view.metrics.handshakes_failed.get()),
    },
    Family {
        name: "tls_certificate_not_after_timestamp_seconds",
        kind: Kind::Gauge,
        labels: "",
        help: "When the first of the listeners' certificates ends",
        read: |view| {
            let end = view.status.certificates_end().and_then(|end| end.duration_since(UNIX_EPOCH).ok());
            Numbers::Gauge(end.map(|end| (Vec::new(), end.as_secs_f64())).into_iter().collect())
        },
    },
    Family {
        name: "flows_active",
        kind: Kind::Gauge,
        labels: "`kind`: `tunnel`, `request`",
        help: "Tunnels that are open, and forwarded requests under way, those being decided on included",
        read: |view| {
            Numbers::Gauge(vec![
                (vec![("kind", "tunnel")], float(view.metrics.tunnels.active())),
                (vec![("kind", "request")], float(view.metrics.requests.active())),
            ])
        },
    },
    Family {
        name: "flows",
        kind: Kind::Counter,
        labels: "`kind`: `tunnel`, `request`",
        help: "Tunnels and requests that were allowed and connected",
        read: |view| {
            Numbers::Counts(vec![
                (vec![("kind", "tunnel")], view.metrics.tunnels.total()),
                (vec![("kind", "request")], view.metrics.forwarded.get()),
            ])
        },
    },
    Family {
        name: "ways_out",
        kind: Kind::Counter,
        labels: "`way`: `straight`, `next_hop`",
        help: "Tunnels and requests that were allowed and connected, by the way that they left. Which next hop it was is in the audit log",
        read: |view| Numbers::Counts(by_key("way", &view.metrics.ways)),
    },
    Family {
        name: "flow_ends",
        kind: Kind::Counter,
        labels: "`kind`: `tunnel`, `request`; `end`: `finished`, `client_reset`, `upstream_reset` or a reason",
        help: "Flows that ended, by what ended them",
        read: |view| {
            let mut counts = ends("tunnel", &view.metrics.tunnel_ends);
            counts.extend(ends("request", &view.metrics.request_ends));
            Numbers::Counts(counts)
        },
    },
    Family {
        name: "flow_bytes",
        kind: Kind::Counter,
        labels: "`direction`: `up` (to upstreams), `down` (to clients)",
        help: "Bytes that were relayed, counted as they are taken",
        read: |view| {
            Numbers::Counts(vec![
                (vec![("direction", "up")], view.metrics.bytes_up.get()),
                (vec![("direction", "down")], view.metrics.bytes_down.get()),
            ])
        },
    },
    Family {
        name: "relay_bytes",
        kind: Kind::Counter,
        labels: "`path`: `copy` (read and written), `splice` (moved by the kernel)",
        help: "Bytes of tunnels, by the way that they took. Bulk between two TCP connections is moved by the kernel, except while pipes or descriptors are spent",
        read: |view| Numbers::Counts(by_key("path", &view.metrics.relayed)),
    },
    Family {
        name: "auth_attempts",
        kind: Kind::Counter,
        labels: "`result`: `accepted`, `origin`, `certificate`, `anonymous`, `required`, `invalid`, `expired`, `revoked`, `mismatch`, `delayed`, `rate_limited`",
        help: "Checks of who asks. `expired` is a token whose time is over, `revoked` one that was revoked, `mismatch` are credentials that are right and do not count from where they come or on this node. A SOCKS login is checked again with its request",
        read: |view| Numbers::Counts(by_key("result", &view.metrics.auth)),
    },
    Family {
        name: "auth_slow_checks",
        kind: Kind::Counter,
        labels: "",
        help: "Passwords that were hashed with argon2, which costs about 15 ms of a core each",
        read: |view| counter(view.proxy.authenticator().slow_checks()),
    },
    Family {
        name: "token_key_fetches",
        kind: Kind::Counter,
        labels: "`result`: `success`, `failure`",
        help: "Fetches of the keys of issuers with a `url`",
        read: |view| Numbers::Counts(by_key("result", &view.metrics.key_fetches)),
    },
    Family {
        name: "token_keys_age_seconds",
        kind: Kind::Gauge,
        labels: "",
        help: "How long ago the keys were last fetched of the issuer with a `url` where that is longest; of one whose keys are not known, how long they have been lacking",
        read: |view| {
            let age = view.proxy.keys_age();
            Numbers::Gauge(age.map(|age| (Vec::new(), age.as_secs_f64())).into_iter().collect())
        },
    },
    Family {
        name: "dns_lookups",
        kind: Kind::Counter,
        labels: "`result`: `answered`, `no_such_name`, `no_address`, `timeout`, `failed`, `unusable`",
        help: "Allowed names that were resolved, from the cache or not",
        read: |view| Numbers::Counts(by_key("result", &view.metrics.dns)),
    },
    Family {
        name: "dns_cache_misses",
        kind: Kind::Counter,
        labels: "",
        help: "Names that the servers were asked for",
        read: |view| counter(view.proxy.resolver().misses()),
    },
    Family {
        name: "dns_cache_entries",
        kind: Kind::Gauge,
        labels: "",
        help: "Names in the cache, about",
        read: |view| gauge(float(view.proxy.resolver().cached())),
    },
    Family {
        name: "dns_queries",
        kind: Kind::Counter,
        labels: "`verdict`: `allow`, `deny`; `reason`: `none` or a [reason](reasons.md)",
        help: "Questions to the policy server for names, and those that its tap has heard of. An allow with a reason came to nothing; if the way could not be opened, it counts as an allow without one first",
        read: |view| Numbers::Counts(queries(view.metrics)),
    },
    Family {
        name: "dns_would_deny",
        kind: Kind::Counter,
        labels: "`reason`",
        help: "Questions that only report mode let through",
        read: |view| Numbers::Counts(by_key("reason", &view.metrics.lookups.would_deny)),
    },
    Family {
        name: "dns_malformed",
        kind: Kind::Counter,
        labels: "",
        help: "Messages to the policy server that ask nothing that it could answer",
        read: |view| counter(view.metrics.lookups.malformed.get()),
    },
    Family {
        name: "dns_truncated",
        kind: Kind::Counter,
        labels: "",
        help: "Answers that were too long for UDP, so that the client asks again by TCP",
        read: |view| counter(view.metrics.lookups.truncated.get()),
    },
    Family {
        name: "dns_not_opened",
        kind: Kind::Counter,
        labels: "",
        help: "Answers that were held back since the firewall could not be opened for them",
        read: |view| counter(view.metrics.lookups.not_opened.get()),
    },
    Family {
        name: "dns_limit_hits",
        kind: Kind::Counter,
        labels: "`limit`: a key of [`[dns]`](configuration.md#dns), or `waiting`: questions that wait for an answer",
        help: "Questions and connections that the policy server refused because of a limit",
        read: |view| Numbers::Counts(by_key("limit", &view.metrics.lookups.limits)),
    },
    Family {
        name: "dns_tap_messages",
        kind: Kind::Counter,
        labels: "`result`: `opened`, `denied`, `unopened`, `nothing`, `passed_over`, `incomplete`, `malformed`, `too_long`",
        help: "Messages of other name servers' [dnstap](names.md#the-tap). `nothing` is an answer without an address, `passed_over` none that anything opens for, `incomplete` one without its message or client",
        read: |view| Numbers::Counts(by_key("result", &view.metrics.lookups.tapped)),
    },
    Family {
        name: "dns_tap_streams_failed",
        kind: Kind::Counter,
        labels: "`why`: `refused`, `broken`",
        help: "Streams of dnstap that were not read to their end: those of another user and those too many are `refused`",
        read: |view| Numbers::Counts(by_key("why", &view.metrics.lookups.tap_streams)),
    },
    Family {
        name: "dns_tap_out_messages",
        kind: Kind::Counter,
        labels: "`result`: `told`, `lost`",
        help: "Messages for the collector of [dnstap](names.md#to-a-collector): written, or lost since it is slow or not there",
        read: |view| Numbers::Counts(by_key("result", &view.metrics.lookups.tap_out)),
    },
    Family {
        name: "firewall_in_force",
        kind: Kind::Gauge,
        labels: "",
        help: "1 while the rules of what decides are in the kernel. Absent, as the others of the firewall, without one",
        read: |view| firewall_gauge(view, |counted| flag(counted.is_in_force)),
    },
    Family {
        name: "firewall_openings",
        kind: Kind::Gauge,
        labels: "",
        help: "Addresses that names have opened for clients, and that are remembered; at most `elements`",
        read: |view| firewall_gauge(view, |counted| float(counted.openings)),
    },
    Family {
        name: "firewall_commits",
        kind: Kind::Counter,
        labels: "`result`: `done`, `failed`",
        help: "Changes of what is open that the kernel was told of. One that fails opens nothing",
        read: |view| {
            firewall_counts(view, "result", |counted| {
                vec![("done", counted.commits), ("failed", counted.failed)]
            })
        },
    },
    Family {
        name: "firewall_full",
        kind: Kind::Counter,
        labels: "",
        help: "Names that were not opened because a client's share, or all of it, was taken. Nothing that is open is taken away to make room",
        read: |view| firewall_counter(view, |counted| counted.full),
    },
    Family {
        name: "firewall_packets_recorded",
        kind: Kind::Counter,
        labels: "`fate`: `refused`, `spoofed` (dropped, with a source that is not the sender's own), `watched` (let through by report mode)",
        help: "Packets that are in the audit log: of a burst 500, and 100 a second",
        read: |view| {
            firewall_counts(view, "fate", |counted| {
                vec![("refused", counted.refused), ("spoofed", counted.spoofed), ("watched", counted.watched)]
            })
        },
    },
    Family {
        name: "firewall_names_expired",
        kind: Kind::Counter,
        labels: "",
        help: "Of these, packets to what a name had opened for the client, after its lifetime",
        read: |view| firewall_counter(view, |counted| counted.expired),
    },
    Family {
        name: "firewall_reinstalls",
        kind: Kind::Counter,
        labels: "",
        help: "How often the rules were set again because somebody else had changed or flushed them",
        read: |view| firewall_counter(view, |counted| counted.reinstalls),
    },
    Family {
        name: "firewall_flows_cut",
        kind: Kind::Counter,
        labels: "",
        help: "Open flows in the kernel that a change of policy, a quarantine or a start has cut",
        read: |view| firewall_counter(view, |counted| counted.cut),
    },
    Family {
        name: "limit_hits",
        kind: Kind::Counter,
        labels: "`limit`: a key of [`[limits]`](configuration.md#limits); `flow_bytes` is either direction, and bounds of rules and clients count as those of all flows",
        help: "Refusals and endings because of a limit",
        read: |view| Numbers::Counts(by_key("limit", &view.metrics.limits)),
    },
    Family {
        name: "audit_records",
        kind: Kind::Counter,
        labels: "",
        help: "Audit records handed over",
        read: |view| counter(view.proxy.audit().taken()),
    },
    Family {
        name: "audit_lost",
        kind: Kind::Counter,
        labels: "",
        help: "Audit records lost. Anything but 0 is a hole in the evidence",
        read: |view| counter(view.proxy.audit().lost()),
    },
    Family {
        name: "audit_failing",
        kind: Kind::Gauge,
        labels: "",
        help: "1 while the audit log cannot be written",
        read: |view| gauge(flag(view.proxy.audit().is_failing())),
    },
    Family {
        name: "log_lines_lost",
        kind: Kind::Counter,
        labels: "",
        help: "Log lines that nobody took from standard error in time",
        read: |view| counter(view.status.lost_lines()),
    },
    Family {
        name: "config_last_reload_successful",
        kind: Kind::Gauge,
        labels: "",
        help: "0 after a reload that failed: the policy in use is not the one on the disk",
        read: |view| gauge(flag(view.status.reloading().is_successful)),
    },
    Family {
        name: "config_last_reload_success_timestamp_seconds",
        kind: Kind::Gauge,
        labels: "",
        help: "When the configuration in use was loaded",
        read: |view| {
            let since = view.status.reloading().loaded_at.duration_since(UNIX_EPOCH);
            gauge(since.unwrap_or_default().as_secs_f64())
        },
    },
    Family {
        name: "config_reloads",
        kind: Kind::Counter,
        labels: "`result`: `success`, `failure`",
        help: "Reloads of the configuration",
        read: |view| {
            let reloading = view.status.reloading();
            Numbers::Counts(vec![
                (vec![("result", "success")], reloading.succeeded),
                (vec![("result", "failure")], reloading.failed),
            ])
        },
    },
    Family {
        name: "policy_revision",
        kind: Kind::Gauge,
        labels: "",
        help: "The number of the policy in use",
        read: |view| gauge(float(view.proxy.snapshot().policy.revision().0)),
    },
    Family {
        name: "policy_age_seconds",
        kind: Kind::Gauge,
        labels: "",
        help: "How long the policy has been in use",
        read: |view| gauge(view.status.reloading().age.as_secs_f64()),
    },
    Family {
        name: "policies_reporting",
        kind: Kind::Gauge,
        labels: "",
        help: "Policies in report mode: what they hold for is refused nothing that is public",
        read: |view| {
            gauge(count(
                view.proxy.snapshot().policy.owners().filter(|owner| owner.mode == Mode::Report).count(),
            ))
        },
    },
    Family {
        name: "draining",
        kind: Kind::Gauge,
        labels: "",
        help: "1 while the proxy is ending",
        read: |view| gauge(flag(view.proxy.is_draining())),
    },
    Family {
        name: "request_head_duration_seconds",
        kind: Kind::Histogram,
        labels: "",
        help: "From the first byte of a request head to its last",
        read: |view| Numbers::Histogram(view.metrics.head_time.distribution()),
    },
    Family {
        name: "decision_duration_seconds",
        kind: Kind::Histogram,
        labels: "",
        help: "From a request to the verdict on its target: authentication and decision",
        read: |view| Numbers::Histogram(view.metrics.decision_time.distribution()),
    },
    Family {
        name: "dns_lookup_duration_seconds",
        kind: Kind::Histogram,
        labels: "",
        help: "Until an allowed name was resolved or not, from the cache or not",
        read: |view| Numbers::Histogram(view.metrics.resolve_time.distribution()),
    },
    Family {
        name: "dns_query_duration_seconds",
        kind: Kind::Histogram,
        labels: "",
        help: "From a question to the policy server to its answer",
        read: |view| Numbers::Histogram(view.metrics.lookups.answer_time.distribution()),
    },
    Family {
        name: "dns_opening_duration_seconds",
        kind: Kind::Histogram,
        labels: "",
        help: "Until the firewall was open for an answer; next to nothing without one",
        read: |view| Numbers::Histogram(view.metrics.lookups.opening_time.distribution()),
    },
    Family {
        name: "dns_tap_delay_seconds",
        kind: Kind::Histogram,
        labels: "",
        help: "From another name server's answer, by its clock, until its dnstap told of it",
        read: |view| Numbers::Histogram(view.metrics.lookups.tap_delay.distribution()),
    },
    Family {
        name: "connect_duration_seconds",
        kind: Kind::Histogram,
        labels: "",
        help: "Until an upstream was connected or not",
        read: |view| Numbers::Histogram(view.metrics.connect_time.distribution()),
    },
    Family {
        name: "build",
        kind: Kind::Info,
        labels: "`version`",
        help: "The program",
        read: |_| Numbers::Info(vec![("version", env!("CARGO_PKG_VERSION"))]),
    },
];

/// A number of the firewall, if there is one.
fn firewall_gauge(view: &View<'_>, read: fn(&Counted) -> f64) -> Numbers {
    Numbers::Gauge(view.status.firewall().iter().map(|counted| (Labels::new(), read(counted))).collect())
}

fn firewall_counter(view: &View<'_>, read: fn(&Counted) -> u64) -> Numbers {
    Numbers::Counts(view.status.firewall().iter().map(|counted| (Labels::new(), read(counted))).collect())
}

fn firewall_counts(
    view: &View<'_>,
    label: &'static str,
    read: fn(&Counted) -> Vec<(&'static str, u64)>,
) -> Numbers {
    let numbers = view.status.firewall().iter().flat_map(read).collect::<Vec<_>>();
    Numbers::Counts(numbers.into_iter().map(|(value, number)| (vec![(label, value)], number)).collect())
}

fn decisions(metrics: &Metrics) -> Vec<(Labels, u64)> {
    verdicts(metrics.allowed.get(), &metrics.failed, &metrics.denied)
}

fn queries(metrics: &Metrics) -> Vec<(Labels, u64)> {
    verdicts(metrics.lookups.allowed.get(), &metrics.lookups.failed, &metrics.lookups.denied)
}

fn verdicts(allowed: u64, failed: &Counters<Reason>, denied: &Counters<Reason>) -> Vec<(Labels, u64)> {
    let labels = |verdict, reason| vec![("verdict", verdict), ("reason", reason)];
    let mut counts = vec![(labels("allow", "none"), allowed)];
    // An allowed request can fail for a few reasons only; a series for each of the others would stay 0 for ever.
    let failed = failed.iter().filter(|(reason, count)| *count > 0 || is_failure(*reason));
    counts.extend(failed.map(|(reason, count)| (labels("allow", reason.label()), count)));
    counts.extend(denied.iter().map(|(reason, count)| (labels("deny", reason.label()), count)));
    counts
}

/// The reasons that allowed requests usually fail for: their series begin at 0, so that a rate sees the first one.
const fn is_failure(reason: Reason) -> bool {
    matches!(reason, Reason::DnsFailed | Reason::ConnectFailed | Reason::ConnectTimeout | Reason::IdleTimeout)
}

fn ends(kind: &'static str, ends: &Ends) -> Vec<(Labels, u64)> {
    ends.iter().map(|(end, count)| (vec![("kind", kind), ("end", end)], count)).collect()
}

fn by_key<K: Key>(label: &'static str, counters: &Counters<K>) -> Vec<(Labels, u64)> {
    counters.iter().map(|(key, count)| (vec![(label, key.label())], count)).collect()
}

fn counter(count: u64) -> Numbers {
    Numbers::Counts(vec![(Vec::new(), count)])
}

fn gauge(value: f64) -> Numbers {
    Numbers::Gauge(vec![(Vec::new(), value)])
}

fn flag(is_set: bool) -> f64 {
    f64::from(u8::from(is_set))
}

fn count(count: usize) -> f64 {
    float(u64::try_from(count).unwrap_or(u64::MAX))
}

/// Prometheus knows floating-point numbers only: whole ones are exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "what a scraper makes of it anyway")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
