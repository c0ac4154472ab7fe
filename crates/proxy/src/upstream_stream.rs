//! A connection to an upstream, whatever carries it.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use crate::{client_stream, joined};

/// A connection to a target or to a next hop.
#[derive(Debug)]
pub(crate) enum UpstreamStream {
    /// TCP and nothing else.
    Plain(TcpStream),
    /// TLS to a next hop, after its handshake. An end of the reading side without a `close_notify` is an error, since
    /// it may have been cut by anybody on the way (RFC 8446 §6.1).
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection that leads to the target of a request, or takes requests for it.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) stream: UpstreamStream,
    /// The address that was dialled.
    pub(crate) addr: SocketAddr,
}

impl UpstreamStream {
    /// Makes the close of the connection a reset.
    pub(crate) fn reset(&self) {
        client_stream::reset(self.socket());
    }

    /// This side's address.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket().local_addr()
    }

    /// Waits until there is something to read and copies the beginning of it into `out`, from where it stays to be
    /// read. Returns how much that is; 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of a read.
    pub(crate) async fn peek(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.peek(out).await,
            Self::Tls(stream) => {
                let seen = stream.fill_buf().await?;
                let count = seen.len().min(out.len());
                let (out, seen) = (out.get_mut(..count), seen.get(..count));
                if let (Some(out), Some(seen)) = (out, seen) {
                    out.copy_from_slice(seen);
                }
                Ok(count)
            }
        }
    }

    /// Has the runtime that this runs on hear what happens on an idle connection. One with TLS stays as it is.
    ///
    /// # Errors
    /// What the kernel said, and [`io::ErrorKind::InvalidData`] if something has come that nobody asked for: it would pass
    /// for the next response. The connection is closed then.
    pub(crate) fn brought_here(self) -> io::Result<Self> {
        match self {
            Self::Plain(stream) => {
                let stream = stream.into_std()?;
                match stream.peek(&mut [0]) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        TcpStream::from_std(stream).map(Self::Plain)
                    }
                    Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(_) => Err(io::ErrorKind::InvalidData.into()),
                    Err(error) => Err(error),
                }
            }
            Self::Tls(_) => Ok(self),
        }
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl From<TcpStream> for UpstreamStream {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream)
    }
}

impl From<TlsStream<TcpStream>> for UpstreamStream {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        Self::Tls(Box::new(stream))
    }
}

/// Calls a method on whatever the stream is made of.
macro_rules! delegate {
    ($stream:expr, $method:ident($($argument:expr),*)) => {
        match $stream {
            UpstreamStream::Plain(stream) => Pin::new(stream).$method($($argument),*),
            UpstreamStream::Tls(stream) => Pin::new(stream.as_mut()).$method($($argument),*),
        }
    };
}

impl AsyncRead for UpstreamStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self.get_mut(), poll_read(cx, out))
    }
}

impl AsyncWrite for UpstreamStream {
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
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self.get_mut(), poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self.get_mut(), poll_shutdown(cx))
    }
}
