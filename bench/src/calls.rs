//! System calls of one connection, as `strace` counts them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::load::{self, Client, Tally, Target, Work};
use crate::record::{Figures, Sheet};

/// Connections before the count, so that nothing is done for the first time in it.
const BEFORE: u32 = 200;

/// Clients at one time: calls that wait for many events are shared, as they are under load.
const CLIENTS: u32 = 4;

/// Until every thread is traced.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(5);

/// What to count.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Count {
    #[command(flatten)]
    sheet: Sheet,
    /// What the results call it
    #[arg(long)]
    name: String,
    /// How to reach it
    #[arg(long)]
    via: String,
    /// Its process
    #[arg(long)]
    pid: u32,
    /// How many connections are counted
    #[arg(long, default_value_t = 2000)]
    connections: u32,
    /// Where `ca.pem` is
    #[arg(long)]
    certificates: PathBuf,
    /// Where `strace` writes
    #[arg(long)]
    table: PathBuf,
}

/// Counts the calls of a number of connections and writes down how many each of them took.
///
/// # Errors
/// If the process cannot be traced, or a connection fails.
pub(crate) async fn run(count: &Count) -> Result<()> {
    let target = Target {
        name: count.name.clone(),
        via: count.via.parse()?,
        pid: count.pid,
        rules: 10,
        credentials: load::basic_credentials(),
    };
    let client = Client::new(&target, &count.certificates)?;
    let tally = Arc::new(Tally::new(client, Work::Connect.names(target.rules, 10)));
    connect(&tally, BEFORE).await?;
    let strace = attach(count).await?;
    connect(&tally, count.connections).await?;
    detach(strace)?;
    let mut figures = Figures { units: count.connections.into(), ..Figures::default() };
    let calls = parse(&fs::read_to_string(&count.table)?);
    figures.set("calls", calls.values().sum::<u64>() as f64 / f64::from(count.connections));
    for (name, calls) in calls {
        figures.set(&format!("call {name}"), calls as f64 / f64::from(count.connections));
    }
    count.sheet.add(&count.name, 1, figures)
}

async fn connect(tally: &Arc<Tally>, connections: u32) -> Result<()> {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let tally = Arc::clone(tally);
            tokio::spawn(async move {
                for _ in 0..connections / CLIENTS {
                    Work::Connect.once(&tally).await?;
                }
                std::io::Result::Ok(())
            })
        })
        .collect();
    for client in clients {
        client.await??;
    }
    Ok(())
}

async fn attach(count: &Count) -> Result<Child> {
    let strace = Command::new("strace")
        .args(["-c", "-f", "-q", "-p", &count.pid.to_string(), "-o"])
        .arg(&count.table)
        .stderr(Stdio::null())
        .spawn()
        .context("run strace")?;
    let began = Instant::now();
    while !is_traced(count.pid)? {
        ensure!(began.elapsed() < ATTACH_TIMEOUT, "{} cannot be traced", count.name);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(strace)
}

fn is_traced(pid: u32) -> Result<bool> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        if status.lines().any(|line| line == "TracerPid:\t0") {
            return Ok(false);
        }
    }
    Ok(true)
}

fn detach(mut strace: Child) -> Result<()> {
    kill(Pid::from_raw(strace.id().try_into()?), Signal::SIGINT)?;
    strace.wait()?;
    Ok(())
}

/// Reads the table: share, seconds, microseconds a call, calls, errors if there are any, name.
fn parse(table: &str) -> BTreeMap<String, u64> {
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let calls = fields.get(3)?.parse().ok()?;
        let name = fields.last().filter(|name| **name != "total")?;
        Some(((*name).to_owned(), calls))
    };
    table.lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_with_and_without_errors() {
        let table = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.010000           5      2000           sendto
 40.00    0.008000           4      2100       100 recvfrom
------ ----------- ----------- --------- --------- ----------------
100.00    0.018000           4      4100       100 total
";
        let want = [("recvfrom".to_owned(), 2100), ("sendto".to_owned(), 2000)];
        assert_eq!(parse(table), want.into());
    }
}
