//! HTTP/2 with prior knowledge, through a real proxy on sockets: each stream is a request of its own.

use std::{future::poll_fn, time::Duration};

use bytes::Bytes;
use exeat_proxy::{FlowFilter, Limits};
use h2::{Reason, RecvStream, SendStream, client::SendRequest};
use http::{Method, Request, Response, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use crate::common::{LONG, Origin, SILENT, Setup, World, page, read_all, read_head};

/// `app:secret` and `other:secret`; both have the policy of the world.
const BASIC: &str = "Basic YXBwOnNlY3JldA==";

async fn connect(world: &World) -> SendRequest<Bytes> {
    let (client, connection) = h2::client::handshake(world.connect().await).await.unwrap();
    tokio::spawn(connection);
    client.ready().await.unwrap()
}

fn get(port: u16) -> Request<()> {
    let uri = format!("http://example.com:{port}/");
    Request::get(uri).header("proxy-authorization", BASIC).body(()).unwrap()
}

fn connect_to(port: u16) -> Request<()> {
    let authority = format!("example.com:{port}");
    Request::connect(authority).header("proxy-authorization", BASIC).body(()).unwrap()
}

/// Sends a request without a body and returns the whole response.
async fn ask(client: &mut SendRequest<Bytes>, request: Request<()>) -> (Response<()>, String) {
    let (response, _) = client.send_request(request, true).unwrap();
    whole(timeout(LONG, response).await.expect("a response in time").unwrap()).await
}

async fn whole(response: Response<RecvStream>) -> (Response<()>, String) {
    let (head, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    while let Some(data) = timeout(LONG, body.data()).await.expect("a body in time") {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        bytes.extend(data);
    }
    (Response::from_parts(head, ()), String::from_utf8_lossy(&bytes).into_owned())
}

#[track_caller]
fn assert_refused((head, body): &(Response<()>, String), status: u16, reason: &str) {
    assert_eq!(head.status().as_u16(), status, "{head:?} {body}");
    assert_eq!(head.headers()["x-deny-reason"], reason, "{head:?} {body}");
    assert!(head.headers()["proxy-status"].to_str().unwrap().contains("; error="), "{head:?}");
    assert!(body.contains(&format!("\"reason\":\"{reason}\"")), "{body}");
    assert!(!head.headers().contains_key("connection"), "{head:?}");
}

/// Opens a tunnel; returns both of its directions.
async fn tunnel(client: &mut SendRequest<Bytes>, port: u16) -> (SendStream<Bytes>, RecvStream) {
    let (response, sending) = client.send_request(connect_to(port), false).unwrap();
    let response = timeout(LONG, response).await.expect("a response in time").unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.headers().is_empty(), "{response:?}");
    (sending, response.into_body())
}

/// Reads exactly this many bytes.
async fn read(receiving: &mut RecvStream, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let data = timeout(LONG, receiving.data()).await.expect("data in time").expect("more data").unwrap();
        receiving.flow_control().release_capacity(data.len()).unwrap();
        bytes.extend(data);
    }
    bytes
}

/// Waits for the end of the stream, and returns why it broke if it did.
async fn reset(receiving: &mut RecvStream) -> Option<Reason> {
    loop {
        match timeout(LONG, receiving.data()).await.expect("an end in time") {
            // Room on the connection, too: without it no other stream gets any.
            Some(Ok(data)) => receiving.flow_control().release_capacity(data.len()).unwrap(),
            Some(Err(error)) => return error.reason(),
            None => return None,
        }
    }
}

#[tokio::test]
async fn requests_are_passed_on_as_http1() {
    let (world, origin) = (World::start().await, Origin::pages().await);
    let mut client = connect(&world).await;
    let mut request = get(origin.port);
    for (name, value) in [("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers"), ("x-own", "1")] {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    for _ in 0..2 {
        let (head, body) = ask(&mut client, request.clone()).await;
        assert_eq!((head.status(), body.as_str()), (StatusCode::OK, "hello"));
        assert!(head.headers()["via"].to_str().unwrap().starts_with("1.1 exeat-"), "{head:?}");
    }
    assert_eq!(origin.accepts(), 1, "the upstream connection is used again");
    let head = &origin.heads()[0];
    for line in ["get / http/1.1\r\n", "\r\ncookie: a=1; b=2\r\n", "\r\nx-own: 1\r\n", "\r\nvia: 2 exeat-"] {
        assert!(head.contains(line), "{line:?} in {head}");
    }
    for name in ["proxy-authorization", "\r\nte:", "transfer-encoding"] {
        assert!(!head.contains(name), "{name} in {head}");
    }
    let records = world.records();
    assert_eq!(records.len(), 2, "{records:?}");
    assert!(
        records[0].contains("\"end\":\"finished\"") && records[0].contains("\"bytes_down\":5"),
        "{records:?}"
    );
}

#[tokio::test]
async fn every_stream_has_its_own_identity_and_decision() {
    let (world, origin) = (World::start().await, Origin::pages().await);
    let mut client = connect(&world).await;
    assert_eq!(ask(&mut client, get(origin.port)).await.0.status(), StatusCode::OK);
    let mut stranger = get(origin.port);
    stranger.headers_mut().clear();
    let refused = ask(&mut client, stranger.clone()).await;
    assert_refused(&refused, 407, "auth_required");
    assert!(refused.0.headers().contains_key("proxy-authenticate"));
    stranger.headers_mut().insert("proxy-authorization", "Basic YXBwOndyb25n".parse().unwrap());
    assert_refused(&ask(&mut client, stranger).await, 407, "auth_invalid");
    let mut elsewhere = get(origin.port);
    *elsewhere.uri_mut() = format!("http://elsewhere.test:{}/", origin.port).parse().unwrap();
    let refused = ask(&mut client, elsewhere).await;
    assert_refused(&refused, 403, "host_not_allowed");
    assert!(refused.1.contains("\"allow\":"), "{}", refused.1);
    let mut elsewhere = connect_to(origin.port);
    *elsewhere.uri_mut() = "elsewhere.test:443".parse().unwrap();
    assert_refused(&ask(&mut client, elsewhere).await, 403, "host_not_allowed");
    assert_eq!(ask(&mut client, get(origin.port)).await.0.status(), StatusCode::OK, "the connection goes on");
    assert_eq!(origin.heads().len(), 2);
    assert_eq!(world.records().len(), 6);
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused() {
    let (world, origin) = (World::start().await, Origin::pages().await);
    let port = origin.port;
    let mut client = connect(&world).await;
    let with = |name: &'static str, value: &str| {
        let mut request = get(port);
        request.headers_mut().append(name, value.parse().unwrap());
        request
    };
    let to = |method: Method, uri: &str| {
        let mut request = get(port);
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse().unwrap();
        request
    };
    let mut two_hosts = with("host", &format!("example.com:{port}"));
    two_hosts.headers_mut().append("host", format!("example.com:{port}").parse().unwrap());
    let mut two_lengths = with("content-length", "0");
    two_lengths.headers_mut().append("content-length", "0".parse().unwrap());
    let mut connect_length = connect_to(port);
    connect_length.headers_mut().insert("content-length", "0".parse().unwrap());
    let mut no_authority = to(Method::GET, "/");
    *no_authority.version_mut() = http::Version::HTTP_11;
    let cases = [
        (with("host", "evil.test"), 400, "host_mismatch"),
        (with("host", "example.com"), 400, "host_mismatch"),
        (with("host", "example com"), 400, "host_mismatch"),
        (two_hosts, 400, "request_malformed"),
        (two_lengths, 400, "framing_ambiguous"),
        (connect_length, 400, "framing_ambiguous"),
        (no_authority, 400, "request_malformed"),
        (to(Method::GET, "http://user@example.com/"), 400, "request_malformed"),
        (to(Method::GET, "http://127.1/"), 400, "host_invalid"),
        (to(Method::GET, &format!("https://example.com:{port}/")), 400, "scheme_not_allowed"),
        (to(Method::GET, "ftp://example.com/"), 400, "scheme_not_allowed"),
        (to(Method::TRACE, &format!("http://example.com:{port}/")), 405, "method_not_allowed"),
        (to(Method::from_bytes(b"get").unwrap(), "http://example.com/"), 400, "request_malformed"),
        (to(Method::CONNECT, "example.com"), 400, "host_invalid"),
        (to(Method::GET, &format!("http://example.com/{}", "a".repeat(9000))), 414, "uri_too_long"),
        (with("x-long", &"a".repeat(70_000)), 431, "header_too_large"),
    ];
    let count = cases.len();
    for (request, status, reason) in cases {
        let refused = ask(&mut client, request).await;
        assert_refused(&refused, status, reason);
    }
    // A Host that agrees is fine.
    assert_eq!(
        ask(&mut client, with("host", &format!("EXAMPLE.com:{port}"))).await.0.status(),
        StatusCode::OK
    );
    assert_eq!(origin.accepts(), 1);
    assert_eq!(world.queries(), 2, "only the allowed name was looked up, in both families");
    assert_eq!(world.records().len(), count + 1);
}

#[tokio::test]
async fn head_and_bodies() {
    let origin = Origin::http(|number, head| match (number, head.starts_with("HEAD ")) {
        (_, true) => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_vec(),
        (2, _) => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_vec(),
        (_, _) => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
    })
    .await;
    let world = World::start().await;
    let mut client = connect(&world).await;
    let mut head = get(origin.port);
    *head.method_mut() = Method::HEAD;
    let (got, body) = ask(&mut client, head.clone()).await;
    assert_eq!((got.headers()["content-length"].as_bytes(), body.as_str()), (&b"5"[..], ""));
    let (got, body) = ask(&mut client, get(origin.port)).await;
    assert_eq!(body, "abc");
    assert!(!got.headers().contains_key("transfer-encoding"), "{got:?}");
    let (got, body) = ask(&mut client, get(origin.port)).await;
    assert_eq!((got.status(), body.as_str()), (StatusCode::NO_CONTENT, ""));
    *head.uri_mut() = "http://elsewhere.test/".parse().unwrap();
    let (got, body) = ask(&mut client, head).await;
    assert_eq!((got.status(), body.as_str()), (StatusCode::FORBIDDEN, ""));
}

/// An upstream that takes one request whose body ends with `end`, and returns its head and body.
async fn upload_origin(end: &'static [u8]) -> (u16, tokio::task::JoinHandle<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_head(&mut stream).await.unwrap();
        let mut bytes = Vec::new();
        while !bytes.ends_with(end) {
            assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "the end of the body");
        }
        stream.write_all(&page("taken")).await.unwrap();
        (head.to_lowercase(), bytes)
    });
    (port, served)
}

#[tokio::test]
async fn uploads_arrive_whole_and_framed_for_http1() {
    let upload = [&[b'u'; 700_000][..], b"end"].concat();
    for with_length in [true, false] {
        let (port, served) = upload_origin(if with_length { b"end" } else { b"\r\n0\r\n\r\n" }).await;
        let world = World::start().await;
        let mut client = connect(&world).await;
        let mut request = get(port);
        *request.method_mut() = Method::POST;
        request.headers_mut().insert("expect", "100-continue".parse().unwrap());
        if with_length {
            request.headers_mut().insert("content-length", upload.len().into());
        }
        let (mut response, mut sending) = client.send_request(request, false).unwrap();
        let interim = timeout(LONG, poll_fn(|cx| response.poll_informational(cx))).await.expect("in time");
        assert_eq!(interim.unwrap().unwrap().status(), StatusCode::CONTINUE);
        send(&mut sending, &upload).await;
        let (head, body) = whole(timeout(LONG, response).await.expect("in time").unwrap()).await;
        assert_eq!((head.status(), body.as_str()), (StatusCode::OK, "taken"));
        let (head, bytes) = served.await.unwrap();
        assert_eq!(head.contains("\r\ntransfer-encoding: chunked\r\n"), !with_length, "{head}");
        assert!(!head.contains("expect:"), "{head}");
        assert_eq!(bytes.iter().filter(|b| **b == b'u').count(), 700_000);
    }
}

/// Sends `bytes` and the end of the stream, as there is room.
async fn send(sending: &mut SendStream<Bytes>, bytes: &[u8]) {
    let mut left = Bytes::copy_from_slice(bytes);
    while !left.is_empty() {
        sending.reserve_capacity(left.len());
        let room = timeout(LONG, poll_fn(|cx| sending.poll_capacity(cx))).await.expect("room in time");
        sending.send_data(left.split_to(room.unwrap().unwrap().min(left.len())), false).unwrap();
    }
    sending.send_data(Bytes::new(), true).unwrap();
}

#[tokio::test]
async fn a_request_that_is_given_up_ends_its_exchange() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let world = World::start().await;
    let mut client = connect(&world).await;
    let (response, mut sending) = client.send_request(get(port), true).unwrap();
    let (mut upstream, _) = listener.accept().await.unwrap();
    read_head(&mut upstream).await.unwrap();
    sending.send_reset(Reason::CANCEL);
    assert_eq!(read_all(&mut upstream).await, "", "the upstream connection is closed");
    drop(response);
    let records = world.records();
    assert!(records.len() == 1 && records[0].contains("\"end\":\"client_reset\""), "{records:?}");
}

#[tokio::test]
async fn a_response_that_breaks_off_is_no_whole_one() {
    let origin = Origin::http(|number, _| match number {
        1 => b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".to_vec(),
        _ => Vec::new(),
    })
    .await;
    let world = World::with(Setup {
        limits: Limits { idle_timeout: Duration::from_millis(100), ..Limits::default() },
        ..Setup::default()
    })
    .await;
    let mut client = connect(&world).await;
    let (response, _) = client.send_request(get(origin.port), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(reset(&mut body).await, Some(Reason::INTERNAL_ERROR));
    assert!(world.records()[0].contains("\"end\":\"idle_timeout\""));
}

#[tokio::test]
async fn tunnels_carry_both_directions_and_end_each_by_itself() {
    let (world, echo) = (World::start().await, Origin::echo().await);
    let mut client = connect(&world).await;
    let (mut one, mut from_one) = tunnel(&mut client, echo.port).await;
    let (mut two, mut from_two) = tunnel(&mut client, echo.port).await;
    one.send_data(Bytes::from_static(b"first"), false).unwrap();
    two.send_data(Bytes::from_static(b"other"), false).unwrap();
    assert_eq!(read(&mut from_two, 5).await, b"other");
    assert_eq!(read(&mut from_one, 5).await, b"first");
    one.send_data(Bytes::new(), true).unwrap();
    assert_eq!(reset(&mut from_one).await, None, "the end came back");
    two.send_data(Bytes::from_static(b"still"), false).unwrap();
    assert_eq!(read(&mut from_two, 5).await, b"still");
    two.send_reset(Reason::CANCEL);
    assert_eq!(echo.accepts(), 2);
    drop(client);
    assert_eq!(world.proxy.drain().await, 0);
    let mut records = world.records();
    records.retain(|record| record.contains("\"event\":\"end\""));
    assert!(
        records.iter().any(|r| r.contains("\"end\":\"finished\"") && r.contains("\"bytes_up\":5")),
        "{records:?}"
    );
    assert!(records.iter().any(|r| r.contains("\"end\":\"client_reset\"")), "{records:?}");
}

#[tokio::test]
async fn much_data_passes_through_small_windows() {
    let (world, echo) = (World::start().await, Origin::echo().await);
    let mut client = connect(&world).await;
    let (mut sending, mut receiving) = tunnel(&mut client, echo.port).await;
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (got, ()) = tokio::join!(read(&mut receiving, bytes.len()), send(&mut sending, &bytes));
    assert!(got == bytes);
}

#[tokio::test]
async fn a_break_upstream_is_a_reset_of_the_stream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let world = World::start().await;
    let mut client = connect(&world).await;
    let (_sending, mut receiving) = tunnel(&mut client, port).await;
    let (mut upstream, _) = listener.accept().await.unwrap();
    upstream.write_all(b"half").await.unwrap();
    assert_eq!(read(&mut receiving, 4).await, b"half");
    upstream.set_zero_linger().unwrap();
    drop(upstream);
    assert_eq!(reset(&mut receiving).await, Some(Reason::CONNECT_ERROR));
    // Its connection is fine.
    assert_eq!(ask(&mut client, get(Origin::pages().await.port)).await.0.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_opening_of_a_tunnel_is_checked() {
    let origin = Origin::pages().await;
    let world = World::with(Setup { expect: exeat_policy::Expect::Http, ..Setup::default() }).await;
    let mut client = connect(&world).await;
    for (host, want) in
        [("example.com", "HTTP/1.1 200 OK\r\n"), ("evil.test", "HTTP/1.1 421 egress denied: host_mismatch")]
    {
        let (mut sending, mut receiving) = tunnel(&mut client, origin.port).await;
        let request = format!("GET / HTTP/1.1\r\nHost: {host}:{}\r\n\r\n", origin.port);
        sending.send_data(request.into(), false).unwrap();
        let got = read(&mut receiving, want.len()).await;
        assert!(got.starts_with(want.as_bytes()), "{host}: {}", String::from_utf8_lossy(&got));
    }
    assert_eq!(origin.heads().len(), 1);
}

#[tokio::test]
async fn streams_over_the_limit_wait_for_their_turn() {
    let limits = Limits { streams_per_connection: 2, ..Limits::default() };
    let (world, echo) = (World::with(Setup { limits, ..Setup::default() }).await, Origin::echo().await);
    let mut client = connect(&world).await;
    let one = tunnel(&mut client, echo.port).await;
    let _two = tunnel(&mut client, echo.port).await;
    // h2's client holds the third back, having been told of the limit.
    let (third, _) = client.send_request(connect_to(echo.port), false).unwrap();
    let mut third = std::pin::pin!(third);
    assert!(timeout(Duration::from_millis(100), &mut third).await.is_err());
    assert_eq!(echo.accepts(), 2);
    drop(one);
    assert_eq!(timeout(LONG, third).await.expect("in time").unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn begun_and_given_up_requests_do_not_pile_up() {
    // Each waits for a name server that never answers, and is reset as soon as it has been sent.
    let world = World::start().await;
    let (client, connection) = h2::client::handshake(world.connect().await).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut connect = connect_to(443);
    *connect.uri_mut() = format!("{SILENT}:443").parse().unwrap();
    let mut sent = 0;
    while !connection.is_finished() {
        let Ok(mut ready) = client.clone().ready().await else { break };
        let Ok((_, mut stream)) = ready.send_request(connect.clone(), false) else { break };
        tokio::task::yield_now().await;
        stream.send_reset(Reason::CANCEL);
        sent += 1;
        assert!(sent < 50_000, "no end");
    }
    drop(client);
    let ended = timeout(LONG, connection).await.expect("an end in time").unwrap();
    // ENHANCE_YOUR_CALM, or a broken connection for a client that did not read it while it sent.
    assert!(ended.is_err(), "after {sent}");
    assert_eq!(world.proxy.drain().await, 0);
    let begun = world.records().len();
    assert!(begun <= Limits::default().streams_per_connection, "{begun} of {sent} were begun");
}

#[tokio::test]
async fn an_idle_connection_is_told_to_go() {
    let limits = Limits { keepalive_timeout: Duration::from_millis(50), ..Limits::default() };
    let (world, origin) = (World::with(Setup { limits, ..Setup::default() }).await, Origin::pages().await);
    let (mut client, connection) = h2::client::handshake(world.connect().await).await.unwrap();
    let connection = tokio::spawn(connection);
    assert_eq!(ask(&mut client, get(origin.port)).await.0.status(), StatusCode::OK);
    timeout(LONG, connection).await.expect("an end in time").unwrap().unwrap();
    // Half a preface is not a connection: it has the time of a request head, and a head it is not.
    let limits = Limits { head_timeout: Duration::from_millis(50), ..Limits::default() };
    let world = World::with(Setup { limits, ..Setup::default() }).await;
    let mut half = world.connect().await;
    half.write_all(b"PRI * HTTP/2.0\r\n\r\nSM").await.unwrap();
    assert!(read_all(&mut half).await.starts_with("HTTP/1.1 408 "));
}

#[tokio::test]
async fn a_client_that_does_not_answer_is_gone() {
    let limits = Limits {
        keepalive_timeout: Duration::from_millis(50),
        head_timeout: Duration::from_millis(200),
        ..Limits::default()
    };
    let world = World::with(Setup { limits, ..Setup::default() }).await;
    let echo = Origin::echo().await;
    let (client, mut connection) = h2::client::handshake(world.connect().await).await.unwrap();
    let opened = async {
        let mut client = client.ready().await.unwrap();
        let open = tunnel(&mut client, echo.port).await;
        (client, open)
    };
    let _open = tokio::select! {
        open = opened => open,
        _ = &mut connection => panic!("no end yet"),
    };
    // From here on nobody reads from the connection, and nobody answers a PING on it.
    assert_eq!(world.proxy.drain().await, 0);
    assert!(world.records().last().unwrap().contains("\"end\":\"client_reset\""));
}

#[tokio::test]
async fn a_cut_ends_its_streams_and_no_others() {
    let endless = Origin::http(|_, _| {
        [&b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n"[..], &[b'd'; 2_000_000]].concat()
    })
    .await;
    let (world, echo) = (World::start().await, Origin::echo().await);
    let mut client = connect(&world).await;
    let (mut kept, mut from_kept) = tunnel(&mut client, echo.port).await;
    let before: Vec<_> = world.proxy.flows().iter().map(|flow| flow.id).collect();
    let (_cut, mut from_cut) = tunnel(&mut client, echo.port).await;
    // The client makes room for no more than the first window of it.
    let (download, _) = client.send_request(get(endless.port), true).unwrap();
    let mut download = timeout(LONG, download).await.expect("in time").unwrap().into_body();
    let flows = world.proxy.flows();
    let new: Vec<_> = flows.iter().filter(|flow| !before.contains(&flow.id)).collect();
    assert_eq!(new.len(), 2);
    for flow in new {
        assert_eq!(world.proxy.cut(&FlowFilter::from(flow.id), exeat_policy::Reason::PolicyChanged), 1);
    }
    assert_eq!(reset(&mut from_cut).await, Some(Reason::CONNECT_ERROR));
    assert!(reset(&mut download).await.is_some(), "not a whole response");
    kept.send_data(Bytes::from_static(b"still"), true).unwrap();
    assert_eq!(read(&mut from_kept, 5).await, b"still");
    assert_eq!(reset(&mut from_kept).await, None);
    drop(client);
    assert_eq!(world.proxy.drain().await, 0);
    let records = world.records();
    let ended = |how: &str| records.iter().filter(|r| r.contains(&format!("\"end\":\"{how}\""))).count();
    assert_eq!((ended("policy_changed"), ended("finished")), (2, 1), "{records:?}");
}

#[tokio::test]
async fn a_drain_lets_streams_finish_and_takes_no_more() {
    let (world, echo) = (World::start().await, Origin::echo().await);
    let mut client = connect(&world).await;
    let (mut sending, mut receiving) = tunnel(&mut client, echo.port).await;
    let proxy = world.proxy.clone();
    let draining = tokio::spawn(async move { proxy.drain().await });
    // The GOAWAY comes when it comes; after it nothing can be sent.
    while let Ok(mut ready) = client.clone().ready().await {
        let Ok((response, _)) = ready.send_request(get(1), true) else { break };
        let _ = response.await;
    }
    sending.send_data(Bytes::from_static(b"more"), true).unwrap();
    assert_eq!(read(&mut receiving, 4).await, b"more");
    assert_eq!(draining.await.unwrap(), 0);
    assert!(world.records().last().unwrap().contains("\"end\":\"finished\""));
}

#[tokio::test]
async fn a_drain_cuts_what_does_not_finish() {
    let limits = Limits { drain_timeout: Duration::from_millis(100), ..Limits::default() };
    let (world, echo) = (World::with(Setup { limits, ..Setup::default() }).await, Origin::echo().await);
    let mut client = connect(&world).await;
    let (_sending, mut receiving) = tunnel(&mut client, echo.port).await;
    assert_eq!(world.proxy.drain().await, 1);
    assert!(timeout(LONG, receiving.data()).await.expect("an end in time").is_none_or(|data| data.is_err()));
    assert!(world.records().last().unwrap().contains("\"end\":\"draining\""));
}

#[tokio::test]
async fn without_http2_the_preface_is_a_version_that_is_not_spoken() {
    let world = World::with(Setup { http2: false, ..Setup::default() }).await;
    let answer = world.talk("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
    // With it, the preface comes first or not at all.
    let world = World::with(Setup::default()).await;
    for bytes in ["PRI * HTTP/2.0\r\nHost: a\r\n\r\n", "\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let answer = world.talk(bytes).await;
        assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
    }
}

#[tokio::test]
async fn what_the_listener_itself_has_is_asked_for_by_its_address() {
    let world = World::start().await;
    let mut client = connect(&world).await;
    let at =
        |authority: String, path: &str| Request::get(format!("http://{authority}{path}")).body(()).unwrap();
    let (head, body) = ask(&mut client, at(world.address.to_string(), "/healthz")).await;
    assert_eq!((head.status(), body.as_str()), (StatusCode::OK, "ok\n"), "{head:?}");
    let (head, body) = ask(&mut client, at(world.address.to_string(), "/proxy.pac")).await;
    assert_eq!(head.headers()["content-type"], "application/x-ns-proxy-autoconfig", "{head:?}");
    assert!(body.contains(&format!("return \"PROXY {}\";", world.address)), "{body}");
    // The same of anybody else is a request like any other.
    let other = ask(&mut client, at(format!("example.com:{}", world.address.port()), "/healthz")).await;
    assert_refused(&other, 407, "auth_required");
    drop(client);
    assert_eq!(world.records().len(), 1, "the last one alone");
}
