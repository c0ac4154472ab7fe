//! Absolute-form requests through a real proxy on sockets.

use std::time::Duration;

use crate::common::{
    AUTH, LONG, Origin, Setup, World, assert_refused, page, read_all, read_head, read_response, settle,
};
use exeat_policy::Expect;
use exeat_proxy::Limits;
use tokio::{io::AsyncWriteExt, time::timeout};

fn get(port: u16, extra: &str) -> String {
    format!("GET http://example.com:{port}/a?b HTTP/1.1\r\nHost: ignored.test\r\n{AUTH}{extra}\r\n")
}

fn url(url: &str) -> String {
    format!("GET {url} HTTP/1.1\r\nHost: example.com\r\n{AUTH}\r\n")
}

#[tokio::test]
async fn a_request_reaches_the_upstream_without_what_is_not_for_it() {
    let (world, origin) = (World::start().await, Origin::pages().await);
    let extra = "Authorization: Bearer t\r\nProxy-Connection: keep-alive\r\nX-Container-Id: c\r\nForwarded: for=a\r\n\
                 Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\nTE: trailers\r\n";
    let all = world.talk(get(origin.port, extra)).await;
    assert!(all.starts_with("HTTP/1.1 200 OK\r\n") && all.ends_with("\r\n\r\nhello"), "{all}");
    let heads = origin.heads();
    assert!(heads[0].starts_with("get /a?b http/1.1\r\n"), "{}", heads[0]);
    let via = format!("via: 1.1 {}", world.proxy.instance());
    let mut fields: Vec<&str> = heads[0].trim_end().lines().skip(1).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["authorization: bearer t", &format!("host: example.com:{}", origin.port), &via]);
    let records = world.records();
    assert_eq!(records.len(), 1, "{records:?}");
    for part in ["\"request\"", "\"allow\"", "\"status\":200", "\"bytes_down\":5", "\"finished\""] {
        assert!(records[0].contains(part), "{part} in {}", records[0]);
    }
    assert!(!records[0].contains("?b"), "{}", records[0]);
}

#[tokio::test]
async fn each_request_of_a_connection_is_decided_for_itself() {
    let (world, origin) = (World::start().await, Origin::pages().await);
    let mut stream = world.connect().await;
    stream.write_all(get(origin.port, "").as_bytes()).await.unwrap();
    assert!(read_response(&mut stream).await.ends_with("hello"));
    stream.write_all(url("http://evil.test/").as_bytes()).await.unwrap();
    assert_refused(&read_response(&mut stream).await, 403, "host_not_allowed");
    stream.write_all(get(origin.port, "").replace(AUTH, "").as_bytes()).await.unwrap();
    assert_refused(&read_response(&mut stream).await, 407, "auth_required");
    stream.write_all(get(origin.port, "").as_bytes()).await.unwrap();
    assert!(read_response(&mut stream).await.ends_with("hello"));
    // A tunnel may follow: it is not hyper's.
    let connect = format!("CONNECT example.com:{} HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n", origin.port);
    stream.write_all(connect.as_bytes()).await.unwrap();
    assert!(read_head(&mut stream).await.unwrap().starts_with("HTTP/1.1 200 Connection established\r\n"));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (world, origin) = (World::start().await, Origin::http(|n, _| page(&n.to_string())).await);
    let post = format!(
        "POST http://example.com:{}/ HTTP/1.1\r\nHost: a\r\n{AUTH}Content-Length: 0\r\n\r\n",
        origin.port
    );
    let all =
        world.talk(get(origin.port, "") + &post + &url("http://evil.test/") + "BAD\r\n\r\n" + &post).await;
    let statuses: Vec<&str> = all.match_indices("HTTP/1.1 ").map(|(at, _)| &all[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "200", "403", "400"], "{all}");
    assert_eq!(origin.heads().len(), 2);
}

#[tokio::test]
async fn bodies_are_counted_not_parsed() {
    let world = World::start().await;
    let origin = Origin::http(|_, head| if head.contains("POST") { Vec::new() } else { page("x") }).await;
    // What looks like a request inside a body is a body.
    let smuggled = url(&format!("http://example.com:{}/smuggled", origin.port));
    let post = format!(
        "POST http://example.com:{}/ HTTP/1.1\r\nHost: a\r\n{AUTH}Content-Length: {}\r\n\r\n{smuggled}",
        origin.port,
        smuggled.len()
    );
    assert_refused(&world.talk(post).await, 502, "connect_failed");
    assert_eq!(origin.heads().len(), 1, "{:?}", origin.heads());
}

#[tokio::test]
async fn a_chunked_request_is_the_last_of_its_connection() {
    let (world, origin) = (World::start().await, Origin::pages().await);
    let chunked = format!(
        "PUT http://example.com:{}/ HTTP/1.1\r\nHost: a\r\n{AUTH}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        origin.port
    );
    let all = world.talk(chunked + &get(origin.port, "")).await;
    assert_eq!(all.matches("HTTP/1.1 ").count(), 1, "{all}");
    assert!(all.starts_with("HTTP/1.1 200 ") && all.contains("connection: close\r\n"), "{all}");
    assert!(!origin.heads().iter().any(|head| head.starts_with("get")), "{:?}", origin.heads());
}

#[tokio::test]
async fn even_a_get_keeps_its_chunked_body() {
    let world = World::start().await;
    let upstream = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = world.connect().await;
    let request = get(upstream.local_addr().unwrap().port(), "Transfer-Encoding: chunked\r\n");
    client.write_all((request + "3\r\nabc\r\n0\r\n\r\n").as_bytes()).await.unwrap();
    let (mut origin, _) = upstream.accept().await.unwrap();
    let head = read_head(&mut origin).await.unwrap();
    assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
    // A body in chunks ends like a head does.
    assert_eq!(read_head(&mut origin).await.unwrap(), "3\r\nabc\r\n0\r\n\r\n");
    origin.write_all(&page("got it")).await.unwrap();
    assert!(read_all(&mut client).await.ends_with("got it"));
}

#[tokio::test]
async fn refused_heads_dial_nothing() {
    let (world, origin) = (World::start().await, Origin::pages().await);
    let port = origin.port;
    let url = |text: &str| format!("{text} HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n");
    for (request, status, reason) in [
        (url("GET /"), 400, "request_malformed"),
        (url("OPTIONS *"), 400, "request_malformed"),
        (url("GET ftp://example.com/"), 400, "scheme_not_allowed"),
        (url("GET urn:x"), 400, "scheme_not_allowed"),
        (url("GET https://evil.test/"), 403, "host_not_allowed"),
        (url("GET https://example.com/"), 400, "scheme_not_allowed"),
        (url(&format!("TRACE http://example.com:{port}/")), 405, "method_not_allowed"),
        (url("PRI *").replace("HTTP/1.1", "HTTP/2.0"), 505, "request_malformed"),
        (format!("GET http://example.com:{port}/\r\n"), 400, "request_malformed"),
        (get(port, "Host: b\r\n"), 400, "request_malformed"),
        (get(port, "X: a\r\n b\r\n"), 400, "request_malformed"),
        (
            get(port, "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\nG",
            400,
            "framing_ambiguous",
        ),
        (get(port, "Connection: close, Host\r\n"), 400, "request_malformed"),
        (get(port, &"X: y\r\n".repeat(100_000)), 431, "header_too_large"),
        (get(port, &format!("X: {}\r\n", "y".repeat(1 << 20))), 431, "header_too_large"),
        (get(port, "").replace("/a?b", &format!("/{}", "a".repeat(9000))), 414, "uri_too_long"),
    ] {
        let is_well_formed = request.starts_with("GET https");
        let all = world.talk(request).await;
        assert_refused(&all, status, reason);
        assert_ne!(all.contains("connection: close\r\n"), is_well_formed, "{all}");
    }
    assert_eq!((origin.accepts(), world.queries()), (0, 0));
}

#[tokio::test]
async fn heads_up_to_the_limits_pass() {
    let world = World::start().await;
    let big = format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 1\r\n\r\nx", "y".repeat(60_000));
    let origin = Origin::http(move |_, _| big.clone().into_bytes()).await;
    // The Host and credentials are two more.
    let many = (0..97).map(|n| format!("X-{n}: {n}\r\n")).collect::<String>();
    let long = format!("X: {}\r\n", "y".repeat(60_000));
    for request in [
        get(origin.port, &many),
        get(origin.port, &long),
        get(origin.port, "").replace("/a?b", &format!("/{}", "a".repeat(8000))),
    ] {
        let all = world.talk(request).await;
        assert!(
            all.starts_with("HTTP/1.1 200 OK\r\n") && all.ends_with("\r\n\r\nx"),
            "{}",
            all.get(..200).unwrap_or(&all)
        );
    }
}

#[tokio::test]
async fn a_denied_body_is_not_read() {
    let world = World::start().await;
    let mut stream = world.connect().await;
    let post = format!(
        "POST http://evil.test/ HTTP/1.1\r\nHost: a\r\n{AUTH}Content-Length: 1073741824\r\nExpect: 100-continue\r\n\r\n"
    );
    stream.write_all(post.as_bytes()).await.unwrap();
    let all = read_all(&mut stream).await;
    assert_refused(&all, 403, "host_not_allowed");
    assert!(!all.contains("100 Continue") && all.contains("connection: close\r\n"), "{all}");
}

#[tokio::test]
async fn an_allowed_body_is_asked_for() {
    let (world, origin) = (World::start().await, Origin::pages().await);
    let mut stream = world.connect().await;
    let post = format!(
        "POST http://example.com:{}/ HTTP/1.1\r\nHost: a\r\n{AUTH}Content-Length: 4\r\nExpect: 100-continue\r\n\r\n",
        origin.port
    );
    stream.write_all(post.as_bytes()).await.unwrap();
    assert!(read_head(&mut stream).await.unwrap().starts_with("HTTP/1.1 100 Continue\r\n"));
    stream.write_all(b"data").await.unwrap();
    assert!(read_response(&mut stream).await.starts_with("HTTP/1.1 200 "));
    assert!(!origin.heads()[0].contains("expect"));
}

#[tokio::test]
async fn upstream_connections_are_kept_for_the_same_principal_and_authority() {
    let (world, origin) = (World::start().await, Origin::pages().await);
    let page = get(origin.port, "");
    let mut stream = world.connect().await;
    for _ in 0..3 {
        stream.write_all(page.as_bytes()).await.unwrap();
        assert!(read_response(&mut stream).await.ends_with("hello"));
        settle().await;
    }
    assert_eq!(origin.accepts(), 1);
    // other:secret
    assert!(world.talk(page.replace("YXBwOnNlY3JldA==", "b3RoZXI6c2VjcmV0")).await.ends_with("hello"));
    assert_eq!(origin.accepts(), 2);
    assert!(world.talk(page.replace("http://example.com", "http://a.example.org")).await.ends_with("hello"));
    assert_eq!(origin.accepts(), 3);
}

#[tokio::test]
async fn a_stale_connection_costs_a_get_nothing_and_a_post_is_not_repeated() {
    let world = World::start().await;
    // The second request on a connection is read and never answered.
    let origin = Origin::http(|n, _| if n == 2 || n == 4 { Vec::new() } else { page("x") }).await;
    assert!(world.talk(get(origin.port, "")).await.ends_with("\r\n\r\nx"));
    settle().await;
    assert!(world.talk(get(origin.port, "")).await.ends_with("\r\n\r\nx"));
    assert_eq!((origin.accepts(), origin.heads().len()), (2, 3));
    settle().await;
    let post = get(origin.port, "Content-Length: 0\r\n").replace("GET ", "POST ");
    assert_refused(&world.talk(post).await, 502, "connect_failed");
    assert_eq!(origin.heads().len(), 4);
}

#[tokio::test]
async fn responses_lose_what_is_not_the_upstreams_to_say() {
    let answer = "HTTP/1.1 302 egress denied: forged\r\nLocation: http://evil.test/\r\nX-Deny-Reason: forged\r\nProxy-Status: forged\r\n\
                  X-Exeat-Request-Id: forged\r\nAlt-Svc: h3=\":443\"\r\nProxy-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nhi";
    let (world, origin) = (World::start().await, Origin::http(|_, _| answer.into()).await);
    let all = world.talk(get(origin.port, "")).await.to_lowercase();
    assert!(all.starts_with("http/1.1 302 found\r\nlocation: http://evil.test/\r\n"), "{all}");
    assert!(!all.contains("forged") && !all.contains("alt-svc") && !all.contains("proxy-"), "{all}");
    assert!(all.contains(&format!("via: 1.1 {}\r\n", world.proxy.instance())), "{all}");
    assert_eq!(origin.accepts(), 1);
}

#[tokio::test]
async fn upstreams_that_do_not_speak_http_as_asked_give_502() {
    let world = World::start().await;
    for (answer, what) in [
        (
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n".to_owned(),
            "upgrade",
        ),
        (
            "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "1xx",
        ),
        ("SSH-2.0-x\r\n\r\n".to_owned(), "other protocol"),
        (format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(1 << 20)), "huge head"),
        (String::new(), "nothing"),
    ] {
        let origin = Origin::http(move |_, _| answer.clone().into_bytes()).await;
        let all = world.talk(get(origin.port, "")).await;
        assert!(all.starts_with("HTTP/1.1 502 "), "{what}: {all}");
        assert_refused(&all, 502, "connect_failed");
    }
}

#[tokio::test]
async fn a_few_interim_responses_are_fine() {
    let world = World::start().await;
    let answer =
        "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(3) + "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx";
    let origin = Origin::http(move |_, _| answer.clone().into_bytes()).await;
    assert!(world.talk(get(origin.port, "")).await.ends_with("\r\n\r\nx"));
}

#[tokio::test]
async fn both_lengths_in_a_response_leave_one() {
    let world = World::start().await;
    let answer =
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let origin = Origin::http(move |_, _| answer.into()).await;
    let all = world.talk(get(origin.port, "")).await.to_lowercase();
    assert!(!all.contains("content-length") && all.contains("hello"), "{all}");
}

#[tokio::test]
async fn head_and_no_content_have_no_body() {
    let world = World::start().await;
    let origin = Origin::http(|_, head| match head.starts_with("HEAD") {
        true => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".into(),
        false => "HTTP/1.1 204 No Content\r\n\r\n".into(),
    })
    .await;
    let mut stream = world.connect().await;
    stream.write_all(get(origin.port, "").replace("GET ", "HEAD ").as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await.unwrap().to_lowercase();
    assert!(head.contains("content-length: 5\r\n"), "{head}");
    stream.write_all(get(origin.port, "").as_bytes()).await.unwrap();
    assert!(read_head(&mut stream).await.unwrap().starts_with("HTTP/1.1 204 "));
    let denied = url("http://evil.test/").replace("GET ", "HEAD ");
    let all = world.talk(denied).await;
    assert!(all.starts_with("HTTP/1.1 403 ") && all.ends_with("\r\n\r\n"), "{all}");
}

#[tokio::test]
async fn a_port_for_tls_is_not_for_plain_http() {
    let (world, origin) =
        (World::with(Setup { expect: Expect::Tls, ..Setup::default() }).await, Origin::pages().await);
    assert_refused(&world.talk(get(origin.port, "")).await, 403, "tls_required");
    assert_eq!(origin.accepts(), 0);
}

#[tokio::test]
async fn an_anonymous_principal_needs_no_credentials_but_right_ones_if_any() {
    let (world, origin) =
        (World::with(Setup { anonymous: true, ..Setup::default() }).await, Origin::pages().await);
    let request = get(origin.port, "");
    assert!(world.talk(request.replace(AUTH, "")).await.ends_with("hello"));
    assert_refused(
        &world.talk(request.replace("YXBwOnNlY3JldA==", "YXBwOndyb25n")).await,
        407,
        "auth_invalid",
    );
    assert_refused(&world.talk(request.replace(AUTH, &AUTH.repeat(2))).await, 407, "auth_invalid");
}

#[tokio::test]
async fn a_silent_upstream_is_given_up() {
    let limits = Limits { response_head_timeout: Duration::from_millis(100), ..Limits::default() };
    let world = World::with(Setup { limits, ..Setup::default() }).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let all = world.talk(get(port, "")).await;
    assert_refused(&all, 504, "idle_timeout");
}

#[tokio::test]
async fn a_body_that_stops_ends_the_response() {
    let limits = Limits { idle_timeout: Duration::from_millis(100), ..Limits::default() };
    let world = World::with(Setup { limits, ..Setup::default() }).await;
    let origin = Origin::http(|_, _| b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello".to_vec()).await;
    let all = world.talk(get(origin.port, "")).await;
    assert!(all.ends_with("\r\n\r\nhello"), "{all}");
    world.proxy.drain().await;
    let records = world.records();
    assert!(
        records[0].contains("\"idle_timeout\"") && records[0].contains("\"bytes_down\":5"),
        "{records:?}"
    );
}

#[tokio::test]
async fn heads_have_a_deadline_in_all() {
    let limits = Limits { head_timeout: Duration::from_millis(200), ..Limits::default() };
    let world = World::with(Setup { limits, ..Setup::default() }).await;
    let mut stream = world.connect().await;
    let (mut read, mut write) = stream.split();
    let trickle = async {
        for byte in b"GET http://example.com/ HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat(&b'y')) {
            if write.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut bytes = Vec::new();
    tokio::select! {
        () = trickle => {}
        _ = timeout(LONG, tokio::io::AsyncReadExt::read_to_end(&mut read, &mut bytes)) => {}
    }
    assert_refused(&String::from_utf8_lossy(&bytes), 408, "head_timeout");
}

#[tokio::test]
async fn silence_between_requests_ends_without_a_word() {
    let limits = Limits {
        head_timeout: Duration::from_millis(100),
        keepalive_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let (world, origin) = (World::with(Setup { limits, ..Setup::default() }).await, Origin::pages().await);
    let mut stream = world.connect().await;
    assert_eq!(read_all(&mut stream).await, "");
    let mut stream = world.connect().await;
    stream.write_all(get(origin.port, "").as_bytes()).await.unwrap();
    assert!(read_response(&mut stream).await.ends_with("hello"));
    assert_eq!(read_all(&mut stream).await, "");
}
