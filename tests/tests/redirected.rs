//! Connections that the kernel redirects to the proxy: clients that know of no proxy.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use exeat_tests::client::Client;
use exeat_tests::container::Container;
use exeat_tests::dns::Entry;
use exeat_tests::exeat::Exeat;
use exeat_tests::gateway::{container, nft, redirect};
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::Raw;
use exeat_tests::world::{GREETING, World};
use exeat_tests::{harness, scenarios};
use serde_json::Value;

fn main() -> ExitCode {
    harness::main(scenarios![
        a_redirected_client_reaches_what_its_policy_names_and_nothing_else,
        one_listener_takes_both_families,
        what_nobody_redirected_is_refused,
        a_name_has_an_address_of_its_own,
        names_of_one_address_are_told_apart,
        in_report_mode_every_name_can_be_connected_to,
        a_client_reaches_the_addresses_that_it_was_told,
        names_of_one_address_are_told_apart_by_what_they_say,
        a_client_goes_on_with_the_address_that_it_has,
        connections_come_as_they_are_by_tproxy,
        the_doctor_finds_tproxy_for_a_bridge,
    ])
}

const CONFIG: &str = r#"
[proxy]
listen = ["10.99.0.1:3128", { address = "0.0.0.0:3141", redirected = true }, { address = "[::]:3142", redirected = true }]
[audit]
file = "AUDIT"
[policy.servers]
allow = ["93.184.216.0/26:25,80,443", "[2606:2800:220::/48]:80"]
deny = ["93.184.216.40"]
[workload.one]
addresses = ["10.97.1.2", "fd97:1::2"]
policies = ["servers"]
"#;

fn decision(exeat: &mut Exeat, target: &str) -> Result<Value> {
    let is_it = |record: &Value| record["event"] == "decision" && record["target"] == target;
    let records =
        exeat.audit_until(&format!("a decision on {target}"), |records| records.iter().any(is_it))?;
    records.into_iter().find(is_it).context("a record")
}

fn a_redirected_client_reaches_what_its_policy_names_and_nothing_else() -> Result<()> {
    let world = World::new()?;
    redirect()?;
    let (one, two) = (container(1)?, container(2)?);
    let mut exeat = Exeat::serve(world.directory(), CONFIG, PROXY)?;
    let home = world.directory();
    let web = one.curl(home, &["http://93.184.216.34/"])?;
    ensure!(web.code == 0 && web.out == "hello from 93.184.216.34\n", "{web:?}");
    let web = one.curl(home, &["http://[2606:2800:220:1::34]/"])?;
    ensure!(web.code == 0 && web.out.starts_with("hello from"), "{web:?}");
    let secure = one.curl(home, &["-k", "https://93.184.216.34/"])?;
    ensure!(secure.code == 0, "{secure:?}");
    // A server that speaks first is not waited for by its client.
    let script = "import socket; s = socket.create_connection(('93.184.216.35', 25), 10); print(s.recv(99))";
    let mail = one.client("python3", home).args(["-c", script]).run()?;
    ensure!(mail.out.contains(GREETING.trim_end()), "{mail:?}");
    ensure!(world.accepts() == 4, "{:?}", world.reached());
    let record = decision(&mut exeat, "93.184.216.35:25")?;
    ensure!(record["verdict"] == "allow" && record["method"] == "REDIRECT", "{record}");
    ensure!(record["principal"]["name"] == "one" && record["workload"] == "one", "{record}");
    ensure!(record["source"].as_str().is_some_and(|source| source.starts_with("10.97.1.2:")), "{record}");

    for (client, target, reason) in [
        (&one, "93.184.216.66:80", "ip_literal_not_allowed"),
        (&one, "93.184.216.40:80", "host_denied"),
        (&one, "93.184.216.34:8080", "port_not_allowed"),
        (&one, "[2606:2800:221::1]:80", "ip_literal_not_allowed"),
        (&two, "93.184.216.38:80", "auth_required"),
    ] {
        let refused = client.curl(home, &["-D", "-", &format!("http://{target}/")])?;
        let record = decision(&mut exeat, target);
        let record = record.with_context(|| format!("{refused:?}"))?;
        ensure!(record["verdict"] == "deny" && record["reason"] == reason, "{target}: {record}");
        if !target.ends_with(":80") {
            // A client elsewhere may be reset before it has said that it speaks HTTP.
            continue;
        }
        // Told in the answer of a proxy, but never asked for credentials: the client knows of none.
        ensure!(refused.out.starts_with("HTTP/1.1 403 "), "{target}: {refused:?}");
        ensure!(refused.out.contains(&format!("x-deny-reason: {reason}")), "{target}: {refused:?}");
        ensure!(!refused.out.contains("authenticate"), "{target}: {refused:?}");
    }
    for port in [443, 25] {
        let script = format!(
            "import socket\ntry:\n s = socket.create_connection(('93.184.216.67', {port}), 10)\n \
             print('got', s.recv(99))\nexcept ConnectionResetError: print('reset')"
        );
        let refused = one.client("python3", home).args(["-c", &script]).run()?;
        ensure!(refused.out == "reset\n", "port {port}: {refused:?}");
    }
    // An HTTP server that is told another name is another server.
    let fronted = one.curl(home, &["-D", "-", "-H", "Host: evil.test", "http://93.184.216.34/"])?;
    ensure!(fronted.out.contains("x-deny-reason: host_mismatch"), "{fronted:?}");
    ensure!(world.accepts() <= 5, "the tunnel may be open by then, and is not used: {:?}", world.reached());
    ensure!(world.dns.queries().is_empty(), "nothing was resolved");
    exeat.stop()
}

/// A listener on every address of IPv6 takes connections of IPv4 as well, whose addresses the kernel writes in the form of
/// IPv6. They are the same addresses.
fn one_listener_takes_both_families() -> Result<()> {
    let world = World::new()?;
    nft("table inet world {
        chain redirected { type nat hook prerouting priority dstnat;
            iifname \"cable*\" meta l4proto { tcp, udp } th dport 53 redirect to :5353
            iifname \"cable*\" ip daddr != 10.97.0.0/16 meta l4proto tcp redirect to :3142
            iifname \"cable*\" ip6 daddr != fd97::/16 meta l4proto tcp redirect to :3142
        }
    }")?;
    let one = container(1)?;
    let of_v4 = "{ address = \"0.0.0.0:3141\", redirected = true }, ";
    let home = world.directory();
    for (mode, config) in [("virtual", virtual_config(NAMES)), ("resolve", resolving_config(NAMES))] {
        let mut exeat = Exeat::serve(home, &config.replace(of_v4, ""), PROXY)?;
        for family in ["-4", "-6"] {
            let secure = one.curl(home, &[family, "--cacert", &world.ca_file(), "https://example.com/"])?;
            ensure!(secure.out == "hello from example.com\n", "{mode} {family}: {secure:?}");
        }
        let accepts = world.accepts();
        for (target, reason) in [
            ("93.184.216.36:80", "ip_literal_not_allowed"),
            ("[2606:2800:220:1::36]:80", "ip_literal_not_allowed"),
        ] {
            let refused = one.curl(home, &[&format!("http://{target}/")])?;
            ensure!(refused.out.contains("egress denied"), "{mode} {target}: {refused:?}");
            ensure!(decision(&mut exeat, target)?["reason"] == reason, "{mode} {target}");
        }
        ensure!(world.accepts() == accepts, "{mode}: {:?}", world.reached());
        exeat.stop()?;
        std::fs::remove_file(home.join("audit.jsonl"))?;
    }
    Ok(())
}

fn what_nobody_redirected_is_refused() -> Result<()> {
    let world = World::new()?;
    let mut exeat = Exeat::serve(world.directory(), CONFIG, PROXY)?;
    // The place that it was meant for is the listener itself, whoever asks.
    let mut client = Raw::connect("127.0.0.1:3141".parse()?)?;
    let reply = client.ask("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")?;
    ensure!(reply.status == 403, "{reply:?}");
    decision(&mut exeat, "127.0.0.1:3141")?;
    ensure!(world.accepts() == 0, "{:?}", world.reached());
    exeat.stop()
}

/// A configuration with virtual addresses, in which the first container has this policy and the second another.
fn virtual_config(policy: &str) -> String {
    format!(
        r#"
[proxy]
listen = ["10.99.0.1:3128", {{ address = "0.0.0.0:3141", redirected = true }}, {{ address = "[::]:3142", redirected = true }}]
[dns]
listen = ["0.0.0.0:5353"]
mode = "virtual"
[audit]
file = "AUDIT"
[policy.servers]
{policy}
[policy.other]
allow = ["example.org"]
[workload.one]
addresses = ["10.97.1.2", "fd97:1::2"]
policies = ["servers"]
[workload.two]
addresses = ["10.97.2.2", "fd97:2::2"]
policies = ["other"]
"#
    )
}

const NAMES: &str = r#"allow = ["example.com", "*.example.org:22,80,443,5432"]"#;

/// Prints what a server at `host` says first, or how it ends.
fn greeting(client: &Container, world: &World, host: &str, port: u16) -> Result<String> {
    let script = format!(
        "import socket\ntry:\n s = socket.create_connection(('{host}', {port}), 10)\n print(s.recv(99).decode().strip())\n\
         except ConnectionResetError: print('reset')\nexcept socket.gaierror: print('no such name')"
    );
    let outcome = client.client("python3", world.directory()).args(["-c", &script]).run()?;
    ensure!(outcome.code == 0, "{outcome:?}");
    Ok(outcome.out.trim_end().to_owned())
}

/// The addresses that a container is told for a name.
fn told(client: &Container, world: &World, host: &str) -> Result<Vec<String>> {
    let script = format!(
        "import socket\nfor family in socket.AF_INET, socket.AF_INET6:\n \
         print(socket.getaddrinfo('{host}.', 80, family, socket.SOCK_STREAM)[0][4][0])"
    );
    let outcome = client.client("python3", world.directory()).args(["-c", &script]).run()?;
    ensure!(outcome.code == 0, "{outcome:?}");
    Ok(outcome.out.lines().map(str::to_owned).collect())
}

fn a_name_has_an_address_of_its_own() -> Result<()> {
    let world = World::new()?;
    redirect()?;
    let (one, two) = (container(1)?, container(2)?);
    let mut exeat = Exeat::serve(world.directory(), &virtual_config(NAMES), PROXY)?;
    let home = world.directory();
    for family in ["-4", "-6"] {
        let secure = one.curl(home, &[family, "--cacert", &world.ca_file(), "https://example.com/"])?;
        ensure!(secure.code == 0 && secure.out == "hello from example.com\n", "{secure:?}");
    }
    // Whatever is spoken, and whoever speaks first, by name and port.
    for port in [22, 5432] {
        ensure!(greeting(&one, &world, "db.example.org", port)? == GREETING.trim_end(), "port {port}");
    }
    let addresses = told(&one, &world, "www.example.org")?;
    ensure!(
        addresses[0].starts_with("198.18.") && addresses[1].starts_with("fd65:7865:6174::"),
        "{addresses:?}"
    );
    let accepts = world.accepts();
    for (case, client, host, port, want) in [
        ("another port", &one, "db.example.org", 25, "reset"),
        ("a name that is not allowed", &one, "evil.test", 80, "no such name"),
        ("the same of another policy", &two, "example.com", 80, "no such name"),
        ("what another client was told", &two, addresses[0].as_str(), 80, "reset"),
        ("its IPv6", &two, addresses[1].as_str(), 80, "reset"),
        ("what nobody was told", &one, "198.18.77.77", 80, "reset"),
        ("the address that a name really has", &one, "93.184.216.34", 443, "reset"),
    ] {
        let got = greeting(client, &world, host, port)?;
        ensure!(got == want, "{case}: {got}");
    }
    ensure!(world.accepts() == accepts, "{:?}", world.reached());
    let record = decision(&mut exeat, "198.18.77.77:80")?;
    ensure!(record["reason"] == "host_not_allowed" && record["principal"]["name"] == "one", "{record}");
    let record = decision(&mut exeat, "db.example.org:22")?;
    ensure!(record["method"] == "REDIRECT" && record["verdict"] == "allow", "{record}");
    ensure!(record["rule"]["text"] == "*.example.org:22,80,443,5432", "{record}");
    ensure!(!world.dns.names().iter().any(|name| name.contains("evil")), "{:?}", world.dns.names());
    exeat.stop()
}

fn names_of_one_address_are_told_apart() -> Result<()> {
    let world = World::new()?;
    redirect()?;
    let one = container(1)?;
    let shared = ["93.184.216.50"];
    for name in ["allowed.example.net", "refused.example.net"] {
        world.dns.set(name, Entry::addresses(&shared));
    }
    let config = virtual_config("allow = [\"allowed.example.net\"]");
    let mut exeat = Exeat::serve(world.directory(), &config, PROXY)?;
    let home = world.directory();
    let get = |url: &str, more: &[&str]| one.curl(home, &[&["-k", url], more].concat());
    for scheme in ["http", "https"] {
        let outcome = get(&format!("{scheme}://allowed.example.net/"), &[])?;
        ensure!(outcome.code == 0 && outcome.out == "hello from allowed.example.net\n", "{outcome:?}");
        let outcome = get(&format!("{scheme}://refused.example.net/"), &[])?;
        ensure!(outcome.code == 6, "could not resolve: {outcome:?}");
        // The refused name at the address of the allowed one, as the client was told it.
        let address = &told(&one, &world, "allowed.example.net")?[0];
        let port = if scheme == "http" { 80 } else { 443 };
        let resolve = format!("refused.example.net:{port}:{address}");
        let outcome = get(&format!("{scheme}://refused.example.net/"), &["--resolve", &resolve])?;
        ensure!(outcome.code != 0 || outcome.out.contains("host_mismatch"), "{outcome:?}");
    }
    let records = exeat.audit_until("both are recorded", |records| {
        let ended = |reason: &str| records.iter().any(|record| record["reason"] == reason);
        ended("host_mismatch") && ended("sni_mismatch")
    })?;
    ensure!(!records.iter().any(|r| r["verdict"] == "allow" && r["name"] == "refused.example.net"));
    // A client that resolved once, and connects after the name has moved.
    let address = told(&one, &world, "allowed.example.net")?.swap_remove(0);
    world.dns.set("allowed.example.net", Entry::addresses(&["93.184.216.51"]));
    let outcome =
        get("http://allowed.example.net/", &["--resolve", &format!("allowed.example.net:80:{address}")])?;
    ensure!(outcome.code == 0 && outcome.out == "hello from allowed.example.net\n", "{outcome:?}");
    exeat.stop()
}

fn in_report_mode_every_name_can_be_connected_to() -> Result<()> {
    let world = World::new()?;
    redirect()?;
    let one = container(1)?;
    world.dns.set("www.example.net", Entry::addresses(&["93.184.216.52"]));
    let config = virtual_config("mode = \"report\"\nallow = [\"example.com\"]");
    let mut exeat = Exeat::serve(world.directory(), &config, PROXY)?;
    let addresses = told(&one, &world, "www.example.net")?;
    ensure!(addresses[0].starts_with("198.18."), "{addresses:?}");
    ensure!(
        !world.dns.names().iter().any(|name| name.contains("example.net")),
        "nobody is asked before somebody connects"
    );
    // With the final dot: every name has an address, those that a search list makes too.
    let outcome = one.curl(world.directory(), &["http://www.example.net./"])?;
    ensure!(outcome.code == 0 && outcome.out.starts_with("hello from www.example.net"), "{outcome:?}");
    let record = decision(&mut exeat, "www.example.net:80")?;
    ensure!(record["would_deny"] == "host_not_allowed" && record["verdict"] == "allow", "{record}");
    exeat.stop()
}

/// A configuration in which names have their own addresses, with this policy for the first container.
fn resolving_config(policy: &str) -> String {
    virtual_config(policy).replace("mode = \"virtual\"\n", "")
}

/// What a client is refused, in any case: it resolves `host` as `address`, whatever the name server says.
fn resolved_as(host: &str, port: u16, address: &str) -> String {
    format!("{host}:{port}:{address}")
}

fn a_client_reaches_the_addresses_that_it_was_told() -> Result<()> {
    let world = World::new()?;
    redirect()?;
    let (one, two) = (container(1)?, container(2)?);
    let policy = "allow = [\"example.com\", \"*.example.org:22,80,443,5432\", \"93.184.216.38\"]";
    let mut exeat = Exeat::serve(world.directory(), &resolving_config(policy), PROXY)?;
    let home = world.directory();
    for family in ["-4", "-6"] {
        let secure = one.curl(home, &[family, "--cacert", &world.ca_file(), "https://example.com/"])?;
        ensure!(secure.code == 0 && secure.out == "hello from example.com\n", "{secure:?}");
        let plain = one.curl(home, &[family, "http://example.com/"])?;
        ensure!(plain.code == 0 && plain.out == "hello from example.com\n", "{plain:?}");
    }
    // Whatever is spoken, and whoever speaks first.
    for port in [22, 5432] {
        ensure!(greeting(&one, &world, "db.example.org", port)? == GREETING.trim_end(), "port {port}");
    }
    ensure!(told(&one, &world, "db.example.org")?[0] == "93.184.216.35", "the name's own address");
    let accepts = world.accepts();
    for (case, client, host, port, want) in [
        ("another port of a name", &one, "db.example.org", 25, "reset"),
        ("an address that it was not told", &one, "93.184.216.36", 443, "reset"),
        ("what another client was told", &two, "93.184.216.35", 443, "reset"),
        ("a name that is not allowed", &one, "evil.test", 80, "no such name"),
    ] {
        let got = greeting(client, &world, host, port)?;
        ensure!(got == want, "{case}: {got}");
    }
    let host = resolved_as("evil.test", 80, "93.184.216.66");
    let refused = one.curl(home, &["-D", "-", "--resolve", &host, "http://evil.test/"])?;
    ensure!(refused.out.starts_with("HTTP/1.1 403 "), "{refused:?}");
    ensure!(refused.out.contains("x-deny-reason: ip_literal_not_allowed"), "{refused:?}");
    ensure!(world.accepts() == accepts, "{:?}", world.reached());
    // A rule for the address needs no name.
    let web = one.curl(home, &["http://93.184.216.38/"])?;
    ensure!(web.code == 0, "{web:?}");
    for (target, reason) in
        [("db.example.org:25", "port_not_allowed"), ("93.184.216.36:443", "ip_literal_not_allowed")]
    {
        let record = decision(&mut exeat, target)?;
        ensure!(record["verdict"] == "deny" && record["reason"] == reason, "{target}: {record}");
    }
    let record = decision(&mut exeat, "db.example.org:22")?;
    ensure!(record["rule"]["text"] == "*.example.org:22,80,443,5432", "{record}");
    ensure!(record["address"] == "93.184.216.35:22" && record["method"] == "REDIRECT", "{record}");
    exeat.stop()
}

fn names_of_one_address_are_told_apart_by_what_they_say() -> Result<()> {
    let world = World::new()?;
    redirect()?;
    let one = container(1)?;
    let shared = "93.184.216.50";
    for name in ["allowed.example.net", "also.example.net", "partly.example.net", "refused.example.net"] {
        world.dns.set(name, Entry::addresses(&[shared]));
    }
    let policy = "allow = [\"allowed.example.net:22,80,443\", \"also.example.net:22,80,443\", \"partly.example.net:6379\"]";
    let mut exeat = Exeat::serve(world.directory(), &resolving_config(policy), PROXY)?;
    let home = world.directory();
    let get = |url: &str, more: &[&str]| one.curl(home, &[&["-k", url], more].concat());
    // First with one name known for the address, then with two, then beside one that may not be reached that way.
    for round in 0..3 {
        for (scheme, port) in [("http", 80), ("https", 443)] {
            let name = ["allowed", "also", "allowed"][round];
            let outcome = get(&format!("{scheme}://{name}.example.net/"), &[])?;
            ensure!(outcome.out == format!("hello from {name}.example.net\n"), "{round}: {outcome:?}");
            let outcome = get(&format!("{scheme}://refused.example.net/"), &[])?;
            ensure!(outcome.code == 6, "could not resolve: {outcome:?}");
            for host in ["refused", "partly"] {
                let resolve = resolved_as(&format!("{host}.example.net"), port, shared);
                let url = format!("{scheme}://{host}.example.net/");
                let outcome = get(&url, &["-D", "-", "--resolve", &resolve])?;
                ensure!(outcome.code != 0 || outcome.out.contains("x-deny-reason: "), "{round}: {outcome:?}");
            }
        }
        // Nothing in this tells one name from another: if one of them may not, none may.
        let got = greeting(&one, &world, "allowed.example.net", 22)?;
        ensure!(got == ["220 at your service", "220 at your service", "reset"][round], "{round}: {got}");
        if round == 1 {
            ensure!(greeting(&one, &world, "partly.example.net", 6379)? == "reset", "the others may not");
        }
    }
    let records = exeat.audit_until("all are recorded", |records| {
        let ended = |target: &str, reason: &str| {
            records.iter().any(|record| record["target"] == target && record["reason"] == reason)
        };
        ended("allowed.example.net:443", "sni_mismatch")
            && ended("allowed.example.net:80", "host_mismatch")
            && ended("partly.example.net:443", "port_not_allowed")
            && ended("partly.example.net:80", "port_not_allowed")
            && ended("partly.example.net:22", "port_not_allowed")
    })?;
    for name in ["refused.example.net", "partly.example.net"] {
        let is_let_through = |r: &&Value| r["verdict"] == "allow" && r["name"] == name && r["event"] != "dns";
        ensure!(!records.iter().any(|record| is_let_through(&record)), "{name}");
    }
    exeat.stop()
}

fn a_client_goes_on_with_the_address_that_it_has() -> Result<()> {
    let world = World::new()?;
    redirect()?;
    let one = container(1)?;
    world.dns.set("www.example.net", Entry::addresses(&["93.184.216.50", "2606:2800:220:1::50"]));
    let config = resolving_config("allow = [\"www.example.net\"]");
    let mut exeat = Exeat::serve(world.directory(), &config, PROXY)?;
    let home = world.directory();
    let address = told(&one, &world, "www.example.net")?.swap_remove(0);
    world.dns.set("www.example.net", Entry::addresses(&["93.184.216.51"]));
    let resolve = resolved_as("www.example.net", 80, &address);
    let outcome = one.curl(home, &["http://www.example.net/", "--resolve", &resolve])?;
    ensure!(outcome.code == 0 && outcome.out == "hello from www.example.net\n", "{outcome:?}");
    let record = decision(&mut exeat, "www.example.net:80")?;
    ensure!(record["address"] == "93.184.216.50:80", "that one, and no other of the name: {record}");
    exeat.stop()
}

fn connections_come_as_they_are_by_tproxy() -> Result<()> {
    let world = World::new()?;
    // Every address is local in this world, so what has a mark needs no route of its own.
    nft("table inet world {
        chain names { type nat hook prerouting priority dstnat;
            iifname \"cable*\" meta l4proto { tcp, udp } th dport 53 redirect to :5353
        }
        chain taken { type filter hook prerouting priority mangle;
            iifname \"cable*\" ip daddr != 10.97.0.0/16 tcp dport != 53 tproxy ip to :3141 accept
            iifname \"cable*\" ip6 daddr != fd97::/16 tcp dport != 53 tproxy ip6 to :3142 accept
        }
    }")?;
    let one = container(1)?;
    let policy = "allow = [\"example.com\", \"db.example.org:22\", \"93.184.216.38\"]";
    let home = world.directory();
    for (mode, config) in [("virtual", virtual_config(policy)), ("resolve", resolving_config(policy))] {
        let mut exeat = Exeat::serve(home, &config, PROXY)?;
        for family in ["-4", "-6"] {
            let secure = one.curl(home, &[family, "--cacert", &world.ca_file(), "https://example.com/"])?;
            ensure!(secure.out == "hello from example.com\n", "{mode} {family}: {secure:?}");
        }
        ensure!(greeting(&one, &world, "db.example.org", 22)? == GREETING.trim_end(), "{mode}");
        let web = one.curl(home, &["http://93.184.216.38/"])?;
        ensure!(web.code == 0, "{mode}: {web:?}");
        let accepts = world.accepts();
        for (host, port) in [("db.example.org", 25), ("93.184.216.36", 443), ("198.18.77.77", 443)] {
            ensure!(greeting(&one, &world, host, port)? == "reset", "{mode}: {host}:{port}");
        }
        ensure!(world.accepts() == accepts, "{mode}: {:?}", world.reached());
        let record = decision(&mut exeat, "93.184.216.36:443")?;
        ensure!(record["reason"] == "ip_literal_not_allowed" && record["method"] == "REDIRECT", "{record}");
        decision(&mut exeat, "db.example.org:22")?;
        exeat.stop()?;
        std::fs::remove_file(home.join("audit.jsonl"))?;
    }
    Ok(())
}

/// What the documentation says of bridges is what the kernel does, and the doctor says so.
fn the_doctor_finds_tproxy_for_a_bridge() -> Result<()> {
    let world = World::new()?;
    ip(&["link", "add", "br0", "type", "bridge"])?;
    ip(&["address", "add", "10.97.1.1/24", "dev", "br0"])?;
    ip(&["link", "set", "br0", "up"])?;
    let one = Container::with_cable("cable1", &[], &["10.97.1.2/24"])?;
    ip(&["link", "set", "cable1", "master", "br0"])?;
    one.route_by("10.97.1.1")?;
    let mut exeat = Exeat::serve(world.directory(), CONFIG, PROXY)?;
    let home = world.directory();
    let binary = exeat_tests::exeat::binary()?.to_string_lossy().into_owned();
    let called = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    let tproxy = "type filter hook prerouting priority mangle; \
                  iifname \"br0\" ip daddr != 10.97.0.0/16 meta l4proto tcp tproxy ip to :3141 accept";
    let redirect = "type nat hook prerouting priority dstnat; \
                    iifname \"br0\" ip daddr != 10.97.0.0/16 meta l4proto tcp redirect to :3141";
    // Every address is local in this world: what no rule takes reaches its origin.
    for (case, rule, is_called, is_taken, is_told) in [
        ("tproxy, while the packets of bridges meet the rules of IP", tproxy, "1", false, true),
        ("tproxy, otherwise", tproxy, "0", true, false),
        ("redirect", redirect, "1", true, false),
    ] {
        std::fs::write(called, is_called)?;
        nft(&format!("table inet jobs {{\nchain taken {{ {rule}\n}}\n}}\n"))?;
        let accepts = world.accepts();
        let refused = one.curl(home, &["http://93.184.216.66/"])?;
        ensure!(refused.out.contains("egress denied") == is_taken, "{case}: {refused:?}");
        ensure!((world.accepts() == accepts) == is_taken, "{case}: {:?}", world.reached());
        let allowed = one.curl(home, &["http://93.184.216.34/"])?;
        ensure!(allowed.code == 0, "{case}: {allowed:?}");
        let said = Client::new(&binary, home).args(["firewall", "doctor"]).run()?;
        let line = "BAD  `inet jobs taken` has a rule with `tproxy` for clients of a bridge";
        ensure!(said.out.contains(line) == is_told, "{case}: {said:?}");
        nft("delete table inet jobs")?;
    }
    decision(&mut exeat, "93.184.216.66:80")?;
    exeat.stop()
}

fn ip(args: &[&str]) -> Result<()> {
    let status = std::process::Command::new("ip").args(args).status().context("run `ip`")?;
    ensure!(status.success(), "ip {args:?}: {status}");
    Ok(())
}
