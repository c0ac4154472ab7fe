//! Flows that are open when the policy changes, when somebody cuts them, and when they reach a limit of their own.

use std::{collections::BTreeMap, time::Duration};

use exeat_model::Host;
use exeat_policy::{Expect, Label, Mode, Reason};
use exeat_proxy::{FlowFilter, FlowKind, Limits, Selector, StateError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

use crate::{
    common::{
        AUTH, LONG, Origin, Setup, World, assert_refused, page, read_all, read_head, read_response, settle,
    },
    rules::Rules,
};

/// Ten times the second within which a flow that is no longer allowed ends.
const BOUND: Duration = Duration::from_secs(10);
/// `other:secret`
const OTHER: &str = "Proxy-Authorization: Basic b3RoZXI6c2VjcmV0\r\n";
/// `app:new`
const NEW: &str = "Proxy-Authorization: Basic YXBwOm5ldw==\r\n";

/// Opens a tunnel with these credentials.
async fn tunnel_as(world: &World, auth: &str, target: &str) -> TcpStream {
    let mut stream = world.connect().await;
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{auth}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{target}: {head}");
    stream
}

async fn tunnel(world: &World, target: &str) -> TcpStream {
    tunnel_as(world, AUTH, target).await
}

async fn echoes(stream: &mut TcpStream) {
    stream.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    timeout(LONG, stream.read_exact(&mut echo)).await.unwrap().unwrap();
    assert_eq!(&echo, b"ping");
}

/// Waits until the snapshot of this revision has decided on every flow.
async fn decided_again(world: &World, revision: u64) {
    let decided = async {
        while world.proxy.flows().iter().any(|flow| flow.revision.0 != revision) {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, decided).await.expect("the sweep in time");
}

/// What a tunnel still says until it breaks, and that it breaks by a reset and in time.
async fn read_to_reset(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let end = timeout(BOUND, stream.read_to_end(&mut bytes)).await.expect("the end in time");
    assert_eq!(end.map_err(|error| error.kind()), Err(std::io::ErrorKind::ConnectionReset));
    bytes
}

/// Bytes that no loss or repetition leaves the same.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64).map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

/// The part of each record that the tests look at: event, host, verdict, reason, revision and end.
fn told(records: &[String], event: &str) -> Vec<BTreeMap<&'static str, String>> {
    let value = |line: &str, key: &'static str| {
        let (_, rest) = line.split_once(&format!("\"{key}\":"))?;
        let end = rest.find([',', '}'])?;
        Some((key, rest[..end].trim_matches('"').to_owned()))
    };
    let of_event = records.iter().filter(|line| line.contains(&format!("\"event\":\"{event}\"")));
    let keys = ["name", "verdict", "reason", "revision", "end", "status", "bytes_down"];
    of_event
        .map(|line| {
            // The principal has a name, too; the target's comes after it.
            let line = line.split_once("\"source\"").map_or(line.as_str(), |(_, rest)| rest);
            keys.iter().filter_map(|key| value(line, key)).collect()
        })
        .collect()
}

fn revisions(records: &[String], event: &str) -> Vec<u64> {
    let of_event = records.iter().filter(|line| line.contains(&format!("\"event\":\"{event}\"")));
    let number =
        |line: &String| line.split_once("\"revision\":").unwrap().1.split(',').next().unwrap().parse();
    of_event.map(|line| number(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_policy_ends_what_it_does_not_allow_and_nothing_else() {
    let (world, origin) = (World::start().await, Origin::echo().await);
    let target = |host: &str| format!("{host}:{}", origin.port);
    let mut idle = tunnel(&world, &target("example.com")).await;
    echoes(&mut idle).await;
    let busy = tunnel(&world, &target("b.example.org")).await;
    let (mut busy_read, mut busy_write) = busy.into_split();
    let sending = tokio::spawn(async move { while busy_write.write_all(&[7; 65_536]).await.is_ok() {} });
    let allowed = tunnel(&world, &target("a.example.org")).await;
    let (mut allowed_read, mut allowed_write) = allowed.into_split();
    let sent = pattern(32 << 20);
    let sending_allowed = tokio::spawn({
        let sent = sent.clone();
        async move {
            allowed_write.write_all(&sent).await.unwrap();
            allowed_write.shutdown().await.unwrap();
        }
    });
    // Both are moving when the policy changes.
    let mut begun = vec![0; 1 << 20];
    timeout(LONG, busy_read.read_exact(&mut begun)).await.unwrap().unwrap();
    timeout(LONG, allowed_read.read_exact(&mut begun)).await.unwrap().unwrap();

    let changed = Instant::now();
    world.proxy.replace(Rules { allow: vec!["a.example.org"], ..Rules::new(8) }.snapshot());
    assert_eq!(read_to_reset(&mut idle).await, b"");
    let drained = async {
        let mut bytes = vec![0; 65_536];
        while busy_read.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
    };
    timeout(BOUND, drained).await.expect("the busy one ends in time");
    assert!(changed.elapsed() < BOUND);
    sending.await.unwrap();
    timeout(LONG, allowed_read.read_to_end(&mut begun)).await.unwrap().unwrap();
    sending_allowed.await.unwrap();
    assert!(begun == sent, "every byte of the one that stays");

    world.proxy.drain().await;
    let records = world.records();
    let mut ends = told(&records, "end");
    ends.sort();
    let text = |end: &BTreeMap<_, String>, key| end.get(key).cloned().unwrap_or_default();
    let ends: Vec<_> = ends
        .iter()
        .map(|end| ["name", "verdict", "reason", "end"].map(|key| text(end, key)).join(" "))
        .collect();
    let mut want = [
        "example.com deny policy_changed policy_changed",
        "b.example.org deny policy_changed policy_changed",
        "a.example.org allow  finished",
    ];
    want.sort_unstable();
    let mut got = ends.clone();
    got.sort();
    assert_eq!(got, want, "{records:#?}");
    assert_eq!(revisions(&records, "decision"), [7, 7, 7]);
    assert_eq!(revisions(&records, "end"), [8, 8, 8], "{records:#?}");
}

#[tokio::test]
async fn what_a_principal_was_proved_by_must_still_prove_it() {
    let open = |rules: Rules| rules.snapshot();
    let clients = |clients: &[(&'static str, &[&'static str])]| Rules {
        clients: clients.iter().map(|(name, passwords)| (*name, passwords.to_vec())).collect(),
        ..Rules::new(9)
    };
    for (case, then, old_lasts, new_lasts) in [
        ("nothing changed", clients(&[("app", &["secret", "new"])]), true, true),
        ("in another order", clients(&[("app", &["new", "secret"])]), true, true),
        ("the rotation ends", clients(&[("app", &["new"])]), false, true),
        ("the rotation is taken back", clients(&[("app", &["secret"])]), true, false),
        ("both replaced", clients(&[("app", &["newer"])]), false, false),
        ("locked", clients(&[("app", &[])]), false, false),
        ("gone", clients(&[("other", &["secret", "new"])]), false, false),
        ("gone, but anonymous is let in", Rules { anonymous: true, ..clients(&[]) }, false, false),
    ] {
        let (world, origin) = (World::start().await, Origin::echo().await);
        world.proxy.replace(open(Rules { clients: vec![("app", vec!["secret", "new"])], ..Rules::new(8) }));
        let target = format!("example.com:{}", origin.port);
        let mut by_old = tunnel(&world, &target).await;
        let mut by_new = tunnel_as(&world, NEW, &target).await;
        world.proxy.replace(open(then));
        decided_again(&world, 9).await;
        for (tunnel, lasts) in [(&mut by_old, old_lasts), (&mut by_new, new_lasts)] {
            if lasts {
                echoes(tunnel).await;
            } else {
                assert_eq!(read_to_reset(tunnel).await, b"", "{case}");
            }
        }
        let left: Vec<_> = world.proxy.flows();
        assert_eq!(left.len(), usize::from(old_lasts) + usize::from(new_lasts), "{case}: {left:#?}");
        assert!(left.iter().all(|flow| flow.revision.0 == 9), "{case}: {left:#?}");
    }
}

#[tokio::test]
async fn a_rotation_with_an_overlap_ends_nothing_that_the_new_password_opened() {
    let (world, origin) = (World::start().await, Origin::echo().await);
    let target = format!("example.com:{}", origin.port);
    let mut before = tunnel(&world, &target).await;
    let rotation = |revision, passwords: &[&'static str]| {
        let clients = vec![("app", passwords.to_vec())];
        world.proxy.replace(Rules { clients, ..Rules::new(revision) }.snapshot());
    };
    rotation(8, &["secret", "new"]);
    decided_again(&world, 8).await;
    echoes(&mut before).await;
    let mut during = tunnel_as(&world, NEW, &target).await;
    echoes(&mut before).await;
    rotation(9, &["new"]);
    decided_again(&world, 9).await;
    // Its password proves nothing any more.
    read_to_reset(&mut before).await;
    echoes(&mut during).await;
}

#[tokio::test]
async fn anonymous_flows_last_as_long_as_anonymous_clients_are_let_in() {
    for (anonymous, lasts) in [(true, true), (false, false)] {
        let world = World::with(Setup { anonymous: true, ..Setup::default() }).await;
        let origin = Origin::echo().await;
        let mut open = tunnel_as(&world, "", &format!("example.com:{}", origin.port)).await;
        world.proxy.replace(Rules { anonymous, ..Rules::new(8) }.snapshot());
        decided_again(&world, 8).await;
        if lasts {
            echoes(&mut open).await;
        } else {
            read_to_reset(&mut open).await;
        }
    }
}

#[tokio::test]
async fn policies_bound_by_labels_count() {
    let (world, origin) = (World::start().await, Origin::echo().await);
    let rules = |revision, label| Rules {
        allow: Vec::new(),
        labels: vec![(Label::Space, label)],
        bound: Some((Label::Space, "prod", vec!["example.com"])),
        ..Rules::new(revision)
    };
    world.proxy.replace(rules(8, "prod").snapshot());
    let mut open = tunnel(&world, &format!("example.com:{}", origin.port)).await;
    world.proxy.replace(rules(9, "prod").snapshot());
    decided_again(&world, 9).await;
    echoes(&mut open).await;
    world.proxy.replace(rules(10, "dev").snapshot());
    read_to_reset(&mut open).await;
}

#[tokio::test]
async fn ports_addresses_denies_and_modes_count() {
    let port = |port: u16| port.to_string();
    type Change = fn(Rules, u16) -> Rules;
    let cases: [(&str, &str, Change, bool); 9] = [
        ("the same", "example.com", |rules, _| rules, true),
        (
            "another entry allows it",
            "a.example.org",
            |rules, _| Rules { allow: vec!["a.example.org"], ..rules },
            true,
        ),
        ("denied", "example.com", |rules, _| Rules { deny: vec!["example.com"], ..rules }, false),
        (
            "the address is denied",
            "example.com",
            |rules, _| Rules { deny: vec!["127.0.0.1/32"], ..rules },
            false,
        ),
        (
            "another address is denied",
            "example.com",
            |rules, _| Rules { deny: vec!["127.0.0.9/32"], ..rules },
            true,
        ),
        ("another port", "example.com", |rules, _| Rules { ports: "1".to_owned(), ..rules }, false),
        ("this port alone", "example.com", |rules, port| Rules { ports: port.to_string(), ..rules }, true),
        ("addresses elsewhere", "example.com", |rules, _| Rules { addresses: "10.0.0.0/8", ..rules }, false),
        (
            "reported, though special-use",
            "example.com",
            |rules, _| Rules { allow: vec![], mode: Mode::Report, ..rules },
            false,
        ),
    ];
    for (case, host, change, lasts) in cases {
        let (world, origin) = (World::start().await, Origin::echo().await);
        let mut open = tunnel(&world, &format!("{host}:{}", port(origin.port))).await;
        world.proxy.replace(change(Rules::new(8), origin.port).snapshot());
        decided_again(&world, 8).await;
        if lasts {
            echoes(&mut open).await;
        } else {
            assert_eq!(read_to_reset(&mut open).await, b"", "{case}");
        }
    }
}

#[tokio::test]
async fn literal_targets_are_decided_on_by_the_literal() {
    for (allow, lasts) in [("127.0.0.1/32", true), ("127.0.0.2/32", false), ("example.com", false)] {
        let (world, origin) = (World::start().await, Origin::echo().await);
        world.proxy.replace(Rules { allow: vec!["127.0.0.0/8"], ..Rules::new(8) }.snapshot());
        let mut open = tunnel(&world, &format!("127.0.0.1:{}", origin.port)).await;
        world.proxy.replace(Rules { allow: vec![allow], ..Rules::new(9) }.snapshot());
        decided_again(&world, 9).await;
        if lasts {
            echoes(&mut open).await;
        } else {
            assert_eq!(read_to_reset(&mut open).await, b"", "{allow}");
        }
    }
}

#[tokio::test]
async fn what_opened_a_tunnel_must_satisfy_the_new_rule() {
    for (before, after, lasts) in [
        (Expect::Http, Expect::Http, true),
        (Expect::Http, Expect::Any, true),
        (Expect::Http, Expect::Tls, false),
        (Expect::Any, Expect::Any, true),
        // Nobody asked for it then, but it was seen.
        (Expect::Any, Expect::Http, true),
        (Expect::Any, Expect::Tls, false),
    ] {
        let world = World::with(Setup { expect: before, ..Setup::default() }).await;
        let origin = Origin::echo().await;
        let mut open = tunnel(&world, &format!("example.com:{}", origin.port)).await;
        let head = format!("GET / HTTP/1.1\r\nHost: example.com:{}\r\n\r\n", origin.port);
        open.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(read_head(&mut open).await.unwrap(), head);
        world.proxy.replace(Rules { expect: after, ..Rules::new(8) }.snapshot());
        if lasts {
            decided_again(&world, 8).await;
            echoes(&mut open).await;
        } else {
            assert_eq!(read_to_reset(&mut open).await, b"", "{before:?} → {after:?}");
        }
    }
}

#[tokio::test]
async fn a_tunnel_that_is_not_opened_yet_is_cut_or_judged_by_the_new_rule() {
    for (after, allow, want) in [
        (Expect::Http, "example.com", "lasts"),
        (Expect::Tls, "example.com", "reset when it speaks"),
        (Expect::Http, "a.example.org", "reset at once"),
    ] {
        let world = World::with(Setup { expect: Expect::Http, ..Setup::default() }).await;
        let origin = Origin::echo().await;
        let mut open = tunnel(&world, &format!("example.com:{}", origin.port)).await;
        world.proxy.replace(Rules { expect: after, allow: vec![allow], ..Rules::new(8) }.snapshot());
        if want != "reset at once" {
            decided_again(&world, 8).await;
            let head = format!("GET / HTTP/1.1\r\nHost: example.com:{}\r\n\r\n", origin.port);
            open.write_all(head.as_bytes()).await.unwrap();
        }
        if want == "lasts" {
            assert!(read_head(&mut open).await.is_some());
        } else {
            assert_eq!(read_to_reset(&mut open).await, b"", "{want}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_tunnels_end_together_and_a_thousand_stay() {
    const EACH: usize = 500;
    let limits = Limits { connections: 5000, ..Limits::default() };
    let (world, origin) = (World::with(Setup { limits, ..Setup::default() }).await, Origin::echo().await);
    let (mut ending, mut staying) = (Vec::new(), Vec::new());
    for _ in 0..EACH {
        ending.push(tunnel(&world, &format!("example.com:{}", origin.port)).await);
        staying.push(tunnel(&world, &format!("a.example.org:{}", origin.port)).await);
    }
    assert_eq!(world.proxy.flows().len(), 2 * EACH);
    let changed = Instant::now();
    world.proxy.replace(Rules { allow: vec!["*.example.org"], ..Rules::new(8) }.snapshot());
    for tunnel in &mut ending {
        read_to_reset(tunnel).await;
    }
    assert!(changed.elapsed() < BOUND, "{:?}", changed.elapsed());
    decided_again(&world, 8).await;
    for tunnel in &mut staying {
        echoes(tunnel).await;
    }
    while world.proxy.flows().len() > EACH {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_without_a_change_fail_nothing() {
    let (world, pages, echo) = (World::start().await, Origin::pages().await, Origin::echo().await);
    let client = async || {
        let mut stream = world.connect().await;
        let mut lasting = tunnel(&world, &format!("example.com:{}", echo.port)).await;
        for _ in 0..50 {
            stream.write_all(get(pages.port, "1.1").as_bytes()).await.unwrap();
            assert!(read_response(&mut stream).await.ends_with("hello"));
            echoes(&mut tunnel(&world, &format!("a.example.org:{}", echo.port)).await).await;
            echoes(&mut lasting).await;
        }
    };
    let mut revision = 7;
    let reloads = async {
        loop {
            revision += 1;
            world.proxy.replace(Rules::new(revision).snapshot());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        () = reloads => {}
        _ = async { tokio::join!(client(), client(), client(), client()) } => {}
    }
    assert!(revision > 10, "{revision} reloads");
}

/// An origin that sends `head`, then a byte now and then for as long as it can. Returns its port.
async fn trickling(head: &'static str, chunk: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = read_head(&mut stream).await;
                let _ = stream.write_all(head.as_bytes()).await;
                while stream.write_all(chunk).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
        }
    });
    port
}

fn get(port: u16, version: &str) -> String {
    format!("GET http://example.com:{port}/ HTTP/{version}\r\nHost: example.com\r\n{AUTH}\r\n")
}

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

#[tokio::test]
async fn flows_can_be_looked_at_and_cut() {
    let (world, origin) = (World::start().await, Origin::echo().await);
    let target = |host: &str| format!("{host}:{}", origin.port);
    let mut first = tunnel(&world, &target("example.com")).await;
    let mut second = tunnel_as(&world, OTHER, &target("a.example.org")).await;
    let mut third = tunnel(&world, &target("a.example.org")).await;
    echoes(&mut first).await;
    let flows = world.proxy.flows();
    let seen: Vec<_> = flows
        .iter()
        .map(|flow| format!("{} {} {} {}", flow.principal, flow.method, flow.target, flow.bytes_up))
        .collect();
    let want = [
        format!("app CONNECT {} 4", target("example.com")),
        format!("other CONNECT {} 0", target("a.example.org")),
        format!("app CONNECT {} 0", target("a.example.org")),
    ];
    assert_eq!(seen, want);
    let flow = &flows[0];
    assert_eq!((flow.bytes_down, flow.revision.0, flow.kind), (4, 7, FlowKind::Tunnel));
    assert_eq!(flow.address, Some(([127, 0, 0, 1], origin.port).into()));
    assert_eq!(flow.source, first.local_addr().unwrap());
    assert!(flow.rule.as_ref().is_some_and(|rule| rule.text.contains("example.com")), "{:?}", flow.rule);

    assert_eq!(world.proxy.cut(&FlowFilter::from(flow.id), Reason::PolicyChanged), 1);
    read_to_reset(&mut first).await;
    echoes(&mut second).await;
    let to_example = FlowFilter {
        host: Some(Host::Name(exeat_model::DnsName::parse("example.com").unwrap())),
        ..FlowFilter::default()
    };
    assert_eq!(world.proxy.cut(&to_example, Reason::PolicyChanged), 0, "gone already");
    let of_other = FlowFilter::from(Selector::client("other").unwrap());
    assert_eq!(world.proxy.cut(&of_other, Reason::PolicyChanged), 1);
    read_to_reset(&mut second).await;
    echoes(&mut third).await;
    let elsewhere = FlowFilter { source: Some([127, 0, 0, 9].into()), ..FlowFilter::default() };
    assert_eq!(world.proxy.cut(&elsewhere, Reason::PolicyChanged), 0);
    assert_eq!(world.proxy.cut(&FlowFilter::default(), Reason::PolicyChanged), 1);
    read_to_reset(&mut third).await;
    while !world.proxy.flows().is_empty() {
        tokio::task::yield_now().await;
    }
    let ends = told(&world.records(), "end");
    // The policy allows them still.
    let want = ("policy_changed", "allow");
    assert!(ends.iter().all(|end| (end["end"].as_str(), end["verdict"].as_str()) == want), "{ends:?}");
}

#[tokio::test]
async fn a_quarantine_ends_everything_of_a_principal_until_it_is_released() {
    let (world, origin) = (World::start().await, Origin::echo().await);
    let target = format!("example.com:{}", origin.port);
    let rules = |revision| Rules { labels: vec![(Label::Space, "prod")], ..Rules::new(revision) };
    world.proxy.replace(rules(8).snapshot());
    let connect = format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n");
    for selector in ["client app", "label space=prod"] {
        let selector: Selector = selector.parse().unwrap();
        let of_app = matches!(selector.to_string().as_str(), "client app");
        let mut of_principal = tunnel(&world, &target).await;
        let mut of_other = tunnel_as(&world, OTHER, &target).await;
        let ended = world.proxy.quarantine(selector.clone()).unwrap();
        assert_eq!(ended, if of_app { 1 } else { 2 });
        read_to_reset(&mut of_principal).await;
        if of_app {
            echoes(&mut of_other).await;
        }
        let accepts = origin.accepts();
        assert_refused(&world.talk(&connect).await, 403, "policy_changed");
        assert_refused(&world.talk(get(origin.port, "1.1")).await, 403, "policy_changed");
        // A new policy does not end it.
        world.proxy.replace(rules(9).snapshot());
        assert_refused(&world.talk(&connect).await, 403, "policy_changed");
        assert_eq!(origin.accepts(), accepts, "nothing was dialled");
        assert_eq!(world.proxy.quarantined(), std::slice::from_ref(&selector));
        assert!(world.proxy.release(&selector).unwrap());
        assert!(!world.proxy.release(&selector).unwrap());
        assert!(world.proxy.quarantined().is_empty());
        echoes(&mut tunnel(&world, &target).await).await;
    }
}

#[tokio::test]
async fn a_quarantine_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_owned();
    let selector = Selector::client("app").unwrap();
    let (world, origin) = (World::start().await, Origin::echo().await);
    assert_eq!(world.proxy.keep_state(&directory).unwrap(), 0);
    world.proxy.quarantine(selector.clone()).unwrap();

    let next = World::start().await;
    assert_eq!(next.proxy.keep_state(&directory).unwrap(), 1);
    assert_eq!(next.proxy.quarantined(), std::slice::from_ref(&selector));
    let connect = format!("CONNECT example.com:{} HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n", origin.port);
    assert_refused(&next.talk(&connect).await, 403, "policy_changed");
    assert!(next.proxy.release(&selector).unwrap());

    let last = World::start().await;
    assert_eq!(last.proxy.keep_state(&directory).unwrap(), 0);
    // Where nothing can be written, the quarantine holds, and a release does not happen.
    std::fs::remove_dir_all(&directory).unwrap();
    let failed = last.proxy.quarantine(selector.clone());
    assert!(matches!(failed, Err(StateError::Write { .. })), "{failed:?}");
    assert_refused(&last.talk(&connect).await, 403, "policy_changed");
    assert!(last.proxy.release(&selector).is_err());
    assert_refused(&last.talk(&connect).await, 403, "policy_changed");
}

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
