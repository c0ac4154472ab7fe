//! The bodies of a forwarded request and its response: streamed, counted, never held, and with an end that is known.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use crate::{report::Report, trail::Ending};

/// Bytes of the two bodies that have moved.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    up: AtomicU64,
    down: AtomicU64,
}

impl Moved {
    /// Bytes that went upstream.
    pub(crate) fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    fn add_down(&self, bytes: usize) {
        self.down.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Returns the ending of a request for which this much has moved.
    pub(crate) fn ending(&self, end: &'static str) -> Ending {
        Ending { bytes_up: self.up(), bytes_down: self.down.load(Ordering::Relaxed), end }
    }
}

/// A request body on its way upstream. Trailers are dropped: `TE` and `Trailer` are not passed on either.
pub(crate) struct UpBody {
    inner: Option<Incoming>,
    moved: Arc<Moved>,
}

impl UpBody {
    /// Wraps the client's body.
    pub(crate) fn new(inner: Incoming, moved: Arc<Moved>) -> Self {
        Self { inner: Some(inner), moved }
    }

    /// What has moved of it, to look at while it moves.
    pub(crate) fn moved(&self) -> Arc<Moved> {
        Arc::clone(&self.moved)
    }

    /// The body of a request that has none.
    pub(crate) fn empty(moved: Arc<Moved>) -> Self {
        Self { inner: None, moved }
    }
}

impl Body for UpBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        let polled = ready!(poll_data(inner, cx));
        if let Some(Ok(data)) = &polled {
            this.moved.up.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        Poll::Ready(polled.map(|data| data.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// Polls for the next data, passing over trailers.
fn poll_data(body: &mut Incoming, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, hyper::Error>>> {
    loop {
        match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Poll::Ready(Some(Ok(data)));
                }
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => return Poll::Ready(None),
        }
    }
}

/// A response body on its way to the client.
pub(crate) enum DownBody {
    /// A refusal's.
    Whole(Full<Bytes>),
    /// An upstream's.
    Upstream(Box<Streamed>),
}

/// Why a response body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The upstream's connection broke, or what it sent is not HTTP.
    #[error("the upstream's response broke off")]
    Upstream(#[source] hyper::Error),
    /// The upstream sent nothing for this long.
    #[error("the upstream sent nothing for {0:?}")]
    Idle(Duration),
}

/// A response body, with the record that is made when it ends.
pub(crate) struct Streamed {
    inner: Incoming,
    idle_timeout: Duration,
    silence: Option<Pin<Box<Sleep>>>,
    is_silent: bool,
    report: Report,
}

impl Streamed {
    /// Wraps the upstream's body.
    pub(crate) fn new(inner: Incoming, idle_timeout: Duration, report: Report) -> Self {
        Self { inner, idle_timeout, silence: None, is_silent: false, report }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        match poll_data(&mut self.inner, cx) {
            Poll::Ready(Some(Ok(data))) => {
                self.is_silent = false;
                self.report.moved.add_down(data.len());
                Poll::Ready(Some(Ok(data)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.report.end = Some("upstream_reset");
                Poll::Ready(Some(Err(BodyError::Upstream(error))))
            }
            Poll::Ready(None) => {
                self.report.end = Some("finished");
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(self.poll_silence(cx));
                self.report.end = Some("idle_timeout");
                Poll::Ready(Some(Err(BodyError::Idle(self.idle_timeout))))
            }
        }
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.silence.get_or_insert_with(|| Box::pin(sleep(self.idle_timeout)));
        if !self.is_silent {
            self.is_silent = true;
            timer.as_mut().reset(Instant::now() + self.idle_timeout);
        }
        timer.as_mut().poll(cx)
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        // hyper does not poll again for an end that it was told of by length.
        if self.report.end.is_none() && self.inner.is_end_stream() {
            self.report.end = Some("finished");
        }
    }
}

impl Body for DownBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Upstream(body) => body.poll_bytes(cx).map(|data| data.map(|data| data.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Upstream(body) => body.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Upstream(body) => body.inner.size_hint(),
        }
    }
}
