//! What the two directions of a relay have done so far.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::{net::TcpStream, time::Instant};

use crate::{
    dial,
    meter::{Meter, Side},
    metrics::RelayPath,
};

/// What both directions have done so far. Atomics because the relay may move between threads; no order is needed.
pub(super) struct Traffic<'a> {
    pub(super) meter: &'a Meter,
    /// Whether the client's connection, and upstream's, takes no more.
    client_broken: AtomicBool,
    upstream_broken: AtomicBool,
    /// Whether the end of one direction was passed on.
    is_half_closed: AtomicBool,
    /// Whether upstream's connection was kept alive before the relay began.
    is_kept_alive: bool,
    /// Whether it is still to be kept alive.
    to_keep_alive: AtomicBool,
    started: Instant,
    /// When the last byte was delivered, in milliseconds after the start.
    moved_ms: AtomicU64,
}

impl<'a> Traffic<'a> {
    pub(super) fn start(meter: &'a Meter, is_kept_alive: bool) -> Self {
        Self {
            meter,
            client_broken: AtomicBool::new(false),
            upstream_broken: AtomicBool::new(false),
            is_half_closed: AtomicBool::new(false),
            is_kept_alive,
            to_keep_alive: AtomicBool::new(false),
            started: Instant::now(),
            moved_ms: AtomicU64::new(0),
        }
    }

    const fn broken(&self, side: Side) -> &AtomicBool {
        match side {
            Side::Client => &self.client_broken,
            Side::Upstream => &self.upstream_broken,
        }
    }

    /// Whether `side` takes no more.
    pub(super) fn is_broken(&self, side: Side) -> bool {
        self.broken(side).load(Relaxed)
    }

    pub(super) fn note_broken(&self, side: Side) {
        self.broken(side).store(true, Relaxed);
    }

    /// Notes that a direction has come to its end. Returns whether it is the last one.
    pub(super) fn note_end(&self) -> bool {
        self.is_half_closed.swap(true, Relaxed)
    }

    /// Notes that the relay has come of age: the next read from upstream has it kept alive, unless it is.
    pub(super) fn note_age(&self) {
        self.to_keep_alive.store(!self.is_kept_alive, Relaxed);
    }

    /// Has the kernel watch over `upstream` if that is to be done.
    pub(super) fn keep_alive(&self, upstream: Option<&TcpStream>) {
        if self.to_keep_alive.load(Relaxed)
            && self.to_keep_alive.swap(false, Relaxed)
            && let Some(upstream) = upstream
            && let Err(error) = dial::keep_alive(upstream)
        {
            tracing::debug!(%error, "a connection is not kept alive");
        }
    }

    /// Notes that `receiver` took `bytes`.
    pub(super) fn took(&self, receiver: Side, bytes: usize, path: RelayPath) {
        self.meter.took(receiver, bytes);
        self.meter.relayed(path, bytes);
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.store(now, Relaxed);
    }

    /// When the last byte was delivered.
    pub(super) fn moved_last(&self) -> Instant {
        self.started + Duration::from_millis(self.moved_ms.load(Relaxed))
    }
}
