//! How often connections and requests may come, and whose they are counted for.

use std::{net::Ipv4Addr, time::Duration};

use exeat_proxy::{Limits, metrics::LimitHit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::common::{AUTH, LONG, Origin, Setup, World, assert_refused, read_all, read_head, read_response};

/// `other:secret`
const OTHER: &str = "Proxy-Authorization: Basic b3RoZXI6c2VjcmV0\r\n";
/// `app:wrong`
const WRONG: &str = "Proxy-Authorization: Basic YXBwOndyb25n\r\n";
/// What may come at once, where one a second may come.
const BURST: usize = 5;
/// Many more than in the time that they take.
const MANY: usize = 100;

async fn limited(limits: Limits) -> World {
    let limits = Limits { rate_burst: Duration::from_secs(BURST as u64), ..limits };
    World::with(Setup { limits, ..Setup::default() }).await
}

fn hits(world: &World, limit: LimitHit) -> usize {
    usize::try_from(world.proxy.metrics().limits.get(limit)).unwrap()
}

fn get(port: u16, auth: &str) -> String {
    format!("GET http://example.com:{port}/ HTTP/1.1\r\nHost: a\r\n{auth}\r\n")
}

/// Sends [`MANY`] requests on one connection. Returns how many were not refused for their number, which the burst says
/// and the time that it took.
async fn ask_often(world: &World, request: &str) -> usize {
    let mut stream = world.connect().await;
    let mut passed = 0;
    for _ in 0..MANY {
        stream.write_all(request.as_bytes()).await.unwrap();
        let response = read_response(&mut stream).await;
        if response.starts_with("HTTP/1.1 429 ") {
            assert_refused(&response, 429, "rate_limited");
            assert!(response.contains("\r\nretry-after: 1\r\n"), "{response}");
        } else {
            passed += 1;
        }
    }
    assert!((BURST..MANY).contains(&passed), "{passed}");
    passed
}

/// What SOCKS5 says of a client that asks too often.
const GENERAL_FAILURE: [u8; 6] = [5, 2, 1, 0, 5, 1];

/// Asks for a tunnel over SOCKS5, and returns the answers to the greeting, the login and, up to its reason, the request.
async fn ask_by_socks(world: &World) -> [u8; 6] {
    let mut socks = world.connect().await;
    socks
        .write_all(b"\x05\x01\x02\x01\x03app\x06secret\x05\x01\x00\x03\x0bexample.com\x01\xbb")
        .await
        .unwrap();
    let mut said = [0; 6];
    timeout(LONG, socks.read_exact(&mut said)).await.unwrap().unwrap();
    said
}

/// A connection from this address.
async fn from(world: &World, source: Ipv4Addr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    socket.connect(world.address).await.unwrap()
}

#[tokio::test]
async fn requests_of_one_client_leave_others_theirs() {
    let world = limited(Limits { request_rate_per_client: 1, ..Limits::default() }).await;
    let origin = Origin::pages().await;
    let passed = ask_often(&world, &get(origin.port, AUTH)).await;
    assert_eq!(origin.heads().len(), passed, "what is refused reaches nobody");
    assert_eq!(hits(&world, LimitHit::RequestRatePerClient), MANY - passed);
    assert!(world.talk(get(origin.port, OTHER)).await.ends_with("hello"));
    // In whatever protocol it asks; and again if another second has gone by, which lets one more pass.
    let mut socks = ask_by_socks(&world).await;
    let connect = format!("CONNECT example.com:{} HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n", origin.port);
    let mut tunnel = world.talk(&connect).await;
    for _ in 0..10 {
        if socks != GENERAL_FAILURE {
            socks = ask_by_socks(&world).await;
        }
        if !tunnel.starts_with("HTTP/1.1 429 ") {
            tunnel = world.talk(&connect).await;
        }
    }
    assert_eq!(socks, GENERAL_FAILURE);
    assert_refused(&tunnel, 429, "rate_limited");
    world.proxy.drain().await;
    let records = world.records();
    let refused = records.iter().filter(|r| r.contains("\"reason\":\"rate_limited\"")).count();
    assert_eq!(refused, MANY - passed + 2, "each has its record");
}

#[tokio::test]
async fn requests_of_one_source_are_counted_before_their_passwords_are_checked() {
    let world = limited(Limits { request_rate_per_source: 1, ..Limits::default() }).await;
    let passed = ask_often(&world, &get(1, WRONG)).await;
    let checks: u64 = world.proxy.metrics().auth.iter().map(|(_, count)| count).sum();
    assert_eq!(usize::try_from(checks).unwrap(), passed);
    assert_eq!(hits(&world, LimitHit::RequestRatePerSource), MANY - passed);
    // A login over SOCKS5, too.
    let mut socks = world.connect().await;
    socks.write_all(b"\x05\x01\x02\x01\x03app\x06secret").await.unwrap();
    assert_eq!(read_all(&mut socks).await.as_bytes(), b"\x05\x02\x01\x01");
    // The same client from elsewhere is not meant.
    let origin = Origin::pages().await;
    let mut elsewhere = from(&world, Ipv4Addr::new(127, 0, 0, 7)).await;
    elsewhere.write_all(get(origin.port, AUTH).as_bytes()).await.unwrap();
    assert!(read_response(&mut elsewhere).await.ends_with("hello"));
}

#[tokio::test]
async fn new_connections_of_one_source_leave_others_theirs() {
    let world = limited(Limits { connection_rate_per_source: 1, ..Limits::default() }).await;
    let origin = Origin::pages().await;
    let mut passed = 0;
    for _ in 0..MANY {
        let response = world.talk(get(origin.port, AUTH)).await;
        match response.ends_with("hello") {
            true => passed += 1,
            false => assert_refused(&response, 429, "rate_limited"),
        }
    }
    assert!((BURST..MANY).contains(&passed), "{passed}");
    assert_eq!(hits(&world, LimitHit::ConnectionRatePerSource), MANY - passed);
    assert_eq!(hits(&world, LimitHit::ConnectionsPerSource), 0);
    let mut elsewhere = from(&world, Ipv4Addr::new(127, 0, 0, 7)).await;
    elsewhere.write_all(get(origin.port, AUTH).as_bytes()).await.unwrap();
    assert!(read_response(&mut elsewhere).await.ends_with("hello"));
}

/// All of them are one principal, but not one client.
#[tokio::test]
async fn clients_without_credentials_are_counted_by_source() {
    let limits = Limits { tunnels_per_client: 1, ..Limits::default() };
    let world = World::with(Setup { limits, anonymous: true, ..Setup::default() }).await;
    let origin = Origin::echo().await;
    let connect = format!("CONNECT example.com:{} HTTP/1.1\r\nHost: a\r\n\r\n", origin.port);
    let mut open = Vec::new();
    for (last, want) in [(1, "200"), (1, "429"), (7, "200"), (7, "429")] {
        let mut stream = from(&world, Ipv4Addr::new(127, 0, 0, last)).await;
        stream.write_all(connect.as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await.unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {want} ")), "{last}: {head}");
        open.push(stream);
    }
}
