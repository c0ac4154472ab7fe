//! What a connection itself proves, before anything that is said on it: the workload that it comes from, and its
//! certificate.

use std::{net::IpAddr, path::Path, sync::Arc, time::SystemTime};

use exeat_policy::PolicySet;

use crate::{
    certificates::{Certificates, Presented, Shows},
    principal::{AuthnError, Principal, Proof},
    workloads::Workload,
};

/// Where a connection comes from, as the system that accepted it tells. Nothing that a client says is part of it, except
/// through a sender of PROXY headers that the operator trusts to speak for others.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Place {
    /// Its address; `None` on a unix socket.
    pub address: Option<IpAddr>,
    /// The network device that it came in by, if its listener takes connections of one only.
    pub interface: Part<Arc<str>>,
    /// The unix socket that it came to, as the configuration names it.
    pub socket: Option<Arc<Path>>,
    /// The user who opened it, of a client on this host.
    pub user: Part<u32>,
    /// The control group (version 2) of the process that opened it on a unix socket.
    pub cgroup: Part<Arc<str>>,
}

/// A part of a place that the system has to be asked for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Part<T> {
    /// It is this.
    Known(T),
    /// It certainly is none that a workload could be known by.
    #[default]
    Nothing,
    /// It may be any: the system was not asked, or does not tell for certain.
    Unknown,
}

impl<T> Part<T> {
    /// Returns what is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(part) => Some(part),
            Self::Nothing | Self::Unknown => None,
        }
    }
}

/// The proofs that a listener demands of every request, all of them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Demand(u8);

impl Demand {
    /// Returns the same with one more proof.
    #[must_use]
    pub const fn and(self, proof: Proof) -> Self {
        Self(self.0 | 1 << proof as u8)
    }

    /// Whether `proof` is demanded.
    #[must_use]
    pub const fn has(self, proof: Proof) -> bool {
        self.0 & (1 << proof as u8) != 0
    }

    /// Whether anything is.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether one of the proofs that a request carries itself is.
    const fn has_credentials(self) -> bool {
        self.has(Proof::Password) || self.has(Proof::Token)
    }
}

/// What a connection shows for as long as it is open, whichever snapshot looks at it.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Where it comes from.
    pub place: Place,
    /// What its listener demands.
    pub demand: Demand,
    /// The certificate that was presented in the handshake.
    pub certificate: Option<Arc<Presented>>,
}

/// The other end of a connection, as one snapshot knows it.
#[derive(Clone, Debug, Default)]
pub struct Peer<'a> {
    workload: Option<&'a Workload>,
    /// Whether it may come from a workload that cannot be told from others, or from nowhere.
    is_uncertain: bool,
    demand: Demand,
    certificate: Shows,
}

impl<'a> Peer<'a> {
    pub(crate) fn new(workload: Option<&'a Workload>, demand: Demand) -> Self {
        Self { workload, is_uncertain: false, demand, certificate: Shows::Nothing }
    }

    /// Returns one that may come from a workload, and nobody can tell from which.
    pub(crate) fn uncertain(demand: Demand) -> Self {
        Self { is_uncertain: true, ..Self::new(None, demand) }
    }

    /// Whether what cannot be found out could make it come from somewhere else than what is known of it says. Nothing
    /// that comes over it is served.
    #[must_use]
    pub fn is_uncertain(&self) -> bool {
        self.is_uncertain
    }

    /// Returns the same with what its certificate proves at `now`, by `certificates` and the `policy` they are bound to.
    #[must_use]
    pub fn with_certificate(
        self,
        shown: &Shown,
        certificates: &Certificates,
        policy: &PolicySet,
        now: SystemTime,
    ) -> Self {
        let certificate = certificates.shows(shown.certificate.as_deref(), &shown.place, policy, now);
        Self { certificate, ..self }
    }

    fn holder(&self) -> Option<&Arc<Principal>> {
        match &self.certificate {
            Shows::Holder(principal) => Some(principal),
            Shows::Nothing | Shows::Bad | Shows::Elsewhere => None,
        }
    }

    /// The workload that the connection comes from.
    #[must_use]
    pub fn workload(&self) -> Option<&'a Workload> {
        self.workload
    }

    /// The id that a token's container has to be; `None` if the connection comes from no known workload.
    #[must_use]
    pub fn container(&self) -> Option<&'a str> {
        self.workload.map(Workload::container)
    }

    /// Whether a request may do without credentials, where `is_anonymous_let_in` says whether one that shows nothing may.
    #[must_use]
    pub fn may_be_silent(&self, is_anonymous_let_in: bool) -> bool {
        !self.is_uncertain
            && !self.demand.has_credentials()
            && match (self.holder(), self.workload) {
                (Some(_), _) => true,
                (None, Some(workload)) => workload.is_proof(),
                (None, None) => is_anonymous_let_in && self.demand.is_empty(),
            }
    }

    /// Checks what the listener demands of the connection itself. It comes before credentials are looked at: whoever is
    /// in the wrong place learns nothing of them.
    ///
    /// # Errors
    /// [`AuthnError::Invalid`] if its certificate is over or revoked. [`AuthnError::ContainerMismatch`] if that is for
    /// another address, if the listener demands an origin or a certificate and there is none, or if it is uncertain where
    /// it comes from.
    pub(crate) fn check_shown(&self) -> Result<(), AuthnError> {
        if self.is_uncertain {
            return Err(AuthnError::ContainerMismatch);
        }
        match &self.certificate {
            Shows::Bad => return Err(AuthnError::Invalid),
            Shows::Elsewhere => return Err(AuthnError::ContainerMismatch),
            Shows::Nothing if self.demand.has(Proof::Certificate) => {
                return Err(AuthnError::ContainerMismatch);
            }
            Shows::Nothing | Shows::Holder(_) => {}
        }
        match self.workload {
            None if self.demand.has(Proof::Origin) => Err(AuthnError::ContainerMismatch),
            None | Some(_) => Ok(()),
        }
    }

    /// Returns who asks by the connection alone, with no credentials.
    ///
    /// # Errors
    /// [`AuthnError::Required`] if that is nobody, or not all that is demanded. [`AuthnError::TokenExpired`] if a token makes
    /// that somebody, and its time is over.
    pub fn alone(&self, anonymous: Option<&Arc<Principal>>) -> Result<Arc<Principal>, AuthnError> {
        if !self.may_be_silent(anonymous.is_some()) {
            return Err(AuthnError::Required);
        }
        let known = self.holder().or(self.workload.map(Workload::principal)).or(anonymous);
        let known = known.ok_or(AuthnError::Required)?;
        // A token that everybody is let in by, as the one client there is.
        match &known.token {
            Some(token) if token.ends <= SystemTime::now() => Err(AuthnError::TokenExpired),
            Some(_) | None => Ok(Arc::clone(known)),
        }
    }

    /// Returns who `principal`, whom the connection or the lack of everything proved, is by now; `None` if that is
    /// nobody or somebody else.
    #[must_use]
    pub fn again(&self, principal: &Principal, anonymous: Option<&Arc<Principal>>) -> Option<Arc<Principal>> {
        let now = self.check_shown().and_then(|()| self.alone(anonymous)).ok()?;
        (now.proof == principal.proof && now.name == principal.name).then_some(now)
    }

    /// Checks that credentials which are right are also of the kind that is demanded, and count here. `origins` are the
    /// workloads that they count from; `None` is everywhere.
    ///
    /// # Errors
    /// [`AuthnError::Required`] if another kind is demanded; [`AuthnError::ContainerMismatch`] in another place.
    pub(crate) fn agree(&self, proof: Proof, origins: Option<&[Box<str>]>) -> Result<(), AuthnError> {
        self.check_shown()?;
        if self.demand.has_credentials() && !self.demand.has(proof) {
            return Err(AuthnError::Required);
        }
        let is_here = |origins: &[Box<str>]| {
            self.workload
                .is_some_and(|workload| origins.iter().any(|name| **name == *workload.principal().name))
        };
        match origins {
            Some(origins) if !is_here(origins) => Err(AuthnError::ContainerMismatch),
            Some(_) | None => Ok(()),
        }
    }
}
