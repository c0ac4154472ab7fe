//! What all connections of one proxy share, and the snapshot that they decide by.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use exeat_audit::{AuditLog, AuditUnavailable, Event, Record};
use exeat_dns::Resolver;
use exeat_identity::{Authenticator, Clients, Principal};
use exeat_policy::PolicySet;

use crate::{
    flows::Flows,
    limits::Limits,
    pool::Pool,
    respond::{Refusal, Signature},
    trail::{Ending, Trail},
};

/// Who may ask and what they may reach: one immutable load of the configuration.
#[derive(Debug)]
pub struct Snapshot {
    /// The compiled policies.
    pub policy: PolicySet,
    /// The password principals, bound to `policy`.
    pub clients: Clients,
    /// Who asks when no credentials are sent; `None` answers 407.
    pub anonymous: Option<Arc<Principal>>,
    /// Whether a refusal may tell the smallest entry that would allow the request.
    pub disclose: bool,
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
}

/// What all connections share.
pub(crate) struct Shared {
    snapshot: ArcSwap<Snapshot>,
    pub(crate) authenticator: Authenticator,
    pub(crate) resolver: Resolver,
    audit: AuditLog,
    pub(crate) limits: Limits,
    /// This instance's name in `Via` and `Proxy-Status`: random, so that a loop through it is told from a chain of
    /// instances.
    pub(crate) instance: String,
    requests: AtomicU64,
    pub(crate) flows: Arc<Flows>,
    pub(crate) pool: Arc<Pool>,
}

impl Shared {
    /// # Errors
    /// If the system gives no random bytes.
    pub(crate) fn new(parts: Parts) -> Result<Self, getrandom::Error> {
        Ok(Self {
            snapshot: ArcSwap::from_pointee(parts.snapshot),
            authenticator: parts.authenticator,
            resolver: parts.resolver,
            audit: parts.audit,
            limits: parts.limits,
            instance: format!("exeat-{:08x}", getrandom::u32()?),
            requests: AtomicU64::new(0),
            flows: Arc::new(Flows::new()),
            pool: Arc::new(Pool::new(&parts.limits)),
        })
    }

    /// The snapshot that new requests are decided by.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub(crate) fn replace(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
    }

    /// Returns an id that no other request of this instance has.
    pub(crate) fn next_request_id(&self) -> Arc<str> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let instance = self.instance.strip_prefix("exeat-").unwrap_or(&self.instance);
        format!("{instance}-{number:x}").into()
    }

    /// Who signs a refusal of the request of `trail`.
    pub(crate) fn signature<'a>(&'a self, trail: &'a Trail) -> Signature<'a> {
        Signature { instance: &self.instance, request_id: trail.request_id() }
    }

    /// Hands over a record.
    ///
    /// # Errors
    /// If no record can be kept at present and nothing is allowed without.
    pub(crate) fn record(&self, record: Record) -> Result<(), AuditUnavailable> {
        self.audit.record(record)
    }

    /// Looks ahead, for a request whose one record is made at its end.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub(crate) fn check_audit(&self) -> Result<(), AuditUnavailable> {
        self.audit.check()
    }

    /// Records a refusal. It stands whether or not it can be recorded.
    pub(crate) fn record_refusal(&self, trail: &mut Trail, event: Event, refusal: &Refusal) {
        trail.status = Some(refusal.status);
        let ending = match event {
            Event::Request => Some(Ending::nothing_moved(refusal.reason.token())),
            Event::Decision | Event::End | Event::Lost => None,
        };
        let _ = self.record(trail.record(event, ending));
    }
}
