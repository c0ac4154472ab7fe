//! Tunnels as streams of a few HTTP/2 connections.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Uri, Version};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

use crate::load::Opened;
use crate::socket::dial;
use crate::tls;

/// Connections that share the streams: as a few browsers would.
const CONNECTIONS: usize = 4;

/// Bytes that may be on the way to us, for a stream and for a connection: as browsers allow.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// The connections, which are opened when they are needed.
pub(crate) struct Sessions {
    tls: TlsConnector,
    slots: [Mutex<Option<SendRequest<Bytes>>>; CONNECTIONS],
    next: AtomicUsize,
}

impl Sessions {
    pub(crate) fn new(tls: TlsConnector) -> Self {
        Self { tls, slots: Default::default(), next: AtomicUsize::new(0) }
    }

    /// Asks for a tunnel on the connection whose turn it is.
    pub(crate) async fn connect(
        &self,
        at: SocketAddr,
        name: &str,
        port: u16,
        credentials: &str,
    ) -> io::Result<Opened> {
        let mut session = self.session(at).await?;
        let authority =
            Uri::builder().authority(format!("{name}:{port}")).build().map_err(io::Error::other)?;
        let request = Request::builder()
            .method(Method::CONNECT)
            .version(Version::HTTP_2)
            .uri(authority)
            .header("proxy-authorization", credentials)
            .body(())
            .map_err(io::Error::other)?;
        let (response, up) = session.send_request(request, false).map_err(io::Error::other)?;
        let response = response.await.map_err(io::Error::other)?;
        if response.status() != http::StatusCode::OK {
            return Ok(Opened::Refused(response.status().as_u16()));
        }
        let tunnel = Tunnel { up, down: response.into_body(), unread: Bytes::new() };
        Ok(Opened::Tunnel(Box::new(tunnel)))
    }

    /// A connection that can take one more stream.
    async fn session(&self, at: SocketAddr) -> io::Result<SendRequest<Bytes>> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % CONNECTIONS;
        let Some(slot) = self.slots.get(turn) else { return Err(io::ErrorKind::NotFound.into()) };
        let mut slot = slot.lock().await;
        if let Some(session) = slot.as_ref()
            && let Ok(ready) = session.clone().ready().await
        {
            return Ok(ready);
        }
        let stream = dial(at, turn as u64).await?;
        let name = ServerName::try_from(tls::PROXY_NAME).map_err(io::Error::other)?;
        let stream = self.tls.connect(name, stream).await?;
        let (session, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(stream)
            .await
            .map_err(io::Error::other)?;
        // How it ends, its streams are told.
        tokio::spawn(async move { drop(connection.await) });
        let session = session.ready().await.map_err(io::Error::other)?;
        *slot = Some(session.clone());
        Ok(session)
    }
}

/// A stream of HTTP/2 as bytes.
struct Tunnel {
    up: SendStream<Bytes>,
    down: RecvStream,
    /// What came in one frame and did not fit where it was read to.
    unread: Bytes,
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            match ready!(self.down.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(data) => self.unread = data.map_err(io::Error::other)?,
            }
        }
        let count = self.unread.len().min(to.remaining());
        to.put_slice(self.unread.get(..count).unwrap_or_default());
        self.unread.advance(count);
        let released = self.down.flow_control().release_capacity(count);
        Poll::Ready(released.map_err(io::Error::other))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.up.reserve_capacity(bytes.len());
        let capacity = match self.up.capacity() {
            0 => match ready!(self.up.poll_capacity(cx)) {
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Some(capacity) => capacity.map_err(io::Error::other)?,
            },
            capacity => capacity,
        };
        let part = bytes.get(..capacity).unwrap_or(bytes);
        let sent = self.up.send_data(Bytes::copy_from_slice(part), false);
        Poll::Ready(sent.map(|()| part.len()).map_err(io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.up.send_data(Bytes::new(), true).map_err(io::Error::other))
    }
}
