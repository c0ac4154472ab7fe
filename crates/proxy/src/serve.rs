//! The one place that decides: authenticate, decide, resolve, permit, dial. CONNECT and forwarded requests both pass
//! through here, and nothing else in this crate asks the policy.

use std::{
    future::{Future, poll_fn},
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Instant,
};

use exeat_dns::ResolveError;
use exeat_identity::{AuthnError, Claimed, Offered, Principal, Turn};
use exeat_model::{Authority, Host, Transport};
use exeat_policy::{
    Allowed, Denial, EgressRequest, OpeningRule, Reason, Resolve, RuleId, Verdict, decide, helping_entry,
    permit, permit_via,
};

use crate::{
    asking::{self, Answer},
    flows::{Beginning, FlowKind, Live, Over, Source},
    headers::names_instance,
    meter::Meter,
    respond::Refusal,
    route::{self, Route},
    shared::{Current, Shared, Snapshot},
    trail::Trail,
};

/// A request that the policy allows by its name, port or literal address. No address of a name is known yet.
pub(crate) struct Admitted {
    /// What decided, and what must give the permit.
    current: Arc<Current>,
    /// Who asked.
    pub(crate) principal: Arc<Principal>,
    target: Authority,
    address: Option<IpAddr>,
    allowed: Allowed,
    /// The `Via` values of the client, joined (RFC 9110 §5.3).
    via: Vec<u8>,
}

/// What a request says of itself, whatever its form.
pub(crate) struct Ask<'a> {
    /// The canonical target.
    pub(crate) target: &'a Authority,
    /// The address that it was given for the name, where a client connects to that by itself: no other is dialled.
    pub(crate) address: Option<IpAddr>,
    /// What is to prove who asks.
    pub(crate) credentials: Credentials<'a>,
    /// Every `Via` value.
    pub(crate) via: &'a [&'a [u8]],
}

/// What a client presents to prove who it is, in the way of its protocol.
#[derive(Clone, Copy, Hash)]
pub(crate) enum Credentials<'a> {
    /// Every `Proxy-Authorization` value; without any the client is anonymous.
    Fields(&'a [&'a [u8]]),
    /// A user and a password that were sent apart (RFC 1929).
    Password { user: &'a [u8], password: &'a [u8] },
}

/// Authenticates the client and decides on the target as asked.
///
/// # Errors
/// The refusal, which `trail` has noted too.
pub(crate) async fn admit(shared: &Shared, trail: &mut Trail, ask: Ask<'_>) -> Result<Admitted, Refusal> {
    if names_instance(ask.via.iter().copied(), &shared.instance) {
        return Err(refuse(trail, Reason::LoopDetected, Some(ask.target)));
    }
    match ask.credentials {
        Credentials::Fields(_) => count_source(shared, trail, Some(ask.target))?,
        // Counted when the password was first checked.
        Credentials::Password { .. } => {}
    }
    let started = Instant::now();
    let (current, principal) = authenticate(shared, trail, ask.credentials).await?;
    shared
        .flows
        .request_of(&principal, trail.client().source(), &shared.limits)
        .map_err(|over| over_rate(shared, trail, over, Some(ask.target)))?;
    let snapshot = &current.snapshot;
    let request = EgressRequest { bound: &principal.bound, target: ask.target, transport: Transport::Tcp };
    if current.is_quarantined(&principal, &trail.client().shown()) {
        return Err(deny(&current, trail, &request, Denial::of(Reason::PolicyChanged)));
    }
    let verdict = decide(&snapshot.policy, &request);
    shared.metrics.decision_time.observe(started.elapsed());
    match verdict {
        Verdict::Allow(allowed) => Ok(admitted(trail, &ask, (current, principal), allowed)),
        Verdict::Deny(denial) => {
            let asks = shared.asks.get();
            let unknown = asks.and_then(|_| asking::unknown(&request, denial, trail.client().peer));
            let (Some(asks), Some(unknown)) = (asks, unknown) else {
                return Err(deny(&current, trail, &request, denial));
            };
            let answer = asks.ask(unknown).await;
            Box::pin(answered(shared, trail, ask, (current, principal), answer)).await
        }
    }
}

fn admitted(
    trail: &mut Trail,
    ask: &Ask<'_>,
    (current, principal): (Arc<Current>, Arc<Principal>),
    allowed: Allowed,
) -> Admitted {
    trail.note_allow(&current, allowed.rules().first().copied(), None);
    let via = ask.via.join(&b", "[..]);
    Admitted { target: ask.target.clone(), address: ask.address, principal, allowed, via, current }
}

/// Decides again on what somebody was asked about.
///
/// # Errors
/// The refusal, which `trail` has noted too.
async fn answered(
    shared: &Shared,
    trail: &mut Trail,
    ask: Ask<'_>,
    (before, principal): (Arc<Current>, Arc<Principal>),
    answer: Answer,
) -> Result<Admitted, Refusal> {
    let (current, principal) = match answer {
        Answer::Refuse => (before, principal),
        Answer::Changed => authenticate(shared, trail, ask.credentials).await?,
        Answer::Once(snapshot) => {
            let now = shared.current();
            let again = snapshot.again(&principal, &before.snapshot, &trail.client().shown());
            let principal = again.ok_or_else(|| refuse(trail, Reason::PolicyChanged, Some(ask.target)))?;
            (Arc::new(now.for_one(snapshot)), principal)
        }
    };
    trail.note_principal(&principal, &current.snapshot.policy);
    let request = EgressRequest { bound: &principal.bound, target: ask.target, transport: Transport::Tcp };
    if current.is_quarantined(&principal, &trail.client().shown()) {
        return Err(deny(&current, trail, &request, Denial::of(Reason::PolicyChanged)));
    }
    match decide(&current.snapshot.policy, &request) {
        Verdict::Allow(allowed) => {
            Ok(admitted(trail, &ask, (Arc::clone(&current), Arc::clone(&principal)), allowed))
        }
        Verdict::Deny(denial) => Err(deny(&current, trail, &request, denial)),
    }
}

/// Returns what must open a connection of `principal` to `target` at `ip`, for those who do not know yet which of several
/// targets is meant. Nothing is permitted by that, and nobody is told.
///
/// # Errors
/// Why it would be refused.
pub(crate) fn opening_at(
    snapshot: &Snapshot,
    principal: &Principal,
    target: &Authority,
    ip: IpAddr,
) -> Result<OpeningRule, Denial> {
    let policy = &snapshot.policy;
    let request = EgressRequest { bound: &principal.bound, target, transport: Transport::Tcp };
    match decide(policy, &request) {
        Verdict::Deny(denial) => Err(denial),
        Verdict::Allow(allowed) if allowed.way().is_none() => {
            permit(policy, &request, &allowed, &[ip]).map(|permit| permit.opening().clone())
        }
        Verdict::Allow(allowed) => {
            permit_via(policy, &request, &allowed, &[ip]).map(|permit| permit.opening().clone())
        }
    }
}

/// Counts a request for its source, before a password is checked for it.
///
/// # Errors
/// The refusal if there are too many, which `trail` has noted too.
pub(crate) fn count_source(
    shared: &Shared,
    trail: &mut Trail,
    target: Option<&Authority>,
) -> Result<(), Refusal> {
    let counted = shared.flows.request_from(trail.client().source(), &shared.limits);
    counted.map_err(|over| over_rate(shared, trail, over, target))
}

fn over_rate(shared: &Shared, trail: &mut Trail, over: Over, target: Option<&Authority>) -> Refusal {
    trail.note_reason(over.reason);
    Refusal { target: target.map(ToString::to_string), ..shared.over(over) }
}

/// Returns who asks, and what decides on their request.
///
/// # Errors
/// The refusal, which `trail` has noted too.
pub(crate) async fn authenticate(
    shared: &Shared,
    trail: &mut Trail,
    credentials: Credentials<'_>,
) -> Result<(Arc<Current>, Arc<Principal>), Refusal> {
    let current = shared.current();
    let snapshot = &current.snapshot;
    let (authenticator, accepted) = (&shared.authenticator, snapshot.accepted());
    let peer = snapshot.peer(&trail.client().shown());
    trail.note_workload(&peer);
    let offered = match credentials {
        Credentials::Fields(values) => accepted.offered(values),
        Credentials::Password { user, password } => accepted.offered_apart(user, password),
    };
    let mut whose = None;
    let found = {
        let checking = pin!(async {
            let principal = whose.insert(authenticator.authenticate(&accepted, &peer, &offered).await?);
            match current.is_revoked(principal) {
                true => Err(AuthnError::TokenRevoked),
                false => Ok(Arc::clone(principal)),
            }
        });
        defended(shared, trail.client().source(), &current, credentials, &offered, checking).await
    };
    shared.metrics.note_auth(&found);
    if let Some(principal) = &whose {
        trail.note_principal(principal, &snapshot.policy);
    }
    let principal = found.map_err(|error| refuse(trail, error.reason(), None))?;
    Ok((current, principal))
}

/// Returns the outcome of `checking`, unless credentials from the same source were wrong too often to look at these now. A
/// token that is remembered as right is looked at all the same: nobody finds one by guessing.
async fn defended(
    shared: &Shared,
    source: Source,
    current: &Current,
    credentials: Credentials<'_>,
    offered: &Offered<'_>,
    mut checking: Pin<&mut impl Future<Output = Result<Arc<Principal>, AuthnError>>>,
) -> Result<Arc<Principal>, AuthnError> {
    if offered.is_nothing() {
        // There is nothing to guess.
        return checking.await;
    }
    let (defence, lately, now) = (&shared.defence, &shared.lately, Instant::now());
    let mark = lately.mark(source, credentials, current.epoch, now);
    let was_right = lately.remembers(mark);
    if !was_right {
        let claimed = offered.claimed();
        if !defence.may_try(source, &claimed, now) && !current.snapshot.accepted().remembers(&claimed) {
            return Err(AuthnError::Delayed);
        }
    }
    let (found, turn) = match poll_fn(|cx| Poll::Ready(checking.as_mut().poll(cx))).await {
        // Most outcomes are there at once.
        Poll::Ready(found) => (found, None),
        // On the heap: it takes much room.
        Poll::Pending => Box::pin(in_turn(shared, source, &offered.claimed(), checking)).await?,
    };
    match &found {
        Ok(_) if was_right => {}
        Ok(_) => {
            defence.note_right(source, &offered.claimed());
            lately.note_right(mark);
        }
        Err(AuthnError::Invalid) => {
            defence.note_wrong(source, &offered.claimed(), Instant::now());
            lately.note_wrong();
        }
        Err(
            AuthnError::Required
            | AuthnError::TokenExpired
            | AuthnError::TokenRevoked
            | AuthnError::ContainerMismatch
            | AuthnError::NotCentral
            | AuthnError::Delayed
            | AuthnError::RateLimited,
        ) => {}
    }
    // Only now: whoever waits for it looks at what was noted.
    drop(turn);
    found
}

/// Returns the outcome of a check that takes time, and the turn that it had.
async fn in_turn<'a>(
    shared: &'a Shared,
    source: Source,
    claimed: &Claimed,
    mut checking: Pin<&mut impl Future<Output = Result<Arc<Principal>, AuthnError>>>,
) -> Result<(Result<Arc<Principal>, AuthnError>, Option<Turn<'a, Source>>), AuthnError> {
    let _place = shared.flows.check(source).ok_or(AuthnError::RateLimited)?;
    let mut turn = pin!(shared.defence.turn(source, claimed));
    // The check goes on meanwhile: it may be what others of its source wait behind. Its outcome is nobody's before its
    // turn has come.
    let (found, turn) = tokio::select! {
        biased;
        turn = &mut turn => {
            let turn = turn.ok_or(AuthnError::Delayed)?;
            (checking.await, turn)
        }
        found = checking.as_mut() => (found, turn.await.ok_or(AuthnError::Delayed)?),
    };
    Ok((found, Some(turn)))
}

impl Admitted {
    /// Returns the way out that the policy permits: to the addresses of the target, or through a next hop.
    ///
    /// # Errors
    /// The refusal, which `trail` has noted too.
    pub(crate) async fn permit(&self, shared: &Shared, trail: &mut Trail) -> Result<Route, Refusal> {
        let request =
            EgressRequest { bound: &self.principal.bound, target: &self.target, transport: Transport::Tcp };
        let snapshot = &self.current.snapshot;
        let policy = &snapshot.policy;
        let resolves_here = self.allowed.way().is_none_or(|way| way.resolve() == Resolve::Local);
        let addrs = if resolves_here { self.addresses(shared, trail).await? } else { Arc::default() };
        if self.allowed.way().is_none() {
            let permit = permit(policy, &request, &self.allowed, &addrs)
                .map_err(|denial| deny(&self.current, trail, &request, denial))?;
            self.note_permit(trail, permit.rule(), permit.would_deny());
            return Ok(Route::Straight(permit));
        }
        let permit = permit_via(policy, &request, &self.allowed, &addrs)
            .map_err(|denial| deny(&self.current, trail, &request, denial))?;
        self.note_permit(trail, permit.rule(), permit.would_deny());
        let name = &permit.hop().name;
        trail.via = Some(Arc::clone(name));
        let hop = snapshot.hops.get(name);
        let via = Box::pin(route::through(shared, trail, policy, hop, permit, &self.via)).await?;
        Ok(Route::Via(Box::new(via)))
    }

    /// Resolves the name, or takes the literal.
    async fn addresses(&self, shared: &Shared, trail: &mut Trail) -> Result<Arc<[IpAddr]>, Refusal> {
        match (&self.target.host, self.address) {
            (Host::Name(_), Some(address)) => Ok(Arc::from([address])),
            (Host::Name(name), None) => {
                let started = Instant::now();
                let resolved = shared.resolver.resolve(name).await;
                shared.metrics.note_resolved(&resolved, started.elapsed());
                Ok(resolved.map_err(|error| self.unresolved(trail, &error))?.addrs)
            }
            (Host::Address(ip), _) => Ok(Arc::from([ip.get()])),
        }
    }

    fn note_permit(&self, trail: &mut Trail, rule: RuleId, would_deny: Option<Denial>) {
        trail.note_allow(&self.current, Some(rule), would_deny.map(|denial| denial.reason));
    }

    /// Returns the refusal of an admitted request for a reason that its form gives.
    pub(crate) fn refuse(&self, trail: &mut Trail, reason: Reason) -> Refusal {
        let request =
            EgressRequest { bound: &self.principal.bound, target: &self.target, transport: Transport::Tcp };
        deny(&self.current, trail, &request, Denial::of(reason))
    }

    /// Takes the permitted request into the table of flows, whose part it is from before anything is dialled until the
    /// returned value is dropped: a change of policy in between ends it.
    pub(crate) fn begin(
        &self,
        shared: &Shared,
        trail: &Trail,
        route: &Route,
        kind: FlowKind,
        meter: &Arc<Meter>,
    ) -> Live {
        let beginning = Beginning {
            request_id: trail.request_id_shared(),
            kind,
            method: trail.method(),
            target: self.target.clone(),
            client: trail.client().clone(),
            meter: Arc::clone(meter),
            current: Arc::clone(&self.current),
            principal: Arc::clone(&self.principal),
            grant: route.grant(),
        };
        shared.flows.begin(beginning, || shared.current())
    }

    fn unresolved(&self, trail: &mut Trail, error: &ResolveError) -> Refusal {
        let refusal = refuse(trail, Reason::DnsFailed, Some(&self.target)).with_detail(error.to_string());
        match error {
            ResolveError::Timeout => Refusal { status: 504, error: "dns_timeout", ..refusal },
            ResolveError::NoSuchName
            | ResolveError::NoAddress
            | ResolveError::NoRecord
            | ResolveError::TooManyAddresses { .. }
            | ResolveError::TooManyRecords
            | ResolveError::ChainTooLong { .. }
            | ResolveError::ChainLoop
            | ResolveError::Server { .. }
            | ResolveError::Failed(_) => refusal,
        }
    }
}

/// Returns the refusal of a request that no rule was asked about, or of one that was allowed: what was wrong with the request
/// itself, or too much of it, takes the allow back; what others could not do is an allow that came to nothing.
pub(crate) fn refuse(trail: &mut Trail, reason: Reason, target: Option<&Authority>) -> Refusal {
    let is_denial = reason.http_status() < 500;
    if is_denial {
        trail.note_taken_back(reason)
    } else {
        trail.note_reason(reason)
    }
    Refusal { target: target.map(ToString::to_string), ..Refusal::new(reason) }
}

/// Returns the refusal of a request whose flow ended before there was an answer to it.
pub(crate) fn ended(trail: &mut Trail, flow: &Live, reason: Reason, target: &Authority) -> Refusal {
    trail.note_flow(flow);
    refuse(trail, reason, Some(target))
}

/// Returns the refusal of a request that was allowed, but of which no record can be kept.
pub(crate) fn unaudited(trail: &mut Trail, target: &Authority) -> Refusal {
    trail.note_taken_back(Reason::AuditUnavailable);
    Refusal { target: Some(target.to_string()), ..Refusal::new(Reason::AuditUnavailable) }
}

fn deny(current: &Current, trail: &mut Trail, request: &EgressRequest<'_>, denial: Denial) -> Refusal {
    trail.note_deny(current, denial.reason, denial.rule);
    let snapshot = &current.snapshot;
    // Without the addresses: what a name resolves to here is not the client's to know.
    let help = || helping_entry(&snapshot.policy, request, denial.reason, &[]);
    let allow = if snapshot.disclose { help() } else { None };
    Refusal {
        target: Some(request.target.to_string()),
        allow: allow.map(|entry| entry.toml()),
        ..Refusal::new(denial.reason)
    }
}
