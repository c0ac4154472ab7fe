//! Waiting with an end, where most waits are over before they begin.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Poll, Waker},
    time::Duration,
};

use tokio::{
    sync::watch,
    task::unconstrained,
    time::{error::Elapsed, timeout},
};

/// Does `work` within `limit`. A timer costs two looks at the clock, so there is none for what is done at once.
///
/// # Errors
/// If it was not done in time; `work` is dropped then.
pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut work = pin!(work);
    match poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await {
        Poll::Ready(done) => Ok(done),
        Poll::Pending => timeout(limit, work).await,
    }
}

/// Waits until what `news` tells is what `is_awaited` means, or nothing will be told any more. While nothing is told,
/// polling it again costs a look at one number: it is polled with everything that happens on a connection.
pub(crate) async fn told<T>(mut news: watch::Receiver<T>, is_awaited: impl FnMut(&T) -> bool) {
    // Never looked into: it tells whether there was anything to look at since the first poll.
    let unseen = news.clone();
    // Whenever it is polled it has to know whom to wake.
    let mut waiting = pin!(unconstrained(news.wait_for(is_awaited)));
    let mut asked: Option<Waker> = None;
    poll_fn(|cx| {
        let is_known = asked.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if is_known && unseen.has_changed().is_ok_and(|has_changed| !has_changed) {
            return Poll::Pending;
        }
        asked = Some(cx.waker().clone());
        waiting.as_mut().poll(cx).map(drop)
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
        task::{Context, Wake},
    };

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[tokio::test]
    async fn work_has_its_limit() {
        assert_eq!(within(Duration::ZERO, ready(1)).await.ok(), Some(1), "done at once");
        assert_eq!(within(Duration::from_secs(60), tokio::task::yield_now()).await.ok(), Some(()), "in time");
        assert!(within(Duration::from_millis(1), pending::<()>()).await.is_err());
    }

    #[test]
    fn whoever_polled_last_is_woken_however_often_they_did() {
        let (sender, receiver) = watch::channel(0);
        let mut told = pin!(told(receiver, |number| *number == 2));
        let (first, last) = (Arc::<Woken>::default(), Arc::<Woken>::default());
        let mut poll = |woken: &Arc<Woken>| {
            let waker = Arc::clone(woken).into();
            told.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
        };
        assert!(!poll(&first) && !poll(&first) && !poll(&last) && !poll(&last));
        sender.send_replace(1);
        assert_eq!((first.0.load(Relaxed), last.0.load(Relaxed)), (0, 1));
        assert!(!poll(&last) && !poll(&last), "not what is awaited");
        sender.send_replace(2);
        assert_eq!((first.0.load(Relaxed), last.0.load(Relaxed)), (0, 2));
        assert!(poll(&last));
    }

    #[test]
    fn what_was_told_before_counts_and_the_end_is_told() {
        let (sender, receiver) = watch::channel(2);
        let is_told = |receiver: &watch::Receiver<i32>, awaited| {
            let mut told = pin!(told(receiver.clone(), move |number| *number == awaited));
            told.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
        };
        assert!(is_told(&receiver, 2) && !is_told(&receiver, 3));
        drop(sender);
        assert!(is_told(&receiver, 3), "nobody can tell it any more");
    }
}
