//! Where streams of dnstap come in: a unix socket that one user's programs write to.

use std::{io, sync::Arc, time::Duration};

use bytes::BytesMut;
use exeat_audit::Seldom;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    feed::{Feed, FeedError, Next},
    heard::{Heard, Unheard},
};
use crate::{
    server::Server,
    surroundings::{Happening, Tapped},
};

/// Streams that are read at a time. A name server has one, or one for each of its processes.
const STREAMS_MAX: usize = 16;

/// How long a stream may take to begin, and to take an answer. Writers of dnstap connect to begin.
const BEGIN_MAX: Duration = Duration::from_secs(10);

/// Octets that are asked for at a time: some hundred messages of a busy server.
const READ_BYTES: usize = 64 * 1024;

/// How long to wait when the system gives no more connections, for those that are open to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Lines that whoever finds the socket can cause, each kind by itself.
static UNACCEPTED: Seldom = Seldom::new();
static STRANGER: Seldom = Seldom::new();
static UNKNOWN: Seldom = Seldom::new();
static TOO_MANY: Seldom = Seldom::new();
static BROKEN: Seldom = Seldom::new();

/// Reads what other name servers on this host have answered, and has each answer decided on.
#[derive(Clone, Debug)]
pub struct Tap {
    server: Server,
    /// The user whose streams are read.
    uid: u32,
}

/// Why a stream has ended before its end.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("the stream broke off")]
    Io(#[from] io::Error),
    #[error("what came is no dnstap")]
    Feed(#[from] FeedError),
    #[error("the stream has not begun in time")]
    Late,
}

impl Tap {
    /// Returns a tap for the streams of this user. `server` decides, and opens the way to what is allowed.
    #[must_use]
    pub fn new(server: Server, uid: u32) -> Self {
        Self { server, uid }
    }

    /// Reads the streams that come to `listener`, until the future is dropped; then they end, too.
    pub async fn serve(self, listener: UnixListener) {
        let places = Arc::new(Semaphore::new(STREAMS_MAX));
        let mut streams = JoinSet::new();
        loop {
            while streams.try_join_next().is_some() {}
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    if let Some(left_out) = UNACCEPTED.turn() {
                        tracing::warn!(%error, left_out, "a stream of dnstap cannot be accepted");
                    }
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Closed without a word: a writer takes that for nobody being there, and tries again.
            if !self.is_let_in(&stream) {
                self.server.count(Happening::TapRefused);
                continue;
            }
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                if let Some(left_out) = TOO_MANY.turn() {
                    tracing::warn!(left_out, "too many streams of dnstap at a time");
                }
                self.server.count(Happening::TapRefused);
                continue;
            };
            let server = self.server.clone();
            streams.spawn(async move {
                let _place = place;
                match read(&server, stream).await {
                    Ok(()) => tracing::info!("a stream of dnstap has ended"),
                    Err(error) => {
                        server.count(Happening::TapBroken);
                        if let Some(left_out) = BROKEN.turn() {
                            tracing::warn!(
                                error = &error as &dyn std::error::Error,
                                left_out,
                                "a stream of dnstap has ended before its end"
                            );
                        }
                    }
                }
            });
        }
    }

    /// Whether the user who writes is the one that may; the kernel tells who has connected.
    fn is_let_in(&self, stream: &UnixStream) -> bool {
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == self.uid => true,
            Ok(peer) => {
                if let Some(left_out) = STRANGER.turn() {
                    tracing::warn!(
                        uid = peer.uid(),
                        left_out,
                        "a stream of dnstap from a user who may not write"
                    );
                }
                false
            }
            Err(error) => {
                if let Some(left_out) = UNKNOWN.turn() {
                    tracing::warn!(%error, left_out, "it is not known who writes a stream of dnstap");
                }
                false
            }
        }
    }
}

/// Reads one stream to its end. One message after the other is decided on: a writer that is faster fills its own queue.
async fn read(server: &Server, mut stream: UnixStream) -> Result<(), StreamError> {
    let mut feed = Feed::default();
    let mut buffer = BytesMut::new();
    let mut is_first = true;
    loop {
        match feed.next(&mut buffer)? {
            Next::Wait => {
                if feed.is_started() && std::mem::take(&mut is_first) {
                    tracing::info!("a stream of dnstap is read");
                }
                buffer.reserve(READ_BYTES);
                let more = stream.read_buf(&mut buffer);
                let length = if feed.is_started() { more.await? } else { soon(more).await? };
                // Without STOP: the writer was killed.
                if length == 0 {
                    return Ok(());
                }
            }
            Next::Reply(reply) => soon(stream.write_all(&reply)).await?,
            Next::Message(message) => learn(server, &message).await,
            Next::TooLong => server.count(Happening::Tapped(Tapped::TooLong)),
            Next::End(reply) => {
                if let Some(reply) = reply {
                    // unbound has left by now.
                    let _ = soon(stream.write_all(&reply)).await;
                }
                return Ok(());
            }
        }
    }
}

async fn soon<T>(work: impl Future<Output = io::Result<T>>) -> Result<T, StreamError> {
    timeout(BEGIN_MAX, work).await.map_err(|_| StreamError::Late)?.map_err(StreamError::Io)
}

async fn learn(server: &Server, message: &[u8]) {
    let tapped = match Heard::read(message) {
        Ok(heard) => server.learn(&heard).await,
        Err(Unheard::Malformed) => Tapped::Malformed,
        Err(Unheard::Incomplete) => Tapped::Incomplete,
        Err(Unheard::PassedOver) => Tapped::PassedOver,
    };
    server.count(Happening::Tapped(tapped));
}
