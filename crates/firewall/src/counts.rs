//! What the firewall has done so far, in numbers.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::refused::Fate;

/// Numbers of a firewall since it started. Each is right by itself; together they are not of one moment.
#[derive(Debug, Default)]
pub struct Counts {
    commits: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    spoofed: AtomicU64,
    watched: AtomicU64,
    expired: AtomicU64,
    reinstalls: AtomicU64,
    cut: AtomicU64,
    full: AtomicU64,
    openings: AtomicU64,
    is_in_force: AtomicBool,
    /// When the change began that the kernel has not been told all of.
    behind: Mutex<Option<Instant>>,
}

/// The numbers at one time.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counted {
    /// Changes that the kernel has carried out.
    pub commits: u64,
    /// Changes that it has refused.
    pub failed: u64,
    /// Packets on record that were refused.
    pub refused: u64,
    /// Packets on record whose source is not the sender's own.
    pub spoofed: u64,
    /// Packets on record that only report mode let through.
    pub watched: u64,
    /// Packets on record to what a name had opened for their client, too late.
    pub expired: u64,
    /// How often the rules were set again because somebody else had changed them.
    pub reinstalls: u64,
    /// Flows that a change of policy has cut.
    pub cut: u64,
    /// Names that there was no room for.
    pub full: u64,
    /// Addresses that names have opened for clients.
    pub openings: u64,
    /// Whether the rules of what decides are in force.
    pub is_in_force: bool,
    /// For how long what decides has been newer than what the kernel was told; zero if it is not.
    pub behind: Duration,
}

impl Counts {
    /// Returns the numbers.
    #[must_use]
    pub fn get(&self) -> Counted {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Counted {
            commits: load(&self.commits),
            failed: load(&self.failed),
            refused: load(&self.refused),
            spoofed: load(&self.spoofed),
            watched: load(&self.watched),
            expired: load(&self.expired),
            reinstalls: load(&self.reinstalls),
            cut: load(&self.cut),
            full: load(&self.full),
            openings: load(&self.openings),
            is_in_force: self.is_in_force.load(Ordering::Relaxed),
            behind: self.behind().map(|since| since.elapsed()).unwrap_or_default(),
        }
    }

    /// Something else decides from now on, or still does.
    pub(crate) fn change_begins(&self) {
        self.behind().get_or_insert_with(Instant::now);
    }

    /// The kernel was told all of it.
    pub(crate) fn change_ends(&self) {
        *self.behind() = None;
    }

    fn behind(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn committed(&self, is_done: bool) {
        add(if is_done { &self.commits } else { &self.failed }, 1);
    }

    pub(crate) fn packet(&self, fate: Fate, is_late: bool) {
        add(
            match fate {
                Fate::Refused => &self.refused,
                Fate::Spoofed => &self.spoofed,
                Fate::Watched => &self.watched,
            },
            1,
        );
        add(&self.expired, is_late.into());
    }

    pub(crate) fn reinstalled(&self) {
        add(&self.reinstalls, 1);
    }

    pub(crate) fn cut(&self, flows: usize) {
        add(&self.cut, flows as u64);
    }

    pub(crate) fn full(&self) {
        add(&self.full, 1);
    }

    pub(crate) fn open(&self, openings: usize) {
        self.openings.store(openings as u64, Ordering::Relaxed);
    }

    pub(crate) fn in_force(&self, is_it: bool) {
        self.is_in_force.store(is_it, Ordering::Relaxed);
    }
}

fn add(number: &AtomicU64, more: u64) {
    number.fetch_add(more, Ordering::Relaxed);
}
