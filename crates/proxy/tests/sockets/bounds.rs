//! What each flow of a rule or of a client may come to: to the byte, in every protocol, and after a change of policy.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use exeat_policy::Caps;
use exeat_proxy::Limits;
use http::{Request, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    common::{AUTH, LONG, Origin, Setup, World, assert_refused, read_all, read_head, read_response},
    rules::Rules,
};

/// A bound that no chunk and no window ends at.
const MOST: usize = 100_003;
/// `other:secret`
const OTHER: &str = "Proxy-Authorization: Basic b3RoZXI6c2VjcmV0\r\n";
const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

fn up() -> Caps {
    Caps { max_bytes_up: Some(MOST as u64), ..Caps::default() }
}

fn down() -> Caps {
    Caps { max_bytes_down: Some(MOST as u64), ..Caps::default() }
}

/// A world in which flows to `example.com` are bound, those to `*.example.org` are not.
async fn bounded(caps: Caps) -> World {
    let world = World::start().await;
    world.proxy.replace(Rules { caps: vec![("example.com", caps)], ..Rules::new(8) }.snapshot());
    world
}

/// An upstream that answers each head with `answer`, sends `flood` more bytes, and counts what it is sent after heads.
struct Sink {
    port: u16,
    received: Arc<AtomicUsize>,
}

impl Sink {
    async fn start(answer: &'static str, flood: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let received = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&received);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    if !answer.is_empty() {
                        let _ = read_head(&mut stream).await;
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                    let (mut read, mut write) = stream.split();
                    let sending = async {
                        let _ = write.write_all(&vec![7; flood]).await;
                    };
                    let counting = async {
                        let mut bytes = vec![0; 65_536];
                        while let Ok(length @ 1..) = read.read(&mut bytes).await {
                            count.fetch_add(length, Ordering::SeqCst);
                        }
                    };
                    tokio::join!(sending, counting);
                });
            }
        });
        Self { port, received }
    }
}

/// How a tunnel is asked for.
#[derive(Clone, Copy, Debug)]
enum Form {
    Connect,
    Socks5,
    WebSocket,
}

impl Form {
    const ALL: [Self; 3] = [Self::Connect, Self::Socks5, Self::WebSocket];

    /// What its upstream says first.
    const fn answer(self) -> &'static str {
        match self {
            Self::Connect | Self::Socks5 => "",
            Self::WebSocket => SWITCHING,
        }
    }

    async fn open(self, world: &World, host: &str, port: u16) -> TcpStream {
        let mut stream = world.connect().await;
        match self {
            Self::Connect => {
                let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n");
                stream.write_all(request.as_bytes()).await.unwrap();
                assert!(read_head(&mut stream).await.unwrap().starts_with("HTTP/1.1 200 "));
            }
            Self::WebSocket => {
                let request = format!(
                    "GET http://{host}:{port}/ HTTP/1.1\r\nHost: a\r\n{AUTH}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
                );
                stream.write_all(request.as_bytes()).await.unwrap();
                assert!(read_head(&mut stream).await.unwrap().starts_with("HTTP/1.1 101 "));
            }
            Self::Socks5 => {
                let mut said = b"\x05\x01\x02\x01\x03app\x06secret\x05\x01\x00\x03".to_vec();
                said.push(u8::try_from(host.len()).unwrap());
                said.extend(host.as_bytes());
                said.extend(port.to_be_bytes());
                stream.write_all(&said).await.unwrap();
                let mut reply = [0; 14];
                timeout(LONG, stream.read_exact(&mut reply)).await.unwrap().unwrap();
                assert_eq!(reply[4..6], [5, 0]);
            }
        }
        stream
    }
}

/// How many bytes come until the connection breaks, which is by a reset.
async fn until_reset(stream: &mut TcpStream) -> usize {
    let mut bytes = Vec::new();
    let end = timeout(LONG, stream.read_to_end(&mut bytes)).await.expect("the end in time");
    assert_eq!(end.map_err(|error| error.kind()), Err(std::io::ErrorKind::ConnectionReset));
    bytes.len()
}

/// The value of a number in a record.
fn number(record: &str, key: &str) -> usize {
    let (_, rest) = record.split_once(&format!("\"{key}\":")).expect(record);
    rest.split([',', '}']).next().unwrap().parse().unwrap()
}

/// The one record of this event.
fn record_of(world: World, event: &str) -> String {
    let records = world.records();
    let found: Vec<_> = records.iter().filter(|r| r.contains(&format!("\"event\":\"{event}\""))).collect();
    assert_eq!(found.len(), 1, "{records:#?}");
    found[0].clone()
}

#[tokio::test]
async fn a_tunnel_carries_no_byte_more_than_it_may() {
    for form in Form::ALL {
        let (world, sink) = (bounded(up()).await, Sink::start(form.answer(), 0).await);
        let mut client = form.open(&world, "example.com", sink.port).await;
        let _ = client.write_all(&vec![1; 3 * MOST]).await;
        until_reset(&mut client).await;
        world.proxy.drain().await;
        assert!(sink.received.load(Ordering::SeqCst) <= MOST, "{form:?}");
        let record = record_of(world, "end");
        assert!(
            record.contains("\"end\":\"max_bytes\"") && number(&record, "bytes_up") == MOST,
            "{form:?}: {record}"
        );

        let (world, sink) = (bounded(down()).await, Sink::start(form.answer(), 3 * MOST).await);
        let mut client = form.open(&world, "example.com", sink.port).await;
        assert!(until_reset(&mut client).await <= MOST, "{form:?}");
        world.proxy.drain().await;
        let record = record_of(world, "end");
        assert!(
            record.contains("\"end\":\"max_bytes\"") && number(&record, "bytes_down") == MOST,
            "{form:?}: {record}"
        );
    }
}

#[tokio::test]
async fn a_tunnel_may_use_all_of_its_bytes_in_both_directions() {
    for form in Form::ALL {
        let both = Caps { max_bytes_down: Some(MOST as u64), ..up() };
        let (world, sink) = (bounded(both).await, Sink::start(form.answer(), MOST).await);
        let mut client = form.open(&world, "example.com", sink.port).await;
        let (mut read, mut write) = client.split();
        let sending = async {
            write.write_all(&vec![1; MOST]).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut bytes = Vec::new();
        let (_, came) = tokio::join!(sending, timeout(LONG, read.read_to_end(&mut bytes)));
        assert_eq!((came.unwrap().unwrap(), bytes.len()), (MOST, MOST), "{form:?}");
        world.proxy.drain().await;
        assert_eq!(sink.received.load(Ordering::SeqCst), MOST, "{form:?}");
        let record = record_of(world, "end");
        assert!(record.contains("\"end\":\"finished\""), "{form:?}: {record}");
    }
}

#[tokio::test]
async fn a_stream_of_http2_is_bound_as_any_tunnel() {
    let (world, sink) = (bounded(down()).await, Sink::start("", 3 * MOST).await);
    let (client, connection) = h2::client::handshake(world.connect().await).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let request = Request::connect(format!("example.com:{}", sink.port));
    let request = request.header("proxy-authorization", "Basic YXBwOnNlY3JldA==").body(()).unwrap();
    let (response, _sending) = client.send_request(request, false).unwrap();
    let response: http::Response<h2::RecvStream> = timeout(LONG, response).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    let mut came = 0;
    let broke = loop {
        match timeout(LONG, body.data()).await.expect("an end in time") {
            Some(Ok(data)) => {
                let data: Bytes = data;
                came += data.len();
                body.flow_control().release_capacity(data.len()).unwrap();
            }
            Some(Err(error)) => break error.is_reset(),
            None => break false,
        }
    };
    assert!(broke && came <= MOST, "{came}");
    drop(client);
    world.proxy.drain().await;
    let record = record_of(world, "end");
    assert!(record.contains("\"end\":\"max_bytes\"") && number(&record, "bytes_down") == MOST, "{record}");
}

fn post(host: &str, port: u16, fields: &str) -> String {
    format!("POST http://{host}:{port}/ HTTP/1.1\r\nHost: a\r\n{AUTH}{fields}\r\n")
}

#[tokio::test]
async fn a_request_body_carries_no_byte_more_than_it_may() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    let (world, sink) = (bounded(up()).await, Sink::start(answer, 0).await);
    // What announces too much reaches nobody.
    let announced = post("example.com", sink.port, &format!("Content-Length: {}\r\n", MOST + 1));
    assert_refused(&world.talk(announced).await, 403, "max_bytes");
    assert_eq!(sink.received.load(Ordering::SeqCst), 0);
    let all = post("example.com", sink.port, &format!("Content-Length: {MOST}\r\n")).into_bytes();
    let response = world.talk([all, vec![b'x'; MOST]].concat()).await;
    assert!(response.ends_with("hello"), "{response}");
    world.proxy.drain().await;
    assert_eq!(sink.received.load(Ordering::SeqCst), MOST);

    let (world, silent) = (bounded(up()).await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    let chunked = post("example.com", silent.local_addr().unwrap().port(), "Transfer-Encoding: chunked\r\n");
    let mut client = world.connect().await;
    let body = format!("{:x}\r\n{}\r\n", 2 * MOST, "x".repeat(2 * MOST));
    client.write_all(chunked.as_bytes()).await.unwrap();
    let (mut upstream, _) = timeout(LONG, silent.accept()).await.unwrap().unwrap();
    let counting = tokio::spawn(async move {
        read_head(&mut upstream).await.unwrap();
        let mut bytes = Vec::new();
        let _ = timeout(LONG, upstream.read_to_end(&mut bytes)).await.expect("the end in time");
        bytes.iter().filter(|byte| **byte == b'x').count()
    });
    let _ = client.write_all(body.as_bytes()).await;
    assert_refused(&read_response(&mut client).await, 403, "max_bytes");
    assert!(counting.await.unwrap() <= MOST);
    drop(client);
    world.proxy.drain().await;
    let record = record_of(world, "request");
    assert!(record.contains("\"reason\":\"max_bytes\"") && number(&record, "bytes_up") <= MOST, "{record}");
}

#[tokio::test]
async fn a_response_that_is_too_long_breaks_off() {
    for (answer, length) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 100004\r\n\r\n", 100_004),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", 300_000),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", 100_004),
    ] {
        let (world, sink) = (bounded(down()).await, Sink::start(answer, length).await);
        let mut client = world.connect().await;
        let get = format!("GET http://example.com:{}/ HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n", sink.port);
        client.write_all(get.as_bytes()).await.unwrap();
        assert!(read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 200 "));
        until_reset(&mut client).await;
        world.proxy.drain().await;
        let record = record_of(world, "request");
        assert!(
            record.contains("\"end\":\"max_bytes\"") && number(&record, "bytes_down") == MOST,
            "{record}"
        );
    }
    let whole = "HTTP/1.1 200 OK\r\nContent-Length: 100003\r\n\r\n";
    let (world, sink) = (bounded(down()).await, Sink::start(whole, MOST).await);
    let get = format!("GET http://example.com:{}/ HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n", sink.port);
    assert_eq!(world.talk(get).await.split_once("\r\n\r\n").unwrap().1.len(), MOST);
}

#[tokio::test]
async fn times_of_a_rule_end_its_flows_and_no_others() {
    // Later than a busy machine opens a tunnel.
    const SOON: Option<Duration> = Some(Duration::from_millis(500));
    for (caps, want) in [
        (Caps { max_age: SOON, ..Caps::default() }, "max_age"),
        (Caps { idle_timeout: SOON, ..Caps::default() }, "idle_timeout"),
    ] {
        for form in Form::ALL {
            let (world, sink) = (bounded(caps).await, Sink::start(form.answer(), 0).await);
            let mut free = form.open(&world, "a.example.org", sink.port).await;
            let mut client = form.open(&world, "example.com", sink.port).await;
            until_reset(&mut client).await;
            free.write_all(b"still there").await.unwrap();
            free.shutdown().await.unwrap();
            drop(free);
            world.proxy.drain().await;
            let records = world.records();
            let ends: Vec<_> = records.iter().filter(|r| r.contains("\"event\":\"end\"")).collect();
            assert!(ends[0].contains(&format!("\"end\":\"{want}\"")), "{form:?}: {ends:#?}");
            assert_eq!(number(ends[1], "bytes_up"), 11, "{form:?}: {ends:#?}");
        }
        // A response of which no more comes.
        let silent = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello";
        let (world, sink) = (bounded(caps).await, Sink::start(silent, 0).await);
        let mut client = world.connect().await;
        let get = format!("GET http://example.com:{}/ HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n", sink.port);
        client.write_all(get.as_bytes()).await.unwrap();
        read_head(&mut client).await.unwrap();
        let mut rest = Vec::new();
        let _ = timeout(LONG, client.read_to_end(&mut rest)).await.expect("the end in time");
        world.proxy.drain().await;
        let record = record_of(world, "request");
        assert!(record.contains(&format!("\"end\":\"{want}\"")), "{record}");
    }
}

/// `upload_rate = 0` leaves the client alone with its silence.
#[tokio::test]
async fn a_request_body_that_does_not_come_is_idle() {
    let limits = Limits { upload_rate: 0, ..Limits::default() };
    let world = World::with(Setup { limits, ..Setup::default() }).await;
    let caps = Caps { idle_timeout: Some(Duration::from_millis(50)), ..Caps::default() };
    world.proxy.replace(Rules { caps: vec![("example.com", caps)], ..Rules::new(8) }.snapshot());
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = world.connect().await;
    let request =
        post("example.com", silent.local_addr().unwrap().port(), "Content-Length: 10\r\n") + "12345";
    client.write_all(request.as_bytes()).await.unwrap();
    assert_refused(&read_response(&mut client).await, 408, "idle_timeout");
}

#[tokio::test]
async fn the_bounds_of_a_client_hold_whatever_the_rule_says() {
    let (world, sink) = (World::start().await, Sink::start("", 3 * MOST).await);
    world.proxy.replace(Rules { caps: vec![("other", down())], ..Rules::new(8) }.snapshot());
    let mut streams = Vec::new();
    for auth in [OTHER, AUTH] {
        let mut stream = world.connect().await;
        let request = format!("CONNECT example.com:{} HTTP/1.1\r\nHost: a\r\n{auth}\r\n", sink.port);
        stream.write_all(request.as_bytes()).await.unwrap();
        assert!(read_head(&mut stream).await.unwrap().starts_with("HTTP/1.1 200 "));
        streams.push(stream);
    }
    assert!(until_reset(&mut streams[0]).await <= MOST);
    streams[1].shutdown().await.unwrap();
    assert_eq!(read_all(&mut streams[1]).await.len(), 3 * MOST);
}

#[tokio::test]
async fn a_new_policy_bounds_what_is_open() {
    for (caps, want) in [
        (Caps { max_bytes_up: Some(3), ..Caps::default() }, "max_bytes"),
        (Caps { max_bytes_down: Some(3), ..Caps::default() }, "max_bytes"),
        (Caps { max_age: Some(Duration::ZERO), ..Caps::default() }, "max_age"),
        (Caps { idle_timeout: Some(Duration::from_millis(1)), ..Caps::default() }, "idle_timeout"),
    ] {
        let (world, echo) = (World::start().await, Origin::echo().await);
        let mut streams = Vec::new();
        for host in ["example.com", "a.example.org"] {
            let mut stream = Form::Connect.open(&world, host, echo.port).await;
            stream.write_all(b"ping").await.unwrap();
            let mut back = [0; 4];
            timeout(LONG, stream.read_exact(&mut back)).await.unwrap().unwrap();
            streams.push(stream);
        }
        world.proxy.replace(Rules { caps: vec![("example.com", caps)], ..Rules::new(8) }.snapshot());
        assert_eq!(until_reset(&mut streams[0]).await, 0, "{want}");
        streams[1].write_all(b"pong").await.unwrap();
        streams[1].shutdown().await.unwrap();
        assert_eq!(read_all(&mut streams[1]).await, "pong");
        world.proxy.drain().await;
        let records = world.records();
        let ends: Vec<_> = records.iter().filter(|r| r.contains("\"event\":\"end\"")).collect();
        assert!(
            ends[0].contains(&format!("\"end\":\"{want}\"")) && ends[0].contains("\"revision\":8"),
            "{ends:#?}"
        );
        assert!(ends[1].contains("\"end\":\"finished\""), "{ends:#?}");
    }
}
