//! Flows that reach a limit of their own.

use super::*;

#[tokio::test]
async fn flows_have_limits_of_their_own() {
    let age = Limits { flow_age: Some(Duration::from_millis(50)), ..Limits::default() };
    let up = Limits { flow_bytes_up: Some(3), ..Limits::default() };
    let down = Limits { flow_bytes_down: Some(3), ..Limits::default() };
    for (limits, want) in [(age, "max_age"), (up, "max_bytes"), (down, "max_bytes")] {
        let world = World::with(Setup { limits, ..Setup::default() }).await;
        let origin = Origin::echo().await;
        let mut open = tunnel(&world, &format!("example.com:{}", origin.port)).await;
        let _ = open.write_all(b"ping").await;
        assert!(read_to_reset(&mut open).await.len() <= 4);
        let port = trickling("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", b"xxxx").await;
        if want == "max_age" || limits.flow_bytes_down.is_some() {
            let mut stream = world.connect().await;
            stream.write_all(get(port, "1.1").as_bytes()).await.unwrap();
            read_to_reset(&mut stream).await;
        } else {
            let post = get(port, "1.1")
                .replace("GET", "POST")
                .replace(AUTH, &format!("{AUTH}Content-Length: 4\r\n"));
            let all = world.talk(post + "body").await;
            assert_refused(&all, 403, "max_bytes");
        }
        world.proxy.drain().await;
        let records = world.records();
        let ends: Vec<_> = [told(&records, "end"), told(&records, "request")].concat();
        assert_eq!(ends.len(), 2, "{records:#?}");
        assert!(ends.iter().all(|end| end["end"] == want), "{records:#?}");
    }
}

#[tokio::test]
async fn a_body_must_come_at_a_least_pace() {
    let limits =
        Limits { upload_rate: 1_000_000, upload_grace: Duration::from_millis(300), ..Limits::default() };
    let world = World::with(Setup { limits, ..Setup::default() }).await;
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = origin.local_addr().unwrap().port();
    let post = |length: usize| {
        get(port, "1.1").replace("GET", "POST").replace(AUTH, &format!("{AUTH}Content-Length: {length}\r\n"))
    };
    // A client that stops in the middle.
    let mut slow = world.connect().await;
    slow.write_all((post(10) + "12345").as_bytes()).await.unwrap();
    let (mut upstream, _) = origin.accept().await.unwrap();
    let response = timeout(LONG, read_response(&mut slow)).await.unwrap();
    assert_refused(&response, 408, "idle_timeout");
    let _ = timeout(LONG, upstream.read_to_end(&mut Vec::new())).await.expect("the upstream is let go");

    // A client that has sent everything, and an upstream that takes its time to read and to answer.
    let body = vec![b'x'; 4 << 20];
    let mut quick = world.connect().await;
    let sending = tokio::spawn({
        let head = post(body.len());
        async move {
            quick.write_all(head.as_bytes()).await.unwrap();
            quick.write_all(&body).await.unwrap();
            read_response(&mut quick).await
        }
    });
    let (mut upstream, _) = origin.accept().await.unwrap();
    assert!(read_head(&mut upstream).await.is_some());
    // Not to wait for something: it is the time that must not count.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut received = vec![0; 4 << 20];
    timeout(LONG, upstream.read_exact(&mut received)).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    upstream.write_all(&page("taken")).await.unwrap();
    assert!(sending.await.unwrap().ends_with("taken"));
}
