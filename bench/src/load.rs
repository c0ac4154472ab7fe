//! The load generator: as many clients as asked for, each of which does one piece of work after the other.

mod client;
mod http2;
mod idle;
mod socks5;
mod stand_in;
mod tally;
mod via;
mod work;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

pub(crate) use client::{Client, Opened};
pub(crate) use tally::Tally;
pub(crate) use via::Via;
pub(crate) use work::Work;

use crate::process;
use crate::record::Figures;

/// The one client of every proxy, and its password.
pub(crate) const USER: &str = "bench";
/// See [`USER`].
pub(crate) const PASSWORD: &str = "bench-password";

/// Listed names that requests ask for in turn: more than a processor keeps close, fewer than a resolver remembers.
const NAMES: u64 = 1000;

/// How long clients may take to notice that the run is over.
const END: Duration = Duration::from_secs(2);

/// The value of `Proxy-Authorization` for [`USER`].
pub(crate) fn basic_credentials() -> String {
    format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")))
}

/// A proxy, or the way without one.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// What the results call it.
    pub(crate) name: String,
    /// How to reach it.
    pub(crate) via: Via,
    /// Its process; 0 if there is none.
    pub(crate) pid: u32,
    /// How many rules it was given.
    pub(crate) rules: u64,
    /// The value of `Proxy-Authorization`.
    pub(crate) credentials: String,
}

/// How a piece of work is run.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// What the clients do
    #[arg(long, value_enum)]
    pub(crate) work: Work,
    /// How many clients there are; with `idle`, how many open tunnels at one time
    #[arg(long, short, default_value_t = 64)]
    pub(crate) clients: usize,
    /// Seconds that are measured
    #[arg(long, default_value_t = 1.5)]
    pub(crate) seconds: f64,
    /// Seconds before that
    #[arg(long, default_value_t = 0.4)]
    pub(crate) warm_up: f64,
    /// The number of tunnels of `idle`
    #[arg(long, default_value_t = 9000)]
    pub(crate) tunnels: usize,
    /// Where `ca.pem` is
    #[arg(long)]
    pub(crate) certificates: PathBuf,
}

/// Does the work once through one target and returns what it cost.
///
/// # Errors
/// If there are no certificates. What goes wrong on the way is counted in the figures.
pub(crate) async fn run(target: &Target, options: &Options) -> Result<Figures> {
    let client = Client::new(target, &options.certificates)?;
    let names = options.work.names(target.rules, NAMES);
    let tally = Arc::new(Tally::new(client, names));
    let mut figures = if options.work == Work::Idle {
        idle::run(&tally, target.pid, options).await
    } else {
        measure(&tally, target, options).await
    };
    figures.errors = tally.errors();
    Ok(figures)
}

async fn measure(tally: &Arc<Tally>, target: &Target, options: &Options) -> Figures {
    let clients: Vec<_> =
        (0..options.clients).map(|_| tokio::spawn(options.work.repeat(Arc::clone(tally)))).collect();
    tokio::time::sleep(Duration::from_secs_f64(options.warm_up)).await;
    let (began, cpu) = (Instant::now(), process::cpu(target.pid));
    tally.begin();
    tokio::time::sleep(Duration::from_secs_f64(options.seconds)).await;
    let units = tally.end();
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), process::cpu(target.pid).since(cpu));
    for client in clients {
        let stop = client.abort_handle();
        if tokio::time::timeout(END, client).await.is_err() {
            stop.abort();
            tally.note("hangs at the end");
        }
    }
    let mut figures = Figures { units, seconds, ..Figures::default() };
    let each = units as f64 / options.work.units_of_one();
    figures.set("rate", each / seconds);
    if target.pid != 0 && units > 0 {
        figures.set("cpu_us", cpu.total() * 1e6 / each);
        figures.set("system_share", cpu.system / cpu.total());
        figures.set("memory_kib", process::memory_kib(target.pid) as f64);
    }
    for (name, microseconds) in tally.latencies() {
        figures.set(name, microseconds);
    }
    figures
}
