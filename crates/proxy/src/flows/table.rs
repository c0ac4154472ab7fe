//! The live flows by number, in shards: a flow that begins or ends holds up few others.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::{Flow, FlowId};

/// Shards. Several times the cores of a large machine, so that two flows seldom meet in one.
const SHARDS: usize = 64;

/// The live flows of one proxy.
#[derive(Debug)]
pub(crate) struct Table {
    last: AtomicU64,
    shards: [Mutex<HashMap<FlowId, Arc<Flow>>>; SHARDS],
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

    fn shard(&self, id: FlowId) -> Option<MutexGuard<'_, HashMap<FlowId, Arc<Flow>>>> {
        let index = usize::try_from(id.0 % SHARDS as u64).ok()?;
        self.shards.get(index).map(locked)
    }
}

/// A shard stays right even if a thread panicked while it held it: each change is one step.
fn locked<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
