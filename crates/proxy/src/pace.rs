//! How fast a client sends what it was asked for, and how long it may send nothing. Only the time counts during which the client was waited for: an
//! upstream that takes a body slowly is not the client's fault.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::limits::Limits;

/// The pace of one request body.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Bytes a second; 0 asks for none.
    least: u64,
    grace: Duration,
    /// How long the client has been waited for before the present wait.
    waited: Duration,
    bytes: u64,
    /// When the present wait began.
    since: Option<Instant>,
    /// Kept between waits, so that only the first one allocates.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    pub(crate) fn new(limits: &Limits) -> Self {
        let least = u64::try_from(limits.upload_rate).unwrap_or(u64::MAX);
        Self { least, grace: limits.upload_grace, ..Self::none() }
    }

    /// Any pace will do.
    pub(crate) const fn none() -> Self {
        Self { least: 0, grace: Duration::ZERO, waited: Duration::ZERO, bytes: 0, since: None, timer: None }
    }

    /// Ends a wait: `bytes` have come.
    pub(crate) fn moved(&mut self, bytes: usize) {
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
        }
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Begins a wait, or goes on with one. Ready when the client is slower than it may be, or has sent nothing for
    /// `idle_timeout`.
    pub(crate) fn poll_too_slow(&mut self, cx: &mut Context<'_>, idle_timeout: Duration) -> Poll<()> {
        // Zero asks for no pace.
        let paid_for = self.bytes.saturating_mul(1000).checked_div(self.least);
        let pays = |milliseconds| {
            self.grace.max(Duration::from_millis(milliseconds)).saturating_sub(self.waited).min(idle_timeout)
        };
        let left = paid_for.map_or(idle_timeout, pays);
        let since = *self.since.get_or_insert_with(Instant::now);
        let Some(deadline) = since.checked_add(left) else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(30);
    const LATER: Duration = Duration::from_secs(3600);

    fn pace(least: usize, grace: Duration) -> Pace {
        Pace::new(&Limits { upload_rate: least, upload_grace: grace, ..Limits::default() })
    }

    #[tokio::test]
    async fn silence_is_too_slow_after_the_grace_and_what_came_before_counts() {
        let grace = Duration::from_millis(20);
        let mut silent = pace(500, grace);
        timeout(SOON, poll_fn(|cx| silent.poll_too_slow(cx, LATER))).await.unwrap();

        let started = Instant::now();
        let mut slow = pace(500, grace);
        slow.moved(50);
        timeout(SOON, poll_fn(|cx| slow.poll_too_slow(cx, LATER))).await.unwrap();
        assert!(started.elapsed() >= Duration::from_millis(100), "50 bytes pay for 100 ms");
    }

    #[tokio::test]
    async fn a_pace_that_nobody_asks_for_is_kept() {
        let mut any = pace(0, Duration::ZERO);
        let never = poll_fn(|cx| any.poll_too_slow(cx, LATER));
        assert!(timeout(Duration::from_millis(20), never).await.is_err());
    }

    #[tokio::test]
    async fn silence_alone_is_too_slow_after_the_idle_timeout() {
        for least in [0, 500] {
            let mut silent = pace(least, LATER);
            silent.moved(1_000_000);
            let idle = poll_fn(|cx| silent.poll_too_slow(cx, Duration::from_millis(10)));
            timeout(SOON, idle).await.unwrap();
        }
    }
}
