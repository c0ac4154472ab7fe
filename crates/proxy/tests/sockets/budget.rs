//! Connection limits and the drain, through a real proxy on sockets.

use std::time::Duration;

use crate::common::{
    AUTH, Origin, Setup, World, assert_refused, page, read_all, read_head, read_response, settle,
};
use exeat_proxy::Limits;
use tokio::io::AsyncWriteExt;

fn get(port: u16) -> String {
    format!("GET http://example.com:{port}/ HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n")
}

async fn limited(limits: Limits) -> World {
    World::with(Setup { limits, ..Setup::default() }).await
}

#[tokio::test]
async fn connections_over_the_budget_are_told_so() {
    for (limits, reason) in [
        (Limits { connections: 1, ..Limits::default() }, "connection_limit"),
        (Limits { connections_per_source: 1, ..Limits::default() }, "rate_limited"),
    ] {
        let (world, origin) = (limited(limits).await, Origin::pages().await);
        let mut first = world.connect().await;
        first.write_all(get(origin.port).as_bytes()).await.unwrap();
        assert!(read_response(&mut first).await.ends_with("hello"));
        let refused = world.talk(get(origin.port)).await;
        assert_refused(&refused, 429, reason);
        assert!(refused.contains("\r\nretry-after: 1\r\n"), "{refused}");
        drop(first);
        // The place is free as soon as the proxy has seen the end.
        while world.talk(get(origin.port)).await.starts_with("HTTP/1.1 429 ") {}
    }
}

#[tokio::test]
async fn a_drain_ends_idle_connections_at_once_and_tunnels_in_time() {
    let world = limited(Limits { drain_timeout: Duration::from_millis(200), ..Limits::default() }).await;
    let (pages, echo) = (Origin::pages().await, Origin::echo().await);
    let mut idle = world.connect().await;
    idle.write_all(get(pages.port).as_bytes()).await.unwrap();
    assert!(read_response(&mut idle).await.ends_with("hello"));
    let mut tunnel = world.connect().await;
    let connect = format!("CONNECT example.com:{} HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n", echo.port);
    tunnel.write_all(connect.as_bytes()).await.unwrap();
    assert!(read_head(&mut tunnel).await.unwrap().starts_with("HTTP/1.1 200 "));
    let proxy = world.proxy.clone();
    let draining = tokio::spawn(async move { proxy.drain().await });
    assert_eq!(read_all(&mut idle).await, "");
    assert_eq!(read_all(&mut tunnel).await, "");
    assert_eq!(draining.await.unwrap(), 1);
    let records = world.records();
    assert!(records.last().unwrap().contains("\"end\":\"draining\""), "{records:?}");
}

#[tokio::test]
async fn a_drain_lets_a_response_finish() {
    let world = World::start().await;
    let upstream = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = world.connect().await;
    client.write_all(get(upstream.local_addr().unwrap().port()).as_bytes()).await.unwrap();
    let (mut origin, _) = upstream.accept().await.unwrap();
    read_head(&mut origin).await.unwrap();
    let proxy = world.proxy.clone();
    let draining = tokio::spawn(async move { proxy.drain().await });
    settle().await;
    origin.write_all(&page("late")).await.unwrap();
    let response = read_all(&mut client).await;
    assert!(response.contains("connection: close\r\n") && response.ends_with("late"), "{response}");
    drop(client);
    assert_eq!(draining.await.unwrap(), 0);
}

#[tokio::test]
async fn a_drain_waits_for_tunnels_that_end() {
    let (world, echo) = (World::start().await, Origin::echo().await);
    let mut tunnel = world.connect().await;
    let connect = format!("CONNECT example.com:{} HTTP/1.1\r\nHost: a\r\n{AUTH}\r\nping", echo.port);
    tunnel.write_all(connect.as_bytes()).await.unwrap();
    assert!(read_head(&mut tunnel).await.unwrap().starts_with("HTTP/1.1 200 "));
    let proxy = world.proxy.clone();
    let draining = tokio::spawn(async move { proxy.drain().await });
    tunnel.shutdown().await.unwrap();
    assert_eq!(read_all(&mut tunnel).await, "ping");
    assert_eq!(draining.await.unwrap(), 0);
}
