//! Idle upstream connections. One is used again only for a request that has been decided anew and whose permit covers
//! its address, or that of the same next hop, by the same principal and for the same authority: nothing of one principal's connection, and no
//! decision about another name, can reach a second one. One that began with a PROXY header speaks for one connection of a
//! client, and serves that alone.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Wake, Waker},
    time::Duration,
};

use exeat_identity::Principal;
use exeat_model::Authority;
use hashbrown::HashMap;
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, timeout_at},
};

use crate::{hop::HopId, limits::Limits, upstream::Upstream};

/// How long a pool that was full of good connections is taken to be that: looking through all of it takes a while.
const FULL_PAUSE: Duration = Duration::from_secs(1);

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

/// The idle connections of one proxy.
pub(crate) struct Pool {
    idle: Mutex<Connections>,
    per_key: usize,
    total: usize,
    idle_timeout: Duration,
    age: Duration,
    stirred: Arc<Stirred>,
    /// Wakes `stirred`.
    waker: Waker,
}

#[derive(Default)]
struct Connections {
    /// The most recently used last. A place may be empty: its next connection is often back soon. There are no more than
    /// [`Pool::total`], so that a client who could choose what falls into one place would gain nothing.
    by_key: HashMap<Key, Vec<Idle>>,
    count: usize,
    has_keeper: bool,
    /// When all of them were looked through for room last.
    full_since: Option<Instant>,
}

/// A connection between two requests.
struct Idle {
    upstream: Upstream,
    since: Instant,
}

/// Tells that something has happened on an idle connection: most likely its upstream has closed it.
#[derive(Default)]
struct Stirred(Notify);

impl Wake for Stirred {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_one();
    }
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

impl Pool {
    pub(crate) fn new(limits: &Limits) -> Self {
        let stirred = Arc::<Stirred>::default();
        Self {
            idle: Mutex::default(),
            per_key: limits.pool_idle_per_key,
            total: limits.pool_idle,
            idle_timeout: limits.pool_idle_timeout,
            age: limits.pool_age,
            waker: Waker::from(Arc::clone(&stirred)),
            stirred,
        }
    }

    /// Takes the most recently used connection for `key` that is still open, if there is one; one of the runtime that this
    /// runs on before all others, which would have to be brought here.
    pub(crate) fn take(&self, key: &Key) -> Option<Upstream> {
        let (here, now) = (Handle::current().id(), Instant::now());
        // Closed after the lock is given back: it takes the kernel a while.
        let mut closed = Vec::new();
        let mut connections = self.connections();
        let Connections { by_key, count, .. } = &mut *connections;
        let list = by_key.get_mut(key)?;
        while let Some(mut idle) = nearest(list, |idle| idle.upstream.is_at_home(here)) {
            *count = count.saturating_sub(1);
            idle.upstream.look();
            if self.is_usable(&idle, now) {
                idle.upstream.unwatch();
                return Some(idle.upstream);
            }
            closed.push(idle);
        }
        None
    }

    /// Keeps `upstream` for later, unless there are enough already that are good for something.
    pub(crate) fn put(self: &Arc<Self>, key: Key, upstream: Upstream) {
        let now = Instant::now();
        let idle = Idle { upstream, since: now };
        if !self.is_usable(&idle, now) {
            return;
        }
        // As in `take`.
        let mut closed = Vec::new();
        let mut connections = self.connections();
        let Connections { by_key, count, has_keeper, full_since } = &mut *connections;
        if *count >= self.total && full_since.is_none_or(|since| now - since >= FULL_PAUSE) {
            *full_since = Some(now);
            closed.extend(self.useless(by_key.values_mut()));
        }
        if let Some(list) = by_key.get_mut(&key).filter(|list| list.len() >= self.per_key) {
            closed.extend(self.useless([list]));
        }
        *count = count.saturating_sub(closed.len());
        if *count >= self.total {
            return;
        }
        if by_key.len() >= self.total && !by_key.contains_key(&key) {
            by_key.retain(|_, list| !list.is_empty());
        }
        let list = by_key.entry(key).or_default();
        if list.len() >= self.per_key {
            return;
        }
        idle.upstream.watch(&self.waker);
        list.push(idle);
        *count += 1;
        if !*has_keeper {
            *has_keeper = true;
            tokio::spawn(Arc::clone(self).keep());
        }
    }

    /// Closes connections that nobody asked for in time, and those that their upstreams have closed, until there are
    /// none left.
    async fn keep(self: Arc<Self>) {
        let mut next = Instant::now() + self.idle_timeout;
        loop {
            let is_due = timeout_at(next, self.stirred.0.notified()).await.is_err();
            let mut connections = self.connections();
            let Connections { by_key, count, has_keeper, .. } = &mut *connections;
            let closed = self.useless(by_key.values_mut());
            *count = count.saturating_sub(closed.len());
            if is_due {
                next = Instant::now() + self.idle_timeout;
                by_key.retain(|_, list| !list.is_empty());
                if by_key.is_empty() {
                    *has_keeper = false;
                    return;
                }
            }
            drop(connections);
            // It takes the kernel a while, for which nobody has to wait.
            drop(closed);
        }
    }

    /// Takes out of `lists` what cannot be used any more.
    fn useless<'a>(&self, lists: impl IntoIterator<Item = &'a mut Vec<Idle>>) -> Vec<Idle> {
        let (lists, now) = (lists.into_iter(), Instant::now());
        lists.flat_map(|list| list.extract_if(.., |idle| !self.is_worth_keeping(idle, now))).collect()
    }

    fn is_worth_keeping(&self, idle: &mut Idle, now: Instant) -> bool {
        if idle.upstream.look() {
            idle.upstream.watch(&self.waker);
        }
        self.is_usable(idle, now)
    }

    fn is_usable(&self, Idle { upstream, since }: &Idle, now: Instant) -> bool {
        upstream.is_ready() && now - upstream.opened() < self.age && now - *since < self.idle_timeout
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the last one that is here out of `list`, the last one of all if there is none.
fn nearest<T>(list: &mut Vec<T>, is_here: impl Fn(&T) -> bool) -> Option<T> {
    match list.iter().rposition(is_here) {
        Some(at) => Some(list.remove(at)),
        None => list.pop(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_recent_one_of_this_core_comes_first() {
        let mut list = vec![1, 2, 3, 4, 6];
        let order: Vec<i32> = std::iter::from_fn(|| nearest(&mut list, |number| number % 2 == 1)).collect();
        assert_eq!(order, [3, 1, 6, 4, 2]);
    }
}
