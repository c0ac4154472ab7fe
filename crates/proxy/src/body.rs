//! The bodies of a forwarded request and its response: streamed, counted, never held, and with an end that is known.

use std::{
    error::Error,
    future::Future,
    io, mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use exeat_policy::Reason;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{
    http2::Http2Body,
    limits::Limits,
    meter::{Meter, Side},
    pace::Pace,
    report::Report,
    upstream::Lease,
};

/// A request body as the client sends it.
pub(crate) enum ClientBody {
    /// Framed by hyper.
    Http1(Incoming),
    /// The data of a stream.
    Http2(Http2Body),
}

impl ClientBody {
    /// Whether `error` says that what the client sent is no body: its framing is broken, or it ends before its end. It is
    /// hyper that finds that out, and tells it by the kind of an error of the connection.
    fn is_malformed(error: &ClientBodyError) -> bool {
        use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        let found = error.downcast_ref::<hyper::Error>().and_then(|error| error.source()?.downcast_ref());
        found.is_some_and(|e: &io::Error| matches!(e.kind(), InvalidData | InvalidInput | UnexpectedEof))
    }
}

/// Why a request body broke off.
type ClientBodyError = Box<dyn Error + Send + Sync>;

impl Body for ClientBody {
    type Data = Bytes;
    type Error = ClientBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        match &mut *self {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

/// A request body on its way upstream. Trailers are dropped: `TE` and `Trailer` are not passed on either.
pub(crate) struct UpBody {
    inner: Option<ClientBody>,
    meter: Arc<Meter>,
    pace: Pace,
    /// Why nothing of it may follow, not even its end: whoever gets it would take what there was for the whole.
    broken: Option<Reason>,
}

impl UpBody {
    /// Wraps the client's body.
    pub(crate) fn new(inner: ClientBody, meter: Arc<Meter>, limits: &Limits) -> Self {
        Self { inner: Some(inner), meter, pace: Pace::new(limits), broken: None }
    }

    /// What has moved of it, to look at while it moves.
    pub(crate) fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    /// The body of a request that has none.
    pub(crate) fn empty(meter: Arc<Meter>) -> Self {
        Self { inner: None, meter, pace: Pace::none(), broken: None }
    }
}

impl Body for UpBody {
    type Data = Bytes;
    type Error = ClientBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        if let Some(reason) = this.broken {
            this.meter.stop(reason);
            // Whoever waits for the exchange hears of it and drops this.
            return Poll::Pending;
        }
        let Poll::Ready(mut polled) = poll_data(inner, cx) else {
            if this.pace.poll_too_slow(cx, this.meter.idle_timeout()).is_ready() {
                this.meter.stop(Reason::IdleTimeout);
            }
            return Poll::Pending;
        };
        match &mut polled {
            Some(Ok(data)) => {
                this.pace.moved(data.len());
                let is_beyond = take(&this.meter, Side::Upstream, data);
                this.broken = is_beyond.then_some(Reason::MaxBytes);
                if data.is_empty() && is_beyond {
                    return Poll::Pending;
                }
            }
            // The upstream's connection would break for it, and be blamed.
            Some(Err(error)) if ClientBody::is_malformed(error) => {
                this.broken = Some(Reason::RequestMalformed);
                this.meter.stop(Reason::RequestMalformed);
                return Poll::Pending;
            }
            Some(Err(_)) | None => {}
        }
        Poll::Ready(polled.map(|data| data.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.broken.is_none() && self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// Counts what `receiver` may take of `data`, and cuts off the rest. Returns whether there was one.
fn take(meter: &Meter, receiver: Side, data: &mut Bytes) -> bool {
    let room = meter.room(receiver, data.len());
    let is_beyond = room < data.len();
    data.truncate(room);
    meter.took(receiver, room);
    is_beyond
}

/// Polls for the next data, passing over trailers.
fn poll_data<B: Body<Data = Bytes> + Unpin>(
    body: &mut B,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Bytes, B::Error>>> {
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
    /// The flow had to end.
    #[error("the response was cut: {0}")]
    Cut(Reason),
}

/// The response that a connection is streaming. Its body notices by itself that it has to end, but only when it is
/// asked for more; what waits for a client that takes nothing has to look here.
#[derive(Debug, Default)]
pub(crate) struct Streaming(Mutex<Option<Arc<Meter>>>);

impl Streaming {
    pub(crate) fn begins(&self, meter: &Arc<Meter>) {
        *self.meter() = Some(Arc::clone(meter));
    }

    pub(crate) fn ends(&self) {
        *self.meter() = None;
    }

    /// Waits until the response has to end before its end.
    pub(crate) async fn cut(&self) {
        let meter = self.meter().clone();
        match meter {
            Some(meter) => drop(meter.ended().await),
            None => std::future::pending().await,
        }
    }

    /// How long the client may take nothing of the response.
    pub(crate) fn idle_timeout(&self) -> Option<Duration> {
        self.meter().as_ref().map(|meter| meter.idle_timeout())
    }

    /// Ends the response of which the client took nothing for so long.
    pub(crate) fn stall(&self) {
        if let Some(meter) = &*self.meter() {
            meter.stop(Reason::IdleTimeout);
        }
    }

    /// Whether the response had to end before its end.
    pub(crate) fn is_cut(&self) -> bool {
        self.meter().as_ref().is_some_and(|meter| meter.reason().is_some())
    }

    /// Locked for an instant, and by the tasks of one connection alone.
    fn meter(&self) -> MutexGuard<'_, Option<Arc<Meter>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A response body, with the record that is made when it ends.
pub(crate) struct Streamed {
    inner: Incoming,
    /// The connection that it comes from, while something has to be done for that.
    lease: Option<Lease>,
    /// Kept between pauses, so that only the first one allocates.
    timer: Option<Pin<Box<Sleep>>>,
    silent_since: Option<Instant>,
    /// There was more than the flow may move.
    is_beyond: bool,
    /// Something was handed on since the last pause: what it is waits to be written.
    has_unwritten: bool,
    /// Why the body breaks off, once what came before that is on its way to the client.
    broken: Option<hyper::Error>,
    /// Until the flow must end. There once the body has to be waited for.
    ended: Option<Pin<Box<dyn Future<Output = Reason> + Send>>>,
    report: Report,
}

impl Streamed {
    /// Wraps the upstream's body.
    pub(crate) fn new(inner: Incoming, lease: Option<Lease>, report: Report) -> Self {
        Self {
            inner,
            lease,
            timer: None,
            silent_since: None,
            is_beyond: false,
            has_unwritten: true,
            broken: None,
            ended: None,
            report,
        }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if let Some(reason) = self.report.meter.over() {
            return self.cut(reason);
        }
        if self.is_beyond {
            return self.cut_beyond();
        }
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(BodyError::Upstream(error))));
        }
        let polled = Lease::poll(&mut self.lease, cx, |cx| poll_data(&mut self.inner, cx));
        // All of it has come: nobody has to be woken any more. Before that, also a client that takes nothing must be.
        let is_last = polled.is_ready() && self.inner.is_end_stream();
        if !is_last && let Poll::Ready(reason) = self.poll_ended(cx) {
            return self.cut(reason);
        }
        match polled {
            Poll::Ready(Some(Ok(mut data))) => {
                self.silent_since = None;
                self.has_unwritten = true;
                self.is_beyond = take(&self.report.meter, Side::Client, &mut data);
                if data.is_empty() && self.is_beyond {
                    return self.cut_beyond();
                }
                Poll::Ready(Some(Ok(data)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.report.end = Some("upstream_reset");
                if mem::take(&mut self.has_unwritten) {
                    // hyper drops what it has not written, head included, when it hears of an error.
                    self.broken = Some(error);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(Some(Err(BodyError::Upstream(error))))
            }
            Poll::Ready(None) => {
                self.report.end = Some("finished");
                Poll::Ready(None)
            }
            Poll::Pending => {
                self.has_unwritten = false;
                let idle_timeout = self.report.meter.idle_timeout();
                ready!(self.poll_silence(cx, idle_timeout));
                self.report.end = Some("idle_timeout");
                Poll::Ready(Some(Err(BodyError::Idle(idle_timeout))))
            }
        }
    }

    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        let meter = &self.report.meter;
        let ended = self.ended.get_or_insert_with(|| {
            let meter = Arc::clone(meter);
            Box::pin(async move { meter.ended().await })
        });
        ended.as_mut().poll(cx)
    }

    /// Whether nothing comes any more: what was cut off is yet to break the response.
    fn is_end_stream(&self) -> bool {
        !self.is_beyond && self.inner.is_end_stream()
    }

    fn cut_beyond(&mut self) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.report.meter.stop(Reason::MaxBytes);
        self.cut(Reason::MaxBytes)
    }

    fn cut(&mut self, reason: Reason) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.report.end = Some(reason.token());
        Poll::Ready(Some(Err(BodyError::Cut(reason))))
    }

    /// The timeout may have changed since the last poll.
    fn poll_silence(&mut self, cx: &mut Context<'_>, idle_timeout: Duration) -> Poll<()> {
        let since = *self.silent_since.get_or_insert_with(Instant::now);
        let deadline = since + idle_timeout;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx)
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        // hyper does not poll again for an end that it was told of by length.
        if self.report.end.is_none() && self.is_end_stream() {
            self.report.end = Some("finished");
        }
        if let Some(lease) = self.lease.take()
            && self.inner.is_end_stream()
        {
            lease.end();
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
            Self::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Upstream(body) => body.inner.size_hint(),
        }
    }
}
