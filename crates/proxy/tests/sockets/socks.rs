//! SOCKS5 through a real proxy on sockets.

use std::time::Duration;

use crate::common::{LONG, MISSING, Origin, Setup, World, page, read_response};
use crate::rules::Rules;
use exeat_policy::Expect;
use exeat_proxy::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Offers the password method.
const GREETING: &[u8] = &[5, 1, 2];
const LOGIN: &[u8] = b"\x01\x03app\x06secret";
/// What comes back when both are accepted.
const WELCOME: &[u8] = &[5, 2, 1, 0];

fn request(host: &[u8], port: u16) -> Vec<u8> {
    [&[5, 1, 0, 3, u8::try_from(host.len()).unwrap()], host, &port.to_be_bytes()].concat()
}

async fn exactly<const N: usize>(stream: &mut TcpStream) -> [u8; N] {
    let mut bytes = [0; N];
    timeout(LONG, stream.read_exact(&mut bytes)).await.expect("bytes in time").unwrap();
    bytes
}

/// Says all of `bytes` at once and returns everything that comes back.
async fn talk(world: &World, bytes: &[u8]) -> Vec<u8> {
    let mut stream = world.connect().await;
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut all = Vec::new();
    timeout(LONG, stream.read_to_end(&mut all)).await.expect("the end in time").unwrap();
    all
}

/// Logs in, asks, and returns the reply alone.
async fn reply(world: &World, request: &[u8]) -> Vec<u8> {
    let all = talk(world, &[GREETING, LOGIN, request].concat()).await;
    all.strip_prefix(WELCOME).unwrap_or_else(|| panic!("{all:?}")).to_vec()
}

fn refused(reply: u8) -> Vec<u8> {
    vec![5, reply, 0, 1, 0, 0, 0, 0, 0, 0]
}

#[tokio::test]
async fn an_allowed_tunnel_relays_both_ways_and_is_recorded() {
    let (world, origin) = (World::start().await, Origin::echo().await);
    let mut stream = world.connect().await;
    stream.write_all(GREETING).await.unwrap();
    assert_eq!(exactly(&mut stream).await, [5, 2]);
    stream.write_all(LOGIN).await.unwrap();
    assert_eq!(exactly(&mut stream).await, [1, 0]);
    stream.write_all(&request(b"EXAMPLE.com", origin.port)).await.unwrap();
    let [version, reply, reserved, kind, a, b, c, d, port @ ..] = exactly::<10>(&mut stream).await;
    assert_eq!([version, reply, reserved, kind, a, b, c, d], [5, 0, 0, 1, 127, 0, 0, 1]);
    assert_ne!(u16::from_be_bytes(port), 0);
    stream.write_all(b"ping").await.unwrap();
    assert_eq!(&exactly(&mut stream).await, b"ping");
    drop(stream);
    assert_eq!(origin.accepts(), 1);
    world.proxy.drain().await;
    let records = world.records();
    assert_eq!(records.len(), 2, "{records:?}");
    for part in ["\"decision\"", "\"allow\"", "\"SOCKS5\"", "\"example.com\"", "\"app\"", "\"password\""] {
        assert!(records[0].contains(part), "{part} in {}", records[0]);
    }
    assert!(!records[0].contains("\"status\"") && !records[0].contains("secret"), "{records:?}");
    for part in ["\"end\"", "\"finished\"", "\"bytes_up\":4", "\"bytes_down\":4", "\"SOCKS5\""] {
        assert!(records[1].contains(part), "{part} in {}", records[1]);
    }
}

#[tokio::test]
async fn bytes_that_come_one_by_one_or_all_at_once_are_the_same() {
    let (world, origin) = (World::start().await, Origin::echo().await);
    let all = [GREETING, LOGIN, &request(b"example.com", origin.port), b"early"].concat();
    let at_once = talk(&world, &all).await;
    assert!(at_once.starts_with(&[WELCOME, &[5, 0]].concat()) && at_once.ends_with(b"early"), "{at_once:?}");
    let mut stream = world.connect().await;
    stream.set_nodelay(true).unwrap();
    for byte in &all {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    stream.shutdown().await.unwrap();
    let mut one_by_one = Vec::new();
    timeout(LONG, stream.read_to_end(&mut one_by_one)).await.unwrap().unwrap();
    // The two bytes of the bound port differ.
    assert_eq!(one_by_one.len(), at_once.len());
    assert!(one_by_one.ends_with(b"early"), "{one_by_one:?}");
    assert_eq!(origin.accepts(), 2);
}

#[tokio::test]
async fn refusals_dial_nothing_and_ask_no_dns() {
    let (world, origin) = (World::start().await, Origin::echo().await);
    let more = [GREETING, LOGIN, &request(b"example.com", origin.port)].concat();
    let command = |command: u8| {
        let mut asked = request(b"example.com", origin.port);
        asked[1] = command;
        asked
    };
    let cases: &[(&str, Vec<u8>, u8, &str)] = &[
        ("not listed", request(b"evil.example.com", 443), 2, "host_not_allowed"),
        ("the apex of a wildcard", request(b"example.org", 443), 2, "host_not_allowed"),
        ("IPv4", vec![5, 1, 0, 1, 127, 0, 0, 1, 1, 0xbb], 2, "ip_literal_not_allowed"),
        ("IPv4 as a name", request(b"127.0.0.1", 443), 2, "ip_literal_not_allowed"),
        ("IPv6", [&[5, 1, 0, 4][..], &[0; 15], &[1, 1, 0xbb]].concat(), 2, "ip_literal_not_allowed"),
        ("IPv6 as a name", request(b"::1", 443), 2, "ip_literal_not_allowed"),
        ("a legacy address", request(b"127.1", 443), 2, "host_invalid"),
        ("NUL", request(b"evil.test\0.example.org", 443), 2, "host_invalid"),
        ("line break", request(b"example.com\r\nX: y", 443), 2, "host_invalid"),
        ("empty", request(b"", 443), 2, "host_invalid"),
        ("too long", request(&[b'a'; 255], 443), 2, "host_invalid"),
        ("port zero", request(b"example.com", 0), 2, "host_invalid"),
        ("BIND", command(2), 7, "method_not_allowed"),
        ("UDP ASSOCIATE", command(3), 7, "method_not_allowed"),
        ("an address type", vec![5, 1, 0, 2, 1, 2], 8, "request_malformed"),
        ("the reserved byte", vec![5, 1, 9, 1, 127, 0, 0, 2, 1, 0xbb], 1, "request_malformed"),
        ("the version", b"GET / HTTP/1.1\r\n\r\n".to_vec(), 1, "request_malformed"),
    ];
    for (name, asked, want, _) in cases {
        assert_eq!(reply(&world, &[asked, &more[..]].concat()).await, refused(*want), "{name}");
    }
    assert_eq!((origin.accepts(), world.queries()), (0, 0));
    world.proxy.drain().await;
    let records = world.records();
    assert_eq!(records.len(), cases.len());
    for ((name, _, _, reason), record) in cases.iter().zip(&records) {
        assert!(record.contains(&format!("\"reason\":\"{reason}\"")), "{name}: {record}");
        assert!(record.contains("\"SOCKS5\"") && record.contains("\"deny\""), "{name}: {record}");
    }
}

#[tokio::test]
async fn whoever_proves_nothing_gets_no_further() {
    let after = [LOGIN, &request(b"example.com", 443)].concat();
    let cases: &[(&str, Vec<u8>, &[u8], &str)] = &[
        ("no password to offer", [&[5, 1, 0][..], &after].concat(), &[5, 0xff], "auth_required"),
        ("nothing known to offer", [&[5, 1, 1][..], &after].concat(), &[5, 0xff], "auth_required"),
        ("no method", vec![5, 0], &[5, 0xff], "request_malformed"),
        ("a wrong password", b"\x05\x01\x02\x01\x03app\x05wrong".to_vec(), &[5, 2, 1, 1], "auth_invalid"),
        ("an unknown user", b"\x05\x01\x02\x01\x06nobody\x06secret".to_vec(), &[5, 2, 1, 1], "auth_invalid"),
        ("NUL after it", b"\x05\x01\x02\x01\x03app\x07secret\0".to_vec(), &[5, 2, 1, 1], "auth_invalid"),
        ("nothing", b"\x05\x01\x02\x01\0\0".to_vec(), &[5, 2, 1, 1], "auth_invalid"),
        ("no login", [&[5, 1, 2][..], &request(b"a", 1)].concat(), &[5, 2, 1, 1], "request_malformed"),
        (
            "SOCKS4",
            b"\x04\x01\x01\xbb\x7f\0\0\x02app\0".to_vec(),
            &[0, 0x5b, 0, 0, 0, 0, 0, 0],
            "request_malformed",
        ),
    ];
    let world = World::start().await;
    for (name, bytes, want, _) in cases {
        assert_eq!(talk(&world, bytes).await, *want, "{name}");
    }
    assert_eq!(world.queries(), 0);
    let records = world.records();
    assert_eq!(records.len(), cases.len());
    for ((name, _, _, reason), record) in cases.iter().zip(&records) {
        assert!(record.contains(&format!("\"reason\":\"{reason}\"")), "{name}: {record}");
        let method = if *name == "SOCKS4" { "\"SOCKS4\"" } else { "\"SOCKS5\"" };
        assert!(record.contains(method) && !record.contains("secret"), "{name}: {record}");
    }
}

#[tokio::test]
async fn anonymous_clients_are_served_where_that_is_configured() {
    let world = World::with(Setup { anonymous: true, ..Setup::default() }).await;
    let origin = Origin::echo().await;
    let asked = request(b"example.com", origin.port);
    let all = talk(&world, &[&[5, 1, 0], &asked[..], b"x"].concat()).await;
    assert!(all.starts_with(&[5, 0, 5, 0]) && all.ends_with(b"x"), "{all:?}");
    // Whoever offers both is asked for the password, and a wrong one is refused even so.
    let all = talk(&world, &[&[5, 2, 0, 2], LOGIN, &asked[..], b"x"].concat()).await;
    assert!(all.starts_with(&[5, 2, 1, 0, 5, 0]) && all.ends_with(b"x"), "{all:?}");
    assert_eq!(talk(&world, b"\x05\x02\x00\x02\x01\x03app\x05wrong").await, [5, 2, 1, 1]);
    assert_eq!(origin.accepts(), 2);
    let records = world.records();
    assert!(records[0].contains("\"anonymous\""), "{records:?}");
}

#[tokio::test]
async fn what_cannot_be_reached_says_so() {
    let world = World::start().await;
    assert_eq!(reply(&world, &request(MISSING.as_bytes(), 443)).await, refused(4));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert_eq!(reply(&world, &request(b"example.com", closed)).await, refused(5));
}

#[tokio::test]
async fn a_slow_client_is_refused_at_every_step() {
    let limits = Limits { head_timeout: Duration::from_millis(50), ..Limits::default() };
    let cases: &[(&str, Vec<u8>, Vec<u8>)] = &[
        ("greeting", vec![5, 2, 0], vec![5, 0xff]),
        ("login", [GREETING, &LOGIN[..5]].concat(), vec![5, 2, 1, 1]),
        ("request", [GREETING, LOGIN, &[5, 1, 0]].concat(), [WELCOME, &refused(1)].concat()),
    ];
    let world = World::with(Setup { limits, ..Setup::default() }).await;
    for (name, bytes, want) in cases {
        let mut stream = world.connect().await;
        stream.write_all(bytes).await.unwrap();
        let mut all = Vec::new();
        timeout(LONG, stream.read_to_end(&mut all)).await.expect("the end in time").unwrap();
        assert_eq!(all, *want, "{name}");
    }
    let records = world.records();
    assert_eq!(records.len(), cases.len());
    assert!(records.iter().all(|record| record.contains("\"head_timeout\"")), "{records:?}");
}

#[tokio::test]
async fn what_opens_a_tunnel_must_fit_the_rule() {
    let world = World::with(Setup { expect: Expect::Tls, ..Setup::default() }).await;
    let origin = Origin::echo().await;
    let asked = request(b"example.com", origin.port);
    let all = talk(&world, &[GREETING, LOGIN, &asked, b"GET / HTTP/1.1\r\n\r\n"].concat()).await;
    let text = String::from_utf8_lossy(&all);
    assert!(text.contains("HTTP/1.1 403 egress denied: tls_required"), "{text}");
    world.proxy.drain().await;
    let records = world.records();
    assert!(records[1].contains("\"deny\"") && records[1].contains("\"tls_required\""), "{records:?}");
    assert!(records[1].contains("\"bytes_up\":0"), "{records:?}");
}

#[tokio::test]
async fn limits_and_audit_hold_as_for_connect() {
    let limits = Limits { tunnels_per_client: 1, ..Limits::default() };
    let (world, origin) = (World::with(Setup { limits, ..Setup::default() }).await, Origin::echo().await);
    let asked = request(b"example.com", origin.port);
    let mut first = world.connect().await;
    first.write_all(&[GREETING, LOGIN, &asked].concat()).await.unwrap();
    assert_eq!(exactly::<6>(&mut first).await, [5, 2, 1, 0, 5, 0]);
    assert_eq!(reply(&world, &asked).await, refused(1));
    assert_eq!(origin.accepts(), 1);

    let full = Some("/dev/full".into());
    let world = World::with(Setup { required_audit: full, ..Setup::default() }).await;
    // The log learns that its device is full by writing to it.
    let mut said = reply(&world, &asked).await;
    while said.starts_with(&[5, 0]) {
        said = reply(&world, &asked).await;
    }
    assert_eq!(said, refused(1));
}

#[tokio::test]
async fn a_listed_literal_is_reached_and_http_goes_on_beside_it() {
    let (world, origin) =
        (World::start().await, Origin::http_at([127, 0, 0, 2].into(), |_, _| page("x")).await);
    let literal = [&[5, 1, 0, 1, 127, 0, 0, 2], &origin.port.to_be_bytes()[..]].concat();
    for asked in [literal, request(b"127.0.0.2", origin.port)] {
        let mut stream = world.connect().await;
        stream.write_all(&[GREETING, LOGIN, &asked].concat()).await.unwrap();
        let welcome = exactly::<14>(&mut stream).await;
        assert_eq!(welcome[..6], [5, 2, 1, 0, 5, 0]);
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(read_response(&mut stream).await.ends_with("\r\n\r\nx"));
    }
    assert_eq!((origin.accepts(), world.queries()), (2, 0));
    // A byte that is neither version is the beginning of a bad HTTP request.
    for byte in [3, 6, 0x16] {
        let all = world.talk([byte, 1, 0]).await;
        assert!(all.starts_with("HTTP/1.1 400 "), "{byte}: {all}");
    }
}

#[tokio::test]
async fn a_change_of_policy_and_a_quarantine_reach_a_tunnel() {
    let (world, origin) = (World::start().await, Origin::echo().await);
    let all = [GREETING, LOGIN, &request(b"example.com", origin.port)].concat();
    let mut stream = world.connect().await;
    stream.write_all(&all).await.unwrap();
    let [.., reply, _, _, _, _, _, _, _, _] = exactly::<14>(&mut stream).await;
    assert_eq!(reply, 0);
    let flows = world.proxy.flows();
    assert_eq!((flows.len(), &*flows[0].principal, &*flows[0].method), (1, "app", "SOCKS5"));
    world.proxy.replace(Rules { allow: vec!["a.example.org"], ..Rules::new(8) }.snapshot());
    let end = timeout(LONG, stream.read_u8()).await.expect("the end in time");
    assert_eq!(end.map_err(|error| error.kind()), Err(std::io::ErrorKind::ConnectionReset));

    world.proxy.replace(Rules::new(9).snapshot());
    assert_eq!(reply_code(&world, origin.port).await, 0);
    world.proxy.quarantine("client app".parse().unwrap()).unwrap();
    assert_eq!(reply_code(&world, origin.port).await, 2, "not allowed by the ruleset");
}

async fn reply_code(world: &World, port: u16) -> u8 {
    reply(world, &request(b"example.com", port)).await[1]
}
