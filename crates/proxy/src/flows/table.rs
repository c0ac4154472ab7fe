//! The live flows by number, in shards: a flow that begins or ends holds up few others.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::{Flow, FlowId};

/// Shards. Several times the cores of a large machine, so that two flows seldom meet in one.
const SHARDS: usize = 64;

/// The flows of one shard.
type Shard = HashMap<FlowId, Arc<Flow>, BuildHasherDefault<Spread>>;

/// Spreads the numbers of flows, which this proxy gives out one after the other: nobody else chooses them.
#[derive(Clone, Copy, Debug, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // An odd number without a pattern: the upper half of the product depends on all of the number.
        self.0 = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    /// The upper half below, from where a table takes the place: in a shard the lowest bits of all numbers are the same.
    fn finish(&self) -> u64 {
        self.0.rotate_left(32)
    }
}

/// The live flows of one proxy.
#[derive(Debug)]
pub(crate) struct Table {
    last: AtomicU64,
    shards: [Mutex<Shard>; SHARDS],
}

impl Default for Table {
    fn default() -> Self {
        Self { last: AtomicU64::new(0), shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Table {
    /// Returns a number that no other flow has. The first is 1.
    pub(crate) fn next_id(&self) -> FlowId {
        FlowId(self.last.fetch_add(1, Relaxed) + 1)
    }

    pub(crate) fn insert(&self, flow: &Arc<Flow>) {
        if let Some(mut shard) = self.shard(flow.id) {
            shard.insert(flow.id, Arc::clone(flow));
        }
    }

    pub(crate) fn remove(&self, id: FlowId) {
        if let Some(mut shard) = self.shard(id) {
            shard.remove(&id);
        }
    }

    /// Calls `visit` with each flow. A flow that begins meanwhile may be left out, and one that ends may be visited;
    /// no shard is locked during a visit.
    pub(crate) fn each(&self, mut visit: impl FnMut(&Arc<Flow>)) {
        for shard in &self.shards {
            let flows: Vec<Arc<Flow>> = locked(shard).values().cloned().collect();
            flows.iter().for_each(&mut visit);
        }
    }

    fn shard(&self, id: FlowId) -> Option<MutexGuard<'_, Shard>> {
        let index = usize::try_from(id.0 % SHARDS as u64).ok()?;
        self.shards.get(index).map(locked)
    }
}

/// A shard stays right even if a thread panicked while it held it: each change is one step.
fn locked<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
