//! Counters and histograms: plain atomics, without order between them.

use std::{
    marker::PhantomData,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::label::Key;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A [`Counter`] for each value of a key.
#[derive(Debug)]
pub struct Counters<K> {
    counts: Box<[Counter]>,
    key: PhantomData<K>,
}

impl<K: Key> Default for Counters<K> {
    fn default() -> Self {
        let counts = K::ALL.iter().map(|_| Counter::default()).collect();
        Self { counts, key: PhantomData }
    }
}

impl<K: Key> Counters<K> {
    pub(crate) fn count(&self, key: K) {
        self.add(key, 1);
    }

    pub(crate) fn add(&self, key: K, count: u64) {
        if let Some(counter) = self.counts.get(key.index()) {
            counter.add(count);
        }
    }

    /// The number for one value.
    pub fn get(&self, key: K) -> u64 {
        self.counts.get(key.index()).map_or(0, Counter::get)
    }

    /// Every value with its number.
    pub fn iter(&self) -> impl Iterator<Item = (K, u64)> {
        K::ALL.iter().map(|key| (*key, self.get(*key)))
    }
}

/// Things that begin and end.
#[derive(Debug, Default)]
pub struct Activity {
    begun: Counter,
    ended: Counter,
}

impl Activity {
    pub(crate) fn begin(&self) {
        self.begun.add(1);
    }

    pub(crate) fn end(&self) {
        self.ended.add(1);
    }

    /// How many have begun.
    pub fn total(&self) -> u64 {
        self.begun.get()
    }

    /// How many have not ended.
    pub fn active(&self) -> u64 {
        // In this order: what ends in between is then not missing from what has begun.
        let ended = self.ended.get();
        self.begun.get().saturating_sub(ended)
    }
}

/// How long something took, in classes.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    counts: Box<[Counter]>,
    nanoseconds: Counter,
}

/// What a [`Histogram`] holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// All durations together, in seconds.
    pub sum: f64,
    /// How many there were.
    pub count: u64,
    /// The upper bound of each class in seconds, the last one without bound, and how many fell into it alone.
    pub classes: Vec<(f64, u64)>,
}

impl Histogram {
    pub(crate) fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| Counter::default()).collect();
        Self { bounds, counts, nanoseconds: Counter::default() }
    }

    pub(crate) fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        if let Some(counter) = self.counts.get(self.bounds.partition_point(|bound| *bound < seconds)) {
            counter.add(1);
        }
        self.nanoseconds.add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// What has been observed so far.
    pub fn distribution(&self) -> Distribution {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let classes: Vec<(f64, u64)> = bounds.zip(self.counts.iter().map(Counter::get)).collect();
        Distribution {
            sum: Duration::from_nanos(self.nanoseconds.get()).as_secs_f64(),
            count: classes.iter().map(|(_, count)| count).sum(),
            classes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_the_class_whose_bound_they_do_not_exceed() {
        let histogram = Histogram::new(&[0.001, 0.01]);
        for micros in [10, 1000, 1001, 10_000, 20_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let got = histogram.distribution();
        assert_eq!(got.classes, [(0.001, 2), (0.01, 2), (f64::INFINITY, 1)]);
        assert_eq!((got.count, got.sum), (5, 0.032_011));
    }
}
