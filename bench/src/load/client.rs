//! Opens connections and tunnels.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::load::{Target, Via, http2, socks5, stand_in};
use crate::socket::{dial, failed, read_more};
use crate::{head, names, tls};

/// Bytes both ways, whatever carries them.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// A connection or a tunnel.
pub(crate) type Stream = Box<dyn Duplex>;

/// What became of a request for a tunnel.
pub(crate) enum Opened {
    /// The tunnel.
    Tunnel(Stream),
    /// The status that refused it.
    Refused(u16),
}

/// How the clients of a run reach the origin.
pub(crate) struct Client {
    via: Via,
    credentials: String,
    tls: TlsConnector,
    http2: http2::Sessions,
    dialled: AtomicU64,
}

impl Client {
    /// # Errors
    /// If there are no certificates.
    pub(crate) fn new(target: &Target, certificates: &Path) -> Result<Self> {
        Ok(Self {
            via: target.via,
            credentials: target.credentials.clone(),
            tls: tls::connector(certificates, &[])?,
            http2: http2::Sessions::new(tls::connector(certificates, &["h2"])?),
            dialled: AtomicU64::new(0),
        })
    }

    /// Opens a tunnel to `name:port`, which is a connection where there is no proxy.
    ///
    /// # Errors
    /// If nobody answers, or not as the protocol has it.
    pub(crate) async fn tunnel(&self, name: &str, port: u16) -> io::Result<Opened> {
        match self.via {
            Via::Direct => {
                Ok(Opened::Tunnel(Box::new(self.dial((names::address(name), port).into()).await?)))
            }
            Via::Http(at) => self.connect(self.dial(at).await?, name, port).await,
            Via::Https(at) => self.connect(self.secure(at).await?, name, port).await,
            Via::Http2(at) => self.http2.connect(at, name, port, &self.credentials).await,
            Via::Socks5(at) => socks5::connect(self.dial(at).await?, name, port).await,
            Via::StandIn(at) => {
                let address = stand_in::address(at, name).await?;
                Ok(Opened::Tunnel(Box::new(self.dial((address, port).into()).await?)))
            }
        }
    }

    /// Opens a connection for absolute-form requests, or to the origin itself where there is no proxy. Returns it
    /// with the request that gets `path` of `name:port`.
    ///
    /// # Errors
    /// If nobody answers, or the way is none for such requests.
    pub(crate) async fn forward(&self, name: &str, port: u16, path: &str) -> io::Result<(Stream, Vec<u8>)> {
        let credentials = &self.credentials;
        let absolute = || {
            format!(
                "GET http://{name}:{port}{path} HTTP/1.1\r\nHost: {name}:{port}\r\nUser-Agent: exeat-bench\r\n\
                 Proxy-Authorization: {credentials}\r\n\r\n"
            )
            .into_bytes()
        };
        match self.via {
            Via::Direct => {
                let stream = self.dial((names::address(name), port).into()).await?;
                Ok((Box::new(stream), get(name, port, path)))
            }
            Via::Http(at) => Ok((Box::new(self.dial(at).await?), absolute())),
            Via::Https(at) => Ok((self.secure(at).await?, absolute())),
            Via::Http2(_) | Via::Socks5(_) | Via::StandIn(_) => {
                Err(failed("no absolute-form requests this way"))
            }
        }
    }

    /// Starts TLS with the origin inside a tunnel.
    ///
    /// # Errors
    /// If the handshake fails.
    pub(crate) async fn secure_inside(&self, stream: Stream, name: &str) -> io::Result<Stream> {
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        Ok(Box::new(self.tls.connect(name, stream).await?))
    }

    async fn dial(&self, to: SocketAddr) -> io::Result<tokio::net::TcpStream> {
        dial(to, self.dialled.fetch_add(1, Ordering::Relaxed)).await
    }

    async fn secure(&self, at: SocketAddr) -> io::Result<Stream> {
        let stream = Box::new(self.dial(at).await?);
        self.secure_inside(stream, tls::PROXY_NAME).await
    }

    async fn connect<S>(&self, mut stream: S, name: &str, port: u16) -> io::Result<Opened>
    where
        S: Duplex + 'static,
    {
        let request = format!(
            "CONNECT {name}:{port} HTTP/1.1\r\nHost: {name}:{port}\r\nUser-Agent: exeat-bench\r\n\
             Proxy-Authorization: {}\r\n\r\n",
            self.credentials
        );
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        loop {
            if read_more(&mut stream, &mut bytes).await? == 0 {
                return Err(failed("closed before an answer to CONNECT"));
            }
            match head::response(&bytes)? {
                None => {}
                Some(head) if head.status != 200 => return Ok(Opened::Refused(head.status)),
                // No origin here speaks first.
                Some(head) if head.length != bytes.len() => {
                    return Err(failed("bytes behind the answer to CONNECT"));
                }
                Some(_) => return Ok(Opened::Tunnel(Box::new(stream))),
            }
        }
    }
}

/// A GET request as an origin is sent it.
pub(crate) fn get(name: &str, port: u16, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {name}:{port}\r\nUser-Agent: exeat-bench\r\n\r\n").into_bytes()
}

/// Reads a response and drops its body. Returns the status, and whether the connection can carry another request.
///
/// # Errors
/// If it ends too early or is no response.
pub(crate) async fn response(stream: &mut Stream) -> io::Result<(u16, bool)> {
    let mut bytes = Vec::new();
    let head = loop {
        if read_more(stream, &mut bytes).await? == 0 {
            return Err(failed("closed before a response"));
        }
        if let Some(head) = head::response(&bytes)? {
            break head;
        }
    };
    let Some(length) = head.body else {
        while read_more(stream, &mut bytes).await? > 0 {
            bytes.clear();
        }
        return Ok((head.status, false));
    };
    let read = (bytes.len() - head.length) as u64;
    let left = length.checked_sub(read).ok_or_else(|| failed("bytes behind a body"))?;
    crate::socket::skip(stream, left).await?;
    Ok((head.status, head.persists))
}
