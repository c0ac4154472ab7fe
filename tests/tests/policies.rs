//! What a policy can say, seen from outside: who is asked, what is allowed, what must open a connection, what a refusal tells.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use exeat_tests::dns::Entry;
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{ask, configuration, get, password_entry, request_with};
use exeat_tests::hello::Hello;
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::{Raw, authorization};
use exeat_tests::world::{GREETING, World};
use exeat_tests::{harness, scenarios};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

fn main() -> ExitCode {
    harness::main(scenarios![
        deny_beats_allow_at_every_level,
        a_ceiling_limits_the_policies_below_it,
        groups_and_group_files_are_lists_like_others,
        anonymous_clients_have_their_own_policy,
        two_passwords_live_side_by_side,
        report_mode_lets_pass_and_says_what_it_would_deny,
        a_named_metadata_address_can_be_opened,
        network_rules_match_literals_only,
        a_listener_on_every_address_is_never_reached,
        tunnels_on_80_must_open_with_http,
        further_server_names_can_be_listed,
        a_server_that_speaks_first_is_heard_at_once,
        refusals_disclose_the_entry_or_not,
        an_audit_log_that_fails_changes_nothing,
        a_required_audit_log_that_fails_denies,
        what_clients_send_stays_out_of_the_audit_log,
        long_names_leave_a_short_reason_phrase,
        tunnels_are_counted_for_each_client,
        one_family_is_enough,
        answers_are_kept_and_asked_for_once,
    ])
}

/// Starts the product with the body of the client's policy.
fn serve(world: &World, policy: &str, extra: &str) -> Result<Exeat> {
    Exeat::serve(world.directory(), &configuration(policy, extra), PROXY)
}

/// Each GET for `http://<rest>` ends with the status and, for a refusal, the reason.
fn each(cases: &[(&str, u16, &str)]) -> Result<()> {
    for (rest, status, reason) in cases {
        let got = get(rest)?;
        let want = (*status, Some((*reason).to_owned()).filter(|r| !r.is_empty()));
        ensure!(got == want, "{rest}: want {want:?}, got {got:?}");
    }
    Ok(())
}

fn deny_beats_allow_at_every_level() -> Result<()> {
    let world = World::new()?;
    let policy = r#"
deny = ["*.private.example.org", "example.com:80"]
allow = ["*.example.org", "secret.private.example.org", "example.com"]
"#;
    let exeat = serve(&world, policy, "")?;
    each(&[
        ("www.example.org/", 200, ""),
        ("private.example.org/", 200, ""),
        ("secret.private.example.org/", 403, "host_denied"),
        ("example.com/", 403, "host_denied"),
    ])?;
    let (_, reply) = ask("CONNECT example.com:443")?;
    ensure!(reply.status == 200, "a denied port leaves the others: {reply:?}");
    exeat.stop()
}

fn a_ceiling_limits_the_policies_below_it() -> Result<()> {
    let world = World::new()?;
    let policy = "allow = [\"*.example.org\", \"example.com\"]\n";
    let extra = "labels = { organization = \"one\" }\n[ceiling.one]\nbind = { organization = \"one\" }\nallow = [\"*.example.org\"]\ndeny = [\"bad.example.org\"]\n";
    let mut exeat = serve(&world, policy, extra)?;
    each(&[
        ("www.example.org/", 200, ""),
        ("example.com/", 403, "host_not_allowed"),
        ("bad.example.org/", 403, "host_denied"),
    ])?;
    ensure!(world.dns.names() == ["www.example.org"], "{:?}", world.dns.names());
    let (_, denied) = exeat.audit_record("the deny of the ceiling", |(_, r)| r["reason"] == "host_denied")?;
    ensure!(denied["rule"]["policy"].as_str().is_some_and(|p| p.contains("one")), "{denied}");
    exeat.stop()
}

fn groups_and_group_files_are_lists_like_others() -> Result<()> {
    let world = World::new()?;
    fs::write(
        world.directory().join("blocked.txt"),
        "# one entry a line\nbad.example.org\n\n*.worse.example.org\n",
    )?;
    let policy = "allow = [\"@web\"]\ndeny = [\"@blocked\"]\n";
    let extra = "[groups.web]\nentries = [\"*.example.org\"]\nports = [80]\n[groups.blocked]\nfile = \"blocked.txt\"\n";
    let mut exeat = serve(&world, policy, extra)?;
    each(&[
        ("www.example.org/", 200, ""),
        ("bad.example.org/", 403, "host_denied"),
        ("a.worse.example.org/", 403, "host_denied"),
        ("www.example.org:8080/", 403, "port_not_allowed"),
    ])?;
    let (_, denied) = exeat.audit_record("the deny of the file", |(_, r)| r["name"] == "bad.example.org")?;
    ensure!(denied["rule"]["place"].as_str().is_some_and(|p| p.ends_with("blocked.txt:2")), "{denied}");
    exeat.stop()
}

fn anonymous_clients_have_their_own_policy() -> Result<()> {
    let world = World::new()?;
    let extra = "[policy.anyone]\nallow = [\"open.example.org\"]\n";
    let config = configuration("allow = [\"example.com\"]\n", extra)
        .replace("[audit]", "anonymous = \"anyone\"\n[audit]");
    let mut exeat = Exeat::serve(world.directory(), &config, PROXY)?;
    let status = |host: &str, fields: &str| -> Result<u16> {
        Ok(Raw::proxy()?.ask(request_with(&format!("GET http://{host}/"), fields))?.status)
    };
    ensure!(status("open.example.org", "")? == 200 && status("example.com", "")? == 403);
    ensure!(get("example.com/")?.0 == 200 && get("open.example.org/")?.0 == 403);
    // Wrong credentials do not fall back to anonymous.
    ensure!(status("open.example.org", &authorization("app", "wrong"))? == 407);
    let (_, record) =
        exeat.audit_record("the anonymous one", |(_, r)| r["principal"]["proof"] == "anonymous")?;
    ensure!(record["verdict"] == "allow", "{record}");
    exeat.stop()
}

fn two_passwords_live_side_by_side() -> Result<()> {
    let world = World::new()?;
    let two = format!("passwords = [\"{}\", ", password_entry("another-password-for-rotation"));
    let config = configuration("allow = [\"example.com\"]\n", "").replace("passwords = [", &two);
    let exeat = Exeat::serve(world.directory(), &config, PROXY)?;
    let other = authorization("app", "another-password-for-rotation");
    let reply = Raw::proxy()?.ask(request_with("GET http://example.com/", &other))?;
    ensure!(reply.status == 200 && get("example.com/")?.0 == 200, "{reply:?}");
    exeat.stop()
}

fn report_mode_lets_pass_and_says_what_it_would_deny() -> Result<()> {
    let world = World::new()?;
    world.dns.set("inside.example.com", Entry::addresses(&["10.1.2.3"]));
    let policy = "allow = [\"*.example.org\"]\ndeny = [\"bad.example.org\"]\nmode = \"report\"\n";
    let mut exeat = serve(&world, policy, "")?;
    each(&[("www.example.org/", 200, ""), ("example.com/", 200, ""), ("bad.example.org/", 200, "")])?;
    for (name, would) in [("example.com", "host_not_allowed"), ("bad.example.org", "host_denied")] {
        let (_, record) = exeat.audit_record(name, |(_, r)| r["name"] == name)?;
        let told = (&record["verdict"], &record["mode"], &record["would_deny"]);
        ensure!(told == (&"allow".into(), &"report".into(), &would.into()), "{record}");
    }
    let (_, record) = exeat.audit_record("the allowed one", |(_, r)| r["name"] == "www.example.org")?;
    ensure!(record["would_deny"].is_null(), "{record}");
    // What report mode does not relax.
    each(&[
        ("inside.example.com/", 403, "address_not_allowed"),
        ("127.0.0.1/", 403, "ip_literal_not_allowed"),
        ("169.254.169.254/", 403, "ip_literal_not_allowed"),
        ("localhost/", 403, "host_not_allowed"),
    ])?;
    exeat.stop()
}

fn a_named_metadata_address_can_be_opened() -> Result<()> {
    let world = World::new()?;
    let policy = "allow = [\"169.254.169.254:80\"]\nmetadata = [\"169.254.169.254\"]\n";
    let mut exeat = serve(&world, policy, "")?;
    ensure!(get("169.254.169.254/latest/")?.0 == 200);
    ensure!(get("169.254.170.2/")?.0 == 403);
    exeat.until_logged("metadata")?;
    exeat.stop()
}

fn network_rules_match_literals_only() -> Result<()> {
    let world = World::new()?;
    world.dns.set("db.example.com", Entry::addresses(&["10.20.0.5"]));
    world.dns.set("named.example.com", Entry::addresses(&["10.20.0.6"]));
    let policy = r#"
allow = ["10.20.0.0/24:80", "[2606:2800:220::/48]:80", { host = "named.example.com", addresses = ["10.20.0.0/24"] }]
"#;
    let exeat = serve(&world, policy, "")?;
    each(&[
        ("10.20.0.5/", 200, ""),
        ("[2606:2800:220:1::34]/", 200, ""),
        ("[::ffff:10.20.0.5]/", 200, ""),
        ("10.20.1.5/", 403, "ip_literal_not_allowed"),
        ("db.example.com/", 403, "host_not_allowed"),
        ("named.example.com/", 200, ""),
    ])?;
    ensure!(world.dns.names() == ["named.example.com"], "{:?}", world.dns.names());
    exeat.stop()
}

/// `CONNECT name:80` is what browsers send for `ws://`: allowed, if HTTP/1 for that host comes through it.
fn tunnels_on_80_must_open_with_http() -> Result<()> {
    let world = World::new()?;
    let mut exeat = serve(&world, "allow = [\"example.com\"]\n", "")?;
    let through = |bytes: &[u8]| -> Result<Vec<u8>> {
        let (mut tunnel, reply) = ask("CONNECT example.com:80")?;
        ensure!(reply.status == 200, "{reply:?}");
        tunnel.send(bytes)?;
        tunnel.rest()
    };
    let (mut tunnel, _) = ask("CONNECT example.com:80")?;
    let reply = tunnel.ask(
        "GET /chat HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    )?;
    ensure!(reply.status == 200 && reply.body == b"hello from example.com\n", "{reply:?}");
    drop(tunnel);
    let accepted = world.http.requests().len();
    for (opening, reason) in [
        (&b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"[..], "host_mismatch"),
        (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], "http_required"),
        (&Hello::to("example.com").record(), "http_required"),
    ] {
        drop(through(opening)?);
        exeat.audit_record(reason, |(_, r)| r["reason"] == reason)?;
    }
    ensure!(world.http.requests().len() == accepted, "{:?}", world.http.requests());
    ensure!(world.http.seen().iter().skip(1).all(|seen| seen.received.is_empty()), "{:?}", world.http.seen());
    exeat.stop()
}

fn further_server_names_can_be_listed() -> Result<()> {
    let world = World::new()?;
    let policy = "allow = [{ host = \"example.com\", sni = [\"edge.example.net\"] }, { host = \"raw.example.org\", expect = \"any\" }]\n";
    let mut exeat = serve(&world, policy, "")?;
    let carries = |target: &str, opening: &[u8]| -> Result<()> {
        let (mut tunnel, reply) = ask(&format!("CONNECT {target}"))?;
        ensure!(reply.status == 200, "{reply:?}");
        tunnel.send(opening)?;
        world.https.wait("the opening", |seen| seen.iter().any(|s| s.received == opening)).map(drop)
    };
    carries("example.com:443", &Hello::to("edge.example.net").record())?;
    carries("example.com:443", &Hello::to("example.com").record())?;
    carries("raw.example.org:443", &Hello::to("anything.example").record())?;
    carries("raw.example.org:443", b"no TLS at all")?;
    let (mut tunnel, _) = ask("CONNECT example.com:443")?;
    tunnel.send(Hello::to("other.example.net").record())?;
    drop(tunnel.rest()?);
    drop(tunnel);
    exeat.audit_record("the mismatch", |(_, r)| r["reason"] == "sni_mismatch")?;
    for (opening, reason) in
        [(Hello::new().record(), "sni_missing"), (b"HELO example.com\r\n".to_vec(), "tls_required")]
    {
        let (mut tunnel, _) = ask("CONNECT example.com:443")?;
        tunnel.send(opening)?;
        drop(tunnel.rest()?);
        drop(tunnel);
        exeat.audit_record(reason, |(_, r)| r["reason"] == reason)?;
    }
    exeat.stop()
}

fn a_server_that_speaks_first_is_heard_at_once() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world, "allow = [\"mail.example.org:25\"]\n", "")?;
    let (mut tunnel, reply) = ask("CONNECT mail.example.org:25")?;
    ensure!(reply.status == 200, "{reply:?}");
    ensure!(tunnel.exactly(GREETING.len())? == GREETING.as_bytes());
    drop(tunnel);
    exeat.stop()
}

/// Every address of the namespace is one of this host by its routes, and hardly any is one of an interface.
fn a_listener_on_every_address_is_never_reached() -> Result<()> {
    let world = World::new()?;
    world.dns.set("hop.example.org", Entry::addresses(&["93.184.216.35"]));
    world.dns.set("away.example.org", Entry::addresses(&["93.184.217.9"]));
    world.dns.set("loop.example.org", Entry::addresses(&["127.0.0.9"]));
    let policy = r#"
allow = ["example.com:80,3128,3129", "away.example.org:3128", "93.184.216.0/24:80,3128", "127.0.0.0/8:80,3128",
  { host = "loop.example.org", ports = [80, 3128], addresses = ["127.0.0.0/8"] }]
"#;
    let extra = format!(
        "[policy.around]\nallow = [\"example.net\"]\nnext_hop = \"self\"\n\
         [next_hop.self]\nurl = \"http://hop.example.org:3128\"\n\
         [client.around]\npasswords = [\"{}\"]\npolicies = [\"around\"]\n\
         [limits]\nconnect_timeout = \"300ms\"\n",
        password_entry("a-password-of-another-client")
    );
    let config = configuration(policy, &extra).replace(PROXY, "0.0.0.0:3128");
    let mut exeat = Exeat::serve(world.directory(), &config, PROXY)?;
    each(&[
        ("example.com:3128/", 403, "address_not_allowed"),
        ("example.com/", 200, ""),
        ("93.184.216.99:3128/", 403, "address_not_allowed"),
        ("93.184.216.99/", 200, ""),
        ("127.0.0.9:3128/", 403, "address_not_allowed"),
        ("127.0.0.9/", 200, ""),
        ("loop.example.org:3128/", 403, "address_not_allowed"),
        ("loop.example.org/", 200, ""),
        // Of another host: nothing answers there.
        ("away.example.org:3128/", 504, "connect_timeout"),
    ])?;
    let (_, reply) = ask("CONNECT example.com:3128")?;
    ensure!(reply.head.field("x-deny-reason") == Some("address_not_allowed"), "{reply:?}");
    let (_, record) = exeat.audit_record("the tunnel", |(_, r)| {
        r["reason"] == "address_not_allowed" && r["method"] == "CONNECT"
    })?;
    ensure!(record["verdict"] == "deny", "the allow is taken back: {record}");
    let around = authorization("around", "a-password-of-another-client");
    let reply = Raw::proxy()?.ask(request_with("GET http://example.net/", &around))?;
    ensure!(reply.head.field("x-deny-reason") == Some("loop_detected"), "{reply:?}");
    exeat.stop()
}

fn refusals_disclose_the_entry_or_not() -> Result<()> {
    let world = World::new()?;
    let config = configuration("allow = [\"hidden-rule.example.org\"]\n", "");
    let mut exeat = Exeat::serve(world.directory(), &config, PROXY)?;
    let (_, reply) = ask("GET http://example.com:8080/")?;
    let body: serde_json::Value = serde_json::from_slice(&reply.body)?;
    ensure!(body["allow"] == "\"example.com:8080\"" && body["reason"] == "host_not_allowed", "{reply:?}");
    ensure!(!format!("{reply:?}").contains("hidden-rule"), "another rule's text: {reply:?}");
    // What a name resolves to is not the client's to know, where it is refused or where nobody answers.
    world.dns.set("hidden-rule.example.org", Entry::addresses(&["10.1.2.3"]));
    let (_, refused) = ask("GET http://hidden-rule.example.org/")?;
    let body: serde_json::Value = serde_json::from_slice(&refused.body)?;
    ensure!(body["reason"] == "address_not_allowed" && body["allow"].is_null(), "{refused:?}");
    ensure!(!format!("{refused:?}").contains("10.1.2.3"), "{refused:?}");
    let id = reply.head.field("x-exeat-request-id").context("a request id")?.to_owned();
    exeat.audit_record("the same id", |(_, r)| r["request_id"] == id.as_str())?;
    Exeat::write_config(world.directory(), &config.replace("[audit]", "disclose = false\n[audit]"))?;
    exeat.signal(nix::sys::signal::Signal::SIGHUP)?;
    exeat.wait_for_output("reloaded")?;
    let (_, reply) = ask("GET http://example.com:8080/")?;
    let body: serde_json::Value = serde_json::from_slice(&reply.body)?;
    ensure!(body["allow"].is_null() && body["reason"] == "host_not_allowed", "{reply:?}");
    exeat.stop()
}

/// Sends requests while the audit file is on a full disk until one ends with `want`.
fn with_a_full_disk(required: bool, want: u16) -> Result<()> {
    let world = World::new()?;
    let full = format!("file = \"/dev/full\"\nrequired = {required}");
    let config = configuration("allow = [\"example.com\"]\n", "").replace("file = \"AUDIT\"", &full);
    let _exeat = Exeat::serve(world.directory(), &config, PROXY)?;
    let mut statuses = Vec::new();
    // The log learns that its disk is full from the first records, which are written behind the request.
    while statuses.len() < 200 && !(required && statuses.ends_with(&[want])) {
        statuses.push(get("example.com/")?.0);
    }
    ensure!(statuses.last() == Some(&want), "{statuses:?}");
    ensure!(required || statuses.iter().all(|status| *status == want), "{statuses:?}");
    Ok(())
}

fn an_audit_log_that_fails_changes_nothing() -> Result<()> {
    with_a_full_disk(false, 200)
}

fn a_required_audit_log_that_fails_denies() -> Result<()> {
    with_a_full_disk(true, 503)
}

fn what_clients_send_stays_out_of_the_audit_log() -> Result<()> {
    let world = World::new()?;
    let mut exeat = serve(&world, "allow = [\"example.com\"]\n", "")?;
    let fields = format!(
        "{}Authorization: Bearer hush-header\r\nCookie: a=hush-cookie\r\n",
        exeat_tests::fixture::auth()
    );
    for line in [
        "GET http://example.com/hush-path?token=hush-query",
        "GET http://evil.test/hush-path?token=hush-query",
        "GET http://user:hush-userinfo@example.com/",
        "CONNECT user:hush-userinfo@example.com:443",
        "GET http://example.com/\x01hush-control",
    ] {
        Raw::proxy()?.ask(request_with(line, &fields))?;
    }
    exeat.audit_until("five records", |records| records.len() == 5)?;
    exeat.stop()?;
    for file in ["audit.jsonl", "stderr", "stdout"] {
        let text = fs::read_to_string(world.directory().join(file))?;
        ensure!(!text.contains("hush"), "{file}: {text}");
    }
    Ok(())
}

fn long_names_leave_a_short_reason_phrase() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world, "allow = [\"example.com\"]\n", "")?;
    let name = format!("{}.example.net", vec!["a".repeat(49); 4].join("."));
    let (_, reply) = ask(&format!("CONNECT {name}:443"))?;
    ensure!(reply.status == 403 && reply.phrase().len() <= 120, "{reply:?}");
    ensure!(
        reply.phrase().starts_with("egress denied: host_not_allowed ...")
            && reply.phrase().ends_with(".example.net:443"),
        "{reply:?}"
    );
    exeat.stop()
}

fn tunnels_are_counted_for_each_client() -> Result<()> {
    let world = World::new()?;
    let extra = format!(
        "[client.second]\npasswords = [\"{}\"]\npolicies = [\"app\"]\n[limits]\ntunnels_per_client = 2\n",
        password_entry("second-password")
    );
    let exeat = serve(&world, "allow = [\"mail.example.org:25\"]\n", &extra)?;
    let open = || ask("CONNECT mail.example.org:25");
    let (first, reply) = open()?;
    ensure!(reply.status == 200, "{reply:?}");
    let (second, reply) = open()?;
    ensure!(reply.status == 200, "{reply:?}");
    let (_, reply) = open()?;
    ensure!(
        reply.status == 429 && reply.head.field("x-deny-reason") == Some("connection_limit"),
        "{reply:?}"
    );
    let mut other = Raw::proxy()?;
    let reply = other
        .ask(request_with("CONNECT mail.example.org:25", &authorization("second", "second-password")))?;
    ensure!(reply.status == 200, "{reply:?}");
    drop((first, second, other));
    exeat.stop()
}

/// A name server that fails for one family does not make a name unreachable that has the other.
fn one_family_is_enough() -> Result<()> {
    let world = World::new()?;
    let both = || Entry::addresses(&["93.184.216.35", "2606:2800:220:1::35"]);
    world.dns.set("four.example.org", both().only(RecordType::A));
    world.dns.set("six.example.org", both().only(RecordType::AAAA));
    world.dns.set("none.example.org", Entry::failure(ResponseCode::ServFail));
    world.dns.set("refused.example.org", Entry::failure(ResponseCode::Refused));
    let exeat = serve(&world, "allow = [\"*.example.org\"]\n", "")?;
    each(&[
        ("four.example.org/", 200, ""),
        ("six.example.org/", 200, ""),
        ("none.example.org/", 502, "dns_failed"),
        ("refused.example.org/", 502, "dns_failed"),
    ])?;
    exeat.stop()
}

fn answers_are_kept_and_asked_for_once() -> Result<()> {
    let world = World::new()?;
    world.dns.set("gone.example.org", Entry::failure(ResponseCode::NXDomain));
    let exeat = serve(&world, "allow = [\"*.example.org\"]\n", "")?;
    for _ in 0..5 {
        each(&[("www.example.org/", 200, ""), ("gone.example.org/", 502, "dns_failed")])?;
    }
    for name in ["www.example.org", "gone.example.org"] {
        let asked = world.dns.queries().iter().filter(|q| q.name == name).count();
        ensure!(asked == 2, "{name}: {:?}", world.dns.queries());
    }
    exeat.stop()
}
