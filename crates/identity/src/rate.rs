//! How often something may happen: an even rate, and room for those who were quiet before.
//!
//! The generic cell rate algorithm: an account is one instant, at which its next event would be due at the even rate. It
//! may come earlier by as much as the burst. An instant in the past says no more than a new account does, so accounts
//! of the quiet are forgotten. Ten lines of arithmetic; a crate for it would bring a clock and a store of its own.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Shards. Several times the cores of a large machine, so that two sources seldom meet in one.
const SHARDS: usize = 16;
/// Accounts of one shard: with all shards 65 536, at about 50 bytes each.
const ACCOUNTS_MAX: usize = 4096;
/// Accounts that are left at most when room was made: as many as were removed have to come before it is made again.
const ACCOUNTS_KEPT: usize = ACCOUNTS_MAX / 2;

/// Events a second, and how many of them may come at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// Between two events at the even rate.
    interval: Duration,
    /// How far ahead of the even rate an account may be before an event.
    tolerance: Duration,
}

impl Rate {
    /// Returns the rate of so many events `per_second`, of which those of `burst` may come at once, but one at least.
    /// `None` if there is no bound: for 0.
    #[must_use]
    pub fn new(per_second: usize, burst: Duration) -> Option<Self> {
        let per_second = u32::try_from(per_second).unwrap_or(u32::MAX);
        let interval = Duration::from_secs(1).checked_div(per_second)?;
        Some(Self { interval, tolerance: burst.saturating_sub(interval) })
    }

    /// Takes an event at `now` from an account whose next one is `due`; without one it is a new account. Returns when
    /// the one after is due; `None` if it is too early.
    fn take(self, due: Option<Instant>, now: Instant) -> Option<Instant> {
        let due = due.map_or(now, |due| due.max(now));
        let is_early = due.saturating_duration_since(now) > self.tolerance;
        (!is_early).then(|| due + self.interval)
    }
}

/// The accounts of many, of bounded size. When a shard is full, those are forgotten who owe the least: first nothing,
/// then up to half of what anybody can. Who is over the rate is remembered longest.
#[derive(Debug)]
pub struct Accounts<K> {
    shards: [Mutex<HashMap<K, Instant>>; SHARDS],
    hasher: RandomState,
}

impl<K> Default for Accounts<K> {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new() }
    }
}

impl<K: Eq + Hash> Accounts<K> {
    /// Takes an event of `key` at `now`, unless it is too early. Returns whether it did.
    pub fn take(&self, key: K, rate: Rate, now: Instant) -> bool {
        let index = self.hasher.hash_one(&key) % SHARDS as u64;
        let Some(shard) = usize::try_from(index).ok().and_then(|index| self.shards.get(index)) else {
            return true;
        };
        // A shard stays right even if a thread panicked while it held it: each change is one step.
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(due) = rate.take(shard.get(&key).copied(), now) else { return false };
        if shard.len() >= ACCOUNTS_MAX && !shard.contains_key(&key) {
            make_room(&mut shard, rate, now);
        }
        shard.insert(key, due);
        true
    }
}

/// Forgets accounts until few enough are left.
fn make_room<K>(shard: &mut HashMap<K, Instant>, rate: Rate, now: Instant) {
    for forgiven in [Duration::ZERO, (rate.tolerance + rate.interval) / 2, Duration::MAX] {
        shard.retain(|_, due| due.saturating_duration_since(now) > forgiven);
        if shard.len() <= ACCOUNTS_KEPT {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rate(per_second: usize, burst: Duration) -> Rate {
        Rate::new(per_second, burst).unwrap()
    }

    /// How many of `count` events at `now` are taken.
    fn taken(accounts: &Accounts<u32>, key: u32, rate: Rate, now: Instant, count: usize) -> usize {
        (0..count).filter(|_| accounts.take(key, rate, now)).count()
    }

    #[test]
    fn a_burst_and_then_the_even_rate() {
        let start = Instant::now();
        for (name, per_second, burst, at_once, after) in [
            ("ten a second, two seconds' worth", 10, SECOND * 2, 20, 10),
            ("no burst", 10, Duration::ZERO, 1, 1),
            ("a burst of less than one", 1, SECOND / 10, 1, 1),
            ("one a second, five at once", 1, SECOND * 5, 5, 1),
            ("as many as there may be", 1_000_000, SECOND / 100, 10_000, 10_000),
        ] {
            let (accounts, rate) = (Accounts::default(), rate(per_second, burst));
            assert_eq!(taken(&accounts, 1, rate, start, 30_000), at_once, "{name}");
            assert_eq!(taken(&accounts, 1, rate, start + SECOND, 30_000), after, "{name}, a second later");
            assert_eq!(taken(&accounts, 1, rate, start + SECOND * 60, 30_000), at_once, "{name}, rested");
            assert_eq!(taken(&accounts, 2, rate, start, 30_000), at_once, "{name}, another");
        }
        assert_eq!(Rate::new(0, SECOND), None, "no bound");
    }

    #[test]
    fn asking_too_early_costs_nothing() {
        let (accounts, rate, start) = (Accounts::default(), rate(2, Duration::ZERO), Instant::now());
        assert_eq!(taken(&accounts, 1, rate, start, 100), 1);
        assert_eq!(taken(&accounts, 1, rate, start + SECOND / 4, 100), 0);
        assert_eq!(taken(&accounts, 1, rate, start + SECOND / 2, 100), 1);
    }

    #[test]
    fn a_crowd_takes_bounded_memory_and_does_not_wipe_out_who_is_over_the_rate() {
        let (accounts, rate, start) = (Accounts::default(), rate(1, SECOND * 10), Instant::now());
        assert_eq!(taken(&accounts, 0, rate, start, 100), 10);
        for key in 1..200_000 {
            assert!(accounts.take(key, rate, start), "{key}");
        }
        let held: usize = accounts.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert!(held <= SHARDS * ACCOUNTS_MAX, "{held}");
        assert!(!accounts.take(0, rate, start));
        // Those who were quiet since make room for everybody else.
        let later = start + SECOND * 11;
        for key in 200_000..400_000 {
            assert!(accounts.take(key, rate, later), "{key}");
        }
        assert_eq!(taken(&accounts, 0, rate, later, 100), 10);
    }
}
