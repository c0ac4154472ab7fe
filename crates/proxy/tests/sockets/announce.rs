//! Upstreams and next hops that are told of the client in a PROXY header, and those that are not.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use exeat_policy::Announce;
use exeat_proxy::{
    HopProtocol,
    proxy_protocol_wire::{Ends, FIXED_BYTES, PRINCIPAL_TYPE, SIGNATURE, length, parse},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    common::{AUTH, NextHopSetup, Setup, World, page, read_head, read_response, settle},
    hops::{connect, through},
};

/// An upstream that wants a header, and answers what follows with pages.
struct Upstream {
    port: u16,
    headers: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Upstream {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (port, headers) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
        let kept = Arc::clone(&headers);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&kept)));
            }
        });
        Self { port, headers }
    }

    /// The headers so far: the client of each, and the bytes of its further fields.
    fn headers(&self) -> Vec<(Ends, Vec<u8>)> {
        let nobody: SocketAddr = "0.0.0.0:0".parse().unwrap();
        let read = |header: &Vec<u8>| {
            let client = parse(header, Ends { peer: nobody, local: nobody }).expect("a header");
            // Two addresses and two ports of IPv4.
            (client, header[FIXED_BYTES + 12..].to_vec())
        };
        self.headers.lock().unwrap().iter().map(read).collect()
    }
}

async fn serve(mut stream: TcpStream, kept: Arc<Mutex<Vec<Vec<u8>>>>) -> Option<()> {
    let mut fixed = [0; FIXED_BYTES];
    stream.read_exact(&mut fixed).await.ok()?;
    let mut header = fixed.to_vec();
    if fixed.starts_with(SIGNATURE) {
        header.resize(length(&fixed)?, 0);
        stream.read_exact(&mut header[FIXED_BYTES..]).await.ok()?;
    }
    kept.lock().unwrap().push(header);
    loop {
        let head = read_head(&mut stream).await?;
        let answer =
            if head.starts_with("CONNECT ") { b"HTTP/1.1 200 OK\r\n\r\n".to_vec() } else { page("hello") };
        stream.write_all(&answer).await.ok()?;
    }
}

/// A field of a header (§2.2).
fn field(kind: u8, value: &str) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind], &length[..], value.as_bytes()].concat()
}

fn get(port: u16) -> String {
    format!("GET http://example.com:{port}/ HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n")
}

/// The `request_id` of a record.
fn id(record: &str) -> &str {
    record.split("\"request_id\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("an id")
}

#[tokio::test]
async fn an_upstream_is_told_of_the_client() {
    for announce in [Announce::Client, Announce::ClientAndPrincipal] {
        let upstream = Upstream::start().await;
        let world = World::with(Setup { announce: Some(announce), ..Setup::default() }).await;
        let mut tunnel = world.connect().await;
        tunnel.write_all(connect(&format!("example.com:{}", upstream.port)).as_bytes()).await.unwrap();
        assert!(read_head(&mut tunnel).await.unwrap().starts_with("HTTP/1.1 200 "));
        tunnel.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(read_response(&mut tunnel).await.ends_with("hello"));
        let mut forward = world.connect().await;
        forward.write_all(get(upstream.port).as_bytes()).await.unwrap();
        assert!(read_response(&mut forward).await.ends_with("hello"));
        settle().await;

        let (headers, ends) = (upstream.headers(), [tunnel, forward]);
        let local = world.address;
        let clients: Vec<Ends> = headers.iter().map(|(client, _)| *client).collect();
        assert_eq!(clients, ends.each_ref().map(|end| Ends { peer: end.local_addr().unwrap(), local }));
        drop(ends);
        let records = world.records();
        for (_, fields) in &headers {
            let has = |record: &String| {
                let unique = field(5, id(record));
                let principal = match announce {
                    Announce::ClientAndPrincipal => field(PRINCIPAL_TYPE, "app"),
                    Announce::Client | Announce::Nothing => Vec::new(),
                };
                *fields == [unique, principal].concat()
            };
            assert!(records.iter().any(has), "{fields:?} is of none of {records:?}");
        }
    }
}

#[tokio::test]
async fn nobody_is_told_who_was_not_configured_to_be() {
    for announce in [None, Some(Announce::Nothing)] {
        let upstream = Upstream::start().await;
        let world = World::with(Setup { announce, ..Setup::default() }).await;
        let mut tunnel = world.connect().await;
        tunnel.write_all(connect(&format!("example.com:{}", upstream.port)).as_bytes()).await.unwrap();
        assert!(read_head(&mut tunnel).await.unwrap().starts_with("HTTP/1.1 200 "));
        tunnel.write_all(b"GET / HTTP/1.1\r\nA: b\r\n\r\n").await.unwrap();
        assert!(read_response(&mut tunnel).await.ends_with("hello"));
        let first = upstream.headers.lock().unwrap()[0].clone();
        assert_eq!(first, b"GET / HTTP/1.1\r\n", "the client's own first bytes");
    }
}

#[tokio::test]
async fn a_connection_that_speaks_for_a_client_serves_no_other() {
    for (announce, want) in [(Some(Announce::Client), 2), (None, 1)] {
        let upstream = Upstream::start().await;
        let world = World::with(Setup { announce, ..Setup::default() }).await;
        let (mut one, mut two) = (world.connect().await, world.connect().await);
        for stream in [&mut one, &mut two] {
            for _ in 0..2 {
                stream.write_all(get(upstream.port).as_bytes()).await.unwrap();
                assert!(read_response(stream).await.ends_with("hello"));
                settle().await;
            }
        }
        assert_eq!(upstream.headers.lock().unwrap().len(), want, "{announce:?}");
    }
}

#[tokio::test]
async fn a_next_hop_is_told_of_the_client_before_it_is_asked() {
    let hop = Upstream::start().await;
    let next_hop =
        NextHopSetup { announce: Announce::ClientAndPrincipal, ..through(hop.port, HopProtocol::Http) };
    let world = World::with(Setup { next_hop: Some(next_hop), ..Setup::default() }).await;
    let (mut tunnel, mut forward) = (world.connect().await, world.connect().await);
    tunnel.write_all(connect("example.com:443").as_bytes()).await.unwrap();
    assert!(read_head(&mut tunnel).await.unwrap().starts_with("HTTP/1.1 200 "));
    forward.write_all(get(80).as_bytes()).await.unwrap();
    assert!(read_response(&mut forward).await.ends_with("hello"));
    let headers = hop.headers();
    let peers: Vec<SocketAddr> = headers.iter().map(|(client, _)| client.peer).collect();
    assert_eq!(peers, [tunnel, forward].map(|end| end.local_addr().unwrap()));
    assert!(headers.iter().all(|(_, fields)| fields.ends_with(&field(PRINCIPAL_TYPE, "app"))), "{headers:?}");
    assert_eq!(world.queries(), 0);
}
