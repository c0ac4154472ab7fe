//! What every part that moves bytes of a flow holds: the counts, what they may come to, and the signal to stop.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use exeat_policy::{Caps, Reason};
use tokio::{
    sync::{Notify, futures::Notified},
    task::yield_now,
    time::{Instant, timeout_at},
};

use crate::{
    limits::Limits,
    metrics::{Metrics, RelayPath},
    trail::Ending,
};

/// How long a flow is young. What only matters to a connection that was quiet for a while is left until then: most
/// tunnels are over by that time. Shorter than what is waited for on the way to a tunnel, so that where tunnels come and
/// go the next thing to wait for is already known to the runtime, which is woken for a nearer one.
pub(crate) const YOUNG: Duration = Duration::from_secs(8);

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

/// The bytes of a flow, what it may come to, and whether it must end.
#[derive(Debug)]
pub(crate) struct Meter {
    up: Lane,
    down: Lane,
    started: Instant,
    /// What every flow may come to.
    limits: Caps,
    /// How old it may become and how long it may be idle, in milliseconds.
    age_ms: AtomicU64,
    idle_ms: AtomicU64,
    /// How old it may become before what proved its principal counts no longer, likewise.
    proof_ms: AtomicU64,
    /// Set once: what ends a flow first is why it ended.
    reason: OnceLock<Reason>,
    /// Wakes whoever waits for the end: it has come, or will come at another time.
    changed: Notify,
    /// Where the bytes of all flows are counted together.
    totals: Option<Arc<Metrics>>,
}

/// One direction. Atomics because what moves the bytes may change threads; no order is needed.
#[derive(Debug)]
struct Lane {
    bytes: AtomicU64,
    most: AtomicU64,
}

impl Lane {
    fn new(most: Option<u64>) -> Self {
        Self { bytes: AtomicU64::new(0), most: AtomicU64::new(bytes(most)) }
    }

    /// Whether more has moved than may, which a lower bound makes possible.
    fn is_beyond(&self) -> bool {
        self.bytes.load(Relaxed) > self.most.load(Relaxed)
    }
}

/// A bound that is none: what nothing reaches.
const UNBOUNDED: u64 = u64::MAX;

/// A bound as a number.
fn bytes(most: Option<u64>) -> u64 {
    most.unwrap_or(UNBOUNDED)
}

/// Likewise in milliseconds, as configuration counts them.
fn milliseconds(most: Option<Duration>) -> u64 {
    most.map_or(UNBOUNDED, |most| u64::try_from(most.as_millis()).unwrap_or(UNBOUNDED))
}

impl Meter {
    /// Returns the meter of a flow that begins now. What allows it may bound it further: [`Self::hold_to`].
    pub(crate) fn new(limits: &Limits) -> Self {
        let limits = limits.caps();
        Self {
            up: Lane::new(limits.max_bytes_up),
            down: Lane::new(limits.max_bytes_down),
            started: Instant::now(),
            limits,
            age_ms: AtomicU64::new(milliseconds(limits.max_age)),
            idle_ms: AtomicU64::new(milliseconds(limits.idle_timeout)),
            proof_ms: AtomicU64::new(UNBOUNDED),
            reason: OnceLock::new(),
            changed: Notify::new(),
            totals: None,
        }
    }

    /// Holds the flow to `caps` from now on, and to what every flow may come to. What it has come to already counts: a
    /// flow beyond them ends.
    pub(crate) fn hold_to(&self, caps: Caps) {
        let caps = self.limits.strictest(caps);
        self.up.most.store(bytes(caps.max_bytes_up), Relaxed);
        self.down.most.store(bytes(caps.max_bytes_down), Relaxed);
        self.age_ms.store(milliseconds(caps.max_age), Relaxed);
        self.idle_ms.store(milliseconds(caps.idle_timeout), Relaxed);
        if self.up.is_beyond() || self.down.is_beyond() {
            self.stop(Reason::MaxBytes);
        } else {
            self.changed.notify_waiters();
        }
    }

    /// Ends the flow with the token that proved who asks, `left` from now on. What was said before is forgotten.
    pub(crate) fn end_with_token(&self, left: Duration) {
        self.proof_ms.store(milliseconds(self.started.elapsed().checked_add(left)), Relaxed);
        self.changed.notify_waiters();
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
        let left = lane.most.load(Relaxed).saturating_sub(lane.bytes.load(Relaxed));
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
        self.changed.notify_waiters();
        is_first
    }

    /// Why the flow must end, once it must.
    pub(crate) fn reason(&self) -> Option<Reason> {
        self.reason.get().copied()
    }

    /// Why the flow must end now, if it must: it was stopped, or is too old, and is stopped here.
    pub(crate) fn over(&self) -> Option<Reason> {
        if self.reason().is_none()
            && let Some((when, reason)) = self.deadline()
            && when <= Instant::now()
        {
            self.stop(reason);
        }
        self.reason()
    }

    /// How long the flow may be without a byte in either direction.
    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_ms.load(Relaxed))
    }

    /// When the flow is too old, if it may become so, or its token ends: whichever comes first.
    fn deadline(&self) -> Option<(Instant, Reason)> {
        let at = |(age, reason): (&AtomicU64, Reason)| match age.load(Relaxed) {
            UNBOUNDED => None,
            age => Some((self.started.checked_add(Duration::from_millis(age))?, reason)),
        };
        let both = [(&self.age_ms, Reason::MaxAge), (&self.proof_ms, Reason::TokenExpired)];
        both.into_iter().filter_map(at).min_by_key(|(when, _)| *when)
    }

    /// Waits until the flow must end: it was stopped, or is too old.
    pub(crate) async fn ended(&self) -> Reason {
        loop {
            // Made before the look, so that a change between the two is not missed.
            let changed = pin!(self.changed.notified());
            if let Some(reason) = self.over() {
                return reason;
            }
            unless_changed(changed, self.deadline().map(|(when, _)| when)).await;
        }
    }

    /// Waits for the same, or until nothing has moved for as long as the flow may be idle; `moved` tells when something
    /// did last. Calls `lasts` once on the way, when the flow is older than [`YOUNG`]. One timer for all of it, since
    /// ten thousand flows wait here.
    pub(crate) async fn ended_or_idle(&self, moved: impl Fn() -> Instant, lasts: impl Fn()) -> Reason {
        let mut is_young = true;
        let mut is_late = false;
        loop {
            let changed = pin!(self.changed.notified());
            if let Some(reason) = self.over() {
                return reason;
            }
            let now = Instant::now();
            if is_young && self.started + YOUNG <= now {
                is_young = false;
                lasts();
            }
            let silent_at = moved().checked_add(self.idle_timeout());
            if silent_at.is_none_or(|silent_at| silent_at > now) {
                let old_at = is_young.then_some(self.started + YOUNG);
                let next =
                    [self.deadline().map(|(when, _)| when), silent_at, old_at].into_iter().flatten().min();
                unless_changed(changed, next).await;
                is_late = false;
            } else if is_late {
                return Reason::IdleTimeout;
            } else {
                // What has come while this thread had no time is delivered first.
                is_late = true;
                yield_now().await;
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

/// Waits until `deadline`, or until it may be another. Without one no timer is set: a tunnel waits here at each of its
/// steps.
async fn unless_changed(changed: Pin<&mut Notified<'_>>, deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => {
            let _changed_or_over = timeout_at(deadline, changed).await;
        }
        None => changed.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn the_first_reason_is_the_one() {
        let meter = Arc::new(Meter::new(&Limits::default()));
        let waiting = {
            let meter = Arc::clone(&meter);
            tokio::spawn(async move { meter.ended().await })
        };
        yield_now().await;
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

    #[tokio::test]
    async fn flows_end_with_their_token() {
        let limits = Limits { flow_age: Some(LONG), ..Limits::default() };
        let meter = Arc::new(Meter::new(&limits));
        let waiting = {
            let meter = Arc::clone(&meter);
            tokio::spawn(async move { meter.ended().await })
        };
        yield_now().await;
        meter.end_with_token(Duration::from_millis(10));
        assert_eq!(waiting.await.unwrap(), Reason::TokenExpired);
        let old = Meter::new(&Limits { flow_age: Some(Duration::from_millis(10)), ..limits });
        old.end_with_token(LONG);
        assert_eq!(old.ended().await, Reason::MaxAge, "whatever comes first");
        let over = Meter::new(&limits);
        over.end_with_token(LONG);
        over.end_with_token(Duration::ZERO);
        assert_eq!(over.ended().await, Reason::TokenExpired, "it has ended already");
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

    #[test]
    fn bounds_of_a_rule_hold_besides_those_of_all_flows() {
        let limits = Limits { flow_bytes_up: Some(10), ..Limits::default() };
        let meter = Meter::new(&limits);
        let caps = Caps { max_bytes_up: Some(100), max_bytes_down: Some(5), ..Caps::default() };
        meter.hold_to(caps);
        assert_eq!((meter.room(Side::Upstream, 50), meter.room(Side::Client, 50)), (10, 5));
        meter.took(Side::Client, 5);
        meter.hold_to(Caps::default());
        assert_eq!(
            (meter.room(Side::Upstream, 50), meter.room(Side::Client, 50)),
            (10, 50),
            "of all flows only"
        );
        meter.hold_to(caps);
        assert_eq!(meter.reason(), None, "what is at its bound is not beyond it");
        meter.hold_to(Caps { max_bytes_down: Some(4), ..caps });
        assert_eq!(meter.reason(), Some(Reason::MaxBytes));
    }

    #[tokio::test]
    async fn whoever_waits_hears_of_a_lower_bound() {
        let limits = Limits { flow_age: Some(Duration::from_secs(3600)), ..Limits::default() };
        for caps in [
            Caps { max_age: Some(Duration::from_millis(10)), ..Caps::default() },
            Caps { idle_timeout: Some(Duration::from_millis(10)), ..Caps::default() },
        ] {
            let meter = Arc::new(Meter::new(&limits));
            let waiting = {
                let meter = Arc::clone(&meter);
                let started = meter.started();
                tokio::spawn(async move { meter.ended_or_idle(|| started, || {}).await })
            };
            yield_now().await;
            meter.hold_to(caps);
            let reason = tokio::time::timeout(LONG, waiting).await.unwrap().unwrap();
            assert_eq!(Some(reason), caps.iter().next().map(exeat_policy::Cap::reason));
        }
    }
}
