//! Who drives a connection to an upstream: the one that waits for something of it, in place. A task of its own would have
//! to be woken for each request and would have to wake whoever waits for the response.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use hyper::client::conn::http1::Connection;
use hyper_util::rt::TokioIo;

use crate::{body::UpBody, upstream_stream::UpstreamStream};

/// hyper's side of a connection.
type Http1 = Connection<TokioIo<UpstreamStream>, UpBody>;

/// Drives one connection.
pub(crate) struct Driver {
    /// On the heap, since whoever drives it passes it on; `None` once it has ended, or has a task of its own.
    connection: Option<Box<Http1>>,
    signal: Arc<Signal>,
    /// Told by the connection, and by what is wanted of it.
    stirring: Waker,
    coming: Waker,
}

/// Where it is told that something has happened.
#[derive(Default)]
struct Signal {
    listener: Mutex<Listener>,
    /// The connection has to be polled.
    is_stirred: AtomicBool,
    /// What is wanted of it has to be polled.
    is_coming: AtomicBool,
}

/// Who hears of it.
#[derive(Default)]
enum Listener {
    /// Nobody has to: the connection is being driven, and what happens meanwhile is looked for after that.
    #[default]
    Driving,
    Waiting(Waker),
}

struct Stirring(Arc<Signal>);

impl Wake for Stirring {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.is_stirred.store(true, Ordering::Release);
        self.0.tell();
    }
}

struct Coming(Arc<Signal>);

impl Wake for Coming {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.is_coming.store(true, Ordering::Release);
        self.0.tell();
    }
}

impl Signal {
    /// Wakes whoever listens, once. A flag that was set before says why.
    fn tell(&self) {
        let listener = mem::take(&mut *self.listener());
        match listener {
            Listener::Driving => {}
            Listener::Waiting(waker) => waker.wake(),
        }
    }

    fn listener(&self) -> MutexGuard<'_, Listener> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Driver {
    pub(super) fn new(connection: Http1) -> Self {
        let signal = Arc::<Signal>::default();
        let stirring = Waker::from(Arc::new(Stirring(Arc::clone(&signal))));
        let coming = Waker::from(Arc::new(Coming(Arc::clone(&signal))));
        Self { connection: Some(Box::new(connection)), signal, stirring, coming }
    }

    /// Gives the connection a task of its own, for as long as it lives: a request body goes on upstream whether or not
    /// anybody takes the response meanwhile.
    pub(super) fn detach(&mut self) {
        if let Some(connection) = self.connection.take() {
            let stirring = self.stirring.clone();
            // Ends with the sender, or when the upstream closes. Its error reaches whoever waits for the response.
            tokio::spawn(async move {
                let _ = connection.await;
                // Whoever keeps it for later hears of that.
                stirring.wake();
            });
        }
    }

    /// Takes an idle connection apart. `None` if it has a task of its own, has ended, or has something to read that no
    /// request asked for.
    pub(super) fn into_stream(self) -> Option<UpstreamStream> {
        let parts = self.connection?.into_parts();
        parts.read_buf.is_empty().then(|| parts.io.into_inner())
    }

    /// Polls for something that comes of the connection, and drives that as long as it has to be.
    pub(crate) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut wanted: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if self.connection.is_none() {
            return wanted(cx);
        }
        loop {
            *self.signal.listener() = Listener::Driving;
            self.signal.is_coming.swap(false, Ordering::AcqRel);
            // Some of it may have come with what was waited for before.
            if let Poll::Ready(done) = wanted(&mut Context::from_waker(&self.coming)) {
                return Poll::Ready(done);
            }
            self.drive();
            if self.connection.is_none() {
                return wanted(cx);
            }
            if let Poll::Ready(done) = wanted(&mut Context::from_waker(&self.coming)) {
                return Poll::Ready(done);
            }
            if self.is_quiet(cx.waker()) && !self.signal.is_coming.load(Ordering::Acquire) {
                return Poll::Pending;
            }
        }
    }

    /// Tells `waker` when something happens next.
    pub(crate) fn watch(&self, waker: &Waker) {
        if !self.is_quiet(waker) {
            waker.wake_by_ref();
        }
    }

    /// Tells nobody any more: what happens from now on is looked for when the connection is polled.
    pub(crate) fn unwatch(&self) {
        *self.signal.listener() = Listener::Driving;
    }

    /// Drives a connection that nobody waits for, if something has happened on it: the upstream may have closed it.
    /// Returns whether something has.
    pub(crate) fn look(&mut self) -> bool {
        let is_stirred = self.signal.is_stirred.load(Ordering::Acquire);
        if is_stirred {
            self.drive();
        }
        is_stirred
    }

    /// Whether the connection has a task of its own, or has ended.
    pub(super) const fn is_detached(&self) -> bool {
        self.connection.is_none()
    }

    /// Whether the connection needs no polling. Then `waker` is told of what happens next.
    fn is_quiet(&self, waker: &Waker) -> bool {
        *self.signal.listener() = Listener::Waiting(waker.clone());
        // Looked at after that, so that nothing is missed: what is told in between is told to `waker`.
        !self.signal.is_stirred.load(Ordering::Acquire)
    }

    /// Polls the connection once. One that has ended is closed; its error reaches whoever waits for the response.
    pub(super) fn drive(&mut self) {
        // Before the poll, so that what happens during it is seen after it.
        self.signal.is_stirred.swap(false, Ordering::AcqRel);
        if let Some(connection) = &mut self.connection {
            let mut cx = Context::from_waker(&self.stirring);
            if Pin::new(connection.as_mut()).poll(&mut cx).is_ready() {
                self.connection = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::client::conn::http1::Builder;
    use tokio::{sync::Notify, time::timeout};

    use super::*;
    use crate::testing::pair;

    const LONG: Duration = Duration::from_secs(30);

    #[derive(Default)]
    struct Told(Notify);

    impl Wake for Told {
        fn wake(self: Arc<Self>) {
            self.0.notify_one();
        }
    }

    #[tokio::test]
    async fn a_close_is_told_whoever_drives_the_connection() {
        for has_task in [false, true] {
            let (far, near) = pair().await;
            let connecting = Builder::new().handshake(TokioIo::new(UpstreamStream::from(near)));
            let (sender, connection) = connecting.await.unwrap();
            let mut driver = Driver::new(connection);
            driver.drive();
            if has_task {
                driver.detach();
            }
            let told = Arc::<Told>::default();
            driver.watch(&Waker::from(Arc::clone(&told)));
            drop(far);
            timeout(LONG, told.0.notified()).await.expect("word of it in time");
            assert!(driver.look(), "has_task: {has_task}");
            assert!(sender.is_closed(), "has_task: {has_task}");
        }
    }
}
