//! Reads request heads from a client's socket, in bounded space and time, through the byte guard.

use std::{
    future::poll_fn,
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use crate::{
    client_stream::ClientStream,
    guard::{Head, HeadError, Scan, checked},
    limits::Limits,
    metrics::Metrics,
};

/// Bytes asked of the socket at a time: one read takes almost every request head whole.
const READ_BYTES: usize = 4096;

/// What an HTTP/2 client says first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What came next on a client's connection.
pub(crate) enum Next {
    /// A request head that passed the guard, and its bytes.
    Head(Box<Head>, Bytes),
    /// The connection preface of HTTP/2, which is still in [`HeadReader::buffered`].
    Http2,
    /// A request head that did not pass, and what had come of it.
    Refused(HeadError, Bytes),
    /// The client closed, was silent for too long between requests, or cannot be read from.
    Closed,
}

/// What came of waiting for more bytes.
pub(crate) enum More {
    /// Some came.
    Bytes,
    /// None came before the deadline.
    Late,
    /// The client closed, or cannot be read from.
    Closed,
}

/// The reading side of one client connection: what was read and not yet taken, and the deadline of the head.
pub(crate) struct HeadReader {
    buffer: BytesMut,
    scan: Scan,
    /// When the first byte of the head has come; since then, silence is not the pause between two requests.
    started: Option<Instant>,
    has_skipped_line: bool,
    /// Nothing has been read that could not be the preface of HTTP/2, and it may be.
    may_be_http2: bool,
    deadline: Instant,
    /// Follows the deadline when there is something to wait for. Most heads come in one piece, and one that comes before
    /// the timer would go off leaves it where it is.
    timer: Pin<Box<Sleep>>,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
}

impl HeadReader {
    /// Starts the deadline of the first head: it counts from now, bytes or no bytes.
    pub(crate) fn new(limits: Arc<Limits>, metrics: Arc<Metrics>) -> Self {
        let deadline = Instant::now() + limits.head_timeout;
        Self {
            buffer: BytesMut::new(),
            scan: Scan::default(),
            started: None,
            has_skipped_line: false,
            may_be_http2: false,
            deadline,
            timer: Box::pin(sleep_until(deadline)),
            limits,
            metrics,
        }
    }

    /// Lets the connection begin with the preface of HTTP/2.
    pub(crate) const fn or_http2(mut self) -> Self {
        self.may_be_http2 = true;
        self
    }

    /// Starts the pause before the next head.
    pub(crate) fn restart(&mut self) {
        self.scan = Scan::default();
        self.started = None;
        self.has_skipped_line = false;
        self.deadline = Instant::now() + self.limits.keepalive_timeout;
    }

    /// Waits for the first byte of the connection and returns it without taking it; `None` if there is none in time.
    pub(crate) async fn first_byte(&mut self, stream: &mut ClientStream) -> Option<u8> {
        if self.buffer.is_empty() {
            match self.more(stream).await {
                More::Bytes => {}
                More::Late | More::Closed => return None,
            }
        }
        self.buffer.first().copied()
    }

    /// Starts the deadline of what is read with [`Self::more`], as a first byte does for a head.
    pub(crate) fn start(&mut self) {
        let now = Instant::now();
        self.started = Some(now);
        self.deadline = now + self.limits.head_timeout;
    }

    /// Reads once. The caller says when it is enough.
    ///
    /// # Cancel safety
    /// Nothing that was read is lost.
    pub(crate) async fn more(&mut self, stream: &mut ClientStream) -> More {
        poll_fn(|cx| match ready!(self.poll_fill(cx, stream)) {
            None => Poll::Ready(More::Late),
            Some(Ok(0) | Err(_)) => Poll::Ready(More::Closed),
            Some(Ok(_)) => Poll::Ready(More::Bytes),
        })
        .await
    }

    /// Whether a byte of the next head has come.
    pub(crate) const fn is_started(&self) -> bool {
        self.started.is_some()
    }

    /// The bytes that were read beyond the last head: a body, a pipelined request or early tunnel data.
    pub(crate) fn buffered(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Returns what comes next.
    ///
    /// # Cancel safety
    /// Nothing that was read is lost.
    pub(crate) async fn next(&mut self, stream: &mut ClientStream) -> Next {
        poll_fn(|cx| self.poll_next(cx, stream)).await
    }

    /// Polls for what comes next.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>, stream: &mut ClientStream) -> Poll<Next> {
        loop {
            if self.is_preface() {
                return Poll::Ready(Next::Http2);
            }
            match self.take_head() {
                Ok(Some((head, bytes))) => return Poll::Ready(Next::Head(Box::new(head), bytes)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Next::Refused(error, self.buffer.split().freeze())),
            }
            match ready!(self.poll_fill(cx, stream)) {
                None => return Poll::Ready(self.late()),
                Some(Ok(0) | Err(_)) => return Poll::Ready(Next::Closed),
                Some(Ok(_)) => {}
            }
        }
    }

    /// Reads once; `None` if it is too late for that. The timer is set only if there is something to wait for.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut ClientStream,
    ) -> Poll<Option<std::io::Result<usize>>> {
        if self.deadline <= Instant::now() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(read) = poll_fill(cx, stream, &mut self.buffer) {
            return Poll::Ready(Some(read));
        }
        if self.timer.deadline() != self.deadline {
            self.timer.as_mut().reset(self.deadline);
        }
        self.timer.as_mut().poll(cx).map(|()| None)
    }

    /// Whether the whole preface is here. Remembers once it cannot be it.
    fn is_preface(&mut self) -> bool {
        let length = self.buffer.len().min(PREFACE.len());
        self.may_be_http2 &= self.buffer.get(..length) == PREFACE.get(..length);
        self.may_be_http2 && length == PREFACE.len()
    }

    fn take_head(&mut self) -> Result<Option<(Head, Bytes)>, HeadError> {
        self.skip_empty_line();
        if !self.buffer.is_empty() && self.started.is_none() {
            self.start();
        }
        if self.may_be_http2 {
            return Ok(None);
        }
        let Some(length) = self.scan.advance(&self.buffer, &self.limits)? else { return Ok(None) };
        if let Some(started) = self.started {
            self.metrics.head_time.observe(started.elapsed());
        }
        let head = checked(self.buffer.get(..length).unwrap_or_default(), &self.limits)?;
        Ok(Some((head, self.buffer.split_to(length).freeze())))
    }

    /// Skips one empty line before a request line (RFC 9112 §2.2), and no more than one.
    fn skip_empty_line(&mut self) {
        if !self.has_skipped_line && self.buffer.starts_with(b"\r\n") {
            self.has_skipped_line = true;
            self.scan = Scan::default();
            let _ = self.buffer.split_to(2);
        }
    }

    fn late(&mut self) -> Next {
        if self.is_started() {
            Next::Refused(HeadError::Timeout, self.buffer.split().freeze())
        } else {
            Next::Closed
        }
    }
}

/// Reads once from `stream` to the end of `buffer`; zero is the end of the stream.
fn poll_fill(
    cx: &mut Context<'_>,
    stream: &mut ClientStream,
    buffer: &mut BytesMut,
) -> Poll<std::io::Result<usize>> {
    let mut space = [MaybeUninit::uninit(); READ_BYTES];
    let mut read = ReadBuf::uninit(&mut space);
    ready!(Pin::new(stream).poll_read(cx, &mut read))?;
    buffer.extend_from_slice(read.filled());
    Poll::Ready(Ok(read.filled().len()))
}
