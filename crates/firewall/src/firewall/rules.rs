//! What the kernel is told: the rules of the plan, and elements of their sets.

use std::{
    collections::HashSet,
    io,
    time::{Duration, Instant},
};

use exeat_model::DnsName;

use super::{Config, FirewallError, Working};
use crate::{
    element::Element,
    kernel::ELEMENTS_PER_BATCH,
    nft::{self, NftError},
    script::{self, kept_sets},
    wire::{Batch, Put},
};

/// Times that the rules are set before it is given up for now, because somebody else changes theirs at the same time. It
/// takes some 10 ms each time.
const ATTEMPTS: usize = 5;

impl Working {
    /// Sets the rules of the plan. What has been opened by name stays open throughout, if it was.
    pub(super) fn apply(&mut self, config: &Config) -> Result<(), FirewallError> {
        // Somebody may change them between our look at what is there and what we make of it.
        let mut result = self.try_apply(config);
        for _ in 1..ATTEMPTS {
            if result.is_ok() {
                break;
            }
            result = self.try_apply(config);
        }
        result
    }

    fn try_apply(&mut self, config: &Config) -> Result<(), FirewallError> {
        self.groups = config.locate()?;
        let frame = config.frame(&self.groups);
        let old = self.kernel.contents()?;
        self.serial += 1;
        while old.as_ref().is_some_and(|old| old.has_serial(self.serial)) {
            self.serial += 1;
        }
        let mut is_new = old.is_none();
        let mut before = self.kernel.generation()?;
        let result = nft::run(&script::script(&self.plan, &frame, old.as_ref(), self.serial));
        match (result, &old) {
            (Err(NftError::Refused { complaint }), Some(_)) => {
                tracing::warn!(%complaint, "the table of the firewall is made anew");
                is_new = true;
                let fresh = script::script(&self.plan, &frame, None, self.serial);
                before = self.kernel.generation()?;
                nft::run(&(script::removal() + &fresh))?;
            }
            (result, _) => result?,
        }
        let fingerprint = self.kernel.fingerprint()?;
        // What was taken is what we have set only if nothing else has changed meanwhile.
        if self.kernel.generation()? != before.wrapping_add(1) {
            return Err(FirewallError::Interrupted);
        }
        if is_new {
            self.put_all(config)?;
        }
        self.in_force = fingerprint;
        self.counts.in_force(fingerprint.is_some());
        Ok(())
    }

    pub(super) fn not_in_force(&mut self) {
        self.in_force = None;
        self.counts.in_force(false);
    }

    /// Tells the kernel everything again that is open.
    fn put_all(&mut self, config: &Config) -> io::Result<()> {
        let now = Instant::now();
        let known: HashSet<String> = kept_sets(&self.plan).into_iter().map(|(name, _)| name).collect();
        let mut puts = Vec::new();
        for view in self.state.views() {
            let lifetime = view.entry.until.saturating_duration_since(now).min(config.lifetime);
            let elements = view.entry.elements.iter().filter(|element| known.contains(&element.set()));
            if !lifetime.is_zero() {
                puts.extend(elements.map(|element| put(*element, lifetime, view.name)));
            }
        }
        self.put(&puts)
    }

    pub(super) fn put(&mut self, puts: &[Put]) -> io::Result<()> {
        for puts in puts.chunks(ELEMENTS_PER_BATCH) {
            let mut batch = Batch::default();
            batch.put(puts, self.kernel.renews_in_place());
            self.kernel.commit(batch)?;
            // What is opened again stays.
            puts.iter().for_each(|put| {
                self.leaving.remove(&put.element);
            });
        }
        Ok(())
    }
}

pub(super) fn put(element: Element, lifetime: Duration, name: &DnsName) -> Put {
    Put { element, lifetime, comment: name.as_str().to_owned() }
}
