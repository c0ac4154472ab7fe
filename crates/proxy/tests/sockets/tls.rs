//! A listener with TLS that is short of room, or that is spoken to in another way.

use exeat_proxy::{Limits, Tls, TlsFiles};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::common::{LONG, Setup, World, read_all};

/// A world whose proxy has a listener with TLS beside the plain one.
async fn start(limits: Limits) -> (World, std::net::SocketAddr) {
    let folder = tempfile::TempDir::new().unwrap();
    let files = TlsFiles { cert: folder.path().join("cert.pem"), key: folder.path().join("key.pem") };
    let issued = rcgen::generate_simple_self_signed(["proxy.example.com".to_owned()]).unwrap();
    std::fs::write(&files.cert, issued.cert.pem()).unwrap();
    std::fs::write(&files.key, issued.signing_key.serialize_pem()).unwrap();
    let tls = Tls::new(files, true).unwrap();
    let world = World::with(Setup { limits, ..Setup::default() }).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = world.proxy.clone();
    tokio::spawn(async move { proxy.serve(listener, Some(tls)).await });
    (world, address)
}

async fn everything(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = timeout(LONG, stream.read_to_end(&mut bytes)).await.expect("an end in time");
    bytes
}

#[tokio::test]
async fn a_handshake_that_fails_is_counted_and_no_more() {
    let (world, address) = start(Limits::default()).await;
    for (count, bytes) in (1..).zip([&b"GET http://example.com/ HTTP/1.1\r\n\r\n"[..], b"", b"\x16\x03\x01"])
    {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = everything(stream).await;
        assert!(answer.is_empty() || answer[0] == 21, "an alert or nothing: {answer:?}");
        assert_eq!(world.proxy.metrics().handshakes_failed.get(), count);
    }
    assert_eq!(world.records(), [""; 0], "nobody asked for anything");
}

#[tokio::test]
async fn connections_over_the_budget_get_an_alert_and_a_record() {
    let (world, address) = start(Limits { connections: 1, ..Limits::default() }).await;
    let mut first = world.connect().await;
    // Its place is taken once it has been answered.
    first.write_all(b"GET http://example.com/ HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    first.read_u8().await.unwrap();
    let answer = everything(TcpStream::connect(address).await.unwrap()).await;
    assert_eq!((answer.len(), answer[0], answer[5]), (7, 21, 2), "one fatal alert: {answer:?}");
    first.shutdown().await.unwrap();
    read_all(&mut first).await;
    assert_eq!(world.proxy.drain().await, 0);
    assert!(world.records().iter().any(|record| record.contains("\"connection_limit\"")));
}
