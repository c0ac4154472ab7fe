//! What a client does again and again.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::AsyncWriteExt;

use crate::load::client::{Opened, Stream, get, response};
use crate::load::tally::Tally;
use crate::names;
use crate::origin::{ECHO_PORT, HTTP_PORT, HTTPS_PORT};
use crate::socket::{failed, read_away, skip, write_body};

/// Bytes of the body that a tunnel is opened for.
const TUNNEL_BODY: u64 = 100;
/// Bytes of the body that an absolute-form request gets.
const FORWARD_BODY: u64 = 1024;
/// Bytes of a ping.
const PING_BYTES: usize = 100;
/// Bytes of a transfer that no run sees the end of: 1 TiB.
const ENDLESS: u64 = 1 << 40;
/// Bulk is counted in bytes and shown in megabytes.
const MEGABYTE: f64 = 1e6;

/// A kind of work.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Work {
    /// A new connection, a tunnel, one request in it, the end.
    Connect,
    /// The same with TLS between client and origin inside the tunnel.
    ConnectTls,
    /// A new connection, and a tunnel that must be refused with 403.
    Refused,
    /// Absolute-form requests on one connection.
    Forward,
    /// Small messages there and back in one tunnel.
    Ping,
    /// As much as goes through one tunnel from the origin.
    Download,
    /// As much as goes through one tunnel to the origin.
    Upload,
    /// Tunnels that do nothing.
    Idle,
}

impl Work {
    /// The names that are asked for.
    pub(crate) fn names(self, rules: u64, count: u64) -> Vec<String> {
        match self {
            Self::Refused => (0..count).map(names::unlisted).collect(),
            Self::Connect
            | Self::ConnectTls
            | Self::Forward
            | Self::Ping
            | Self::Download
            | Self::Upload
            | Self::Idle => names::spread(rules, count),
        }
    }

    /// How many counted units make one that is shown.
    pub(crate) fn units_of_one(self) -> f64 {
        match self {
            Self::Download | Self::Upload => MEGABYTE,
            Self::Connect | Self::ConnectTls | Self::Refused | Self::Forward | Self::Ping | Self::Idle => 1.0,
        }
    }

    /// Works until the run is over.
    pub(crate) async fn repeat(self, tally: Arc<Tally>) {
        while !tally.is_over() {
            if let Err(error) = self.once(&tally).await {
                tally.fail(error).await;
            }
        }
    }

    /// Does it once; what goes on in one connection, until the run is over.
    ///
    /// # Errors
    /// If anything comes out differently.
    pub(crate) async fn once(self, tally: &Tally) -> io::Result<()> {
        match self {
            Self::Connect => connect(tally, false).await,
            Self::ConnectTls => connect(tally, true).await,
            Self::Refused => refused(tally).await,
            Self::Forward => forward(tally).await,
            Self::Ping => ping(tally).await,
            Self::Download => download(tally).await,
            Self::Upload => upload(tally).await,
            Self::Idle => Err(failed("idling has a course of its own")),
        }
    }
}

/// Opens a tunnel that must not be refused.
pub(crate) async fn tunnel(tally: &Tally, name: &str, port: u16) -> io::Result<Stream> {
    match tally.client.tunnel(name, port).await? {
        Opened::Tunnel(stream) => Ok(stream),
        Opened::Refused(status) => Err(failed(format!("refused with {status}"))),
    }
}

async fn connect(tally: &Tally, secure: bool) -> io::Result<()> {
    let began = Instant::now();
    let name = tally.name();
    let port = if secure { HTTPS_PORT } else { HTTP_PORT };
    let mut stream = tunnel(tally, name, port).await?;
    if secure {
        stream = tally.client.secure_inside(stream, name).await?;
    }
    stream.write_all(&get(name, port, &format!("/bytes/{TUNNEL_BODY}"))).await?;
    expect_ok(response(&mut stream).await?.0)?;
    tally.count_timed(began);
    stream.shutdown().await
}

async fn refused(tally: &Tally) -> io::Result<()> {
    let began = Instant::now();
    match tally.client.tunnel(tally.name(), HTTP_PORT).await? {
        Opened::Refused(403) => tally.count_timed(began),
        Opened::Refused(status) => return Err(failed(format!("refused with {status} and not 403"))),
        Opened::Tunnel(_) => return Err(failed("a tunnel that no rule allows")),
    }
    Ok(())
}

async fn forward(tally: &Tally) -> io::Result<()> {
    let name = tally.name();
    let (mut stream, request) =
        tally.client.forward(name, HTTP_PORT, &format!("/bytes/{FORWARD_BODY}")).await?;
    while !tally.is_over() {
        let began = Instant::now();
        stream.write_all(&request).await?;
        let (status, persists) = response(&mut stream).await?;
        expect_ok(status)?;
        tally.count_timed(began);
        if !persists {
            break;
        }
    }
    Ok(())
}

async fn ping(tally: &Tally) -> io::Result<()> {
    let mut stream = tunnel(tally, tally.name(), ECHO_PORT).await?;
    while !tally.is_over() {
        let began = Instant::now();
        stream.write_all(&[b'p'; PING_BYTES]).await?;
        skip(&mut stream, PING_BYTES as u64).await?;
        tally.count_timed(began);
    }
    Ok(())
}

async fn download(tally: &Tally) -> io::Result<()> {
    let name = tally.name();
    let mut stream = tunnel(tally, name, HTTP_PORT).await?;
    stream.write_all(&get(name, HTTP_PORT, &format!("/bytes/{ENDLESS}"))).await?;
    while !tally.is_over() {
        match read_away(&mut stream, u64::MAX).await? {
            0 => return Err(failed("closed inside a body")),
            read => tally.count(read),
        }
    }
    Ok(())
}

async fn upload(tally: &Tally) -> io::Result<()> {
    let name = tally.name();
    let mut stream = tunnel(tally, name, HTTP_PORT).await?;
    let head = format!("POST /sink HTTP/1.1\r\nHost: {name}\r\nContent-Length: {ENDLESS}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    while !tally.is_over() {
        tally.count(write_body(&mut stream).await?);
    }
    Ok(())
}

fn expect_ok(status: u16) -> io::Result<()> {
    if status == 200 { Ok(()) } else { Err(failed(format!("answered {status}"))) }
}
