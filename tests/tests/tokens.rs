//! Tokens through the real proxy: what they let through and what not, in every protocol, and when that ends.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use exeat_identity::SignatureAlgorithm::{EdDsa, Es256};
use exeat_identity::SigningKey;
use exeat_tests::api;
use exeat_tests::client::Client;
use exeat_tests::container::Container;
use exeat_tests::dns::Entry;
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{configuration, password_entry, request_with};
use exeat_tests::http::Reply;
use exeat_tests::http2::{Http2, data};
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::Raw;
use exeat_tests::socks;
use exeat_tests::tokens::{CONTAINER, TokenIssuer, basic, bearer, now};
use exeat_tests::world::{GREETING, World};
use exeat_tests::{harness, scenarios};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn main() -> ExitCode {
    harness::main(scenarios![
        a_token_is_for_its_hosts,
        curl_shows_what_a_token_lets_through,
        tokens_are_carried_by_http2_and_socks,
        tokens_go_no_further_and_are_recorded_without_their_text,
        bindings_are_enforced,
        a_token_for_central_nodes_counts_there_alone,
        a_token_that_must_use_the_gateway_goes_no_other_way,
        regulated_traffic_has_its_own_rules_and_tls,
        an_expiry_ends_openings_and_tunnels_alike,
        a_key_that_is_taken_away_ends_its_tunnels,
        an_issuer_that_binds_its_tokens_ends_those_from_elsewhere,
        a_revocation_ends_tunnels_and_outlives_a_restart,
        nobody_locks_out_who_has_a_token,
        each_sandbox_has_its_own_allowlist,
        the_command_line_makes_tokens_that_count,
        the_admin_api_issues_tokens_and_says_which_side_refuses,
    ])
}

/// What no token exceeds: more than the tokens of these scenarios list.
const CEILING: &str =
    r#"allow = ["example.com:80,443,25", "*.example.org:80,443,25", "example.org", "cdn.example.net:8443"]"#;

/// The proxy with an issuer whose tokens are below `ceiling`, and further lines of its section.
fn serve(world: &World, issuer: &TokenIssuer, ceiling: &str, lines: &str) -> Result<Exeat> {
    TokenIssuer::publish(&[issuer], world.directory())?;
    let config = configuration(ceiling, &TokenIssuer::section("app", lines));
    Exeat::serve(world.directory(), &config, PROXY)
}

/// What a request with these fields is answered: its status and the reason, if it is a refusal.
fn answer(line: &str, fields: &str) -> Result<(u16, String)> {
    let (_, reply) = ask(line, fields)?;
    Ok((reply.status, reply.head.field("x-deny-reason").unwrap_or_default().to_owned()))
}

fn ask(line: &str, fields: &str) -> Result<(Raw, Reply)> {
    let mut client = Raw::proxy()?;
    let reply = client.ask(request_with(line, fields))?;
    Ok((client, reply))
}

fn check(name: &str, line: &str, fields: &str, want: (u16, &str)) -> Result<()> {
    let got = answer(line, fields)?;
    ensure!((got.0, got.1.as_str()) == want, "{name}: {line} gave {got:?} instead of {want:?}");
    Ok(())
}

fn a_token_is_for_its_hosts() -> Result<()> {
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

fn curl_shows_what_a_token_lets_through() -> Result<()> {
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

fn tokens_are_carried_by_http2_and_socks() -> Result<()> {
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

fn tokens_go_no_further_and_are_recorded_without_their_text() -> Result<()> {
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

fn bindings_are_enforced() -> Result<()> {
    let world = World::new()?;
    let issuer = TokenIssuer::new(Es256, "k1")?;
    let workload = "[workload.sandbox]\naddresses = [\"10.99.0.1\"]\ncontainer = \"sbx-1\"\nalone = false";
    let exeat = serve(&world, &issuer, CEILING, workload)?;
    let mismatch = (403, "container_mismatch");
    let plain = issuer.token(json!({}))?;
    let bound = issuer.token(json!({"enforce_container_binding": "true"}))?;
    let others = issuer.token(json!({"enforce_container_binding": true, "container_id": "sbx-2"}))?;
    let loose = issuer.token(json!({"enforce_container_binding": "false"}))?;
    let nobodys = issuer.token(json!({"enforce_container_binding": true, "container_id": null}))?;
    let odd = issuer.token(json!({"enforce_container_binding": "no"}))?;
    let line = "CONNECT example.com:443";
    for (name, fields, want) in [
        ("the container's own name", basic(CONTAINER, &plain), (200, "")),
        ("another container's name", basic("sbx-2", &plain), mismatch),
        ("bound, from its container", basic(CONTAINER, &bound), (200, "")),
        ("bound, as a bearer", bearer(&bound), (200, "")),
        ("bound, of another container", bearer(&others), mismatch),
        ("explicitly not bound", bearer(&loose), (200, "")),
        ("bound to nothing", bearer(&nobodys), (407, "auth_invalid")),
        ("neither true nor false", bearer(&odd), (407, "auth_invalid")),
    ] {
        check(name, line, &fields, want)?;
    }
    let mut elsewhere = Raw::from("93.184.216.200:0".parse()?, PROXY.parse()?)?;
    let refused = elsewhere.ask(request_with(line, &bearer(&bound)))?;
    ensure!(refused.head.field("x-deny-reason") == Some(mismatch.1), "from an unknown place: {refused:?}");
    ensure!(world.https.accepts() == 4, "{} connections", world.https.accepts());
    exeat.stop()
}

fn a_token_for_central_nodes_counts_there_alone() -> Result<()> {
    let world = World::new()?;
    let issuer = TokenIssuer::new(Es256, "k1")?;
    let mut exeat = serve(&world, &issuer, CEILING, "")?;
    let token = issuer.token(json!({"enforce_centralized_egress": true}))?;
    let line = "GET http://example.com/";
    check("elsewhere", line, &bearer(&token), (403, "centralized_egress_required"))?;
    ensure!(world.accepts() == 0);
    let config = configuration(CEILING, &TokenIssuer::section("app", ""));
    let central = config.replacen("[proxy]\n", "[proxy]\ncentral = true\n", 1);
    Exeat::write_config(world.directory(), &central)?;
    exeat.signal(Signal::SIGHUP)?;
    exeat.wait_for_output("reloaded")?;
    check("on a central node", line, &bearer(&token), (200, ""))?;
    exeat.stop()
}

fn a_token_that_must_use_the_gateway_goes_no_other_way() -> Result<()> {
    const HOP: &str = "10.99.0.1:3199";
    let world = World::new()?;
    let issuer = TokenIssuer::new(Es256, "k1")?;
    let mut exeat = serve(&world, &issuer, CEILING, "")?;
    let token = issuer.token(json!({"use_egress_gateway": "true"}))?;
    let (line, none) = ("GET http://example.com/", (503, "egress_gateway_unavailable"));
    check("without a next hop", line, &bearer(&token), none)?;
    check("without the flag", line, &bearer(&issuer.token(json!({}))?), (200, ""))?;
    let reached = world.accepts();

    let through = format!("next_hop = \"hop\"\n{CEILING}");
    let hop = format!("[next_hop.hop]\nurl = \"http://gate:{}@{HOP}\"\n", "gate");
    let config = configuration(&through, &(TokenIssuer::section("app", "") + &hop));
    Exeat::write_config(world.directory(), &config)?;
    exeat.signal(Signal::SIGHUP)?;
    exeat.wait_for_output("reloaded")?;
    check("a next hop that is down", line, &bearer(&token), none)?;
    ensure!(world.accepts() == reached, "nothing goes around it");

    let folder = world.directory().join("hop");
    fs::create_dir(&folder)?;
    let config = format!(
        "[proxy]\nlisten = [\"{HOP}\"]\n[audit]\nfile = \"AUDIT\"\n[policy.all]\nallow = [\"example.com\"]\n\
         [client.gate]\npasswords = [\"{}\"]\npolicies = [\"all\"]\n",
        password_entry("gate")
    );
    let mut hop = Exeat::serve(&folder, &config, HOP)?;
    exeat.until("the next hop to be tried again", |_| {
        Ok((answer(line, &bearer(&token))?.0 == 200).then_some(()))
    })?;
    hop.audit_until("its record", |records| records.iter().any(|record| record["status"] == 200))?;
    hop.stop()?;
    exeat.stop()
}

fn regulated_traffic_has_its_own_rules_and_tls() -> Result<()> {
    let world = World::new()?;
    let issuer = TokenIssuer::new(Es256, "k1")?;
    let ceiling = r#"allow = ["example.com", { host = "*.example.org", class = "hipaa" }]"#;
    let mut exeat = serve(&world, &issuer, ceiling, "")?;
    let regulated = issuer.token(json!({"is_hipaa_regulated": "true"}))?;
    let plain = issuer.token(json!({"is_hipaa_regulated": "false"}))?;
    for (name, line, token, want) in [
        ("a marked rule", "CONNECT a.example.org:443", &regulated, (200, "")),
        ("a rule without a mark", "CONNECT example.com:443", &regulated, (403, "class_mismatch")),
        ("no TLS", "GET http://a.example.org/patients/7", &regulated, (403, "tls_required")),
        ("of no class, no mark", "CONNECT example.com:443", &plain, (200, "")),
        ("of no class, marked", "GET http://a.example.org/patients/7", &plain, (200, "")),
    ] {
        check(name, line, &bearer(token), want)?;
    }
    let records = exeat.audit_until("records of all", |records| records.len() >= 7)?;
    ensure!(records.iter().all(|record| !record.to_string().contains("patients")), "a path is recorded");
    let mut tunnel = ask("CONNECT a.example.org:443", &bearer(&regulated))?.0;
    tunnel.send("GET / HTTP/1.1\r\nHost: a.example.org\r\n\r\n")?;
    let refused = tunnel.reply("GET")?;
    ensure!(refused.head.field("x-deny-reason") == Some("tls_required"), "{refused:?}");
    exeat.stop()
}

/// An open tunnel to a server that has spoken first.
fn tunnel(fields: &str) -> Result<Raw> {
    let (mut tunnel, reply) = ask("CONNECT example.com:25", fields)?;
    ensure!(reply.status == 200, "{reply:?}");
    ensure!(tunnel.exactly(GREETING.len())? == GREETING.as_bytes());
    Ok(tunnel)
}

/// The end of the tunnel of this token, from the audit log.
fn end_of(exeat: &mut Exeat, jti: &str) -> Result<Value> {
    let wanted = |record: &Value| record["event"] == "end" && record["principal"]["jti"] == jti;
    let records = exeat.audit_until("the end of the tunnel", |records| records.iter().any(wanted))?;
    records.into_iter().find(wanted).context("the record")
}

fn an_expiry_ends_openings_and_tunnels_alike() -> Result<()> {
    let world = World::new()?;
    let issuer = TokenIssuer::new(Es256, "k1")?;
    let mut exeat = serve(&world, &issuer, CEILING, "leeway = \"1s\"")?;
    let listed = ["example.com:25,80"];
    let lasting = issuer.token(json!({"allowed_hosts": listed, "jti": "lasting"}))?;
    let end = now()? + 2;
    let short = issuer.token(json!({"allowed_hosts": listed, "jti": "short", "exp": end}))?;
    let mut stays = tunnel(&bearer(&lasting))?;
    let mut goes = tunnel(&bearer(&short))?;
    goes.closed()?;
    let over = now()?;
    // The leeway, the second that flows have, and as much again ten times.
    ensure!((end..end + 11).contains(&over), "it ended at {over} instead of {end}");
    let record = end_of(&mut exeat, "short")?;
    ensure!(record["end"] == "token_expired", "{record}");
    check("an opening", "GET http://example.com/", &bearer(&short), (407, "token_expired"))?;
    check("a password", "GET http://example.com/", &basic(CONTAINER, &short), (407, "token_expired"))?;
    stays.send("still there")?;
    ensure!(stays.exactly(11)? == b"still there");
    drop(stays);
    exeat.stop()
}

fn a_key_that_is_taken_away_ends_its_tunnels() -> Result<()> {
    let world = World::new()?;
    let (old, new) = (TokenIssuer::new(Es256, "old")?, TokenIssuer::new(EdDsa, "new")?);
    TokenIssuer::publish(&[&old, &new], world.directory())?;
    let config = configuration(CEILING, &TokenIssuer::section("app", ""));
    let mut exeat = Exeat::serve(world.directory(), &config, PROXY)?;
    let token = |issuer: &TokenIssuer, jti: &str| {
        issuer.token(json!({"allowed_hosts": ["example.com:25,80"], "jti": jti}))
    };
    let (first, second) = (token(&old, "first")?, token(&new, "second")?);
    let (mut goes, mut stays) = (tunnel(&bearer(&first))?, tunnel(&bearer(&second))?);
    TokenIssuer::publish(&[&new], world.directory())?;
    exeat.signal(Signal::SIGHUP)?;
    exeat.wait_for_output("open flows decided on again")?;
    goes.closed()?;
    let record = end_of(&mut exeat, "first")?;
    ensure!(record["end"] == "policy_changed", "{record}");
    check("the old key", "GET http://example.com/", &bearer(&first), (407, "auth_invalid"))?;
    check("the new one", "GET http://example.com/", &bearer(&second), (200, ""))?;
    stays.send("still there")?;
    ensure!(stays.exactly(11)? == b"still there");
    drop(stays);
    exeat.stop()
}

fn an_issuer_that_binds_its_tokens_ends_those_from_elsewhere() -> Result<()> {
    let world = World::new()?;
    let issuer = TokenIssuer::new(Es256, "k1")?;
    TokenIssuer::publish(&[&issuer], world.directory())?;
    let place = "[workload.sbx-1]\naddresses = [\"10.99.0.1\"]\nalone = false\n";
    let config = |lines: &str| configuration(CEILING, &(TokenIssuer::section("app", lines) + place));
    let mut exeat = Exeat::serve(world.directory(), &config(""), PROXY)?;
    let token = |jti: &str, container: &str| {
        issuer.token(json!({"allowed_hosts": ["example.com:25"], "jti": jti, "container_id": container}))
    };
    let (here, elsewhere) = (token("here", "sbx-1")?, token("elsewhere", "sbx-2")?);
    let (mut stays, mut goes) = (tunnel(&bearer(&here))?, tunnel(&bearer(&elsewhere))?);
    Exeat::write_config(world.directory(), &config("enforce_container_binding = true"))?;
    exeat.signal(Signal::SIGHUP)?;
    goes.closed()?;
    let record = end_of(&mut exeat, "elsewhere")?;
    ensure!(record["end"] == "policy_changed", "{record}");
    check("elsewhere", "CONNECT example.com:25", &bearer(&elsewhere), (403, "container_mismatch"))?;
    stays.send("still there")?;
    ensure!(stays.exactly(11)? == b"still there");
    drop(stays);
    exeat.stop()
}

/// Runs a command of the proxy's admin API.
fn command(world: &World, args: &[&str]) -> Result<String> {
    Ok(command_with_warnings(world, args)?.0)
}

/// The same, with what it says on standard error.
fn command_with_warnings(world: &World, args: &[&str]) -> Result<(String, String)> {
    let socket = world.directory().join("api.sock").to_string_lossy().into_owned();
    let all = [&["token"][..], args, &["--socket", &socket]].concat();
    let outcome = Client::new(exeat_tests::exeat::binary()?, world.directory()).args(all).run()?;
    ensure!(outcome.code == 0, "{args:?}: {outcome:?}");
    Ok((outcome.out, outcome.err))
}

fn a_revocation_ends_tunnels_and_outlives_a_restart() -> Result<()> {
    let world = World::new()?;
    let issuer = TokenIssuer::new(Es256, "k1")?;
    TokenIssuer::publish(&[&issuer], world.directory())?;
    let more = format!("[api]\nsocket = \"api.sock\"\nlisten = \"{API}\"\n[state]\ndirectory = \".\"\n");
    let config = configuration(CEILING, &(TokenIssuer::section("app", "") + &more));
    let mut exeat = Exeat::serve(world.directory(), &config, PROXY)?;
    let token = |jti: &str, container: &str, organization: &str| {
        issuer.token(json!({"allowed_hosts": ["example.com:25,80"], "jti": jti, "container_id": container,
            "organization_uuid": organization}))
    };
    let tokens = [
        ("jti=first", token("first", "sbx-1", "org-1")?, "first"),
        ("container=sbx-2", token("second", "sbx-2", "org-1")?, "second"),
        ("organization=org-2", token("third", "sbx-3", "org-2")?, "third"),
    ];
    let other = token("other", "sbx-4", "org-1")?;
    let mut stays = tunnel(&bearer(&other))?;
    let (line, revoked) = ("GET http://example.com/", (407, "token_revoked"));
    for (name, token, jti) in &tokens {
        let mut goes = tunnel(&bearer(token))?;
        let began = std::time::Instant::now();
        let told = command(&world, &["revoke", name])?;
        ensure!(told == format!("{name} is revoked; 1 flow ends\n"), "{told}");
        goes.closed()?;
        // Ten times the second that it may take.
        ensure!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
        let record = end_of(&mut exeat, jti)?;
        ensure!(record["end"] == "token_revoked" && record["reason"] == "token_revoked", "{record}");
        check(name, line, &bearer(token), revoked)?;
    }
    check("another one", line, &bearer(&other), (200, ""))?;
    stays.send("still there")?;
    ensure!(stays.exactly(11)? == b"still there");
    drop(stays);
    exeat.stop()?;

    let exeat = Exeat::serve(world.directory(), &config, PROXY)?;
    for (name, token, _) in &tokens {
        check(name, line, &bearer(token), revoked)?;
    }
    let attempts = metrics()?;
    for (result, want) in [("accepted", 0), ("revoked", tokens.len())] {
        let line = format!("exeat_auth_attempts_total{{result=\"{result}\"}} {want}\n");
        ensure!(attempts.contains(&line), "a revoked token is not accepted: {attempts}");
    }
    check("another one", line, &bearer(&other), (200, ""))?;
    let listed = command(&world, &["revocations"])?;
    ensure!(tokens.iter().all(|(name, ..)| listed.contains(name)) && listed.lines().count() == 3, "{listed}");
    command(&world, &["revoke", "jti=first", "--lift"])?;
    check("lifted", line, &bearer(&tokens[0].1), (200, ""))?;
    command(&world, &["revoke", "key=k1"])?;
    check("its key", line, &bearer(&other), revoked)?;
    command(&world, &["revoke", "key=k1", "--lift"])?;
    check("the key is lifted", line, &bearer(&other), (200, ""))?;
    let thumbprint = SigningKey::parse(issuer.key.to_pem().as_bytes(), None)?.kid().to_owned();
    command(&world, &["revoke", &format!("key={thumbprint}")])?;
    check("its key, by its thumbprint", line, &bearer(&other), revoked)?;
    let (_, warned) = command_with_warnings(&world, &["revoke", &format!("key={thumbprint}")])?;
    ensure!(warned.is_empty(), "{warned}");
    let (_, warned) = command_with_warnings(&world, &["revoke", "key=k9"])?;
    ensure!(warned == "warning: no issuer has a key of this name now\n", "{warned}");
    exeat.stop()?;

    let exeat = Exeat::serve(world.directory(), &config.replace("[state]\ndirectory = \".\"\n", ""), PROXY)?;
    let (_, warned) = command_with_warnings(&world, &["revoke", "jti=first"])?;
    ensure!(warned.starts_with("warning: it is lost at a restart: set `directory` of [state]"), "{warned}");
    exeat.stop()
}

const API: &str = "127.0.0.1:9190";

fn metrics() -> Result<String> {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {API}\r\nConnection: close\r\n\r\n");
    Ok(String::from_utf8(Raw::connect(API.parse()?)?.ask(request)?.body)?)
}

fn nobody_locks_out_who_has_a_token() -> Result<()> {
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

/// Runs a command about single tokens, with `input` on standard input. Returns its exit code, output and errors.
fn offline(world: &World, args: &[&str], input: &str) -> Result<(Option<i32>, String, String)> {
    let mut child = Command::new(exeat_tests::exeat::binary()?)
        .arg("token")
        .args(args)
        .current_dir(world.directory())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // One that reads nothing may have ended.
    let _ = child.stdin.take().context("standard input")?.write_all(input.as_bytes());
    let ended = child.wait_with_output()?;
    Ok((ended.status.code(), String::from_utf8(ended.stdout)?, String::from_utf8(ended.stderr)?))
}

fn the_command_line_makes_tokens_that_count() -> Result<()> {
    let world = World::new()?;
    let done = |args: &[&str], input: &str| {
        let (code, out, err) = offline(&world, args, input)?;
        ensure!(code == Some(0), "{args:?}: {code:?} {err}");
        anyhow::Ok(out)
    };
    let failed = |args: &[&str], input: &str, says: &str| {
        let (code, out, err) = offline(&world, args, input)?;
        ensure!(code.is_some_and(|code| code != 0) && out.is_empty(), "{args:?}: {code:?} {out}");
        ensure!(err.contains(says), "{args:?}: {err}");
        anyhow::Ok(())
    };
    for (kind, key) in [(&[][..], "p256.pem"), (&["--eddsa", "--kid", "k2"], "ed25519.pem")] {
        fs::write(world.directory().join("jwks.json"), done(&[&["keygen", key], kind].concat(), "")?)?;
        let mode = fs::metadata(world.directory().join(key))?.permissions().mode();
        ensure!(mode & 0o777 == 0o600, "{mode:o}");
        failed(&["keygen", key], "", "File exists")?;

        let config = configuration(CEILING, &TokenIssuer::section("app", ""));
        let exeat = Exeat::serve(world.directory(), &config, PROXY)?;
        let kid: &[&str] = if key == "ed25519.pem" { &["--kid", "k2"] } else { &[] };
        let name = ["--issuer", "secure-egress-control", "--audience", "egress-proxy"];
        let issue = |more: &[&'static str]| [&["issue", key][..], kid, &name, more].concat();
        let token = done(&issue(&["--container", CONTAINER, "--host", "example.com"]), "")?;
        let with = basic(CONTAINER, token.trim());
        check("its host", "GET http://example.com/", &with, (200, ""))?;
        check("another host", "GET http://a.example.org/", &with, (403, "host_not_allowed"))?;
        let bound = done(&issue(&["--container", CONTAINER, "--policy", "app", "--bind"]), "")?;
        check("bound", "GET http://example.com/", &bearer(bound.trim()), (403, "container_mismatch"))?;

        let said: Value = serde_json::from_str(&done(&["inspect"], &token)?)?;
        ensure!(said["claims"]["allowed_hosts"] == "example.com", "{said}");
        let life = said["claims"]["exp"].as_u64().zip(said["claims"]["iat"].as_u64());
        ensure!(life.map(|(end, begin)| end - begin) == Some(4 * 3600), "{said}");
        let told = done(&["verify"], &bound)?;
        ensure!(told.contains(&format!("a workload with the container id {CONTAINER}")), "{told}");
        let told = done(&["verify"], &token)?;
        ensure!(told.starts_with("accepted: sandboxes/sbx-1, for another "), "{told}");
        let (signed, _) = token.rsplit_once('.').context("a signature")?;
        let (_, signature) = bound.trim().rsplit_once('.').context("a signature")?;
        failed(&["verify"], &format!("{signed}.{signature}"), "the signature is not the key's")?;
        let wrong = ["issue", key, "--issuer", name[1], "--audience", "another", "--container", CONTAINER];
        let wrong = done(&[&wrong[..], kid, &["--policy", "none"]].concat(), "")?;
        let (signed, _) = wrong.rsplit_once('.').context("a signature")?;
        let says = "the signature is not the key's; and `aud` does not name this proxy; and `policy` names no policy";
        failed(&["verify"], &format!("{signed}.{signature}"), says)?;
        failed(&["inspect"], "", "no token")?;
        failed(&issue(&["--container", CONTAINER, "--host", "10.0.0.0/8"]), "", "no proxy would accept")?;
        failed(&issue(&["--container", CONTAINER]), "", "--host")?;
        exeat.stop()?;
    }
    Ok(())
}

fn the_admin_api_issues_tokens_and_says_which_side_refuses() -> Result<()> {
    let world = World::new()?;
    let (code, set, err) = offline(&world, &["keygen", "issuer.pem"], "")?;
    ensure!(code == Some(0), "{err}");
    // In the set the key has another name than its thumbprint.
    let mut set: Value = serde_json::from_str(&set)?;
    set["keys"][0]["kid"] = "k1".into();
    fs::write(world.directory().join("jwks.json"), set.to_string())?;
    let lines = "signing_key = \"issuer.pem\"\npolicies = [\"team\"]\n";
    let more = "[policy.team]\nallow = [\"example.com\", \"example.org\", \"evil.test\"]\n[api]\nsocket = \"api.sock\"\n\
                [workload.sandbox]\naddresses = [\"10.99.0.1\"]\ncontainer = \"sbx-2\"\nalone = false\n";
    let config = configuration(CEILING, &(TokenIssuer::section("app", lines) + more));
    let mut exeat = Exeat::serve(world.directory(), &config, PROXY)?;

    let ask = |order: Value| ask_api(&world, "POST /v1/tokens", &order.to_string());
    let (status, made) =
        ask(json!({"container": "sbx-1", "hosts": ["example.com", "evil.test", "a.example.org"]}))?;
    ensure!(status == 200 && made["name"] == "sandboxes/sbx-1" && made["kid"] == "k1", "{status} {made}");
    let token = made["token"].as_str().context("a token")?.to_owned();
    let life = made["expires"].as_u64().context("an end")?.saturating_sub(now()?);
    ensure!((4 * 3600 - 20..=4 * 3600).contains(&life), "{life} s");
    check("its host", "GET http://example.com/", &basic(CONTAINER, &token), (200, ""))?;
    for (name, order, status, says) in [
        ("no hosts", json!({"container": "c"}), 400, "either `hosts` or `policy`"),
        ("a network", json!({"container": "c", "hosts": ["10.0.0.0/8"]}), 400, "would not be accepted"),
        ("too long", json!({"hosts": ["example.com"], "ttl": 90_000}), 400, "would not be accepted"),
        ("no such issuer", json!({"issuer": "x", "hosts": []}), 404, "no issuer of this name"),
        ("what is not known", json!({"hosts": [], "host": "x"}), 400, "unknown field"),
    ] {
        let got = ask(order)?;
        ensure!(got.0 == status && got.1.to_string().contains(says), "{name}: {got:?}");
    }
    let records = exeat.audit_until("records of what was issued", |records| {
        records.iter().filter(|record| record["control"]["action"] == "issue").count() >= 4
    })?;
    let issued = records.iter().find(|record| record["control"]["result"] == "done").context("a record")?;
    let target = format!("sandboxes/sbx-1, jti {}", made["jti"].as_str().unwrap_or_default());
    ensure!(issued["control"]["target"] == target.as_str(), "{issued}");
    ensure!(records.iter().all(|record| !record.to_string().contains(&token)), "the token is recorded");

    fs::write(world.directory().join("token"), format!("{token}\n"))?;
    let all: &[&str] = &[];
    for (target, refused, goes_to) in [
        ("https://example.com/", all, all),
        ("https://example.org/", &["token"], &["the token's allowed_hosts"]),
        ("https://a.example.org/", &["limit team"], &["team"]),
        ("https://evil.test/", &["issuer's ceiling"], &["app"]),
        (
            "https://other.test/",
            &["issuer's ceiling", "token", "limit team"],
            &["app", "team", "the token's allowed_hosts"],
        ),
    ] {
        let (_, said) =
            ask_api(&world, "POST /v1/explain", &json!({"token": token, "target": target}).to_string())?;
        let list = |name: &str| said[name].as_array().cloned().unwrap_or_default();
        ensure!(list("refused_by") == refused && list("entry_goes_to") == goes_to, "{target}: {said}");
        ensure!(
            (said["verdict"] == "allow") == refused.is_empty() && said["client"] == "sandboxes/sbx-1",
            "{said}"
        );
        let told = explained(&world, &["--token", "token", target])?;
        for stage in refused {
            ensure!(told.contains(&format!("  {stage:<10} host_not_allowed: ")), "{target}: {told}");
        }
    }
    for (name, question, status, says) in [
        ("nobody", json!({"target": "a.test"}), 400, "either `client` or `token`"),
        (
            "a wrong one",
            json!({"token": "a.b.c", "target": "a.test"}),
            400,
            "the token is not accepted: a part is",
        ),
    ] {
        let got = ask_api(&world, "POST /v1/explain", &question.to_string())?;
        ensure!(got.0 == status && got.1.to_string().contains(says), "{name}: {got:?}");
    }
    let bound =
        ask(json!({"container": "sbx-1", "hosts": ["example.com"], "enforce_container_binding": true,
        "enforce_centralized_egress": true}))?;
    let question = json!({"token": bound.1["token"], "target": "example.com", "workload": "sandbox"});
    let (_, said) = ask_api(&world, "POST /v1/explain", &question.to_string())?;
    ensure!(said["refused_by"] == json!(["node", "origin"]), "{said}");

    command(&world, &["revoke", "container=sbx-1"])?;
    let question = json!({"token": token, "target": "example.com"}).to_string();
    let (_, said) = ask_api(&world, "POST /v1/explain", &question)?;
    ensure!(said["reason"] == "token_revoked" && said["refused_by"] == json!(["revocation"]), "{said}");

    fs::remove_file(world.directory().join("issuer.pem"))?;
    Exeat::write_config(world.directory(), &config.replace(lines, ""))?;
    exeat.signal(Signal::SIGHUP)?;
    exeat.wait_for_output("reloaded")?;
    let (status, said) = ask(json!({"issuer": "sandboxes", "container": "c", "hosts": ["example.com"]}))?;
    ensure!(status == 409 && said["help"].to_string().contains("signing_key"), "{status} {said}");
    exeat.stop()
}

fn ask_api(world: &World, line: &str, body: &str) -> Result<(u16, Value)> {
    api::ask(&world.directory().join("api.sock"), line, "", body.as_bytes())
}

/// What `exeat explain` prints.
fn explained(world: &World, args: &[&str]) -> Result<String> {
    let all = [&["explain"], args].concat();
    Ok(Client::new(exeat_tests::exeat::binary()?, world.directory()).args(all).run()?.out)
}

/// What `docs/guides/sandbox-tokens.md` shows: containers whose only way out is the proxy, each with a token of its own.
fn each_sandbox_has_its_own_allowlist() -> Result<()> {
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
