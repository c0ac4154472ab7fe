//! What was refused to whom: a summary of bounded size, for people who look at a running proxy. The whole of it is in
//! the audit log.
//!
//! Space-saving (Metwally, Agrawal and El Abbadi, 2005): when there is no room, a new row takes the place of the one
//! with the lowest count and takes over that count, so a row that is refused often is never missing, and its count is too
//! high by no more than what the row says. It is locked for refusals only, in shards.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use exeat_audit::Record;
use exeat_policy::Reason;

use crate::metrics::Told;

/// Shards. Refusals of one row meet in one, those of a crowd seldom do.
const SHARDS: usize = 16;
/// Rows of a shard: 512 in all, at most 200 KiB with the longest names. More than a screen shows, and few enough to
/// look through for each refusal.
const ROWS: usize = 32;
/// Characters of a target: the longest name with a port. Only what is malformed is longer.
const TARGET_CHARS_MAX: usize = 260;

/// One row of the summary.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RefusedView {
    /// Who asked; `None` if that was not known.
    pub principal: Option<Arc<str>>,
    /// The target, without a scheme; printable ASCII, and cut if it was malformed and long.
    pub target: Arc<str>,
    /// Why it was refused, or why the allowed request failed.
    pub reason: Reason,
    /// How often; no less than it was.
    pub count: u64,
    /// By how much `count` may be too high.
    pub error: u64,
    /// When it happened last.
    pub last: SystemTime,
}

/// What is counted for one refusal, taken from its record before that is handed on.
pub(crate) struct Refused {
    principal: Option<Arc<str>>,
    target: Arc<str>,
    reason: Reason,
    at: SystemTime,
}

impl Refused {
    /// Returns the refusal, or the failure of an allowed request, that a record tells of; the same that the metrics count.
    pub(crate) fn of(record: &Record) -> Option<Self> {
        let reason = Told::of(record).refused()?;
        let target = record.target.as_ref().map(|target| shown(target.as_str())).unwrap_or_default();
        let principal = record.principal.as_ref().map(|principal| Arc::clone(&principal.name));
        Some(Self { principal, target, reason, at: record.time })
    }

    fn is_of(&self, row: &RefusedView) -> bool {
        self.reason == row.reason && self.target == row.target && self.principal == row.principal
    }
}

/// Returns a target of a record without its scheme, cut to [`TARGET_CHARS_MAX`].
pub(crate) fn shown(target: &str) -> Arc<str> {
    let target = target.split_once("://").map_or(target, |(_, rest)| rest);
    match target.char_indices().nth(TARGET_CHARS_MAX) {
        Some((at, _)) => target.get(..at).unwrap_or_default().into(),
        None => target.into(),
    }
}

/// The summary.
#[derive(Debug)]
pub(crate) struct Refusals {
    /// Seeded, so that no client can choose what falls into one shard.
    hasher: RandomState,
    shards: [Mutex<Vec<RefusedView>>; SHARDS],
}

impl Default for Refusals {
    fn default() -> Self {
        Self { hasher: RandomState::new(), shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Refusals {
    /// Counts a refusal.
    pub(crate) fn note(&self, refused: Refused) {
        let hash = self.hasher.hash_one((&refused.principal, &refused.target, refused.reason.token()));
        let Some(shard) = self.shards.get(shard_of(hash, SHARDS)) else { return };
        let mut rows = locked(shard);
        if let Some(row) = rows.iter_mut().find(|row| refused.is_of(row)) {
            row.count += 1;
            row.last = refused.at;
            return;
        }
        let Refused { principal, target, reason, at } = refused;
        let new = |error: u64| RefusedView { principal, target, reason, count: error + 1, error, last: at };
        if rows.len() < ROWS {
            rows.push(new(0));
        } else if let Some(least) = rows.iter_mut().min_by_key(|row| (row.count, row.last)) {
            *least = new(least.count);
        }
    }

    /// Returns every row, the newest first.
    pub(crate) fn rows(&self) -> Vec<RefusedView> {
        let mut rows: Vec<RefusedView> = self.shards.iter().flat_map(|shard| locked(shard).clone()).collect();
        rows.sort_unstable_by(|a, b| b.last.cmp(&a.last).then_with(|| b.count.cmp(&a.count)));
        rows
    }
}

/// The shard of a hash.
pub(crate) fn shard_of(hash: u64, shards: usize) -> usize {
    usize::try_from(hash).unwrap_or_default() % shards
}

/// The rows stay right even if a thread panicked while it held them: each change is one step.
fn locked(shard: &Mutex<Vec<RefusedView>>) -> MutexGuard<'_, Vec<RefusedView>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use exeat_audit::{Event, Outcome, Text};

    use super::*;

    fn record(event: Event, verdict: Outcome, reason: Option<Reason>, target: &str, second: u64) -> Record {
        let mut record = Record::new(event, SystemTime::UNIX_EPOCH + Duration::from_secs(second));
        record.verdict = Some(verdict);
        record.reason = reason;
        record.target = Some(Text::from(target));
        record
    }

    fn denied(target: &str, second: u64) -> Refused {
        let reason = Some(Reason::HostNotAllowed);
        Refused::of(&record(Event::Decision, Outcome::Deny, reason, target, second)).unwrap()
    }

    #[test]
    fn what_the_metrics_call_refused_or_failed_is_a_row_and_nothing_else() {
        let (allow, deny) = (Outcome::Allow, Outcome::Deny);
        let (host, sni) = (Some(Reason::HostNotAllowed), Some(Reason::SniMismatch));
        for (name, event, verdict, reason, want) in [
            ("a denied tunnel", Event::Decision, deny, host, true),
            ("a denied request", Event::Request, deny, host, true),
            ("a failed dial", Event::Decision, allow, Some(Reason::ConnectFailed), true),
            ("an opening that is refused", Event::End, deny, sni, true),
            ("an allowed tunnel", Event::Decision, allow, None, false),
            ("an answered request", Event::Request, allow, None, false),
            ("the end of a tunnel", Event::End, allow, None, false),
        ] {
            let refused = Refused::of(&record(event, verdict, reason, "example.com:443", 0));
            assert_eq!(refused.map(|refused| refused.reason), reason.filter(|_| want), "{name}");
        }
    }

    #[test]
    fn refusals_are_told_apart_by_who_what_and_why() {
        let refusals = Refusals::default();
        let of = |name: &str| Some(Arc::from(name));
        refusals.note(denied("http://evil.test:80", 1));
        refusals.note(denied("evil.test:80", 2));
        refusals.note(Refused { principal: of("a"), ..denied("evil.test:80", 3) });
        refusals.note(Refused { reason: Reason::HostDenied, ..denied("evil.test:80", 4) });
        refusals.note(denied("evil.test:81", 5));
        let rows = refusals.rows();
        let told: Vec<_> =
            rows.iter().map(|r| (r.principal.as_deref(), &*r.target, r.reason.token(), r.count)).collect();
        assert_eq!(
            told,
            [
                (None, "evil.test:81", "host_not_allowed", 1),
                (None, "evil.test:80", "host_denied", 1),
                (Some("a"), "evil.test:80", "host_not_allowed", 1),
                (None, "evil.test:80", "host_not_allowed", 2),
            ]
        );
        assert!(rows.iter().all(|row| row.error == 0));
    }

    #[test]
    fn a_crowd_of_hosts_takes_no_more_room_and_hides_no_frequent_one() {
        let refusals = Refusals::default();
        const CROWD: u64 = 50_000;
        for number in 0..CROWD {
            refusals.note(denied(&format!("h{number}.evil.test:443"), number));
            if number % 4 == 0 {
                refusals.note(denied("often.evil.test:443", number));
            }
        }
        let rows = refusals.rows();
        assert!(rows.len() <= SHARDS * ROWS, "{}", rows.len());
        let often = rows.iter().find(|row| &*row.target == "often.evil.test:443").unwrap();
        let real = CROWD / 4;
        assert!(often.count >= real && often.count - often.error <= real, "{often:?}");
        assert_eq!(rows.iter().map(|row| row.count).sum::<u64>(), CROWD + real, "no refusal is uncounted");
        assert!(rows.iter().any(|row| *row.target == *format!("h{}.evil.test:443", CROWD - 1)), "the newest");
    }

    #[test]
    fn long_targets_are_cut() {
        assert_eq!(shown(&"a".repeat(1000)).len(), TARGET_CHARS_MAX);
        assert_eq!(&*shown("https://example.com:443"), "example.com:443");
        assert_eq!(&*shown(""), "");
    }
}
