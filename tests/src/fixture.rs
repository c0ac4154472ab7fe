//! One client with one policy, and requests in its name.

use sha2::{Digest, Sha256};

use anyhow::{Result, ensure};

use crate::http::Reply;
use crate::namespace::PROXY;
use crate::raw::{Raw, authorization};
use crate::world::GREETING;

/// The client's name; its policy has the same.
pub const CLIENT: &str = "app";
/// The client's password.
pub const PASSWORD: &str = "correct-horse-battery-staple-0123";

/// A generated password as the configuration wants it.
#[must_use]
pub fn password_entry(password: &str) -> String {
    let digest = Sha256::digest(password.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A configuration in which `policy` is the body of the client's policy, from line 7 on, and `extra` follows.
#[must_use]
pub fn configuration(policy: &str, extra: &str) -> String {
    let password = password_entry(PASSWORD);
    format!(
        "# A comment of the operator.
[proxy]
listen = [\"{PROXY}\"]
[audit]
file = \"AUDIT\"
[policy.{CLIENT}]
{policy}
[client.{CLIENT}]
passwords = [\"{password}\"]
policies = [\"{CLIENT}\"]
{extra}"
    )
}

/// The client's credentials as a header line.
#[must_use]
pub fn auth() -> String {
    authorization(CLIENT, PASSWORD)
}

/// A request without a body: the line, a `Host` that agrees with it, and the client's credentials.
#[must_use]
pub fn request(line: &str) -> String {
    request_with(line, &auth())
}

/// The same with other fields than the client's credentials, each with its line end.
#[must_use]
pub fn request_with(line: &str, fields: &str) -> String {
    let target = line.split_once(' ').map_or(line, |(_, rest)| rest);
    let host = target.split_once("://").map_or(target, |(_, rest)| rest);
    let host = host.split(['/', '?', '#']).next().unwrap_or_default();
    format!("{line} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")
}

/// Sends a request of the client on a connection of its own; returns both, so that a tunnel can be used.
///
/// # Errors
/// When no reply comes.
pub fn ask(line: &str) -> Result<(Raw, Reply)> {
    let mut client = Raw::proxy()?;
    let reply = client.ask(request(line))?;
    Ok((client, reply))
}

/// The status and the reason, if it is a refusal, of a GET for `http://<rest>`.
///
/// # Errors
/// When no reply comes.
pub fn get(rest: &str) -> Result<(u16, Option<String>)> {
    let (_, reply) = ask(&format!("GET http://{rest}"))?;
    Ok((reply.status, reply.head.field("x-deny-reason").map(str::to_owned)))
}

/// An open tunnel of the client to port 25 of the host, where a server has spoken first.
///
/// # Errors
/// When it is refused, or the server says something else.
pub fn tunnel(host: &str) -> Result<Raw> {
    let (mut tunnel, reply) = ask(&format!("CONNECT {host}:25"))?;
    ensure!(reply.status == 200, "{host}: {reply:?}");
    ensure!(tunnel.exactly(GREETING.len())? == GREETING.as_bytes());
    Ok(tunnel)
}

/// Sends something through a [`tunnel`], which comes back.
///
/// # Errors
/// When it does not.
pub fn echoes(tunnel: &mut Raw) -> Result<()> {
    tunnel.send("are you there")?;
    ensure!(tunnel.exactly(13)? == b"are you there");
    Ok(())
}
