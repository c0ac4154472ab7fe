//! A listener with TLS that is short of room, or that is spoken to in another way.

use std::sync::Arc;

use exeat_model::IpBlock;
use exeat_proxy::{Door, Limits, Tls, TlsFiles};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::common::{AUTH, LONG, Origin, Setup, World, read_all};

/// A world whose proxy has a listener with TLS beside the plain one.
async fn start(limits: Limits) -> (World, std::net::SocketAddr) {
    let (world, address, _) = start_with(Setup { limits, ..Setup::default() }).await;
    (world, address)
}

/// The same, with what a client needs to trust it.
async fn start_with(setup: Setup) -> (World, std::net::SocketAddr, TlsConnector) {
    let folder = tempfile::TempDir::new().unwrap();
    let files =
        TlsFiles { cert: folder.path().join("cert.pem"), key: folder.path().join("key.pem"), clients: None };
    let issued = rcgen::generate_simple_self_signed(["proxy.example.com".to_owned()]).unwrap();
    std::fs::write(&files.cert, issued.cert.pem()).unwrap();
    std::fs::write(&files.key, issued.signing_key.serialize_pem()).unwrap();
    let tls = Tls::new(files, true).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(issued.cert.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let world = World::with(setup).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(world.proxy.serve(listener, Door { tls: Some(tls), ..Door::default() }));
    (world, address, TlsConnector::from(Arc::new(config)))
}

/// Sends `first`, and then does a handshake.
async fn connect(
    connector: &TlsConnector,
    address: std::net::SocketAddr,
    first: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(first).await.unwrap();
    let name = "proxy.example.com".try_into().unwrap();
    timeout(LONG, connector.connect(name, stream)).await.expect("a handshake in time")
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

#[tokio::test]
async fn a_proxy_header_comes_before_the_handshake() {
    let header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\x30\x39\x0c\x38";
    let sender = vec![IpBlock::parse("127.0.0.1/32").unwrap()];
    let (world, address, connector) =
        start_with(Setup { proxy_protocol_from: sender, ..Setup::default() }).await;
    let origin = Origin::pages().await;
    let get = format!("GET http://example.com:{}/ HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n", origin.port);
    let mut stream = connect(&connector, address, header).await.unwrap();
    stream.write_all(get.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        let read = timeout(LONG, stream.read_buf(&mut answer)).await.expect("an answer in time").unwrap();
        assert_ne!(read, 0, "{}", String::from_utf8_lossy(&answer));
    }
    drop(stream);
    let mut version_3 = header.to_vec();
    version_3[12] = 0x31;
    for first in [&b""[..], b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", &version_3] {
        connect(&connector, address, first).await.expect_err("no handshake without a good header");
    }
    assert_eq!(origin.accepts(), 1);
    assert_eq!(world.proxy.metrics().handshakes_failed.get(), 0, "none was begun");
    let records = world.records();
    assert!(records[0].contains("\"source\":\"192.0.2.1:12345\""), "{}", records[0]);
    assert_eq!(records[1..].iter().filter(|record| record.contains("\"request_malformed\"")).count(), 3);
}

#[tokio::test]
async fn a_header_from_anybody_else_is_no_handshake() {
    let header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\x30\x39\x0c\x38";
    let (world, address, connector) = start_with(Setup::default()).await;
    connect(&connector, address, header).await.expect_err("the header is not TLS");
    assert_eq!(world.proxy.metrics().handshakes_failed.get(), 1);
}

#[tokio::test]
async fn a_pac_leads_back_through_tls() {
    let (_world, address, connector) = start_with(Setup::default()).await;
    let mut stream = connect(&connector, address, b"").await.unwrap();
    stream.write_all(format!("GET /proxy.pac HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(&format!("return \"HTTPS {address}\";")), "{answer}");
}

#[tokio::test]
async fn a_websocket_through_tls_loses_nothing() {
    let (world, address, connector) = start_with(Setup::default()).await;
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = upstream.local_addr().unwrap().port();
    let ask = format!(
        "GET http://example.com:{port}/ HTTP/1.1\r\nHost: a\r\n{AUTH}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\nclient first"
    );
    let mut client = connect(&connector, address, b"").await.unwrap();
    client.write_all(ask.as_bytes()).await.unwrap();
    let (mut far, _) = timeout(LONG, upstream.accept()).await.unwrap().unwrap();
    assert!(crate::common::read_head(&mut far).await.unwrap().starts_with("GET / HTTP/1.1\r\n"));
    let switching =
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nserver first";
    far.write_all(switching).await.unwrap();
    let mut early = [0; 12];
    timeout(LONG, far.read_exact(&mut early)).await.unwrap().unwrap();
    assert_eq!(&early, b"client first");
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut far).await, "", "the end of the client's side");
    // More than TLS and the sockets take at once.
    let much = vec![b'x'; 4 * 1024 * 1024];
    let sending = tokio::spawn(async move {
        far.write_all(&much).await.unwrap();
        much.len()
    });
    let mut got = Vec::new();
    timeout(LONG, client.read_to_end(&mut got)).await.unwrap().unwrap();
    let text = String::from_utf8(got).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    assert!(body.starts_with("server firstxxx"));
    assert_eq!(body.len(), "server first".len() + sending.await.unwrap());
    assert_eq!(world.proxy.drain().await, 0);
    assert!(world.records()[1].contains("\"end\":\"finished\""));
}

/// A client that ends its side after its last request: without a `close_notify` from ours, rustls reports the end of
/// the response as an error.
#[tokio::test]
async fn the_last_response_of_a_connection_ends_in_order() {
    let (_world, address, connector) = start_with(Setup::default()).await;
    let origin = Origin::pages().await;
    for connection in ["", "Connection: close\r\n"] {
        let mut client = connect(&connector, address, b"").await.unwrap();
        let ask =
            format!("GET http://example.com:{}/ HTTP/1.1\r\nHost: a\r\n{AUTH}{connection}\r\n", origin.port);
        client.write_all(ask.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut got = String::new();
        timeout(LONG, client.read_to_string(&mut got)).await.unwrap().expect("an end in order");
        assert!(got.starts_with("HTTP/1.1 200 OK\r\n"), "{got}");
    }
}
