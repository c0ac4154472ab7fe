//! A world with content, the product in it, and what holds after each client.

use std::ffi::OsStr;
use std::sync::Arc;

use anyhow::{Result, ensure};
use exeat_tests::client::Client;
use exeat_tests::content::{Content, GIT_HOST, NODE_REGISTRY, PYTHON_INDEX};
use exeat_tests::dns::Entry;
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{CLIENT, PASSWORD, configuration, password_entry};
use exeat_tests::namespace::{PROXY, scratch};
use exeat_tests::world::World;
use tempfile::TempDir;

/// An allowed host that greets.
pub(crate) const PLAIN: &str = "example.com";
/// A host that resolves and would answer, and that the policy does not allow.
pub(crate) const REFUSED: &str = "elsewhere.example.net";

/// A host that is allowed by its address alone.
pub(crate) const BY_ADDRESS: &str = "by-address.example.net";
/// The address.
const LISTED: &str = "93.184.216.98";

/// A host that is allowed on [`SOCKET_PORT`], where a test may listen.
pub(crate) const SOCKET: &str = "socket.example.com";
pub(crate) const SOCKET_ADDRESS: &str = "93.184.216.97";
pub(crate) const SOCKET_PORT: u16 = 8090;

/// The world, and the product in it.
pub(crate) struct Through {
    pub(crate) world: World,
    exeat: Exeat,
    /// Where the content lies while it is served.
    _content: TempDir,
    /// Connections that origins had accepted, and questions that the name server had got, at the last look.
    accepts: usize,
    denials: usize,
}

impl Through {
    /// Starts everything.
    pub(crate) fn start() -> Result<Self> {
        let directory = TempDir::new_in(scratch())?;
        let content = Content::make(directory.path())?;
        let world = World::serving(Arc::new(move |request| content.answer(request)))?;
        world.dns.set(REFUSED, Entry::addresses(&["93.184.216.99"]));
        world.dns.set(BY_ADDRESS, Entry::addresses(&[LISTED]));
        world.dns.set(SOCKET, Entry::addresses(&[SOCKET_ADDRESS]));
        // Whoever asks for an address still says a name inside, which cannot be compared with anything.
        let listed = format!("{{ network = \"{LISTED}\", expect = \"any\" }}");
        let names = [PLAIN, PYTHON_INDEX, NODE_REGISTRY, GIT_HOST].map(|name| format!("\"{name}\""));
        let socket = format!("{{ host = \"{SOCKET}\", ports = [{SOCKET_PORT}], expect = \"http\" }}");
        let allow = format!("allow = [{}, {listed}, {socket}]", names.join(", "));
        let config = configuration(&allow, "");
        let exeat = Exeat::serve(world.directory(), &config, PROXY)?;
        Ok(Self { world, exeat, _content: directory, accepts: 0, denials: 0 })
    }

    /// A client that is told of the proxy in the way of its kind: by the environment.
    pub(crate) fn client(&self, program: impl AsRef<OsStr>) -> Client {
        let proxy = format!("http://{CLIENT}:{PASSWORD}@{PROXY}");
        Client::new(program, self.world.directory()).through(&proxy)
    }

    /// The same over SOCKS5, with names that the proxy resolves (`socks5h`) or the client does (`socks5`).
    pub(crate) fn socks_client(&self, program: impl AsRef<OsStr>, scheme: &str) -> Client {
        let proxy = format!("{scheme}://{CLIENT}:{PASSWORD}@{PROXY}");
        Client::new(program, self.world.directory()).through(&proxy)
    }

    /// The client asked for an address over SOCKS5 that is allowed as such, and reached it.
    pub(crate) fn passed_by_address(&mut self) -> Result<()> {
        let (_, record) = self.exeat.audit_record("the address", |(_, r)| {
            r["event"] == "decision" && r["verdict"] == "allow" && r["method"] == "SOCKS5"
        })?;
        ensure!(record["address"].as_str().is_some_and(|a| a.starts_with(LISTED)), "{record}");
        ensure!(record["name"].is_null() && record["principal"]["name"] == CLIENT, "{record}");
        let accepts = self.world.accepts();
        ensure!(accepts > self.accepts, "no origin was reached");
        self.accepts = accepts;
        Ok(())
    }

    /// A WebSocket was opened to [`SOCKET`], and has ended with bytes both ways.
    pub(crate) fn passed_a_websocket(&mut self) -> Result<()> {
        for event in ["decision", "end"] {
            let (_, record) =
                self.exeat.audit_record(event, |(_, r)| r["name"] == SOCKET && r["event"] == event)?;
            ensure!(record["method"] == "GET" && record["verdict"] == "allow", "{record}");
            ensure!(record["status"] == 101 && record["principal"]["name"] == CLIENT, "{record}");
            let moved = |field: &str| record[field].as_u64().is_some_and(|bytes| bytes > 0);
            ensure!(event == "decision" || (moved("bytes_up") && moved("bytes_down")), "{record}");
        }
        Ok(())
    }

    /// The client was refused over SOCKS5 for `reason`: no origin was reached, and the refusal is recorded.
    pub(crate) fn refused_over_socks(&mut self, reason: &str, target: &str) -> Result<()> {
        let before = self.denials;
        let (place, record) = self.exeat.audit_record("the refusal", |(place, r)| {
            *place >= before && r["method"] == "SOCKS5" && r["verdict"] == "deny"
        })?;
        ensure!(record["reason"] == reason && record["target"] == target, "{record}");
        ensure!(self.world.accepts() == self.accepts, "reached {:?}", self.world.reached());
        self.denials = place + 1;
        Ok(())
    }

    /// The client reached `host`, over connections that the product made and recorded, and asked the name server nothing itself.
    pub(crate) fn passed(&mut self, host: &str, event: &str) -> Result<()> {
        let (_, record) = self.exeat.audit_record(host, |(_, r)| {
            r["name"] == host && r["event"] == event && r["verdict"] == "allow"
        })?;
        ensure!(record["principal"]["name"] == CLIENT, "{record}");
        ensure!(record["rule"]["policy"] == CLIENT, "{record}");
        let accepts = self.world.accepts();
        ensure!(accepts > self.accepts, "no origin was reached");
        let reached = self.world.reached();
        self.exeat.audit_until("a record of every connection", |records| {
            reached.iter().all(|address| records.iter().any(|r| r["address"] == address.to_string()))
        })?;
        ensure!(self.world.dns.names().contains(&host.to_owned()));
        self.accepts = accepts;
        Ok(())
    }

    /// The client was refused once or more at `port`: no origin was reached, nobody asked for the name, every refusal is recorded.
    pub(crate) fn refused(&mut self, port: u16) -> Result<()> {
        let before = self.denials;
        let denied = move |r: &serde_json::Value| r["reason"] == "host_not_allowed" && r["port"] == port;
        let (place, record) =
            self.exeat.audit_record("the refusal", |(place, r)| *place >= before && denied(r))?;
        ensure!(
            record["name"] == REFUSED && record["verdict"] == "deny" && record["status"] == 403,
            "{record}"
        );
        ensure!(record["principal"]["name"] == CLIENT, "{record}");
        ensure!(self.world.accepts() == self.accepts, "reached {:?}", self.world.reached());
        ensure!(!self.world.dns.names().contains(&REFUSED.to_owned()), "{:?}", self.world.dns.names());
        self.denials = place + 1;
        Ok(())
    }

    /// Stops the product cleanly and checks that nothing secret is in the audit file.
    pub(crate) fn end(self) -> Result<()> {
        let audit = std::fs::read_to_string(self.world.directory().join("audit.jsonl"))?;
        for secret in [PASSWORD, &password_entry(PASSWORD), "Basic "] {
            ensure!(!audit.contains(secret), "{secret} is in the audit file:\n{audit}");
        }
        self.exeat.stop()
    }
}
