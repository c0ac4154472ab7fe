//! Every byte arrives, once and in order, in every way through the relay.

use std::future::poll_fn;
use std::pin::pin;

use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::*;

/// Sizes around those of pages, of chunks, of the largest read and of a pipe.
const SIZES: [u64; 16] = [
    0, 1, 4095, 4096, 4097, 65_535, 65_536, 65_537, 131_073, 262_143, 262_144, 262_145, 1_048_575, 1_048_576,
    1_048_577, 3_145_735,
];
/// Where the streams begin, so that no direction is mistaken for the other.
const UP: u64 = 0;
const DOWN: u64 = 400_009;
/// The length of a long stream.
const GIB: u64 = 1 << 30;
/// Bytes that a test hands over at once.
const PIECE: usize = 300_000;

/// Sends `length` bytes from `begin` on and the end of the stream, while it receives what comes from `other` on.
/// Returns how much that was.
async fn exchange(far: Box<dyn Far>, begin: u64, length: u64, other: u64) -> u64 {
    let (mut read, mut write) = split(far);
    let sending = async {
        let mut sent = 0;
        while sent < length {
            let piece = place(begin + sent);
            let piece = &piece[..piece.len().min(PIECE).min(usize::try_from(length - sent).unwrap())];
            write.write_all(piece).await.unwrap();
            sent += piece.len() as u64;
        }
        write.shutdown().await.unwrap();
    };
    let receiving = async {
        let (mut received, mut buffer) = (0, vec![0; PIECE]);
        loop {
            let count = read.read(&mut buffer).await.unwrap();
            if count == 0 {
                return received;
            }
            assert_is(&buffer[..count], other + received);
            received += count as u64;
        }
    };
    tokio::join!(sending, receiving).1
}

/// Panics unless `bytes` are those from `at` on.
fn assert_is(mut bytes: &[u8], mut at: u64) {
    while !bytes.is_empty() {
        let want = place(at);
        let count = want.len().min(bytes.len());
        assert!(bytes[..count] == want[..count], "not what was sent from {at} on");
        bytes = &bytes[count..];
        at += count as u64;
    }
}

/// Relays `up` and `down` bytes at once. Returns how many of them the kernel moved.
async fn relayed(way: Way, pipes: &Arc<Pipes>, up: u64, down: u64) -> u64 {
    let (client, upstream, near) = way.sides().await;
    let running = Relaying::start(near, Early::default(), &idle(LIMIT), pipes);
    let (got_down, got_up) = tokio::join!(
        tokio::spawn(exchange(client, UP, up, DOWN)),
        tokio::spawn(exchange(upstream, DOWN, down, UP)),
    );
    let (got, case) = ([got_up.unwrap(), got_down.unwrap()], format!("{way:?}, {up} up, {down} down"));
    assert_eq!(got, [up, down], "{case}");
    assert_eq!(running.taken(), got, "{case}");
    let spliced = running.spliced();
    assert_eq!(running.metrics.relayed.get(RelayPath::Copy) + spliced, up + down, "{case}");
    assert_eq!(running.relay.await.unwrap().token(), "finished", "{case}");
    spliced
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_size_both_ways_at_once() {
    for way in Way::ALL {
        let pipes = way.pipes();
        for (up, down) in SIZES.iter().zip(SIZES.iter().rev()) {
            relayed(way, &pipes, *up, *down).await;
            relayed(way, &pipes, *up, *up).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_through_pipes() {
    for (up, down) in [(GIB, 0), (0, GIB), (GIB / 4, GIB / 4)] {
        let spliced = relayed(Way::Splice, &Way::Splice.pipes(), up, down).await;
        assert!(spliced > (up + down) / 2, "{spliced} of {up} and {down}: the kernel moves bulk");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_without_pipes() {
    for (up, down) in [(GIB, 0), (0, GIB)] {
        assert_eq!(relayed(Way::NoPipe, &Way::NoPipe.pipes(), up, down).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_through_tls() {
    assert_eq!(relayed(Way::Tls, &Way::Tls.pipes(), GIB / 2, GIB).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_to_a_tls_hop() {
    assert_eq!(relayed(Way::TlsHop, &Way::TlsHop.pipes(), GIB, GIB / 2).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_through_http2() {
    assert_eq!(relayed(Way::Http2, &Way::Http2.pipes(), GIB / 2, GIB).await, 0);
}

/// Numbers without an order, the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn is_one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// Small as often as large.
    fn size(&mut self) -> u64 {
        let bound = [1 << 4, 1 << 10, 1 << 15, 1 << 17, 1 << 19][usize::try_from(self.below(5)).unwrap()];
        1 + self.below(bound)
    }
}

/// One direction: its bytes are those from `begin` on, `early` of them were said before, and there are `length`.
#[derive(Clone, Copy)]
struct Stream {
    begin: u64,
    early: u64,
    length: u64,
}

impl Stream {
    fn any(begin: u64, random: &mut Random) -> Self {
        let early = if random.is_one_in(2) { 0 } else { random.size() };
        let length = early + (0..random.below(40)).map(|_| random.size()).sum::<u64>();
        Self { begin, early, length }
    }

    fn said(self) -> Bytes {
        (0..self.early).map(|at| place(self.begin + at)[0]).collect()
    }

    /// Sends in pieces of any size, and now and then waits until all has been received. `rests` says whether it waits,
    /// for that or for room, or has ended.
    async fn send(
        self,
        mut to: impl AsyncWrite + Unpin,
        mut random: Random,
        rests: watch::Sender<bool>,
        mut received: watch::Receiver<u64>,
    ) {
        let mut sent = self.early;
        while sent < self.length {
            let mut left = usize::try_from(random.size().min(self.length - sent)).unwrap();
            while left > 0 {
                let piece = place(self.begin + sent);
                let piece = &piece[..piece.len().min(left)];
                let mut writing = pin!(async {
                    to.write_all(piece).await.unwrap();
                    to.flush().await.unwrap();
                });
                poll_fn(|cx| {
                    let polled = writing.as_mut().poll(cx);
                    rests.send_replace(polled.is_pending());
                    polled
                })
                .await;
                sent += piece.len() as u64;
                left -= piece.len();
            }
            if random.is_one_in(8) {
                rests.send_replace(true);
                received.wait_for(|received| *received == sent).await.unwrap();
            }
        }
        rests.send_replace(true);
        to.shutdown().await.unwrap();
        // The receiver asks to the end.
        rests.closed().await;
    }

    /// Receives all of it in reads of any size, and now and then waits until the sender rests.
    async fn receive(
        self,
        mut from: impl AsyncRead + Unpin,
        mut random: Random,
        mut rests: watch::Receiver<bool>,
        received: watch::Sender<u64>,
    ) {
        let mut count = 0;
        loop {
            if random.is_one_in(8) {
                rests.wait_for(|rests| *rests).await.unwrap();
            }
            let mut buffer = vec![0; usize::try_from(random.size()).unwrap()];
            let read = from.read(&mut buffer).await.unwrap();
            if read == 0 {
                assert_eq!(count, self.length);
                return;
            }
            assert_is(&buffer[..read], self.begin + count);
            count += read as u64;
            received.send_replace(count);
        }
    }
}

/// One flow of any length each way, in random pieces with random pauses. Returns how much of it the kernel moved.
async fn relayed_at_random(way: Way, pipes: &Arc<Pipes>, random: &mut Random) -> u64 {
    let (up, down) = (Stream::any(UP, random), Stream::any(DOWN, random));
    let (client, upstream, near) = way.sides().await;
    let early = Early { from_client: up.said(), from_upstream: down.said() };
    let running = Relaying::start(near, early, &idle(LIMIT), pipes);

    let ((client_reads, client_writes), (upstream_reads, upstream_writes)) = (split(client), split(upstream));
    let mut tasks = JoinSet::new();
    let mut other = || Random(random.below(u64::MAX));
    for (stream, reads, writes) in [
        (
            up,
            Box::new(upstream_reads) as Box<dyn AsyncRead + Send + Unpin>,
            Box::new(client_writes) as Box<dyn AsyncWrite + Send + Unpin>,
        ),
        (down, Box::new(client_reads), Box::new(upstream_writes)),
    ] {
        let (rests, rest) = watch::channel(false);
        let (receives, received) = watch::channel(0);
        tasks.spawn(stream.send(writes, other(), rests, received));
        tasks.spawn(stream.receive(reads, other(), rest, receives));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let spliced = running.spliced();
    assert_eq!(running.taken(), [up.length, down.length]);
    assert_eq!(running.relay.await.unwrap().token(), "finished");
    spliced
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pieces_and_pauses_of_any_kind() {
    const FLOWS: usize = 40;
    for way in Way::ALL {
        let (pipes, mut spliced) = (way.pipes(), 0);
        let mut seeds = Random(u64::from(getrandom::u32().unwrap()));
        for _ in 0..FLOWS {
            let seed = seeds.0;
            eprintln!("{way:?}, {seed}");
            spliced += relayed_at_random(way, &pipes, &mut seeds).await;
        }
        let is_spliced = matches!(way, Way::Splice | Way::OnePipe);
        assert_eq!(spliced > 0, is_spliced, "{way:?}");
    }
}

/// A short request and its answer, each ended by its end of stream; now and then a long answer.
async fn short_flow(way: Way, pipes: Arc<Pipes>, number: u64) {
    let answer = if number.is_multiple_of(100) { 200_000 + number } else { number % 5000 };
    relayed(way, &pipes, number % 700, answer).await;
}

async fn ten_thousand_short_flows(way: Way) {
    const FLOWS: u64 = 10_000;
    const AT_ONCE: usize = 64;
    let (pipes, mut tasks) = (way.pipes(), JoinSet::new());
    for number in 0..FLOWS {
        if tasks.len() == AT_ONCE {
            tasks.join_next().await.unwrap().unwrap();
        }
        tasks.spawn(short_flow(way, Arc::clone(&pipes), number));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_short_flows_with_pipes() {
    ten_thousand_short_flows(Way::Splice).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_short_flows_without_pipes() {
    ten_thousand_short_flows(Way::NoPipe).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_short_flows_through_tls() {
    ten_thousand_short_flows(Way::Tls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_short_flows_through_http2() {
    ten_thousand_short_flows(Way::Http2).await;
}
