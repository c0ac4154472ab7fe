//! Copies bytes between two connections until both directions have ended, or something ends them.

use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use exeat_policy::Reason;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

use crate::chunk::read_chunk;
use crate::client_stream::ClientStream;
use crate::meter::{Meter, Side};
use crate::upstream_stream::UpstreamStream;

/// Is told the client's first bytes.
pub(crate) type Opened<'a> = dyn Fn(&[u8]) + Sync + 'a;

/// Why a relay ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Each side has said that it is done, and everything was delivered.
    Finished,
    /// The connection to one side broke; the other side was reset, so that it does not take what it got for whole.
    Broken {
        /// The side whose connection broke.
        side: Side,
        /// What the kernel said.
        source: io::Error,
    },
    /// The proxy ended it: no bytes for too long, or the meter says so. Both sides were reset.
    Cut(Reason),
}

impl End {
    /// The stable word for the audit record: `finished`, `client_reset`, `upstream_reset` or a reason token.
    #[must_use]
    pub(crate) const fn token(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Broken { side: Side::Client, .. } => "client_reset",
            Self::Broken { side: Side::Upstream, .. } => "upstream_reset",
            Self::Cut(reason) => reason.token(),
        }
    }
}

/// Relays between `client` and `upstream` until both directions end, sending `early`, what the client has already
/// said, first.
///
/// - An end of stream on one side is passed on as such; the other direction goes on.
/// - `meter` counts what each side's socket took, the early bytes included. When it says that the flow must end,
///   both sides are cut at once.
/// - `opened` is told the client's first bytes before they go on. If it stops the meter, they do not.
/// - `idle_timeout` without a byte delivered in either direction cuts both sides. Keepalive is not a byte.
/// - A side that does not read holds the other back: at most one chunk of 64 KiB per direction is in the relay.
pub(crate) async fn relay(
    client: ClientStream,
    upstream: UpstreamStream,
    early: &[u8],
    idle_timeout: Duration,
    meter: &Meter,
    opened: &Opened<'_>,
) -> End {
    let early = Early { from_client: early, from_upstream: &[] };
    relay_both(client, upstream, early, idle_timeout, meter, opened).await
}

/// What the sides have already said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Early<'a> {
    pub(crate) from_client: &'a [u8],
    pub(crate) from_upstream: &'a [u8],
}

/// [`relay`], where upstream may have said something too.
pub(crate) async fn relay_both(
    mut client: ClientStream,
    mut upstream: UpstreamStream,
    early: Early<'_>,
    idle_timeout: Duration,
    meter: &Meter,
    opened: &Opened<'_>,
) -> End {
    let traffic = Traffic::start(meter);
    let why = tokio::select! {
        biased;
        reason = meter.ended() => End::Cut(reason),
        end = both(&traffic, &mut client, &mut upstream, early, opened) => end,
        () = traffic.idle(idle_timeout) => End::Cut(Reason::IdleTimeout),
    };
    match why {
        End::Finished => {}
        End::Broken { .. } | End::Cut(_) => {
            client.reset();
            upstream.reset();
        }
    }
    why
}

/// Runs both directions until each has ended.
async fn both(
    traffic: &Traffic<'_>,
    client: &mut ClientStream,
    upstream: &mut UpstreamStream,
    early: Early<'_>,
    opened: &Opened<'_>,
) -> End {
    match upstream {
        UpstreamStream::Plain(upstream) => both_with(traffic, client, upstream.split(), early, opened).await,
        UpstreamStream::Tls(upstream) => {
            both_with(traffic, client, tokio::io::split(upstream), early, opened).await
        }
    }
}

async fn both_with<UR, UW>(
    traffic: &Traffic<'_>,
    client: &mut ClientStream,
    upstream: (UR, UW),
    early: Early<'_>,
    opened: &Opened<'_>,
) -> End
where
    UR: AsyncRead + Unpin,
    UW: AsyncWrite + Unpin,
{
    match client {
        ClientStream::Plain(client) => run(traffic, client.split(), upstream, early, opened).await,
        // The two directions of TLS share its state, and so take turns.
        ClientStream::Tls(client) => run(traffic, tokio::io::split(client), upstream, early, opened).await,
        ClientStream::Http2(client) => run(traffic, client.split(), upstream, early, opened).await,
    }
}

async fn run<CR, CW, UR, UW>(
    traffic: &Traffic<'_>,
    client: (CR, CW),
    upstream: (UR, UW),
    early: Early<'_>,
    opened: &Opened<'_>,
) -> End
where
    CR: AsyncRead + Unpin,
    CW: AsyncWrite + Unpin,
    UR: AsyncRead + Unpin,
    UW: AsyncWrite + Unpin,
{
    let up = Lane { traffic, sender: Side::Client, from: client.0, to: upstream.1, first: Some(opened) };
    let down = Lane { traffic, sender: Side::Upstream, from: upstream.0, to: client.1, first: None };
    match tokio::try_join!(up.run(early.from_client), down.run(early.from_upstream)) {
        Ok((LaneEnd::Finished, LaneEnd::Finished)) => End::Finished,
        Ok((LaneEnd::ReceiverBroke(source), _)) => End::Broken { side: Side::Upstream, source },
        Ok((LaneEnd::Finished, LaneEnd::ReceiverBroke(source))) => End::Broken { side: Side::Client, source },
        Err(SenderBroke { side, source }) => End::Broken { side, source },
    }
}

/// How a direction ended without stopping the other one.
enum LaneEnd {
    /// The sender's end of stream was passed on.
    Finished,
    /// The receiver takes no more. What it has sent before is still to be read in the other direction.
    ReceiverBroke(io::Error),
}

/// The sender's connection broke. Nothing can be read from it, nor, since it is one connection, written to it.
struct SenderBroke {
    side: Side,
    source: io::Error,
}

/// One direction.
struct Lane<'a, R, W> {
    traffic: &'a Traffic<'a>,
    sender: Side,
    from: R,
    to: W,
    /// Whom to tell the first bytes.
    first: Option<&'a Opened<'a>>,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Lane<'_, R, W> {
    async fn run(mut self, early: &[u8]) -> Result<LaneEnd, SenderBroke> {
        if let Err(error) = self.deliver(early).await {
            return Ok(self.receiver_broke(error));
        }
        loop {
            let chunk = match read_chunk(&mut self.from).await {
                Ok(chunk) => chunk,
                Err(source) => return Err(SenderBroke { side: self.sender, source }),
            };
            let delivered = match chunk.bytes() {
                [] => return Ok(self.finish().await),
                bytes => self.deliver(bytes).await,
            };
            if let Err(error) = delivered {
                return Ok(self.receiver_broke(error));
            }
        }
    }

    async fn deliver(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let receiver = self.sender.other();
        if let (false, Some(first)) = (bytes.is_empty(), self.first) {
            self.first = None;
            first(bytes);
            if self.traffic.meter.reason().is_some() {
                return pending().await;
            }
        }
        while !bytes.is_empty() {
            let room = self.traffic.meter.room(receiver, bytes.len());
            if room == 0 {
                // The meter has stopped the flow, and whoever runs this lane drops it.
                return pending().await;
            }
            let written = self.to.write(bytes.get(..room).unwrap_or_default()).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = bytes.get(written..).unwrap_or_default();
            self.traffic.meter.took(receiver, written);
            self.traffic.moved();
        }
        // TLS may have taken what its socket has not.
        self.to.flush().await
    }

    /// Passes the end of the stream on.
    async fn finish(mut self) -> LaneEnd {
        // After a failed write the kernel reports the end of a broken stream as an ordinary one.
        if self.traffic.broken(self.sender).load(Relaxed) {
            return LaneEnd::Finished;
        }
        match self.to.shutdown().await {
            Ok(()) => LaneEnd::Finished,
            Err(error) => self.receiver_broke(error),
        }
    }

    fn receiver_broke(&self, error: io::Error) -> LaneEnd {
        self.traffic.broken(self.sender.other()).store(true, Relaxed);
        LaneEnd::ReceiverBroke(error)
    }
}

/// What both directions have done so far. Atomics because the relay may move between threads; no order is needed.
struct Traffic<'a> {
    meter: &'a Meter,
    /// Whether the client's connection, and upstream's, takes no more.
    client_broken: AtomicBool,
    upstream_broken: AtomicBool,
    started: Instant,
    /// When the last byte was delivered, in milliseconds after the start.
    moved_ms: AtomicU64,
}

impl<'a> Traffic<'a> {
    fn start(meter: &'a Meter) -> Self {
        Self {
            meter,
            client_broken: AtomicBool::new(false),
            upstream_broken: AtomicBool::new(false),
            started: Instant::now(),
            moved_ms: AtomicU64::new(0),
        }
    }

    const fn broken(&self, side: Side) -> &AtomicBool {
        match side {
            Side::Client => &self.client_broken,
            Side::Upstream => &self.upstream_broken,
        }
    }

    fn moved(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.store(now, Relaxed);
    }

    /// Waits until nothing was delivered for `limit`.
    async fn idle(&self, limit: Duration) {
        loop {
            let deadline = self.started + Duration::from_millis(self.moved_ms.load(Relaxed)) + limit;
            if deadline <= Instant::now() {
                return;
            }
            sleep_until(deadline).await;
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
