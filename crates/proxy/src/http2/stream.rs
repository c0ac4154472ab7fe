//! A stream of HTTP/2 as bytes: of a tunnel in both directions, and of a request's body.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use hyper::body::{Body, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
    time::{Instant, Sleep, sleep},
};

/// The stream of a CONNECT that was answered with 200 (RFC 9113 §8.5): its data is the tunnel's, END_STREAM the end of
/// a direction, RST_STREAM a break.
#[derive(Debug)]
pub(crate) struct Http2Stream {
    receiving: Receiving,
    sending: Sending,
}

/// What the client sends.
#[derive(Debug)]
pub(crate) struct Receiving {
    stream: RecvStream,
    /// Data that has come and was not taken yet.
    data: Bytes,
}

/// What the client is sent.
#[derive(Debug)]
pub(crate) struct Sending {
    stream: SendStream<Bytes>,
}

impl Http2Stream {
    /// Makes a tunnel of the two directions of a stream.
    pub(crate) fn new(sending: SendStream<Bytes>, receiving: RecvStream) -> Self {
        Self {
            receiving: Receiving { stream: receiving, data: Bytes::new() },
            sending: Sending { stream: sending },
        }
    }

    /// The two directions, which know nothing of each other.
    pub(crate) const fn split(&mut self) -> (&mut Receiving, &mut Sending) {
        (&mut self.receiving, &mut self.sending)
    }

    /// Breaks the stream off, as a proxy does when the connection at the other end broke (RFC 9113 §8.5).
    pub(crate) fn reset(&mut self) {
        self.sending.stream.send_reset(Reason::CONNECT_ERROR);
    }
}

impl AsyncRead for Receiving {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.data.is_empty() {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => self.data = data,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.data.len().min(out.remaining());
        out.put_slice(self.data.get(..count).unwrap_or_default());
        self.data.advance(count);
        // Fails only for more than was received.
        let _ = self.stream.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Sending {
    /// Takes no more than the client's windows and the send buffer have room for.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        // Only while there is something to send: room that is kept by one stream is missing for the others.
        self.stream.reserve_capacity(bytes.len());
        let capacity = loop {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(0)) => {}
                Some(Ok(capacity)) => break capacity,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        };
        let count = capacity.min(bytes.len());
        let data = Bytes::copy_from_slice(bytes.get(..count).unwrap_or_default());
        self.stream.send_data(data, false).map_err(broken)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.send_data(Bytes::new(), true).map_err(broken))
    }
}

impl AsyncRead for Http2Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.receiving).poll_read(cx, out)
    }
}

impl AsyncWrite for Http2Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.sending).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.sending).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.sending).poll_shutdown(cx)
    }
}

/// Whatever RST_STREAM says, and the end of the whole connection too, the stream has no proper end any more.
fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

/// What a request's body needs done by whoever holds the stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum BodyEvent {
    /// Somebody wants it: a client that waits to be told may now send it (RFC 9110 §10.1.1).
    Wanted,
    /// Nothing of it has come for `idle_timeout`.
    Stalled,
}

/// The body of a request: its stream's data. Trailers stay behind.
pub(crate) struct Http2Body {
    stream: RecvStream,
    events: mpsc::Sender<BodyEvent>,
    is_wanted: bool,
    idle_timeout: Duration,
    /// Runs while the client sends nothing, once it had to be waited for.
    silence: Option<Pin<Box<Sleep>>>,
    is_silent: bool,
}

impl Http2Body {
    /// Wraps the receiving side of a stream. `events` must have room for one of each.
    pub(crate) const fn new(
        stream: RecvStream,
        idle_timeout: Duration,
        events: mpsc::Sender<BodyEvent>,
    ) -> Self {
        Self { stream, events, is_wanted: false, idle_timeout, silence: None, is_silent: false }
    }

    fn tell(&self, event: BodyEvent) {
        // Nobody listens any more once the stream has been given up, and then nobody needs to know.
        let _ = self.events.try_send(event);
    }

    /// Waits for the end of the client's patience, or rather of ours.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.silence.get_or_insert_with(|| Box::pin(sleep(self.idle_timeout)));
        if !self.is_silent {
            self.is_silent = true;
            timer.as_mut().reset(Instant::now() + self.idle_timeout);
        }
        timer.as_mut().poll(cx)
    }
}

impl Body for Http2Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if !self.is_wanted {
            self.is_wanted = true;
            self.tell(BodyEvent::Wanted);
        }
        match self.stream.poll_data(cx) {
            Poll::Ready(Some(Ok(data))) => {
                self.is_silent = false;
                // What is handed on is bounded by the window, and by how fast the upstream asks for more.
                let _ = self.stream.flow_control().release_capacity(data.len());
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(broken(error)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                ready!(self.poll_silence(cx));
                self.tell(BodyEvent::Stalled);
                Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.stream.is_end_stream() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}
