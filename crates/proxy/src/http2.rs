//! One client connection that speaks HTTP/2 (RFC 9113), every stream of it a request of its own: each is authenticated
//! and decided on by itself, as if it had come alone.
//!
//! The crate h2 keeps the protocol: frames, flow control, and the rules whose breach is an error of the stream or of
//! the connection (pseudo-header fields, connection-specific fields, a length that the data does not have, floods of
//! resets, of settings and of small frames). It is used without hyper's server around it, because hyper hides how the
//! stream of a CONNECT ended, and a tunnel has to tell an end from a break (RFC 9113 §8.5).

mod answer;
mod request;
mod rewound;
mod stream;

use std::{future::poll_fn, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{
    Ping, PingPong, RecvStream,
    server::{Builder, Connection, SendResponse},
};
use http::Request;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
    time::{Instant, Sleep, sleep, timeout},
};

use crate::{client::Client, limits::Limits, resources::Here, shared::Shared};

pub(crate) use rewound::Rewound;
pub(crate) use stream::{Http2Body, Http2Stream, Receiving, Sending};

/// Bytes that a client may send on one stream before somebody took them: what a path of 50 ms needs for 20 Mbit/s.
const STREAM_WINDOW_BYTES: u32 = 128 * 1024;
/// The same for all streams of a connection together, so that a few that nobody reads do not hold up the rest. It is
/// also what one connection can make the proxy hold.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes towards the client that wait in one stream for its window or its socket: two chunks of the relay.
const SEND_BUFFER_BYTES: usize = 128 * 1024;
/// How much larger than `head_bytes` a field section may be for the refusal to be ours, with a reason and a record.
/// Beyond that h2 answers 431 by itself and stops keeping fields.
const HEAD_ROOM: usize = 2;

/// Serves `client`, who has come to `here`, until one side has had enough.
pub(crate) async fn serve<S>(shared: &Arc<Shared>, client: Client, here: Here, io: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = &shared.limits;
    let handshake = builder(limits).handshake::<_, Bytes>(io);
    match timeout(limits.head_timeout, handshake).await {
        Ok(Ok(connection)) => Session::new(shared, client, here, connection).run().await,
        Ok(Err(error)) => tracing::debug!(peer = %client.peer, %error, "HTTP/2 did not begin"),
        Err(_) => tracing::debug!(peer = %client.peer, "HTTP/2 did not begin in time"),
    }
}

fn builder(limits: &Limits) -> Builder {
    let bounded = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(bounded(limits.streams_per_connection))
        .max_header_list_size(bounded(limits.head_bytes.saturating_mul(HEAD_ROOM)))
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buffer_size(SEND_BUFFER_BYTES);
    builder
}

/// A request as h2 hands it over.
type Accepted = Result<(Request<RecvStream>, SendResponse<Bytes>), h2::Error>;

/// One connection after its handshake.
struct Session<'a, S> {
    shared: &'a Arc<Shared>,
    client: Client,
    here: Arc<Here>,
    connection: Connection<S, Bytes>,
    /// The streams under way.
    tasks: JoinSet<()>,
    /// Runs while there are none.
    idle: Pin<Box<Sleep>>,
    /// The client has been told to open no more streams.
    is_ending: bool,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Session<'a, S> {
    fn new(shared: &'a Arc<Shared>, client: Client, here: Here, connection: Connection<S, Bytes>) -> Self {
        let idle = Box::pin(sleep(shared.limits.keepalive_timeout));
        Self {
            shared,
            client,
            here: Arc::new(here),
            connection,
            tasks: JoinSet::new(),
            idle,
            is_ending: false,
        }
    }

    /// Drives the connection to its end, and waits for the records of its streams.
    async fn run(mut self) {
        let mut draining = self.shared.flows.draining();
        let mut stop = self.shared.flows.stop();
        let mut alive = self.connection.ping_pong().map(|ping| Alive::new(ping, &self.shared.limits));
        loop {
            let is_full = self.tasks.len() >= self.shared.limits.streams_per_connection;
            tokio::select! {
                biased;
                _ = stop.wait_for(Option::is_some) => break,
                _ = draining.wait_for(|is_draining| *is_draining), if !self.is_ending => self.end(),
                Some(_) = self.tasks.join_next() => self.restart_idle(),
                () = &mut self.idle, if self.tasks.is_empty() => {
                    if self.is_ending {
                        break;
                    }
                    self.end();
                }
                () = lost(&mut alive) => break,
                accepted = next(&mut self.connection, is_full) => match accepted {
                    Some(Ok((request, respond))) => {
                        let shared = Arc::clone(self.shared);
                        let here = Arc::clone(&self.here);
                        self.tasks.spawn(answer::serve(shared, self.client.clone(), here, request, respond));
                    }
                    Some(Err(error)) => {
                        tracing::debug!(peer = %self.client.peer, %error, "HTTP/2 connection broke");
                        break;
                    }
                    None => break,
                },
            }
        }
        // Without the connection every stream breaks, so this ends.
        drop(self.connection);
        while self.tasks.join_next().await.is_some() {}
    }

    /// Lets the streams under way finish, and no others begin.
    fn end(&mut self) {
        self.is_ending = true;
        self.connection.graceful_shutdown();
        self.restart_idle();
    }

    /// Once the last stream is done: the pause before the next request, or the time in which the client may close.
    fn restart_idle(&mut self) {
        let limits = &self.shared.limits;
        let pause = if self.is_ending { limits.linger_timeout } else { limits.keepalive_timeout };
        self.idle.as_mut().reset(Instant::now() + pause);
    }
}

/// Returns the next request; `None` when the connection is over. A connection that `is_full` is driven all the same:
/// streams that the client resets no longer count for h2, but what was begun for them may still be under way.
async fn next<S>(connection: &mut Connection<S, Bytes>, is_full: bool) -> Option<Accepted>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if is_full {
        return poll_fn(|cx| connection.poll_closed(cx)).await.err().map(Err);
    }
    connection.accept().await
}

/// Asks the client now and then whether it is still there: a stream can be silent for long, a connection cannot.
struct Alive {
    ping: PingPong,
    timer: Pin<Box<Sleep>>,
    is_asked: bool,
    period: Duration,
    patience: Duration,
}

impl Alive {
    /// Asks after each `keepalive_timeout` and waits as long for the answer as for a request head.
    fn new(ping: PingPong, limits: &Limits) -> Self {
        let (period, patience) = (limits.keepalive_timeout, limits.head_timeout);
        Self { ping, timer: Box::pin(sleep(period)), is_asked: false, period, patience }
    }

    /// Returns when the client does not answer.
    ///
    /// # Cancel safety
    /// A later call goes on where a dropped one was.
    async fn lost(&mut self) {
        loop {
            if !self.is_asked {
                self.timer.as_mut().await;
                if self.ping.send_ping(Ping::opaque()).is_err() {
                    return;
                }
                self.is_asked = true;
                self.timer.as_mut().reset(Instant::now() + self.patience);
            }
            tokio::select! {
                biased;
                answered = poll_fn(|cx| self.ping.poll_pong(cx)) => {
                    if answered.is_err() {
                        return;
                    }
                    self.is_asked = false;
                    self.timer.as_mut().reset(Instant::now() + self.period);
                }
                () = self.timer.as_mut() => return,
            }
        }
    }
}

async fn lost(alive: &mut Option<Alive>) {
    match alive {
        Some(alive) => alive.lost().await,
        None => std::future::pending().await,
    }
}
