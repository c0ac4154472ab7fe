//! What is alive: connections and tunnels, counted, and how all of it comes to an end.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use exeat_policy::Reason;
use tokio::sync::watch;

use crate::limits::Limits;

mod view;

pub use view::{FlowFilter, FlowId, FlowKind, FlowView};

/// The live connections and tunnels of one proxy.
#[derive(Debug)]
pub(crate) struct Flows {
    counts: Mutex<Counts>,
    connections: watch::Sender<usize>,
    draining: watch::Sender<bool>,
    stop: watch::Sender<Option<Reason>>,
}

#[derive(Debug, Default)]
struct Counts {
    by_source: HashMap<IpAddr, usize>,
    by_principal: HashMap<Arc<str>, usize>,
}

/// A connection's place in the budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    flows: Arc<Flows>,
    source: IpAddr,
}

/// A tunnel's place in its principal's budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct TunnelSlot {
    flows: Arc<Flows>,
    principal: Arc<str>,
}

impl Flows {
    /// Returns a proxy's flows, none alive.
    pub(crate) fn new() -> Self {
        Self {
            counts: Mutex::default(),
            connections: watch::Sender::new(0),
            draining: watch::Sender::new(false),
            stop: watch::Sender::new(None),
        }
    }

    /// Counts a connection from `source`.
    ///
    /// # Errors
    /// `connection_limit` if the proxy holds as many as it may, `rate_limited` if the source does.
    pub(crate) fn admit(self: &Arc<Self>, source: IpAddr, limits: &Limits) -> Result<ConnectionSlot, Reason> {
        let mut counts = self.counts();
        if *self.connections.borrow() >= limits.connections {
            return Err(Reason::ConnectionLimit);
        }
        let from_source = counts.by_source.entry(source).or_default();
        if *from_source >= limits.connections_per_source {
            return Err(Reason::RateLimited);
        }
        *from_source += 1;
        self.connections.send_modify(|count| *count += 1);
        Ok(ConnectionSlot { flows: Arc::clone(self), source })
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
        Ok(TunnelSlot { flows: Arc::clone(self), principal: Arc::clone(principal) })
    }

    /// Whether a drain has begun, to wait on.
    pub(crate) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Why everything must end now, once it must.
    pub(crate) fn stop(&self) -> watch::Receiver<Option<Reason>> {
        self.stop.subscribe()
    }

    /// The number of live connections, to wait on.
    pub(crate) fn connections(&self) -> watch::Receiver<usize> {
        self.connections.subscribe()
    }

    /// Begins the drain: no new work, what is under way goes on.
    pub(crate) fn begin_drain(&self) {
        self.draining.send_replace(true);
    }

    /// Ends what is left.
    pub(crate) fn cut(&self, reason: Reason) {
        self.stop.send_replace(Some(reason));
    }

    /// The counts stay right even if a thread panicked while it held them: each change is one step.
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut counts = self.flows.counts();
        release(&mut counts.by_source, &self.source);
        self.flows.connections.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Drop for TunnelSlot {
    fn drop(&mut self) {
        release(&mut self.flows.counts().by_principal, &self.principal);
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
        let flows = Arc::new(Flows::new());
        let (one, other): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let first = flows.admit(one, &LIMITS()).unwrap();
        let _second = flows.admit(one, &LIMITS()).unwrap();
        assert_eq!(flows.admit(one, &LIMITS()).unwrap_err(), Reason::RateLimited);
        let _third = flows.admit(other, &LIMITS()).unwrap();
        assert_eq!(flows.admit(other, &LIMITS()).unwrap_err(), Reason::ConnectionLimit);
        drop(first);
        let _fourth = flows.admit(one, &LIMITS()).unwrap();
        assert_eq!(*flows.connections().borrow(), 3);
    }

    #[test]
    fn counts_of_nobody_are_forgotten() {
        let flows = Arc::new(Flows::new());
        drop(flows.admit([10, 0, 0, 1].into(), &LIMITS()).unwrap());
        let tunnel = flows.open(&Arc::from("a"), &LIMITS()).unwrap();
        assert_eq!(flows.open(&Arc::from("a"), &LIMITS()).unwrap_err(), Reason::ConnectionLimit);
        assert!(flows.open(&Arc::from("b"), &LIMITS()).is_ok());
        drop(tunnel);
        let counts = flows.counts();
        assert!(counts.by_source.is_empty() && counts.by_principal.is_empty());
    }
}
