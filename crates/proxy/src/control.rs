//! What an operator may do to a running proxy besides giving it a new policy: look at its flows, cut them, and keep
//! principals from reaching anything.

use std::{
    path::Path,
    sync::{Arc, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use exeat_identity::Principal;
use exeat_policy::Reason;

use crate::{
    flows::{FlowFilter, FlowView},
    listen::Proxy,
    quarantine::{self, Kept, StateError},
    refused::RefusedView,
    revocations::{Revocations, Revoked},
    selector::Selector,
    traffic::TrafficView,
};

impl Proxy {
    /// Returns a number that grows with every change of what decides: a new policy, a quarantine, a revocation.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.shared.current().epoch
    }

    /// Returns every live flow, the oldest first. Holds no flow up for longer than it takes to copy it.
    #[must_use]
    pub fn flows(&self) -> Vec<FlowView> {
        self.shared.flows.views()
    }

    /// Returns who moves how much to where. From now on, and until nobody has asked for a minute, flows that end are
    /// added up for the next time.
    #[must_use]
    pub fn traffic(&self) -> TrafficView {
        self.shared.traffic.look(self.shared.flows.moved())
    }

    /// Returns what was refused to whom, the newest first: the rows that there is room for.
    #[must_use]
    pub fn refusals(&self) -> Vec<RefusedView> {
        self.shared.refusals.rows()
    }

    /// How long the proxy has been there.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.shared.traffic.uptime()
    }

    /// Ends the flows that `which` means, within a second, with `reason`. Returns how many they are.
    pub fn cut(&self, which: &FlowFilter, reason: Reason) -> usize {
        self.shared.flows.cut_some(which, reason)
    }

    /// Ends, within a second, the flows on connections whose client certificate is over or revoked by now.
    pub fn end_unproven(&self) {
        self.shared.flows.end_unproven();
    }

    /// Keeps the quarantine and the revocations in `directory` from now on, and takes over what is kept there. Returns how
    /// many selectors are in quarantine. Reads a file, so call it before the first listener is served.
    ///
    /// # Errors
    /// If a file exists and cannot be read, or is not one that [`Self::quarantine`] or [`Self::revoke`] wrote.
    pub fn keep_state(&self, directory: &Path) -> Result<usize, StateError> {
        let mut kept = self.kept();
        let revocations = Revocations::open(directory)?;
        let found = kept.open(directory)?;
        self.shared.set_revocations(Arc::new(revocations));
        let count = found.len();
        let now = self.shared.set_quarantine(Arc::new(found));
        self.shared.flows.end_quarantined(&now);
        self.shared.flows.end_revoked(&now);
        Ok(count)
    }

    /// Refuses everything to the principals that `selector` means, from now on, and ends their flows within a second,
    /// all with `policy_changed`. Returns how many flows those are. Waits for the disk if there is a state directory.
    ///
    /// # Errors
    /// [`StateError::TooMany`] if nothing was done. [`StateError::Write`] if the state could not be written: the
    /// quarantine holds all the same, until a restart.
    pub fn quarantine(&self, selector: Selector) -> Result<usize, StateError> {
        let kept = self.kept();
        let more = quarantine::with(&self.shared.current().quarantine, selector)?;
        let now = self.shared.set_quarantine(Arc::new(more));
        let ended = self.shared.flows.end_quarantined(&now);
        kept.write(&now.quarantine)?;
        Ok(ended)
    }

    /// Ends a quarantine. Returns whether there was one. Waits for the disk if there is a state directory.
    ///
    /// # Errors
    /// If the state could not be written: then the quarantine still holds.
    pub fn release(&self, selector: &Selector) -> Result<bool, StateError> {
        let kept = self.kept();
        let mut fewer = (*self.shared.current().quarantine).clone();
        if !fewer.remove(selector) {
            return Ok(false);
        }
        kept.write(&fewer)?;
        self.shared.set_quarantine(Arc::new(fewer));
        Ok(true)
    }

    /// Returns what is in quarantine, in order.
    #[must_use]
    pub fn quarantined(&self) -> Vec<Selector> {
        self.shared.current().quarantine.iter().cloned().collect()
    }

    /// Lets no token count that `revoked` means, from now on, and ends their flows within a second, all with
    /// `token_revoked`. It holds until all tokens have ended that were issued before; of a key, until it is lifted. Returns
    /// how many flows end. Waits for the disk if there is a state directory.
    ///
    /// # Errors
    /// [`StateError::TooManyRevocations`] if nothing was done. [`StateError::Write`] if the state could not be written: the
    /// revocation holds all the same, until a restart.
    pub fn revoke(&self, revoked: Revoked) -> Result<usize, StateError> {
        let kept = self.kept();
        let current = self.shared.current();
        let longest = current.snapshot.issuers.longest_life();
        let more = current.revocations.with(revoked, longest, SystemTime::now())?;
        let now = self.shared.set_revocations(Arc::new(more));
        let ended = self.shared.flows.end_revoked(&now);
        if let Some(directory) = kept.directory() {
            now.revocations.write(directory)?;
        }
        Ok(ended)
    }

    /// Whether revocations and quarantines are kept over a restart.
    #[must_use]
    pub fn keeps_state(&self) -> bool {
        self.kept().directory().is_some()
    }

    /// Whether a revocation can mean any token of the issuers of now: that of a key whose name none has is most likely a
    /// slip.
    #[must_use]
    pub fn may_mean(&self, revoked: &Revoked) -> bool {
        match revoked {
            Revoked::Key(name) => self.shared.current().snapshot.issuers.has_key(name),
            Revoked::Token(_) | Revoked::Container(_) | Revoked::Organization(_) => true,
        }
    }

    /// Lifts a revocation. Returns whether there was one. Waits for the disk if there is a state directory.
    ///
    /// # Errors
    /// If the state could not be written: then the revocation still holds.
    pub fn lift(&self, revoked: &Revoked) -> Result<bool, StateError> {
        let kept = self.kept();
        let Some(fewer) = self.shared.current().revocations.without(revoked) else { return Ok(false) };
        if let Some(directory) = kept.directory() {
            fewer.write(directory)?;
        }
        self.shared.set_revocations(Arc::new(fewer));
        Ok(true)
    }

    /// Whether the token that proves `principal` is revoked.
    #[must_use]
    pub fn is_revoked(&self, principal: &Principal) -> bool {
        self.shared.current().is_revoked(principal)
    }

    /// Returns what is revoked, in order, each with the time until which it holds, if it has an end.
    #[must_use]
    pub fn revocations(&self) -> Vec<(Revoked, Option<SystemTime>)> {
        self.shared.current().revocations.holding(SystemTime::now())
    }

    /// Nobody else changes what decides while this is held.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
