//! Idle upstream connections. One is used again only for a request that has been decided anew and whose permit covers
//! its address, or that of the same next hop, by the same principal and for the same authority: nothing of one principal's connection, and no
//! decision about another name, can reach a second one. One that began with a PROXY header speaks for one connection of a
//! client, and serves that alone.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use exeat_identity::Principal;
use exeat_model::Authority;
use hyper::client::conn::http1::SendRequest;
use tokio::time::sleep;

use crate::{body::UpBody, hop::HopId, limits::Limits};

/// What an idle connection may be used for.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Key {
    principal: Arc<str>,
    proof: &'static str,
    bond: Bond,
    address: SocketAddr,
    authority: Authority,
}

/// What a connection is tied to besides its ends.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Bond {
    /// The next hop that it goes to, or through. One that was configured anew is another one.
    pub(crate) hop: Option<HopId>,
    /// The client that its PROXY header tells of.
    pub(crate) announced: Option<SocketAddr>,
}

/// A connection to an upstream that is between two requests.
pub(crate) struct Upstream {
    pub(crate) sender: SendRequest<UpBody>,
    opened: Instant,
    idle_since: Instant,
}

/// The idle connections of one proxy.
pub(crate) struct Pool {
    idle: Mutex<Idle>,
    per_key: usize,
    total: usize,
    idle_timeout: Duration,
    age: Duration,
}

#[derive(Default)]
struct Idle {
    /// The most recently used last.
    connections: HashMap<Key, Vec<Upstream>>,
    count: usize,
    has_sweeper: bool,
}

impl Key {
    pub(crate) fn new(principal: &Principal, bond: Bond, address: SocketAddr, authority: &Authority) -> Self {
        Self {
            principal: Arc::clone(&principal.name),
            proof: principal.proof.name(),
            bond,
            address,
            authority: authority.clone(),
        }
    }

    /// The address that the connection goes to.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Upstream {
    /// Wraps a connection that has just been opened.
    pub(crate) fn new(sender: SendRequest<UpBody>) -> Self {
        let now = Instant::now();
        Self { sender, opened: now, idle_since: now }
    }
}

impl Pool {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            idle: Mutex::default(),
            per_key: limits.pool_idle_per_key,
            total: limits.pool_idle,
            idle_timeout: limits.pool_idle_timeout,
            age: limits.pool_age,
        }
    }

    /// Takes the most recently used connection for `key` that is still open, if there is one.
    pub(crate) fn take(&self, key: &Key) -> Option<Upstream> {
        let mut idle = self.idle();
        let mut dropped = 0;
        let found = idle.connections.get_mut(key).and_then(|list| {
            while let Some(upstream) = list.pop() {
                if self.is_usable(&upstream) {
                    return Some(upstream);
                }
                dropped += 1;
            }
            None
        });
        idle.count = idle.count.saturating_sub(dropped + usize::from(found.is_some()));
        if idle.connections.get(key).is_some_and(Vec::is_empty) {
            idle.connections.remove(key);
        }
        found
    }

    /// Keeps `upstream` for later, unless there are enough already.
    pub(crate) fn put(self: &Arc<Self>, key: Key, mut upstream: Upstream) {
        upstream.idle_since = Instant::now();
        if !self.is_usable(&upstream) {
            return;
        }
        let mut idle = self.idle();
        if idle.count >= self.total {
            return;
        }
        let list = idle.connections.entry(key).or_default();
        if list.len() >= self.per_key {
            return;
        }
        list.push(upstream);
        idle.count += 1;
        if !idle.has_sweeper {
            idle.has_sweeper = true;
            tokio::spawn(Arc::clone(self).sweep());
        }
    }

    /// Closes connections that nobody asked for in time, until there are none left.
    async fn sweep(self: Arc<Self>) {
        loop {
            sleep(self.idle_timeout).await;
            let mut idle = self.idle();
            idle.connections.retain(|_, list| {
                list.retain(|upstream| self.is_usable(upstream));
                !list.is_empty()
            });
            idle.count = idle.connections.values().map(Vec::len).sum();
            if idle.count == 0 {
                idle.has_sweeper = false;
                return;
            }
        }
    }

    fn is_usable(&self, upstream: &Upstream) -> bool {
        !upstream.sender.is_closed()
            && upstream.sender.is_ready()
            && upstream.opened.elapsed() < self.age
            && upstream.idle_since.elapsed() < self.idle_timeout
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
