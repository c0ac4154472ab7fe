//! One flow: what is fixed when it begins, and how it stands with the policy now.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use exeat_identity::Principal;
use exeat_model::{Authority, Host};
use exeat_policy::{Denial, Reason, RuleId};
use smallvec::SmallVec;

use super::{FlowFilter, FlowId, FlowKind, FlowView, Flows, Spoken};
use crate::{
    client::Client,
    meter::{Meter, Side},
    route::Grant,
    selector::Selector,
    shared::Current,
    traffic::OpenFlow,
};

/// A tunnel or a forwarded request in flight.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(super) id: FlowId,
    request_id: Arc<str>,
    kind: FlowKind,
    method: Arc<str>,
    target: Authority,
    client: Client,
    started: SystemTime,
    meter: Arc<Meter>,
    standing: Mutex<Standing>,
}

/// What a flow begins with.
pub(crate) struct Beginning {
    pub(crate) request_id: Arc<str>,
    pub(crate) kind: FlowKind,
    pub(crate) method: Arc<str>,
    pub(crate) target: Authority,
    pub(crate) client: Client,
    pub(crate) meter: Arc<Meter>,
    /// What allowed it.
    pub(crate) current: Arc<Current>,
    pub(crate) principal: Arc<Principal>,
    pub(crate) grant: Grant,
}

/// How a flow stands with the policy.
#[derive(Debug)]
pub(crate) struct Standing {
    /// By what it was decided last.
    pub(crate) current: Arc<Current>,
    /// Who asked, as `current` knows them.
    pub(crate) principal: Arc<Principal>,
    /// The permit that `current` gave. If it denied, the last one before that.
    pub(crate) grant: Grant,
    /// Why `current` denied.
    pub(crate) denial: Option<Denial>,
    dialled: Option<SocketAddr>,
    spoken: Option<Spoken>,
}

impl Standing {
    /// What a flow that `current` denies ends with: whatever the reason, the policy changed, unless it was its token.
    pub(crate) fn ended_by(&self) -> Reason {
        match self.denial {
            Some(Denial { reason: Reason::TokenRevoked, .. }) => Reason::TokenRevoked,
            Some(_) | None => Reason::PolicyChanged,
        }
    }

    /// The rule that `current` cites.
    pub(crate) fn rule(&self) -> Option<RuleId> {
        self.denial.map_or_else(|| Some(self.grant.rule()), |denial| denial.rule)
    }

    /// The addresses that must be allowed: the dialled one, or all that may be dialled yet. Behind a next hop, those
    /// that the name was checked for; which one was dialled there is not known.
    pub(super) fn addresses(&self) -> SmallVec<[IpAddr; 4]> {
        match (&self.grant, self.dialled) {
            (Grant::Via(permit), _) => SmallVec::from_slice(permit.checked()),
            (Grant::Straight(_), Some(address)) => SmallVec::from_slice(&[address.ip()]),
            (Grant::Straight(permit), None) => permit.addrs().iter().map(SocketAddr::ip).collect(),
        }
    }

    /// Whether what opened the flow, as far as it has been opened, is what `grant` wants.
    pub(super) fn opens(&self, grant: &Grant, target: &Authority) -> bool {
        self.spoken.as_ref().is_none_or(|spoken| spoken.satisfies(grant.opening(), target))
    }
}

impl Flow {
    pub(super) fn new(id: FlowId, beginning: Beginning) -> Self {
        let Beginning { request_id, kind, method, target, client, meter, current, principal, grant } =
            beginning;
        let standing = Standing { current, principal, grant, denial: None, dialled: None, spoken: None };
        let started = SystemTime::now();
        Self { id, request_id, kind, method, target, client, started, meter, standing: Mutex::new(standing) }
    }

    /// Its bytes and its signal to stop.
    pub(crate) const fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    pub(crate) const fn target(&self) -> &Authority {
        &self.target
    }

    /// Notes the address that was dialled: from now on only that one has to be allowed.
    pub(crate) fn note_dialled(&self, address: SocketAddr) {
        self.standing().dialled = Some(address);
    }

    /// Notes what opened the flow. The rule for it may have changed since the opening was judged; if this does not
    /// satisfy the new one, the flow ends.
    pub(crate) fn note_spoken(&self, spoken: Spoken) {
        let mut standing = self.standing();
        standing.spoken = Some(spoken);
        if standing.denial.is_none() && !standing.opens(&standing.grant, &self.target) {
            let rule = Some(standing.grant.rule());
            self.end(&mut standing, Denial { reason: Reason::PolicyChanged, rule });
        }
    }

    /// Notes why the flow is no longer allowed, and ends it.
    pub(super) fn end(&self, standing: &mut Standing, denial: Denial) {
        standing.denial = Some(denial);
        self.meter.stop(standing.ended_by());
    }

    /// Whether `filter` means this flow.
    pub(super) fn is_meant(&self, filter: &FlowFilter) -> bool {
        let FlowFilter { id, selector, host, source } = filter;
        let is_host = |host: &Host| self.target.host == *host;
        id.is_none_or(|id| self.id == id)
            && host.as_ref().is_none_or(is_host)
            && source.is_none_or(|source| self.is_from(source))
            && selector.as_ref().is_none_or(|selector| self.is_of(selector))
    }

    fn is_from(&self, source: IpAddr) -> bool {
        self.client.address().is_some_and(|address| address.ip().to_canonical() == source.to_canonical())
    }

    fn is_of(&self, selector: &Selector) -> bool {
        let standing = self.standing();
        let peer = standing.current.snapshot.peer(&self.client.shown());
        selector.selects(&standing.principal, &peer)
    }

    /// The other end of the connection that it came by.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// What it adds to the traffic of its principal.
    pub(super) fn moved(&self) -> OpenFlow {
        OpenFlow {
            principal: Arc::clone(&self.standing().principal.name),
            target: self.target.to_string().into(),
            age: self.meter.started().elapsed(),
            bytes_up: self.meter.taken(Side::Upstream),
            bytes_down: self.meter.taken(Side::Client),
        }
    }

    /// How it looks from outside.
    pub(super) fn view(&self) -> FlowView {
        let standing = self.standing();
        let policy = &standing.current.snapshot.policy;
        let principal = &standing.principal;
        let workload = standing.current.snapshot.peer(&self.client.shown()).workload();
        FlowView {
            id: self.id,
            request_id: Arc::clone(&self.request_id),
            kind: self.kind,
            method: Arc::clone(&self.method),
            target: self.target.clone(),
            principal: Arc::clone(&principal.name),
            proof: principal.proof,
            labels: principal.labels.clone(),
            source: self.client.address(),
            user: self.client.user(),
            workload: workload.map(|workload| Arc::clone(&workload.principal().name)),
            address: standing.dialled,
            via: match &standing.grant {
                Grant::Straight(_) => None,
                Grant::Via(permit) => Some(Arc::clone(&permit.hop().name)),
            },
            rule: standing.rule().and_then(|rule| policy.rule(rule)),
            revision: policy.revision(),
            mode: policy.mode(&principal.bound),
            would_deny: standing.grant.would_deny().map(|denial| denial.reason),
            started: self.started,
            age: self.meter.started().elapsed(),
            bytes_up: self.meter.taken(Side::Upstream),
            bytes_down: self.meter.taken(Side::Client),
        }
    }

    /// The standing stays right even if a thread panicked while it held it: what is set is set at once.
    pub(crate) fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A flow that is in the table for as long as this lives.
#[derive(Debug)]
pub(crate) struct Live {
    pub(super) flows: Arc<Flows>,
    pub(super) flow: Arc<Flow>,
}

impl Deref for Live {
    type Target = Flow;

    fn deref(&self) -> &Flow {
        &self.flow
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.flows.table.remove(self.flow.id);
    }
}
