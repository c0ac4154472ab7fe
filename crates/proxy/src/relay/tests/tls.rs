//! What is particular where the client's side is TLS.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::client::TlsStream;

use super::*;

struct Running {
    client: TlsStream<TcpStream>,
    upstream: TcpStream,
    meter: Arc<Meter>,
    relay: JoinHandle<End>,
}

async fn start(idle_timeout: Duration) -> Running {
    let (client, near_client) = tls_pair().await;
    let (upstream, near_upstream) = pair().await;
    let (near, limits) = ((near_client, near_upstream.into()), idle(idle_timeout));
    let Relaying { meter, relay, .. } = Relaying::start(near, Early::default(), &limits, &Way::Tls.pipes());
    Running { client, upstream, meter, relay }
}

/// The error that ends reading, with what came before it.
async fn broken(mut stream: impl AsyncRead + Unpin) -> (Vec<u8>, io::ErrorKind) {
    let mut received = Vec::new();
    let error = stream.read_to_end(&mut received).await.unwrap_err();
    (received, error.kind())
}

#[tokio::test]
async fn a_small_answer_does_not_wait_for_more() {
    let Running { mut client, mut upstream, relay, .. } = start(LIMIT).await;
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
    let Running { mut client, mut upstream, relay, .. } = start(LIMIT).await;
    client.shutdown().await.unwrap();
    assert_eq!(upstream.read(&mut [0; 1]).await.unwrap(), 0, "the close_notify was passed on");
    upstream.write_all(b"the answer").await.unwrap();
    upstream.shutdown().await.unwrap();
    let mut received = Vec::new();
    client.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"the answer");
    assert_eq!(relay.await.unwrap().token(), "finished");

    let Running { mut client, mut upstream, relay, .. } = start(LIMIT).await;
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
    let Running { mut client, mut upstream, relay, .. } = start(LIMIT).await;
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
    let Running { client, upstream, relay, .. } = start(LIMIT).await;
    client.get_ref().0.set_zero_linger().unwrap();
    drop(client);
    assert_eq!(broken(upstream).await.1, io::ErrorKind::ConnectionReset);
    assert_eq!(relay.await.unwrap().token(), "client_reset");

    let Running { mut client, mut upstream, relay, .. } = start(LIMIT).await;
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
        let Running { client, upstream, relay, meter } = start(limit).await;
        if let Some(reason) = reason {
            meter.stop(reason);
        }
        assert_eq!(relay.await.unwrap().token(), reason.unwrap_or(Reason::IdleTimeout).token());
        assert_eq!(broken(client).await.1, io::ErrorKind::ConnectionReset);
        assert_eq!(broken(upstream).await.1, io::ErrorKind::ConnectionReset);
    }
}
