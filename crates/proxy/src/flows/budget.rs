//! How many connections and tunnels there may be: in all, of one source, of one principal.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use exeat_policy::Reason;
use tokio::sync::watch;

use crate::limits::Limits;

/// The counts of one proxy.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    counts: Mutex<Counts>,
    connections: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Counts {
    by_source: HashMap<IpAddr, usize>,
    by_principal: HashMap<Arc<str>, usize>,
}

/// A connection's place in the budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    budget: Arc<Budget>,
    /// `None` while only the sender of its PROXY header is known.
    source: Option<IpAddr>,
}

/// A tunnel's place in its principal's budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct TunnelSlot {
    budget: Arc<Budget>,
    principal: Arc<str>,
}

impl Budget {
    /// Counts a connection from `source`.
    ///
    /// # Errors
    /// `connection_limit` if the proxy holds as many as it may, `rate_limited` if the source does.
    pub(crate) fn admit(self: &Arc<Self>, source: IpAddr, limits: &Limits) -> Result<ConnectionSlot, Reason> {
        let mut slot = self.admit_unknown(limits)?;
        slot.count_source(source, limits)?;
        Ok(slot)
    }

    /// Counts a connection whose source is to be told by who sent it.
    ///
    /// # Errors
    /// `connection_limit` if the proxy holds as many as it may.
    pub(crate) fn admit_unknown(self: &Arc<Self>, limits: &Limits) -> Result<ConnectionSlot, Reason> {
        let _one_at_a_time = self.counts();
        if *self.connections.borrow() >= limits.connections {
            return Err(Reason::ConnectionLimit);
        }
        self.connections.send_modify(|count| *count += 1);
        Ok(ConnectionSlot { budget: Arc::clone(self), source: None })
    }

    /// Counts a tunnel of `principal`.
    ///
    /// # Errors
    /// `connection_limit` if the principal holds as many as it may.
    pub(crate) fn open(
        self: &Arc<Self>,
        principal: &Arc<str>,
        limits: &Limits,
    ) -> Result<TunnelSlot, Reason> {
        let mut counts = self.counts();
        let open = counts.by_principal.entry(Arc::clone(principal)).or_default();
        if *open >= limits.tunnels_per_client {
            return Err(Reason::ConnectionLimit);
        }
        *open += 1;
        Ok(TunnelSlot { budget: Arc::clone(self), principal: Arc::clone(principal) })
    }

    /// The number of live connections, to wait on.
    pub(crate) fn connections(&self) -> watch::Receiver<usize> {
        self.connections.subscribe()
    }

    /// The counts stay right even if a thread panicked while it held them: each change is one step.
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionSlot {
    /// Counts the connection for its `source`, once that is known.
    ///
    /// # Errors
    /// `rate_limited` if the source holds as many as it may.
    pub(crate) fn count_source(&mut self, source: IpAddr, limits: &Limits) -> Result<(), Reason> {
        let mut counts = self.budget.counts();
        let from_source = counts.by_source.entry(source).or_default();
        if *from_source >= limits.connections_per_source {
            return Err(Reason::RateLimited);
        }
        *from_source += 1;
        drop(counts);
        self.source = Some(source);
        Ok(())
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut counts = self.budget.counts();
        if let Some(source) = &self.source {
            release(&mut counts.by_source, source);
        }
        self.budget.connections.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Drop for TunnelSlot {
    fn drop(&mut self) {
        release(&mut self.budget.counts().by_principal, &self.principal);
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
    use super::*;

    const LIMITS: fn() -> Limits =
        || Limits { connections: 3, connections_per_source: 2, tunnels_per_client: 1, ..Limits::default() };

    #[test]
    fn one_source_cannot_take_every_slot() {
        let budget = Arc::new(Budget::default());
        let (one, other): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let first = budget.admit(one, &LIMITS()).unwrap();
        let _second = budget.admit(one, &LIMITS()).unwrap();
        assert_eq!(budget.admit(one, &LIMITS()).unwrap_err(), Reason::RateLimited);
        let _third = budget.admit(other, &LIMITS()).unwrap();
        assert_eq!(budget.admit(other, &LIMITS()).unwrap_err(), Reason::ConnectionLimit);
        drop(first);
        let _fourth = budget.admit(one, &LIMITS()).unwrap();
        assert_eq!(*budget.connections().borrow(), 3);
    }

    #[test]
    fn counts_of_nobody_are_forgotten() {
        let budget = Arc::new(Budget::default());
        drop(budget.admit([10, 0, 0, 1].into(), &LIMITS()).unwrap());
        let tunnel = budget.open(&Arc::from("a"), &LIMITS()).unwrap();
        assert_eq!(budget.open(&Arc::from("a"), &LIMITS()).unwrap_err(), Reason::ConnectionLimit);
        assert!(budget.open(&Arc::from("b"), &LIMITS()).is_ok());
        drop(tunnel);
        let counts = budget.counts();
        assert!(counts.by_source.is_empty() && counts.by_principal.is_empty());
    }
}
