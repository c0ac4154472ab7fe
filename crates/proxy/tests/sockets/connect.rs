//! CONNECT through a real proxy on sockets.

use std::pin::pin;

use crate::common::{
    AUTH, LONG, MISSING, Origin, Setup, World, assert_refused, page, read_all, read_head, read_response,
};
use exeat_policy::{Expect, Mode};
use exeat_proxy::{Door, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

fn connect(authority: &str) -> String {
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{AUTH}\r\n")
}

#[tokio::test]
async fn an_allowed_tunnel_relays_both_ways_and_is_recorded() {
    let (world, origin) = (World::start().await, Origin::echo().await);
    let mut stream = world.connect().await;
    stream.write_all(connect(&format!("EXAMPLE.com:{}", origin.port)).as_bytes()).await.unwrap();
    assert_eq!(read_head(&mut stream).await.unwrap(), "HTTP/1.1 200 Connection established\r\n\r\n");
    stream.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    timeout(LONG, stream.read_exact(&mut echo)).await.unwrap().unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await, "");
    assert_eq!(origin.accepts(), 1);
    world.proxy.drain().await;
    let records = world.records();
    assert_eq!(records.len(), 2, "{records:?}");
    for part in
        ["\"decision\"", "\"allow\"", "\"example.com\"", "\"app\"", "\"revision\":7", "\"status\":200"]
    {
        assert!(records[0].contains(part), "{part} in {}", records[0]);
    }
    for part in ["\"end\"", "\"finished\"", "\"bytes_up\":4", "\"bytes_down\":4", "127.0.0.1:"] {
        assert!(records[1].contains(part), "{part} in {}", records[1]);
    }
}

#[tokio::test]
async fn early_bytes_belong_to_the_tunnel() {
    let (world, origin) = (World::start().await, Origin::echo().await);
    let request = connect(&format!("example.com:{}", origin.port)) + "CONNECT evil.test:1 HTTP/1.1\r\n\r\n";
    let all = world.talk(request).await;
    assert_eq!(all, "HTTP/1.1 200 Connection established\r\n\r\nCONNECT evil.test:1 HTTP/1.1\r\n\r\n");
}

#[tokio::test]
async fn a_refused_tunnel_dials_nothing_asks_no_dns_and_discards_what_follows() {
    let (world, origin) = (World::start().await, Origin::echo().await);
    let allowed = connect(&format!("example.com:{}", origin.port));
    for (target, status, reason) in [
        ("evil.example.com:443", 403, "host_not_allowed"),
        ("example.org:443", 403, "host_not_allowed"),
        ("127.0.0.1:443", 403, "ip_literal_not_allowed"),
        ("127.1:443", 400, "host_invalid"),
        ("example.com:0443", 400, "host_invalid"),
        ("example.com", 400, "host_invalid"),
        ("a@example.com:443", 400, "host_invalid"),
    ] {
        let all = world.talk(connect(target) + &allowed).await;
        assert_refused(&all, status, reason);
        assert_eq!(all.matches("HTTP/1.1").count(), 1, "{all}");
    }
    assert_eq!((origin.accepts(), world.queries()), (0, 0));
}

#[tokio::test]
async fn refusals_say_what_would_allow_unless_told_not_to() {
    for disclose in [true, false] {
        let world = World::with(Setup { disclose, ..Setup::default() }).await;
        let all = world.talk(connect("denied.example:443")).await;
        assert!(
            all.starts_with("HTTP/1.1 403 egress denied: host_not_allowed denied.example:443\r\n"),
            "{all}"
        );
        assert_eq!(all.contains("\"allow\":"), disclose, "{all}");
    }
}

#[tokio::test]
async fn a_407_leaves_the_connection_usable() {
    let (world, origin) = (World::start().await, Origin::echo().await);
    let target = format!("example.com:{}", origin.port);
    let mut stream = world.connect().await;
    stream
        .write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let first = read_response(&mut stream).await;
    assert_refused(&first, 407, "auth_required");
    assert!(
        first.contains("\r\nproxy-authenticate: Basic realm=\"exeat\", charset=\"UTF-8\"\r\n"),
        "{first}"
    );
    stream.write_all(connect(&target).as_bytes()).await.unwrap();
    assert!(read_head(&mut stream).await.unwrap().starts_with("HTTP/1.1 200 "));
    assert_eq!(origin.accepts(), 1);
}

#[tokio::test]
async fn a_407_with_early_bytes_ends_the_connection() {
    let (world, origin) = (World::start().await, Origin::echo().await);
    let target = format!("example.com:{}", origin.port);
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n{}", connect(&target));
    let all = world.talk(request).await;
    assert_refused(&all, 407, "auth_required");
    assert_eq!((all.matches("HTTP/1.1").count(), origin.accepts()), (1, 0), "{all}");
}

#[tokio::test]
async fn wrong_credentials_look_alike() {
    let world = World::start().await;
    let mut seen = Vec::new();
    // app:wrong, nobody:secret, not base64
    for credentials in ["YXBwOndyb25n", "bm9ib2R5OnNlY3JldA==", "!!!"] {
        let all = world
            .talk(format!("CONNECT example.com:443 HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic {credentials}\r\n\r\n"))
            .await;
        assert_refused(&all, 407, "auth_invalid");
        let id = all.split("x-exeat-request-id: ").nth(1).unwrap().lines().next().unwrap().to_owned();
        seen.push(all.replace(&id, "ID"));
    }
    assert!(seen.iter().all(|response| *response == seen[0]), "{seen:?}");
}

#[tokio::test]
async fn what_cannot_be_reached_says_so() {
    let world = World::start().await;
    assert_refused(&world.talk(connect(&format!("{MISSING}:443"))).await, 502, "dns_failed");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert_refused(&world.talk(connect(&format!("example.com:{closed}"))).await, 502, "connect_failed");
}

#[tokio::test]
async fn a_loop_is_refused() {
    let world = World::start().await;
    let via = format!("Via: 1.0 a, 1.1 {}\r\n", world.proxy.instance());
    let all = world.talk(format!("CONNECT example.com:443 HTTP/1.1\r\nHost: a\r\n{via}{AUTH}\r\n")).await;
    assert_refused(&all, 508, "loop_detected");
    assert!(all.contains("error=proxy_loop_detected"), "{all}");
    let all = world.talk(format!("GET http://example.com/ HTTP/1.1\r\nHost: a\r\n{via}{AUTH}\r\n")).await;
    assert_refused(&all, 508, "loop_detected");
}

#[tokio::test]
async fn what_opens_a_tunnel_must_fit_the_rule() {
    let origin = Origin::echo().await;
    let target = format!("example.com:{}", origin.port);
    let world = World::with(Setup { expect: Expect::Tls, ..Setup::default() }).await;
    let all = world.talk(connect(&target) + "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    assert_refused(all.split_once("\r\n\r\n").unwrap().1, 403, "tls_required");
    world.proxy.drain().await;
    let records = world.records();
    assert!(records[1].contains("\"deny\"") && records[1].contains("\"tls_required\""), "{records:?}");
    assert!(records[1].contains("\"bytes_up\":0"), "{records:?}");

    let world = World::with(Setup { expect: Expect::Http, ..Setup::default() }).await;
    let request = format!("GET / HTTP/1.1\r\nHost: {target}\r\n\r\n");
    let all = world.talk(connect(&target) + &request).await;
    assert!(all.ends_with(&request), "{all}");
    let all = world.talk(connect(&target) + "GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n").await;
    assert_refused(all.split_once("\r\n\r\n").unwrap().1, 421, "host_mismatch");
}

#[tokio::test]
async fn what_connected_before_the_listener_was_first_looked_at_outlives_a_drain() {
    let (world, origin) = (World::start().await, Origin::echo().await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.write_all(connect(&format!("example.com:{}", origin.port)).as_bytes()).await.unwrap();
    let serving = world.proxy.serve(listener, Door::default());
    let mut drain = pin!(world.proxy.drain());
    tokio::select! {
        biased;
        _ = &mut drain => panic!("there is a listener yet"),
        () = std::future::ready(()) => (),
    }
    serving.await;
    let (cut, head) = tokio::join!(drain, async {
        let head = read_head(&mut client).await.unwrap();
        client.shutdown().await.unwrap();
        head
    });
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(cut, 0);
}

#[tokio::test]
async fn a_client_has_so_many_tunnels_and_no_more() {
    let limits = Limits { tunnels_per_client: 1, ..Limits::default() };
    let (world, origin) = (World::with(Setup { limits, ..Setup::default() }).await, Origin::echo().await);
    let request = connect(&format!("example.com:{}", origin.port));
    let mut first = world.connect().await;
    first.write_all(request.as_bytes()).await.unwrap();
    assert!(read_head(&mut first).await.unwrap().starts_with("HTTP/1.1 200 "));
    assert_refused(&world.talk(&request).await, 429, "connection_limit");
    // other:secret
    let other = request.replace("YXBwOnNlY3JldA==", "b3RoZXI6c2VjcmV0");
    assert!(world.talk(other).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(origin.accepts(), 2);
}

#[tokio::test]
async fn nothing_is_allowed_without_a_required_record() {
    let full = Some("/dev/full".into());
    let world = World::with(Setup { required_audit: full, ..Setup::default() }).await;
    let origin = Origin::pages().await;
    let connect = connect(&format!("example.com:{}", origin.port));
    // The log learns that its device is full by writing to it.
    let mut response = world.talk(&connect).await;
    while response.starts_with("HTTP/1.1 200 ") {
        response = world.talk(&connect).await;
    }
    assert_refused(&response, 503, "audit_unavailable");
    let get = format!("GET http://example.com:{}/ HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n", origin.port);
    assert_refused(&world.talk(get).await, 503, "audit_unavailable");
    assert_eq!(origin.heads().len(), 0);
}

#[tokio::test]
async fn report_mode_lets_pass_and_says_what_it_would_deny() {
    let world = World::with(Setup { mode: Mode::Report, ..Setup::default() }).await;
    let response = world.talk(connect("not-listed.example:443")).await;
    // Loopback is special-use: report mode does not relax that.
    assert_refused(&response, 403, "address_not_allowed");
    assert!(world.queries() > 0);
    let records = world.records();
    assert!(records[0].contains("\"mode\":\"report\""), "{records:?}");
}

#[tokio::test]
async fn a_literal_needs_no_name() {
    let (world, origin) =
        (World::start().await, Origin::http_at([127, 0, 0, 2].into(), |_, _| page("x")).await);
    let all = world.talk(connect(&format!("127.0.0.2:{}", origin.port)) + "GET / HTTP/1.1\r\n\r\n").await;
    assert!(all.ends_with("\r\n\r\nx"), "{all}");
    assert_eq!((origin.accepts(), world.queries()), (1, 0));
}
