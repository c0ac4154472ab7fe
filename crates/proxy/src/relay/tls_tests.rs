//! The contract of the relay where the client's side is TLS.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::limits::Limits;
use crate::testing::{pair, tls_pair};

/// Long enough that no test waits for it to pass.
const LIMIT: Duration = Duration::from_secs(60);

struct Running {
    client: TlsStream<TcpStream>,
    upstream: TcpStream,
    meter: Arc<Meter>,
    relay: JoinHandle<End>,
}

async fn start(early: &'static [u8], idle_timeout: Duration) -> Running {
    let (client, near_client) = tls_pair().await;
    let (upstream, near_upstream) = pair().await;
    let meter = Arc::new(Meter::new(&Limits::default()));
    let counted = Arc::clone(&meter);
    let relay = tokio::spawn(async move {
        relay(near_client, near_upstream.into(), early, idle_timeout, &counted, &|_| {}).await
    });
    Running { client, upstream, meter, relay }
}

/// Sends `bytes` and the end of the stream while reading everything that comes.
async fn exchange(stream: impl AsyncRead + AsyncWrite + Send + 'static, bytes: Vec<u8>) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(stream);
    let sending = tokio::spawn(async move {
        write.write_all(&bytes).await.unwrap();
        write.shutdown().await.unwrap();
        write
    });
    let mut received = Vec::new();
    read.read_to_end(&mut received).await.unwrap();
    sending.await.unwrap();
    received
}

/// The error that ends reading, with what came before it.
async fn broken(mut stream: impl AsyncRead + Unpin) -> (Vec<u8>, io::ErrorKind) {
    let mut received = Vec::new();
    let error = stream.read_to_end(&mut received).await.unwrap_err();
    (received, error.kind())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directions_arrive_whole() {
    for (up, down) in [(0, 0), (1, 1 << 20), (1 << 20, 1), ((3 << 20) + 1, (3 << 20) + 7)] {
        let Running { client, upstream, relay, meter } = start(b"early", LIMIT).await;
        let (sent_up, sent_down) = (vec![b'u'; up], vec![b'd'; down]);
        let (got_down, got_up) =
            tokio::join!(exchange(client, sent_up.clone()), exchange(upstream, sent_down.clone()));
        assert!(got_up == [b"early", &*sent_up].concat() && got_down == sent_down, "{up} up, {down} down");
        let end = relay.await.unwrap();
        let taken = [Side::Upstream, Side::Client].map(|side| meter.taken(side));
        assert_eq!(taken, [up as u64 + 5, down as u64]);
        assert_eq!(end.token(), "finished");
    }
}

#[tokio::test]
async fn a_small_answer_does_not_wait_for_more() {
    let Running { mut client, mut upstream, relay, .. } = start(b"", LIMIT).await;
    for _ in 0..100 {
        client.write_all(b"?").await.unwrap();
        client.flush().await.unwrap();
        upstream.read_exact(&mut [0]).await.unwrap();
        upstream.write_all(b"!").await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
    }
    relay.abort();
}

#[tokio::test]
async fn a_side_that_is_done_still_receives() {
    let Running { mut client, mut upstream, relay, .. } = start(b"", LIMIT).await;
    client.shutdown().await.unwrap();
    assert_eq!(upstream.read(&mut [0; 1]).await.unwrap(), 0, "the close_notify was passed on");
    upstream.write_all(b"the answer").await.unwrap();
    upstream.shutdown().await.unwrap();
    let mut received = Vec::new();
    client.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"the answer");
    assert_eq!(relay.await.unwrap().token(), "finished");

    let Running { mut client, mut upstream, relay, .. } = start(b"", LIMIT).await;
    upstream.shutdown().await.unwrap();
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0, "the end was passed on as a close_notify");
    client.write_all(b"the rest").await.unwrap();
    client.shutdown().await.unwrap();
    let mut received = Vec::new();
    upstream.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"the rest");
    assert_eq!(relay.await.unwrap().token(), "finished");
}

#[tokio::test]
async fn an_end_without_close_notify_is_a_break() {
    let Running { mut client, mut upstream, relay, .. } = start(b"", LIMIT).await;
    client.write_all(b"half").await.unwrap();
    client.flush().await.unwrap();
    upstream.read_exact(&mut [0; 4]).await.unwrap();
    // Whoever is on the way can end the TCP connection, but cannot say so in the client's name.
    client.get_mut().0.shutdown().await.unwrap();
    assert_eq!(broken(upstream).await, (Vec::new(), io::ErrorKind::ConnectionReset));
    assert_eq!(relay.await.unwrap().token(), "client_reset");
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset() {
    let Running { client, upstream, relay, .. } = start(b"", LIMIT).await;
    client.get_ref().0.set_zero_linger().unwrap();
    drop(client);
    assert_eq!(broken(upstream).await.1, io::ErrorKind::ConnectionReset);
    assert_eq!(relay.await.unwrap().token(), "client_reset");

    let Running { mut client, mut upstream, relay, .. } = start(b"", LIMIT).await;
    upstream.write_all(b"half").await.unwrap();
    client.read_exact(&mut [0; 4]).await.unwrap();
    upstream.set_zero_linger().unwrap();
    drop(upstream);
    assert_eq!(broken(client).await, (Vec::new(), io::ErrorKind::ConnectionReset));
    assert_eq!(relay.await.unwrap().token(), "upstream_reset");
}

#[tokio::test]
async fn silence_and_signals_cut_both_sides() {
    for reason in [None, Some(Reason::PolicyChanged)] {
        let limit = if reason.is_some() { LIMIT } else { Duration::from_millis(50) };
        let Running { client, upstream, relay, meter } = start(b"", limit).await;
        if let Some(reason) = reason {
            meter.stop(reason);
        }
        assert_eq!(relay.await.unwrap().token(), reason.unwrap_or(Reason::IdleTimeout).token());
        assert_eq!(broken(client).await.1, io::ErrorKind::ConnectionReset);
        assert_eq!(broken(upstream).await.1, io::ErrorKind::ConnectionReset);
    }
}
