//! What all connections of one proxy share, and the snapshot that they decide by.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwap;
use exeat_audit::{AuditLog, AuditUnavailable, Event, Record};
use exeat_dns::{Answers, Resolver, VirtualNames};
use exeat_identity::{
    Accepted, Authenticator, Certificates, Clients, Defence, Issuers, Peer, Principal, Proof, Shown,
    TokenFacts, Workloads,
};
use exeat_model::{CanonicalIp, IpBlock};
use exeat_policy::PolicySet;
use tokio::sync::Notify;

use crate::{
    asking::Asks,
    cited::Cited,
    flows::{Flows, Over, Source, Swept},
    handshakes::Handshakes,
    hop::Hops,
    key_source::{self, KeySource},
    lately::Lately,
    limits::Limits,
    metrics::{Metrics, Told},
    pool::Pool,
    processes::Processes,
    quarantine::Kept,
    refused::{Refusals, Refused},
    relay::Pipes,
    resources::Resources,
    respond::{Refusal, Signature},
    revocations::Revocations,
    selector::Selector,
    traffic::{Moved, Traffic},
    trail::{Ending, Trail},
};

/// Who may ask and what they may reach: one immutable load of the configuration.
#[derive(Debug)]
pub struct Snapshot {
    /// The compiled policies.
    pub policy: PolicySet,
    /// The password principals, bound to `policy`.
    pub clients: Clients,
    /// The principals that are known by where they come from, bound to `policy`.
    pub workloads: Workloads,
    /// The principals that are known by a client certificate, bound to `policy`.
    pub certificates: Certificates,
    /// Whose tokens count, with what `policy` makes of them.
    pub issuers: Issuers,
    /// Those of `issuers` whose keys are fetched.
    pub key_sources: Vec<Arc<KeySource>>,
    /// Whether this node is one that tokens for central nodes count on.
    pub is_central: bool,
    /// Who asks when no credentials are sent; `None` answers 407.
    pub anonymous: Option<Arc<Principal>>,
    /// How the next hops of `policy` are spoken to.
    pub hops: Hops,
    /// Whether a refusal may tell the smallest entry that would allow the request.
    pub disclose: bool,
}

impl Snapshot {
    /// Returns the other end of a connection, as this snapshot knows it now.
    pub(crate) fn peer(&self, shown: &Shown) -> Peer<'_> {
        let peer = self.workloads.peer(shown);
        if shown.certificate.is_none() {
            return peer;
        }
        peer.with_certificate(shown, &self.certificates, &self.policy, SystemTime::now())
    }

    /// Returns who a principal of the snapshot `before` is in this one, whose connection shows the same as then; `None` if
    /// what proved it then proves nothing now, or somebody else.
    pub(crate) fn again(
        &self,
        principal: &Arc<Principal>,
        before: &Self,
        shown: &Shown,
    ) -> Option<Arc<Principal>> {
        let peer = self.peer(shown);
        match principal.proof {
            Proof::Password => self.clients.again(principal, &before.clients, &peer),
            Proof::Token => {
                let again = self.issuers.again(&self.policy, principal, SystemTime::now())?;
                // As this snapshot has it: its issuer may bind its tokens since.
                let counts = |token: &Arc<TokenFacts>| token.counts_at(&peer, self.is_central);
                again.token.as_ref().is_some_and(counts).then_some(again)
            }
            Proof::Origin | Proof::Certificate | Proof::Anonymous => {
                peer.again(principal, self.anonymous.as_ref())
            }
        }
    }

    /// Whose credentials it accepts.
    pub(crate) fn accepted(&self) -> Accepted<'_> {
        Accepted {
            policy: &self.policy,
            clients: &self.clients,
            issuers: &self.issuers,
            anonymous: self.anonymous.as_ref(),
            is_central: self.is_central,
        }
    }
}

/// What decides now: a snapshot, and what an operator has put on top of it.
#[derive(Debug)]
pub(crate) struct Current {
    /// Grows with every change of either.
    pub(crate) epoch: u64,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) quarantine: Arc<BTreeSet<Selector>>,
    pub(crate) revocations: Arc<Revocations>,
    /// The rules of the snapshot that it has decided by.
    pub(crate) cited: Cited,
    /// Whether it decides on one request alone, that somebody was asked about.
    pub(crate) is_for_one: bool,
}

impl Current {
    /// The same, but for one request that this snapshot decides on.
    pub(crate) fn for_one(&self, snapshot: Arc<Snapshot>) -> Self {
        Self {
            epoch: self.epoch,
            snapshot,
            quarantine: Arc::clone(&self.quarantine),
            revocations: Arc::clone(&self.revocations),
            cited: Cited::default(),
            is_for_one: true,
        }
    }

    /// Whether `principal` may reach nothing for now, from a connection that shows this.
    pub(crate) fn is_quarantined(&self, principal: &Principal, shown: &Shown) -> bool {
        let peer = self.snapshot.peer(shown);
        self.quarantine.iter().any(|selector| selector.selects(principal, &peer))
    }

    /// Whether the token that proves `principal` counts no longer.
    pub(crate) fn is_revoked(&self, principal: &Principal) -> bool {
        let covers = |token: &Arc<TokenFacts>| self.revocations.covers(token, SystemTime::now());
        principal.token.as_ref().is_some_and(covers)
    }
}

/// What a proxy is made of.
#[derive(Debug)]
pub struct Parts {
    /// The first snapshot.
    pub snapshot: Snapshot,
    /// Checks credentials.
    pub authenticator: Authenticator,
    /// Resolves allowed names.
    pub resolver: Resolver,
    /// Takes the audit records.
    pub audit: AuditLog,
    /// The limits.
    pub limits: Limits,
    /// Whether clients may speak HTTP/2.
    pub http2: bool,
    /// Whether `/proxy.pac` is served.
    pub pac: bool,
    /// The load balancers that begin each connection with a PROXY header (version 2), and say in it who the client is.
    pub proxy_protocol_from: Vec<IpBlock>,
    /// The addresses that stand for names on redirected connections, if there are any.
    pub virtual_names: Option<Arc<VirtualNames>>,
    /// What clients were told of names, if redirected connections are judged by that.
    pub answers: Option<Arc<Answers>>,
}

/// What all connections share.
pub(crate) struct Shared {
    current: ArcSwap<Current>,
    /// Told when another snapshot decides.
    pub(crate) replaced: Notify,
    /// Held while `current` is replaced, so that changes come one after the other; and where the quarantine is kept.
    pub(crate) kept: Mutex<Kept>,
    pub(crate) authenticator: Authenticator,
    /// Slows down who guesses.
    pub(crate) defence: Defence<Source>,
    /// Spares who was just right the looking up.
    pub(crate) lately: Lately,
    pub(crate) resolver: Resolver,
    pub(crate) audit: AuditLog,
    pub(crate) limits: Arc<Limits>,
    /// Whether clients may speak HTTP/2.
    pub(crate) http2: bool,
    pub(crate) resources: Resources,
    pub(crate) proxy_protocol_from: Vec<IpBlock>,
    pub(crate) virtual_names: Option<Arc<VirtualNames>>,
    pub(crate) answers: Option<Arc<Answers>>,
    /// This instance's name in `Via` and `Proxy-Status`: random, so that a loop through it is told from a chain of
    /// instances.
    pub(crate) instance: String,
    requests: AtomicU64,
    pub(crate) flows: Arc<Flows>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) refusals: Refusals,
    pub(crate) handshakes: Handshakes,
    pub(crate) traffic: Traffic,
    pub(crate) pool: Arc<Pool>,
    /// What bulk is relayed through.
    pub(crate) pipes: Pipes,
    /// Who is asked about what no rule covers.
    pub(crate) asks: OnceLock<Arc<dyn Asks>>,
    /// Who can tell which process made a connection.
    pub(crate) processes: OnceLock<Arc<dyn Processes>>,
}

impl Shared {
    /// # Errors
    /// If the system gives no random bytes.
    pub(crate) fn new(parts: Parts) -> Result<Self, getrandom::Error> {
        let current = Current {
            epoch: 0,
            snapshot: Arc::new(parts.snapshot),
            quarantine: Arc::default(),
            revocations: Arc::default(),
            cited: Cited::default(),
            is_for_one: false,
        };
        Ok(Self {
            current: ArcSwap::from_pointee(current),
            replaced: Notify::default(),
            kept: Mutex::default(),
            authenticator: parts.authenticator,
            defence: Defence::default(),
            lately: Lately::default(),
            resolver: parts.resolver,
            audit: parts.audit,
            limits: Arc::new(parts.limits),
            http2: parts.http2,
            resources: Resources { pac: parts.pac },
            proxy_protocol_from: parts.proxy_protocol_from,
            virtual_names: parts.virtual_names,
            answers: parts.answers,
            instance: format!("exeat-{:08x}", getrandom::u32()?),
            requests: AtomicU64::new(0),
            flows: Arc::new(Flows::new()),
            metrics: Arc::default(),
            refusals: Refusals::default(),
            handshakes: Handshakes::default(),
            traffic: Traffic::default(),
            pool: Arc::new(Pool::new(&parts.limits)),
            pipes: Pipes::default(),
            asks: OnceLock::new(),
            processes: OnceLock::new(),
        })
    }

    /// What new requests are decided by.
    pub(crate) fn current(&self) -> Arc<Current> {
        self.current.load_full()
    }

    /// Decides new requests by `snapshot` from now on. The open flows are for [`Self::sweep`].
    pub(crate) fn replace(&self, snapshot: Snapshot) -> Arc<Current> {
        let _one_at_a_time = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.current();
        key_source::take_over(&snapshot.key_sources, &now.snapshot.key_sources);
        let now =
            self.make_current(Arc::new(snapshot), Arc::clone(&now.quarantine), Arc::clone(&now.revocations));
        self.replaced.notify_one();
        now
    }

    /// Lets what decides be asked again by every open flow, since something that it holds has changed.
    pub(crate) fn renew(&self) -> Arc<Current> {
        let _one_at_a_time = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.current();
        self.make_current(
            Arc::clone(&now.snapshot),
            Arc::clone(&now.quarantine),
            Arc::clone(&now.revocations),
        )
    }

    /// Lets nobody in `quarantine` reach anything from now on. The caller holds `kept`.
    pub(crate) fn set_quarantine(&self, quarantine: Arc<BTreeSet<Selector>>) -> Arc<Current> {
        let now = self.current();
        self.make_current(Arc::clone(&now.snapshot), quarantine, Arc::clone(&now.revocations))
    }

    /// Lets no token count that `revocations` cover, from now on. The caller holds `kept`.
    pub(crate) fn set_revocations(&self, revocations: Arc<Revocations>) -> Arc<Current> {
        let now = self.current();
        self.make_current(Arc::clone(&now.snapshot), Arc::clone(&now.quarantine), revocations)
    }

    fn make_current(
        &self,
        snapshot: Arc<Snapshot>,
        quarantine: Arc<BTreeSet<Selector>>,
        revocations: Arc<Revocations>,
    ) -> Arc<Current> {
        let epoch = self.current.load().epoch + 1;
        let cited = Cited::default();
        let current =
            Arc::new(Current { epoch, snapshot, quarantine, revocations, cited, is_for_one: false });
        self.current.store(Arc::clone(&current));
        current
    }

    /// Decides on every open flow by `now`.
    pub(crate) fn sweep(&self, now: &Arc<Current>) {
        let Swept { kept, ended } = self.flows.sweep(now);
        tracing::info!(revision = %now.snapshot.policy.revision(), kept, ended, "open flows decided on again");
    }

    /// Whether connections from `ip` begin with a PROXY header.
    pub(crate) fn is_sender(&self, ip: IpAddr) -> bool {
        let ip = CanonicalIp::from(ip);
        self.proxy_protocol_from.iter().any(|block| block.contains(ip))
    }

    /// Returns an id that no other request of this instance has.
    pub(crate) fn next_request_id(&self) -> Arc<str> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let instance = self.instance.strip_prefix("exeat-").unwrap_or(&self.instance);
        let mut id = String::with_capacity(instance.len() + "-0123456789abcdef".len());
        id.push_str(instance);
        id.push('-');
        push_hex(&mut id, number);
        id.into()
    }

    /// Counts a limit that somebody is over, and returns what they are told.
    pub(crate) fn over(&self, over: Over) -> Refusal {
        self.metrics.limits.count(over.limit);
        Refusal::new(over.reason)
    }

    /// Who signs a refusal of the request of `trail`.
    pub(crate) fn signature<'a>(&'a self, trail: &'a Trail) -> Signature<'a> {
        let takes_tokens = !self.current.load().snapshot.issuers.is_empty();
        Signature { instance: &self.instance, request_id: trail.request_id(), takes_tokens }
    }

    /// Hands over the record of what has happened, whether or not it can be kept, and counts what it says.
    pub(crate) fn note(&self, record: Record) {
        let record = self.with_process(record);
        self.count(Counted::of(&record, &self.traffic));
        self.audit.note(&record);
    }

    /// Hands over the record of a decision that is about to take effect, and counts what it says if that is kept. If
    /// nothing is allowed without a record, waits until it is written.
    ///
    /// # Errors
    /// If no record can be kept at present and nothing is allowed without.
    pub(crate) async fn record(&self, record: Record) -> Result<(), AuditUnavailable> {
        let record = self.with_process(record);
        let counted = Counted::of(&record, &self.traffic);
        let kept = match self.audit.record(&record) {
            Ok(receipt) => receipt.kept().await,
            Err(unavailable) => Err(unavailable),
        };
        if kept.is_ok() || !counted.told.is_promise() {
            self.count(counted);
        }
        kept
    }

    fn count(&self, Counted { told, refused, moved }: Counted) {
        self.metrics.note(&told);
        if let Some(refused) = refused {
            self.refusals.note(refused);
        }
        if let Some(moved) = moved {
            self.traffic.add(moved);
        }
    }

    /// Records that a request is allowed whose record is made at its end, if nothing is allowed without a record. It is
    /// counted at its end.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub(crate) async fn record_ahead(&self, trail: &Trail) -> Result<(), AuditUnavailable> {
        if !self.audit.is_required() {
            return Ok(());
        }
        self.audit.record(&trail.record(Event::Decision, None))?.kept().await
    }

    /// Records a refusal. It stands whether or not it can be recorded.
    pub(crate) fn record_refusal(&self, trail: &mut Trail, event: Event, refusal: &Refusal) {
        trail.status = Some(refusal.status);
        let ending = match event {
            Event::Request => Some(Ending::nothing_moved(refusal.reason.token())),
            Event::Decision | Event::End | Event::Dns | Event::Packet | Event::Control | Event::Lost => None,
        };
        self.note(trail.record(event, ending));
    }
}

/// Appends `number` as `{:x}` does, which takes several times as long.
fn push_hex(text: &mut String, number: u64) {
    let digits = (u64::BITS - number.leading_zeros()).div_ceil(4).max(1);
    let digit = |place: u32| char::from_digit(u32::try_from(number >> (4 * place) & 15).ok()?, 16);
    text.extend((0..digits).rev().filter_map(digit));
}

/// What is counted of a record, taken from it before it is handed on.
struct Counted {
    told: Told,
    refused: Option<Refused>,
    moved: Option<Moved>,
}

impl Counted {
    fn of(record: &Record, traffic: &Traffic) -> Self {
        Self { told: Told::of(record), refused: Refused::of(record), moved: traffic.moved(record) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_requests_are_hexadecimal() {
        for number in [0, 1, 9, 10, 15, 16, 255, 256, 0xfff, 0x1000, 0xdead_beef, u64::MAX] {
            let mut text = String::from("a-");
            push_hex(&mut text, number);
            assert_eq!(text, format!("a-{number:x}"));
        }
    }
}
