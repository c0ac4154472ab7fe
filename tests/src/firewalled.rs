//! Two networks behind one router that runs the product with its firewall, each with a policy of its own.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::client::{Client, Outcome};
use crate::content::{Content, REPOSITORY};
use crate::dns::Entry;
use crate::exeat::Exeat;
use crate::http::Request;
use crate::lan::Lan;
use crate::origin::PATIENCE;
use crate::traffic::Traffic;
use crate::world::World;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Names that the world has besides its own, so that each family can be asked for alone.
const NAMES: [(&str, &str); 5] = [
    ("four.example.com", "93.184.216.70"),
    ("six.example.com", "2606:2800:220:1::70"),
    ("ssh.example.com", "93.184.216.71"),
    ("db.example.com", "93.184.216.72"),
    ("db6.example.com", "2606:2800:220:1::72"),
];

/// What a client that has no other policy may reach.
pub const ONE: &str = r#"allow = ["example.com", "*.example.org:443", "ssh.example.com:2222", "db.example.com:5433",
    "db6.example.com:5433", "mail.example.org:25", "four.example.com:5432", "six.example.com:5432"]"#;
/// The same of the other client.
pub const TWO: &str = r#"allow = ["*.example.org", "mail.example.org:25"]"#;

/// Everything of a scenario.
pub struct Stage {
    /// Origins, and the name server that the product asks.
    pub world: World,
    /// The router and the clients.
    pub lan: Lan,
    /// The product, in the router.
    pub exeat: Exeat,
    /// Where the repository is that both kinds of server have.
    pub repository: PathBuf,
}

/// The configuration with these policies, one for each client.
#[must_use]
pub fn config(one: &str, two: &str) -> String {
    format!(
        r#"
[proxy]
listen = ["10.88.1.1:3128"]
[dns]
listen = ["10.88.1.1", "10.88.2.1", "fd88:1::1", "fd88:2::1"]
[firewall]
interfaces = ["lan1", "lan2"]
[audit]
file = "AUDIT"
[api]
listen = "127.0.0.1:9128"
socket = "admin.sock"
[policy.one]
{one}
[policy.two]
{two}
[workload.one]
addresses = ["10.88.1.2", "fd88:1::2"]
policies = ["one"]
[workload.two]
addresses = ["10.88.2.2", "fd88:2::2"]
policies = ["two"]
"#
    )
}

impl Stage {
    /// Starts it all with these policies.
    ///
    /// # Errors
    /// When something cannot be started.
    pub fn start(one: &str, two: &str) -> Result<Self> {
        let directory = tempfile::TempDir::new_in(crate::namespace::scratch())?;
        // The namespace's own file system goes with the scenario.
        let directory = directory.keep();
        let content = Arc::new(Content::make(&directory)?);
        let world = World::serving(Arc::new(move |request: &Request| content.answer(request)))?;
        for (name, address) in NAMES {
            world.dns.set(name, Entry::addresses(&[address]));
        }
        let lan = Lan::new()?;
        Exeat::write_config(world.directory(), &config(one, two))?;
        let exeat = spawn(&world, &lan)?;
        let repository = directory.join("git").join(REPOSITORY.trim_start_matches('/'));
        Ok(Self { world, lan, exeat, repository })
    }

    /// Starts the product again, after it has been killed.
    ///
    /// # Errors
    /// When it does not start.
    pub fn again(&mut self) -> Result<()> {
        self.exeat = spawn(&self.world, &self.lan)?;
        Ok(())
    }

    /// A program of the client of this number, 1 or 2.
    ///
    /// # Errors
    /// When there is no such client.
    pub fn client(&self, number: usize, program: &str) -> Result<Client> {
        let net = self.lan.clients.get(number - 1).context("a client")?;
        let inside = format!("--net={}", net.path());
        Ok(Client::new("nsenter", self.world.directory()).args([&inside, "--", program]))
    }

    /// Runs the command line of the product, in the router.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn ours(&self, args: &[&str]) -> Result<Outcome> {
        let binary = crate::exeat::binary()?;
        let inside = format!("--net={}", self.lan.router.path());
        let socket = self.world.directory().join("admin.sock");
        let client = Client::new("nsenter", self.world.directory()).args([&inside, "--"]).args([binary]);
        client.env("EXEAT_SOCKET", socket).args(args).run()
    }

    /// Packets that the kernel has refused so far.
    ///
    /// # Errors
    /// When the rules are not there.
    pub fn refused(&self) -> Result<u64> {
        let counter = ["list", "counter", "inet", "exeat", "refused"];
        let output = self.lan.router.command("nft").args(counter).output()?;
        let text = String::from_utf8(output.stdout)?;
        let mut words = text.split_whitespace().skip_while(|word| *word != "packets");
        Ok(words.nth(1).with_context(|| format!("a number: {text}"))?.parse()?)
    }

    /// Connects from a client. `None` if it is refused by a reset. How long that took is printed.
    ///
    /// # Errors
    /// When neither comes of it.
    pub fn connect(&self, client: usize, to: &str) -> Result<Option<TcpStream>> {
        let net = self.lan.clients.get(client - 1).context("a client")?;
        let to: SocketAddr = to.parse()?;
        net.run(|| {
            let began = Instant::now();
            let result = TcpStream::connect_timeout(&to, PATIENCE);
            eprintln!(
                "[{to}: {} after {:?}]",
                if result.is_ok() { "connected" } else { "refused" },
                began.elapsed()
            );
            match result {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE))?;
                    Ok(Some(stream))
                }
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(None),
                Err(error) => Err(error).with_context(|| format!("{to} is neither open nor refused")),
            }
        })
    }

    /// Asks for a name's addresses of a family (`A` or `AAAA`) as a client does.
    ///
    /// # Errors
    /// When no answer comes.
    pub fn told(&self, client: usize, name: &str, family: &str) -> Result<Vec<String>> {
        let done =
            self.client(client, "dig")?.args(["+short", "+tries=1", "+time=10", name, family]).run()?;
        ensure!(done.code == 0, "{done:?}");
        Ok(done.out.lines().map(str::to_owned).collect())
    }

    /// A client asks for a name, which has this address, and begins a flow to it.
    ///
    /// # Errors
    /// When its first packet does not pass.
    pub fn traffic(&self, client: usize, name: &str, to: &str) -> Result<Traffic> {
        let address: SocketAddr = to.parse()?;
        let told = self.told(client, name, if address.is_ipv6() { "AAAA" } else { "A" })?;
        ensure!(told == [address.ip().to_string()], "{name}: {told:?}");
        Traffic::begin(self.connect(client, to)?.with_context(|| format!("{name} at {to} is refused"))?)
    }

    /// What names have opened, as the product says: client, name and address.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn opened(&self) -> Result<BTreeSet<(String, String, String)>> {
        let done = self.ours(&["firewall", "show", "--json"])?;
        ensure!(done.code == 0, "{done:?}");
        let shown: Value = serde_json::from_str(&done.out)?;
        let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let rows = shown["opened"].as_array().context("a list")?.iter();
        Ok(rows.map(|row| (text(row, "client"), text(row, "name"), text(row, "address"))).collect())
    }

    /// Waits for a record of a packet to `target` (`address:port`) from the client of this number, and checks why it was
    /// refused and which names it is said to have had.
    ///
    /// # Errors
    /// When there is none, or it says something else.
    pub fn packet(&mut self, client: usize, target: &str, reason: &str, names: &[&str]) -> Result<()> {
        let sources = [format!("10.88.{client}.2:"), format!("[fd88:{client}::2]:")];
        let is_it = |record: &&Value| {
            let source = record["source"].as_str().unwrap_or_default();
            let is_its = sources.iter().any(|start| source.starts_with(start.as_str()));
            record["event"] == "packet" && record["target"] == target && is_its
        };
        let records =
            self.exeat.audit_until(target, |records| records.iter().any(|record| is_it(&record)))?;
        let record = records.iter().find(is_it).context("a record")?;
        let principal = if client == 1 { "one" } else { "two" };
        ensure!(record["reason"] == reason && record["principal"]["name"] == principal, "{record}");
        let named: Vec<&str> =
            record["names"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        ensure!(named == names && record["verdict"] == "deny", "{record}");
        Ok(())
    }

    /// Waits for a record that this client was refused this name.
    ///
    /// # Errors
    /// When there is none, or for another reason.
    pub fn name(&mut self, client: usize, name: &str, reason: &str) -> Result<()> {
        let principal = if client == 1 { "one" } else { "two" };
        let is_it = |record: &&Value| {
            record["event"] == "dns" && record["name"] == name && record["principal"]["name"] == principal
        };
        let records = self.exeat.audit_until(name, |records| records.iter().any(|record| is_it(&record)))?;
        let record = records.iter().find(is_it).context("a record")?;
        ensure!(record["reason"] == reason && record["verdict"] == "deny", "{record}");
        Ok(())
    }

    /// Ends the product and asserts that no packet has been refused but those to `targets`, and that nobody was asked for
    /// a name that is in no policy.
    ///
    /// # Errors
    /// When there was one.
    pub fn end(self, targets: &[&str]) -> Result<()> {
        for record in self.exeat.audit()? {
            let target = record["target"].as_str().unwrap_or_default();
            ensure!(record["event"] != "packet" || targets.contains(&target), "{record}");
        }
        let names = self.world.dns.names();
        ensure!(!names.iter().any(|name| name.contains("evil")), "{names:?}");
        self.exeat.stop()
    }
}

/// Starts the product in the router, with the configuration that is there.
///
/// # Errors
/// When it does not start.
pub fn spawn(world: &World, lan: &Lan) -> Result<Exeat> {
    let inside = format!("--net={}", lan.router.path());
    let mut exeat = Exeat::spawn_as(
        world.directory(),
        &["nsenter", &inside, "--"],
        &["serve", "--config", "exeat.toml"],
        |_| (),
    )?;
    exeat.wait_until_ready()?;
    Ok(exeat)
}
