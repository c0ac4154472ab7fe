//! The PROXY protocol from a load balancer, through a real proxy on sockets.

use exeat_model::IpBlock;
use exeat_proxy::Limits;
use tokio::io::AsyncWriteExt;

use crate::common::{AUTH, LONG, Origin, Setup, World, assert_refused, read_response};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// From 192.0.2.1:12345 to 192.0.2.2:3128, with a field of an unknown kind.
const CLIENT: &[u8] = b"\x21\x11\0\x10\xc0\0\x02\x01\xc0\0\x02\x02\x30\x39\x0c\x38\xe0\0\x01x";
const LOCAL: &[u8] = b"\x20\0\0\0";

fn setup(sender: &str) -> Setup {
    Setup { proxy_protocol_from: vec![IpBlock::parse(sender).unwrap()], ..Setup::default() }
}

#[tokio::test]
async fn the_client_is_who_the_sender_says() {
    let (world, origin) = (World::with(setup("127.0.0.1/32")).await, Origin::pages().await);
    let get = format!("GET http://example.com:{}/ HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n", origin.port);
    for header in [CLIENT, LOCAL] {
        let all = world.talk([SIGNATURE, header, get.as_bytes()].concat()).await;
        assert!(all.ends_with("\r\n\r\nhello"), "{all}");
    }
    let records = world.records();
    assert!(records[0].contains("\"source\":\"192.0.2.1:12345\""), "{}", records[0]);
    assert!(records[1].contains("\"source\":\"127.0.0.1:"), "{}", records[1]);
}

#[tokio::test]
async fn a_sender_without_a_good_header_is_refused() {
    let (world, origin) = (World::with(setup("127.0.0.0/8")).await, Origin::pages().await);
    let get = format!("GET http://example.com:{}/ HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n", origin.port);
    let long = [SIGNATURE, b"\x21\x11\x02\x09", &[0; 521]].concat();
    let bad = [
        get.clone().into_bytes(),
        format!("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n{get}").into_bytes(),
        [long, get.into_bytes()].concat(),
        SIGNATURE.to_vec(),
    ];
    for bytes in &bad {
        assert_refused(&world.talk(bytes).await, 400, "request_malformed");
    }
    assert_eq!(world.talk("").await, "", "the check of a load balancer");
    assert_eq!(origin.accepts(), 0);
    assert_eq!(world.records().len(), bad.len());
}

#[tokio::test]
async fn nobody_else_can_say_who_they_are() {
    let (world, origin) = (World::with(setup("192.0.2.0/24")).await, Origin::pages().await);
    let get = format!("GET http://example.com:{}/ HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n", origin.port);
    let all = world.talk([SIGNATURE, CLIENT, get.as_bytes()].concat()).await;
    assert_refused(&all, 400, "request_malformed");
    let all = world.talk(format!("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n{get}")).await;
    assert_refused(&all, 400, "request_malformed");
    assert_eq!(origin.accepts(), 0);
    assert!(world.talk(get).await.ends_with("hello"));
    assert!(world.records().iter().all(|record| record.contains("\"source\":\"127.0.0.1:")));
}

#[tokio::test]
async fn limits_are_for_the_client_and_not_for_the_sender() {
    let limits = Limits { connections_per_source: 1, ..Limits::default() };
    let (world, origin) =
        (World::with(Setup { limits, ..setup("127.0.0.1/32") }).await, Origin::pages().await);
    let get = format!("GET http://example.com:{}/ HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n", origin.port);
    let from = |last: u8| {
        let mut header = [SIGNATURE, CLIENT].concat();
        header[19] = last;
        [&header, get.as_bytes()].concat()
    };
    let mut held = world.connect().await;
    held.write_all(&from(1)).await.unwrap();
    assert!(read_response(&mut held).await.ends_with("hello"));
    assert_refused(&world.talk(from(1)).await, 429, "rate_limited");
    assert!(world.talk(from(2)).await.ends_with("hello"), "another client of the same sender");
}

#[tokio::test]
async fn what_is_no_header_is_refused_before_it_is_as_long_as_one() {
    // Far longer than the test may take: nothing is waited for.
    let limits = Limits { head_timeout: LONG * 100, ..Limits::default() };
    let world = World::with(Setup { limits, ..setup("127.0.0.1/32") }).await;
    for first in ["PROXY UNKNOWN\r\n", "GET / HTTP", "\r\n\r\nx"] {
        let mut stream = world.connect().await;
        stream.write_all(first.as_bytes()).await.unwrap();
        assert_refused(&read_response(&mut stream).await, 400, "request_malformed");
    }
}
