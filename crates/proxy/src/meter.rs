//! What every part that moves bytes of a flow holds: the counts, what they may come to, and the signal to stop.

use std::{
    future::Future,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use exeat_policy::Reason;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::{
    limits::Limits,
    metrics::{Metrics, RelayPath},
    trail::Ending,
};

/// One of the two ends of a flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    /// Who asked.
    Client,
    /// Who was dialled.
    Upstream,
}

impl Side {
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Client => Self::Upstream,
            Self::Upstream => Self::Client,
        }
    }
}

/// The bytes of a flow, and whether it must end.
#[derive(Debug)]
pub(crate) struct Meter {
    up: Lane,
    down: Lane,
    started: Instant,
    deadline: Option<Instant>,
    /// Set once: what ends a flow first is why it ended.
    reason: OnceLock<Reason>,
    stopped: Notify,
    /// Where the bytes of all flows are counted together.
    totals: Option<Arc<Metrics>>,
}

/// One direction. Atomics because what moves the bytes may change threads; no order is needed.
#[derive(Debug)]
struct Lane {
    bytes: AtomicU64,
    most: u64,
}

impl Meter {
    /// Returns the meter of a flow that begins now.
    pub(crate) fn new(limits: &Limits) -> Self {
        let lane = |most: Option<u64>| Lane { bytes: AtomicU64::new(0), most: most.unwrap_or(u64::MAX) };
        let started = Instant::now();
        Self {
            up: lane(limits.flow_bytes_up),
            down: lane(limits.flow_bytes_down),
            started,
            // Beyond what the clock can say is no deadline.
            deadline: limits.flow_age.and_then(|age| started.checked_add(age)),
            reason: OnceLock::new(),
            stopped: Notify::new(),
            totals: None,
        }
    }

    /// Counts in `totals` too, from now on.
    pub(crate) fn counting(mut self, totals: &Arc<Metrics>) -> Self {
        self.totals = Some(Arc::clone(totals));
        self
    }

    const fn to(&self, receiver: Side) -> &Lane {
        match receiver {
            Side::Client => &self.down,
            Side::Upstream => &self.up,
        }
    }

    /// Counts bytes that `receiver` took.
    pub(crate) fn took(&self, receiver: Side, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.to(receiver).bytes.fetch_add(bytes, Relaxed);
        if let Some(totals) = &self.totals {
            match receiver {
                Side::Client => totals.bytes_down.add(bytes),
                Side::Upstream => totals.bytes_up.add(bytes),
            }
        }
    }

    /// Counts bytes of a tunnel by the way that they took through the relay.
    pub(crate) fn relayed(&self, path: RelayPath, bytes: usize) {
        if let Some(totals) = &self.totals {
            totals.relayed.add(path, u64::try_from(bytes).unwrap_or(u64::MAX));
        }
    }

    /// Bytes that `receiver` took.
    pub(crate) fn taken(&self, receiver: Side) -> u64 {
        self.to(receiver).bytes.load(Relaxed)
    }

    /// How many of `bytes` `receiver` may still take. Fewer than it was asked for, and none at last, where the flow
    /// has a limit: then it is stopped.
    pub(crate) fn room(&self, receiver: Side, bytes: usize) -> usize {
        let lane = self.to(receiver);
        let left = lane.most.saturating_sub(lane.bytes.load(Relaxed));
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(bytes);
        if room == 0 && bytes > 0 {
            self.stop(Reason::MaxBytes);
        }
        room
    }

    /// When it began.
    pub(crate) const fn started(&self) -> Instant {
        self.started
    }

    /// Ends the flow, unless something has ended it already. Returns whether it was this.
    pub(crate) fn stop(&self, reason: Reason) -> bool {
        let is_first = self.reason.set(reason).is_ok();
        self.stopped.notify_waiters();
        is_first
    }

    /// Why the flow must end, once it must.
    pub(crate) fn reason(&self) -> Option<Reason> {
        self.reason.get().copied()
    }

    /// Waits until the flow must end: it was stopped, or is too old.
    pub(crate) async fn ended(&self) -> Reason {
        loop {
            // Made before the look, so that a stop between the two is not missed.
            let stopped = self.stopped.notified();
            if let Some(reason) = self.reason() {
                return reason;
            }
            match self.deadline {
                None => stopped.await,
                Some(deadline) => tokio::select! {
                    () = stopped => {}
                    () = sleep_until(deadline) => {
                        self.stop(Reason::MaxAge);
                    }
                },
            }
        }
    }

    /// Runs `work`, unless the flow must end first.
    pub(crate) async fn unless_ended<T>(&self, work: impl Future<Output = T>) -> Result<T, Reason> {
        tokio::select! {
            biased;
            reason = self.ended() => Err(reason),
            done = work => Ok(done),
        }
    }

    /// Returns the ending of a flow for which this much has moved.
    pub(crate) fn ending(&self, end: &'static str) -> Ending {
        Ending { bytes_up: self.taken(Side::Upstream), bytes_down: self.taken(Side::Client), end }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_first_reason_is_the_one() {
        let meter = Arc::new(Meter::new(&Limits::default()));
        let waiting = {
            let meter = Arc::clone(&meter);
            tokio::spawn(async move { meter.ended().await })
        };
        tokio::task::yield_now().await;
        assert_eq!(meter.reason(), None);
        assert!(meter.stop(Reason::PolicyChanged));
        assert!(!meter.stop(Reason::Draining));
        assert_eq!(waiting.await.unwrap(), Reason::PolicyChanged);
        assert_eq!(meter.ended().await, Reason::PolicyChanged, "later, too");
        assert_eq!(meter.unless_ended(async { 1 }).await, Err(Reason::PolicyChanged));
    }

    #[tokio::test]
    async fn old_flows_end() {
        let limits = Limits { flow_age: Some(Duration::from_millis(10)), ..Limits::default() };
        let meter = Meter::new(&limits);
        assert_eq!(meter.unless_ended(std::future::pending::<()>()).await, Err(Reason::MaxAge));
    }

    #[test]
    fn the_room_of_each_direction_is_its_own() {
        let limits = Limits { flow_bytes_up: Some(10), flow_bytes_down: Some(5), ..Limits::default() };
        let meter = Meter::new(&limits);
        assert_eq!((meter.room(Side::Upstream, 8), meter.room(Side::Client, 8)), (8, 5));
        meter.took(Side::Upstream, 8);
        assert_eq!((meter.room(Side::Upstream, 8), meter.room(Side::Client, 8)), (2, 5));
        meter.took(Side::Upstream, 2);
        assert_eq!((meter.room(Side::Upstream, 0), meter.reason()), (0, None), "all of it may be used");
        assert_eq!((meter.room(Side::Upstream, 1), meter.reason()), (0, Some(Reason::MaxBytes)));
    }
}
