//! What holds whatever the way, shown on plain TCP.

use std::os::fd::AsFd;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::*;
use crate::meter::YOUNG;

/// A relay under way, with its two far ends.
struct Running {
    client: TcpStream,
    upstream: TcpStream,
    meter: Arc<Meter>,
    relay: JoinHandle<End>,
}

async fn start(early: &'static [u8], idle_timeout: Duration) -> Running {
    start_within(early, &idle(idle_timeout)).await
}

async fn start_within(early: &'static [u8], limits: &Limits) -> Running {
    let (client, near_client) = pair().await;
    let (upstream, near_upstream) = pair().await;
    let early = Early { from_client: Bytes::from_static(early), ..Early::default() };
    let near = (near_client.into(), near_upstream.into());
    let Relaying { meter, relay, .. } = Relaying::start(near, early, limits, &Way::Splice.pipes());
    Running { client, upstream, meter, relay }
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
            let Running { client, upstream, relay, meter } = start_within(b"", &limits).await;
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
    let Running { mut client, mut upstream, relay, meter: _ } = start_within(b"", &limits).await;
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

/// Ten thousand tunnels wait at a time, and each holds this.
#[tokio::test]
async fn a_relay_that_waits_is_small() {
    const BYTES_MAX: usize = 1152;
    let ((_, near_client), (_, near_upstream)) = (pair().await, pair().await);
    let (mut client, mut upstream, mut early) = (near_client.into(), near_upstream.into(), Early::default());
    let (meter, pipes) = (Meter::new(&Limits::default()), Pipes::default());
    let terms = Terms { meter: &meter, opened: &|_| {}, pipes: &pipes, is_kept_alive: false };
    let size = size_of_val(&relay(&mut client, &mut upstream, &mut early, &terms));
    assert!(size <= BYTES_MAX, "{size}");
}

/// Four calls that a short tunnel does without, and one for which they were made before.
#[tokio::test]
async fn only_a_connection_that_lasts_is_kept_alive() {
    tokio::time::pause();
    for is_kept_alive in [false, true] {
        lasting_is_kept_alive(is_kept_alive).await;
    }
}

async fn lasting_is_kept_alive(before: bool) {
    let ((_client, near_client), (_upstream, near_upstream)) = (pair().await, pair().await);
    let [client, upstream] =
        [near_client.as_fd(), near_upstream.as_fd()].map(|fd| fd.try_clone_to_owned().unwrap());
    let are_kept_alive = || [&client, &upstream].map(|socket| SockRef::from(socket).keepalive().unwrap());
    let near = (near_client.into(), near_upstream.into());
    let (limits, pipes) = (Limits::default(), Way::Splice.pipes());
    let Relaying { relay, .. } = Relaying::begin(near, Early::default(), &limits, &pipes, before);
    for (after, want) in [(YOUNG - Duration::from_millis(1), false), (Duration::from_millis(2), !before)] {
        // The relay begins before the clock moves, and hears that it did before anybody looks.
        tokio::task::yield_now().await;
        tokio::time::advance(after).await;
        tokio::task::yield_now().await;
        assert_eq!(are_kept_alive(), [false, want], "after {after:?} more");
    }
    relay.abort();
}

#[tokio::test]
async fn a_relay_that_waits_holds_no_buffer() {
    let Running { mut client, mut upstream, relay, meter: _ } = start(b"early", LIMIT).await;
    for _ in 0..3 {
        for length in [5, 10_000] {
            client.write_all(&pattern(length, 4)).await.unwrap();
            upstream.read_exact(&mut vec![0; length]).await.unwrap();
            upstream.write_all(&pattern(length, 5)).await.unwrap();
            client.read_exact(&mut vec![0; length]).await.unwrap();
            assert!(crate::chunk::is_kept(), "after {length} bytes");
        }
    }
    relay.abort();
}
