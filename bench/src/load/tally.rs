//! What the clients of one run share: whether it counts yet, and what has been counted.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::load::Client;

/// Kinds of errors that are told apart; what comes after them is counted as one kind.
const ERROR_KINDS_MAX: usize = 12;

/// A client that fails waits this long, so that a proxy that is gone is not asked a million times.
const AFTER_ERROR: Duration = Duration::from_millis(2);

const WARM_UP: u8 = 0;
const COUNTING: u8 = 1;
const OVER: u8 = 2;

/// Shared by all clients of a run.
pub(crate) struct Tally {
    /// How they reach the origin.
    pub(crate) client: Client,
    names: Vec<String>,
    next: AtomicU64,
    phase: AtomicU8,
    units: AtomicU64,
    latencies: Mutex<Vec<u32>>,
    errors: Mutex<BTreeMap<String, u64>>,
}

/// A poisoned lock means that a client panicked, which is reported where its task is waited for.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tally {
    pub(crate) fn new(client: Client, names: Vec<String>) -> Self {
        Self {
            client,
            names,
            next: AtomicU64::new(0),
            phase: AtomicU8::new(WARM_UP),
            units: AtomicU64::new(0),
            latencies: Mutex::default(),
            errors: Mutex::default(),
        }
    }

    /// The name that is to be asked for next.
    pub(crate) fn name(&self) -> &str {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % (self.names.len() as u64).max(1);
        usize::try_from(next).ok().and_then(|next| self.names.get(next)).map_or("", String::as_str)
    }

    /// From here on it counts.
    pub(crate) fn begin(&self) {
        self.phase.store(COUNTING, Ordering::Relaxed);
    }

    /// From here on nothing counts. Returns the units that did.
    pub(crate) fn end(&self) -> u64 {
        self.phase.store(OVER, Ordering::Relaxed);
        self.units.load(Ordering::Relaxed)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == OVER
    }

    /// Counts units, if it counts now.
    pub(crate) fn count(&self, units: u64) {
        if self.phase.load(Ordering::Relaxed) == COUNTING {
            self.units.fetch_add(units, Ordering::Relaxed);
        }
    }

    /// Counts one unit and how long it took.
    pub(crate) fn count_timed(&self, began: Instant) {
        if self.phase.load(Ordering::Relaxed) == COUNTING {
            self.units.fetch_add(1, Ordering::Relaxed);
            let microseconds = u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX);
            lock(&self.latencies).push(microseconds);
        }
    }

    /// Counts an error, unless the run is over and connections end for that reason. Waits a little.
    pub(crate) async fn fail(&self, error: io::Error) {
        if !self.is_over() {
            self.note(&error.to_string());
        }
        tokio::time::sleep(AFTER_ERROR).await;
    }

    /// Counts an error.
    pub(crate) fn note(&self, kind: &str) {
        let mut errors = lock(&self.errors);
        let kind = if errors.len() < ERROR_KINDS_MAX || errors.contains_key(kind) { kind } else { "others" };
        *errors.entry(kind.to_owned()).or_default() += 1;
    }

    /// How often what went wrong.
    pub(crate) fn errors(&self) -> BTreeMap<String, u64> {
        lock(&self.errors).clone()
    }

    /// The named quantiles of the latency, in microseconds; none if nothing was timed.
    pub(crate) fn latencies(&self) -> Vec<(&'static str, f64)> {
        let mut latencies = lock(&self.latencies);
        latencies.sort_unstable();
        let at = |share: f64| {
            let last = latencies.len().checked_sub(1)?;
            latencies.get((share * last as f64).round() as usize).map(|&microseconds| f64::from(microseconds))
        };
        let named = [("p50_us", 0.5), ("p99_us", 0.99), ("slowest_us", 1.0)];
        named.into_iter().filter_map(|(name, share)| Some((name, at(share)?))).collect()
    }
}
