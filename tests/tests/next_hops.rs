//! Squid as the next hop: what goes through it, what it refuses, and that nothing goes around it.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use exeat_tests::dns::{Dns, Entry};
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{ask, configuration};
use exeat_tests::namespace::PROXY;
use exeat_tests::world::{GREETING, World};
use exeat_tests::{harness, scenarios};

fn main() -> ExitCode {
    harness::main(scenarios![
        what_squid_lets_through,
        what_squid_refuses,
        what_we_refuse_never_reaches_squid,
        a_squid_that_is_down_is_not_gone_around,
    ])
}

/// Where Squid listens: inside, where no client's request may lead.
const SQUID: &str = "10.99.0.1:3129";
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
            "http_port {SQUID}
dns_nameservers 93.184.216.253
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
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let request = |line: &str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.get(5..8).map(|fields| fields.join(" "))
        };
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
        "[next_hop.corp]\nurl = \"http://{SQUID}\"\nusername = \"scott\"\npassword_file = \"{}\"\n",
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
    let exeat = serve(&world)?;
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
    ensure!(exeat.stderr().contains("the next hop is down"), "{}", exeat.stderr());
    ensure!(world.accepts() == 0, "{:?}", world.reached());
    nothing_was_asked(&world)?;
    exeat.stop()
}
