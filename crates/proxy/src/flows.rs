//! What is alive: connections and flows. How many there may be, which they are, whether each is still allowed, and how
//! all of it comes to an end.

mod account;
mod budget;
mod flow;
mod spoken;
mod table;
mod view;

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use exeat_identity::{Principal, Shown};
use exeat_model::{Authority, Transport};
use exeat_policy::{Denial, EgressRequest, Reason, Verdict, decide, permit, permit_via};
use tokio::sync::watch;

pub use view::{FlowFilter, FlowId, FlowKind, FlowView};

pub(crate) use {
    budget::{CheckSlot, ConnectionSlot, Over, TunnelSlot},
    flow::{Beginning, Flow, Live, Standing},
    spoken::Spoken,
};

use account::Account;
pub(crate) use exeat_identity::Source;

use crate::{limits::Limits, meter::Meter, route::Grant, shared::Current, traffic::OpenFlow};

/// The live connections and flows of one proxy.
#[derive(Debug)]
pub(crate) struct Flows {
    budget: Arc<budget::Budget>,
    table: table::Table,
    draining: watch::Sender<bool>,
    stop: watch::Sender<Option<Reason>>,
}

/// What came of deciding on every flow again.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Swept {
    pub(crate) kept: usize,
    pub(crate) ended: usize,
}

impl Flows {
    /// Returns a proxy's flows, none alive.
    pub(crate) fn new() -> Self {
        Self {
            budget: Arc::default(),
            table: table::Table::default(),
            draining: watch::Sender::new(false),
            stop: watch::Sender::new(None),
        }
    }

    /// Counts a connection from `source`.
    ///
    /// # Errors
    /// `connection_limit` if the proxy holds as many as it may, `rate_limited` if the source does or opens them too
    /// fast.
    pub(crate) fn admit(&self, source: Source, limits: &Limits) -> Result<ConnectionSlot, Over> {
        let mut slot = self.budget.admit_unknown(limits)?;
        slot.count_source(source, limits, Instant::now).map(|()| slot)
    }

    /// Counts a connection whose source is to be told by who sent it.
    ///
    /// # Errors
    /// `connection_limit` if the proxy holds as many as it may.
    pub(crate) fn admit_unknown(&self, limits: &Limits) -> Result<ConnectionSlot, Over> {
        self.budget.admit_unknown(limits)
    }

    /// Counts a request from `source`, before anybody asks whose it is.
    ///
    /// # Errors
    /// `rate_limited` if there are too many.
    pub(crate) fn request_from(&self, source: Source, limits: &Limits) -> Result<(), Over> {
        self.budget.request_from(source, limits, Instant::now)
    }

    /// Counts a request of `principal`, which came from `source`.
    ///
    /// # Errors
    /// `rate_limited` if there are too many.
    pub(crate) fn request_of(
        &self,
        principal: &Principal,
        source: Source,
        limits: &Limits,
    ) -> Result<(), Over> {
        self.budget.request_of(|| Account::of(principal, source), limits, Instant::now)
    }

    /// Counts a password that has to be checked for `source`; `None` if there are too many.
    pub(crate) fn check(&self, source: Source) -> Option<CheckSlot> {
        self.budget.check(source)
    }

    /// Counts a tunnel of `principal`, which came from `source`.
    ///
    /// # Errors
    /// `connection_limit` if the principal holds as many as it may; without credentials, if that source does.
    pub(crate) fn open(
        &self,
        principal: &Principal,
        source: Source,
        limits: &Limits,
    ) -> Result<TunnelSlot, Reason> {
        self.budget.open(Account::of(principal, source), limits)
    }

    /// Takes a flow into the table. `newest` gives what decides now: if that is newer than what allowed the flow, it
    /// is decided on again. Whoever replaces it does so before a sweep, so no flow falls between the two.
    pub(crate) fn begin(
        self: &Arc<Self>,
        beginning: Beginning,
        newest: impl FnOnce() -> Arc<Current>,
    ) -> Live {
        beginning.meter.hold_to(beginning.grant.caps());
        end_with_proof(&beginning.meter, &beginning.principal);
        let flow = Arc::new(Flow::new(self.table.next_id(), beginning));
        self.table.insert(&flow);
        if let Some(reason) = *self.stop.borrow() {
            flow.meter().stop(reason);
        }
        decide_on(&flow, &newest());
        Live { flows: Arc::clone(self), flow }
    }

    /// Decides on every flow by `now`, and ends those that it does not allow. Takes a few microseconds for each flow;
    /// not for a thread that others wait for.
    pub(crate) fn sweep(&self, now: &Arc<Current>) -> Swept {
        let mut swept = Swept::default();
        self.table.each(|flow| match decide_on(flow, now) {
            true => swept.kept += 1,
            false => swept.ended += 1,
        });
        swept
    }

    /// Ends the flows on connections whose certificate is over or revoked by now.
    pub(crate) fn end_unproven(&self) {
        let now = SystemTime::now();
        self.table.each(|flow| {
            if flow.client().certificate().is_none_or(|certificate| certificate.is_good(now)) {
                return;
            }
            let mut standing = flow.standing();
            if standing.denial.is_none() {
                flow.end(&mut standing, Denial::of(Reason::PolicyChanged));
            }
        });
    }

    /// Ends the flows that `now` does not allow because their principal is in quarantine. Returns how many they are.
    pub(crate) fn end_quarantined(&self, now: &Arc<Current>) -> usize {
        let mut ended = 0;
        self.table.each(|flow| {
            let mut standing = flow.standing();
            if standing.denial.is_none() && now.is_quarantined(&standing.principal, &flow.client().shown()) {
                standing.current = Arc::clone(now);
                flow.end(&mut standing, Denial::of(Reason::PolicyChanged));
                ended += 1;
            }
        });
        ended
    }

    /// Ends the flows whose token `now` does not let count. Returns how many they are.
    pub(crate) fn end_revoked(&self, now: &Arc<Current>) -> usize {
        let mut ended = 0;
        self.table.each(|flow| {
            let mut standing = flow.standing();
            if standing.denial.is_none() && now.is_revoked(&standing.principal) {
                standing.current = Arc::clone(now);
                flow.end(&mut standing, Denial::of(Reason::TokenRevoked));
                ended += 1;
            }
        });
        ended
    }

    /// Ends the flows that `which` means. Returns how many they are.
    pub(crate) fn cut_some(&self, which: &FlowFilter, reason: Reason) -> usize {
        let mut cut = 0;
        self.table.each(|flow| {
            if flow.is_meant(which) && flow.meter().stop(reason) {
                cut += 1;
            }
        });
        cut
    }

    /// Returns how every flow looks from outside, the oldest first.
    pub(crate) fn views(&self) -> Vec<FlowView> {
        let mut views = Vec::new();
        self.table.each(|flow| views.push(flow.view()));
        views.sort_unstable_by_key(|view| view.id);
        views
    }

    /// Returns what every flow adds to the traffic of its principal.
    pub(crate) fn moved(&self) -> Vec<OpenFlow> {
        let mut open = Vec::new();
        self.table.each(|flow| open.push(flow.moved()));
        open
    }

    /// Whether a drain has begun, to wait on.
    pub(crate) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Waits until a drain begins. Asks nothing of other threads before it is polled: most who wait for this do not have
    /// to.
    pub(crate) async fn drain_begins(&self) {
        // Its sender is here.
        let _ = self.draining.subscribe().wait_for(|is_draining| *is_draining).await;
    }

    /// Why everything must end now, once it must.
    pub(crate) fn stop(&self) -> watch::Receiver<Option<Reason>> {
        self.stop.subscribe()
    }

    /// The number of live connections.
    pub(crate) fn connections(&self) -> usize {
        self.budget.connections()
    }

    /// Waits until there is no connection.
    pub(crate) async fn no_connections(&self) {
        self.budget.no_connections().await;
    }

    /// Begins the drain: no new work, what is under way goes on.
    pub(crate) fn begin_drain(&self) {
        self.draining.send_replace(true);
    }

    /// Ends what is left.
    pub(crate) fn cut(&self, reason: Reason) {
        self.stop.send_replace(Some(reason));
        self.cut_some(&FlowFilter::default(), reason);
    }
}

/// Ends a flow with the token that proves its principal.
fn end_with_proof(meter: &Meter, principal: &Principal) {
    if let Some(token) = &principal.token {
        meter.end_with_token(token.ends.duration_since(SystemTime::now()).unwrap_or_default());
    }
}

/// Holds a flow against `now`, unless it has been held against that or something newer. Returns whether it may go on.
fn decide_on(flow: &Flow, now: &Arc<Current>) -> bool {
    let mut standing = flow.standing();
    if standing.denial.is_none() && standing.current.epoch < now.epoch {
        let decided = decide_again(&standing, flow.target(), &flow.client().shown(), now);
        // Somebody has allowed this one where no rule did, and none does still.
        if standing.current.is_for_one && decided.as_ref().is_err_and(|denial| is_uncovered(*denial)) {
            return true;
        }
        // What allowed it before is let go, too: an old snapshot ends with the sweep.
        standing.current = Arc::clone(now);
        match decided {
            Ok((principal, grant)) => {
                flow.meter().hold_to(grant.caps());
                end_with_proof(flow.meter(), &principal);
                standing.principal = principal;
                standing.grant = grant;
            }
            Err(denial) => flow.end(&mut standing, denial),
        }
    }
    standing.denial.is_none()
}

/// Whether it is the lack of a rule that refuses something.
fn is_uncovered(denial: Denial) -> bool {
    matches!(denial.reason, Reason::HostNotAllowed | Reason::PortNotAllowed)
}

/// Decides on an open flow as on a new request: the same principal, if its credentials are still good, the same target,
/// the same way out, and what is known by now of addresses and opening.
///
/// # Errors
/// What a new request would be refused for; `policy_changed` if nobody would get as far as asking.
fn decide_again(
    standing: &Standing,
    target: &Authority,
    shown: &Shown,
    now: &Current,
) -> Result<(Arc<Principal>, Grant), Denial> {
    let changed = Denial::of(Reason::PolicyChanged);
    let before = &standing.current.snapshot;
    let principal = now.snapshot.again(&standing.principal, before, shown).ok_or(changed)?;
    if now.is_revoked(&principal) {
        return Err(Denial::of(Reason::TokenRevoked));
    }
    if now.is_quarantined(&principal, shown) {
        return Err(changed);
    }
    let policy = &now.snapshot.policy;
    let request = EgressRequest { bound: &principal.bound, target, transport: Transport::Tcp };
    let allowed = match decide(policy, &request) {
        Verdict::Allow(allowed) => allowed,
        Verdict::Deny(denial) => return Err(denial),
    };
    let addresses = standing.addresses();
    let grant = match (&standing.grant, allowed.way()) {
        (Grant::Straight(_), None) => Grant::Straight(permit(policy, &request, &allowed, &addresses)?),
        (Grant::Via(before), Some(way)) if before.hop().is_same_as(way.hop()) => {
            Grant::Via(Box::new(permit_via(policy, &request, &allowed, &addresses)?))
        }
        (Grant::Straight(_), Some(_)) | (Grant::Via(_), _) => return Err(changed),
    };
    if !standing.opens(&grant, target) {
        return Err(Denial { reason: Reason::PolicyChanged, rule: Some(grant.rule()) });
    }
    Ok((principal, grant))
}

#[cfg(test)]
mod tests;
