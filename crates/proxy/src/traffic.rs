//! Who moves how much to where, while somebody looks.
//!
//! What is open is in the table of flows, and costs nothing more. What has ended is in no table, so it is added up here, for
//! each principal and target, but only for as long as somebody has looked a short while ago: at other times a record
//! costs one read of one number.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use exeat_audit::{Event, Outcome, Record};

use crate::refused::{shard_of, shown};

/// How long ended flows are added up after somebody has looked.
const WATCH: Duration = Duration::from_secs(60);
/// Shards. Several times the cores that end flows at the same moment.
const SHARDS: usize = 16;
/// Pairs of a shard of which something is kept: 8192 in all, about 1 MiB. Of further ones only what is open is seen.
const PAIRS: usize = 512;

/// What one principal has moved to and from one target.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PairView {
    /// Who asked.
    pub principal: Arc<str>,
    /// Host and port, as they were decided on.
    pub target: Arc<str>,
    /// Flows that are open.
    pub flows: u64,
    /// The age of the oldest of them.
    pub oldest: Option<Duration>,
    /// Tunnels that were opened and requests that were answered, since the watch began.
    pub requests: u64,
    /// Bytes that went upstream, of open flows and of those that have ended since the watch began.
    pub bytes_up: u64,
    /// Bytes that went to the client, likewise.
    pub bytes_down: u64,
}

/// Who moves how much to where.
#[derive(Clone, Debug, Default)]
pub struct TrafficView {
    /// The number of this watch. Another one begins when nobody has looked for a minute, and counts from the start.
    pub watch: u64,
    /// Every pair of principal and target of which something is known, in no order.
    pub pairs: Vec<PairView>,
    /// Ended flows that there was no room for.
    pub left_out: u64,
}

/// What flows of a pair that have ended have moved.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    requests: u64,
    bytes_up: u64,
    bytes_down: u64,
}

/// What one record adds to its pair.
pub(crate) struct Moved {
    pair: Pair,
    sums: Sums,
}

type Pair = (Arc<str>, Arc<str>);

/// What has ended.
#[derive(Debug)]
pub(crate) struct Traffic {
    started: Instant,
    /// Milliseconds after `started` until which it is added up; 0 if nobody looks.
    until: AtomicU64,
    watch: AtomicU64,
    left_out: AtomicU64,
    /// Seeded, so that no client can choose what falls into one shard.
    hasher: RandomState,
    shards: [Mutex<HashMap<Pair, Sums>>; SHARDS],
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            until: AtomicU64::new(0),
            watch: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

/// What an open flow adds to its pair.
pub(crate) struct OpenFlow {
    pub(crate) principal: Arc<str>,
    pub(crate) target: Arc<str>,
    pub(crate) age: Duration,
    pub(crate) bytes_up: u64,
    pub(crate) bytes_down: u64,
}

impl Traffic {
    /// How long the proxy has been there.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns what a record adds, if somebody looks.
    pub(crate) fn moved(&self, record: &Record) -> Option<Moved> {
        let until = self.until.load(Relaxed);
        if until == 0 {
            return None;
        }
        if self.now() > until {
            // Whoever looks at this moment writes a later time, which stays.
            let _ = self.until.compare_exchange(until, 0, Relaxed, Relaxed);
            return None;
        }
        let sums = Sums::of(record)?;
        let principal = Arc::clone(&record.principal.as_ref()?.name);
        Some(Moved { pair: (principal, shown(record.target.as_ref()?.as_str())), sums })
    }

    /// Adds it.
    pub(crate) fn add(&self, Moved { pair, sums }: Moved) {
        let Some(shard) = self.shards.get(shard_of(self.hasher.hash_one(&pair), SHARDS)) else { return };
        let mut pairs = locked(shard);
        let has_room = pairs.len() < PAIRS;
        match pairs.entry(pair) {
            Entry::Occupied(mut entry) => entry.get_mut().add(sums),
            Entry::Vacant(entry) if has_room => {
                entry.insert(sums);
            }
            Entry::Vacant(_) => {
                self.left_out.fetch_add(1, Relaxed);
            }
        }
    }

    /// Returns what is known, with the flows that are open, and goes on to add up for [`WATCH`]. A flow that ends meanwhile
    /// may be counted twice this time, and is counted once the next time.
    pub(crate) fn look(&self, open: impl IntoIterator<Item = OpenFlow>) -> TrafficView {
        let now = self.now();
        let until = now.saturating_add(u64::try_from(WATCH.as_millis()).unwrap_or(u64::MAX));
        let before = self.until.swap(until, Relaxed);
        if before < now {
            self.shards.iter().for_each(|shard| locked(shard).clear());
            self.left_out.store(0, Relaxed);
            self.watch.fetch_add(1, Relaxed);
        }
        let mut pairs: HashMap<Pair, PairView> = HashMap::new();
        for flow in open {
            let view = row(&mut pairs, (flow.principal, flow.target));
            view.flows += 1;
            view.oldest = view.oldest.max(Some(flow.age));
            view.bytes_up += flow.bytes_up;
            view.bytes_down += flow.bytes_down;
        }
        for shard in &self.shards {
            for (pair, sums) in locked(shard).iter() {
                let view = row(&mut pairs, pair.clone());
                view.requests += sums.requests;
                view.bytes_up += sums.bytes_up;
                view.bytes_down += sums.bytes_down;
            }
        }
        TrafficView {
            watch: self.watch.load(Relaxed),
            pairs: pairs.into_values().collect(),
            left_out: self.left_out.load(Relaxed),
        }
    }

    /// Milliseconds since the start, and one.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

fn row(pairs: &mut HashMap<Pair, PairView>, pair: Pair) -> &mut PairView {
    let view =
        PairView { principal: Arc::clone(&pair.0), target: Arc::clone(&pair.1), ..PairView::default() };
    pairs.entry(pair).or_insert(view)
}

impl Sums {
    /// What a record adds: a tunnel counts when it begins and has moved its bytes when it ends, a request does both at its
    /// end.
    fn of(record: &Record) -> Option<Self> {
        let bytes = |sums: Self| Self {
            bytes_up: record.bytes_up.unwrap_or(0),
            bytes_down: record.bytes_down.unwrap_or(0),
            ..sums
        };
        let one = Self { requests: 1, ..Self::default() };
        match (record.event, record.verdict, record.reason) {
            (Event::Decision, Some(Outcome::Allow), None) => Some(one),
            (Event::Request, Some(Outcome::Allow), None) => Some(bytes(one)),
            (Event::End, _, _) => Some(bytes(Self::default())),
            (
                Event::Decision | Event::Request | Event::Dns | Event::Packet | Event::Control | Event::Lost,
                _,
                _,
            ) => None,
        }
    }

    fn add(&mut self, more: Self) {
        self.requests += more.requests;
        self.bytes_up += more.bytes_up;
        self.bytes_down += more.bytes_down;
    }
}

/// What is added up stays right even if a thread panicked while it held it, to within that addition.
fn locked(shard: &Mutex<HashMap<Pair, Sums>>) -> MutexGuard<'_, HashMap<Pair, Sums>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use exeat_audit::{PrincipalRecord, Text};
    use exeat_policy::{Labels, Reason};

    use super::*;

    fn record(event: Event, verdict: Outcome, reason: Option<Reason>, target: &str) -> Record {
        let mut record = Record::new(event, SystemTime::UNIX_EPOCH);
        record.verdict = Some(verdict);
        record.reason = reason;
        record.target = Some(Text::from(target));
        record.principal = Some(PrincipalRecord {
            name: "app".into(),
            proof: "password",
            labels: Labels::default(),
            token: None,
        });
        (record.bytes_up, record.bytes_down) = (Some(3), Some(4));
        record
    }

    fn open(target: &str, seconds: u64) -> OpenFlow {
        let age = Duration::from_secs(seconds);
        OpenFlow { principal: "app".into(), target: target.into(), age, bytes_up: 10, bytes_down: 20 }
    }

    fn note(traffic: &Traffic, record: &Record) {
        if let Some(moved) = traffic.moved(record) {
            traffic.add(moved);
        }
    }

    fn told(view: &PairView) -> (&str, u64, u64, u64, u64) {
        (&view.target, view.flows, view.requests, view.bytes_up, view.bytes_down)
    }

    #[test]
    fn what_has_ended_counts_only_while_somebody_looks() {
        let traffic = Traffic::default();
        let ended = record(Event::Request, Outcome::Allow, None, "http://a.test:80");
        note(&traffic, &ended);
        let first = traffic.look([]);
        assert!(first.pairs.is_empty() && first.watch == 1);
        note(&traffic, &ended);
        let second = traffic.look([]);
        assert_eq!(second.pairs.iter().map(told).collect::<Vec<_>>(), [("a.test:80", 0, 1, 3, 4)]);
        // A watch that has run out: what came then is not known, so the next one begins anew.
        traffic.until.store(0, Relaxed);
        note(&traffic, &ended);
        let third = traffic.look([]);
        assert!(third.pairs.is_empty() && third.watch == 2);
    }

    #[test]
    fn tunnels_and_requests_add_up_with_what_is_open() {
        let traffic = Traffic::default();
        traffic.look([]);
        let (allow, deny) = (Outcome::Allow, Outcome::Deny);
        for (event, verdict, reason) in [
            (Event::Decision, allow, None),
            (Event::End, allow, None),
            (Event::Decision, allow, None),
            // Cut by a new policy: it has moved bytes all the same.
            (Event::End, deny, Some(Reason::PolicyChanged)),
            // Nothing was opened.
            (Event::Decision, deny, Some(Reason::HostNotAllowed)),
            (Event::Request, allow, Some(Reason::ConnectFailed)),
        ] {
            note(&traffic, &record(event, verdict, reason, "a.test:443"));
        }
        let view = traffic.look([open("a.test:443", 5), open("a.test:443", 7), open("b.test:443", 1)]);
        let mut pairs: Vec<_> = view.pairs.iter().map(told).collect();
        pairs.sort_unstable();
        assert_eq!(pairs, [("a.test:443", 2, 2, 26, 48), ("b.test:443", 1, 0, 10, 20)]);
        let oldest = view.pairs.iter().filter_map(|pair| pair.oldest).max();
        assert_eq!(oldest, Some(Duration::from_secs(7)));
    }

    #[test]
    fn a_crowd_of_targets_takes_no_more_room() {
        let traffic = Traffic::default();
        traffic.look([]);
        let many = 3 * SHARDS * PAIRS;
        for number in 0..many {
            let target = format!("h{number}.test:80");
            note(&traffic, &record(Event::Request, Outcome::Allow, None, &target));
        }
        let view = traffic.look([]);
        assert!(view.pairs.len() <= SHARDS * PAIRS, "{}", view.pairs.len());
        assert_eq!(view.pairs.len() as u64 + view.left_out, many as u64);
    }
}
