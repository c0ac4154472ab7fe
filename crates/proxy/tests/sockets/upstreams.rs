//! Connections to upstreams: who keeps them going, when they are used again, and when they are closed.

use crate::common::{AUTH, LONG, Setup, World, page, read_all, read_head, read_response};
use exeat_proxy::{Door, Limits};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Builder,
    time::timeout,
};

/// Far more than the sockets between two ends hold.
const MUCH: usize = 32 << 20;

/// An upstream whose connections the test holds itself.
struct Upstream(TcpListener);

impl Upstream {
    async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn request(&self, line: &str, extra: &str) -> String {
        let port = self.0.local_addr().unwrap().port();
        let (method, path) = line.split_once(' ').unwrap();
        format!("{method} http://example.com:{port}{path} HTTP/1.1\r\nHost: example.com\r\n{AUTH}{extra}\r\n")
    }

    /// The next connection, and the head of its first request.
    async fn accept(&self) -> (TcpStream, String) {
        let (mut stream, _) = timeout(LONG, self.0.accept()).await.expect("a connection in time").unwrap();
        let head = read_head(&mut stream).await.expect("a request");
        (stream, head)
    }
}

/// What an upstream sees when its connection is closed, whatever the way.
async fn assert_closed(stream: &mut TcpStream) {
    let mut bytes = Vec::new();
    let _ = timeout(LONG, stream.read_to_end(&mut bytes)).await.expect("the end in time");
    assert_eq!(String::from_utf8_lossy(&bytes), "", "nothing but the end");
}

#[tokio::test]
async fn an_idle_connection_is_closed_when_its_upstream_closes_it() {
    let limits = Limits { pool_idle_timeout: LONG * 100, pool_age: LONG * 100, ..Limits::default() };
    let (world, upstream) =
        (World::with(Setup { limits, ..Setup::default() }).await, Upstream::start().await);
    let mut client = world.connect().await;
    for _ in 0..2 {
        client.write_all(upstream.request("GET /", "").as_bytes()).await.unwrap();
        let (mut kept, _) = upstream.accept().await;
        kept.write_all(&page("once")).await.unwrap();
        assert!(read_response(&mut client).await.ends_with("once"));
        kept.shutdown().await.unwrap();
        assert_closed(&mut kept).await;
    }
}

#[tokio::test]
async fn a_response_comes_as_it_is_sent_and_its_connection_is_used_again() {
    let (world, upstream) = (World::start().await, Upstream::start().await);
    let mut client = world.connect().await;
    client.write_all(upstream.request("GET /", "").as_bytes()).await.unwrap();
    let (mut kept, _) = upstream.accept().await;
    for _ in 0..3 {
        kept.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        assert!(read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
        for piece in ["1\r\na\r\n", "2\r\nbc\r\n", "0\r\n\r\n"] {
            kept.write_all(piece.as_bytes()).await.unwrap();
            let mut seen = vec![0; piece.len()];
            timeout(LONG, client.read_exact(&mut seen)).await.expect("the piece before the next").unwrap();
            assert_eq!(String::from_utf8_lossy(&seen), piece);
        }
        client.write_all(upstream.request("GET /again", "").as_bytes()).await.unwrap();
        assert!(read_head(&mut kept).await.unwrap().starts_with("GET /again "), "on the same connection");
    }
}

#[tokio::test]
async fn a_large_response_arrives_whole_and_its_connection_is_used_again() {
    let (world, upstream) = (World::start().await, Upstream::start().await);
    let mut client = world.connect().await;
    client.write_all(upstream.request("GET /", "").as_bytes()).await.unwrap();
    let (mut kept, _) = upstream.accept().await;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {MUCH}\r\n\r\n");
    let sending = tokio::spawn(async move {
        kept.write_all(head.as_bytes()).await.unwrap();
        for number in 0..MUCH / 4096 {
            let byte = u8::try_from(number % 251).unwrap();
            kept.write_all(&[byte; 4096]).await.unwrap();
        }
        kept
    });
    read_head(&mut client).await.unwrap();
    let mut piece = [0; 4096];
    for number in 0..MUCH / 4096 {
        timeout(LONG, client.read_exact(&mut piece)).await.expect("bytes in time").unwrap();
        assert!(piece.iter().all(|byte| usize::from(*byte) == number % 251), "piece {number}");
    }
    let mut kept = sending.await.unwrap();
    client.write_all(upstream.request("GET /again", "").as_bytes()).await.unwrap();
    assert!(read_head(&mut kept).await.unwrap().starts_with("GET /again "));
}

#[tokio::test]
async fn an_upload_goes_on_while_nobody_takes_the_response() {
    let (world, upstream) = (World::start().await, Upstream::start().await);
    let mut client = world.connect().await;
    let length = format!("Content-Length: {MUCH}\r\n");
    client.write_all(upstream.request("POST /", &length).as_bytes()).await.unwrap();
    let (kept, _) = upstream.accept().await;
    let (mut reading, mut writing) = kept.into_split();
    let answering = tokio::spawn(async move {
        writing.write_all(format!("HTTP/1.1 200 OK\r\n{length}\r\n").as_bytes()).await.unwrap();
        writing.write_all(&vec![b'r'; MUCH]).await.unwrap();
        writing
    });
    let taking = tokio::spawn(async move {
        let mut all = vec![0; MUCH];
        reading.read_exact(&mut all).await.unwrap();
        reading
    });
    // All of the upload before a byte of the response.
    timeout(LONG, client.write_all(&vec![b'u'; MUCH])).await.expect("the upload in time").unwrap();
    let _reading = timeout(LONG, taking).await.expect("the upload in time").unwrap();
    assert!(read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
    let mut all = vec![0; MUCH];
    timeout(LONG, client.read_exact(&mut all)).await.expect("the response in time").unwrap();
    assert!(all.iter().all(|byte| *byte == b'r'));
    answering.await.unwrap();
}

#[tokio::test]
async fn a_connection_is_closed_when_the_client_leaves_its_response() {
    let (world, upstream) = (World::start().await, Upstream::start().await);
    let mut client = world.connect().await;
    client.write_all(upstream.request("GET /", "").as_bytes()).await.unwrap();
    let (mut kept, _) = upstream.accept().await;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {MUCH}\r\n\r\n");
    kept.write_all(head.as_bytes()).await.unwrap();
    read_head(&mut client).await.unwrap();
    drop(client);
    let all = vec![0; MUCH];
    let sent = timeout(LONG, kept.write_all(&all)).await.expect("the end of the connection in time");
    assert!(sent.is_err(), "nobody took all of it");
}

#[tokio::test]
async fn what_came_before_a_break_is_delivered() {
    let (world, upstream) = (World::start().await, Upstream::start().await);
    for body in ["", "only this"] {
        let mut client = world.connect().await;
        client.write_all(upstream.request("GET /", "").as_bytes()).await.unwrap();
        let (mut kept, _) = upstream.accept().await;
        // In one piece with the end, so that the proxy finds it all at once.
        let part = format!("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{body}");
        kept.write_all(part.as_bytes()).await.unwrap();
        kept.shutdown().await.unwrap();
        let all = read_all(&mut client).await;
        assert!(all.starts_with("HTTP/1.1 200 OK\r\n") && all.ends_with(&format!("\r\n\r\n{body}")), "{all}");
    }
    assert!(world.records().iter().all(|record| record.contains("\"upstream_reset\"")));
}

/// How a response ends that has no length and that the connection ends, for a client that knows no other way.
async fn end_for_http10(world: &World, upstream: &Upstream, answer: &str) -> std::io::Result<String> {
    let mut client = world.connect().await;
    let request = upstream.request("GET /", "").replace("HTTP/1.1", "HTTP/1.0");
    client.write_all(request.as_bytes()).await.unwrap();
    let (mut kept, _) = upstream.accept().await;
    kept.write_all(answer.as_bytes()).await.unwrap();
    kept.shutdown().await.unwrap();
    let mut all = String::new();
    timeout(LONG, client.read_to_string(&mut all)).await.expect("the end in time")?;
    Ok(all)
}

#[tokio::test]
async fn a_response_that_broke_off_is_no_whole_one_for_a_client_of_http10() {
    let limits = Limits { idle_timeout: std::time::Duration::from_millis(100), ..Limits::default() };
    let world = World::with(Setup { limits, ..Setup::default() }).await;
    let upstream = Upstream::start().await;
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    for (answer, whole) in [
        ("HTTP/1.0 200 OK\r\n\r\nhello".to_owned(), true),
        (format!("{chunked}0\r\n\r\n"), true),
        (chunked.to_owned(), false),
        (format!("{chunked}5\r\nhe"), false),
        (format!("{chunked}no length\r\n"), false),
    ] {
        match end_for_http10(&world, &upstream, &answer).await {
            Ok(all) => assert!(whole && all.ends_with("\r\n\r\nhello"), "{answer:?}: {all}"),
            Err(error) => {
                assert_eq!((whole, error.kind()), (false, std::io::ErrorKind::ConnectionReset), "{answer:?}");
            }
        }
    }
    // Nothing more comes of it, and nothing ends either.
    let mut client = world.connect().await;
    let request = upstream.request("GET /", "").replace("HTTP/1.1", "HTTP/1.0");
    client.write_all(request.as_bytes()).await.unwrap();
    let (mut kept, _) = upstream.accept().await;
    kept.write_all(chunked.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    let end = timeout(LONG, client.read_to_end(&mut all)).await.expect("the end in time");
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_kept_connection_serves_another_core_and_outlives_its_own() {
    let (world, upstream) = (World::start().await, Upstream::start().await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (other, listener) = (listener.local_addr().unwrap(), listener.into_std().unwrap());
    let mut core = Some(Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());
    let proxy = world.proxy.clone();
    core.as_ref()
        .unwrap()
        .spawn(async move { proxy.serve(TcpListener::from_std(listener).unwrap(), Door::default()).await });

    let mut client = TcpStream::connect(other).await.unwrap();
    client.write_all(upstream.request("GET /there", "").as_bytes()).await.unwrap();
    let (mut kept, _) = upstream.accept().await;
    kept.write_all(&page("x")).await.unwrap();
    assert!(read_response(&mut client).await.ends_with('x'));

    let mut client = world.connect().await;
    for path in ["/here", "/still-here"] {
        client.write_all(upstream.request(&format!("GET {path}"), "").as_bytes()).await.unwrap();
        let head = timeout(LONG, read_head(&mut kept)).await.expect("the same connection").unwrap();
        assert!(head.starts_with(&format!("GET {path} ")), "{head}");
        kept.write_all(&page(path)).await.unwrap();
        assert!(read_response(&mut client).await.ends_with(path));
        if let Some(core) = core.take() {
            tokio::task::spawn_blocking(move || core.shutdown_timeout(LONG)).await.unwrap();
        }
    }
}

/// What a connection brings while nobody asks and its own core is busy passes for no response on another one.
#[tokio::test]
async fn what_comes_unasked_is_no_response_on_another_core() {
    for unasked in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstale"] {
        let (world, upstream) = (World::start().await, Upstream::start().await);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (other, listener) = (listener.local_addr().unwrap(), listener.into_std().unwrap());
        let core = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let proxy = world.proxy.clone();
        core.spawn(async move {
            proxy.serve(TcpListener::from_std(listener).unwrap(), Door::default()).await;
        });
        let mut client = TcpStream::connect(other).await.unwrap();
        client.write_all(upstream.request("GET /there", "").as_bytes()).await.unwrap();
        let (mut kept, _) = upstream.accept().await;
        kept.write_all(&page("x")).await.unwrap();
        assert!(read_response(&mut client).await.ends_with('x'));

        let (busy, is_busy) = tokio::sync::oneshot::channel();
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        core.spawn(async move {
            busy.send(()).unwrap();
            let _ = is_done.recv();
        });
        is_busy.await.unwrap();
        kept.write_all(unasked).await.unwrap();
        kept.shutdown().await.unwrap();

        let mut client = world.connect().await;
        // Not one that could be sent twice.
        client.write_all(upstream.request("POST /here", "Content-Length: 0\r\n").as_bytes()).await.unwrap();
        let answering = async {
            let (mut fresh, head) = upstream.accept().await;
            assert!(head.starts_with("POST /here "), "{head}");
            fresh.write_all(&page("fresh")).await.unwrap();
            fresh
        };
        let (response, _fresh) = tokio::join!(read_response(&mut client), answering);
        assert!(response.ends_with("fresh"), "{response}");
        drop(done);
        tokio::task::spawn_blocking(move || core.shutdown_timeout(LONG)).await.unwrap();
    }
}

/// The connection that the proxy keeps to `upstream` for the next request, if it does.
async fn kept(client: &mut TcpStream, upstream: &Upstream) -> Option<TcpStream> {
    client.write_all(upstream.request("GET /", "").as_bytes()).await.unwrap();
    let (mut first, _) = upstream.accept().await;
    first.write_all(&page("1")).await.unwrap();
    assert!(read_response(client).await.ends_with('1'));
    crate::common::settle().await;
    client.write_all(upstream.request("GET /again", "").as_bytes()).await.unwrap();
    tokio::select! {
        head = read_head(&mut first) => head?,
        _ = upstream.accept() => return None,
    };
    first.write_all(&page("2")).await.unwrap();
    assert!(read_response(client).await.ends_with('2'));
    Some(first)
}

#[tokio::test]
async fn a_connection_that_is_gone_takes_no_place_from_another() {
    let limits =
        Limits { pool_idle: 1, pool_idle_timeout: LONG * 100, pool_age: LONG * 100, ..Limits::default() };
    let world = World::with(Setup { limits, ..Setup::default() }).await;
    let (gone, other) = (Upstream::start().await, Upstream::start().await);
    let mut client = world.connect().await;
    // With a body, a connection has a task of its own.
    client.write_all((gone.request("POST /", "Content-Length: 1\r\n") + "x").as_bytes()).await.unwrap();
    let (mut idle, _) = gone.accept().await;
    assert_eq!(idle.read_u8().await.unwrap(), b'x');
    idle.write_all(&page("once")).await.unwrap();
    assert!(read_response(&mut client).await.ends_with("once"));
    crate::common::settle().await;
    idle.shutdown().await.unwrap();
    assert_closed(&mut idle).await;
    let _in_its_place = kept(&mut client, &other).await.expect("room for it");
    // As long as that one is there, there is none for a third.
    let third = Upstream::start().await;
    assert!(kept(&mut client, &third).await.is_none());
}
