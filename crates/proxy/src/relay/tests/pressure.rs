//! A side that does not read holds the other one back, and what waits is bounded.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::*;

/// More than the relay, its two sockets and those of the test hold together.
const PUSHED_MAX: u64 = 32 << 20;
/// As long as no byte moves, nothing more will: a pause that is no end would only make the test easier.
const STUCK: Duration = Duration::from_millis(500);

/// Sends from the beginning of the stream until nothing more is taken. Returns how much was.
async fn push(to: &mut (impl AsyncWrite + Unpin)) -> u64 {
    let mut pushed = 0;
    while let Ok(written) = timeout(STUCK, to.write(place(pushed))).await {
        pushed += written.unwrap() as u64;
        assert!(pushed < PUSHED_MAX, "{pushed} bytes went nowhere");
    }
    pushed
}

/// Reads `length` bytes, which must be the beginning of the stream.
async fn pull(from: &mut (impl AsyncRead + Unpin), length: u64) {
    let (mut pulled, mut buffer) = (0, vec![0; 100_000]);
    while pulled < length {
        let room = buffer.len().min(usize::try_from(length - pulled).unwrap());
        let count = from.read(&mut buffer[..room]).await.unwrap();
        assert!(count > 0, "the end after {pulled} of {length}");
        for byte in &buffer[..count] {
            assert_eq!(*byte, place(pulled)[0], "at {pulled}");
            pulled += 1;
        }
    }
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_back() {
    for way in Way::ALL {
        for upwards in [true, false] {
            let (mut client, mut upstream, near) = way.sides().await;
            let running = Relaying::start(near, Early::default(), &idle(LIMIT), &way.pipes());
            let pushed = if upwards { push(&mut client).await } else { push(&mut upstream).await };
            let held = pushed - running.taken().iter().sum::<u64>();
            eprintln!("{way:?}: {pushed} pushed, {held} of them not delivered");
            let (sends, receives) =
                if upwards { (&mut client, &mut upstream) } else { (&mut upstream, &mut client) };
            // What TLS holds in the test's own end goes with a flush.
            let (flushed, ()) = tokio::join!(sends.flush(), pull(receives, pushed));
            flushed.unwrap();
            assert_eq!(running.taken().iter().sum::<u64>(), pushed, "{way:?}");
            client.shutdown().await.unwrap();
            upstream.shutdown().await.unwrap();
            assert_eq!(running.relay.await.unwrap().token(), "finished", "{way:?}");
        }
    }
}

#[tokio::test]
async fn a_writer_that_is_held_back_is_cut_by_silence_and_by_signals() {
    for way in Way::ALL {
        for reason in [None, Some(Reason::PolicyChanged)] {
            let limit = if reason.is_some() { LIMIT } else { Duration::from_millis(700) };
            let (mut client, mut upstream, near) = way.sides().await;
            let running = Relaying::start(near, Early::default(), &idle(limit), &way.pipes());
            let pushing = async {
                while client.write_all(&place(0)[..65_536]).await.is_ok() && client.flush().await.is_ok() {}
            };
            let stopping = async {
                // One byte has arrived, so bytes are moving; no more are read.
                upstream.read_exact(&mut [0]).await.unwrap();
                reason.is_some_and(|reason| running.meter.stop(reason))
            };
            tokio::join!(pushing, stopping);
            let end = running.relay.await.unwrap();
            assert_eq!(end.token(), reason.unwrap_or(Reason::IdleTimeout).token(), "{way:?}");
        }
    }
}
