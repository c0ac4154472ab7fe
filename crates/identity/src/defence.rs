//! Slows down whoever guesses: each wrong attempt makes the next one wait longer, for that source alone.
//!
//! Nobody can lock another one out. A name that is guessed at from everywhere makes wrong attempts costly sooner, but a
//! source that has not been wrong about it is never made to wait for it; and who has been right from a source goes on,
//! whatever others at the same address do.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    time::{Duration, Instant},
};

use moka::sync::Cache;

/// What each of the three tables remembers at most, at about 100 bytes an entry. When one is full, what was seen least
/// often goes first.
const REMEMBERED_MAX: u64 = 65_536;
/// How long after the last attempt a failure is remembered.
const FAILURE_REMEMBERED: Duration = Duration::from_secs(15 * 60);
/// How long after it was last right a source keeps its standing with a name.
const RIGHT_REMEMBERED: Duration = Duration::from_secs(60 * 60);
/// Wrong attempts of a source with one name that cost nothing: typing errors, and a program that is given a new password.
const PAIR_FREE: u32 = 5;
/// Wrong attempts of a source with any names that cost nothing. Behind one address there may be many.
const SOURCE_FREE: u32 = 30;
/// Wrong attempts with one name, from everywhere, after which the free ones of a source with it are used up by one.
const NAME_FREE: u32 = 100;
/// The first wait; each one after that is twice as long.
const WAIT_FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// What a table counts: the attempts of a source with a name, or of a source with any.
type Key<S> = (S, Option<u64>);

/// What is remembered of wrong attempts.
#[derive(Clone, Copy, Debug)]
struct Failed {
    count: u32,
    until: Instant,
}

/// Remembers who was wrong, within bounds.
#[derive(Debug)]
pub struct Defence<S: Hash + Eq + Send + Sync + 'static> {
    failed: Cache<Key<S>, Failed>,
    /// Wrong attempts with a name, from everywhere.
    names: Cache<u64, u32>,
    right: Cache<Key<S>, ()>,
    /// Seeded: names are kept as numbers that nobody outside can choose.
    hasher: RandomState,
}

impl<S: Copy + Hash + Eq + Send + Sync + 'static> Default for Defence<S> {
    fn default() -> Self {
        let failures = || Cache::builder().max_capacity(REMEMBERED_MAX);
        Self {
            failed: failures().time_to_idle(FAILURE_REMEMBERED).build(),
            names: Cache::builder().max_capacity(REMEMBERED_MAX).time_to_idle(FAILURE_REMEMBERED).build(),
            right: Cache::builder().max_capacity(REMEMBERED_MAX).time_to_idle(RIGHT_REMEMBERED).build(),
            hasher: RandomState::new(),
        }
    }
}

impl<S: Copy + Hash + Eq + Send + Sync + 'static> Defence<S> {
    /// Whether `source` may try credentials with this name at `now`; without a name, credentials that have none.
    #[must_use]
    pub fn may_try(&self, source: S, name: Option<&[u8]>, now: Instant) -> bool {
        let waits = |key: Key<S>| self.failed.get(&key).is_some_and(|failed| failed.until > now);
        match name.map(|name| self.hasher.hash_one(name)) {
            None => !waits((source, None)),
            Some(name) if self.right.contains_key(&(source, Some(name))) => !waits((source, Some(name))),
            Some(name) => !waits((source, Some(name))) && !waits((source, None)),
        }
    }

    /// Notes that credentials were right. What `source` did wrong with this name before is forgotten.
    pub fn note_right(&self, source: S, name: Option<&[u8]>) {
        let Some(name) = name else { return };
        let key = (source, Some(self.hasher.hash_one(name)));
        self.failed.invalidate(&key);
        self.right.insert(key, ());
    }

    /// Notes that credentials were wrong at `now`.
    pub fn note_wrong(&self, source: S, name: Option<&[u8]>, now: Instant) {
        self.count((source, None), SOURCE_FREE, 0, now);
        let Some(name) = name else { return };
        let name = self.hasher.hash_one(name);
        let from_everywhere = self.names.get(&name).unwrap_or_default().saturating_add(1);
        self.names.insert(name, from_everywhere);
        self.count((source, Some(name)), PAIR_FREE, from_everywhere / NAME_FREE, now);
    }

    fn count(&self, key: Key<S>, free: u32, more: u32, now: Instant) {
        let count = self.failed.get(&key).map_or(0, |failed| failed.count).saturating_add(1);
        let until = now + wait(count.saturating_add(more), free);
        self.failed.insert(key, Failed { count, until });
    }
}

/// How long the next attempt waits after so many.
fn wait(count: u32, free: u32) -> Duration {
    let Some(over) = count.checked_sub(free.saturating_add(1)) else { return Duration::ZERO };
    let doubled = 1_u32.checked_shl(over).unwrap_or(u32::MAX);
    WAIT_FIRST.saturating_mul(doubled).min(WAIT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stop_growing() {
        for (count, want) in
            [(0, 0), (5, 0), (6, 1), (7, 2), (8, 4), (11, 32), (12, 60), (40, 60), (u32::MAX, 60)]
        {
            assert_eq!(wait(count, PAIR_FREE), Duration::from_secs(want), "{count}");
        }
    }

    #[test]
    fn who_is_wrong_waits_and_nobody_else() {
        let (defence, start) = (Defence::<u8>::default(), Instant::now());
        let (app, other) = (Some(&b"app"[..]), Some(&b"other"[..]));
        for attempt in 0..=PAIR_FREE {
            assert!(defence.may_try(1, app, start), "{attempt}");
            defence.note_wrong(1, app, start);
        }
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(!defence.may_try(1, app, start), "it waits");
        assert!(defence.may_try(1, app, after(1)), "until that is over");
        assert!(defence.may_try(1, other, start), "with this name alone");
        assert!(defence.may_try(2, app, start), "from this source alone");
        defence.note_wrong(1, app, after(1));
        assert!(!defence.may_try(1, app, after(2)) && defence.may_try(1, app, after(3)), "twice as long");
        defence.note_right(1, app);
        assert!(defence.may_try(1, app, after(1)), "who was right is trusted again");
    }

    #[test]
    fn who_changes_names_waits_too_but_not_who_was_right_from_there() {
        let (defence, start) = (Defence::<u8>::default(), Instant::now());
        defence.note_right(1, Some(b"good"));
        for number in 0..=SOURCE_FREE {
            defence.note_wrong(1, Some(&number.to_be_bytes()), start);
        }
        for (who, source, name, want) in [
            ("a new name", 1, Some(&b"next"[..]), false),
            ("no name", 1, None, false),
            ("who was right", 1, Some(b"good"), true),
            ("from elsewhere", 2, Some(b"next"), true),
            ("no name from elsewhere", 2, None, true),
        ] {
            assert_eq!(defence.may_try(source, name, start), want, "{who}");
        }
    }

    #[test]
    fn a_name_that_is_guessed_at_from_everywhere_costs_sooner_and_locks_nobody_out() {
        let (defence, start) = (Defence::<u32>::default(), Instant::now());
        let app = Some(&b"app"[..]);
        for source in 0..NAME_FREE * PAIR_FREE {
            defence.note_wrong(source, app, start);
        }
        let stranger = NAME_FREE * PAIR_FREE;
        assert!(defence.may_try(stranger, app, start), "who has not been wrong tries at once");
        defence.note_wrong(stranger, app, start);
        assert!(!defence.may_try(stranger, app, start), "and waits after the first time");
        assert!(defence.may_try(stranger, Some(b"other"), start));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (defence, start) = (Defence::<u64>::default(), Instant::now());
        for source in 0..REMEMBERED_MAX + 5000 {
            defence.note_wrong(source, None, start);
        }
        defence.failed.run_pending_tasks();
        assert!(defence.failed.entry_count() <= REMEMBERED_MAX);
    }
}
