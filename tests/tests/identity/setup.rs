//! What the configurations have, and what is answered.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use exeat_tests::client::Client;
use exeat_tests::exeat::{Exeat, binary};
use exeat_tests::fixture::{PASSWORD, password_entry, request_with};
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::Raw;
use exeat_tests::world::{GREETING, World};
use serde_json::Value;

/// Where clients of the scenarios are.
pub(crate) const BATCH: &str = "93.184.216.101:0";

pub(crate) const FACTOR: &str = "93.184.216.102:0";

pub(crate) const NOWHERE: &str = "93.184.216.103:0";

/// What every configuration here has, besides its workloads.
pub(crate) fn config(proxy: &str, rest: &str) -> String {
    let password = password_entry(PASSWORD);
    format!(
        "[proxy]
{proxy}
[audit]
file = \"AUDIT\"
[api]
socket = \"admin.sock\"
[policy.web]
allow = [\"example.com\", \"*.example.org:25\"]
[client.app]
passwords = [\"{password}\"]
policies = [\"web\"]
{rest}"
    )
}

pub(crate) fn listen() -> String {
    format!("listen = [\"{PROXY}\"]")
}

/// The status, the reason if it is a refusal, and the name of the principal in the record.
pub(crate) type Answer = (u16, Option<String>);

pub(crate) fn get_from(source: &str, proxy: SocketAddr, fields: &str) -> Result<Answer> {
    let mut client = Raw::from(source.parse()?, proxy)?;
    let reply = client.ask(request_with("GET http://example.com/", fields))?;
    Ok((reply.status, reply.head.field("x-deny-reason").map(str::to_owned)))
}

pub(crate) fn get_at(source: &str, fields: &str) -> Result<Answer> {
    get_from(source, PROXY.parse()?, fields)
}

pub(crate) fn ok() -> Answer {
    (200, None)
}

pub(crate) fn denied(status: u16, reason: &str) -> Answer {
    (status, Some(reason.to_owned()))
}

pub(crate) fn reload(world: &World, config: &str) -> Result<()> {
    Exeat::write_config(world.directory(), config)?;
    let outcome = exeat_says(world, &["reload", "--socket", "admin.sock"])?;
    ensure!(outcome.code == 0, "{outcome:?}");
    Ok(())
}

/// The first record that is as `wanted`, once there is one.
pub(crate) fn record_of(exeat: &mut Exeat, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let records = exeat.audit_until(what, |records| records.iter().any(&wanted))?;
    records.into_iter().find(|record| wanted(record)).context("a record")
}

/// Whether users besides our own have numbers in this user namespace.
pub(crate) fn has_other_users() -> Result<bool> {
    let map = fs::read_to_string("/proc/self/uid_map")?;
    let count = map.split_whitespace().nth(2).and_then(|count| count.parse::<u64>().ok());
    Ok(count.is_some_and(|count| count > 20_000))
}

pub(crate) const LOOPBACK: &str = "127.0.0.1:3130";

/// Workloads that are somebody else, of whom nobody is here; and everybody else is let in.
pub(crate) const OTHERS: &str = "[workload.other]\nuid = 12345\npolicies = [\"web\"]\n\
                      [workload.group]\ncgroup = \"/nobody.slice\"\npolicies = [\"web\"]\n";

pub(crate) fn let_in(rest: &str) -> String {
    config(&format!("listen = [\"{PROXY}\", \"{LOOPBACK}\", \"unix:s\"]\nanonymous = \"web\""), rest)
}

/// What is answered to a request on a new connection to the unix socket at `path`.
pub(crate) fn ask_unix(path: &Path) -> Result<String> {
    ask_unix_with(path, "")
}

pub(crate) fn ask_unix_with(path: &Path, fields: &str) -> Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let fields = format!("{fields}Connection: close\r\n");
    stream.write_all(request_with("GET http://example.com/", &fields).as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// An open tunnel from `source` to a server that has spoken first.
pub(crate) fn tunnel(source: &str, fields: &str) -> Result<Raw> {
    let mut tunnel = Raw::from(source.parse()?, PROXY.parse()?)?;
    let reply = tunnel.ask(request_with("CONNECT www.example.org:25", fields))?;
    ensure!(reply.status == 200, "{source}: {reply:?}");
    ensure!(tunnel.exactly(GREETING.len())? == GREETING.as_bytes());
    Ok(tunnel)
}

pub(crate) fn exeat_says(world: &World, args: &[&str]) -> Result<exeat_tests::client::Outcome> {
    Client::new(binary()?, world.directory()).args(args).run()
}
