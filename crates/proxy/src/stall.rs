//! A timer for what a client may keep waiting.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

/// A timer that runs while an operation is pending.
#[derive(Default)]
pub(crate) struct Stall {
    /// Kept between pauses, so that only the first one allocates.
    timer: Option<Pin<Box<Sleep>>>,
    is_running: bool,
}

impl Stall {
    /// Passes `polled` on, but a timeout in its place if it has been pending for `limit`.
    pub(crate) fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        limit: Duration,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.moved();
            return polled;
        }
        self.poll_over(cx, limit).map(Err)
    }

    /// Notes that something has moved: the next wait begins anew.
    pub(crate) const fn moved(&mut self) {
        self.is_running = false;
    }

    /// Ready with a timeout when nothing has moved for `limit`.
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<io::Error> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !self.is_running {
            self.is_running = true;
            timer.as_mut().reset(Instant::now() + limit);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }
}
