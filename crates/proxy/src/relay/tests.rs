use std::sync::Arc;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::limits::Limits;
use crate::testing::pair;

/// Long enough that no test waits for it to pass.
const LIMIT: Duration = Duration::from_secs(60);

/// A relay under way, with its two far ends.
struct Running {
    client: TcpStream,
    upstream: TcpStream,
    meter: Arc<Meter>,
    relay: JoinHandle<End>,
}

async fn start(early: &'static [u8], idle_timeout: Duration) -> Running {
    start_within(early, idle_timeout, &Limits::default()).await
}

async fn start_within(early: &'static [u8], idle_timeout: Duration, limits: &Limits) -> Running {
    let (client, near_client) = pair().await;
    let (upstream, near_upstream) = pair().await;
    let meter = Arc::new(Meter::new(limits));
    let counted = Arc::clone(&meter);
    let relay = tokio::spawn(async move {
        relay(near_client.into(), near_upstream.into(), early, idle_timeout, &counted, &|_| {}).await
    });
    Running { client, upstream, meter, relay }
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

/// Sends `bytes` and the end of the stream while reading everything that comes.
async fn exchange(stream: TcpStream, bytes: Vec<u8>) -> Vec<u8> {
    let (mut read, mut write) = stream.into_split();
    let sending = tokio::spawn(async move {
        write.write_all(&bytes).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    read.read_to_end(&mut received).await.unwrap();
    sending.await.unwrap();
    received
}

/// What comes on `stream` before it is reset.
async fn read_to_reset(mut stream: TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    let error = stream.read_to_end(&mut received).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    received
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directions_arrive_whole() {
    let sizes = [0, 1, 4095, 65_536, (1 << 20) + 1];
    for up in sizes {
        for down in sizes {
            let running = start(b"", LIMIT).await;
            let (sent_up, sent_down) = (pattern(up, 1), pattern(down, 2));
            let (got_down, got_up) = tokio::join!(
                exchange(running.client, sent_up.clone()),
                exchange(running.upstream, sent_down.clone())
            );
            assert!(got_up == sent_up && got_down == sent_down, "{up} up, {down} down");
            assert_eq!(running.relay.await.unwrap().token(), "finished");
            let taken = [Side::Upstream, Side::Client].map(|side| running.meter.taken(side));
            assert_eq!(taken, [up as u64, down as u64]);
        }
    }
}

#[tokio::test]
async fn early_bytes_come_first_and_count() {
    let running = start(b"early ", LIMIT).await;
    let (_, got) =
        tokio::join!(exchange(running.client, b"late".to_vec()), exchange(running.upstream, Vec::new()));
    assert_eq!(got, b"early late");
    assert_eq!(running.relay.await.unwrap().token(), "finished");
    assert_eq!(running.meter.taken(Side::Upstream), 10);
}

#[tokio::test]
async fn a_side_that_is_done_still_receives() {
    for client_first in [true, false] {
        let Running { client, upstream, relay, meter: _ } = start(b"", LIMIT).await;
        let (mut first, mut second) = if client_first { (client, upstream) } else { (upstream, client) };
        first.shutdown().await.unwrap();
        assert_eq!(second.read(&mut [0; 1]).await.unwrap(), 0, "the end was passed on");

        let answer = pattern(1 << 20, 3);
        let (got, ()) = tokio::join!(exchange(first, Vec::new()), async {
            second.write_all(&answer).await.unwrap();
            second.shutdown().await.unwrap();
        });
        assert!(got == answer);
        assert_eq!(relay.await.unwrap().token(), "finished");
    }
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset() {
    for (broken, want) in [(Side::Client, "client_reset"), (Side::Upstream, "upstream_reset")] {
        let Running { client, upstream, relay, meter: _ } = start(b"", LIMIT).await;
        let (mut breaks, mut other) = match broken {
            Side::Client => (client, upstream),
            Side::Upstream => (upstream, client),
        };
        breaks.write_all(b"half of it").await.unwrap();
        let mut received = [0; 10];
        other.read_exact(&mut received).await.unwrap();
        breaks.set_zero_linger().unwrap();
        drop(breaks);
        assert_eq!(read_to_reset(other).await, b"");
        assert_eq!(relay.await.unwrap().token(), want);
    }
}

#[tokio::test]
async fn a_break_is_never_a_clean_end_while_the_other_side_sends() {
    for _ in 0..20 {
        let Running { client, mut upstream, relay, meter: _ } = start(b"", LIMIT).await;
        let (mut read, mut write) = client.into_split();
        let sending = tokio::spawn(async move {
            loop {
                if let Err(error) = write.write_all(&[1; 4096]).await {
                    return error;
                }
            }
        });
        upstream.write_all(b"half of it").await.unwrap();
        let mut some = [0; 4096];
        upstream.read_exact(&mut some).await.unwrap();
        upstream.set_zero_linger().unwrap();
        drop(upstream);

        // The kernel tells a reset once, to whoever comes first; after an end of stream it tells a broken pipe.
        let read = read.read_to_end(&mut Vec::new()).await.map_err(|error| error.kind());
        let written = sending.await.unwrap().kind();
        let reset = io::ErrorKind::ConnectionReset;
        assert!(read == Err(reset) || written == reset, "{read:?}, {written:?}");
        assert_eq!(relay.await.unwrap().token(), "upstream_reset");
    }
}

#[tokio::test]
async fn what_came_before_the_break_is_delivered() {
    // The upstream answers and closes without reading: its kernel then resets.
    let Running { mut client, mut upstream, relay, meter: _ } = start(b"", LIMIT).await;
    client.write_all(&[1; 100]).await.unwrap();
    upstream.readable().await.unwrap();
    upstream.write_all(b"413").await.unwrap();
    drop(upstream);
    let mut received = [0; 3];
    client.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"413");
    assert_eq!(read_to_reset(client).await, b"");
    assert_eq!(relay.await.unwrap().token(), "upstream_reset");
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_back() {
    const PUSHED_MAX: usize = 16 << 20;
    let Running { client, upstream, relay, meter } = start(b"", LIMIT).await;
    // The test's own ends hold little; what counts is what the relay and its two sockets hold.
    SockRef::from(&client).set_send_buffer_size(64 << 10).unwrap();
    SockRef::from(&upstream).set_recv_buffer_size(64 << 10).unwrap();

    let chunk = pattern(64 << 10, 4);
    let mut pushed = 0;
    // Full when the socket takes nothing for a while; a pause that is no end would only make the test easier.
    while timeout(Duration::from_millis(300), client.writable()).await.is_ok_and(|ready| ready.is_ok()) {
        match client.try_write(&chunk[pushed % chunk.len()..]) {
            Ok(written) => pushed += written,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        assert!(pushed < PUSHED_MAX, "{pushed} bytes went nowhere");
    }
    let (_, got) = tokio::join!(exchange(client, Vec::new()), exchange(upstream, Vec::new()));
    assert_eq!(got.len(), pushed);
    assert!(got.chunks(chunk.len()).all(|part| chunk.starts_with(part)), "bytes in order");
    assert_eq!(relay.await.unwrap().token(), "finished");
    assert_eq!(meter.taken(Side::Upstream), pushed as u64);
}

#[tokio::test]
async fn silence_ends_it() {
    let Running { client, upstream, relay, meter: _ } = start(b"", Duration::from_millis(50)).await;
    SockRef::from(&client).set_keepalive(true).unwrap();
    let end = relay.await.unwrap();
    assert!(matches!(end, End::Cut(Reason::IdleTimeout)), "{end:?}");
    read_to_reset(client).await;
    read_to_reset(upstream).await;
}

#[tokio::test]
async fn silence_ends_it_when_one_side_is_done() {
    let Running { mut client, upstream, relay, meter: _ } = start(b"", Duration::from_millis(50)).await;
    client.shutdown().await.unwrap();
    assert_eq!(relay.await.unwrap().token(), "idle_timeout");
    drop(upstream);
}

/// Sends single bytes until twice `limit` has passed, then nothing more. Not a sleep: a slow machine only makes
/// fewer round trips.
async fn trickle(upwards: bool, limit: Duration) -> (End, Duration) {
    let started = Instant::now();
    let Running { client, upstream, relay, meter: _ } = start(b"", limit).await;
    let (mut sends, mut reads) = if upwards { (client, upstream) } else { (upstream, client) };
    while started.elapsed() < 2 * limit {
        sends.write_all(b"x").await.unwrap();
        reads.read_exact(&mut [0]).await.unwrap();
    }
    (relay.await.unwrap(), started.elapsed())
}

#[tokio::test]
async fn a_byte_either_way_starts_the_silence_anew() {
    let limit = Duration::from_millis(500);
    let (up, down) = tokio::join!(trickle(true, limit), trickle(false, limit));
    for (end, lasted) in [up, down] {
        assert_eq!(end.token(), "idle_timeout");
        assert!(lasted > 2 * limit + limit / 2, "{lasted:?}");
    }
}

#[tokio::test]
async fn a_signal_cuts_both_sides() {
    let Running { client, upstream, relay, meter } = start(b"", LIMIT).await;
    meter.stop(Reason::PolicyChanged);
    assert_eq!(relay.await.unwrap().token(), "policy_changed");
    read_to_reset(client).await;
    read_to_reset(upstream).await;
}

#[tokio::test]
async fn no_byte_beyond_the_limit_is_delivered() {
    for (direction, limits) in [
        (Side::Upstream, Limits { flow_bytes_up: Some(100_000), ..Limits::default() }),
        (Side::Client, Limits { flow_bytes_down: Some(100_000), ..Limits::default() }),
    ] {
        for (bytes, want) in [(100_000, "finished"), (100_001, "max_bytes"), (1 << 20, "max_bytes")] {
            let Running { client, upstream, relay, meter } = start_within(b"", LIMIT, &limits).await;
            let (mut sends, mut receives) = match direction {
                Side::Upstream => (client, upstream),
                Side::Client => (upstream, client),
            };
            let sending = tokio::spawn(async move {
                let sent = sends.write_all(&pattern(bytes, 5)).await.is_ok();
                let ended = sends.shutdown().await.is_ok();
                (sent && ended, sends)
            });
            let mut received = Vec::new();
            let read = receives.read_to_end(&mut received).await;
            assert_eq!(read.is_ok(), want == "finished", "{direction:?}, {bytes}: {read:?}");
            assert!(received.len() <= 100_000, "{}", received.len());
            assert_eq!(meter.taken(direction), 100_000);
            drop((receives, sending.await.unwrap()));
            assert_eq!(relay.await.unwrap().token(), want, "{direction:?}, {bytes}");
        }
    }
}

#[tokio::test]
async fn an_old_flow_is_cut_though_it_is_busy() {
    let limits = Limits { flow_age: Some(Duration::from_millis(50)), ..Limits::default() };
    let Running { mut client, mut upstream, relay, meter: _ } = start_within(b"", LIMIT, &limits).await;
    while client.write_all(b"x").await.is_ok() && upstream.read_exact(&mut [0]).await.is_ok() {}
    assert_eq!(relay.await.unwrap().token(), "max_age");
}

#[tokio::test]
async fn a_signal_cuts_a_writer_that_is_held_back() {
    let Running { client, upstream, relay, meter } = start(b"", LIMIT).await;
    let sending = tokio::spawn(async move {
        let mut client = client;
        while client.write_all(&[1; 65_536]).await.is_ok() {}
    });
    // One byte has arrived, so bytes are moving; nothing is read.
    upstream.readable().await.unwrap();
    meter.stop(Reason::PolicyChanged);
    assert_eq!(relay.await.unwrap().token(), "policy_changed");
    sending.await.unwrap();
}
