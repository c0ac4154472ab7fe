//! Requests in HTTP/2, as frames.

use std::fs;

use anyhow::{Result, ensure};
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{CLIENT, PASSWORD, configuration};
use exeat_tests::http2::{Frame, GOAWAY, Http2, PROTOCOL_ERROR, SETTINGS, data};
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::{Raw, authorization};

use crate::stage::{Case, POLICY, Stage, case};

/// Another client, with a policy of its own.
const OTHER: &str = "other";

/// A request for `http://example.com/` but for its authority.
const GET: [(&str, &str); 3] = [(":method", "GET"), (":scheme", "http"), (":path", "/")];

pub(crate) const CASES: &[Case] = &[
    case("H2-01", |s| {
        let extra: [&[(&str, &str)]; 3] =
            [&[(":scheme", "https"), (":path", "/")], &[(":scheme", "https")], &[(":path", "/")]];
        for extra in extra {
            let mut fields = vec![(":method", "CONNECT"), (":authority", "example.com:443")];
            fields.splice(1..1, extra.iter().copied());
            is_malformed(s, &fields)?;
        }
        // The same without them opens a tunnel.
        let mut client = Http2::begin(Raw::proxy()?)?;
        let auth = auth();
        client.request(
            1,
            &[(":method", "CONNECT"), (":authority", "example.com:443"), ("proxy-authorization", &auth)],
            false,
        )?;
        let record = s.record("the decision", |r| r["event"] == "decision")?;
        ensure!(record["verdict"] == "allow", "{record}");
        s.world.https.wait("the tunnel", |seen| seen.len() == 1).map(drop)
    }),
    case("H2-02", |s| {
        refuses(s, &with(&[(":authority", "example.com"), ("host", "evil.test")]), 400, "host_mismatch")?;
        refuses(
            s,
            &with(&[(":authority", "example.com"), ("host", "example.com:8080")]),
            400,
            "host_mismatch",
        )?;
        passes(s, &with(&[(":authority", "example.com"), ("host", "example.com")]))
    }),
    case("H2-03", |s| {
        refuses(s, &with(&[(":authority", "user@evil.test")]), 400, "request_malformed")?;
        refuses(s, &with(&[(":authority", "user@example.com")]), 400, "request_malformed")?;
        refuses(s, &with(&[]), 400, "request_malformed")?;
        refuses(s, &with(&[("host", "example.com")]), 400, "request_malformed")?;
        refuses(
            s,
            &[(":method", "CONNECT"), (":authority", "user@example.com:443")],
            400,
            "request_malformed",
        )?;
        for method in ["GET", "OPTIONS"] {
            let whole =
                [(":method", method), (":scheme", "http"), (":authority", "example.com"), (":path", "*")];
            refuses(s, &whole, 400, "request_malformed")?;
            let asked = s.exeat.audit()?.into_iter().any(|r| r["target"] == "*" && r["method"] == method);
            ensure!(asked, "{:?}", s.exeat.audit());
        }
        refuses(s, &[(":method", "CONNECT")], 400, "request_malformed")
    }),
    case("H2-05", |s| {
        for field in [
            ("transfer-encoding", "chunked"),
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip"),
        ] {
            is_malformed(s, &with(&[(":authority", "example.com"), field]))?;
        }
        passes(s, &with(&[(":authority", "example.com"), ("te", "trailers")]))
    }),
    case("H2-07", |s| {
        let mut client = Http2::begin(Raw::proxy()?)?;
        let (auth, other) = (auth(), credentials(OTHER));
        let base = with(&[(":authority", "example.com")]);
        let mut ask = |stream: u32, credentials: Option<&str>| {
            let mut fields = base.clone();
            fields.extend(credentials.map(|value| ("proxy-authorization", value)));
            client.request(stream, &fields, true)
        };
        ask(1, Some(&auth))?;
        ask(3, None)?;
        ask(5, Some(&other))?;
        // In whatever order they are answered, each is answered for itself.
        for (want, status) in [(None, 200), (Some("auth_required"), 407), (Some("host_not_allowed"), 403)] {
            let record = s.record("one of the three", |r| r["reason"].as_str() == want)?;
            let name = match status {
                200 => Some(CLIENT),
                403 => Some(OTHER),
                _ => None,
            };
            ensure!(record["status"] == status && record["principal"]["name"].as_str() == name, "{record}");
        }
        s.world.http.wait("one of the three", |seen| seen.len() == 1).map(drop)
    })
    .with(concat!(
        "[policy.other]\nallow = [\"cdn.example.net:8443\"]\n",
        "[client.other]\npasswords = [\"OTHER_PASSWORD\"]\npolicies = [\"other\"]\n",
    ))
    .differs("another client's password in place of another container's token, which does not exist yet"),
    case("H2-10", preface),
];

fn credentials(user: &str) -> String {
    let line = authorization(user, PASSWORD);
    line.trim().split_once(": ").map_or(String::new(), |(_, value)| value.to_owned())
}

fn auth() -> String {
    credentials(CLIENT)
}

fn with(fields: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    GET.iter().chain(fields).copied().collect()
}

/// Sends the fields with the client's credentials on a connection of their own and returns what comes on the stream.
fn ask(fields: &[(&str, &str)]) -> Result<Vec<Frame>> {
    let auth = auth();
    let mut fields = fields.to_vec();
    fields.push(("proxy-authorization", &auth));
    let mut client = Http2::begin(Raw::proxy()?)?;
    client.request(1, &fields, true)?;
    client.stream(1)
}

/// The stream ends with PROTOCOL_ERROR; nothing was decided, looked up or reached.
fn is_malformed(s: &Stage, fields: &[(&str, &str)]) -> Result<()> {
    let (accepts, records, asked) = (s.world.accepts(), s.exeat.audit()?.len(), s.world.dns.queries().len());
    let frames = ask(fields)?;
    let last = frames.last().and_then(Frame::code);
    ensure!(frames.len() == 1 && last == Some(PROTOCOL_ERROR), "{fields:?}: {frames:?}");
    ensure!(s.world.accepts() == accepts && s.world.dns.queries().len() == asked, "{fields:?}");
    ensure!(s.exeat.audit()?.len() == records, "{:?}", s.exeat.audit());
    Ok(())
}

/// A refusal with its reason in the body and in the record; nothing was looked up or reached.
fn refuses(s: &mut Stage, fields: &[(&str, &str)], status: u16, reason: &str) -> Result<()> {
    let (accepts, asked) = (s.world.accepts(), s.world.dns.queries().len());
    let frames = ask(fields)?;
    let body = String::from_utf8_lossy(&data(&frames)).into_owned();
    ensure!(body.contains(&format!("\"reason\":\"{reason}\"")), "{fields:?}: {frames:?} {body}");
    let record = s.record("the refusal", |r| r["reason"] == reason)?;
    ensure!(record["status"] == status && record["verdict"] == "deny", "{record}");
    ensure!(s.world.accepts() == accepts && s.world.dns.queries().len() == asked, "{fields:?}");
    Ok(())
}

/// A request that succeeds.
fn passes(s: &mut Stage, fields: &[(&str, &str)]) -> Result<()> {
    let frames = ask(fields)?;
    ensure!(data(&frames) == b"hello from example.com\n", "{frames:?}");
    let record = s.record("the request", |r| r["event"] == "request" && r["reason"].is_null())?;
    ensure!(record["verdict"] == "allow" && record["status"] == 200, "{record}");
    Ok(())
}

/// A listener speaks the version that was agreed on and no other.
fn preface(s: &mut Stage) -> Result<()> {
    // The preface on a listener of both versions begins HTTP/2.
    let mut client = Http2::begin(Raw::proxy()?)?;
    ensure!(client.frame()?.is_some_and(|frame| frame.kind == SETTINGS));
    // On a listener without HTTP/2 it is a version that is not spoken.
    let directory = s.world.directory().join("http1");
    fs::create_dir(&directory)?;
    let only_http1 = "10.99.0.1:3130";
    let config = configuration(POLICY, "")
        .replace(&format!("[\"{PROXY}\"]"), &format!("[\"{only_http1}\"]\nhttp2 = false"));
    let http1 = Exeat::serve(&directory, &config, only_http1)?;
    let mut client = Raw::connect(only_http1.parse()?)?;
    let reply = client.ask("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
    ensure!(reply.status == 505, "{reply:?}");
    client.closed()?;
    http1.stop()?;
    // A request in HTTP/1 where TLS has agreed on HTTP/2.
    let directory = s.world.directory().join("tls");
    fs::create_dir(&directory)?;
    let tls = "10.99.0.1:3129";
    s.world.authority.issue("10.99.0.1", &directory.join("proxy.pem"), &directory.join("proxy.key"))?;
    let listener =
        format!("{{ address = \"{tls}\", tls = {{ cert = \"proxy.pem\", key = \"proxy.key\" }} }}");
    let config = configuration(POLICY, "").replace(&format!("\"{PROXY}\""), &listener);
    let product = Exeat::serve(&directory, &config, tls)?;
    let session = s.world.authority.connect_offering("10.99.0.1", Raw::connect(tls.parse()?)?, &["h2"])?;
    ensure!(session.conn.alpn_protocol() == Some(&b"h2"[..]));
    let mut client = Http2::over(session);
    client.write(exeat_tests::fixture::request("GET http://example.com/").as_bytes())?;
    let frames = client.rest()?;
    ensure!(frames.iter().all(|frame| matches!(frame.kind, SETTINGS | GOAWAY)), "{frames:?}");
    ensure!(product.audit()?.is_empty() && s.world.accepts() == 0);
    product.stop()
}
