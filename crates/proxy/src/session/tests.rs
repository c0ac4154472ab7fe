use std::io;

use socket2::SockRef;
use tokio::{io::AsyncReadExt, net::TcpStream, time::Instant};
use tokio_rustls::client::TlsStream;

use super::*;
use crate::{
    guard,
    limits::Limits,
    metrics::Metrics,
    testing::{pair, tls_pair},
};

/// What a client has asked, which is of no matter here.
const HEAD: &[u8] = b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n";
const LIMIT: Duration = Duration::from_secs(60);

fn io_of(stream: ClientStream) -> GuardedIo {
    let limits = Limits { idle_timeout: LIMIT, ..Limits::default() };
    let head = Box::new(guard::check(HEAD, &limits).unwrap());
    let reader = HeadReader::new(Arc::new(limits), Arc::new(Metrics::default()));
    GuardedIo::new(stream, reader, head, Bytes::from_static(HEAD), LIMIT, Arc::default())
}

/// Writes, piece by piece, until TLS holds some of it back: it has taken all, and nothing moves any more.
async fn until_held(io: &mut GuardedIo) {
    const STILL: Duration = Duration::from_millis(50);
    loop {
        while io.stream.held() == 0 {
            let written = poll_fn(|cx| Pin::new(&mut *io).poll_write(cx, &[b'x'; 4096])).await;
            assert_eq!(written.unwrap(), 4096);
        }
        // The kernel makes more room for a while.
        match tokio::time::timeout(STILL, flushed(io)).await {
            Ok(flushed) => flushed.unwrap(),
            Err(_) => return,
        }
    }
}

async fn flushed(io: &mut GuardedIo) -> io::Result<()> {
    poll_fn(|cx| Pin::new(&mut *io).poll_flush(cx)).await
}

async fn client() -> (TlsStream<TcpStream>, GuardedIo) {
    let (client, near) = tls_pair().await;
    let ClientStream::Tls(inner) = &near else { panic!("not TLS") };
    // So that little is on the way.
    SockRef::from(client.get_ref().0).set_recv_buffer_size(16 * 1024).unwrap();
    SockRef::from(inner.get_ref().0).set_send_buffer_size(16 * 1024).unwrap();
    (client, io_of(near))
}

#[tokio::test]
async fn a_tls_client_that_takes_nothing_is_given_up() {
    let (_client, mut io) = client().await;
    until_held(&mut io).await;
    tokio::time::pause();
    let began = Instant::now();
    let error = tokio::time::timeout(LIMIT * 100, flushed(&mut io)).await.expect("an end").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    // It began to take nothing a little before.
    assert!(began.elapsed() >= LIMIT / 2);
}

/// What comes from upstream meanwhile is no sign of life of the client.
#[tokio::test]
async fn a_tls_client_that_takes_nothing_is_given_up_while_a_response_trickles() {
    let (_client, mut io) = client().await;
    until_held(&mut io).await;
    tokio::time::pause();
    let mut end = None;
    for _ in 0..10 {
        let written = poll_fn(|cx| Pin::new(&mut io).poll_write(cx, b"x")).await;
        assert_eq!(written.unwrap(), 1, "TLS has room for that");
        match tokio::time::timeout(LIMIT / 4, flushed(&mut io)).await {
            Err(_) => {}
            Ok(flushed) => {
                end = Some(flushed.unwrap_err().kind());
                break;
            }
        }
    }
    assert_eq!(end, Some(io::ErrorKind::TimedOut));
}

/// Writes and flushes until there is an error.
async fn send(io: &mut GuardedIo) -> io::Error {
    loop {
        if let Err(error) = flushed(io).await {
            return error;
        }
        if let Err(error) = poll_fn(|cx| Pin::new(&mut *io).poll_write(cx, &[b'x'; 4096])).await {
            return error;
        }
    }
}

#[tokio::test]
async fn a_tls_client_that_takes_a_little_at_a_time_is_not() {
    let (mut client, mut io) = client().await;
    let mut some = vec![0; 64 * 1024];
    for _ in 0..5 {
        until_held(&mut io).await;
        tokio::time::pause();
        if let Ok(error) = tokio::time::timeout(LIMIT * 3 / 4, send(&mut io)).await {
            panic!("{error}");
        }
        // What the kernel does takes time of its own.
        tokio::time::resume();
        tokio::select! {
            biased;
            read = client.read_exact(&mut some) => drop(read.unwrap()),
            error = send(&mut io) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_flow_that_must_end_does_so_whatever_the_client_takes() {
    let (_client, mut io) = client().await;
    let meter = Arc::new(crate::meter::Meter::new(&Limits::default()));
    io.between.streaming.begins(&meter);
    until_held(&mut io).await;
    meter.stop(exeat_policy::Reason::PolicyChanged);
    assert_eq!(flushed(&mut io).await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
}

#[tokio::test]
async fn a_plain_client_that_takes_nothing_is_given_up() {
    let (_client, near) = pair().await;
    let mut io = io_of(near.into());
    tokio::time::pause();
    let error = loop {
        match poll_fn(|cx| Pin::new(&mut io).poll_write(cx, &[b'x'; 65_536])).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}
