//! What a policy server for names sees of the proxy beside it: the same snapshot, quarantine, audit log and counters.

use std::{sync::Arc, time::Duration};

use exeat_audit::Record;
use exeat_dns::{Answer, Deciding, Happening, Recorded, ResolveError, Surroundings};
use exeat_identity::{Place, Principal, Shown};
use exeat_policy::{PolicySet, Reason};

use crate::{
    Proxy,
    metrics::{DnsLimit, Lookups, TapOutResult, TapStream},
    shared::{Current, Shared},
};

/// The proxy, as a policy server sees it.
struct Around(Arc<Shared>);

impl Proxy {
    /// Returns what a policy server beside this proxy decides by, and tells of what it does.
    #[must_use]
    pub fn surroundings(&self) -> Arc<dyn Surroundings> {
        Arc::new(Around(Arc::clone(&self.shared)))
    }
}

impl Around {
    fn lookups(&self) -> &Lookups {
        &self.0.metrics.lookups
    }
}

impl Surroundings for Around {
    fn now(&self) -> Arc<dyn Deciding> {
        self.0.current()
    }

    fn next_request_id(&self) -> Arc<str> {
        self.0.next_request_id()
    }

    fn note(&self, record: Record) {
        self.0.note(record);
    }

    fn record(&self, record: Record) -> Recorded<'_> {
        Box::pin(self.0.record(record))
    }

    fn resolved(&self, result: &Result<Answer, ResolveError>, took: Duration) {
        self.0.metrics.note_resolved(result, took);
    }

    fn asks(&self) -> bool {
        self.0.asks.get().is_some()
    }

    fn count(&self, happening: Happening) {
        let lookups = self.lookups();
        match happening {
            Happening::Malformed => lookups.malformed.add(1),
            Happening::Truncated => lookups.truncated.add(1),
            Happening::TooManyQueries => lookups.limits.count(DnsLimit::QueriesPerSecond),
            Happening::TooManyNames => lookups.limits.count(DnsLimit::NamesPerMinute),
            Happening::TooManyWaiting => lookups.limits.count(DnsLimit::Waiting),
            Happening::TooManyConnections => lookups.limits.count(DnsLimit::Connections),
            Happening::Opened(took) => lookups.opening_time.observe(took),
            Happening::NoVirtualAddress => lookups.limits.count(DnsLimit::VirtualAddresses),
            Happening::NotOpened => lookups.not_opened.add(1),
            Happening::Answered(took) => lookups.answer_time.observe(took),
            Happening::Tapped(tapped) => lookups.tapped.count(tapped),
            Happening::TappedAfter(late) => lookups.tap_delay.observe(late),
            Happening::TapRefused => lookups.tap_streams.count(TapStream::Refused),
            Happening::TapOutTold(count) => lookups.tap_out.add(TapOutResult::Told, count),
            Happening::TapOutLost(count) => lookups.tap_out.add(TapOutResult::Lost, count),
            Happening::TapBroken => lookups.tap_streams.count(TapStream::Broken),
        }
    }
}

impl Deciding for Current {
    fn policy(&self) -> &PolicySet {
        &self.snapshot.policy
    }

    fn asker(&self, place: &Place) -> Result<Arc<Principal>, Reason> {
        let shown = shown(place);
        let alone = self.snapshot.peer(&shown).alone(self.snapshot.anonymous.as_ref());
        let principal = alone.map_err(exeat_identity::AuthnError::reason)?;
        if self.is_quarantined(&principal, &shown) {
            return Err(Reason::PolicyChanged);
        }
        Ok(principal)
    }

    fn workload(&self, place: &Place) -> Option<Arc<str>> {
        let peer = self.snapshot.workloads.peer(&shown(place));
        peer.workload().map(|workload| Arc::clone(&workload.principal().name))
    }
}

/// A question shows nothing but where it comes from.
fn shown(place: &Place) -> Shown {
    Shown { place: place.clone(), ..Shown::default() }
}
