//! The numbers that the product publishes.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

use crate::http::Reply;
use crate::raw::Raw;

/// Where health and metrics are, if the configuration says so (`[api] listen`).
pub const API: &str = "127.0.0.1:9128";

/// Every number of a scrape, by its name and labels as written.
pub type Scrape = BTreeMap<String, f64>;

/// Asks for a path there, such as `GET /healthz`.
///
/// # Errors
/// When no reply comes.
pub fn fetch(line: &str) -> Result<Reply> {
    let address: SocketAddr = API.parse()?;
    Raw::connect(address)?.ask(format!("{line} HTTP/1.1\r\nHost: {API}\r\nConnection: close\r\n\r\n"))
}

/// Reads the metrics.
///
/// # Errors
/// When they do not come, or a line is not a name and a number.
pub fn scrape() -> Result<Scrape> {
    let reply = fetch("GET /metrics")?;
    ensure!(reply.status == 200, "{reply:?}");
    numbers(&String::from_utf8(reply.body)?)
}

fn numbers(text: &str) -> Result<Scrape> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let parse = |line: &str| {
        let (name, value) = line.rsplit_once(' ').with_context(|| format!("no value: {line}"))?;
        Ok((name.to_owned(), value.parse().with_context(|| format!("no number: {line}"))?))
    };
    lines.map(parse).collect()
}
