//! The fixture of the cases, and the assertions that they share.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use exeat_tests::dns::Entry;
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{PASSWORD, configuration, password_entry, request};
use exeat_tests::http::{Reply, Request};
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::Raw;
use exeat_tests::world::World;
use serde_json::Value;

use crate::tokens::ISSUER;

/// What the client may reach unless a case says otherwise.
pub(crate) const POLICY: &str = r#"
allow = ["example.com", "*.example.org", "cdn.example.net:8443"]
deny = ["bad.example.org"]
"#;

/// One case: its id, the policy it runs under, and what it does.
pub(crate) struct Case {
    /// As in the list.
    pub(crate) id: &'static str,
    /// Why the outcome asserted here is not the one in the list.
    pub(crate) differs: Option<&'static str>,
    policy: &'static str,
    extra: &'static str,
    act: fn(&mut Stage) -> Result<()>,
}

/// A case under the standard policy.
pub(crate) const fn case(id: &'static str, act: fn(&mut Stage) -> Result<()>) -> Case {
    Case { id, differs: None, policy: POLICY, extra: "", act }
}

impl Case {
    /// Replaces the body of the client's policy.
    pub(crate) const fn policy(mut self, policy: &'static str) -> Self {
        self.policy = policy;
        self
    }

    /// Adds sections to the configuration.
    pub(crate) const fn with(mut self, extra: &'static str) -> Self {
        self.extra = extra;
        self
    }

    /// Says in what, and why, the assertion differs from the list.
    pub(crate) const fn differs(mut self, why: &'static str) -> Self {
        self.differs = Some(why);
        self
    }

    /// Starts the world and the product, runs the case, and stops the product cleanly.
    pub(crate) fn run(&self) -> Result<()> {
        let mut stage = Stage::new(self.policy, self.extra)?;
        (self.act)(&mut stage)?;
        stage.exeat.stop()
    }
}

/// The status, reason and look-ups of a refusal.
#[derive(Clone, Copy)]
pub(crate) struct Refusal {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The `x-deny-reason`.
    pub(crate) reason: &'static str,
    /// The names that may be looked up on the way to it.
    pub(crate) names: &'static [&'static str],
}

/// A refusal before any look-up.
pub(crate) const fn refusal(status: u16, reason: &'static str) -> Refusal {
    Refusal { status, reason, names: &[] }
}

/// A refusal of what `names` resolve to.
pub(crate) const fn refused_address(names: &'static [&'static str]) -> Refusal {
    Refusal { status: 403, reason: "address_not_allowed", names }
}

/// A world, and the product in it.
pub(crate) struct Stage {
    /// Origins and name server.
    pub(crate) world: World,
    /// The product.
    pub(crate) exeat: Exeat,
    /// The places, in the audit file, of the records that earlier steps of this case have accounted for.
    accounted: Vec<usize>,
}

impl Stage {
    fn new(policy: &str, extra: &str) -> Result<Self> {
        let world = World::serving(Arc::new(answer))?;
        let config = fill_in(&configuration(policy, extra));
        let exeat = Exeat::serve(world.directory(), &config, PROXY)?;
        Ok(Self { world, exeat, accounted: Vec::new() })
    }

    /// Says what a name resolves to.
    pub(crate) fn resolves(&self, name: &str, addresses: &[&str]) {
        self.world.dns.set(name, Entry::addresses(addresses));
    }

    /// Waits for an audit record that is as `wanted` says and that no earlier step has accounted for.
    pub(crate) fn record(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let accounted = &self.accounted;
        let fresh = |(place, record): &(usize, Value)| !accounted.contains(place) && wanted(record);
        let (place, record) = self.exeat.audit_record(what, fresh)?;
        self.accounted.push(place);
        Ok(record)
    }

    /// Sends a request and asserts that it is refused as `want`, that nothing was reached, and that the record says why.
    pub(crate) fn refuses_bytes(&mut self, request: impl AsRef<[u8]>, want: Refusal) -> Result<Reply> {
        let mut client = Raw::proxy()?;
        self.refuses_on(&mut client, request, want)
    }

    /// The same on an open connection.
    pub(crate) fn refuses_on(
        &mut self,
        client: &mut Raw,
        request: impl AsRef<[u8]>,
        want: Refusal,
    ) -> Result<Reply> {
        let request = request.as_ref();
        let shown =
            String::from_utf8_lossy(request.get(..request.len().min(120)).unwrap_or_default()).into_owned();
        let accepts = self.world.accepts();
        let asked = self.world.dns.queries().len();
        let reply = client.ask(request).with_context(|| format!("refusal of {shown:?}"))?;
        self.check_refusal(&reply, want).with_context(|| format!("refusal of {shown:?}"))?;
        ensure!(self.world.accepts() == accepts, "{shown:?} reached {:?}", self.world.reached());
        let queries = self.world.dns.queries().split_off(asked);
        ensure!(
            queries.iter().all(|q| want.names.contains(&q.name.as_str())),
            "{shown:?} asked for {queries:?}"
        );
        for name in want.names {
            ensure!(queries.iter().any(|q| q.name == *name), "{shown:?} did not ask for {name}: {queries:?}");
        }
        Ok(reply)
    }

    /// The reply itself, and the record of it.
    pub(crate) fn check_refusal(&mut self, reply: &Reply, want: Refusal) -> Result<()> {
        let got = (reply.status, reply.head.field("x-deny-reason").unwrap_or("none"));
        ensure!(got == (want.status, want.reason), "want {} {}, got {reply:?}", want.status, want.reason);
        let phrase = reply.phrase();
        ensure!(phrase.contains(&format!(": {}", want.reason)), "reason phrase {phrase:?}");
        ensure!(want.status != 403 || phrase.starts_with("egress denied: "), "reason phrase {phrase:?}");
        ensure!(
            phrase.len() <= 120 && phrase.bytes().all(|b| (b' '..=b'~').contains(&b)),
            "phrase {phrase:?}"
        );
        ensure!(reply.head.field("proxy-status").is_some_and(|v| v.contains("error=")), "{reply:?}");
        ensure!((want.status == 407) == reply.head.field("proxy-authenticate").is_some(), "{reply:?}");
        serde_json::from_slice::<Value>(&reply.body)
            .with_context(|| format!("the body is JSON: {reply:?}"))?;
        let record = self.record("the refusal", |r| r["reason"] == want.reason)?;
        // Where something behind the decision failed, the record keeps the decision.
        let verdict = if matches!(want.status, 502 | 504) { "allow" } else { "deny" };
        ensure!(record["verdict"] == verdict && record["status"] == want.status, "record {record}");
        Ok(())
    }

    /// A request line with a `Host` that agrees, and credentials, is refused.
    pub(crate) fn refuses(&mut self, line: &str, want: Refusal) -> Result<()> {
        self.refuses_bytes(request(line), want)?;
        Ok(())
    }

    /// `CONNECT target` is refused.
    pub(crate) fn refuses_connect(&mut self, target: &str, want: Refusal) -> Result<()> {
        self.refuses(&format!("CONNECT {target}"), want)
    }

    /// Each `CONNECT` is refused in the same way.
    pub(crate) fn refuses_each(&mut self, targets: &[&str], want: Refusal) -> Result<()> {
        targets.iter().try_for_each(|target| self.refuses_connect(target, want))
    }

    /// Opens a tunnel: a legal 200 (RFC 9110 section 9.3.6), and a record that says so.
    pub(crate) fn opens(&mut self, target: &str) -> Result<Raw> {
        let mut client = Raw::proxy()?;
        let reply = client.ask(request(&format!("CONNECT {target}")))?;
        ensure!(reply.status == 200, "CONNECT {target}: {reply:?}");
        for forbidden in ["content-length", "transfer-encoding"] {
            ensure!(reply.head.field(forbidden).is_none(), "a 200 to CONNECT has {forbidden}: {reply:?}");
        }
        let record = self.record("the decision", |r| r["event"] == "decision")?;
        ensure!(record["verdict"] == "allow" && record["status"] == 200, "record {record}");
        Ok(client)
    }

    /// Opens a tunnel and speaks TLS and HTTP through it, to an origin at an address that the name server gives for the host.
    pub(crate) fn reaches_tls(&mut self, target: &str) -> Result<()> {
        let (host, _) = target.rsplit_once(':').context("host:port")?;
        let host = host.to_ascii_lowercase();
        let before = self.world.reached();
        let tunnel = self.opens(target)?;
        let mut session = self.world.authority.connect(&host, tunnel)?;
        let reply =
            exchange(&mut session, &format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))?;
        ensure!(reply.status == 200 && reply.body == format!("hello from {host}\n").as_bytes(), "{reply:?}");
        let addresses = self.world.dns.addresses(&host);
        let mut reached = self.world.reached();
        reached.retain(|address| !before.contains(address));
        ensure!(
            reached.iter().all(|address| addresses.contains(&address.ip())),
            "reached {reached:?}, not {addresses:?}"
        );
        drop(session);
        let end = self.record("the end", |r| r["event"] == "end")?;
        ensure!(end["bytes_up"].as_u64() > Some(0) && end["bytes_down"].as_u64() > Some(0), "record {end}");
        Ok(())
    }

    /// A GET through the proxy that succeeds.
    pub(crate) fn gets(&mut self, url: &str) -> Result<Reply> {
        let mut client = Raw::proxy()?;
        self.passes_on(&mut client, request(&format!("GET {url}")))
    }

    /// A request on an open connection that succeeds.
    pub(crate) fn passes_on(&mut self, client: &mut Raw, request: impl AsRef<[u8]>) -> Result<Reply> {
        let reply = client.ask(request)?;
        ensure!(reply.status == 200, "{reply:?}");
        let record = self.record("the request", |r| r["event"] == "request" && r["reason"].is_null())?;
        ensure!(record["verdict"] == "allow" && record["status"] == 200, "record {record}");
        Ok(reply)
    }

    /// Opens a tunnel to `target`, sends `opening`, and asserts that the tunnel is closed for one of `reasons` before a byte
    /// went upstream. Returns what the client got before the close.
    pub(crate) fn closes(&mut self, target: &str, opening: &[u8], reasons: &[&str]) -> Result<Vec<u8>> {
        let before = self.world.https.seen().len();
        let mut tunnel = self.opens(target)?;
        tunnel.send(opening)?;
        let rest = tunnel.rest()?;
        drop(tunnel);
        self.record("the close", |r| r["reason"].as_str().is_some_and(|r| reasons.contains(&r)))?;
        let seen = self.world.https.seen().split_off(before);
        ensure!(seen.iter().all(|seen| seen.received.is_empty()), "bytes went upstream: {seen:?}");
        Ok(rest)
    }

    /// Opens a tunnel to `target` and asserts that `opening` arrives unchanged.
    pub(crate) fn carries(&mut self, target: &str, opening: &[u8]) -> Result<()> {
        let mut tunnel = self.opens(target)?;
        tunnel.send(opening)?;
        self.world.https.wait("the opening", |seen| seen.iter().any(|s| s.received == opening))?;
        Ok(())
    }
}

/// Puts what differs from run to run in its place: another client's password, and the key of an issuer of tokens.
fn fill_in(config: &str) -> String {
    let config = config.replace("OTHER_PASSWORD", &password_entry(PASSWORD));
    if config.contains("ISSUER_KEY") { config.replace("ISSUER_KEY", &ISSUER.inline()) } else { config }
}

/// What the origins of the cases answer: a redirect to the attacker on one path, a greeting on the others.
fn answer(request: &Request) -> Reply {
    match request.path() {
        "/redirect" => Reply::new(302, "").with("Location", "http://evil.test/?d=secret"),
        _ => Reply::new(200, format!("hello from {}\n", request.host())),
    }
}

/// Sends a request over any stream and reads the reply.
pub(crate) fn exchange(stream: &mut (impl std::io::Read + std::io::Write), request: &str) -> Result<Reply> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let method = request.split(' ').next().unwrap_or_default();
    Ok(Reply::read(&mut std::io::BufReader::new(stream), method)?)
}
