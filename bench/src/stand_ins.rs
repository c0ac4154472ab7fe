//! The memory of addresses that stand for names: so many clients, each with so many names.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use exeat_dns::{Meaning, Ranges, VirtualNames};
use exeat_model::DnsName;

use crate::process;
use crate::record::{Figures, Sheet};

/// Measure what addresses that stand for names take.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct StandIns {
    #[command(flatten)]
    sheet: Sheet,
    /// How many clients
    #[arg(long, default_value_t = 100)]
    clients: usize,
    /// How many names of each, the same for all
    #[arg(long, default_value_t = 100_000)]
    names: usize,
    /// The round
    #[arg(long)]
    round: u32,
}

/// Fills a table as questions would, and writes down the memory (PSS) that this process has taken for it.
///
/// # Errors
/// If an address does not mean its name, or the results cannot be written.
pub(crate) fn run(options: &StandIns) -> Result<()> {
    let own = std::process::id();
    let now = Instant::now();
    let clients: Vec<Arc<str>> = (0..options.clients).map(|n| format!("client-{n}").into()).collect();
    let name = |n: usize| DnsName::parse(&format!("host-{n}.example.com"));
    let before = process::memory_kib(own);
    let table = VirtualNames::new(Ranges::default(), now);
    let began = Instant::now();
    for client in &clients {
        for n in 0..options.names {
            table.assign(client, &name(n)?, now)?;
        }
    }
    let took = began.elapsed();
    let memory = process::memory_kib(own).saturating_sub(before);
    let count = options.clients * options.names;
    ensure!(table.assigned() == count, "{} of {count} have an address", table.assigned());
    let (client, last) = (clients.last().context("a client")?, name(options.names - 1)?);
    let address = table.assign(client, &last, now)?;
    let meaning = table.meaning(client, IpAddr::V6(address.v6), now);
    ensure!(meaning == Meaning::Name(last), "{address:?} means {meaning:?}");
    let mut figures =
        Figures { units: u64::try_from(count)?, seconds: took.as_secs_f64(), ..Figures::default() };
    figures.set("memory_mib", memory as f64 / 1024.0);
    figures.set("assign_ns", took.as_secs_f64() * 1e9 / count as f64);
    options.sheet.add("exeat", options.round, figures)
}
