//! How requests and bytes are passed on: framing, connections on both sides, bodies of every kind.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, ensure};
use exeat_tests::dns::Entry;
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{ask, auth, configuration, password_entry, request, request_with};
use exeat_tests::http::{Reply, Request};
use exeat_tests::namespace::PROXY;
use exeat_tests::origin::{Origin, Peer, Seen, Service};
use exeat_tests::raw::{Raw, authorization};
use exeat_tests::world::World;
use exeat_tests::{harness, scenarios};
use sha2::{Digest, Sha256};

fn main() -> ExitCode {
    harness::main(scenarios![
        connections_are_kept_on_both_sides,
        clients_never_share_an_upstream_connection,
        a_stale_upstream_connection_is_replaced,
        bodies_arrive_whole_in_both_directions,
        expectations_and_bodiless_replies_keep_the_connection,
        deny_headers_of_an_upstream_are_not_ours,
        what_an_upstream_says_is_not_taken_for_ours,
        max_forwards_is_kept_to,
        fields_of_one_hop_stay_there,
        an_upstream_that_breaks_off_is_not_a_whole_reply,
        a_response_that_could_be_read_in_two_ways_is_refused,
        many_clients_at_once,
        tunnels_carry_bytes_in_both_directions,
        a_tunnel_to_nobody_is_a_502,
        a_407_leaves_the_connection_usable,
    ])
}

/// Where `odd_origin` listens.
const ODD: &str = "93.184.216.41:8101";

/// Starts the product for `allow`, in a world that answers `odd.example.com` at [`ODD`].
fn serve(world: &World, allow: &str) -> Result<Exeat> {
    world.dns.set("odd.example.com", Entry::addresses(&["93.184.216.41"]));
    let policy = format!("allow = [\"example.com\", \"*.example.org\", \"odd.example.com:8101\"{allow}]\n");
    Exeat::serve(world.directory(), &configuration(&policy, ""), PROXY)
}

/// An origin that reads one request head after another and does as `then` says for each.
fn odd_origin(
    then: impl Fn(&mut Peer, &str) -> std::io::Result<()> + Send + Sync + 'static,
) -> Result<Origin> {
    let address: SocketAddr = ODD.parse()?;
    let service: Service = Arc::new(move |peer| {
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                peer.read_exact(&mut byte)?;
                head.extend(byte);
            }
            then(peer, &String::from_utf8_lossy(&head))?;
        }
    });
    Origin::start(address, service)
}

fn connections_are_kept_on_both_sides() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world, "")?;
    let mut client = Raw::proxy()?;
    for path in ["a", "b", "c"] {
        let reply = client.ask(request(&format!("GET http://example.com/{path}")))?;
        ensure!(reply.status == 200 && reply.body == b"hello from example.com\n", "{reply:?}");
    }
    // Another connection of the same client finds the upstream connection of the first.
    ask("GET http://example.com/d")?;
    let targets: Vec<String> = world.http.requests().into_iter().map(|r| r.target).collect();
    ensure!(targets == ["/a", "/b", "/c", "/d"], "{targets:?}");
    // A connection goes back to the pool a moment after its response, so on a busy machine one may be opened anew.
    let seen = world.http.seen();
    ensure!(seen.iter().any(|s| s.requests.len() > 1) && seen.len() < 4, "{seen:?}");
    exeat.stop()
}

fn clients_never_share_an_upstream_connection() -> Result<()> {
    let world = World::new()?;
    let extra = format!(
        "[client.second]\npasswords = [\"{}\"]\npolicies = [\"app\"]\n",
        password_entry("second-password")
    );
    let exeat =
        Exeat::serve(world.directory(), &configuration("allow = [\"example.com\"]\n", &extra), PROXY)?;
    let second = authorization("second", "second-password");
    let first = auth();
    let turns = [("/first", &first), ("/second", &second), ("/first", &first), ("/second", &second)];
    for (path, fields) in turns {
        let reply = Raw::proxy()?.ask(request_with(&format!("GET http://example.com{path}"), fields))?;
        ensure!(reply.status == 200, "{reply:?}");
    }
    // One client connection that changes its credentials half-way does not carry its upstream connection over.
    let mut client = Raw::proxy()?;
    for (path, fields) in turns {
        client.ask(request_with(&format!("GET http://example.com{path}"), fields))?;
    }
    let seen = world.http.seen();
    let of_one = |s: &Seen| s.requests.windows(2).all(|pair| pair[0].target == pair[1].target);
    ensure!(seen.iter().all(of_one) && seen.iter().any(|s| s.requests.len() > 1), "{seen:?}");
    let requests: usize = seen.iter().map(|s| s.requests.len()).sum();
    ensure!(requests == 8, "{seen:?}");
    exeat.stop()
}

/// The origin closes after each reply without saying so: the next request must not fail for it.
fn a_stale_upstream_connection_is_replaced() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world, "")?;
    let odd = odd_origin(|peer, _| {
        peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        peer.finish()?;
        Err(std::io::ErrorKind::ConnectionAborted.into())
    })?;
    let mut client = Raw::proxy()?;
    for n in 1..=5 {
        let reply = client.ask(request("GET http://odd.example.com:8101/"))?;
        ensure!(reply.status == 200 && reply.body == b"ok", "request {n}: {reply:?}");
        odd.wait("the connection to end", |seen| seen.iter().all(|s| s.ended))?;
    }
    exeat.stop()
}

/// What an origin says of a body: its length and digest.
fn digest(body: &[u8]) -> String {
    let hex: String = Sha256::digest(body).iter().map(|b| format!("{b:02x}")).collect();
    format!("{} {hex}", body.len())
}

fn bodies_arrive_whole_in_both_directions() -> Result<()> {
    let world = World::serving(Arc::new(|request: &Request| match request.method.as_str() {
        "POST" => Reply::new(200, digest(&request.body)),
        _ => Reply::new(200, vec![b'x'; 32 << 20]),
    }))?;
    let mut exeat = serve(&world, "")?;
    let body: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_be_bytes).collect();

    let head = format!("POST http://example.com/ HTTP/1.1\r\nHost: example.com\r\n{}", auth());
    let mut client = Raw::proxy()?;
    client.send(format!("{head}Content-Length: {}\r\n\r\n", body.len()))?;
    client.send(&body)?;
    let reply = client.reply("POST")?;
    ensure!(reply.body == digest(&body).as_bytes(), "{reply:?}");

    client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n"))?;
    for chunk in body.chunks(77_777) {
        client.send([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat())?;
    }
    client.send("0\r\n\r\n")?;
    let reply = client.reply("POST")?;
    ensure!(reply.body == digest(&body).as_bytes(), "{reply:?}");
    // A request with a chunked body is the last of its connection, and the client is told so.
    ensure!(reply.head.field("connection") == Some("close"), "{reply:?}");
    client.closed()?;

    let (_, reply) = ask("GET http://example.com/")?;
    ensure!(reply.body.len() == 32 << 20 && reply.body.iter().all(|b| *b == b'x'));
    let (_, record) = exeat.audit_record("the large reply", |(_, r)| r["method"] == "GET")?;
    ensure!(record["bytes_down"].as_u64() >= Some(32 << 20), "{record}");
    exeat.stop()
}

fn expectations_and_bodiless_replies_keep_the_connection() -> Result<()> {
    let world = World::serving(Arc::new(|request: &Request| match request.path() {
        "/empty" => Reply::new(204, ""),
        "/unchanged" => Reply::new(304, ""),
        _ => Reply::new(200, request.body.clone()),
    }))?;
    let exeat = serve(&world, "")?;
    let mut client = Raw::proxy()?;
    client.send(format!(
        "POST http://example.com/ HTTP/1.1\r\nHost: example.com\r\nContent-Length: 4\r\nExpect: 100-continue\r\n{}\r\n",
        auth()
    ))?;
    let line = client.exactly(21)?;
    ensure!(line == b"HTTP/1.1 100 Continue", "{:?}", String::from_utf8_lossy(&line));
    client.send("body")?;
    // The rest of the interim reply's head stands before the final one.
    ensure!(client.exactly(4)? == b"\r\n\r\n");
    let reply = client.reply("POST")?;
    ensure!(reply.status == 200 && reply.body == b"body", "{reply:?}");
    for (line, status) in [
        ("HEAD http://example.com/", 200),
        ("GET http://example.com/empty", 204),
        ("GET http://example.com/unchanged", 304),
        ("OPTIONS http://example.com/", 200),
        ("DELETE http://example.com/", 200),
    ] {
        let reply = client.ask(request(line))?;
        ensure!(reply.status == status && reply.body.is_empty(), "{line}: {reply:?}");
    }
    exeat.stop()
}

fn deny_headers_of_an_upstream_are_not_ours() -> Result<()> {
    let world = World::serving(Arc::new(|_: &Request| {
        Reply::new(403, "no")
            .with("X-Deny-Reason", "host_denied")
            .with("Proxy-Authenticate", "Basic realm=\"phish\"")
    }))?;
    let exeat = serve(&world, "")?;
    let (_, reply) = ask("GET http://example.com/")?;
    ensure!(reply.status == 403 && reply.body == b"no", "{reply:?}");
    for name in ["x-deny-reason", "proxy-authenticate"] {
        ensure!(reply.head.field(name).is_none(), "{reply:?}");
    }
    ensure!(!reply.phrase().contains("egress"), "{reply:?}");
    exeat.stop()
}

/// Responses that a client could take for this proxy's, or that it could read otherwise than this proxy.
fn what_an_upstream_says_is_not_taken_for_ours() -> Result<()> {
    let world = World::new()?;
    let mut exeat = serve(&world, "")?;
    let _odd = odd_origin(|peer, head| {
        let reply: &[u8] = match head.split(['/', ' ']).nth(2) {
            Some("lengths") => b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n",
            Some("fields") => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n",
            Some("list") => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            Some("codings") => {
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
            }
            Some("chunked") => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            Some("challenge") => {
                b"HTTP/1.1 407 Give me\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 2\r\n\r\nok"
            }
            Some("refusal") => {
                b"HTTP/1.1 403 egress denied: host_denied example.com:80\r\nContent-Length: 2\r\n\r\nok"
            }
            _ => b"HTTP/1.1 299 egress denied: host_denied\r\nContent-Length: 2\r\n\r\nok",
        };
        peer.write_all(reply)?;
        if (head.contains("/lengths") || head.contains("/fields")) && head.starts_with("GET") {
            peer.write_all(b"ok")?;
        }
        Ok(())
    })?;
    let bad_gateway = (502, "Bad", Some("connect_failed"));
    for (line, path, (status, phrase, reason)) in [
        ("GET", "lengths", (200, "OK", None)),
        ("HEAD", "lengths", (200, "OK", None)),
        ("GET", "fields", (200, "OK", None)),
        ("GET", "list", bad_gateway),
        ("GET", "codings", bad_gateway),
        ("GET", "chunked", (200, "OK", None)),
        ("GET", "challenge", bad_gateway),
        ("GET", "refusal", (403, "Forbidden", None)),
        ("GET", "other", (299, "", None)),
    ] {
        let (_, reply) = ask(&format!("{line} http://odd.example.com:8101/{path}"))?;
        let got = (reply.status, reply.head.field("x-deny-reason"));
        ensure!(got == (status, reason), "{line} {path}: {reply:?}");
        if reason.is_some() {
            ensure!(reply.phrase().starts_with("egress"), "{line} {path}: {reply:?}");
            continue;
        }
        ensure!(reply.phrase() == phrase, "{line} {path}: {reply:?}");
        ensure!(line == "HEAD" || reply.body == b"ok", "{line} {path}: {reply:?}");
        let lengths: Vec<_> = reply
            .head
            .fields
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .collect();
        let want = usize::from(path != "chunked");
        ensure!(lengths.len() == want && lengths.iter().all(|(_, value)| value == "2"), "{path}: {reply:?}");
    }
    let records = exeat.audit_until("the refusals", |records| {
        records.iter().filter(|r| r["reason"] == "connect_failed").count() == 3
    })?;
    ensure!(records.iter().all(|r| r["verdict"] == "allow"), "{records:#?}");
    exeat.stop()
}

/// RFC 9110 section 7.6.2, for the one method of it that is passed on.
fn max_forwards_is_kept_to() -> Result<()> {
    let world = World::new()?;
    let mut exeat = serve(&world, "")?;
    let beyond = (405, Some("method_not_allowed"));
    let malformed = (400, Some("request_malformed"));
    for (method, fields, told, passed) in [
        ("OPTIONS", "", (200, None), Some(None)),
        ("OPTIONS", "Max-Forwards: 5\r\n", (200, None), Some(Some("4"))),
        ("OPTIONS", "Max-Forwards: 1\r\n", (200, None), Some(Some("0"))),
        ("OPTIONS", "Max-Forwards: 0\r\n", beyond, None),
        ("OPTIONS", "Max-Forwards: 00\r\n", beyond, None),
        ("OPTIONS", "Max-Forwards: -1\r\n", malformed, None),
        ("OPTIONS", "Max-Forwards: x\r\n", malformed, None),
        ("OPTIONS", "Max-Forwards: 5\r\nMax-Forwards: 5\r\n", malformed, None),
        ("TRACE", "Max-Forwards: 5\r\n", beyond, None),
        ("GET", "Max-Forwards: 0\r\n", (200, None), Some(Some("0"))),
    ] {
        let (requests, accepts) = (world.http.requests().len(), world.accepts());
        let line = format!("{method} http://example.com/");
        let reply = Raw::proxy()?.ask(request_with(&line, &format!("{}{fields}", auth())))?;
        ensure!((reply.status, reply.head.field("x-deny-reason")) == told, "{method} {fields}: {reply:?}");
        let seen = world.http.requests();
        match passed {
            Some(left) => {
                ensure!(seen.len() == requests + 1, "{method} {fields}");
                let got = seen.last().and_then(|request| request.head.field("max-forwards"));
                ensure!(got == left, "{method} {fields}: {got:?}");
            }
            None => {
                ensure!(seen.len() == requests && world.accepts() == accepts, "{method} {fields}");
                ensure!(reply.status != 405 || reply.head.field("allow").is_some(), "{reply:?}");
            }
        }
    }
    let denied = |records: &[serde_json::Value]| records.iter().filter(|r| r["verdict"] == "deny").count();
    exeat.audit_until("the refusals", |records| denied(records) == 6)?;
    exeat.stop()
}

fn fields_of_one_hop_stay_there() -> Result<()> {
    let world = World::serving(Arc::new(|_: &Request| {
        Reply::new(200, "ok")
            .with("Connection", "X-Hop")
            .with("X-Hop", "1")
            .with("Keep-Alive", "timeout=5")
            .with("X-End", "1")
    }))?;
    let exeat = serve(&world, "")?;
    let fields = format!(
        "{}Connection: X-Mine, keep-alive\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nX-Far: 1\r\nVia: 1.1 before\r\n",
        auth()
    );
    let reply = Raw::proxy()?.ask(request_with("GET http://example.com/", &fields))?;
    ensure!(reply.head.field("x-hop").is_none() && reply.head.field("x-end") == Some("1"), "{reply:?}");
    let seen = world.http.requests().into_iter().next().context("a request")?;
    for name in ["x-mine", "keep-alive", "te", "proxy-authorization"] {
        ensure!(seen.head.field(name).is_none(), "{name}: {seen:?}");
    }
    ensure!(seen.head.field("x-far") == Some("1"), "{seen:?}");
    let via: Vec<&str> = seen
        .head
        .fields
        .iter()
        .filter(|(n, _)| n.eq_ignore_ascii_case("via"))
        .map(|(_, v)| v.as_str())
        .collect();
    ensure!(via.join(", ").starts_with("1.1 before, 1.1 exeat-"), "{seen:?}");
    exeat.stop()
}

fn an_upstream_that_breaks_off_is_not_a_whole_reply() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world, "")?;
    let _odd = odd_origin(|peer, head| {
        if head.contains("/nothing") {
            peer.finish()?;
        } else {
            peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")?;
            peer.finish()?;
        }
        Err(std::io::ErrorKind::ConnectionAborted.into())
    })?;
    let (_, reply) = ask("GET http://odd.example.com:8101/nothing")?;
    ensure!(reply.status == 502, "{reply:?}");
    let mut client = Raw::proxy()?;
    client.send(request("GET http://odd.example.com:8101/half"))?;
    let got = String::from_utf8_lossy(&client.rest()?).into_owned();
    ensure!(got.contains("content-length: 100") && got.ends_with("only this"), "{got:?}");
    exeat.stop()
}

fn a_response_that_could_be_read_in_two_ways_is_refused() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world, "")?;
    let _odd = odd_origin(|peer, head| {
        let reply: &[u8] = if head.contains("/both") {
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhidden"
        } else {
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhidden"
        };
        peer.write_all(reply)
    })?;
    let mut client = Raw::proxy()?;
    for path in ["both", "lengths", "both"] {
        client.send(request(&format!("GET http://odd.example.com:8101/{path}")))?;
        let reply = client.reply("GET")?;
        ensure!(!format!("{reply:?}").contains("hidden"), "{path}: {reply:?}");
        client = Raw::proxy()?;
    }
    drop(client);
    exeat.stop()
}

fn many_clients_at_once() -> Result<()> {
    let world = World::new()?;
    let mut exeat = serve(&world, "")?;
    let clients: Vec<_> = (0..64)
        .map(|n| {
            thread::spawn(move || -> Result<()> {
                let mut client = Raw::proxy()?;
                for turn in 0..10 {
                    let host = format!("h{}.example.org", (n + turn) % 8);
                    let reply = client.ask(request(&format!("GET http://{host}/")))?;
                    ensure!(reply.body == format!("hello from {host}\n").as_bytes(), "{reply:?}");
                    let reply = client.ask(request("GET http://evil.test/"))?;
                    ensure!(reply.status == 403, "{reply:?}");
                }
                Ok(())
            })
        })
        .collect();
    for client in clients {
        client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
    }
    let records = exeat.audit_until("1280 records", |records| records.len() == 1280)?;
    let ids: BTreeSet<&str> = records.iter().filter_map(|r| r["request_id"].as_str()).collect();
    ensure!(ids.len() == 1280, "{} ids", ids.len());
    let allowed = records.iter().filter(|r| r["verdict"] == "allow").count();
    ensure!(allowed == 640, "{allowed} allowed");
    // Single flight: eight names, two families.
    ensure!(world.dns.queries().len() == 16, "{} questions", world.dns.queries().len());
    exeat.stop()
}

fn tunnels_carry_bytes_in_both_directions() -> Result<()> {
    const LENGTH: usize = 48 << 20;
    let world = World::new()?;
    let mut exeat = serve(&world, ", \"mail.example.org:25\"")?;
    let (mut tunnel, reply) = ask("CONNECT mail.example.org:25")?;
    ensure!(reply.status == 200, "{reply:?}");
    let mut writer = tunnel.writer()?;
    let sender = thread::spawn(move || -> std::io::Result<()> {
        let block: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        (0..LENGTH / block.len()).try_for_each(|_| writer.write_all(&block))?;
        writer.shutdown(std::net::Shutdown::Write)
    });
    let got = tunnel.rest()?;
    sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    let echo = got.get(got.len() - LENGTH..).context("too little came back")?;
    let intact = echo.iter().zip((0..=255_u8).cycle()).all(|(got, want)| *got == want);
    ensure!(intact, "the echo differs");
    let (_, end) = exeat.audit_record("the end", |(_, r)| r["event"] == "end")?;
    ensure!(end["bytes_up"] == LENGTH && end["bytes_down"] == got.len(), "{end}");
    exeat.stop()
}

fn a_tunnel_to_nobody_is_a_502() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world, ", \"nobody.example.org:4444\"")?;
    let (_, reply) = ask("CONNECT nobody.example.org:4444")?;
    ensure!(reply.status == 502 && reply.head.field("x-deny-reason") == Some("connect_failed"), "{reply:?}");
    exeat.stop()
}

/// Git, for one, sends its credentials only after a challenge, and on the same connection.
fn a_407_leaves_the_connection_usable() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world, "")?;
    let mut client = Raw::proxy()?;
    for line in ["GET http://example.com/", "CONNECT mail.example.org:25", "GET http://example.com/"] {
        let reply = client.ask(request_with(line, ""))?;
        ensure!(reply.status == 407, "{line}: {reply:?}");
    }
    let reply = client.ask(request("GET http://example.com/"))?;
    ensure!(reply.status == 200, "{reply:?}");
    exeat.stop()
}
