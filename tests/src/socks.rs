//! A SOCKS5 client (RFC 1928, RFC 1929) that says exactly the requests it is given.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail, ensure};

use crate::raw::Raw;

/// A request for a connection to `name`, which may be any bytes; 255 at most.
#[must_use]
pub fn to_name(name: &[u8], port: u16) -> Vec<u8> {
    let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
    [&[5, 1, 0, 3, length], name, &port.to_be_bytes()].concat()
}

/// A request for a connection to an address.
#[must_use]
pub fn to_address(address: SocketAddr) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(ip) => [&[5, 1, 0, 1], &ip.octets()[..], &port].concat(),
        IpAddr::V6(ip) => [&[5, 1, 0, 4], &ip.octets()[..], &port].concat(),
    }
}

/// Connects to the proxy under test and proves who it is.
///
/// # Errors
/// When the proxy does not take the login.
pub fn log_in(user: &str, password: &str) -> Result<Raw> {
    let mut client = Raw::proxy()?;
    client.send([5, 1, 2])?;
    ensure!(client.exactly(2)? == [5, 2], "the password method is not chosen");
    let field =
        |text: &str| -> Result<Vec<u8>> { Ok([&[u8::try_from(text.len())?], text.as_bytes()].concat()) };
    client.send([vec![1], field(user)?, field(password)?].concat())?;
    ensure!(client.exactly(2)? == [1, 0], "the login is refused");
    Ok(client)
}

/// Reads a reply whole and returns its code.
///
/// # Errors
/// When it does not come, or is none.
pub fn reply(client: &mut Raw) -> Result<u8> {
    let head = client.exactly(4)?;
    let [5, code, 0, kind] = head[..] else { bail!("the reply begins with {head:?}") };
    match kind {
        1 => client.exactly(4 + 2)?,
        4 => client.exactly(16 + 2)?,
        other => bail!("a reply with address type {other}"),
    };
    Ok(code)
}

/// Logs in, sends a request and returns the connection and the reply's code.
///
/// # Errors
/// When no reply comes.
pub fn ask(user: &str, password: &str, request: &[u8]) -> Result<(Raw, u8)> {
    let mut client = log_in(user, password)?;
    client.send(request)?;
    let code = reply(&mut client)?;
    Ok((client, code))
}
