//! What the proxy counts while it works: plain atomics, each step one or two additions. Whoever publishes the numbers
//! reads them from here.
//!
//! What is audited is counted where its record is made, so that the two cannot tell different stories and a new way into
//! the proxy is counted without a word about it.

use std::{sync::Arc, time::Duration};

use exeat_audit::{Event, Outcome, Record};
use exeat_dns::{Answer, ResolveError};
use exeat_identity::{AuthnError, Principal, Proof};
use exeat_policy::Reason;

use crate::guard::HeadError;

mod count;
mod label;
mod lookups;

pub use count::{Activity, Counter, Counters, Distribution, Histogram};
pub use label::{
    AuthResult, DnsLimit, DnsResult, FlowEnd, Key, KeyFetch, LimitHit, RelayPath, TapOutResult, TapStream,
    WayTaken,
};
pub use lookups::Lookups;

/// How flows of one kind ended.
#[derive(Debug, Default)]
pub struct Ends {
    by_themselves: Counters<FlowEnd>,
    cut: Counters<Reason>,
}

impl Ends {
    /// Counts an ending by the token of its record. Returns the reason, if it has one.
    fn note(&self, end: &str) -> Option<Reason> {
        if let Some(way) = FlowEnd::ALL.iter().find(|way| way.label() == end) {
            self.by_themselves.count(*way);
            return None;
        }
        let reason = Reason::ALL.iter().copied().find(|reason| reason.token() == end)?;
        self.cut.count(reason);
        Some(reason)
    }

    /// Every token with its number.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let by_themselves = self.by_themselves.iter().map(|(way, count)| (way.label(), count));
        by_themselves.chain(self.cut.iter().map(|(reason, count)| (reason.label(), count)))
    }
}

/// From a decision in memory to a password that waits for a worker.
const DECISION_SECONDS: &[f64] = &[0.000_01, 0.000_1, 0.001, 0.005, 0.02, 0.1, 0.5];
/// From the same rack to the default `connect_timeout`, and likewise for names.
const NETWORK_SECONDS: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// From a head that comes in one piece to the default `head_timeout`.
const HEAD_SECONDS: &[f64] = &[0.000_1, 0.001, 0.01, 0.1, 1.0, 10.0];

/// Everything that one proxy has counted.
#[derive(Debug)]
pub struct Metrics {
    /// Requests that were allowed and passed on.
    pub allowed: Counter,
    /// The same, by the way that they left.
    pub ways: Counters<WayTaken>,
    /// Requests that were allowed and came to nothing, by why.
    pub failed: Counters<Reason>,
    /// Denials, by why. An allow that the opening of its tunnel takes back has been counted as allowed before.
    pub denied: Counters<Reason>,
    /// Requests that only report mode let through, by why they would have been denied.
    pub would_deny: Counters<Reason>,
    /// Tunnels: allowed ones, until they end.
    pub tunnels: Activity,
    /// Forwarded requests: until their responses end. Those that are refused are active until then, too.
    pub requests: Activity,
    /// Forwarded requests that were allowed and passed on.
    pub forwarded: Counter,
    /// Client connections within the budget.
    pub connections: Counter,
    /// TLS handshakes with clients that failed.
    pub handshakes_failed: Counter,
    /// Bytes that upstreams took.
    pub bytes_up: Counter,
    /// Bytes that clients took.
    pub bytes_down: Counter,
    /// Bytes of tunnels, by the way that they took.
    pub relayed: Counters<RelayPath>,
    /// How tunnels ended.
    pub tunnel_ends: Ends,
    /// How forwarded requests ended that were allowed and passed on.
    pub request_ends: Ends,
    /// Checks of who asks.
    pub auth: Counters<AuthResult>,
    /// Fetches of issuers' keys.
    pub key_fetches: Counters<KeyFetch>,
    /// Names resolved, from the cache or not.
    pub dns: Counters<DnsResult>,
    /// Questions to the policy server for names.
    pub lookups: Lookups,
    /// Limits that were hit.
    pub limits: Counters<LimitHit>,
    /// From a request to the verdict on its target: authentication and decision.
    pub decision_time: Histogram,
    /// Until a name was resolved or not.
    pub resolve_time: Histogram,
    /// Until an upstream was connected or not.
    pub connect_time: Histogram,
    /// From the first byte of a request head to its last.
    pub head_time: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            allowed: Counter::default(),
            ways: Counters::default(),
            failed: Counters::default(),
            denied: Counters::default(),
            would_deny: Counters::default(),
            tunnels: Activity::default(),
            requests: Activity::default(),
            forwarded: Counter::default(),
            connections: Counter::default(),
            handshakes_failed: Counter::default(),
            bytes_up: Counter::default(),
            bytes_down: Counter::default(),
            relayed: Counters::default(),
            tunnel_ends: Ends::default(),
            request_ends: Ends::default(),
            auth: Counters::default(),
            key_fetches: Counters::default(),
            dns: Counters::default(),
            lookups: Lookups::default(),
            limits: Counters::default(),
            decision_time: Histogram::new(DECISION_SECONDS),
            resolve_time: Histogram::new(NETWORK_SECONDS),
            connect_time: Histogram::new(NETWORK_SECONDS),
            head_time: Histogram::new(HEAD_SECONDS),
        }
    }
}

/// What of an audit record is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    event: Event,
    verdict: Option<Outcome>,
    reason: Option<Reason>,
    would_deny: Option<Reason>,
    end: Option<&'static str>,
    way: WayTaken,
    status: Option<u16>,
}

impl Told {
    pub(crate) fn of(record: &Record) -> Self {
        Self {
            event: record.event,
            verdict: record.verdict,
            reason: record.reason,
            would_deny: record.would_deny,
            end: record.end,
            way: if record.via.is_some() { WayTaken::NextHop } else { WayTaken::Straight },
            status: record.status,
        }
    }

    /// Why a request was denied, or an allowed one came to nothing, if that is what the record tells.
    pub(crate) fn refused(&self) -> Option<Reason> {
        match (self.event, self.verdict) {
            (Event::Decision | Event::Request | Event::Dns | Event::Packet, _)
            | (Event::End, Some(Outcome::Deny)) => self.reason,
            (Event::End, Some(Outcome::Allow) | None) | (Event::Control | Event::Lost, _) => None,
        }
    }

    /// Whether the record announces a tunnel or an answer: one that cannot be recorded does not begin, or is not given.
    pub(crate) fn is_promise(&self) -> bool {
        matches!(self.event, Event::Decision | Event::Dns) && self.verdict == Some(Outcome::Allow)
    }
}

impl Metrics {
    /// Counts what a record says.
    pub(crate) fn note(&self, told: &Told) {
        match told.event {
            Event::Decision => {
                self.note_verdict(told);
                if told.is_promise() && told.reason.is_none() {
                    self.tunnels.begin();
                }
                if told.reason == Some(Reason::ConnectionLimit) {
                    self.limits.count(LimitHit::TunnelsPerClient);
                }
            }
            Event::Request => {
                self.note_verdict(told);
                if told.verdict == Some(Outcome::Allow) && told.reason.is_none() {
                    self.forwarded.add(1);
                    self.note_end(&self.request_ends, told);
                } else if told.reason == Some(Reason::IdleTimeout) {
                    // It was the client that was slow, or the upstream.
                    let is_slow_client = told.status == Some(408);
                    self.limits.count(match is_slow_client {
                        true => LimitHit::UploadRate,
                        false => LimitHit::ResponseHeadTimeout,
                    });
                }
            }
            Event::End => {
                self.tunnels.end();
                if let (Some(Outcome::Deny), Some(reason)) = (told.verdict, told.reason) {
                    self.denied.count(reason);
                    if reason == Reason::HeadTimeout {
                        self.limits.count(LimitHit::OpeningTimeout);
                    }
                }
                self.note_end(&self.tunnel_ends, told);
            }
            Event::Dns => self.lookups.note(told),
            Event::Packet => self.note_verdict(told),
            Event::Control | Event::Lost => {}
        }
    }

    fn note_verdict(&self, told: &Told) {
        match (told.verdict, told.reason) {
            (Some(Outcome::Allow), None) => {
                self.allowed.add(1);
                self.ways.count(told.way);
            }
            (Some(Outcome::Allow), Some(reason)) => self.failed.count(reason),
            (Some(Outcome::Deny) | None, Some(reason)) => self.denied.count(reason),
            (Some(Outcome::Deny) | None, None) => {}
        }
        if let Some(reason) = told.would_deny {
            self.would_deny.count(reason);
        }
        match told.reason {
            Some(Reason::ConnectTimeout) => self.limits.count(LimitHit::ConnectTimeout),
            Some(Reason::HeadTimeout) => self.limits.count(LimitHit::HeadTimeout),
            Some(Reason::MaxAge) => self.limits.count(LimitHit::FlowAge),
            Some(Reason::MaxBytes) => self.limits.count(LimitHit::FlowBytes),
            Some(_) | None => {}
        }
    }

    fn note_end(&self, ends: &Ends, told: &Told) {
        match told.end.and_then(|end| ends.note(end)) {
            Some(Reason::IdleTimeout) => self.limits.count(LimitHit::IdleTimeout),
            Some(Reason::MaxAge) => self.limits.count(LimitHit::FlowAge),
            Some(Reason::MaxBytes) => self.limits.count(LimitHit::FlowBytes),
            Some(_) | None => {}
        }
    }

    pub(crate) fn note_auth(&self, result: &Result<Arc<Principal>, AuthnError>) {
        self.auth.count(match result {
            Ok(principal) => match principal.proof {
                Proof::Password | Proof::Token => AuthResult::Accepted,
                Proof::Origin => AuthResult::Origin,
                Proof::Certificate => AuthResult::Certificate,
                Proof::Anonymous => AuthResult::Anonymous,
            },
            Err(AuthnError::Required) => AuthResult::Required,
            Err(AuthnError::Invalid) => AuthResult::Invalid,
            Err(AuthnError::TokenExpired) => AuthResult::Expired,
            Err(AuthnError::TokenRevoked) => AuthResult::Revoked,
            Err(AuthnError::ContainerMismatch | AuthnError::NotCentral) => AuthResult::Mismatch,
            Err(AuthnError::Delayed) => AuthResult::Delayed,
            Err(AuthnError::RateLimited) => AuthResult::RateLimited,
        });
    }

    pub(crate) fn note_resolved(&self, result: &Result<Answer, ResolveError>, took: Duration) {
        self.resolve_time.observe(took);
        self.dns.count(match result {
            Ok(_) => DnsResult::Answered,
            Err(ResolveError::NoSuchName) => DnsResult::NoSuchName,
            Err(ResolveError::NoAddress | ResolveError::NoRecord) => DnsResult::NoAddress,
            Err(ResolveError::Timeout) => DnsResult::Timeout,
            Err(ResolveError::Server { .. } | ResolveError::Failed(_)) => DnsResult::Failed,
            Err(
                ResolveError::TooManyAddresses { .. }
                | ResolveError::TooManyRecords
                | ResolveError::ChainTooLong { .. }
                | ResolveError::ChainLoop,
            ) => DnsResult::Unusable,
        });
    }

    /// Counts the limit that a head ran into, if it was one.
    pub(crate) fn note_head_error(&self, error: &HeadError) {
        match error {
            HeadError::LineTooLong => self.limits.count(LimitHit::UriBytes),
            HeadError::TooLong => self.limits.count(LimitHit::HeadBytes),
            HeadError::TooManyFields => self.limits.count(LimitHit::HeaderCount),
            // Counted with its record, as in other protocols.
            HeadError::Timeout
            | HeadError::LineEnd
            | HeadError::Control
            | HeadError::RequestLine
            | HeadError::Method
            | HeadError::MethodRefused
            | HeadError::Version
            | HeadError::Folding
            | HeadError::Field
            | HeadError::Host
            | HeadError::Framing
            | HeadError::Connection
            | HeadError::HostMismatch
            | HeadError::Target(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn told(event: Event, verdict: Outcome, reason: Option<Reason>, end: Option<&'static str>) -> Told {
        let mut record = Record::new(event, SystemTime::UNIX_EPOCH);
        record.verdict = Some(verdict);
        record.reason = reason;
        record.end = end;
        Told::of(&record)
    }

    #[test]
    fn a_tunnel_is_one_allow_and_lives_until_its_end() {
        let metrics = Metrics::default();
        metrics.note(&told(Event::Decision, Outcome::Allow, None, None));
        assert_eq!((metrics.allowed.get(), metrics.tunnels.active()), (1, 1));
        metrics.note(&told(Event::End, Outcome::Allow, None, Some("finished")));
        assert_eq!((metrics.allowed.get(), metrics.tunnels.active(), metrics.tunnels.total()), (1, 0, 1));
        let ends: Vec<_> = metrics.tunnel_ends.iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(ends, [("finished", 1)]);
    }

    #[test]
    fn what_leaves_is_counted_by_its_way() {
        let metrics = Metrics::default();
        let leaves = |event, verdict, reason, via: Option<&str>| {
            let mut record = Record::new(event, SystemTime::UNIX_EPOCH);
            (record.verdict, record.reason, record.via) = (Some(verdict), reason, via.map(Arc::from));
            metrics.note(&Told::of(&record));
        };
        leaves(Event::Decision, Outcome::Allow, None, Some("corp"));
        leaves(Event::End, Outcome::Allow, None, Some("corp"));
        leaves(Event::Request, Outcome::Allow, None, Some("corp"));
        leaves(Event::Request, Outcome::Allow, None, None);
        leaves(Event::Request, Outcome::Allow, Some(Reason::EgressGatewayUnavailable), Some("corp"));
        leaves(Event::Request, Outcome::Deny, Some(Reason::HostNotAllowed), None);
        let ways: Vec<_> = metrics.ways.iter().map(|(way, count)| (way.label(), count)).collect();
        assert_eq!(ways, [("straight", 1), ("next_hop", 2)]);
    }

    #[test]
    fn an_allow_that_is_taken_back_is_a_denial_too() {
        let metrics = Metrics::default();
        metrics.note(&told(Event::Decision, Outcome::Allow, None, None));
        let end = Some("sni_mismatch");
        metrics.note(&told(Event::End, Outcome::Deny, Some(Reason::SniMismatch), end));
        assert_eq!((metrics.allowed.get(), metrics.denied.get(Reason::SniMismatch)), (1, 1));
        assert_eq!(metrics.tunnels.active(), 0);
    }

    #[test]
    fn refused_requests_are_no_flows() {
        let metrics = Metrics::default();
        let reason = Some(Reason::HostNotAllowed);
        metrics.note(&told(Event::Decision, Outcome::Deny, reason, None));
        metrics.note(&told(Event::Request, Outcome::Deny, reason, Some("host_not_allowed")));
        let failed = Some(Reason::ConnectFailed);
        metrics.note(&told(Event::Request, Outcome::Allow, failed, Some("connect_failed")));
        assert_eq!(metrics.denied.get(Reason::HostNotAllowed), 2);
        assert_eq!(metrics.failed.get(Reason::ConnectFailed), 1);
        let flows = (metrics.allowed.get(), metrics.tunnels.total(), metrics.forwarded.get());
        assert_eq!(flows, (0, 0, 0));
    }
}
