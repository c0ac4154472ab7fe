//! What `exeat explain` and the API's explain say of a URL is what becomes of a client that asks for it.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use exeat_tests::client::Client;
use exeat_tests::exeat::{Exeat, binary};
use exeat_tests::fixture::{CLIENT, ask, configuration};
use exeat_tests::hello::Hello;
use exeat_tests::namespace::PROXY;
use exeat_tests::world::World;
use exeat_tests::{api, harness, scenarios};
use serde_json::json;

fn main() -> ExitCode {
    harness::main(scenarios![a_url_is_explained_as_it_is_served])
}

const POLICY: &str = r#"allow = [
  "plain.example.org", "93.184.216.34",
  { host = "free.example.org", ports = [80, 443], expect = "any" },
  { host = "tls.example.org", ports = [80], expect = "tls" },
  { host = "http.example.org", ports = [443, 8080], expect = "http" },
  "mail.example.org:25",
]
deny = ["denied.example.org"]"#;

/// Each URL, with the reason that refuses it. What is asked for with CONNECT is asked for by other names than the rest: its
/// records are found by them.
const URLS: [(&str, Option<&str>); 27] = [
    ("http://plain.example.org/", None),
    ("http://plain.example.org:443/", Some("tls_required")),
    ("https://plain.example.org/", None),
    ("https://plain.example.org:80/", Some("http_required")),
    ("http://free.example.org/", None),
    ("https://free.example.org:80/", None),
    ("https://free.example.org/", None),
    ("http://tls.example.org/", Some("tls_required")),
    ("https://tls.example.org:80/", None),
    ("http://tls.example.org:443/", Some("port_not_allowed")),
    ("https://http.example.org/", Some("http_required")),
    ("https://http.example.org:8080/", Some("http_required")),
    ("http://93.184.216.34/", None),
    ("http://93.184.216.34:443/", Some("tls_required")),
    ("https://93.184.216.34:80/", Some("http_required")),
    ("https://93.184.216.34/", None),
    ("http://mail.example.org:443/", Some("port_not_allowed")),
    ("http://denied.example.org:443/", Some("host_denied")),
    ("https://other.example.org:80/", Some("host_not_allowed")),
    // Whatever comes before a decision.
    ("http://user@plain.example.org/", Some("request_malformed")),
    ("https://user@plain.example.org:443/", Some("host_invalid")),
    ("http://plain.example.org:0/", Some("host_invalid")),
    ("https://plain.example.org:65536/", Some("host_invalid")),
    ("http://plain..example.org/", Some("host_invalid")),
    ("https://127.1:443/", Some("host_invalid")),
    ("http:///", Some("host_invalid")),
    ("ftp://plain.example.org/", Some("scheme_not_allowed")),
];

fn a_url_is_explained_as_it_is_served() -> Result<()> {
    let world = World::new()?;
    let config = configuration(POLICY, "[api]\nsocket = \"s\"\n");
    let mut exeat = Exeat::serve(world.directory(), &config, PROXY)?;
    for (url, want) in URLS {
        let done =
            Client::new(binary()?, world.directory()).args(["explain", CLIENT, url, "--resolve"]).run()?;
        let mut first = done.out.lines().next().unwrap_or_default().split_whitespace();
        let (verdict, reason) = (first.next(), first.nth(1));
        let (expected, code) = if want.is_none() { ("allow", 0) } else { ("deny", 1) };
        ensure!(verdict == Some(expected) && reason == want, "{url}: {done:?}");
        ensure!(done.code == code, "{url}: {done:?}");

        let question = json!({ "client": CLIENT, "target": url, "addresses": ["93.184.216.34"] });
        let socket = world.directory().join("s");
        let (status, told) = api::ask(&socket, "POST /v1/explain", "", question.to_string().as_bytes())?;
        ensure!(status == 200 && told["verdict"] == expected, "{url}: {told}");
        ensure!(told["reason"].as_str() == want, "{url}: {told}");

        let found = refused(&mut exeat, url).with_context(|| url.to_owned())?;
        ensure!(found.as_deref() == want, "{url}: served as {found:?}");
    }
    exeat.stop()
}

/// Why the proxy refuses what a client does with a URL, if it does.
fn refused(exeat: &mut Exeat, url: &str) -> Result<Option<String>> {
    let Some(rest) = url.strip_prefix("https://") else {
        let (_, reply) = ask(&format!("GET {url}"))?;
        return Ok(reply.head.field("x-deny-reason").map(str::to_owned));
    };
    let authority = rest.trim_end_matches('/');
    let target = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:443") };
    let (mut tunnel, reply) = ask(&format!("CONNECT {target}"))?;
    if reply.status != 200 {
        return Ok(reply.head.field("x-deny-reason").map(str::to_owned));
    }
    let host = target.split(':').next().unwrap_or_default();
    // A server name is no address (RFC 6066 §3).
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    tunnel.send(if is_address { Hello::new() } else { Hello::to(host) }.record())?;
    // Whoever has the hello answers it, or not, and closes at its end.
    tunnel.finish()?;
    tunnel.rest()?;
    let (_, record) = exeat.audit_record("the tunnel's end", |(_, record)| {
        record["target"] == *target && record["method"] == "CONNECT" && record["event"] == "end"
    })?;
    Ok(record["reason"].as_str().map(str::to_owned))
}
