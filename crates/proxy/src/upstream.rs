//! One request and its response head over one connection to an upstream.

mod driver;
mod lease;

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use http::{Request, Response, StatusCode};
use hyper::{
    body::{Body, Incoming},
    client::conn::{
        TrySendError,
        http1::{Builder, SendRequest},
    },
    ext::on_informational,
};
use hyper_util::rt::TokioIo;
use tokio::{
    runtime::{Handle, Id},
    sync::Notify,
    time::{Instant, Sleep, sleep},
};

use crate::{
    body::UpBody,
    limits::Limits,
    meter::{Meter, Side},
    pool::Key,
    shared::Shared,
    upstream_stream::UpstreamStream,
    websocket::{self, Switched},
};

pub(crate) use lease::Lease;

use driver::Driver;

/// A connection that takes one request after the other.
pub(crate) struct Upstream {
    sender: SendRequest<UpBody>,
    driver: Driver,
    opened: Instant,
    /// Whose threads hear what happens on it.
    home: Id,
    is_plain: bool,
}

/// A response whose body is to be read.
pub(crate) struct Answered {
    pub(crate) response: Response<Incoming>,
    /// The connection that its body comes from, unless nothing has to be done for that any more.
    pub(crate) lease: Option<Lease>,
}

impl Upstream {
    /// Whether a request can be sent now.
    pub(crate) fn is_ready(&self) -> bool {
        !self.sender.is_closed() && self.sender.is_ready()
    }

    /// Moves an idle connection to the runtime that this runs on, which costs three system calls once. Elsewhere each
    /// response would wake one core so that it wakes another. One with TLS stays where it is. What has happened on it and
    /// its own runtime has not heard of yet, this one would not hear of before the request is written: it is looked for.
    pub(crate) async fn brought_here(self, shared: &Shared) -> Result<Self, Failure> {
        if !self.is_plain || self.driver.is_detached() {
            return Ok(self);
        }
        let stream = self.driver.into_stream().ok_or(Failure::Closed)?;
        let stream = stream.brought_here().map_err(|_| Failure::Closed)?;
        Ok(Self { opened: self.opened, ..open(shared, stream).await? })
    }

    /// Whether the runtime `here` hears what happens on it.
    pub(crate) fn is_at_home(&self, here: Id) -> bool {
        self.home == here
    }

    /// When it was opened.
    pub(crate) const fn opened(&self) -> Instant {
        self.opened
    }

    /// Looks whether the upstream has closed it, if something has happened on it. Returns whether something has.
    pub(crate) fn look(&mut self) -> bool {
        self.driver.look()
    }

    /// Ends what [`Self::watch`] began: a request is handed to it next, which is news to nobody.
    pub(crate) fn unwatch(&self) {
        self.driver.unwatch();
    }

    /// Tells `waker` when something happens on it.
    pub(crate) fn watch(&self, waker: &Waker) {
        self.driver.watch(waker);
    }
}

/// Why an upstream gave no response.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Failure {
    /// It closed the connection before its response, or the connection broke.
    #[error("the upstream closed the connection before its response")]
    Closed,
    /// What it sent is not an HTTP/1 response within the limits.
    #[error("the upstream's response is malformed")]
    Malformed,
    /// It sent interim responses without end.
    #[error("the upstream sent too many interim responses")]
    TooManyInterim,
    /// It switched protocols without being asked to, or to another one (RFC 9110 §15.2.2).
    #[error("the upstream switched protocols")]
    Upgrade,
    /// It answered 407, which is a proxy's word to its own client: nobody could tell it from ours.
    #[error("the upstream asked for credentials as a proxy does")]
    Challenge,
    /// The body is in another transfer coding than chunked, which nobody asked for (RFC 9110 §10.1.4).
    #[error("the upstream's response is in an unknown transfer coding")]
    Coding,
    /// It took the request and said nothing.
    #[error("the upstream did not respond in time")]
    Silent,
}

/// A request without a response.
pub(crate) struct Lost {
    /// The request, if not a byte of it has been written.
    pub(crate) request: Option<Box<Request<UpBody>>>,
    pub(crate) failure: Failure,
}

/// Makes `stream` ready for requests.
pub(crate) async fn open(shared: &Shared, stream: UpstreamStream) -> Result<Upstream, Failure> {
    let is_plain = matches!(stream, UpstreamStream::Plain(_));
    let (sender, connection) =
        builder(shared).handshake(TokioIo::new(stream)).await.map_err(|error| classify(&error))?;
    let (driver, home) = (Driver::new(connection), Handle::current().id());
    Ok(Upstream { sender, driver, opened: Instant::now(), home, is_plain })
}

/// Sends `request` and returns the head of the final response, its body to be streamed. When that has been read to
/// its end the connection goes to the pool as `key`.
///
/// The request is handed over at once: what is returned has no room for it, and is the smaller.
pub(crate) fn exchange(
    shared: &Shared,
    key: Key,
    mut upstream: Upstream,
    request: Request<UpBody>,
) -> impl Future<Output = Result<Answered, Lost>> + Send {
    if !request.body().is_end_stream() {
        upstream.driver.detach();
    }
    let sent = send(&mut upstream.sender, request, &shared.limits);
    async move {
        let response = response_head(sent, Some(&mut upstream.driver)).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Lost { request: None, failure: Failure::Upgrade });
        }
        let lease = Lease::begin(&shared.pool, key, upstream, response.body().is_end_stream());
        Ok(Answered { response, lease })
    }
}

/// Sends a `request` that asks for a WebSocket over a connection of its own, which never goes to the pool. Returns the
/// head of the final response, and the connection if that is a 101 which agrees.
pub(crate) async fn switch(
    shared: &Shared,
    stream: UpstreamStream,
    request: Request<UpBody>,
) -> Result<(Response<Incoming>, Option<Switched>), Failure> {
    let (mut sender, connection) = builder(shared)
        .handshake::<_, UpBody>(TokioIo::new(stream))
        .await
        .map_err(|error| classify(&error))?;
    let connection = tokio::spawn(connection.without_shutdown());
    let response = response_head(send(&mut sender, request, &shared.limits), None).await;
    let response = response.map_err(|lost| lost.failure)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok((response, None));
    }
    if !websocket::is_agreed(response.headers()) {
        return Err(Failure::Upgrade);
    }
    match connection.await {
        Ok(Ok(parts)) => {
            Ok((response, Some(Switched { stream: parts.io.into_inner(), early: parts.read_buf })))
        }
        Ok(Err(_)) | Err(_) => Err(Failure::Closed),
    }
}

fn builder(shared: &Shared) -> Builder {
    let mut builder = Builder::new();
    if let Some(most) = shared.limits.headers_for_hyper() {
        builder.max_headers(most);
    }
    builder
        .max_header_size(shared.limits.response_head_bytes)
        .max_buf_size(shared.limits.response_head_bytes);
    builder
}

/// What hyper says of a request.
type Responded = Result<Response<Incoming>, TrySendError<Request<UpBody>>>;

/// A request that is on its way.
struct Sent {
    /// On the heap: it has room for the whole request.
    response: Pin<Box<dyn Future<Output = Responded> + Send>>,
    interim: Interim,
    meter: Arc<Meter>,
    limit: Duration,
}

/// Hands `request` over to the connection of `sender`.
fn send(sender: &mut SendRequest<UpBody>, mut request: Request<UpBody>, limits: &Limits) -> Sent {
    let interim = Interim::watch(&mut request, limits.informational_max);
    let meter = request.body().meter();
    let response = Box::pin(sender.try_send_request(request));
    Sent { response, interim, meter, limit: limits.response_head_timeout }
}

/// Waits for the response to what was sent over the connection of `driver`, or one that has a task of its own.
async fn response_head(sent: Sent, mut driver: Option<&mut Driver>) -> Result<Response<Incoming>, Lost> {
    let Sent { mut response, interim, meter, limit } = sent;
    let mut too_many = pin!(interim.0.is_beyond.notified());
    let timer = pin!(sleep(limit));
    let mut silent = Silent::new(timer, meter, limit);
    poll_fn(|cx| {
        let polled = match &mut driver {
            Some(driver) if !driver.is_detached() => driver.poll(cx, |cx| response.as_mut().poll(cx)),
            Some(_) | None => {
                // Whoever drives the connection finds it out, and this has to be woken for it.
                if too_many.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(Lost { request: None, failure: Failure::TooManyInterim }));
                }
                response.as_mut().poll(cx)
            }
        };
        if interim.is_beyond() {
            return Poll::Ready(Err(Lost { request: None, failure: Failure::TooManyInterim }));
        }
        if let Poll::Ready(response) = polled {
            return Poll::Ready(response.map_err(|mut error| Lost {
                request: error.take_message().map(Box::new),
                failure: classify(error.error()),
            }));
        }
        ready!(silent.poll(cx));
        Poll::Ready(Err(Lost { request: None, failure: Failure::Silent }))
    })
    .await
}

/// The time in which an upstream has to say something.
struct Silent<'a> {
    timer: Pin<&'a mut Sleep>,
    limit: Duration,
    meter: Arc<Meter>,
    sent_before: u64,
}

impl<'a> Silent<'a> {
    fn new(timer: Pin<&'a mut Sleep>, meter: Arc<Meter>, limit: Duration) -> Self {
        let sent_before = meter.taken(Side::Upstream);
        Self { timer, limit, meter, sent_before }
    }

    /// Ready when it is over. An upload that goes on is not silence.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let sent = self.meter.taken(Side::Upstream);
            if sent == self.sent_before {
                return Poll::Ready(());
            }
            self.sent_before = sent;
            self.timer.as_mut().reset(Instant::now() + self.limit);
        }
    }
}

/// Tells when a request has had more interim responses than it may.
struct Interim(Arc<Counted>);

struct Counted {
    count: AtomicUsize,
    max: usize,
    is_beyond: Notify,
}

impl Interim {
    fn watch(request: &mut Request<UpBody>, max: usize) -> Self {
        let counted = Arc::new(Counted { count: AtomicUsize::new(0), max, is_beyond: Notify::new() });
        let counting = Arc::clone(&counted);
        on_informational(request, move |_| {
            if counting.count.fetch_add(1, Ordering::Relaxed) >= counting.max {
                counting.is_beyond.notify_one();
            }
        });
        Self(counted)
    }

    fn is_beyond(&self) -> bool {
        self.0.count.load(Ordering::Relaxed) > self.0.max
    }
}

fn classify(error: &hyper::Error) -> Failure {
    if error.is_parse() || error.is_parse_too_large() || error.is_parse_status() {
        Failure::Malformed
    } else {
        Failure::Closed
    }
}
