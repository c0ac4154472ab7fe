//! The two halves of a side, whatever carries it: one for each direction.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf, split},
    net::{TcpStream, tcp, unix},
};
use tokio_rustls::{client, server};

use crate::{
    client_stream::ClientStream,
    http2::{Receiving, Sending},
    upstream_stream::UpstreamStream,
};

/// Where one direction comes from.
pub(super) enum Reader<'a> {
    Tcp(tcp::ReadHalf<'a>),
    Unix(unix::ReadHalf<'a>),
    ClientTls(ReadHalf<&'a mut server::TlsStream<TcpStream>>),
    HopTls(ReadHalf<&'a mut client::TlsStream<TcpStream>>),
    Http2(&'a mut Receiving),
}

/// Where one direction goes to.
pub(super) enum Writer<'a> {
    Tcp(tcp::WriteHalf<'a>),
    Unix(unix::WriteHalf<'a>),
    ClientTls(WriteHalf<&'a mut server::TlsStream<TcpStream>>),
    HopTls(WriteHalf<&'a mut client::TlsStream<TcpStream>>),
    Http2(&'a mut Sending),
}

/// The halves of a client's connection. The two directions of TLS share its state, and so take turns.
pub(super) fn of_client(client: &mut ClientStream) -> (Reader<'_>, Writer<'_>) {
    match client {
        ClientStream::Plain(stream) => of_tcp(stream),
        ClientStream::Unix(stream) => {
            let (read, write) = stream.split();
            (Reader::Unix(read), Writer::Unix(write))
        }
        ClientStream::Tls(stream) => {
            let (read, write) = split(stream.as_mut());
            (Reader::ClientTls(read), Writer::ClientTls(write))
        }
        ClientStream::Http2(stream) => {
            let (receiving, sending) = stream.split();
            (Reader::Http2(receiving), Writer::Http2(sending))
        }
    }
}

/// The halves of an upstream's connection.
pub(super) fn of_upstream(upstream: &mut UpstreamStream) -> (Reader<'_>, Writer<'_>) {
    match upstream {
        UpstreamStream::Plain(stream) => of_tcp(stream),
        UpstreamStream::Tls(stream) => {
            let (read, write) = split(stream.as_mut());
            (Reader::HopTls(read), Writer::HopTls(write))
        }
    }
}

fn of_tcp(stream: &mut TcpStream) -> (Reader<'_>, Writer<'_>) {
    let (read, write) = stream.split();
    (Reader::Tcp(read), Writer::Tcp(write))
}

impl Reader<'_> {
    /// The connection, if its bytes are the tunnel's: the kernel can move those.
    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(half) => Some(half.as_ref()),
            Self::Unix(_) | Self::ClientTls(_) | Self::HopTls(_) | Self::Http2(_) => None,
        }
    }
}

impl Writer<'_> {
    /// The connection, if its bytes are the tunnel's: the kernel can move those.
    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(half) => Some(half.as_ref()),
            Self::Unix(_) | Self::ClientTls(_) | Self::HopTls(_) | Self::Http2(_) => None,
        }
    }
}

/// Calls a method on whatever the half is of.
macro_rules! delegate {
    ($kind:ident, $half:expr, $method:ident($($argument:expr),*)) => {
        match $half.get_mut() {
            $kind::Tcp(half) => Pin::new(half).$method($($argument),*),
            $kind::Unix(half) => Pin::new(half).$method($($argument),*),
            $kind::ClientTls(half) => Pin::new(half).$method($($argument),*),
            $kind::HopTls(half) => Pin::new(half).$method($($argument),*),
            $kind::Http2(half) => Pin::new(half).$method($($argument),*),
        }
    };
}

impl AsyncRead for Reader<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(Reader, self, poll_read(cx, out))
    }
}

impl AsyncWrite for Writer<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(Writer, self, poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(Writer, self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(Writer, self, poll_shutdown(cx))
    }
}
