//! WebSocket over absolute-form requests, through a real proxy on sockets.

use std::time::Duration;

use crate::common::{
    AUTH, LONG, Origin, Setup, World, assert_refused, is_kept_alive, page, read_all, read_head, read_response,
};
use crate::rules::Rules;
use exeat_policy::Expect;
use exeat_proxy::Limits;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn ask(host: &str, port: u16, extra: &str) -> String {
    format!(
        "GET http://{host}:{port}/chat HTTP/1.1\r\nHost: {host}\r\n{AUTH}Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extra}\r\n"
    )
}

/// An upstream that reads one head, sends `answer` and echoes from then on. Gives the head.
async fn echo_after(answer: impl Into<String>) -> (u16, tokio::task::JoinHandle<String>) {
    let (answer, listener) = (answer.into(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_head(&mut stream).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
        head.to_lowercase()
    });
    (port, serving)
}

async fn expect_bytes(stream: &mut TcpStream, want: &[u8]) {
    let mut got = vec![0; want.len()];
    timeout(LONG, stream.read_exact(&mut got)).await.expect("bytes in time").unwrap();
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(want));
}

#[tokio::test]
async fn both_sides_agree_and_have_a_tunnel() {
    let world = World::start().await;
    let (port, upstream) = echo_after([SWITCHING, "server first"].concat()).await;
    let mut client = world.connect().await;
    // The client does not wait either.
    client.write_all(format!("{}client first", ask("example.com", port, "")).as_bytes()).await.unwrap();
    let head = read_head(&mut client).await.unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 101 switching protocols\r\n"), "{head}");
    for field in
        ["\r\nupgrade: websocket\r\n", "\r\nconnection: upgrade\r\n", "\r\nsec-websocket-accept: s3pp"]
    {
        assert!(head.contains(field), "{field} in {head}");
    }
    expect_bytes(&mut client, b"server firstclient first").await;
    // Nothing looks at what follows: not even at what would be a refused request.
    let request = b"GET http://evil.test/ HTTP/1.1\r\n\r\n";
    client.write_all(request).await.unwrap();
    expect_bytes(&mut client, request).await;
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await, "");
    let sent = upstream.await.unwrap();
    assert!(sent.starts_with("get /chat http/1.1\r\n"), "{sent}");
    for field in
        ["\r\nupgrade: websocket\r\n", "\r\nconnection: upgrade\r\n", "\r\nsec-websocket-version: 13\r\n"]
    {
        assert!(sent.contains(field), "{field} in {sent}");
    }
    assert!(!sent.contains("proxy-authorization"), "{sent}");
    let records = world.records();
    let [decision, end] = records.as_slice() else { panic!("{records:?}") };
    for part in ["\"event\":\"decision\"", "\"method\":\"GET\"", "\"verdict\":\"allow\"", "\"status\":101"] {
        assert!(decision.contains(part), "{part} in {decision}");
    }
    let moved = "client first".len() + request.len();
    for part in [
        "\"event\":\"end\"".to_owned(),
        "\"method\":\"GET\"".to_owned(),
        "\"end\":\"finished\"".to_owned(),
        format!("\"bytes_up\":{moved}"),
        format!("\"bytes_down\":{}", moved + "server first".len()),
    ] {
        assert!(end.contains(&part), "{part} in {end}");
    }
}

#[tokio::test]
async fn a_refused_one_reaches_nobody() {
    let (world, origin) = (World::start().await, Origin::pages().await);
    let all = world.talk(ask("evil.test", origin.port, "")).await;
    assert_refused(&all, 403, "host_not_allowed");
    let all = world.talk(ask("example.com", origin.port, "").replace(AUTH, "")).await;
    assert_refused(&all, 407, "auth_required");
    assert_eq!(origin.accepts(), 0);
    let world = World::with(Setup { expect: Expect::Tls, ..Setup::default() }).await;
    assert_refused(&world.talk(ask("example.com", origin.port, "")).await, 403, "tls_required");
    assert_eq!(origin.accepts(), 0);
}

#[tokio::test]
async fn any_other_answer_is_an_ordinary_one() {
    let (world, origin) = (World::start().await, Origin::pages().await);
    let mut client = world.connect().await;
    for number in 1..=2 {
        client.write_all(ask("example.com", origin.port, "").as_bytes()).await.unwrap();
        assert!(read_response(&mut client).await.ends_with("\r\n\r\nhello"));
        assert_eq!(origin.accepts(), number, "a connection of its own each time");
    }
    drop(client);
    let records = world.records();
    assert!(records.iter().all(|record| record.contains("\"event\":\"request\"")), "{records:?}");
}

#[tokio::test]
async fn a_101_that_does_not_match_is_502() {
    for (answer, what) in [
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\nhidden",
            "another protocol",
        ),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nhidden", "no Connection"),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\nhidden", "nothing"),
    ] {
        let world = World::start().await;
        let origin = Origin::http(|_, _| answer.into()).await;
        let all = world.talk(ask("example.com", origin.port, "")).await;
        assert_refused(&all, 502, "connect_failed");
        assert!(!all.contains("hidden"), "{what}: {all}");
    }
}

#[tokio::test]
async fn what_is_no_websocket_request_is_not_passed_on_as_one() {
    let world = World::start().await;
    let origin = Origin::http(|_, _| page("x")).await;
    let usual = ask("example.com", origin.port, "");
    for (request, what) in [
        (usual.replace("Upgrade: websocket", "Upgrade: h2c"), "h2c"),
        (usual.replace("keep-alive, Upgrade", "keep-alive"), "no Connection"),
        (usual.replace("GET ", "HEAD "), "HEAD"),
        (usual.replace("HTTP/1.1", "HTTP/1.0"), "HTTP/1.0"),
        (ask("example.com", origin.port, "Content-Length: 1\r\n") + "x", "a body"),
    ] {
        let all = world.talk(request).await;
        assert!(all.starts_with("HTTP/1.1 200 ") || all.starts_with("HTTP/1.0 200 "), "{what}: {all}");
    }
    let heads = origin.heads();
    assert_eq!(heads.len(), 5);
    assert!(
        heads.iter().all(|head| !head.contains("\r\nupgrade:") && !head.contains("\r\nconnection:")),
        "{heads:?}"
    );
    // A list is cut down to the one.
    world.talk(usual.replace("Upgrade: websocket", "Upgrade: h2c, websocket")).await;
    assert!(origin.heads()[5].contains("\r\nupgrade: websocket\r\n"), "{:?}", origin.heads());
}

#[tokio::test]
async fn it_follows_other_requests_that_the_client_has_not_read_yet() {
    const SIZE: usize = 8 << 20;
    let world = World::start().await;
    let big = Origin::http(|_, _| page(&"x".repeat(SIZE))).await;
    let (port, _upstream) = echo_after(SWITCHING).await;
    let mut client = world.connect().await;
    let get = format!("GET http://example.com:{}/ HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n", big.port);
    client.write_all(format!("{get}{}early", ask("example.com", port, "")).as_bytes()).await.unwrap();
    let response = read_response(&mut client).await;
    assert!(response.len() > SIZE && response.ends_with('x'));
    assert!(read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 101 "));
    expect_bytes(&mut client, b"early").await;
}

#[tokio::test]
async fn idle_ones_are_cut_and_so_are_they_at_the_end_of_a_drain() {
    let short = Duration::from_millis(50);
    for (limits, end) in [
        (Limits { idle_timeout: short, ..Limits::default() }, "idle_timeout"),
        (Limits { drain_timeout: short, ..Limits::default() }, "draining"),
    ] {
        let world = World::with(Setup { limits, ..Setup::default() }).await;
        let (port, _upstream) = echo_after(SWITCHING).await;
        let mut client = world.connect().await;
        client.write_all(ask("example.com", port, "").as_bytes()).await.unwrap();
        assert!(read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 101 "));
        if end == "draining" {
            assert_eq!(world.proxy.drain().await, 1);
        }
        let broken = timeout(LONG, client.read_u8()).await.expect("an end in time");
        assert_eq!(broken.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "{end}");
        let records = world.records();
        assert!(records.last().unwrap().contains(&format!("\"end\":\"{end}\"")), "{records:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_policy_cuts_those_that_it_does_not_allow() {
    let world = World::start().await;
    let mut clients = Vec::new();
    for host in ["example.com", "a.example.org"] {
        let (port, _upstream) = echo_after(SWITCHING).await;
        let mut client = world.connect().await;
        client.write_all(ask(host, port, "").as_bytes()).await.unwrap();
        assert!(read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 101 "));
        clients.push(client);
    }
    world.proxy.replace(Rules { allow: vec!["a.example.org"], ..Rules::new(8) }.snapshot());
    let broken = timeout(LONG, clients[0].read_u8()).await.expect("an end in time");
    assert_eq!(broken.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    clients[1].write_all(b"ping").await.unwrap();
    expect_bytes(&mut clients[1], b"ping").await;
    // A flow leaves the table when its end has been recorded.
    let gone = async {
        while world.proxy.flows().len() > 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, gone).await.expect("the record in time");
    let records = world.records();
    let ended =
        |line: &&String| line.contains("\"event\":\"end\"") && line.contains("\"end\":\"policy_changed\"");
    assert_eq!(records.iter().filter(ended).count(), 1, "{records:?}");
}

#[tokio::test]
async fn they_count_as_tunnels() {
    let limits = Limits { tunnels_per_client: 1, ..Limits::default() };
    let world = World::with(Setup { limits, ..Setup::default() }).await;
    let (port, upstream) = echo_after(SWITCHING).await;
    let mut client = world.connect().await;
    client.write_all(ask("example.com", port, "").as_bytes()).await.unwrap();
    assert!(read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 101 "));
    let origin = Origin::pages().await;
    assert_refused(&world.talk(ask("example.com", origin.port, "")).await, 429, "connection_limit");
    assert_eq!(origin.accepts(), 0);
    drop(client);
    upstream.await.unwrap();
    // The place is free once the proxy has seen the end, and a plain answer gives it back too.
    for _ in 0..1000 {
        if world.talk(ask("example.com", origin.port, "")).await.starts_with("HTTP/1.1 200 ") {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the place was not given back");
}

/// No relay will ask for it.
#[tokio::test]
async fn an_upstream_that_refuses_at_length_is_watched_over() {
    let world = World::start().await;
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = world.connect().await;
    let asked = ask("example.com", upstream.local_addr().unwrap().port(), "");
    client.write_all(asked.as_bytes()).await.unwrap();
    let (mut far, _) = timeout(LONG, upstream.accept()).await.unwrap().unwrap();
    read_head(&mut far).await.unwrap();
    far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhe").await.unwrap();
    assert!(read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 200 "));
    assert!(is_kept_alive(&far).await);
}
