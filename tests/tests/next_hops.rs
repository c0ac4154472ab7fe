//! Squid as the next hop: what goes through it, what it refuses, and that nothing goes around it.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use exeat_tests::api;
use exeat_tests::dns::{Dns, Entry};
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{ask, configuration, request};
use exeat_tests::haproxy::Haproxy;
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::Raw;
use exeat_tests::tls::Authority;
use exeat_tests::world::{GREETING, World};
use exeat_tests::{harness, scenarios};

fn main() -> ExitCode {
    harness::main(scenarios![
        what_squid_lets_through,
        what_squid_refuses,
        what_we_refuse_never_reaches_squid,
        a_squid_that_is_down_is_not_gone_around,
        squid_is_reached_through_tls,
        the_systems_authorities_are_trusted_unless_others_are_named,
        a_front_that_cannot_prove_itself_gets_nothing,
        squid_is_told_of_the_client,
    ])
}

/// Where Squid listens: inside, where no client's request may lead.
const SQUID: &str = "10.99.0.1:3129";
/// Where the product's numbers are.
const API: &str = "127.0.0.1:9128";
/// Its own name server, so that ours sees what the product asks and nothing else.
const SQUIDS_NAME_SERVER: &str = "93.184.216.253:53";
/// How long Squid may take to start or stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running Squid that lets one user reach everything but `refused.example.org`.
struct Squid {
    child: Child,
    log: std::path::PathBuf,
    _dns: Dns,
}

impl Squid {
    fn start(directory: &Path) -> Result<Self> {
        Self::start_with(directory, "", "")
    }

    /// The same with `option` of its port, and further `lines`.
    fn start_with(directory: &Path, option: &str, lines: &str) -> Result<Self> {
        let dns = Dns::start(SQUIDS_NAME_SERVER.parse()?)?;
        dns.set("example.com", Entry::addresses(&["93.184.216.34"]));
        dns.set("*.example.org", Entry::addresses(&["93.184.216.35"]));
        // Squid gives up its rights and still has to read its helper and write its logs.
        let folder = directory.join("squid");
        fs::create_dir(&folder)?;
        for (path, mode) in [(directory, 0o755), (&folder, 0o777)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        }
        let helper = folder.join("helper");
        let script = "#!/bin/sh\nwhile read -r line; do\n  case \"$line\" in\n    'scott tiger') echo OK ;;\n    *) echo ERR ;;\n  esac\ndone\n";
        fs::write(&helper, script)?;
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755))?;
        let shown = folder.display();
        let configuration = format!(
            "http_port {SQUID} {option}
{lines}dns_nameservers 93.184.216.253
hosts_file none
visible_hostname squid.example
auth_param basic program {shown}/helper
acl ours proxy_auth REQUIRED
acl refused dstdomain refused.example.org
http_access deny refused
http_access allow ours
http_access deny all
access_log stdio:{shown}/access.log
cache_log {shown}/cache.log
pid_filename none
netdb_filename none
coredump_dir none
cache deny all
pinger_enable off
shutdown_lifetime 0 seconds
"
        );
        let file = folder.join("squid.conf");
        fs::write(&file, configuration)?;
        let child = Command::new("squid")
            .args(["-N", "-n", &service(), "-f"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("run `squid` (package squid)")?;
        let mut squid = Self { child, log: folder.join("access.log"), _dns: dns };
        squid.wait_until_listening(&folder)?;
        Ok(squid)
    }

    fn wait_until_listening(&mut self, folder: &Path) -> Result<()> {
        let (address, began): (SocketAddr, Instant) = (SQUID.parse()?, Instant::now());
        while TcpStream::connect(address).is_err() {
            let log = || fs::read_to_string(folder.join("cache.log")).unwrap_or_default();
            if let Some(status) = self.child.try_wait()? {
                bail!("squid ended with {status}: {}", log());
            }
            ensure!(began.elapsed() < PATIENCE, "squid does not listen: {}", log());
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The requests that it was asked, as `METHOD URL user`, without queries.
    fn requests(&self) -> Vec<String> {
        self.logged(|fields| fields.get(5..8).map(|fields| fields.join(" ")))
    }

    /// The clients of those requests.
    fn clients(&self) -> Vec<String> {
        self.logged(|fields| fields.get(2).map(|client| (*client).to_owned()))
    }

    fn logged(&self, part: impl Fn(&[&str]) -> Option<String>) -> Vec<String> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let request = |line: &str| part(&line.split_whitespace().collect::<Vec<_>>());
        // The connection that waits for its start asks for nothing.
        text.lines().filter(|line| !line.contains("error:")).filter_map(request).collect()
    }

    /// Waits until it has written down this many requests: it does so when they end.
    fn wait_for_requests(&self, count: usize) -> Result<Vec<String>> {
        let began = Instant::now();
        loop {
            let requests = self.requests();
            if requests.len() >= count {
                return Ok(requests);
            }
            ensure!(began.elapsed() < PATIENCE, "squid has {requests:?}, not {count}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Squid {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Killed, it leaves its segments behind.
        for segment in ["metadata", "queues", "readers"] {
            let _ = fs::remove_file(format!("/dev/shm/{}-cf__{segment}.shm", service()));
        }
    }
}

/// A service name of this process's own: Squids of one name share memory segments, and scenarios run side by side.
fn service() -> String {
    format!("exeat{}", std::process::id())
}

/// The product, whose one policy leaves through Squid.
fn serve(world: &World) -> Result<Exeat> {
    let password = world.directory().join("hop-password");
    fs::write(&password, "tiger\n")?;
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
    let policy = "next_hop = \"corp\"\nallow = [\"example.com:22,80,443\", \"*.example.org:22,80,443\"]\n";
    let hop = format!(
        "[next_hop.corp]\nurl = \"http://{SQUID}\"\nusername = \"scott\"\npassword_file = \"{}\"\n[api]\nsocket = \"s\"\nlisten = \"{API}\"\n",
        password.display()
    );
    Exeat::serve(world.directory(), &configuration(policy, &hop), PROXY)
}

/// Nobody asked the name server of the machine anything.
fn nothing_was_asked(world: &World) -> Result<()> {
    let asked = world.dns.queries();
    ensure!(asked.is_empty(), "{asked:?}");
    Ok(())
}

fn what_squid_lets_through() -> Result<()> {
    let world = World::new()?;
    let squid = Squid::start(world.directory())?;
    let mut exeat = serve(&world)?;
    let (_, reply) = ask("GET http://example.com/a?b=c")?;
    ensure!(reply.status == 200 && reply.body == b"hello from example.com\n", "{reply:?}");
    // A server that speaks first.
    let (mut client, reply) = ask("CONNECT www.example.org:22")?;
    ensure!(reply.status == 200, "{reply:?}");
    ensure!(client.exactly(GREETING.len())? == GREETING.as_bytes());
    client.send("ping")?;
    ensure!(client.exactly(4)? == b"ping");
    let (_, listed) = api::ask(&world.directory().join("s"), "GET /v1/flows", "", b"")?;
    ensure!(listed["flows"][0]["via"] == "corp" && listed["flows"][0]["address"] == SQUID, "{listed}");
    let mut metrics = Raw::connect(API.parse()?)?;
    let numbers = metrics.ask(format!("GET /metrics HTTP/1.1\r\nHost: {API}\r\n\r\n"))?;
    let numbers = String::from_utf8(numbers.body)?;
    for line in ["exeat_ways_out_total{way=\"next_hop\"} 2\n", "exeat_ways_out_total{way=\"straight\"} 0\n"] {
        ensure!(numbers.contains(line), "{line} is not in {numbers}");
    }
    drop(client);
    let requests = squid.wait_for_requests(2)?;
    ensure!(
        requests == ["GET http://example.com/a? scott", "CONNECT www.example.org:22 scott"],
        "{requests:?}"
    );
    ensure!(world.accepts() == 2, "{:?}", world.reached());
    nothing_was_asked(&world)?;
    let records = exeat.audit_until("both records", |r| r.len() >= 3)?;
    ensure!(records.iter().all(|r| r["via"] == "corp" && r["address"] == SQUID), "{records:?}");
    ensure!(!format!("{records:?}{}", exeat.stderr()).contains("tiger"), "a password in {records:?}");
    exeat.stop()
}

fn what_squid_refuses() -> Result<()> {
    let world = World::new()?;
    let squid = Squid::start(world.directory())?;
    let exeat = serve(&world)?;
    let (_, reply) = ask("CONNECT refused.example.org:443")?;
    let field = |name: &str| reply.head.field(name).unwrap_or_default().to_owned();
    ensure!(reply.status == 502 && field("x-deny-reason") == "connect_failed", "{reply:?}");
    ensure!(field("proxy-status").ends_with("; next-hop=\"corp\"; received-status=403"), "{reply:?}");
    ensure!(squid.wait_for_requests(1)?.len() == 1, "{:?}", squid.requests());
    ensure!(world.accepts() == 0, "{:?}", world.reached());
    nothing_was_asked(&world)?;
    exeat.stop()
}

fn what_we_refuse_never_reaches_squid() -> Result<()> {
    let world = World::new()?;
    let squid = Squid::start(world.directory())?;
    let exeat = serve(&world)?;
    for (line, reason) in [
        ("CONNECT evil.test:443", "host_not_allowed"),
        ("GET http://evil.test/", "host_not_allowed"),
        ("CONNECT example.com:25", "port_not_allowed"),
        ("CONNECT 93.184.216.34:443", "ip_literal_not_allowed"),
        (&format!("CONNECT {SQUID}"), "ip_literal_not_allowed"),
    ] {
        let (_, reply) = ask(line)?;
        ensure!(
            reply.status == 403 && reply.head.field("x-deny-reason") == Some(reason),
            "{line}: {reply:?}"
        );
    }
    // Its log is in the order of its requests: the one that is allowed is the first.
    let (_, reply) = ask("GET http://example.com/")?;
    ensure!(reply.status == 200, "{reply:?}");
    let requests = squid.wait_for_requests(1)?;
    ensure!(requests == ["GET http://example.com/ scott"], "{requests:?}");
    ensure!(world.accepts() == 1, "{:?}", world.reached());
    nothing_was_asked(&world)?;
    exeat.stop()
}

fn a_squid_that_is_down_is_not_gone_around() -> Result<()> {
    let world = World::new()?;
    let mut exeat = serve(&world)?;
    for line in [
        "CONNECT example.com:443",
        "GET http://example.com/",
        "CONNECT example.com:22",
        "GET http://example.com/",
    ] {
        let (_, reply) = ask(line)?;
        let reason = reply.head.field("x-deny-reason");
        ensure!(reply.status == 503 && reason == Some("egress_gateway_unavailable"), "{line}: {reply:?}");
    }
    exeat.until_logged("the next hop is down")?;
    ensure!(world.accepts() == 0, "{:?}", world.reached());
    nothing_was_asked(&world)?;
    exeat.stop()
}

/// Where HAProxy listens with TLS, in front of Squid, and the name of its certificate.
const FRONT: &str = "10.99.0.1:3130";
const FRONT_NAME: &str = "proxy.corp.example";

/// HAProxy with a certificate for `name` that ends with this year.
fn front(world: &World, authority: &Authority, name: &str, last_year: i32) -> Result<Haproxy> {
    let (cert, key) = (world.directory().join("front.pem"), world.directory().join("front.key"));
    authority.issue_until(name, last_year, &cert, &key)?;
    let both = world.directory().join("front.both.pem");
    fs::write(&both, fs::read_to_string(&cert)? + &fs::read_to_string(&key)?)?;
    let sections = format!(
        "listen tls
    bind {FRONT} ssl crt {}
    server squid {SQUID}
",
        both.display()
    );
    Haproxy::start(world.directory(), "front", &sections, FRONT)
}

/// The configuration whose one policy leaves through Squid behind HAProxy.
fn through_tls(extra: &str) -> String {
    let policy = "next_hop = \"corp\"\nallow = [\"example.com:22,80,443\", \"*.example.org:22,80,443\"]\n";
    let hop = format!(
        "[next_hop.corp]\nurl = \"https://scott:tiger@{FRONT}\"\nserver_name = \"{FRONT_NAME}\"\n{extra}"
    );
    configuration(policy, &hop)
}

fn squid_is_reached_through_tls() -> Result<()> {
    let world = World::new()?;
    let squid = Squid::start(world.directory())?;
    let haproxy = front(&world, &world.authority, FRONT_NAME, 2999)?;
    let config = through_tls(&format!("ca = \"{}\"\n", world.ca_file()));
    let mut exeat = Exeat::serve(world.directory(), &config, PROXY)?;
    let (_, reply) = ask("GET http://example.com/a?b=c")?;
    ensure!(reply.status == 200 && reply.body == b"hello from example.com\n", "{reply:?}");
    let (_, reply) = ask("OPTIONS http://example.com")?;
    ensure!(reply.status == 200, "{reply:?}");
    // A server that speaks first, and one that speaks TLS inside.
    let (mut client, reply) = ask("CONNECT www.example.org:22")?;
    ensure!(reply.status == 200, "{reply:?}");
    ensure!(client.exactly(GREETING.len())? == GREETING.as_bytes());
    client.send("ping")?;
    ensure!(client.exactly(4)? == b"ping");
    drop(client);
    let url = "https://www.example.org/";
    let curl = exeat_tests::client::Client::new("curl", world.directory())
        .args([
            "-sS",
            "--cacert",
            &world.ca_file(),
            "-x",
            &format!("http://{}:{}@{PROXY}", exeat_tests::fixture::CLIENT, exeat_tests::fixture::PASSWORD),
            url,
        ])
        .run()?;
    ensure!(curl.code == 0 && curl.out == "hello from www.example.org\n", "{curl:?}");
    let requests = squid.wait_for_requests(4)?;
    let want = [
        "GET http://example.com/a? scott",
        "OPTIONS http://example.com/ scott",
        "CONNECT www.example.org:22 scott",
        "CONNECT www.example.org:443 scott",
    ];
    ensure!(requests == want, "{requests:?}");
    // Squid uses its first connection twice.
    ensure!(world.accepts() == 3, "{:?}", world.reached());
    nothing_was_asked(&world)?;
    let records = exeat.audit_until("their records", |r| r.len() >= 6)?;
    ensure!(records.iter().all(|r| r["via"] == "corp" && r["address"] == FRONT), "{records:?}");
    drop(haproxy);
    exeat.stop()
}

fn the_systems_authorities_are_trusted_unless_others_are_named() -> Result<()> {
    let world = World::new()?;
    let squid = Squid::start(world.directory())?;
    let _haproxy = front(&world, &world.authority, FRONT_NAME, 2999)?;
    let path = Exeat::write_config(world.directory(), &through_tls(""))?;
    let args = ["serve", "--config", &path.to_string_lossy()];
    let ca = world.ca_file();
    let mut exeat = Exeat::spawn_service(world.directory(), &args, &[("SSL_CERT_FILE", &ca)], None)?;
    exeat.wait_until_ready()?;
    let (_, reply) = ask("GET http://example.com/")?;
    ensure!(reply.status == 200, "{reply:?}");
    ensure!(squid.wait_for_requests(1)?.len() == 1);
    // Others are named: the system's no longer count.
    Authority::new()?.write(&world.directory().join("other.pem"))?;
    Exeat::write_config(world.directory(), &through_tls("ca = \"other.pem\"\n"))?;
    exeat.signal(nix::sys::signal::Signal::SIGHUP)?;
    exeat.wait_for_output("reloaded")?;
    let (_, reply) = ask("GET http://example.com/")?;
    ensure!(reply.status == 502 && reply.head.field("x-deny-reason") == Some("connect_failed"), "{reply:?}");
    ensure!(squid.requests().len() == 1 && world.accepts() == 1, "{:?}", squid.requests());
    exeat.stop()
}

fn a_front_that_cannot_prove_itself_gets_nothing() -> Result<()> {
    let (world, other) = (World::new()?, Authority::new()?);
    let squid = Squid::start(world.directory())?;
    let config = through_tls(&format!("ca = \"{}\"\n", world.ca_file()));
    let mut exeat = Exeat::serve(world.directory(), &config, PROXY)?;
    for (authority, name, last_year, told, logged) in [
        (&*world.authority, "other.example", 2999, "is for another name", "other.example"),
        (&*world.authority, FRONT_NAME, 2020, "has expired", "expired"),
        (&*other, FRONT_NAME, 2999, "is not signed by an authority", "BadSignature"),
    ] {
        let haproxy = front(&world, authority, name, last_year)?;
        for line in ["GET http://example.com/", "CONNECT example.com:443"] {
            let (_, reply) = ask(line)?;
            let field = |name: &str| reply.head.field(name).unwrap_or_default().to_owned();
            ensure!(reply.status == 502 && field("x-deny-reason") == "connect_failed", "{told}: {reply:?}");
            ensure!(field("proxy-status").contains("; error=tls_certificate_error; "), "{told}: {reply:?}");
            let body = String::from_utf8_lossy(&reply.body);
            ensure!(body.contains(told) && !body.contains("other.example"), "{told}: {body}");
        }
        // Of several in a second, one is logged.
        exeat.until("the reason in the log", |exeat| {
            ask("GET http://example.com/")?;
            let is_it = |line: &&str| line.contains("the next hop is not spoken to") && line.contains(logged);
            Ok(exeat.stderr().lines().find(is_it).map(|_| ()))
        })?;
        drop(haproxy);
    }
    // The twin that can.
    let _haproxy = front(&world, &world.authority, FRONT_NAME, 2999)?;
    ensure!(squid.requests().is_empty() && world.accepts() == 0, "{:?}", world.reached());
    let (_, reply) = ask("GET http://example.com/")?;
    ensure!(reply.status == 200 && world.accepts() == 1, "{reply:?}");
    nothing_was_asked(&world)?;
    exeat.stop()
}

fn squid_is_told_of_the_client() -> Result<()> {
    let world = World::new()?;
    let lines = "acl exeat src 10.99.0.1/32\nproxy_protocol_access allow exeat\n";
    let squid = Squid::start_with(world.directory(), "require-proxy-header", lines)?;
    let policy = "next_hop = \"corp\"\nallow = [\"example.com:22,80\"]\n";
    let hop = format!("[next_hop.corp]\nurl = \"http://scott:tiger@{SQUID}\"\nproxy_protocol = \"v2\"\n");
    let exeat = Exeat::serve(world.directory(), &configuration(policy, &hop), PROXY)?;
    let mut want = Vec::new();
    for (number, line) in ["GET http://example.com/", "CONNECT example.com:22"].into_iter().enumerate() {
        let source = format!("93.184.216.10{number}");
        let mut client = Raw::from(format!("{source}:0").parse()?, PROXY.parse()?)?;
        let reply = client.ask(request(line))?;
        ensure!(reply.status == 200, "{line}: {reply:?}");
        want.push(source);
        drop(client);
        squid.wait_for_requests(want.len())?;
    }
    ensure!(squid.clients() == want, "{:?}", squid.clients());
    ensure!(world.accepts() == 2, "{:?}", world.reached());
    exeat.stop()
}
