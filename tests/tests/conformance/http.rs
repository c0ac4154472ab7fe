//! Framing, header fields, kept-alive connections, limits.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use exeat_tests::fixture::{auth, request};
use exeat_tests::hello::Hello;
use exeat_tests::http::Request;
use exeat_tests::namespace::PROXY;
use exeat_tests::origin::{Origin, Service};
use exeat_tests::raw::Raw;

use crate::stage::{Case, Refusal, Stage, case, refusal};

const MALFORMED: Refusal = refusal(400, "request_malformed");
const AMBIGUOUS: Refusal = refusal(400, "framing_ambiguous");
const NOT_ALLOWED: Refusal = refusal(403, "host_not_allowed");
const TOO_LARGE: Refusal = refusal(431, "header_too_large");

/// Fields by which a client could claim to be somebody else; none of them may reach an origin.
const IDENTITY_FIELDS: [&str; 8] = [
    "proxy-authorization",
    "proxy-connection",
    "x-jwt-payload",
    "x-container-id",
    "x-forwarded-for",
    "forwarded",
    "x-real-ip",
    "x-upstream-https-proxy",
];

pub(crate) const CASES: &[Case] = &[
    case("HTTP-01", |s| {
        let request = format!("GET http://example.com/ HTTP/1.1\r\nHost: evil.test\r\n{}\r\n", auth());
        s.passes_on(&mut Raw::proxy()?, request)?;
        let seen = s.world.http.requests();
        ensure!(seen.len() == 1 && seen.iter().all(|r| r.host() == "example.com" && !format!("{r:?}").contains("evil")), "{seen:?}");
        Ok(())
    })
    .differs("the second outcome of the case: the Host of an absolute-form request is replaced (RFC 9112 section 3.2.2)"),
    case("HTTP-05", |s| {
        let head = "POST http://example.com/ HTTP/1.1\r\nHost: example.com\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n";
        closes_after(s, &format!("{head}{}\r\n0\r\n\r\nG", auth()), AMBIGUOUS)
    }),
    case("HTTP-08", |s| {
        closes_after(
            s,
            &format!("GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n evil.test\r\n{}\r\n", auth()),
            MALFORMED,
        )
    }),
    case("HTTP-12", versions),
    case("HTTP-13", |s| {
        let mut client = Raw::proxy()?;
        s.passes_on(&mut client, request("GET http://example.com/"))?;
        s.refuses_on(&mut client, request("GET http://evil.test/"), NOT_ALLOWED)?;
        s.passes_on(&mut client, request("GET http://example.com/again")).map(drop)
    }),
    case("HTTP-14", |s| {
        let mut client = Raw::proxy()?;
        s.passes_on(&mut client, request("GET http://example.com/"))?;
        let bare = "GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n";
        s.refuses_on(&mut client, bare, refusal(407, "auth_required")).map(drop)
    }),
    case("HTTP-16", early_bytes),
    case("HTTP-17", |s| {
        s.refuses("connect example.com:443", MALFORMED)?;
        s.refuses_bytes(request("CONNECT example.com:443").replace("CONNECT ", "CONNECT\t"), MALFORMED)
            .map(drop)
    }),
    case("HTTP-18", |s| {
        for method in ["TRACE", "TRACK", "DEBUG"] {
            s.refuses(&format!("{method} http://example.com/"), refusal(405, "method_not_allowed"))?;
        }
        Ok(())
    }),
    case("HTTP-19", |s| {
        for target in [
            "ftp://example.com/",
            "gopher://example.com/",
            "file:///etc/passwd",
            "urn:x",
            "cache_object://example.com/",
        ] {
            s.refuses(&format!("GET {target}"), refusal(400, "scheme_not_allowed"))?;
        }
        Ok(())
    }),
    case("HTTP-20", |s| {
        s.refuses("GET https://evil.test/", NOT_ALLOWED)?;
        s.refuses("GET https://example.com/", refusal(400, "scheme_not_allowed"))
    }),
    case("HTTP-21", |s| {
        s.refuses_bytes(get_with("Connection: close, Host\r\n"), MALFORMED)?;
        s.refuses_bytes(get_with("Connection: Content-Length\r\n"), MALFORMED)?;
        let seen = forwarded(
            s,
            "Connection: close, Proxy-Authorization, X-Container-Id\r\nX-Container-Id: other\r\n",
        )?;
        ensure!(seen.head.field("x-container-id").is_none(), "{seen:?}");
        Ok(())
    }),
    case("HTTP-22", |s| {
        let seen = forwarded(
            s,
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        )?;
        for name in ["upgrade", "http2-settings"] {
            ensure!(seen.head.field(name).is_none(), "{seen:?}");
        }
        Ok(())
    }),
    case("HTTP-24", |s| {
        let odd = origin_that(s, |peer| {
            peer.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhidden",
            )
        })?;
        let reply = Raw::proxy()?.ask(request("GET http://odd.example.com:8101/"))?;
        ensure!(reply.status == 502 && !reply.body.ends_with(b"hidden"), "{reply:?}");
        ensure!(odd.accepts() == 1);
        Ok(())
    })
    .policy(ODD),
    case("HTTP-25", |s| {
        let fields = "X-JWT-Payload: {\"allowed_hosts\":\"evil.test\"}\r\nX-Container-Id: sbx-2\r\nX-Org-Id: org-2\r\n";
        s.refuses_bytes(get_with(fields).replace("example.com", "evil.test"), NOT_ALLOWED)?;
        identity_is_removed(s, fields)
    }),
    case("HTTP-26", |s| {
        identity_is_removed(
            s,
            "X-Forwarded-For: 10.99.0.3\r\nForwarded: for=10.99.0.3\r\nX-Real-IP: 10.99.0.3\r\n",
        )?;
        let peer = |r: &serde_json::Value| {
            r["source"].as_str().is_some_and(|source| source.starts_with("10.99.0.1:"))
        };
        ensure!(s.exeat.audit()?.iter().all(peer), "{:?}", s.exeat.audit());
        Ok(())
    }),
    case("HTTP-27", |s| identity_is_removed(s, "X-Upstream-Https-Proxy: https://evil.test:443\r\n")),
    case("HTTP-28", |s| identity_is_removed(s, "Proxy-Connection: keep-alive\r\n")),
    case("HTTP-29", |s| {
        let credentials = auth().replace("Proxy-Authorization", "Authorization");
        let bare = format!("GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n{credentials}\r\n");
        s.refuses_bytes(bare, refusal(407, "auth_required"))?;
        let seen = forwarded(s, &credentials)?;
        let value = credentials.trim_end().split_once(": ").context("a field")?.1;
        ensure!(seen.head.field("authorization") == Some(value), "{seen:?}");
        Ok(())
    }),
    case("HTTP-30", |s| {
        let via = forwarded(s, "")?.head.field("via").context("a Via field")?.to_owned();
        s.refuses_bytes(get_with(&format!("Via: {via}\r\n")), refusal(508, "loop_detected"))?;
        s.refuses_bytes(
            get_with(&format!("Via: 1.0 first, {via}, 1.1 last\r\n")),
            refusal(508, "loop_detected"),
        )?;
        forwarded(s, "Via: 1.1 exeat-00000000\r\n").map(drop)
    }),
    case("HTTP-31", |s| {
        let mut client = Raw::proxy()?;
        let reply = client.ask(request("GET http://example.com/redirect"))?;
        ensure!(reply.status == 302, "{reply:?}");
        let location = reply.head.field("location").context("a Location")?;
        s.refuses_on(&mut client, request(&format!("GET {location}")), NOT_ALLOWED)?;
        ensure!(s.world.accepts() == 1);
        Ok(())
    }),
    case("HTTP-33", |s| {
        let many: String = (0..100_000).map(|n| format!("X-{n}: 1\r\n")).collect();
        s.refuses_bytes(get_with(&many), TOO_LARGE)?;
        s.refuses_bytes(get_with(&"X-A: 1\r\n".repeat(101)), TOO_LARGE)?;
        s.refuses_bytes(get_with(&format!("X-Long: {}\r\n", "a".repeat(1 << 20))), TOO_LARGE)?;
        s.refuses_bytes(get_with(&format!("X-Long: {}\r\n", "a".repeat(64 * 1024 + 1))), TOO_LARGE)?;
        forwarded(s, &format!("X-Long: {}\r\n", "a".repeat(32 * 1024))).map(drop)
    }),
    case("HTTP-35", slow_head).with("[limits]\nhead_timeout = \"500ms\"\n"),
    case("HTTP-37", flood).with("[limits]\nconnections_per_source = 8\n"),
    case("HTTP-38", interim).policy(ODD),
    case("HTTP-39", large_body),
];

/// A policy that allows one more origin, on a port of its own.
const ODD: &str = r#"allow = ["example.com", "odd.example.com:8101"]"#;

/// A GET for `http://example.com/` with more fields.
fn get_with(fields: &str) -> String {
    request("GET http://example.com/").replace("\r\n\r\n", &format!("\r\n{fields}\r\n"))
}

/// Sends a GET with more fields and returns what the origin got.
fn forwarded(stage: &mut Stage, fields: &str) -> Result<Request> {
    let before = stage.world.http.requests().len();
    stage.passes_on(&mut Raw::proxy()?, get_with(fields))?;
    stage.world.http.requests().into_iter().nth(before).context("a request at the origin")
}

fn identity_is_removed(stage: &mut Stage, fields: &str) -> Result<()> {
    let seen = forwarded(stage, fields)?;
    for name in IDENTITY_FIELDS {
        ensure!(seen.head.field(name).is_none(), "{name} reached the origin: {seen:?}");
    }
    Ok(())
}

/// The request is refused, and the connection is closed after that: whatever follows is never read as a request.
fn closes_after(stage: &mut Stage, request: &str, want: Refusal) -> Result<()> {
    let mut client = Raw::proxy()?;
    stage.refuses_on(&mut client, request, want)?;
    client.closed()
}

/// Starts `odd.example.com:8101`, which reads a request head and then does as `then` says.
fn origin_that(
    stage: &Stage,
    then: impl Fn(&mut exeat_tests::origin::Peer) -> std::io::Result<()> + Send + Sync + 'static,
) -> Result<Origin> {
    stage.resolves("odd.example.com", &["93.184.216.41"]);
    let service: Service = Arc::new(move |peer| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            peer.read_exact(&mut byte)?;
            head.extend(byte);
        }
        then(peer)
    });
    Origin::start("93.184.216.41:8101".parse()?, service)
}

fn versions(stage: &mut Stage) -> Result<()> {
    let auth = auth();
    for (name, request, want) in [
        ("0.9", "GET http://example.com/\r\n\r\n".to_owned(), MALFORMED),
        (
            "1.0 with a transfer coding",
            format!(
                "POST http://example.com/ HTTP/1.0\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n{auth}\r\n0\r\n\r\n"
            ),
            AMBIGUOUS,
        ),
        (
            "2.0",
            format!("GET http://example.com/ HTTP/2.0\r\nHost: example.com\r\n{auth}\r\n"),
            refusal(505, "request_malformed"),
        ),
        (
            "1.9",
            format!("GET http://example.com/ HTTP/1.9\r\nHost: example.com\r\n{auth}\r\n"),
            refusal(505, "request_malformed"),
        ),
        (
            "lower case",
            format!("GET http://example.com/ http/1.1\r\nHost: example.com\r\n{auth}\r\n"),
            MALFORMED,
        ),
    ] {
        let mut client = Raw::proxy()?;
        stage.refuses_on(&mut client, request, want).context(name)?;
        client.closed().context(name)?;
    }
    Ok(())
}

/// Bytes behind a CONNECT belong to the tunnel when it opens, and to nobody when it does not.
fn early_bytes(stage: &mut Stage) -> Result<()> {
    let hello = Hello::to("example.com").record();
    let mut client = Raw::proxy()?;
    client.send([request("CONNECT example.com:443").as_bytes(), &hello].concat())?;
    let reply = client.reply("CONNECT")?;
    ensure!(reply.status == 200, "{reply:?}");
    stage.world.https.wait("the early bytes", |seen| seen.iter().any(|s| s.received == hello))?;

    let smuggled = request("GET http://example.com/smuggled");
    let mut client = Raw::proxy()?;
    let accepts = stage.world.accepts();
    stage.record("the tunnel", |r| r["verdict"] == "allow")?;
    stage.refuses_on(&mut client, request("CONNECT evil.test:443") + &smuggled, NOT_ALLOWED)?;
    client.closed()?;
    ensure!(stage.world.accepts() == accepts, "{:?}", stage.world.reached());
    Ok(())
}

/// A head that comes byte by byte is cut off at the deadline of the whole, not of each read.
fn slow_head(stage: &mut Stage) -> Result<()> {
    let mut client = Raw::proxy()?;
    let mut writer = client.writer()?;
    let (stop, stopped) = channel::<()>();
    let bytes = request("GET http://example.com/").repeat(4).replace("\r\n\r\n", "\r\n");
    let trickle = thread::spawn(move || {
        for byte in bytes.bytes() {
            if writer.write_all(&[byte]).is_err()
                || stopped.recv_timeout(Duration::from_millis(50)) != Err(RecvTimeoutError::Timeout)
            {
                return;
            }
        }
    });
    let reply = client.reply("GET")?;
    stage.check_refusal(&reply, refusal(408, "head_timeout"))?;
    drop(client.rest()?);
    drop(stop);
    ensure!(trickle.join().is_ok());
    Ok(())
}

/// One source that opens more connections than it may is refused; another source is not.
fn flood(stage: &mut Stage) -> Result<()> {
    let first: SocketAddr = "10.99.0.1:0".parse()?;
    let second: SocketAddr = "10.99.0.53:0".parse()?;
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut client = Raw::from(first, PROXY.parse()?)?;
        stage.passes_on(&mut client, request("GET http://example.com/"))?;
        held.push(client);
    }
    let mut ninth = Raw::from(first, PROXY.parse()?)?;
    let reply = ninth.ask(request("GET http://example.com/"))?;
    stage.check_refusal(&reply, refusal(429, "rate_limited"))?;
    let mut other = Raw::from(second, PROXY.parse()?)?;
    stage.passes_on(&mut other, request("GET http://example.com/"))?;
    drop(held);
    Ok(())
}

/// No invitation to send a body that will be refused; an end to interim replies.
fn interim(stage: &mut Stage) -> Result<()> {
    let mut client = Raw::proxy()?;
    client.send(format!(
        "POST http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n{}\r\n",
        auth()
    ))?;
    let start = client.exactly(12)?;
    ensure!(start == b"HTTP/1.1 403", "{:?}", String::from_utf8_lossy(&start));
    drop(client);

    let odd = origin_that(stage, |peer| {
        // Far more than any limit; an endless flood would only measure how fast this machine parses.
        peer.write_all(&b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(2000))?;
        std::io::copy(peer, &mut std::io::sink()).map(drop)
    })?;
    let reply = Raw::proxy()?.ask(request("GET http://odd.example.com:8101/"))?;
    ensure!(reply.status == 502, "{reply:?}");
    odd.wait("the upstream connection to end", |seen| seen.iter().all(|s| s.ended)).map(drop)
}

/// The refusal comes at the end of the head, and no more than a little of the body is read.
fn large_body(stage: &mut Stage) -> Result<()> {
    let length = 1_u64 << 30;
    let mut client = Raw::proxy()?;
    let head = format!(
        "POST http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\nContent-Length: {length}\r\n{}\r\n",
        auth()
    );
    stage.refuses_on(&mut client, head, NOT_ALLOWED)?;
    let block = vec![0; 64 * 1024];
    let taken = (0..length / 65_536).take_while(|_| client.send(&block).is_ok()).count();
    // What the sockets of both ends buffer is not the proxy's doing.
    ensure!(taken < 1024, "the proxy took {taken} blocks of 64 KiB");
    Ok(())
}
