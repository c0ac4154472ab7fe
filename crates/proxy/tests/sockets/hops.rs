//! Ways out through next hops: what they are asked, what becomes of their answers, and that nothing goes around them.

use std::{net::Ipv4Addr, sync::Arc};

use exeat_policy::{Announce, Resolve};
use exeat_proxy::{HopCredentials, HopProtocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::common::{
    AUTH, LONG, NextHopSetup, Origin, Setup, World, assert_refused, is_kept_alive, page, read_all, read_head,
    read_response, snapshot,
};

pub(crate) fn through(port: u16, protocol: HopProtocol) -> NextHopSetup {
    NextHopSetup {
        endpoint: format!("127.0.0.1:{port}"),
        protocol,
        credentials: HopCredentials::new("scott", "tiger"),
        resolve: Resolve::NextHop,
        tls: None,
        announce: Announce::Nothing,
    }
}

async fn world(next_hop: NextHopSetup) -> World {
    World::with(Setup { next_hop: Some(next_hop), ..Setup::default() }).await
}

async fn world_at(hop: &Origin) -> World {
    world(through(hop.port, HopProtocol::Http)).await
}

pub(crate) fn connect(target: &str) -> String {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{AUTH}Via: 1.0 other\r\n\r\n")
}

/// A hop that opens every tunnel, with a word of the server behind it in the same packet.
pub(crate) async fn open_hop() -> Origin {
    Origin::http(|_, head| match head.starts_with("CONNECT ") {
        true => b"HTTP/1.1 200 OK\r\nX-Filler: 1\r\n\r\n220 ready\r\n\r\n".to_vec(),
        false => page("from the hop"),
    })
    .await
}

#[tokio::test]
async fn a_tunnel_leaves_through_the_hop_by_name() {
    let hop = open_hop().await;
    let world = world_at(&hop).await;
    let mut stream = world.connect().await;
    stream.write_all(connect("example.com:8443").as_bytes()).await.unwrap();
    assert!(read_head(&mut stream).await.unwrap().starts_with("HTTP/1.1 200 "));
    assert_eq!(read_head(&mut stream).await.unwrap(), "220 ready\r\n\r\n", "bytes after the hop's answer");
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(read_response(&mut stream).await.ends_with("from the hop"));
    drop(stream);

    let heads = hop.heads();
    assert!(
        heads[0].starts_with("connect example.com:8443 http/1.1\r\nhost: example.com:8443\r\n"),
        "{heads:?}"
    );
    assert!(heads[0].contains("\r\nproxy-authorization: basic c2nvdhq6dglnzxi=\r\n"), "{heads:?}");
    let via = format!("\r\nvia: 1.0 other, 1.1 {}\r\n", world.proxy.instance());
    assert!(heads[0].contains(&via), "{via} in {heads:?}");
    assert_eq!((world.queries(), hop.accepts()), (0, 1));
    let records = world.records();
    assert!(records[0].contains(r#""via":"corp""#), "{records:?}");
    assert!(records[0].contains(&format!(r#""address":"127.0.0.1:{}""#, hop.port)), "{records:?}");
    assert!(
        records.iter().all(|record| !record.contains("tiger") && !record.contains("scott")),
        "{records:?}"
    );
}

#[tokio::test]
async fn what_the_policy_refuses_never_reaches_the_hop() {
    let hop = open_hop().await;
    let world = world_at(&hop).await;
    for (target, status, reason) in [
        ("example.net:443", 403, "host_not_allowed"),
        ("denied.example.org:443", 403, "host_denied"),
        ("example.com:0", 400, "host_invalid"),
        ("127.0.0.3:443", 403, "ip_literal_not_allowed"),
    ] {
        assert_refused(&world.talk(connect(target)).await, status, reason);
    }
    assert_eq!((world.queries(), hop.accepts()), (0, 0));
    // The nearest twin, and a literal that a rule allows.
    for target in ["sub.example.org:443", "127.0.0.2:443"] {
        assert!(world.talk(connect(target)).await.starts_with("HTTP/1.1 200 "), "{target}");
    }
    assert_eq!((world.queries(), hop.accepts()), (0, 2));
}

#[tokio::test]
async fn answers_of_a_hop_that_refuses() {
    let cases: [(&str, &[u8], u16, &str, &str); 9] = [
        ("403", b"HTTP/1.1 403 Forbidden\r\n\r\n", 502, "connect_failed", "; received-status=403"),
        (
            "200 after 100",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 503 No\r\n\r\n",
            502,
            "connect_failed",
            "=503",
        ),
        ("504", b"HTTP/1.1 504 Gateway Timeout\r\n\r\n", 504, "connect_timeout", "; received-status=504"),
        (
            "407",
            b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\n\r\n",
            502,
            "connect_failed",
            "next-hop=\"corp\"",
        ),
        ("101", b"HTTP/1.1 101 Switching\r\n\r\n", 502, "connect_failed", "next-hop=\"corp\""),
        ("no HTTP", b"SSH-2.0-x\r\n\r\n", 502, "connect_failed", "next-hop=\"corp\""),
        ("nothing", b"", 502, "connect_failed", "next-hop=\"corp\""),
        ("half a head", b"HTTP/1.1 200 OK\r\n", 504, "connect_timeout", "next-hop=\"corp\""),
        ("a head without end", &[b'x'; 70_000], 502, "connect_failed", "next-hop=\"corp\""),
    ];
    for (case, answer, status, reason, field) in cases {
        let origin = Origin::pages().await;
        let hop = Origin::http(move |_, _| answer.to_vec()).await;
        let limits = exeat_proxy::Limits {
            connect_timeout: std::time::Duration::from_millis(if case == "half a head" {
                100
            } else {
                30_000
            }),
            ..exeat_proxy::Limits::default()
        };
        let next_hop = Some(through(hop.port, HopProtocol::Http));
        let world = World::with(Setup { next_hop, limits, ..Setup::default() }).await;
        let response = world.talk(connect(&format!("example.com:{}", origin.port))).await;
        assert_refused(&response, status, reason);
        assert!(response.contains(field), "{case}: {response}");
        assert!(
            !response.contains("proxy-authenticate") && !response.contains("realm"),
            "{case}: {response}"
        );
        assert_eq!((hop.accepts(), origin.accepts(), world.queries()), (1, 0, 0), "{case}");
    }
}

#[tokio::test]
async fn a_hop_that_is_down_is_a_503_and_nothing_goes_around_it() {
    let origin = Origin::pages().await;
    // Bound and closed again, and kept from others by the connection that goes on.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let world = world(through(address.port(), HopProtocol::Http)).await;
    let target = format!("example.com:{}", origin.port);
    let get = format!("GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\n{AUTH}Connection: close\r\n\r\n");
    for request in [connect(&target), get.clone(), connect(&target)] {
        let response = world.talk(request).await;
        assert_refused(&response, 503, "egress_gateway_unavailable");
        assert!(
            response.contains("; next-hop=\"corp\"") && response.contains("cannot be connected to"),
            "{response}"
        );
    }
    // Three failures in a row: now it is left alone, even if it comes back at once.
    let listener = TcpListener::bind(address).await.unwrap();
    let response = world.talk(connect(&target)).await;
    assert_refused(&response, 503, "egress_gateway_unavailable");
    assert!(response.contains("left alone"), "{response}");
    assert_eq!((origin.accepts(), world.queries()), (0, 0));
    drop(listener);
}

#[tokio::test]
async fn requests_go_to_an_http_hop_in_absolute_form() {
    let hop = Origin::http(|_, head| match head.contains("/locked") {
        true => {
            b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=hop\r\nContent-Length: 0\r\n\r\n".to_vec()
        }
        false => page("from the hop"),
    })
    .await;
    let world = world_at(&hop).await;
    let mut stream = world.connect().await;
    for path in ["/a?b=c", "/d"] {
        let request = format!("GET http://example.com{path} HTTP/1.1\r\nHost: evil.test\r\n{AUTH}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        assert!(read_response(&mut stream).await.ends_with("from the hop"));
        crate::common::settle().await;
    }
    let heads = hop.heads();
    assert!(heads[0].starts_with("get http://example.com/a?b=c http/1.1\r\n"), "{heads:?}");
    for head in &heads {
        assert!(head.contains("\r\nhost: example.com\r\n"), "{heads:?}");
        assert!(head.contains("\r\nproxy-authorization: basic c2nvdhq6dglnzxi=\r\n"), "{heads:?}");
        assert_eq!(head.matches("proxy-authorization").count(), 1, "the client's own stays here: {heads:?}");
    }
    assert_eq!(hop.accepts(), 1, "the connection is used again");

    // For another authority, and by another client, there is another connection.
    let other = "Proxy-Authorization: Basic b3RoZXI6c2VjcmV0\r\n";
    for (target, auth) in [("a.example.org", AUTH), ("example.com", other)] {
        let request =
            format!("GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\n{auth}Connection: close\r\n\r\n");
        assert!(world.talk(request).await.ends_with("from the hop"));
    }
    assert_eq!(hop.accepts(), 3);

    let request = format!(
        "GET http://example.com/locked HTTP/1.1\r\nHost: example.com\r\n{AUTH}Connection: close\r\n\r\n"
    );
    let response = world.talk(request).await;
    assert_refused(&response, 502, "connect_failed");
    assert!(response.contains("; next-hop=\"corp\"; received-status=407\r\n"), "{response}");
    assert!(!response.contains("realm"), "{response}");
    assert_eq!(world.queries(), 0);
}

#[tokio::test]
async fn names_are_resolved_here_only_where_that_is_asked_for() {
    for (resolve, queries) in [(Resolve::NextHop, 0), (Resolve::Local, 2)] {
        let hop = open_hop().await;
        let world = world(NextHopSetup { resolve, ..through(hop.port, HopProtocol::Http) }).await;
        assert!(world.talk(connect("example.com:443")).await.starts_with("HTTP/1.1 200 "));
        assert_eq!((world.queries(), hop.accepts()), (queries, 1));
        // The name is sent on all the same.
        assert!(hop.heads()[0].starts_with("connect example.com:443 "), "{:?}", hop.heads());
    }
    let hop = open_hop().await;
    let world = world(NextHopSetup { resolve: Resolve::Local, ..through(hop.port, HopProtocol::Http) }).await;
    assert_refused(&world.talk(connect("missing.example.com:443")).await, 502, "dns_failed");
    assert_eq!(hop.accepts(), 0);
}

#[tokio::test]
async fn the_name_of_a_hop_is_resolved_as_infrastructure() {
    let hop = open_hop().await;
    let endpoint = format!("proxy.example.net:{}", hop.port);
    let world = world(NextHopSetup { endpoint, ..through(hop.port, HopProtocol::Http) }).await;
    assert!(world.talk(connect("example.com:443")).await.starts_with("HTTP/1.1 200 "));
    assert_eq!((world.queries(), hop.accepts()), (2, 1), "both families of the hop's name");
    // No client gets there by that name.
    assert_refused(
        &world.talk(connect(&format!("proxy.example.net:{}", hop.port))).await,
        403,
        "host_not_allowed",
    );
    let missing = world_missing(&hop).await;
    let response = missing.talk(connect("example.com:443")).await;
    assert_refused(&response, 503, "egress_gateway_unavailable");
    assert_eq!(hop.accepts(), 1);
}

async fn world_missing(hop: &Origin) -> World {
    let endpoint = format!("missing.example.com:{}", hop.port);
    world(NextHopSetup { endpoint, ..through(hop.port, HopProtocol::Http) }).await
}

/// A SOCKS5 hop that reads a greeting, a login and a request, and answers each with what it is told to; then it echoes.
async fn socks_hop(answers: [&'static [u8]; 3]) -> (u16, Arc<std::sync::Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let said = Arc::new(std::sync::Mutex::new(Vec::new()));
    let keep = Arc::clone(&said);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let keep = Arc::clone(&keep);
            tokio::spawn(async move { serve_socks(&mut stream, answers, &keep).await });
        }
    });
    (port, said)
}

async fn serve_socks(
    stream: &mut TcpStream,
    answers: [&[u8]; 3],
    said: &std::sync::Mutex<Vec<u8>>,
) -> Option<()> {
    // The messages have these lengths for `scott:tiger` and `example.com`.
    for (length, answer) in [3, 13, 18].into_iter().zip(answers) {
        let mut message = vec![0; length];
        stream.read_exact(&mut message).await.ok()?;
        said.lock().unwrap().extend(message);
        stream.write_all(answer).await.ok()?;
    }
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await.ok()?;
    write.shutdown().await.ok()
}

const LOGGED_IN: [&[u8]; 2] = [&[5, 2], &[1, 0]];

#[tokio::test]
async fn a_tunnel_leaves_through_a_socks_hop_by_name() {
    let replies: [&'static [u8]; 2] = [
        b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00220 ready\r\n\r\n",
        b"\x05\x00\x00\x03\x02ab\x00\x00220 ready\r\n\r\n",
    ];
    for reply in replies {
        let (port, said) = socks_hop([LOGGED_IN[0], LOGGED_IN[1], reply]).await;
        let world = world(through(port, HopProtocol::Socks5)).await;
        let mut stream = world.connect().await;
        stream.write_all(connect("example.com:8443").as_bytes()).await.unwrap();
        assert!(read_head(&mut stream).await.unwrap().starts_with("HTTP/1.1 200 "));
        assert_eq!(read_head(&mut stream).await.unwrap(), "220 ready\r\n\r\n");
        stream.write_all(b"ping").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(read_all(&mut stream).await, "ping");
        let want = b"\x05\x01\x02\x01\x05scott\x05tiger\x05\x01\x00\x03\x0bexample.com\x20\xfb".to_vec();
        assert_eq!(*said.lock().unwrap(), want);
        assert_eq!(world.queries(), 0);
    }
}

#[tokio::test]
async fn answers_of_a_socks_hop_that_refuses() {
    let cases: [(&str, [&'static [u8]; 3], u16, &str); 7] = [
        ("no method", [&[5, 0xff], b"", b""], 502, "connect_failed"),
        ("another method", [&[5, 0], b"", b""], 502, "connect_failed"),
        ("wrong password", [&[5, 2], &[1, 1], b""], 502, "connect_failed"),
        (
            "not allowed",
            [&[5, 2], &[1, 0], b"\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00"],
            502,
            "connect_failed",
        ),
        (
            "TTL expired",
            [&[5, 2], &[1, 0], b"\x05\x06\x00\x01\x00\x00\x00\x00\x00\x00"],
            504,
            "connect_timeout",
        ),
        ("no SOCKS", [b"HT", b"", b""], 502, "connect_failed"),
        (
            "an odd address",
            [&[5, 2], &[1, 0], b"\x05\x00\x00\x09\x00\x00\x00\x00\x00\x00"],
            502,
            "connect_failed",
        ),
    ];
    for (case, answers, status, reason) in cases {
        let origin = Origin::pages().await;
        let (port, _) = socks_hop(answers).await;
        let world = world(through(port, HopProtocol::Socks5)).await;
        let response = world.talk(connect(&format!("example.com:{}", origin.port))).await;
        assert!(response.contains("; next-hop=\"corp\""), "{case}: {response}");
        assert_refused(&response, status, reason);
        assert_eq!((origin.accepts(), world.queries()), (0, 0), "{case}");
    }
}

#[tokio::test]
async fn requests_go_through_a_socks_hop_as_to_the_origin() {
    let (port, said) =
        socks_hop([LOGGED_IN[0], LOGGED_IN[1], b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"]).await;
    let world = world(through(port, HopProtocol::Socks5)).await;
    // The hop echoes the request, which is no response.
    let request =
        format!("GET http://example.com/a HTTP/1.1\r\nHost: example.com\r\n{AUTH}Connection: close\r\n\r\n");
    assert_refused(&world.talk(request).await, 502, "connect_failed");
    assert!(said.lock().unwrap().ends_with(b"\x0bexample.com\x00\x50"));
    assert_eq!(world.queries(), 0);
}

#[tokio::test]
async fn a_hop_that_is_ourselves_is_a_loop() {
    // Only found when it is dialled: the test's listener has no place in the floor before.
    let hop = Origin::pages().await;
    let world = World::with(Setup {
        next_hop: Some(through(hop.port, HopProtocol::Http)),
        floor: vec![format!("127.0.0.1:{}", hop.port).parse().unwrap()],
        ..Setup::default()
    })
    .await;
    assert_refused(&world.talk(connect("example.com:443")).await, 508, "loop_detected");
    assert_eq!(hop.accepts(), 0);
}

#[tokio::test]
async fn an_open_tunnel_lives_as_long_as_its_way_out() {
    let (hop, other) = (open_hop().await, open_hop().await);
    let setup = |port: Option<u16>, revision| Setup {
        next_hop: port.map(|port| through(port, HopProtocol::Http)),
        revision,
        ..Setup::default()
    };
    for new_way in [Some(other.port), None] {
        let world = World::with(setup(Some(hop.port), 7)).await;
        let mut stream = world.connect().await;
        stream.write_all(connect("example.com:8443").as_bytes()).await.unwrap();
        assert!(read_head(&mut stream).await.unwrap().starts_with("HTTP/1.1 200 "));
        assert_eq!(read_head(&mut stream).await.unwrap(), "220 ready\r\n\r\n");

        world.proxy.replace(snapshot(&setup(Some(hop.port), 8)));
        let decided = async {
            while world.proxy.flows()[0].revision.0 != 8 {
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, decided).await.expect("the sweep in time");
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(read_response(&mut stream).await.ends_with("from the hop"));

        world.proxy.replace(snapshot(&setup(new_way, 9)));
        let mut rest = Vec::new();
        let end = timeout(LONG, stream.read_to_end(&mut rest)).await.expect("the end in time");
        assert_eq!(end.map_err(|error| error.kind()), Err(std::io::ErrorKind::ConnectionReset));
        assert_eq!(other.accepts(), 0, "no flow moves over");
        let records = world.records();
        assert!(records.last().unwrap().contains(r#""end":"policy_changed""#), "{records:?}");
    }
}

#[tokio::test]
async fn a_websocket_leaves_through_a_tunnel_of_the_hop() {
    let hop = Origin::http(|_, head| match head.starts_with("CONNECT ") {
        true => b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
        false => b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nserver first\r\n\r\n".to_vec(),
    })
    .await;
    let world = world_at(&hop).await;
    let ask = |host: &str| {
        format!(
            "GET http://{host}/chat HTTP/1.1\r\nHost: {host}\r\n{AUTH}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
    };
    assert_refused(&world.talk(ask("example.net")).await, 403, "host_not_allowed");
    assert_eq!(hop.accepts(), 0);
    let mut stream = world.connect().await;
    stream.write_all(ask("example.com").as_bytes()).await.unwrap();
    assert!(read_head(&mut stream).await.unwrap().starts_with("HTTP/1.1 101 "));
    assert_eq!(read_head(&mut stream).await.unwrap(), "server first\r\n\r\n");
    let heads = hop.heads();
    assert!(heads[0].starts_with("connect example.com:80 http/1.1\r\n"), "{heads:?}");
    assert!(heads[0].contains("\r\nproxy-authorization: "), "{heads:?}");
    assert!(heads[1].starts_with("get /chat http/1.1\r\n"), "{heads:?}");
    assert!(!heads[1].contains("proxy-authorization"), "the hop's are for the hop: {heads:?}");
    assert_eq!((world.queries(), hop.accepts()), (0, 1));
}

/// The relay asks for it once a tunnel is older. A request has no relay.
#[tokio::test]
async fn a_young_tunnel_through_a_plain_hop_is_not_watched_over() {
    let hop = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = world(through(hop.local_addr().unwrap().port(), HopProtocol::Http)).await;
    let get = format!("GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n{AUTH}\r\n");
    for (request, want) in [(connect("example.com:443"), false), (get, true)] {
        let mut client = world.connect().await;
        client.write_all(request.as_bytes()).await.unwrap();
        let (mut far, _) = timeout(LONG, hop.accept()).await.unwrap().unwrap();
        read_head(&mut far).await.unwrap();
        far.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        assert!(read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 200 "));
        assert_eq!(is_kept_alive(&far).await, want, "{request}");
    }
}
