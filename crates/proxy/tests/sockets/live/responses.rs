//! Responses in flight when the policy changes.

use super::*;

#[tokio::test]
async fn a_response_in_flight_breaks_off_visibly() {
    for (case, version, head, chunk) in [
        ("by length", "1.1", "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", &b"x"[..]),
        ("chunked", "1.1", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        ("by the end of the stream", "1.0", "HTTP/1.0 200 OK\r\n\r\n", b"x"),
    ] {
        let world = World::start().await;
        let port = trickling(head, chunk).await;
        let mut stream = world.connect().await;
        stream.write_all(get(port, version).as_bytes()).await.unwrap();
        assert!(read_head(&mut stream).await.unwrap().contains(" 200 "), "{case}");
        timeout(LONG, stream.read_u8()).await.unwrap().unwrap();
        let flows = world.proxy.flows();
        assert_eq!(flows.len(), 1, "{case}: {flows:#?}");
        assert_eq!(flows[0].kind, FlowKind::Request);
        world.proxy.replace(Rules { allow: vec!["a.example.org"], ..Rules::new(8) }.snapshot());
        let rest = read_to_reset(&mut stream).await;
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{case}");
        world.proxy.drain().await;
        let records = world.records();
        let ends = told(&records, "request");
        assert_eq!(
            (ends[0]["end"].as_str(), ends[0]["verdict"].as_str()),
            ("policy_changed", "deny"),
            "{case}"
        );
        assert_eq!(revisions(&records, "request"), [8], "{case}");
    }
}

#[tokio::test]
async fn a_response_that_the_client_does_not_read_ends_too() {
    let world = World::start().await;
    let port = trickling("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", &[b'x'; 65_536]).await;
    let mut stream = world.connect().await;
    stream.write_all(get(port, "1.1").as_bytes()).await.unwrap();
    assert!(read_head(&mut stream).await.is_some());
    // Until nothing moves any more: the client's and the proxy's buffers are full.
    let mut moved = 0;
    let mut quiet = 0;
    while quiet < 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = world.proxy.flows()[0].bytes_down;
        quiet = if now == moved { quiet + 1 } else { 0 };
        moved = now;
    }
    world.proxy.replace(Rules { allow: vec![], ..Rules::new(8) }.snapshot());
    let gone = async {
        while !world.proxy.flows().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, gone).await.expect("the flow ends in time");
}

#[tokio::test]
async fn a_response_that_is_still_allowed_goes_on() {
    let (world, gate) = (World::start().await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    let mut stream = world.connect().await;
    stream.write_all(get(gate.local_addr().unwrap().port(), "1.1").as_bytes()).await.unwrap();
    let (mut origin, _) = gate.accept().await.unwrap();
    assert!(read_head(&mut origin).await.is_some());
    origin.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe").await.unwrap();
    assert!(read_head(&mut stream).await.is_some());
    world.proxy.replace(Rules { allow: vec!["example.com"], ..Rules::new(8) }.snapshot());
    decided_again(&world, 8).await;
    origin.write_all(b"llo").await.unwrap();
    let mut body = [0; 5];
    timeout(LONG, stream.read_exact(&mut body)).await.unwrap().unwrap();
    assert_eq!(&body, b"hello");
    settle().await;
    let records = world.records();
    let ends = told(&records, "request");
    assert_eq!((ends[0]["end"].as_str(), ends[0]["verdict"].as_str()), ("finished", "allow"));
    assert_eq!(revisions(&records, "request"), [8]);
}

#[tokio::test]
async fn a_request_without_a_response_yet_is_refused() {
    let (world, gate) = (World::start().await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    let mut stream = world.connect().await;
    stream.write_all(get(gate.local_addr().unwrap().port(), "1.1").as_bytes()).await.unwrap();
    let (mut origin, _) = gate.accept().await.unwrap();
    assert!(read_head(&mut origin).await.is_some());
    world.proxy.replace(Rules { allow: vec!["a.example.org"], ..Rules::new(8) }.snapshot());
    let response = timeout(BOUND, read_response(&mut stream)).await.expect("a refusal in time");
    assert_refused(&response, 403, "policy_changed");
    assert_eq!(read_all(&mut origin).await, "", "the upstream is let go");
    // The connection of the client is good for what is allowed.
    let allowed = Origin::pages().await;
    let again = get(allowed.port, "1.1").replace("//example.com", "//a.example.org");
    stream.write_all(again.as_bytes()).await.unwrap();
    assert!(read_response(&mut stream).await.ends_with("hello"));
}

#[tokio::test]
async fn a_kept_connection_is_of_no_use_to_whoever_may_not_reach_its_end() {
    let (world, origin) = (World::start().await, Origin::pages().await);
    let request = get(origin.port, "1.1");
    let mut stream = world.connect().await;
    for _ in 0..2 {
        stream.write_all(request.as_bytes()).await.unwrap();
        assert!(read_response(&mut stream).await.ends_with("hello"));
        settle().await;
    }
    assert_eq!((origin.accepts(), origin.heads().len()), (1, 2), "one connection, used twice");
    world.proxy.replace(Rules { allow: vec!["a.example.org"], ..Rules::new(8) }.snapshot());
    stream.write_all(request.as_bytes()).await.unwrap();
    assert_refused(&read_response(&mut stream).await, 403, "host_not_allowed");
    world.proxy.replace(Rules { addresses: "10.0.0.0/8", ..Rules::new(9) }.snapshot());
    stream.write_all(request.as_bytes()).await.unwrap();
    assert_refused(&read_response(&mut stream).await, 403, "address_not_allowed");
    assert_eq!((origin.accepts(), origin.heads().len()), (1, 2), "nothing reached it");
}
