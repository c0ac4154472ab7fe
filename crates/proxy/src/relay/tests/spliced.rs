//! What is particular to bulk that the kernel moves.

use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::*;

struct Running {
    client: TcpStream,
    upstream: TcpStream,
    relaying: Relaying,
}

async fn start(limits: &Limits, pipes: &Arc<Pipes>) -> Running {
    let (client, near_client) = pair().await;
    let (upstream, near_upstream) = pair().await;
    let relaying =
        Relaying::start((near_client.into(), near_upstream.into()), Early::default(), limits, pipes);
    Running { client, upstream, relaying }
}

/// Sends for as long as it can.
fn pushing(mut to: TcpStream) -> JoinHandle<TcpStream> {
    tokio::spawn(async move {
        while to.write_all(place(0)).await.is_ok() {}
        to
    })
}

/// Reads until `is_enough`.
async fn pull_until(from: &mut TcpStream, mut is_enough: impl FnMut() -> bool) {
    let mut buffer = vec![0; 1 << 20];
    while !is_enough() {
        assert!(from.read(&mut buffer).await.unwrap() > 0);
    }
}

/// Reads until the connection is reset.
async fn until_reset(mut from: TcpStream) {
    let error = tokio::io::copy(&mut from, &mut tokio::io::sink()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_cuts_at_full_speed() {
    let Running { client, mut upstream, relaying } = start(&idle(LIMIT), &Way::Splice.pipes()).await;
    let pushing = pushing(client);
    pull_until(&mut upstream, || relaying.spliced() > 8 << 20).await;
    assert!(relaying.meter.stop(Reason::PolicyChanged));
    until_reset(upstream).await;
    assert_eq!(relaying.relay.await.unwrap().token(), "policy_changed");
    pushing.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_is_kept_to_the_byte() {
    for most in [100_000, (1 << 20) + 1, 10_000_019] {
        let limits = Limits { flow_bytes_up: Some(most), ..idle(LIMIT) };
        let (client, near_client) = pair().await;
        let (upstream, near_upstream) = pair().await;
        // The relay finds bulk as it begins, however slow this writer is.
        client.writable().await.unwrap();
        while client.try_write(place(0)).is_ok() {}
        let pushing = pushing(client);
        let near = (near_client.into(), near_upstream.into());
        let relaying = Relaying::start(near, Early::default(), &limits, &Way::Splice.pipes());
        until_reset(upstream).await;
        let (taken, spliced) = (relaying.taken(), relaying.spliced());
        assert_eq!(relaying.relay.await.unwrap().token(), "max_bytes");
        assert_eq!(taken, [most, 0]);
        assert!(spliced > 0, "{spliced}");
        pushing.await.unwrap();
    }
}

/// Nobody gets the bytes of another flow, and a flow that ends in the middle of a move leaves a place for the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_with_bytes_in_it_is_not_used_again() {
    let pipes = Way::OnePipe.pipes();
    for round in 0..10 {
        let Running { client, mut upstream, relaying } = start(&idle(LIMIT), &pipes).await;
        let pushed = pushing(client);
        // Nobody reads on, so that the one pipe has bytes in it when the flow ends. Where they wait in a copy, read on.
        let held = async || {
            while !pipes.is_held() {
                yield_now().await
            }
        };
        while timeout(Duration::from_millis(100), held()).await.is_err() {
            let before = relaying.spliced();
            pull_until(&mut upstream, || relaying.spliced() > before).await;
        }
        if round % 2 == 0 {
            assert!(relaying.meter.stop(Reason::PolicyChanged));
        } else {
            upstream.set_zero_linger().unwrap();
            drop(upstream);
        }
        let end = relaying.relay.await.unwrap().token();
        assert_eq!(end, if round % 2 == 0 { "policy_changed" } else { "upstream_reset" });
        pushed.await.unwrap();
        assert!(!pipes.is_held());

        let Running { mut client, mut upstream, relaying } = start(&idle(LIMIT), &pipes).await;
        let sending = tokio::spawn(async move {
            for _ in 0..20 {
                client.write_all(&[b'x'; 1 << 19]).await.unwrap();
            }
        });
        let mut received = Vec::new();
        upstream.read_to_end(&mut received).await.unwrap();
        assert!(received.len() == 20 << 19 && received.iter().all(|byte| *byte == b'x'));
        assert!(relaying.spliced() > 0);
        sending.await.unwrap();
        drop(upstream);
        assert_eq!(relaying.relay.await.unwrap().token(), "finished");
    }
}

#[tokio::test]
async fn what_came_before_a_reset_is_delivered() {
    for _ in 0..20 {
        let Running { client, mut upstream, relaying } = start(&idle(LIMIT), &Way::Splice.pipes()).await;
        let pushed = pushing(client);
        pull_until(&mut upstream, || relaying.spliced() > 0).await;
        // The upstream answers and closes without reading on: its kernel then resets.
        upstream.write_all(b"413").await.unwrap();
        drop(upstream);
        let mut client = pushed.await.unwrap();
        let mut received = Vec::new();
        // The writer may have been told of the reset already.
        let _ = client.read_to_end(&mut received).await;
        assert!(received == b"413" || received.is_empty(), "{received:?}");
        assert_eq!(relaying.relay.await.unwrap().token(), "upstream_reset");
    }
}

#[tokio::test]
async fn a_quiet_tunnel_holds_no_pipe() {
    let pipes = Way::Splice.pipes();
    let Running { mut client, mut upstream, relaying } = start(&idle(LIMIT), &pipes).await;
    for _ in 0..3 {
        let sending = async {
            for _ in 0..10 {
                client.write_all(place(0)).await.unwrap();
            }
        };
        let receiving = async {
            let mut received = vec![0; 10 * place(0).len()];
            upstream.read_exact(&mut received).await.unwrap();
        };
        tokio::join!(sending, receiving);
        let spliced = relaying.spliced();
        assert!(spliced > 0);
        for _ in 0..100 {
            client.write_all(b"?").await.unwrap();
            upstream.read_exact(&mut [0]).await.unwrap();
        }
        assert!(!pipes.is_held());
        assert!(relaying.spliced() - spliced < 16, "small pieces are read");
    }
    relaying.relay.abort();
}

#[tokio::test]
async fn bulk_lets_others_have_their_turn() {
    // One thread for the relay and for whoever wants a turn; the far ends have another one.
    let Running { client, upstream, relaying } = start(&idle(LIMIT), &Way::Splice.pipes()).await;
    let (client, upstream) = (client.into_std().unwrap(), upstream.into_std().unwrap());
    let is_done = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&is_done);
    let far = std::thread::spawn(move || {
        client.set_nonblocking(false).unwrap();
        upstream.set_nonblocking(false).unwrap();
        let mut sends = client.try_clone().unwrap();
        let sending = std::thread::spawn(move || while sends.write_all(place(0)).is_ok() {});
        let mut received = vec![0; 1 << 20];
        while !done.load(Ordering::Relaxed) {
            assert!((&upstream).read(&mut received).unwrap() > 0);
        }
        drop((client.shutdown(std::net::Shutdown::Both), upstream));
        sending.join().unwrap();
    });
    let (mut before, mut most) = (0, 0);
    while before < 256 << 20 {
        yield_now().await;
        let taken = relaying.taken()[0];
        most = most.max(taken - before);
        before = taken;
    }
    is_done.store(true, Ordering::Relaxed);
    let spliced = relaying.spliced();
    assert!(spliced > before / 2, "{spliced} of {before}");
    assert!(most <= 2 * pipe::PIPE_BYTES as u64, "{most} bytes in one turn");
    relaying.relay.await.unwrap();
    far.join().unwrap();
}
