//! What `/metrics` counts, to the last one, and what health says.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{CLIENT, PASSWORD, ask, auth, configuration, request, request_with};
use exeat_tests::namespace::PROXY;
use exeat_tests::origin::PATIENCE;
use exeat_tests::raw::{Raw, authorization};
use exeat_tests::scrape::{API, Scrape, fetch, scrape};
use exeat_tests::world::{GREETING, World};
use exeat_tests::{harness, scenarios, socks};
use nix::sys::signal::Signal;

fn main() -> ExitCode {
    harness::main(scenarios![
        an_allowed_request_counts_once_everywhere,
        each_refusal_counts_by_its_reason,
        a_tunnel_is_active_until_its_end_and_counts_its_bytes,
        an_opening_that_is_refused_takes_the_allow_back,
        a_socks_tunnel_counts_as_any_other,
        limits_are_counted_by_name,
        every_line_is_openmetrics_and_names_nobody,
        reloads_are_counted_and_the_revision_follows,
        health_on_loopback_is_three_paths,
        health_on_the_proxy_port_needs_no_credentials,
        draining_is_not_ready,
        metrics_cannot_be_reached_through_the_proxy,
    ])
}

/// What a request for `http://example.com/` brings.
const PAGE: &str = "hello from example.com\n";

fn serve(world: &World, policy: &str, extra: &str) -> Result<Exeat> {
    let extra = format!("[api]\nlisten = \"{API}\"\n{extra}");
    Exeat::serve(world.directory(), &configuration(policy, &extra), PROXY)
}

/// What has changed between two scrapes, leaving out gauges that move on their own, and durations.
fn moved(before: &Scrape, after: &Scrape) -> Scrape {
    let changed = after.iter().filter_map(|(name, value)| {
        let change = value - before.get(name).copied().unwrap_or(0.0);
        let is_timing = name.contains("_bucket{") || name.ends_with("_sum") || name.contains("_seconds ");
        let is_own = name.ends_with("_age_seconds") || name == "exeat_dns_cache_entries";
        (change != 0.0 && !is_timing && !is_own).then(|| (name.clone(), change))
    });
    changed.collect()
}

/// Waits until what has moved since `before` is `want`, neither more nor less.
fn expect(what: &str, before: &Scrape, want: &[(&str, f64)]) -> Result<()> {
    let want: Scrape = want.iter().map(|(name, change)| (format!("exeat_{name}"), *change)).collect();
    let end = Instant::now() + PATIENCE;
    loop {
        let got = moved(before, &scrape()?);
        if got == want {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("{what}: moved {got:#?}, want {want:#?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What every request with right credentials moves.
const ASKED: [(&str, f64); 5] = [
    ("connections_total", 1.0),
    ("auth_attempts_total{result=\"accepted\"}", 1.0),
    ("request_head_duration_seconds_count", 1.0),
    ("decision_duration_seconds_count", 1.0),
    ("audit_records_total", 1.0),
];

/// What a name that is looked up for the first time and connected moves besides.
const CONNECTED: [(&str, f64); 6] = [
    ("dns_lookups_total{result=\"answered\"}", 1.0),
    ("dns_lookup_duration_seconds_count", 1.0),
    ("dns_cache_misses_total", 1.0),
    ("connect_duration_seconds_count", 1.0),
    ("decisions_total{verdict=\"allow\",reason=\"none\"}", 1.0),
    ("ways_out_total{way=\"straight\"}", 1.0),
];

fn an_allowed_request_counts_once_everywhere() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world, "allow = [\"example.com\"]", "")?;
    settled()?;
    let before = scrape()?;
    let (client, reply) = ask("GET http://example.com/")?;
    ensure!(reply.status == 200 && reply.body == PAGE.as_bytes(), "{reply:?}");
    drop(client);
    let own = [
        ("flows_total{kind=\"request\"}", 1.0),
        ("flow_ends_total{kind=\"request\",end=\"finished\"}", 1.0),
        ("flow_bytes_total{direction=\"down\"}", f64::from(u32::try_from(PAGE.len())?)),
    ];
    expect("a request", &before, &[&ASKED[..], &CONNECTED, &own].concat())?;
    exeat.stop()
}

/// The connection that found out whether the proxy listens has been counted and is over.
fn settled() -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let now = scrape()?;
        let at = |name: &str| now.get(name).copied().unwrap_or(-1.0);
        if at("exeat_connections_total") == 1.0 && at("exeat_connections_active") == 0.0 {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{now:#?}");
    }
}

fn each_refusal_counts_by_its_reason() -> Result<()> {
    let world = World::new()?;
    let policy = "allow = [\"example.com\", \"*.example.org\", \"gone.example.net\", \"deaf.example.net:81\", { host = \"inside.example.net\" }]\ndeny = [\"no.example.org\"]";
    let exeat = serve(&world, policy, "[limits]\nhead_bytes = 2048\nuri_bytes = 1024\n")?;
    world.dns.set("inside.example.net", exeat_tests::dns::Entry::addresses(&["10.0.0.1"]));
    world.dns.set("deaf.example.net", exeat_tests::dns::Entry::addresses(&["93.184.216.40"]));
    settled()?;
    let deny = |reason: &str| format!("decisions_total{{verdict=\"deny\",reason=\"{reason}\"}}");
    let get = |target: &str| request(&format!("GET {target}"));
    let long = format!("GET http://example.com/{} HTTP/1.1\r\n", "a".repeat(1100));
    let large =
        format!("GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\nX: {}\r\n\r\n", "a".repeat(2100));
    let resolved = |result: &str| format!("dns_lookups_total{{result=\"{result}\"}}");
    // What a request moves beyond its connection and record, with its reason.
    type Case<'a> = (&'a str, String, &'a [&'a str], Vec<String>);
    let decided = &[
        "auth_attempts_total{result=\"accepted\"}",
        "request_head_duration_seconds_count",
        "decision_duration_seconds_count",
    ][..];
    let asked_dns = ["dns_lookup_duration_seconds_count", "dns_cache_misses_total"].map(str::to_owned);
    let cases: Vec<Case<'_>> = vec![
        ("host_not_allowed", get("http://example.net/"), decided, vec![]),
        ("host_denied", get("http://no.example.org/"), decided, vec![]),
        ("port_not_allowed", get("http://example.com:81/"), decided, vec![]),
        ("ip_literal_not_allowed", get("http://93.184.216.34/"), decided, vec![]),
        ("scheme_not_allowed", get("https://example.com/"), decided, vec![]),
        ("address_not_allowed", get("http://inside.example.net/"), decided, [&asked_dns[..], &[resolved("answered")]].concat()),
        ("auth_required", request_with("GET http://example.com/", ""), &["auth_attempts_total{result=\"required\"}", "request_head_duration_seconds_count"], vec![]),
        ("auth_invalid", request_with("GET http://example.com/", &authorization(CLIENT, "wrong")), &["auth_attempts_total{result=\"invalid\"}", "request_head_duration_seconds_count"], vec![]),
        ("request_malformed", "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n".to_owned(), &["request_head_duration_seconds_count"], vec![]),
        ("framing_ambiguous", "GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), &["request_head_duration_seconds_count"], vec![]),
        ("host_invalid", get("http://127.1/"), &["request_head_duration_seconds_count"], vec![]),
        ("uri_too_long", long, &[], vec!["limit_hits_total{limit=\"uri_bytes\"}".to_owned()]),
        ("header_too_large", large, &[], vec!["limit_hits_total{limit=\"head_bytes\"}".to_owned()]),
    ];
    for (reason, request, counts, more) in cases {
        let before = scrape()?;
        let reply = Raw::proxy()?.ask(request)?;
        ensure!(reply.head.field("x-deny-reason") == Some(reason), "{reason}: {reply:?}");
        let own = [deny(reason), "connections_total".to_owned(), "audit_records_total".to_owned()];
        let all = own.iter().chain(&more).map(String::as_str).chain(counts.iter().copied());
        let want: Vec<(&str, f64)> = all.map(|name| (name, 1.0)).collect();
        expect(reason, &before, &want)?;
    }
    // Allowed, and nothing came of it.
    let before = scrape()?;
    let (_, reply) = ask("GET http://gone.example.net/")?;
    ensure!(reply.status == 502, "{reply:?}");
    let failed = "decisions_total{verdict=\"allow\",reason=\"dns_failed\"}";
    let missing = resolved("no_such_name");
    let own = [
        (failed, 1.0),
        (missing.as_str(), 1.0),
        ("dns_lookup_duration_seconds_count", 1.0),
        ("dns_cache_misses_total", 1.0),
    ];
    expect("dns_failed", &before, &[&ASKED[..], &own].concat())?;
    let before = scrape()?;
    let (_, reply) = ask("GET http://deaf.example.net:81/")?;
    ensure!(reply.status == 502, "{reply:?}");
    let failed = ("decisions_total{verdict=\"allow\",reason=\"connect_failed\"}", 1.0);
    expect("connect_failed", &before, &[&ASKED[..], &CONNECTED[..4], &[failed]].concat())?;
    ensure!(world.accepts() == 0, "{:?}", world.reached());
    exeat.stop()
}

fn a_tunnel_is_active_until_its_end_and_counts_its_bytes() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world, "allow = [\"mail.example.org:25\"]", "")?;
    settled()?;
    let before = scrape()?;
    let (mut tunnel, reply) = ask("CONNECT mail.example.org:25")?;
    ensure!(reply.status == 200, "{reply:?}");
    ensure!(tunnel.exactly(GREETING.len())? == GREETING.as_bytes());
    tunnel.send("are you there")?;
    ensure!(tunnel.exactly(13)? == b"are you there");
    let open = [
        ("flows_total{kind=\"tunnel\"}", 1.0),
        ("flows_active{kind=\"tunnel\"}", 1.0),
        ("connections_active", 1.0),
        ("flow_bytes_total{direction=\"up\"}", 13.0),
        ("flow_bytes_total{direction=\"down\"}", f64::from(u32::try_from(GREETING.len() + 13)?)),
        ("relay_bytes_total{path=\"copy\"}", f64::from(u32::try_from(GREETING.len() + 26)?)),
    ];
    expect("while it is open", &before, &[&ASKED[..], &CONNECTED, &open].concat())?;
    tunnel.finish()?;
    tunnel.closed()?;
    let mut ended = [&ASKED[..4], &CONNECTED, &open[..1], &open[3..]].concat();
    ended.extend([("audit_records_total", 2.0), ("flow_ends_total{kind=\"tunnel\",end=\"finished\"}", 1.0)]);
    expect("after its end", &before, &ended)?;
    exeat.stop()
}

fn an_opening_that_is_refused_takes_the_allow_back() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world, "allow = [\"example.com\"]", "")?;
    settled()?;
    let before = scrape()?;
    let (mut tunnel, reply) = ask("CONNECT example.com:443")?;
    ensure!(reply.status == 200, "{reply:?}");
    tunnel.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")?;
    tunnel.rest()?;
    let mut want = [&ASKED[..4], &CONNECTED].concat();
    want.extend([
        ("audit_records_total", 2.0),
        ("flows_total{kind=\"tunnel\"}", 1.0),
        ("decisions_total{verdict=\"deny\",reason=\"tls_required\"}", 1.0),
        ("flow_ends_total{kind=\"tunnel\",end=\"tls_required\"}", 1.0),
    ]);
    expect("a refused opening", &before, &want)?;
    exeat.stop()
}

fn a_socks_tunnel_counts_as_any_other() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world, "allow = [\"mail.example.org:25\"]", "")?;
    settled()?;
    let before = scrape()?;
    let (mut tunnel, code) = socks::ask(CLIENT, PASSWORD, &socks::to_name(b"mail.example.org", 25))?;
    ensure!(code == 0 && tunnel.exactly(GREETING.len())? == GREETING.as_bytes());
    tunnel.finish()?;
    tunnel.closed()?;
    let mut want = CONNECTED.to_vec();
    want.extend([
        ("connections_total", 1.0),
        // The login, and the request that is decided on.
        ("auth_attempts_total{result=\"accepted\"}", 2.0),
        ("decision_duration_seconds_count", 1.0),
        ("audit_records_total", 2.0),
        ("flows_total{kind=\"tunnel\"}", 1.0),
        ("flow_ends_total{kind=\"tunnel\",end=\"finished\"}", 1.0),
        ("flow_bytes_total{direction=\"down\"}", f64::from(u32::try_from(GREETING.len())?)),
        ("relay_bytes_total{path=\"copy\"}", f64::from(u32::try_from(GREETING.len())?)),
    ]);
    expect("a SOCKS tunnel", &before, &want)?;
    let before = scrape()?;
    let (_, code) = socks::ask(CLIENT, PASSWORD, &socks::to_name(b"mail.example.org", 26))?;
    ensure!(code == 2, "{code}");
    let want = [
        ("connections_total", 1.0),
        ("auth_attempts_total{result=\"accepted\"}", 2.0),
        ("decision_duration_seconds_count", 1.0),
        ("audit_records_total", 1.0),
        ("decisions_total{verdict=\"deny\",reason=\"port_not_allowed\"}", 1.0),
    ];
    expect("a SOCKS refusal", &before, &want)?;
    exeat.stop()
}

fn limits_are_counted_by_name() -> Result<()> {
    let world = World::new()?;
    let limits = "[limits]\ntunnels_per_client = 1\nconnections_per_source = 3\nhead_timeout = \"2s\"\nidle_timeout = \"1s\"\n";
    let exeat = serve(&world, "allow = [\"mail.example.org:25\", \"silent.example.org:8080\"]", limits)?;
    settled()?;
    let hits = |limit: &str| -> Result<f64> {
        let name = format!("exeat_limit_hits_total{{limit=\"{limit}\"}}");
        scrape()?.get(&name).copied().with_context(|| format!("no {name}"))
    };
    let (one, reply) = ask("CONNECT mail.example.org:25")?;
    ensure!(reply.status == 200, "{reply:?}");
    let (two, reply) = ask("CONNECT mail.example.org:25")?;
    ensure!(reply.status == 429 && hits("tunnels_per_client")? == 1.0, "{reply:?}");
    let late = Raw::proxy()?.ask("GET http://example.com/ HTTP/1.1\r\n")?;
    ensure!(late.status == 408 && hits("head_timeout")? == 1.0, "{late:?}");
    let end = Instant::now() + PATIENCE;
    while hits("idle_timeout")? != 1.0 {
        ensure!(Instant::now() < end, "the tunnel that is idle has not ended");
    }
    drop((one, two));
    let held: Vec<Raw> = (0..3).map(|_| Raw::proxy()).collect::<Result<_>>()?;
    // Another core may take them than the one that takes the next.
    let end = Instant::now() + PATIENCE;
    while scrape()?.get("exeat_connections_active") != Some(&3.0) {
        ensure!(Instant::now() < end, "not all connections are taken");
    }
    let crowd = Raw::proxy()?.ask(request("GET http://example.com/"))?;
    ensure!(crowd.status == 429 && hits("connections_per_source")? >= 1.0, "{crowd:?}");
    drop(held);
    exeat.stop()
}

fn every_line_is_openmetrics_and_names_nobody() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world, "allow = [\"example.com\"]", "")?;
    ask("GET http://example.com/")?;
    ask("GET http://secret.example.net/")?;
    let reply = fetch("GET /metrics")?;
    let kind = reply.head.field("content-type").unwrap_or_default();
    ensure!(kind == "application/openmetrics-text; version=1.0.0; charset=utf-8", "{kind}");
    let text = String::from_utf8(reply.body)?;
    ensure!(text.ends_with("# EOF\n"), "{text}");
    let mut families: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').context("a type")?;
            ensure!(name.starts_with("exeat_"), "{line}");
            ensure!(!families.iter().any(|(seen, _)| seen == name), "twice: {line}");
            families.push((name.to_owned(), kind.to_owned()));
        } else if !line.starts_with('#') {
            let (family, kind) = families.last().context("a sample before its type")?;
            let sample = line.split(['{', ' ']).next().unwrap_or_default();
            let suffixes: &[&str] = match kind.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "histogram" => &["_bucket", "_sum", "_count"],
                "info" => &["_info"],
                other => bail!("unknown type {other}"),
            };
            ensure!(suffixes.iter().any(|s| *sample == format!("{family}{s}")), "{line} in {family}");
            ensure!(line.rsplit(' ').next().is_some_and(|v| v.parse::<f64>().is_ok()), "{line}");
        }
    }
    for name in ["example", CLIENT, "127.0.0.1", "93.184"] {
        ensure!(!text.contains(&format!("\"{name}")), "{name} is in {text}");
    }
    exeat.stop()
}

fn reloads_are_counted_and_the_revision_follows() -> Result<()> {
    let world = World::new()?;
    let mut exeat = serve(&world, "allow = [\"example.com\"]", "")?;
    let text = |policy: &str| configuration(policy, &format!("[api]\nlisten = \"{API}\"\n"));
    let values = || -> Result<Vec<f64>> {
        let now = scrape()?;
        let names = [
            "policy_revision",
            "config_last_reload_successful",
            "config_reloads_total{result=\"success\"}",
            "config_reloads_total{result=\"failure\"}",
        ];
        Ok(names.iter().map(|name| now.get(&format!("exeat_{name}")).copied().unwrap_or(-1.0)).collect())
    };
    ensure!(values()? == [1.0, 1.0, 0.0, 0.0], "{:?}", values()?);
    Exeat::write_config(world.directory(), &text("allow = [\"*.com\"]"))?;
    exeat.signal(Signal::SIGHUP)?;
    exeat.wait_for_output("reload refused")?;
    ensure!(values()? == [1.0, 0.0, 0.0, 1.0], "{:?}", values()?);
    Exeat::write_config(world.directory(), &text("allow = [\"example.org\"]"))?;
    exeat.signal(Signal::SIGHUP)?;
    exeat.wait_for_output("reloaded")?;
    ensure!(values()? == [2.0, 1.0, 1.0, 1.0], "{:?}", values()?);
    exeat.stop()
}

fn health_on_loopback_is_three_paths() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world, "allow = [\"example.com\"]", "")?;
    for (line, status, body) in [
        ("GET /healthz", 200, "ok\n"),
        ("GET /readyz", 200, "ready\n"),
        ("GET /", 404, ""),
        ("GET /v1/policy", 404, ""),
        ("GET /metrics/", 404, ""),
        ("POST /metrics", 404, ""),
        ("DELETE /healthz", 404, ""),
    ] {
        let reply = fetch(line)?;
        ensure!(reply.status == status && reply.body == body.as_bytes(), "{line}: {reply:?}");
    }
    exeat.stop()
}

fn health_on_the_proxy_port_needs_no_credentials() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world, "allow = [\"example.com\"]", "")?;
    let ask = |line: &str| Raw::proxy()?.ask(format!("{line} HTTP/1.1\r\nHost: {PROXY}\r\n\r\n"));
    let reply = ask("GET /healthz")?;
    ensure!(reply.status == 200 && reply.body == b"ok\n", "{reply:?}");
    for line in [
        "GET /",
        "GET /metrics",
        "GET /readyz",
        "GET /healthz/",
        "GET /healthz?x",
        "POST /healthz",
        "OPTIONS *",
    ] {
        let reply = ask(line)?;
        ensure!(reply.status == 400, "{line}: {reply:?}");
    }
    // After a request of the proxy's own kind on the same connection, too.
    let mut client = Raw::proxy()?;
    ensure!(client.ask(request("GET http://example.com/"))?.status == 200);
    ensure!(client.ask(format!("GET /healthz HTTP/1.1\r\nHost: {PROXY}\r\n{}\r\n", auth()))?.status == 200);
    client.closed()?;
    let records = exeat.audit()?;
    ensure!(records.iter().all(|r| r.to_string().find("healthz").is_none()), "{records:#?}");
    exeat.stop()
}

fn draining_is_not_ready() -> Result<()> {
    let world = World::new()?;
    let mut exeat = serve(&world, "allow = [\"mail.example.org:25\"]", "")?;
    let (mut tunnel, reply) = ask("CONNECT mail.example.org:25")?;
    ensure!(reply.status == 200, "{reply:?}");
    exeat.signal(Signal::SIGTERM)?;
    exeat.wait_for_output("draining")?;
    exeat.wait_until_closed(PROXY.parse()?)?;
    let reply = fetch("GET /readyz")?;
    ensure!(reply.status == 503 && reply.body == b"draining\n", "{reply:?}");
    ensure!(fetch("GET /healthz")?.status == 200);
    ensure!(scrape()?.get("exeat_draining") == Some(&1.0));
    tunnel.finish()?;
    ensure!(exeat.wait()?.success());
    Ok(())
}

/// Our own listeners are below every rule, this one included.
fn metrics_cannot_be_reached_through_the_proxy() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world, "allow = [\"127.0.0.0/8:1-65535\"]", "")?;
    let (_, reply) = ask(&format!("GET http://{API}/metrics"))?;
    ensure!(reply.head.field("x-deny-reason") == Some("address_not_allowed"), "{reply:?}");
    // The same rule lets another port through as far as that nobody is there.
    let (_, reply) = ask("GET http://127.0.0.1:9129/metrics")?;
    ensure!(reply.head.field("x-deny-reason") == Some("connect_failed"), "{reply:?}");
    exeat.stop()
}
