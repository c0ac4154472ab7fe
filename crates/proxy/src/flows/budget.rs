//! How many connections and tunnels there may be: in all, of one source, of one principal; and how often they come.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use exeat_identity::{Accounts, Rate, Source};
use exeat_policy::Reason;
use tokio::sync::Notify;

use super::account::Account;
use crate::{limits::Limits, metrics::LimitHit};

/// Passwords that are checked or wait for it at a time for one source: half of the places that there are for all
/// (`exeat_identity`), so that whoever guesses passwords leaves others a place.
const CHECKS_PER_SOURCE: usize = 32;

/// The counts of one proxy.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    counts: Mutex<Counts>,
    /// Told when the last connection has ended.
    none_left: Notify,
    connection_rates: Accounts<Source>,
    source_rates: Accounts<Source>,
    client_rates: Accounts<Account>,
}

/// A limit that somebody is over, and what they are told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Over {
    pub(crate) limit: LimitHit,
    pub(crate) reason: Reason,
}

#[derive(Debug, Default)]
struct Counts {
    connections: usize,
    by_source: HashMap<Source, usize>,
    by_account: HashMap<Account, usize>,
    /// Passwords that wait to be checked.
    checks: HashMap<Source, usize>,
}

/// A connection's place in the budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    budget: Arc<Budget>,
    /// `None` while only the sender of its PROXY header is known.
    source: Option<Source>,
}

/// A tunnel's place in its principal's budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct TunnelSlot {
    budget: Arc<Budget>,
    account: Account,
}

/// A password's place among those that are checked for its source; given back when dropped.
#[derive(Debug)]
pub(crate) struct CheckSlot {
    budget: Arc<Budget>,
    source: Source,
}

impl Budget {
    /// Counts a connection whose source is to be told by who sent it.
    ///
    /// # Errors
    /// `connection_limit` if the proxy holds as many as it may.
    pub(crate) fn admit_unknown(self: &Arc<Self>, limits: &Limits) -> Result<ConnectionSlot, Over> {
        let mut counts = self.counts();
        if counts.connections >= limits.connections {
            return Err(Over { limit: LimitHit::Connections, reason: Reason::ConnectionLimit });
        }
        counts.connections += 1;
        Ok(ConnectionSlot { budget: Arc::clone(self), source: None })
    }

    /// Counts a tunnel of `account`.
    ///
    /// # Errors
    /// `connection_limit` if it holds as many as it may.
    pub(crate) fn open(self: &Arc<Self>, account: Account, limits: &Limits) -> Result<TunnelSlot, Reason> {
        let mut counts = self.counts();
        let open = counts.by_account.entry(account.clone()).or_default();
        if *open >= limits.tunnels_per_client {
            return Err(Reason::ConnectionLimit);
        }
        *open += 1;
        Ok(TunnelSlot { budget: Arc::clone(self), account })
    }

    /// Counts a password that has to be checked for `source`; `None` if there are too many.
    pub(crate) fn check(self: &Arc<Self>, source: Source) -> Option<CheckSlot> {
        let mut counts = self.counts();
        let waiting = counts.checks.entry(source).or_default();
        if *waiting >= CHECKS_PER_SOURCE {
            return None;
        }
        *waiting += 1;
        Some(CheckSlot { budget: Arc::clone(self), source })
    }

    /// Counts a request from `source` at the time that `now` tells if it has to.
    ///
    /// # Errors
    /// `rate_limited` if there are too many.
    pub(crate) fn request_from(
        &self,
        source: Source,
        limits: &Limits,
        now: impl FnOnce() -> Instant,
    ) -> Result<(), Over> {
        let Some(rate) = Rate::new(limits.request_rate_per_source, limits.rate_burst) else { return Ok(()) };
        let is_due = self.source_rates.take(source, rate, now());
        is_due.then_some(()).ok_or(rate_limited(LimitHit::RequestRatePerSource))
    }

    /// Counts a request of `account`, likewise.
    ///
    /// # Errors
    /// `rate_limited` if there are too many.
    pub(crate) fn request_of(
        &self,
        account: impl FnOnce() -> Account,
        limits: &Limits,
        now: impl FnOnce() -> Instant,
    ) -> Result<(), Over> {
        let Some(rate) = Rate::new(limits.request_rate_per_client, limits.rate_burst) else { return Ok(()) };
        let is_due = self.client_rates.take(account(), rate, now());
        is_due.then_some(()).ok_or(rate_limited(LimitHit::RequestRatePerClient))
    }

    /// The number of live connections.
    pub(crate) fn connections(&self) -> usize {
        self.counts().connections
    }

    /// Waits until there is no connection.
    pub(crate) async fn no_connections(&self) {
        loop {
            // Made before the look, so that the end of one between the two is not missed.
            let none_left = self.none_left.notified();
            if self.connections() == 0 {
                return;
            }
            none_left.await;
        }
    }

    /// The counts stay right even if a thread panicked while it held them: each change is one step.
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionSlot {
    /// Counts the connection for its `source`, once that is known, at the time that `now` tells if it has to.
    ///
    /// # Errors
    /// `rate_limited` if the source holds as many as it may, or opens them too fast.
    pub(crate) fn count_source(
        &mut self,
        source: Source,
        limits: &Limits,
        now: impl FnOnce() -> Instant,
    ) -> Result<(), Over> {
        let mut counts = self.budget.counts();
        let from_source = counts.by_source.entry(source).or_default();
        if *from_source >= limits.connections_per_source {
            return Err(rate_limited(LimitHit::ConnectionsPerSource));
        }
        *from_source += 1;
        drop(counts);
        self.source = Some(source);
        let Some(rate) = Rate::new(limits.connection_rate_per_source, limits.rate_burst) else {
            return Ok(());
        };
        let is_due = self.budget.connection_rates.take(source, rate, now());
        is_due.then_some(()).ok_or(rate_limited(LimitHit::ConnectionRatePerSource))
    }
}

const fn rate_limited(limit: LimitHit) -> Over {
    Over { limit, reason: Reason::RateLimited }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut counts = self.budget.counts();
        if let Some(source) = &self.source {
            release(&mut counts.by_source, source);
        }
        counts.connections = counts.connections.saturating_sub(1);
        if counts.connections == 0 {
            drop(counts);
            self.budget.none_left.notify_waiters();
        }
    }
}

impl Drop for TunnelSlot {
    fn drop(&mut self) {
        release(&mut self.budget.counts().by_account, &self.account);
    }
}

impl Drop for CheckSlot {
    fn drop(&mut self) {
        release(&mut self.budget.counts().checks, &self.source);
    }
}

/// Counts one down. A key without a count is removed: sources come and go without end.
fn release<K: Eq + std::hash::Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMITS: fn() -> Limits =
        || Limits { connections: 3, connections_per_source: 2, tunnels_per_client: 1, ..Limits::default() };

    fn admit(budget: &Arc<Budget>, source: [u8; 4], limits: &Limits) -> Result<ConnectionSlot, Over> {
        let mut slot = budget.admit_unknown(limits)?;
        slot.count_source(from(source), limits, Instant::now).map(|()| slot)
    }

    fn from(address: [u8; 4]) -> Source {
        Source::from(std::net::IpAddr::from(address))
    }

    #[test]
    fn one_source_cannot_take_every_slot() {
        let budget = Arc::new(Budget::default());
        let (one, other) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let first = admit(&budget, one, &LIMITS()).unwrap();
        let _second = admit(&budget, one, &LIMITS()).unwrap();
        assert_eq!(admit(&budget, one, &LIMITS()).unwrap_err().reason, Reason::RateLimited);
        let _third = admit(&budget, other, &LIMITS()).unwrap();
        assert_eq!(admit(&budget, other, &LIMITS()).unwrap_err().reason, Reason::ConnectionLimit);
        drop(first);
        let _fourth = admit(&budget, one, &LIMITS()).unwrap();
        assert_eq!(budget.connections(), 3);
    }

    #[test]
    fn a_connection_that_comes_too_early_takes_no_place() {
        let budget = Arc::new(Budget::default());
        let limits = Limits { connection_rate_per_source: 1, rate_burst: Duration::ZERO, ..LIMITS() };
        let first = admit(&budget, [10, 0, 0, 1], &limits).unwrap();
        let over = admit(&budget, [10, 0, 0, 1], &limits).unwrap_err();
        assert_eq!((over.limit, over.reason), (LimitHit::ConnectionRatePerSource, Reason::RateLimited));
        assert_eq!(budget.connections(), 1);
        let _other = admit(&budget, [10, 0, 0, 2], &limits).unwrap();
        drop(first);
        assert_eq!(budget.counts().by_source.len(), 1);
    }

    #[test]
    fn requests_are_counted_for_their_source_and_their_client() {
        let (budget, now) = (Budget::default(), Instant::now());
        let limits = Limits {
            request_rate_per_source: 2,
            request_rate_per_client: 1,
            rate_burst: Duration::from_secs(1),
            ..Limits::default()
        };
        let (one, other) = (from([10, 0, 0, 1]), from([10, 0, 0, 2]));
        let asks = |source| budget.request_from(source, &limits, || now).map_err(|over| over.limit);
        assert_eq!((asks(one), asks(one)), (Ok(()), Ok(())));
        assert_eq!((asks(one), asks(other)), (Err(LimitHit::RequestRatePerSource), Ok(())));
        let client = |name: &str| Account::Client(name.into());
        let of = |account| budget.request_of(|| account, &limits, || now).map_err(|over| over.limit);
        assert_eq!((of(client("a")), of(client("b"))), (Ok(()), Ok(())));
        assert_eq!(of(client("a")), Err(LimitHit::RequestRatePerClient));
        // Those without credentials have an account for each source.
        assert_eq!((of(Account::Anonymous(one)), of(Account::Anonymous(other))), (Ok(()), Ok(())));
        assert_eq!(of(Account::Anonymous(one)), Err(LimitHit::RequestRatePerClient));
    }

    #[test]
    fn passwords_that_wait_leave_places_to_other_sources() {
        let budget = Arc::new(Budget::default());
        let (one, other) = (from([10, 0, 0, 1]), from([10, 0, 0, 2]));
        let mut waiting: Vec<_> = std::iter::from_fn(|| budget.check(one)).collect();
        assert_eq!(waiting.len(), CHECKS_PER_SOURCE);
        assert!(budget.check(other).is_some());
        waiting.pop();
        waiting.extend(budget.check(one));
        assert_eq!((waiting.len(), budget.check(one).is_some()), (CHECKS_PER_SOURCE, false));
        waiting.clear();
        assert!(budget.counts().checks.is_empty());
    }

    #[test]
    fn counts_of_nobody_are_forgotten() {
        let budget = Arc::new(Budget::default());
        drop(admit(&budget, [10, 0, 0, 1], &LIMITS()).unwrap());
        let client = |name: &str| Account::Client(name.into());
        let tunnel = budget.open(client("a"), &LIMITS()).unwrap();
        assert_eq!(budget.open(client("a"), &LIMITS()).unwrap_err(), Reason::ConnectionLimit);
        assert!(budget.open(client("b"), &LIMITS()).is_ok());
        drop(tunnel);
        let counts = budget.counts();
        assert!(counts.by_source.is_empty() && counts.by_account.is_empty());
    }
}
