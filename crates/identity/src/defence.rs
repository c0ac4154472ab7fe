//! Slows down whoever guesses: each wrong attempt makes the next one wait longer, for that source alone.
//!
//! Nobody can lock another one out. A name that is guessed at from everywhere makes wrong attempts costly sooner, but a
//! source that has not been wrong about it is never made to wait for it; and who has been right from a source goes on,
//! whatever others at the same address do.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use moka::{policy::EvictionPolicy, sync::Cache};
use tokio::sync::Notify;

use crate::claimed::Claimed;

/// What each of the three tables remembers at most, at about 100 bytes an entry. When one is full, what was noted longest
/// ago goes first.
const REMEMBERED_MAX: u64 = 65_536;
/// How long after the last wrong attempt it is remembered.
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

/// What a table counts: the attempts of a source with a name or token, or of a source with any.
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
    /// Names and tokens.
    right: Cache<Key<S>, ()>,
    /// Attempts whose outcome nobody knows yet. As many as there are callers of [`Self::turn`].
    under_way: Mutex<HashMap<Key<S>, UnderWay>>,
    /// Seeded: names are kept as numbers that nobody outside can choose.
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct UnderWay {
    count: u32,
    one_ends: Arc<Notify>,
}

/// An attempt that may be looked at now. Others may have to wait until this is dropped, which is for after its outcome was
/// noted.
#[derive(Debug)]
pub struct Turn<'a, S: Copy + Hash + Eq + Send + Sync + 'static> {
    defence: &'a Defence<S>,
    key: Key<S>,
}

impl<S: Copy + Hash + Eq + Send + Sync + 'static> Drop for Turn<'_, S> {
    fn drop(&mut self) {
        let mut under_way = self.defence.under_way();
        if let Some(others) = under_way.get_mut(&self.key) {
            others.count = others.count.saturating_sub(1);
            others.one_ends.notify_waiters();
            if others.count == 0 {
                under_way.remove(&self.key);
            }
        }
    }
}

impl<S: Copy + Hash + Eq + Send + Sync + 'static> Default for Defence<S> {
    fn default() -> Self {
        Self {
            failed: table(FAILURE_REMEMBERED),
            names: table(FAILURE_REMEMBERED),
            right: table(RIGHT_REMEMBERED),
            under_way: Mutex::default(),
            hasher: RandomState::new(),
        }
    }
}

/// Returns a table whose entries are forgotten when they have not been written for `kept`; to be read does not keep them.
fn table<K: Hash + Eq + Send + Sync + 'static, V: Clone + Send + Sync + 'static>(
    kept: Duration,
) -> Cache<K, V> {
    let builder = Cache::builder().max_capacity(REMEMBERED_MAX).time_to_live(kept);
    // What is new must find a place, however often others have been looked at.
    builder.eviction_policy(EvictionPolicy::lru()).build()
}

impl<S: Copy + Hash + Eq + Send + Sync + 'static> Defence<S> {
    /// Whether `source` may try such credentials at `now`.
    #[must_use]
    pub fn may_try(&self, source: S, claimed: &Claimed, now: Instant) -> bool {
        let waits = |key: Key<S>| self.failed.get(&key).is_some_and(|failed| failed.until > now);
        let is_known = |number| self.right.contains_key(&(source, Some(number)));
        match claimed {
            Claimed::Nobody => !waits((source, None)),
            Claimed::Token(_) => self.number(claimed).is_some_and(is_known) || !waits((source, None)),
            Claimed::Name(_) => {
                let number = self.number(claimed);
                !waits((source, number)) && (number.is_some_and(is_known) || !waits((source, None)))
            }
        }
    }

    /// Waits until such credentials of `source` may be looked at, if that takes time in which others come: no more at once
    /// than could be wrong one after the other before there is a wait, then one at a time. `None` if by then they may not.
    pub async fn turn(&self, source: S, claimed: &Claimed) -> Option<Turn<'_, S>> {
        let (key, free) = match claimed {
            Claimed::Name(_) => ((source, self.number(claimed)), PAIR_FREE),
            Claimed::Token(_) | Claimed::Nobody => ((source, None), SOURCE_FREE),
        };
        loop {
            if !self.may_try(source, claimed, Instant::now()) {
                return None;
            }
            let one_ends = {
                let mut under_way = self.under_way();
                let others = under_way.entry(key).or_default();
                let wrong = self.failed.get(&key).map_or(0, |failed| failed.count);
                let more = key.1.map_or(0, |name| self.more(name));
                if others.count == 0 || wrong.saturating_add(more).saturating_add(others.count) <= free {
                    others.count += 1;
                    return Some(Turn { defence: self, key });
                }
                Arc::clone(&others.one_ends).notified_owned()
            };
            one_ends.await;
        }
    }

    /// Notes that credentials were right. What `source` did wrong with this name before is forgotten.
    pub fn note_right(&self, source: S, claimed: &Claimed) {
        let Some(number) = self.number(claimed) else { return };
        let key = (source, Some(number));
        self.failed.invalidate(&key);
        self.right.insert(key, ());
    }

    /// Notes that credentials were wrong at `now`.
    pub fn note_wrong(&self, source: S, claimed: &Claimed, now: Instant) {
        self.count((source, None), SOURCE_FREE, 0, now);
        match (claimed, self.number(claimed)) {
            (Claimed::Name(_), Some(name)) => {
                let from_everywhere = self.names.get(&name).unwrap_or_default().saturating_add(1);
                self.names.insert(name, from_everywhere);
                self.count((source, Some(name)), PAIR_FREE, self.more(name), now);
            }
            (Claimed::Name(_) | Claimed::Token(_) | Claimed::Nobody, _) => {}
        }
    }

    fn count(&self, key: Key<S>, free: u32, more: u32, now: Instant) {
        let count = self.failed.get(&key).map_or(0, |failed| failed.count).saturating_add(1);
        let until = now + wait(count.saturating_add(more), free);
        self.failed.insert(key, Failed { count, until });
    }

    /// How many of the free attempts with a name are used up by what came from everywhere: all of them at most, so that
    /// whoever is wrong for the first time does not wait for longer than the first wait.
    fn more(&self, name: u64) -> u32 {
        (self.names.get(&name).unwrap_or_default() / NAME_FREE).min(PAIR_FREE)
    }

    /// What a name or a token is kept as.
    fn number(&self, claimed: &Claimed) -> Option<u64> {
        match claimed {
            Claimed::Name(name) => Some(self.hasher.hash_one((0_u8, name))),
            Claimed::Token(hash) => Some(self.hasher.hash_one((1_u8, hash))),
            Claimed::Nobody => None,
        }
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Key<S>, UnderWay>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
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
    use std::{
        pin::{Pin, pin},
        task::{Context, Poll, Waker},
    };

    use super::*;

    /// What is there without waiting.
    fn now<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    fn name(name: &str) -> Claimed {
        Claimed::Name(name.to_owned())
    }

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
        let (app, other) = (name("app"), name("other"));
        for attempt in 0..=PAIR_FREE {
            assert!(defence.may_try(1, &app, start), "{attempt}");
            defence.note_wrong(1, &app, start);
        }
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(!defence.may_try(1, &app, start), "it waits");
        assert!(defence.may_try(1, &app, after(1)), "until that is over");
        assert!(defence.may_try(1, &other, start), "with this name alone");
        assert!(defence.may_try(2, &app, start), "from this source alone");
        defence.note_wrong(1, &app, after(1));
        assert!(!defence.may_try(1, &app, after(2)) && defence.may_try(1, &app, after(3)), "twice as long");
        defence.note_right(1, &app);
        assert!(defence.may_try(1, &app, after(1)), "who was right is trusted again");
    }

    #[test]
    fn who_changes_names_waits_too_but_not_who_was_right_from_there() {
        let (defence, start) = (Defence::<u8>::default(), Instant::now());
        defence.note_right(1, &name("good"));
        for number in 0..=SOURCE_FREE {
            defence.note_wrong(1, &name(&number.to_string()), start);
        }
        for (who, source, claimed, want) in [
            ("a new name", 1, name("next"), false),
            ("no name", 1, Claimed::Nobody, false),
            ("who was right", 1, name("good"), true),
            ("from elsewhere", 2, name("next"), true),
            ("no name from elsewhere", 2, Claimed::Nobody, true),
        ] {
            assert_eq!(defence.may_try(source, &claimed, start), want, "{who}");
        }
    }

    #[test]
    fn a_name_that_is_guessed_at_from_everywhere_costs_sooner_and_locks_nobody_out() {
        let (defence, start) = (Defence::<u32>::default(), Instant::now());
        let app = name("app");
        for source in 0..NAME_FREE * PAIR_FREE {
            defence.note_wrong(source, &app, start);
        }
        let stranger = NAME_FREE * PAIR_FREE;
        assert!(defence.may_try(stranger, &app, start), "who has not been wrong tries at once");
        defence.note_wrong(stranger, &app, start);
        assert!(!defence.may_try(stranger, &app, start), "and waits after the first time");
        assert!(defence.may_try(stranger, &name("other"), start));
        assert!(defence.may_try(stranger, &app, start + WAIT_FIRST), "as long as everybody at first");
    }

    #[test]
    fn however_often_a_name_is_guessed_at_the_first_wait_is_the_first_one() {
        let (defence, start) = (Defence::<u32>::default(), Instant::now());
        let app = name("app");
        for source in 0..NAME_FREE * 20 {
            defence.note_wrong(source, &app, start);
        }
        let stranger = u32::MAX;
        defence.note_wrong(stranger, &app, start);
        assert!(!defence.may_try(stranger, &app, start));
        assert!(defence.may_try(stranger, &app, start + WAIT_FIRST));
    }

    #[test]
    fn a_token_that_was_right_waits_for_nobody_and_a_wrong_one_makes_no_name_wait() {
        let (defence, start) = (Defence::<u8>::default(), Instant::now());
        let (victims, anothers) = (Claimed::Token([1; 32]), Claimed::Token([2; 32]));
        defence.note_right(1, &victims);
        for number in 0..=SOURCE_FREE {
            assert!(defence.may_try(1, &anothers, start), "{number}");
            defence.note_wrong(1, &Claimed::Token([u8::try_from(number).unwrap() + 3; 32]), start);
        }
        for (who, source, claimed, want) in [
            ("the one that was right", 1, &victims, true),
            ("another", 1, &anothers, false),
            ("another elsewhere", 2, &anothers, true),
            ("no name", 1, &Claimed::Nobody, false),
        ] {
            assert_eq!(defence.may_try(source, claimed, start), want, "{who}");
        }
    }

    #[tokio::test]
    async fn no_more_are_under_way_than_could_be_wrong_one_after_the_other() {
        let defence = Defence::<u8>::default();
        let (app, other) = (name("app"), name("other"));
        let mut turns = Vec::new();
        for _ in 0..=PAIR_FREE {
            turns.push(now(pin!(defence.turn(1, &app))).flatten().unwrap());
        }
        let (one_more, last) = (defence.turn(1, &app), defence.turn(1, &app));
        let (mut one_more, mut last) = (pin!(one_more), pin!(last));
        assert!(now(one_more.as_mut()).is_none(), "it waits for one of them");
        assert!(now(last.as_mut()).is_none(), "and so does this");
        for (case, source, claimed) in [("another name", 1, &other), ("another source", 2, &app)] {
            assert!(now(pin!(defence.turn(source, claimed))).flatten().is_some(), "{case}");
        }
        drop(turns.pop());
        let next = one_more.await;
        assert!(next.is_some(), "nothing was wrong yet");
        assert!(now(last.as_mut()).is_none(), "but for this there is no room still");
        for turn in turns.drain(..).chain(next) {
            defence.note_wrong(1, &app, Instant::now());
            drop(turn);
        }
        assert!(last.await.is_none(), "what waited is not looked at once there is a wait");
        assert!(defence.under_way().is_empty(), "nothing is kept of what has ended");
    }

    #[tokio::test]
    async fn who_is_right_lets_the_others_of_its_name_go_on() {
        let defence = Defence::<u8>::default();
        let app = name("app");
        for _ in 0..PAIR_FREE {
            defence.note_wrong(1, &app, Instant::now());
        }
        let first = defence.turn(1, &app).await;
        let second = defence.turn(1, &app);
        let mut second = pin!(second);
        assert!(now(second.as_mut()).is_none(), "one at a time, after so many wrong ones");
        defence.note_right(1, &app);
        drop(first);
        assert!(second.await.is_some());
    }

    #[test]
    fn to_ask_does_not_keep_what_is_remembered() {
        let policy = Defence::<u8>::default();
        let kept = |policy: moka::Policy| (policy.time_to_live(), policy.time_to_idle());
        assert_eq!(kept(policy.failed.policy()), (Some(FAILURE_REMEMBERED), None));
        assert_eq!(kept(policy.names.policy()), (Some(FAILURE_REMEMBERED), None));
        assert_eq!(kept(policy.right.policy()), (Some(RIGHT_REMEMBERED), None));
    }

    #[test]
    fn what_is_new_finds_a_place_beside_what_is_asked_for_often() {
        let (defence, start) = (Defence::<u64>::default(), Instant::now());
        for source in 0..REMEMBERED_MAX {
            defence.note_wrong(source, &Claimed::Nobody, start);
        }
        defence.failed.run_pending_tasks();
        for source in 0..REMEMBERED_MAX {
            let _ = defence.may_try(source, &Claimed::Nobody, start);
        }
        let new = REMEMBERED_MAX;
        for _ in 0..=SOURCE_FREE {
            defence.note_wrong(new, &Claimed::Nobody, start);
            defence.failed.run_pending_tasks();
        }
        assert!(!defence.may_try(new, &Claimed::Nobody, start));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (defence, start) = (Defence::<u64>::default(), Instant::now());
        for source in 0..REMEMBERED_MAX + 5000 {
            defence.note_wrong(source, &Claimed::Nobody, start);
        }
        defence.failed.run_pending_tasks();
        assert!(defence.failed.entry_count() <= REMEMBERED_MAX);
    }
}
