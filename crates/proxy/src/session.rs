//! A hyper server session over a connection whose heads the guard reads first.
//!
//! [`GuardedIo`] gives hyper the bytes of one checked head, then as many body bytes as that head announced, then the
//! next checked head. When the next head is for someone else (a CONNECT, a refusal) hyper sees the end of the stream
//! between two requests, which is a clean end, and the outer loop goes on with what came next. hyper asks for the next
//! head only after the response to the one before is written, so responses stay in order.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    sync::atomic::{AtomicBool, Ordering},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{Request, Version};
use hyper::{
    body::Incoming,
    rt::{Read, ReadBufCursor, Write},
    server::conn::http1::Builder,
    service::service_fn,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    body::{ClientBody, Streaming},
    client::Client,
    client_stream::ClientStream,
    forward,
    guard::{Framing, Head},
    head::{HeadReader, Next},
    shared::Shared,
    stall::Stall,
    target::Target,
    websocket::{Agreed, Handover},
    within::told,
};

/// Bytes moved in one read of a body.
const BODY_READ_BYTES: usize = 16 * 1024;

/// What is left of a connection after its session.
pub(crate) struct Ended {
    pub(crate) stream: ClientStream,
    pub(crate) reader: HeadReader,
    /// What the guard read next and hyper must not see; `None` if the connection is over.
    pub(crate) next: Option<Next>,
    /// The client may still be sending what nobody will read.
    pub(crate) has_unread: bool,
    /// A response was cut off, and the client must not take what it got for the whole.
    pub(crate) is_cut: bool,
    /// A WebSocket, and what the client is to be sent before it begins.
    pub(crate) websocket: Option<(Agreed, Vec<u8>)>,
}

/// What the two sides of hyper tell each other past it: the connection that it reads, and the service that it asks.
#[derive(Default)]
struct Between {
    streaming: Streaming,
    handover: Handover,
    passed: Passed,
    /// The last request is one of HTTP/1.0: its response may end where the connection does (RFC 9112 §6.3).
    is_http10: AtomicBool,
}

/// The head that hyper was given last, until its request is answered.
#[derive(Default)]
struct Passed(Mutex<Option<Box<Head>>>);

impl Passed {
    fn set(&self, head: Box<Head>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(head);
    }

    fn take(&self) -> Option<Box<Head>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Runs a session that begins with the checked head `bytes`.
pub(crate) async fn run(
    shared: &Arc<Shared>,
    client: &Client,
    stream: ClientStream,
    reader: HeadReader,
    head: Box<Head>,
    bytes: Bytes,
) -> Ended {
    let between = Arc::new(Between::default());
    let io = GuardedIo::new(stream, reader, head, bytes, shared.limits.idle_timeout, Arc::clone(&between));
    let service = service_fn(|request: Request<Incoming>| {
        let Between { streaming, handover, passed, is_http10 } = &*between;
        is_http10.store(request.version() == Version::HTTP_10, Ordering::Relaxed);
        let request = request.map(ClientBody::Http1);
        let passed = passed.take();
        async move {
            Ok::<_, Infallible>(forward::answer(shared, client, request, passed, streaming, handover).await)
        }
    });
    let mut builder = Builder::new();
    if let Some(most) = shared.limits.headers_for_hyper() {
        builder.max_headers(most);
    }
    let mut connection = builder
        // A client may end its side after its last request and still read the response (RFC 9112 §9.6).
        .half_close(true)
        .header_read_timeout(None)
        .max_header_size(shared.limits.head_bytes)
        .max_buf_size(shared.limits.head_bytes.max(BODY_READ_BYTES))
        .serve_connection(io, service);
    let mut draining = pin!(told(shared.flows.draining(), |is_draining| *is_draining));
    let mut stop = pin!(told(shared.flows.stop(), Option::is_some));
    let mut polled = poll_fn(|cx| Pin::new(&mut connection).poll(cx));
    let mut ended = tokio::select! {
        biased;
        () = &mut stop => Some(Ok(())),
        // Before the drain, so that hyper has the head which is already here: asked to end without one, it would.
        ended = &mut polled => Some(ended),
        () = &mut draining => None,
    };
    if ended.is_none() {
        Pin::new(&mut connection).graceful_shutdown();
        ended = tokio::select! {
            biased;
            () = &mut stop => None,
            ended = poll_fn(|cx| Pin::new(&mut connection).poll(cx)) => Some(ended),
        }
    }
    // What else hyper calls an error is the client's: it is gone, or what it sends is no body.
    let is_broken = ended.is_some_and(|ended| ended.is_err_and(|error| error.is_user()));
    let parts = connection.into_parts();
    let mut io = parts.io;
    let websocket = between.handover.take().map(|agreed| (agreed, std::mem::take(&mut io.last)));
    if websocket.is_some() && !parts.read_buf.is_empty() {
        // hyper does not read on while it answers, so this is nothing; if it ever did, no byte may be lost.
        let since = io.reader.buffered().split();
        io.reader.buffered().extend_from_slice(&parts.read_buf);
        io.reader.buffered().unsplit(since);
    }
    Ended {
        has_unread: io.has_unread(),
        is_cut: between.streaming.is_cut() || is_broken && between.is_http10.load(Ordering::Relaxed),
        stream: io.stream,
        reader: io.reader,
        next: io.next,
        websocket,
    }
}

/// The client's connection as hyper may see it.
struct GuardedIo {
    stream: ClientStream,
    reader: HeadReader,
    state: State,
    next: Option<Next>,
    idle_timeout: Duration,
    /// Runs while hyper waits for body bytes or for the client to take some.
    read_stall: Stall,
    write_stall: Stall,
    between: Arc<Between>,
    /// hyper's last bytes, when a WebSocket follows. hyper is done when it has handed them over, not when the client
    /// has taken them, so they are written after it: at most its buffer and one response head.
    last: Vec<u8>,
}

/// What hyper's next read gets.
enum State {
    /// The rest of a checked head, then its body.
    Head(Bytes, Framing),
    /// This many bytes of a body, then the next head.
    Body(u64),
    /// Whatever comes: this was the connection's last request.
    Chunked,
    /// The next head, when there is one.
    Between,
    /// The end of the stream.
    Ended,
}

impl GuardedIo {
    fn new(
        stream: ClientStream,
        reader: HeadReader,
        head: Box<Head>,
        bytes: Bytes,
        idle_timeout: Duration,
        between: Arc<Between>,
    ) -> Self {
        let framing = head.framing;
        between.passed.set(head);
        Self {
            stream,
            reader,
            state: State::Head(bytes, framing),
            next: None,
            idle_timeout,
            read_stall: Stall::default(),
            write_stall: Stall::default(),
            between,
            last: Vec::new(),
        }
    }

    /// Whether the session ended anywhere but in the pause between two requests.
    fn has_unread(&mut self) -> bool {
        let is_paused = match self.state {
            State::Between | State::Ended => true,
            State::Head(..) | State::Body(_) | State::Chunked => false,
        };
        !is_paused || !self.reader.buffered().is_empty()
    }

    /// Writes or flushes, and returns how much was taken. A client that takes nothing would hold a response that has to
    /// end. TLS takes a while longer: there only what leaves it counts.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        send: impl FnOnce(Pin<&mut ClientStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let before = self.stream.held();
        let polled = send(Pin::new(&mut self.stream), cx);
        let held = self.stream.held();
        let taken = match &polled {
            Poll::Ready(Ok(taken)) => *taken,
            Poll::Ready(Err(_)) => return polled,
            Poll::Pending => 0,
        };
        if held < before.saturating_add(taken) || polled.is_ready() && held == 0 {
            self.write_stall.moved();
        }
        if polled.is_ready() {
            return polled;
        }
        let streaming = &self.between.streaming;
        if streaming.is_cut() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let idle_timeout = streaming.idle_timeout().unwrap_or(self.idle_timeout);
        let error = ready!(self.write_stall.poll_over(cx, idle_timeout));
        streaming.stall();
        Poll::Ready(Err(error))
    }

    /// Gives hyper at most `limit` bytes of a body, the buffered ones first. Zero is the end of the stream.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut ReadBufCursor<'_>,
        limit: u64,
    ) -> Poll<io::Result<u64>> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(out.remaining()).min(BODY_READ_BYTES);
        let buffered = self.reader.buffered();
        if !buffered.is_empty() {
            let count = limit.min(buffered.len());
            out.put_slice(&buffered.split_to(count));
            return Poll::Ready(Ok(count as u64));
        }
        let mut space = [MaybeUninit::uninit(); BODY_READ_BYTES];
        let mut read = ReadBuf::uninit(space.get_mut(..limit).unwrap_or_default());
        let polled = Pin::new(&mut self.stream).poll_read(cx, &mut read);
        ready!(self.read_stall.watch(cx, self.idle_timeout, polled))?;
        out.put_slice(read.filled());
        Poll::Ready(Ok(read.filled().len() as u64))
    }

    /// Moves on to the next head. Returns whether hyper may have it.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let next = ready!(self.reader.poll_next(cx, &mut self.stream));
        self.state = match next {
            Next::Head(head, bytes) if matches!(head.target, Target::Forward(_)) => {
                let framing = head.framing;
                self.between.passed.set(head);
                State::Head(bytes, framing)
            }
            Next::Head(..) | Next::Refused(..) | Next::Http2 => {
                self.next = Some(next);
                State::Ended
            }
            Next::Closed => State::Ended,
        };
        Poll::Ready(())
    }
}

impl Read for GuardedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut out: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Head(bytes, framing) if bytes.is_empty() => {
                    this.state = match framing {
                        Framing::Length(length) => State::Body(*length),
                        Framing::Chunked => State::Chunked,
                    };
                }
                State::Head(bytes, _) => {
                    let count = bytes.len().min(out.remaining());
                    out.put_slice(bytes.get(..count).unwrap_or_default());
                    bytes.advance(count);
                    return Poll::Ready(Ok(()));
                }
                State::Body(0) => {
                    this.reader.restart();
                    this.state = State::Between;
                }
                State::Body(left) => {
                    let left = *left;
                    let count = ready!(this.poll_body(cx, &mut out, left))?;
                    this.state = State::Body(left - count);
                    return Poll::Ready(Ok(()));
                }
                State::Chunked => return this.poll_body(cx, &mut out, u64::MAX).map_ok(drop),
                State::Between => ready!(this.poll_head(cx)),
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl Write for GuardedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.between.handover.is_set() {
            this.last.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        this.poll_send(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.between.handover.is_set() {
            let before = this.last.len();
            this.last.extend(slices.iter().flat_map(|slice| slice.iter()));
            return Poll::Ready(Ok(this.last.len() - before));
        }
        this.poll_send(cx, |stream, cx| stream.poll_write_vectored(cx, slices))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx, |stream, cx| stream.poll_flush(cx).map_ok(|()| 0)).map_ok(drop)
    }

    /// The connection outlives the session: the outer loop closes it.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

#[cfg(test)]
mod tests;
