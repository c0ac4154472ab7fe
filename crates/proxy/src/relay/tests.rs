//! The relay between real sockets, in each of the ways that bytes take through it.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    limits::Limits,
    metrics::{Metrics, RelayPath},
    testing::{http2_pair, pair, tls_pair},
};

mod contract;
mod pressure;
mod spliced;
mod tls;
mod whole;

/// Long enough that no test waits for it to pass.
const LIMIT: Duration = Duration::from_secs(60);

/// A way through the relay.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    /// Plain TCP: bulk goes through pipes.
    Splice,
    /// Plain TCP, and one pipe for all: who finds it taken copies.
    OnePipe,
    /// Plain TCP, and the kernel gives no pipe.
    NoPipe,
    /// The client's side is TLS.
    Tls,
    /// The client's side is a stream of HTTP/2.
    Http2,
    /// The upstream's side is TLS to a next hop.
    TlsHop,
}

impl Way {
    const ALL: [Self; 6] = [Self::Splice, Self::OnePipe, Self::NoPipe, Self::Tls, Self::Http2, Self::TlsHop];

    fn pipes(self) -> Arc<Pipes> {
        Arc::new(match self {
            Self::Splice | Self::Tls | Self::Http2 | Self::TlsHop => Pipes::default(),
            Self::OnePipe => Pipes::new(1, pipe::PIPE_BYTES),
            // As a user hears it whose pipe pages are spent.
            Self::NoPipe => Pipes::new(1, usize::MAX),
        })
    }

    /// The far ends of client and upstream, and the near ones.
    async fn sides(self) -> (Box<dyn Far>, Box<dyn Far>, (ClientStream, UpstreamStream)) {
        let (client, near_client): (Box<dyn Far>, _) = match self {
            Self::Splice | Self::OnePipe | Self::NoPipe | Self::TlsHop => {
                let (far, near) = pair().await;
                (Box::new(far), near.into())
            }
            Self::Tls => {
                let (far, near) = tls_pair().await;
                (Box::new(far), near)
            }
            Self::Http2 => {
                let (far, near) = http2_pair().await;
                (Box::new(far), near)
            }
        };
        let (upstream, near_upstream): (Box<dyn Far>, _) = match self {
            Self::Splice | Self::OnePipe | Self::NoPipe | Self::Tls | Self::Http2 => {
                let (far, near) = pair().await;
                (Box::new(far), near.into())
            }
            Self::TlsHop => {
                let (near, far) = tls_pair().await;
                (Box::new(far), near.into())
            }
        };
        (client, upstream, (near_client, near_upstream))
    }
}

/// A far end.
trait Far: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Far for T {}

/// A relay under way.
struct Relaying {
    meter: Arc<Meter>,
    metrics: Arc<Metrics>,
    relay: JoinHandle<End>,
}

impl Relaying {
    fn start(
        near: (ClientStream, UpstreamStream),
        early: Early,
        limits: &Limits,
        pipes: &Arc<Pipes>,
    ) -> Self {
        Self::begin(near, early, limits, pipes, false)
    }

    fn begin(
        near: (ClientStream, UpstreamStream),
        mut early: Early,
        limits: &Limits,
        pipes: &Arc<Pipes>,
        is_kept_alive: bool,
    ) -> Self {
        let metrics = Arc::<Metrics>::default();
        let meter = Arc::new(Meter::new(limits).counting(&metrics));
        let (counted, pipes) = (Arc::clone(&meter), Arc::clone(pipes));
        let (mut client, mut upstream) = near;
        let relay = tokio::spawn(async move {
            let terms = Terms { meter: &counted, opened: &|_| {}, pipes: &pipes, is_kept_alive };
            relay(&mut client, &mut upstream, &mut early, &terms).await
        });
        Self { meter, metrics, relay }
    }

    /// Bytes that the kernel moved.
    fn spliced(&self) -> u64 {
        self.metrics.relayed.get(RelayPath::Splice)
    }

    /// Bytes that each side took: upstream, then client.
    fn taken(&self) -> [u64; 2] {
        [Side::Upstream, Side::Client].map(|side| self.meter.taken(side))
    }
}

/// Limits that no test runs into, but for this silence.
fn idle(idle_timeout: Duration) -> Limits {
    Limits { idle_timeout, ..Limits::default() }
}

/// What a test sends from `at` on, or the beginning of that. No loss, shift or repetition of whole buffers goes unseen.
fn place(at: u64) -> &'static [u8] {
    /// A prime, so that it divides no size of a buffer.
    const PERIOD: usize = 1_000_003;
    static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| pattern(PERIOD, 1));
    let at = usize::try_from(at % PERIOD as u64).unwrap();
    &BLOCK[at..]
}

/// Bytes that no shift, loss or repetition leaves the same.
fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}
