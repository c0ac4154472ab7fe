//! The principals of one configuration that are known by a client certificate.

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use exeat_policy::{Caps, Label, Labels, PolicySet};
use moka::sync::Cache;

use crate::{
    certificate::{Certificate, Instance},
    peer::Place,
    principal::{Principal, Proof},
};

/// App instances whose principals are remembered, at about 500 bytes each: more than one proxy serves.
const INSTANCES_MAX: u64 = 10_000;

/// Tells whether a certificate that was fine at the handshake still is: not revoked, by what is known now.
pub type StillGood = Box<dyn Fn() -> bool + Send + Sync>;

/// A certificate that a client has proven to hold.
pub struct Presented {
    certificate: Option<Certificate>,
    still_good: StillGood,
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presented").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Presented {
    /// Returns what a verified certificate in DER says. One that says nothing of use is nobody's.
    #[must_use]
    pub fn new(der: &[u8], still_good: StillGood) -> Self {
        Self { certificate: Certificate::read(der).ok(), still_good }
    }

    /// Whether it is good at `now`: not over, and not revoked.
    #[must_use]
    pub fn is_good(&self, now: SystemTime) -> bool {
        let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let is_over = |certificate: &Certificate| {
            u64::try_from(certificate.not_after).map_or(true, |not_after| seconds > not_after)
        };
        !self.certificate.as_ref().is_some_and(is_over) && (self.still_good)()
    }
}

/// Which certificates are meant. What is `None` may be anything; all that is set must hold.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Match {
    /// The SPIFFE ID, or what all of them are below: `spiffe://example.org/jobs/*`.
    pub spiffe: Option<String>,
    /// One of the DNS names, in lower case.
    pub dns: Option<String>,
    /// The common name.
    pub common_name: Option<String>,
    /// Whether it has to be that of a Cloud Foundry app instance.
    pub cloud_foundry: bool,
}

/// How closely a match describes. Of two that hold, the higher one counts; of two that are the same, neither.
type Rank = (bool, usize, bool, bool, bool);

impl Match {
    fn rank(&self) -> Rank {
        let spiffe = self.spiffe.as_deref();
        (
            spiffe.is_some_and(|id| !id.ends_with('*')),
            spiffe.map_or(0, str::len),
            self.dns.is_some(),
            self.common_name.is_some(),
            self.cloud_foundry,
        )
    }

    fn holds_for(&self, certificate: &Certificate) -> bool {
        let Self { spiffe, dns, common_name, cloud_foundry } = self;
        spiffe.as_deref().is_none_or(|pattern| certificate.has_spiffe(pattern))
            && dns.as_ref().is_none_or(|name| certificate.dns.contains(name))
            && common_name.as_ref().is_none_or(|name| certificate.common_name.as_ref() == Some(name))
            && (!cloud_foundry || certificate.instance.is_some())
    }
}

/// Those who are known by certificates that a [`Match`] means.
#[derive(Debug)]
pub struct Holder {
    /// Its name in the configuration.
    pub name: Box<str>,
    /// Which certificates.
    pub matches: Match,
    /// Whether the connection has to come from an address in the certificate.
    pub same_address: bool,
    /// Its policies by name, all of which exist.
    pub policies: Vec<String>,
    /// Its labels; those in the certificate come on top.
    pub labels: Labels,
    /// What each of its flows may come to.
    pub caps: Caps,
}

/// What a certificate on a connection proves.
#[derive(Clone, Debug, Default)]
pub(crate) enum Shows {
    /// There is none, or it is nobody's.
    #[default]
    Nothing,
    /// It is over, or revoked.
    Bad,
    /// It is to be used from another address.
    Elsewhere,
    /// Who asks.
    Holder(Arc<Principal>),
}

/// The certificate principals of a configuration snapshot; never changed once requests can see it.
#[derive(Debug)]
pub struct Certificates {
    all: Vec<(Holder, Arc<Principal>)>,
    instances: Cache<(usize, String), Arc<Principal>>,
}

impl Default for Certificates {
    fn default() -> Self {
        Self { all: Vec::new(), instances: Cache::new(INSTANCES_MAX) }
    }
}

impl Certificates {
    /// Returns a set without holders: every certificate is nobody's.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a holder, bound to `policy`.
    pub fn insert(&mut self, holder: Holder, policy: &PolicySet) {
        let principal = Arc::new(principal(&holder, policy, &holder.name, holder.labels.clone()));
        self.all.push((holder, principal));
    }

    /// Returns the principal of each holder, as it is without what a certificate adds.
    pub fn principals(&self) -> impl Iterator<Item = &Arc<Principal>> {
        self.all.iter().map(|(_, principal)| principal)
    }

    /// Returns what `presented` proves at `now` for a connection from `place`.
    pub(crate) fn shows(
        &self,
        presented: Option<&Presented>,
        place: &Place,
        policy: &PolicySet,
        now: SystemTime,
    ) -> Shows {
        let Some(presented) = presented else { return Shows::Nothing };
        if !presented.is_good(now) {
            return Shows::Bad;
        }
        let Some(certificate) = &presented.certificate else { return Shows::Nothing };
        let Some((at, (holder, known))) = self.holder_of(certificate) else { return Shows::Nothing };
        let address = place.address.map(|ip| ip.to_canonical());
        if holder.same_address && !address.is_some_and(|ip| certificate.addresses.contains(&ip)) {
            return Shows::Elsewhere;
        }
        match certificate.instance.as_ref().filter(|_| holder.matches.cloud_foundry) {
            None => Shows::Holder(Arc::clone(known)),
            Some(instance) => Shows::Holder(self.of_instance(at, holder, instance, policy)),
        }
    }

    fn holder_of(&self, certificate: &Certificate) -> Option<(usize, &(Holder, Arc<Principal>))> {
        let fits =
            || self.all.iter().enumerate().filter(|(_, (holder, _))| holder.matches.holds_for(certificate));
        let best = fits().max_by_key(|(_, (holder, _))| holder.matches.rank())?;
        let rank = best.1.0.matches.rank();
        (fits().filter(|(_, (holder, _))| holder.matches.rank() == rank).count() == 1).then_some(best)
    }

    /// Each app is a principal of its own, whose name no client and no workload can have: those have no colon.
    fn of_instance(&self, at: usize, holder: &Holder, of: &Instance, policy: &PolicySet) -> Arc<Principal> {
        let Instance { organization, space, app, instance } = of;
        let key = (at, [organization, space, app, instance].map(String::as_str).join(":"));
        self.instances.get_with(key, || {
            let mut labels = holder.labels.clone();
            labels.set(Label::Organization, organization.as_str());
            labels.set(Label::Space, space.as_str());
            labels.set(Label::App, app.as_str());
            labels.set(Label::Instance, instance.as_str());
            Arc::new(principal(holder, policy, &format!("{}:{app}", holder.name), labels))
        })
    }
}

fn principal(holder: &Holder, policy: &PolicySet, name: &str, labels: Labels) -> Principal {
    let policies: Vec<&str> = holder.policies.iter().map(String::as_str).collect();
    Principal {
        name: name.into(),
        proof: Proof::Certificate,
        bound: policy.bind(&policies, &labels).within(holder.caps),
        labels,
        token: None,
    }
}

#[cfg(test)]
mod tests;
