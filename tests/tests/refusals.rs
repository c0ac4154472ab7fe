//! Refusals at the edges, where another parser than ours would be the first to object, or what was allowed is taken back:
//! each is ours, with its reason, in the audit log and in the numbers, and the upstream is what it is told to be.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{CLIENT, PASSWORD, ask, auth, configuration, request, request_with};
use exeat_tests::http::Reply;
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::Raw;
use exeat_tests::scrape::{API, scrape};
use exeat_tests::world::{GREETING, World};
use exeat_tests::{harness, scenarios, socks};
use serde_json::Value;

fn main() -> ExitCode {
    harness::main(scenarios![
        a_head_that_is_one_byte_too_long_is_refused_on_every_path,
        what_is_refused_after_its_allow_is_recorded_as_denied,
        a_body_that_is_none_is_the_fault_of_who_sends_it,
        a_host_that_is_none_is_recorded_as_it_was_sent,
        a_tunnel_is_refused_in_http_whatever_the_method,
    ])
}

/// Status and reason of a reply.
fn told(reply: &Reply) -> (u16, &str) {
    (reply.status, reply.head.field("x-deny-reason").unwrap_or_default())
}

/// Waits for one more denial with this reason than `before`, and checks that no other record has it.
fn denied(exeat: &mut Exeat, reason: &str, before: usize) -> Result<Value> {
    let of = |records: &[Value]| -> Vec<Value> {
        records.iter().filter(|record| record["reason"] == reason).cloned().collect()
    };
    let records = exeat.audit_until(reason, |records| of(records).len() > before)?;
    let mut found = of(&records);
    ensure!(found.len() == before + 1, "{found:#?}");
    let last = found.pop().context("no record")?;
    ensure!(last["verdict"] == "deny", "{last:#}");
    Ok(last)
}

fn a_head_that_is_one_byte_too_long_is_refused_on_every_path() -> Result<()> {
    const HEAD_BYTES: usize = 2048;
    let padded = |line: &str, fields: &str, length: usize| {
        let with = |pad: &str| request_with(line, &format!("{fields}X-Pad: {pad}\r\n"));
        with(&"a".repeat(length - with("").len()))
    };
    let world = World::new()?;
    let extra = format!("[limits]\nhead_bytes = {HEAD_BYTES}\nuri_bytes = 1024\n");
    let mut exeat =
        Exeat::serve(world.directory(), &configuration("allow = [\"example.com\"]", &extra), PROXY)?;
    let get = "GET http://example.com/";
    let (ours, theirs) = (auth(), String::new());
    // What is said before, on the same connection, and then.
    let cases = [
        ("a first request", None, get, &ours),
        ("a second request", Some(request(get)), get, &ours),
        ("CONNECT", None, "CONNECT example.com:443", &ours),
        ("CONNECT after a request", Some(request(get)), "CONNECT example.com:443", &ours),
        ("in a tunnel", Some(request("CONNECT example.com:80")), "GET /", &theirs),
    ];
    for (count, (case, before, line, fields)) in cases.into_iter().enumerate() {
        let fields = if case == "in a tunnel" { "Host: example.com\r\n" } else { fields };
        let fit = |length: usize| match case {
            "in a tunnel" => {
                let empty = format!("{line} HTTP/1.1\r\n{fields}X-Pad: \r\n\r\n").len();
                format!("{line} HTTP/1.1\r\n{fields}X-Pad: {}\r\n\r\n", "a".repeat(length - empty))
            }
            _ => padded(line, fields, length),
        };
        for (length, want) in [(HEAD_BYTES, (200, "")), (HEAD_BYTES + 1, (431, "header_too_large"))] {
            let mut client = Raw::proxy()?;
            if let Some(before) = &before {
                let reply = client.ask(before)?;
                ensure!(reply.status == 200, "{case}: {reply:?}");
            }
            let requests = world.http.requests().len();
            let reply = client.ask(fit(length)).with_context(|| format!("{case}, {length} bytes"))?;
            ensure!(told(&reply) == want, "{case}, {length} bytes: {reply:?}");
            if want.0 != 200 {
                client.closed().with_context(|| case.to_owned())?;
                ensure!(world.http.requests().len() == requests, "{case}: it went upstream");
                denied(&mut exeat, want.1, count).with_context(|| case.to_owned())?;
            }
        }
    }
    exeat.stop()
}

fn what_is_refused_after_its_allow_is_recorded_as_denied() -> Result<()> {
    let world = World::new()?;
    let policy = r#"allow = ["example.com", "mail.example.org:25", { host = "small.example.org", max_bytes_up = 1024 }]"#;
    let extra = format!("[limits]\ntunnels_per_client = 1\n[api]\nlisten = \"{API}\"\n");
    let mut exeat = Exeat::serve(world.directory(), &configuration(policy, &extra), PROXY)?;
    let (mut held, reply) = ask("CONNECT mail.example.org:25")?;
    ensure!(reply.status == 200 && held.exactly(GREETING.len())? == GREETING.as_bytes(), "{reply:?}");
    let before = scrape()?;
    let accepts = world.accepts();

    let (_, reply) = ask("CONNECT mail.example.org:25")?;
    ensure!(told(&reply) == (429, "connection_limit"), "{reply:?}");
    denied(&mut exeat, "connection_limit", 0)?;
    let (_, code) = socks::ask(CLIENT, PASSWORD, &socks::to_name(b"mail.example.org", 25))?;
    ensure!(code != 0, "SOCKS: a tunnel beyond the limit");
    denied(&mut exeat, "connection_limit", 1)?;
    let upgrade = format!(
        "{}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        auth()
    );
    let reply = Raw::proxy()?.ask(request_with("GET http://example.com/", &upgrade))?;
    ensure!(told(&reply) == (429, "connection_limit"), "{reply:?}");
    denied(&mut exeat, "connection_limit", 2)?;
    ensure!(world.accepts() == accepts, "something beyond the limit was dialled");

    let post = "POST http://small.example.org/";
    let announced = format!("{}Content-Length: 1025\r\n", auth());
    let reply = Raw::proxy()?.ask(request_with(post, &announced) + &"a".repeat(1025))?;
    ensure!(told(&reply) == (403, "max_bytes"), "{reply:?}");
    denied(&mut exeat, "max_bytes", 0)?;
    ensure!(world.accepts() == accepts, "what says itself that it is too much is not begun");
    let chunked = format!("{}Transfer-Encoding: chunked\r\n", auth());
    let body = format!("401\r\n{}\r\n0\r\n\r\n", "a".repeat(1025));
    let reply = Raw::proxy()?.ask(request_with(post, &chunked) + &body)?;
    ensure!(told(&reply) == (403, "max_bytes"), "{reply:?}");
    denied(&mut exeat, "max_bytes", 1)?;
    ensure!(world.http.requests().is_empty(), "{:?}", world.http.requests());

    let now = scrape()?;
    for (verdict, reason, want) in [
        ("deny", "connection_limit", 3.0),
        ("allow", "connection_limit", 0.0),
        ("deny", "max_bytes", 2.0),
        ("allow", "max_bytes", 0.0),
    ] {
        let name = format!("exeat_decisions_total{{verdict=\"{verdict}\",reason=\"{reason}\"}}");
        let count = |scrape: &exeat_tests::scrape::Scrape| scrape.get(&name).copied().unwrap_or(0.0);
        let got = count(&now) - count(&before);
        ensure!((got - want).abs() < 0.5, "{name}: {got}");
    }
    held.finish()?;
    held.closed()?;
    exeat.stop()
}

/// A chunked body whose framing is broken (RFC 9112 §7.1), or that ends before its end: nobody upstream is to blame, and what
/// was sent of it there is never a whole request.
fn a_body_that_is_none_is_the_fault_of_who_sends_it() -> Result<()> {
    let world = World::new()?;
    let mut exeat = Exeat::serve(world.directory(), &configuration("allow = [\"example.com\"]", ""), PROXY)?;
    let extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(70_000));
    let trailers = format!("5\r\nhello\r\n0\r\n{}\r\n", "a: b\r\n".repeat(5_000));
    let cases = [
        ("no number", "ZZ\r\nhello\r\n0\r\n\r\n"),
        ("a prefix", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("a sign", "-5\r\nhello\r\n0\r\n\r\n"),
        ("an overflow", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("no size", "\r\nhello\r\n0\r\n\r\n"),
        ("bare line feeds", "5\nhello\n0\n\n"),
        ("a line feed in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
        ("no line end after the data", "5\r\nhelloXX0\r\n\r\n"),
        ("a long extension", &extension),
        ("many trailers", &trailers),
        ("a break in the middle", "5\r\nhel"),
    ];
    let fields = format!("{}Transfer-Encoding: chunked\r\n", auth());
    for (count, (case, body)) in cases.into_iter().enumerate() {
        let mut client = Raw::proxy()?;
        drop(client.send(request_with("POST http://example.com/", &fields) + body));
        if case == "a break in the middle" {
            client.finish()?;
        }
        let reply = client.reply("POST").with_context(|| case.to_owned())?;
        ensure!(told(&reply) == (400, "request_malformed"), "{case}: {reply:?}");
        let record = denied(&mut exeat, "request_malformed", count).with_context(|| case.to_owned())?;
        ensure!(record["status"] == 400 && record["target"] == "http://example.com:80", "{case}: {record:#}");
    }
    ensure!(world.http.requests().is_empty(), "{:?}", world.http.requests());
    // And the nearest that is one: it has an extension and a trailer.
    let whole = request_with("POST http://example.com/", &fields) + "5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n";
    let reply = Raw::proxy()?.ask(whole)?;
    ensure!(reply.status == 200, "{reply:?}");
    let bodies: Vec<_> = world.http.requests().into_iter().map(|request| request.body).collect();
    ensure!(bodies == [b"hello"], "{bodies:?}");
    exeat.stop()
}

/// Over SOCKS a host is any bytes: what is none must not look like the name in it, which is allowed.
fn a_host_that_is_none_is_recorded_as_it_was_sent() -> Result<()> {
    let world = World::new()?;
    let mut exeat = Exeat::serve(world.directory(), &configuration("allow = [\"example.com\"]", ""), PROXY)?;
    let hosts: [(&[u8], &str); 5] = [
        (b"example.com/", "example.com/:80"),
        (b"hush@example.com", "*@example.com:80"),
        (b"example.com?", "example.com?:80"),
        (b"http://example.com", "http://example.com:80"),
        (b"example.com\n", "example.com\\x0a:80"),
    ];
    for (count, (host, target)) in hosts.into_iter().enumerate() {
        let (_, code) = socks::ask(CLIENT, PASSWORD, &socks::to_name(host, 80))?;
        ensure!(code != 0, "{target}");
        let record = denied(&mut exeat, "host_invalid", count).with_context(|| target.to_owned())?;
        ensure!(record["target"] == target, "{target}: {record:#}");
    }
    ensure!(world.accepts() == 0, "{:?}", world.reached());
    let (_, code) = socks::ask(CLIENT, PASSWORD, &socks::to_name(b"example.com", 80))?;
    ensure!(code == 0, "{code}");
    exeat.stop()
}

fn a_tunnel_is_refused_in_http_whatever_the_method() -> Result<()> {
    let world = World::new()?;
    let exeat = Exeat::serve(world.directory(), &configuration("allow = [\"example.com\"]", ""), PROXY)?;
    for (opening, is_http) in [
        ("GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n", true),
        ("PROPFIND / HTTP/1.1\r\nHost: evil.test\r\n\r\n", true),
        ("M-SEARCH * HTTP/1.1\r\nHost: evil.test\r\n\r\n", true),
        ("EHLO evil.test\r\n", false),
        ("SSH-2.0-x y HTTP\r\n", false),
    ] {
        let (mut tunnel, reply) = ask("CONNECT example.com:443")?;
        ensure!(reply.status == 200, "{reply:?}");
        tunnel.send(opening)?;
        let rest = String::from_utf8_lossy(&tunnel.rest()?).into_owned();
        ensure!(
            rest.starts_with("HTTP/1.1 403 egress denied: tls_required") == is_http,
            "{opening:?}: {rest:?}"
        );
        ensure!(is_http || rest.is_empty(), "{opening:?}: {rest:?}");
    }
    ensure!(world.https.seen().iter().all(|seen| seen.received.is_empty()));
    exeat.stop()
}
