//! Clients behind a router with the product on it, which listens to the router's name server.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use exeat_tests::exeat::Exeat;
use exeat_tests::lan::{Lan, Net};
use exeat_tests::origin::PATIENCE;
use exeat_tests::world::World;
use serde_json::Value;

/// How often a way that nobody announces is tried again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) lan: Lan,
    pub(crate) exeat: Exeat,
}

impl Stage {
    /// The product listens to the user that the scenario runs as.
    pub(crate) fn start() -> Result<Self> {
        Self::start_for_user(nix::unistd::geteuid().as_raw())
    }

    pub(crate) fn start_for_user(uid: u32) -> Result<Self> {
        Self::start_with(uid, r#""10.88.1.1", "10.88.2.1""#)
    }

    /// Clients ask the servers at these addresses.
    pub(crate) fn start_with(uid: u32, servers: &str) -> Result<Self> {
        let world = World::new()?;
        let lan = Lan::new()?;
        let config = format!(
            r#"
[proxy]
listen = ["127.0.0.1:3128"]
[audit]
file = "AUDIT"
[dns.tap]
socket = "tap.sock"
uid = {uid}
servers = [{servers}]
[firewall]
interfaces = ["lan1", "lan2"]
[policy.one]
allow = ["example.com", "*.example.org"]
[policy.two]
allow = ["cdn.example.net"]
[workload.one]
addresses = ["10.88.1.2"]
policies = ["one"]
[workload.two]
addresses = ["10.88.2.2"]
policies = ["two"]
"#
        );
        Exeat::write_config(world.directory(), &config)?;
        let exeat = serve(&world, &lan)?;
        Ok(Self { world, lan, exeat })
    }

    /// Starts the product again where another has ended.
    pub(crate) fn start_again(&mut self) -> Result<()> {
        self.exeat = serve(&self.world, &self.lan)?;
        Ok(())
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.world.directory().join("tap.sock")
    }

    pub(crate) fn client(&self, number: usize) -> Result<&Net> {
        self.lan.clients.get(number - 1).context("a client")
    }

    /// Asks for a name as this client, of a server that is none: all that is sent to port 53 goes to the router's.
    pub(crate) fn dig(&self, client: usize, question: &[&str]) -> Result<Vec<String>> {
        let args = [&["@10.97.0.1", "+short", "+tries=3", "+timeout=5"], question].concat();
        let output = self.client(client)?.command("dig").args(&args).output()?;
        let text = String::from_utf8(output.stdout)?;
        ensure!(output.status.success() && !text.is_empty(), "dig {question:?}: {text}");
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Waits for the record of what this client has asked for.
    pub(crate) fn heard(&mut self, client: usize, name: &str, kind: &str) -> Result<Value> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let source = format!("10.88.{client}.2:");
        let is_it = |(_, record): &(usize, Value)| {
            let is_from = record["source"].as_str().is_some_and(|from| from.starts_with(&source));
            record["event"] == "dns" && record["name"] == *name && record["method"] == kind && is_from
        };
        Ok(self.exeat.audit_record(&name, is_it)?.1)
    }

    /// Whether this client can connect now. What may not is refused, not left waiting.
    pub(crate) fn is_open(&self, client: usize, target: SocketAddr) -> Result<bool> {
        let connected = self.client(client)?.run(|| Ok(TcpStream::connect_timeout(&target, PATIENCE)))?;
        match connected {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(false),
            Err(error) => bail!("{target} neither answers nor refuses: {error}"),
        }
    }

    /// Connects again and again, as a client does that tries at once after a refusal.
    pub(crate) fn until_open(&self, client: usize, target: SocketAddr) -> Result<bool> {
        let end = Instant::now() + PATIENCE;
        while !self.is_open(client, target)? {
            if Instant::now() > end {
                return Ok(false);
            }
            thread::sleep(LOOK_AGAIN);
        }
        Ok(true)
    }

    /// Asks for a name until the way to it is open: a server that has lost its reader has lost what it told, too.
    pub(crate) fn learns(&self, name: &str) -> Result<()> {
        let end = Instant::now() + 3 * PATIENCE;
        let address = "93.184.216.90";
        self.world.dns.set(name, exeat_tests::dns::Entry::addresses(&[address]).kept_for(0));
        while Instant::now() < end {
            self.dig(1, &[name, "A"])?;
            let next = Instant::now() + Duration::from_secs(3);
            while Instant::now() < next {
                if self.exeat.audit()?.iter().any(|record| record["name"] == name) {
                    return Ok(());
                }
                thread::sleep(LOOK_AGAIN);
            }
        }
        bail!("{name} was never heard of; exeat printed\n{}", self.exeat.stderr())
    }
}

fn serve(world: &World, lan: &Lan) -> Result<Exeat> {
    let inside = format!("--net={}", lan.router.path());
    let config = world.directory().join("exeat.toml").to_string_lossy().into_owned();
    let args = ["serve", "--config", &config];
    let mut exeat = Exeat::spawn_as(world.directory(), &["nsenter", &inside, "--"], &args, |_| ())?;
    exeat.wait_until_ready()?;
    Ok(exeat)
}

pub(crate) fn target(address: &str, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(address.parse::<IpAddr>()?, port))
}
