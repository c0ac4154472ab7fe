//! How much one source may ask: in a second, of names that one rule lets through, and at a time.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, Hash, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use exeat_identity::{Accounts, Rate, Source};
use exeat_policy::{Revision, RuleId};

/// How long names are counted together. A tunnel that has to wait this long for the next few hundred names carries some
/// tens of octets a second.
const NAMES_WINDOW: Duration = Duration::from_secs(60);

/// Counts of names that are kept at a time, over all sources and rules; when there are more, those who have none yet
/// have to wait. With the default of names to a count: 260 MB at the very most, and 20 MB with 20 names each.
const COUNTS_MAX: usize = 65_536;

/// How often a source's questions may be refused for their number and each be on record, in a second.
const RECORDED_PER_SECOND: usize = 1;

/// How many queries come at once before the rate holds: as many as two seconds' worth. One page of the web asks for
/// several hundred.
const BURST: Duration = Duration::from_secs(2);

/// What let a name through: a rule of a snapshot.
pub(crate) type Judgement = (Revision, Option<RuleId>);

/// The counts of one server.
#[derive(Debug)]
pub(crate) struct Budget {
    queries: Accounts<Source>,
    query_rate: Option<Rate>,
    recorded: Accounts<Source>,
    names_per_minute: usize,
    names: Mutex<HashMap<(Source, Judgement), Window>>,
    hasher: RandomState,
}

/// The names that one source asked for by one rule.
#[derive(Debug)]
struct Window {
    begun: Instant,
    /// Their hashes: two names that share one are counted as one.
    names: HashSet<u64>,
}

impl Budget {
    /// Lets a source ask `queries_per_second`, and for `names_per_minute` different names by one rule; 0 sets no bound.
    pub(crate) fn new(queries_per_second: usize, names_per_minute: usize) -> Self {
        Self {
            queries: Accounts::default(),
            query_rate: Rate::new(queries_per_second, BURST),
            recorded: Accounts::default(),
            names_per_minute,
            names: Mutex::default(),
            hasher: RandomState::new(),
        }
    }

    /// Counts a question of `source`. Returns whether it may be answered.
    pub(crate) fn may_ask(&self, source: Source, now: Instant) -> bool {
        self.query_rate.is_none_or(|rate| self.queries.take(source, rate, now))
    }

    /// Returns whether one more question of `source` that was refused for the number of them goes on record.
    pub(crate) fn is_recorded(&self, source: Source, now: Instant) -> bool {
        let rate = Rate::new(RECORDED_PER_SECOND, Duration::ZERO);
        rate.is_none_or(|rate| self.recorded.take(source, rate, now))
    }

    /// Counts a name that `rule` lets `source` ask for. Returns whether it may: one that was
    /// counted within the same minute always may.
    pub(crate) fn may_name(&self, source: Source, rule: Judgement, name: &str, now: Instant) -> bool {
        if self.names_per_minute == 0 {
            return true;
        }
        let hash = self.hasher.hash_one(name);
        // Right even if a thread panicked while it held it: each change is one step.
        let mut windows = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (source, rule);
        if windows.len() >= COUNTS_MAX && !windows.contains_key(&key) {
            windows.retain(|_, window| !window.is_over(now));
            if windows.len() >= COUNTS_MAX {
                return false;
            }
        }
        let window = windows.entry(key).or_insert_with(|| Window { begun: now, names: HashSet::new() });
        if window.is_over(now) {
            *window = Window { begun: now, names: HashSet::new() };
        }
        if window.names.len() >= self.names_per_minute {
            return window.names.contains(&hash);
        }
        window.names.insert(hash);
        true
    }
}

impl Window {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.begun) >= NAMES_WINDOW
    }
}

/// Places that are taken and given back: so many in all, and so many of one source.
#[derive(Debug)]
pub(crate) struct Places<K: Eq + Hash> {
    most: usize,
    most_of_one: usize,
    taken: Mutex<Taken<K>>,
}

#[derive(Debug)]
struct Taken<K> {
    all: usize,
    by: HashMap<K, usize>,
}

/// One place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Taking<K: Eq + Hash> {
    places: Arc<Places<K>>,
    by: K,
}

impl<K: Clone + Eq + Hash> Places<K> {
    pub(crate) fn new(most: usize, most_of_one: usize) -> Arc<Self> {
        let taken = Mutex::new(Taken { all: 0, by: HashMap::new() });
        Arc::new(Self { most, most_of_one, taken })
    }

    /// Takes a place; `None` if there is none.
    pub(crate) fn take(self: &Arc<Self>, by: K) -> Option<Taking<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= self.most || taken.by.get(&by).is_some_and(|count| *count >= self.most_of_one) {
            return None;
        }
        taken.all += 1;
        *taken.by.entry(by.clone()).or_default() += 1;
        Some(Taking { places: Arc::clone(self), by })
    }
}

impl<K: Eq + Hash> Drop for Taking<K> {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all = taken.all.saturating_sub(1);
        let left = taken.by.get_mut(&self.by).map(|count| {
            *count = count.saturating_sub(1);
            *count
        });
        if left == Some(0) {
            taken.by.remove(&self.by);
        }
    }
}

#[cfg(test)]
mod tests {
    use exeat_policy::Revision;

    use super::*;

    const RULE: Judgement = (Revision(1), None);

    fn source(last: u8) -> Source {
        Source::from(std::net::IpAddr::from([192, 0, 2, last]))
    }

    fn named(
        budget: &Budget,
        source: Source,
        rule: Judgement,
        names: std::ops::Range<usize>,
        now: Instant,
    ) -> usize {
        names.filter(|number| budget.may_name(source, rule, &number.to_string(), now)).count()
    }

    #[test]
    fn names_are_counted_once_a_minute() {
        let (budget, start) = (Budget::new(0, 5), Instant::now());
        assert_eq!(named(&budget, source(1), RULE, 0..9, start), 5);
        assert_eq!(named(&budget, source(1), RULE, 0..9, start + NAMES_WINDOW / 2), 5, "the same five");
        assert_eq!(named(&budget, source(2), RULE, 0..9, start), 5, "another source");
        let next = (Revision(2), None);
        assert_eq!(named(&budget, source(1), next, 20..29, start), 5, "another policy");
        assert_eq!(named(&budget, source(1), RULE, 5..9, start + NAMES_WINDOW), 4, "a minute later");
        assert_eq!(named(&Budget::new(0, 0), source(1), RULE, 0..900, start), 900, "without a bound");
    }

    #[test]
    fn who_is_new_waits_while_there_is_no_room() {
        let (budget, start) = (Budget::new(0, 1), Instant::now());
        let of = |number: usize| (Revision(u64::try_from(number).unwrap()), None);
        assert!((0..COUNTS_MAX).all(|number| budget.may_name(source(1), of(number), "a", start)));
        assert!(!budget.may_name(source(2), RULE, "a", start));
        assert!(budget.may_name(source(1), of(3), "a", start), "has a count already");
        assert!(budget.may_name(source(2), RULE, "a", start + NAMES_WINDOW));
        assert_eq!(budget.names.lock().unwrap().len(), 1, "those that are over are forgotten");
    }

    #[test]
    fn questions_come_at_a_rate() {
        let (budget, start) = (Budget::new(10, 0), Instant::now());
        let asked = |source, now| (0..100).filter(|_| budget.may_ask(source, now)).count();
        assert_eq!((asked(source(1), start), asked(source(2), start)), (20, 20));
        assert_eq!(asked(source(1), start + Duration::from_secs(1)), 10);
        let recorded = (0..100).filter(|_| budget.is_recorded(source(1), start)).count();
        assert_eq!(recorded, 1);
        let unbounded = Budget::new(0, 0);
        assert!((0..10_000).all(|_| unbounded.may_ask(source(1), start)));
    }

    #[test]
    fn places_are_given_back() {
        let places = Places::new(3, 2);
        let taken = [places.take(1), places.take(1)];
        assert!(taken.iter().all(Option::is_some) && places.take(1).is_none());
        let other = places.take(2);
        assert!(other.is_some() && places.take(3).is_none());
        drop(taken);
        assert!(places.take(3).is_some());
        drop(other);
        assert!(places.taken.lock().unwrap().by.is_empty());
    }
}
