//! A client's connection, whatever carries it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::server::TlsStream;

use crate::{http2::Http2Stream, joined};

/// A client's connection: bytes in, bytes out, an end for each.
#[derive(Debug)]
pub(crate) enum ClientStream {
    /// TCP and nothing else.
    Plain(TcpStream),
    /// A unix socket. It knows no reset: a client that is cut off sees an end of stream.
    Unix(UnixStream),
    /// TLS, after its handshake. The end of the writing side is a `close_notify` (RFC 8446 §6.1); an end of the
    /// reading side without one is an error, since it may have been cut by anybody on the way.
    Tls(Box<TlsStream<TcpStream>>),
    /// The stream of a CONNECT in HTTP/2 (RFC 9113 §8.5).
    Http2(Box<Http2Stream>),
}

impl ClientStream {
    /// Makes the close such that the client sees that the connection is broken: a reset instead of an end of stream.
    pub(crate) fn reset(&mut self) {
        match self {
            Self::Plain(stream) => reset(stream),
            Self::Unix(_) => {}
            Self::Tls(stream) => reset(stream.get_ref().0),
            Self::Http2(stream) => stream.reset(),
        }
    }
}

impl ClientStream {
    /// Bytes that were taken from whoever writes and are not the kernel's yet: TLS keeps some for a client that takes
    /// nothing.
    pub(crate) fn held(&mut self) -> usize {
        match self {
            Self::Tls(stream) => {
                // Nothing is left to process: each read has done that. What it returns cannot be had otherwise.
                stream.get_mut().1.process_new_packets().map_or(0, |state| state.tls_bytes_to_write())
            }
            Self::Plain(_) | Self::Unix(_) | Self::Http2(_) => 0,
        }
    }

    /// Sends what the end of the stream is to follow at once, so that both go out in one segment. Returns how many
    /// bytes were taken, which the end must follow: the kernel holds them back for a while otherwise.
    pub(crate) fn send_before_end(&self, bytes: &[u8]) -> usize {
        let Self::Plain(stream) = self else { return 0 };
        let send = || SockRef::from(stream).send_with_flags(bytes, libc::MSG_MORE | libc::MSG_NOSIGNAL);
        // An error shows again in the write that does the rest.
        stream.try_io(Interest::WRITABLE, send).unwrap_or(0)
    }
}

impl From<TcpStream> for ClientStream {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream)
    }
}

/// Makes the close of `stream` a reset.
pub(crate) fn reset(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "connection could not be set to reset");
    }
}

/// Calls a method on whatever the stream is made of.
macro_rules! delegate {
    ($stream:expr, $method:ident($($argument:expr),*)) => {
        match $stream {
            ClientStream::Plain(stream) => Pin::new(stream).$method($($argument),*),
            ClientStream::Unix(stream) => Pin::new(stream).$method($($argument),*),
            ClientStream::Tls(stream) => Pin::new(stream.as_mut()).$method($($argument),*),
            ClientStream::Http2(stream) => Pin::new(stream.as_mut()).$method($($argument),*),
        }
    };
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self.get_mut(), poll_read(cx, out))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self.get_mut(), poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Self::Plain(stream) = this {
            return joined::poll_write(Pin::new(stream), cx, slices);
        }
        delegate!(this, poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Http2(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self.get_mut(), poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self.get_mut(), poll_shutdown(cx))
    }
}
