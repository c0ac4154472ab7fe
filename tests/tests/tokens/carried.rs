//! How tokens come, what they let through, and who else is affected.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use exeat_identity::SignatureAlgorithm::{EdDsa, Es256};
use exeat_tests::client::Client;
use exeat_tests::container::Container;
use exeat_tests::dns::Entry;
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{configuration, request_with};
use exeat_tests::http2::{Http2, data};
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::Raw;
use exeat_tests::socks;
use exeat_tests::tokens::{CONTAINER, TokenIssuer, basic, bearer};
use exeat_tests::world::{GREETING, World};
use serde_json::json;

use crate::setup::{CEILING, ask, check, command, serve};

pub(crate) fn a_token_is_for_its_hosts() -> Result<()> {
    let world = World::new()?;
    let issuer = TokenIssuer::new(Es256, "k1")?;
    let exeat = serve(&world, &issuer, CEILING, "")?;
    let token = issuer.token(json!({}))?;
    let narrow = issuer.token(json!({"allowed_hosts": ["example.com"]}))?;
    let wide = issuer.token(json!({"allowed_hosts": "example.com,evil.test"}))?;
    let named = issuer.token(json!({"allowed_hosts": null, "policy": "app"}))?;
    let empty = issuer.token(json!({"allowed_hosts": ""}))?;
    let ok = (200, "");
    for (name, line, fields, want) in [
        ("as a password", "CONNECT example.com:443", basic(CONTAINER, &token), ok),
        ("as a bearer", "CONNECT example.com:443", bearer(&token), ok),
        ("a request", "GET http://example.com/", bearer(&token), ok),
        ("below a suffix", "GET http://a.example.org/", bearer(&token), ok),
        ("not the suffix", "GET http://example.org/", bearer(&token), (403, "host_not_allowed")),
        ("a port of its own", "CONNECT cdn.example.net:8443", bearer(&token), ok),
        ("another port", "CONNECT cdn.example.net:443", bearer(&token), (403, "port_not_allowed")),
        ("another host", "CONNECT evil.test:443", bearer(&token), (403, "host_not_allowed")),
        ("the token is narrower", "GET http://a.example.org/", bearer(&narrow), (403, "host_not_allowed")),
        ("the ceiling is narrower", "CONNECT evil.test:443", bearer(&wide), (403, "host_not_allowed")),
        ("and the rest of that token", "CONNECT example.com:443", bearer(&wide), ok),
        ("a policy's name", "GET http://example.org/", bearer(&named), ok),
        ("an empty list", "CONNECT example.com:443", bearer(&empty), (403, "host_not_allowed")),
        ("a literal", "CONNECT 93.184.216.34:443", bearer(&token), (403, "ip_literal_not_allowed")),
        (
            "in the wrong field",
            "GET http://example.com/",
            bearer(&token).replace("Proxy-", ""),
            (407, "auth_required"),
        ),
        ("no token", "CONNECT example.com:443", String::new(), (407, "auth_required")),
        ("a wrong one", "CONNECT example.com:443", bearer(&token[1..]), (407, "auth_invalid")),
    ] {
        check(name, line, &fields, want)?;
    }
    let refused = ask("CONNECT example.com:443", "")?.1;
    let challenges: Vec<&str> = refused
        .head
        .fields
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("proxy-authenticate"))
        .map(|(_, value)| value.as_str())
        .collect();
    ensure!(
        matches!(challenges.as_slice(), [first, "Bearer realm=\"exeat\""] if first.starts_with("Basic realm=")),
        "{challenges:?}"
    );
    exeat.stop()
}

pub(crate) fn curl_shows_what_a_token_lets_through() -> Result<()> {
    let world = World::new()?;
    let issuer = TokenIssuer::new(Es256, "k1")?;
    let exeat = serve(&world, &issuer, CEILING, "")?;
    let token = issuer.token(json!({}))?;
    let (home, ca) = (world.directory().to_owned(), world.ca_file());
    let curl = |proxy: &str, url: &str| {
        let args = ["-sS", "--cacert", &ca, "-D", "-", "-o", "/dev/null", url];
        Client::new("curl", &home).args(args).through(proxy).run()
    };
    let with = |container: &str| format!("http://container_{container}:jwt_{token}@{PROXY}");
    for (name, proxy, url, code, says) in [
        ("its host", with(CONTAINER), "https://example.com/", 0, "HTTP/1.1 200 Reply"),
        ("another host", with(CONTAINER), "https://evil.test/", 56, "x-deny-reason: host_not_allowed"),
        ("without a token", format!("http://{PROXY}"), "https://example.com/", 56, "HTTP/1.1 407 "),
        (
            "another container's",
            with("sbx-2"),
            "https://example.com/",
            56,
            "x-deny-reason: container_mismatch",
        ),
    ] {
        let outcome = curl(&proxy, url)?;
        ensure!(outcome.code == code && outcome.out.contains(says), "{name}: {outcome:?}");
    }
    exeat.stop()
}

pub(crate) fn tokens_are_carried_by_http2_and_socks() -> Result<()> {
    let world = World::new()?;
    // A user and a password of SOCKS5 have 255 bytes each (RFC 1929 §2).
    let issuer = TokenIssuer::new(EdDsa, "k")?;
    TokenIssuer::publish(&[&issuer], world.directory())?;
    let section =
        TokenIssuer::section("app", "").replace("secure-egress-control", "s").replace("egress-proxy", "p");
    let exeat = Exeat::serve(world.directory(), &configuration(CEILING, &section), PROXY)?;
    let short = json!({"iss": "s", "aud": "p", "iat": null, "jti": null, "organization_uuid": null,
        "container_id": "c", "allowed_hosts": "example.com"});
    let token = issuer.token(short)?;
    let password = format!("jwt_{token}");
    ensure!(password.len() <= 255, "{} bytes", password.len());
    let ask = |host: &str| socks::ask("container_c", &password, &socks::to_name(host.as_bytes(), 443));
    ensure!(ask("example.com")?.1 == 0);
    ensure!(ask("a.example.org")?.1 == 2, "not allowed by the ruleset");
    ensure!(socks::log_in("container_d", &password).is_err(), "another container's name");

    let mut client = Http2::begin(TcpStream::connect(PROXY)?)?;
    let mut stream = 1;
    let mut connect = |fields: &[(&str, &str)]| -> Result<String> {
        let all = [&[(":method", "CONNECT"), (":authority", "example.com:443")], fields].concat();
        client.request(stream, &all, fields.len() != 1)?;
        let frames = client.stream(stream)?;
        stream += 2;
        Ok(String::from_utf8(data(&frames))?)
    };
    let none = connect(&[("x-none", "1"), ("x-more", "1")])?;
    ensure!(none.contains("auth_required"), "{none}");
    let other = issuer.token(json!({"iss": "s", "aud": "p", "container_id": "d", "allowed_hosts": ""}))?;
    let named = connect(&[("proxy-authorization", &format!("Bearer {other}")), ("x-more", "1")])?;
    ensure!(named.contains("host_not_allowed"), "each stream is asked for its own: {named}");
    let wrong = connect(&[("proxy-authorization", "Bearer a.b.c"), ("x-more", "1")])?;
    ensure!(wrong.contains("auth_invalid"), "{wrong}");
    exeat.stop()
}

pub(crate) fn tokens_go_no_further_and_are_recorded_without_their_text() -> Result<()> {
    let world = World::new()?;
    let issuer = TokenIssuer::new(Es256, "k1")?;
    let mut exeat = serve(&world, &issuer, CEILING, "")?;
    let token = issuer.token(json!({"sub": "user-1"}))?;
    check("a request", "GET http://example.com/path?secret=1", &basic(CONTAINER, &token), (200, ""))?;
    check("by itself", "GET http://example.com/", &bearer(&token), (200, ""))?;
    for request in world.http.requests() {
        let shown = format!("{request:?}");
        ensure!(!shown.to_lowercase().contains("proxy-authorization") && !shown.contains(&token), "{shown}");
    }
    ensure!(world.http.requests().len() == 2);
    let records = exeat.audit_until("two records", |records| records.len() == 2)?;
    for record in &records {
        let principal = &record["principal"];
        for (field, want) in [
            ("name", "sandboxes/sbx-1"),
            ("proof", "token"),
            ("issuer", "sandboxes"),
            ("jti", "j1"),
            ("kid", "k1"),
        ] {
            ensure!(principal[field] == want, "{field} in {record}");
        }
        let labels = json!({"organization": "org-1", "app": "user-1", "instance": "sbx-1"});
        ensure!(principal["labels"] == labels, "{record}");
    }
    let written =
        [exeat.stdout(), exeat.stderr(), fs::read_to_string(world.directory().join("audit.jsonl"))?];
    let signature = token.rsplit('.').next().context("a signature")?;
    ensure!(written.iter().all(|text| !text.contains(signature)), "the token is written down");
    exeat.stop()
}

pub(crate) const API: &str = "127.0.0.1:9190";

pub(crate) fn metrics() -> Result<String> {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {API}\r\nConnection: close\r\n\r\n");
    Ok(String::from_utf8(Raw::connect(API.parse()?)?.ask(request)?.body)?)
}

pub(crate) fn nobody_locks_out_who_has_a_token() -> Result<()> {
    const ELSEWHERE: &str = "93.184.216.101:0";
    let world = World::new()?;
    let issuer = TokenIssuer::new(Es256, "k1")?;
    let exeat = serve(&world, &issuer, CEILING, "")?;
    let token = |jti: &str| issuer.token(json!({"jti": jti}));
    let (used, elsewhere, fresh) = (token("used")?, token("elsewhere")?, token("fresh")?);
    let (line, ok, invalid) = ("GET http://example.com/", (200, ""), (407, "auth_invalid"));
    check("before", line, &bearer(&used), ok)?;
    let mut other = Raw::from(ELSEWHERE.parse()?, PROXY.parse()?)?;
    ensure!(other.ask(request_with(line, &bearer(&elsewhere)))?.status == 200);
    for attempt in 0..6 {
        check(&format!("guess {attempt}"), line, &basic(CONTAINER, "x.y.z"), invalid)?;
    }
    check("the name has been guessed at", line, &basic(CONTAINER, &fresh), ok)?;
    for attempt in 6..31 {
        check(&format!("guess {attempt}"), line, &bearer(&format!("x.y.{attempt}")), invalid)?;
    }
    let never_seen = token("never seen")?;
    for (name, fields, want) in [
        ("a guess", bearer("x.y.z"), (429, "rate_limited")),
        ("a right one that nobody has seen", bearer(&never_seen), (429, "rate_limited")),
        ("one that was right here", bearer(&used), ok),
        ("the same as a password", basic(CONTAINER, &used), ok),
        ("one that was right elsewhere", bearer(&elsewhere), ok),
    ] {
        check(name, line, &fields, want)?;
    }
    exeat.stop()
}

/// What `docs/guides/sandbox-tokens.md` shows: containers whose only way out is the proxy, each with a token of its own.
pub(crate) fn each_sandbox_has_its_own_allowlist() -> Result<()> {
    const INNER: &str = "10.97.1.1:3128";
    let world = World::new()?;
    world.dns.set("api.example.com", Entry::addresses(&["93.184.216.34"]));
    let issuer = TokenIssuer::new(Es256, "k1")?;
    TokenIssuer::publish(&[&issuer], world.directory())?;
    let sandbox = Container::with_cable("sbx1", &["10.97.1.1/30"], &["10.97.1.2/30"])?;
    let more = "[workload.sbx-1]\naddresses = [\"10.97.1.2\"]\nalone = false\n\
                [workload.sbx-2]\naddresses = [\"10.97.2.2\"]\nalone = false\n[api]\nsocket = \"api.sock\"\n";
    let ceiling = r#"allow = ["*.example.com:443,25", "*.example.org"]"#;
    let config =
        configuration(ceiling, &(TokenIssuer::section("app", "enforce_container_binding = true") + more));
    let config = config.replacen(&format!("[\"{PROXY}\"]"), &format!("[\"{PROXY}\", \"{INNER}\"]"), 1);
    let mut exeat = Exeat::serve(world.directory(), &config, PROXY)?;
    let token = |container: &str| {
        let hosts = ["api.example.com", "api.example.com:25"];
        issuer.token(json!({"container_id": container, "jti": container, "allowed_hosts": hosts}))
    };
    let (own, others) = (token("sbx-1")?, token("sbx-2")?);
    let (home, ca) = (world.directory().to_owned(), world.ca_file());
    let proxy = |container: &str, token: &str| format!("http://container_{container}:jwt_{token}@{INNER}");
    let refused = |reason: &str| format!("x-deny-reason: {reason}");
    for (name, proxy, url, code, says) in [
        ("its host", proxy("sbx-1", &own), "https://api.example.com/", 0, "HTTP/1.1 200 Reply".to_owned()),
        ("another host", proxy("sbx-1", &own), "https://www.example.org/", 56, refused("host_not_allowed")),
        (
            "no token",
            format!("http://{INNER}"),
            "https://api.example.com/",
            56,
            "proxy-authenticate: Bearer".to_owned(),
        ),
        (
            "another's token",
            proxy("sbx-2", &others),
            "https://api.example.com/",
            56,
            refused("container_mismatch"),
        ),
        ("by its name", proxy("sbx-2", &own), "https://api.example.com/", 56, refused("container_mismatch")),
    ] {
        let outcome =
            sandbox.curl(&home, &["--cacert", &ca, "-D", "-", "-o", "/dev/null", "-x", &proxy, url])?;
        ensure!(outcome.code == code && outcome.out.contains(&says), "{name}: {outcome:?}");
    }
    let outcome = sandbox.curl(&home, &["--cacert", &ca, "https://93.184.216.34/"])?;
    ensure!(outcome.code == 7, "there is no other way out: {outcome:?}");
    ensure!(world.https.accepts() == 1, "{:?}", world.reached());

    let mut tunnel = sandbox
        .command("curl")
        .args(["-sS", "-N", "-p", "-x", &proxy("sbx-1", &own), "telnet://api.example.com:25"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut greeting = vec![0; GREETING.len()];
    tunnel.stdout.as_mut().context("its output")?.read_exact(&mut greeting)?;
    ensure!(greeting == GREETING.as_bytes(), "{}", String::from_utf8_lossy(&greeting));
    let revoked = std::time::Instant::now();
    command(&world, &["revoke", "container=sbx-1"])?;
    let ended = tunnel.wait()?;
    let took = revoked.elapsed();
    ensure!(!ended.success(), "the tunnel was cut");
    eprintln!("the tunnel was dead {took:?} after the command to revoke its token began");
    // Ten times the second that it may take.
    ensure!(took < std::time::Duration::from_secs(10), "{took:?}");
    exeat.audit_until("the end of the tunnel", |records| {
        records.iter().any(|record| record["event"] == "end" && record["end"] == "token_revoked")
    })?;
    let outcome =
        sandbox.curl(&home, &["-D", "-", "-x", &proxy("sbx-1", &own), "https://api.example.com/"])?;
    ensure!(outcome.out.contains(&refused("token_revoked")), "{outcome:?}");
    exeat.stop()
}
