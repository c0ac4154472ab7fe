//! How long a proxy takes to be ready, what it then holds, and whether anybody notices when it reads its
//! configuration again.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::load::{self, Client, Opened, Tally, Target, Work};
use crate::names;
use crate::origin::HTTP_PORT;
use crate::process;
use crate::record::{Figures, Sheet};

/// A proxy that is not ready by then never will be.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Between two attempts to get through.
const ATTEMPTS: Duration = Duration::from_millis(2);

/// What a start leaves behind is given back by then.
const SETTLE: Duration = Duration::from_millis(500);

/// Clients that are at work during a reload.
const CLIENTS: usize = 16;

/// Work before the first reload and after each.
const BETWEEN_RELOADS: Duration = Duration::from_millis(500);

/// What to start, and what to do with it.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Start {
    #[command(flatten)]
    sheet: Sheet,
    /// What the results call it
    #[arg(long)]
    name: String,
    /// How to reach it
    #[arg(long)]
    via: String,
    /// How many rules it has; the name of the last one is asked for
    #[arg(long)]
    rules: u64,
    #[arg(long)]
    round: u32,
    /// Where `ca.pem` is
    #[arg(long)]
    certificates: PathBuf,
    /// A shell command that has it read its configuration again and ends when it has
    #[arg(long)]
    reload: Option<String>,
    /// How often
    #[arg(long, default_value_t = 3)]
    reloads: u32,
    /// Where its standard error goes
    #[arg(long)]
    log: PathBuf,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Starts the proxy, measures, and ends it.
///
/// # Errors
/// If it cannot be started or is never ready.
pub(crate) async fn run(start: &Start) -> Result<()> {
    let began = Instant::now();
    let mut proxy = Running::spawn(start)?;
    let target = Target {
        name: start.name.clone(),
        via: start.via.parse()?,
        pid: proxy.0.id(),
        rules: start.rules,
        credentials: load::basic_credentials(),
    };
    let client = Client::new(&target, &start.certificates)?;
    let last = names::listed(start.rules.saturating_sub(1));
    while !matches!(client.tunnel(&last, HTTP_PORT).await, Ok(Opened::Tunnel(_))) {
        ensure!(proxy.0.try_wait()?.is_none(), "{} ended; see {}", start.name, start.log.display());
        ensure!(began.elapsed() < READY_TIMEOUT, "{} is not ready", start.name);
        tokio::time::sleep(ATTEMPTS).await;
    }
    let mut figures = Figures { units: 1, seconds: began.elapsed().as_secs_f64(), ..Figures::default() };
    figures.set("ready_s", figures.seconds);
    figures.set("ready_cpu_s", process::cpu(target.pid).total());
    tokio::time::sleep(SETTLE).await;
    figures.set("memory_mib", process::memory_kib(target.pid) as f64 / 1024.0);
    if let Some(command) = &start.reload {
        reload(start, command, client, &target, &mut figures).await?;
    }
    start.sheet.add(&start.name, start.round, figures)
}

async fn reload(
    start: &Start,
    command: &str,
    client: Client,
    target: &Target,
    figures: &mut Figures,
) -> Result<()> {
    let tally = Arc::new(Tally::new(client, Work::Connect.names(target.rules, 1000)));
    let clients: Vec<_> =
        (0..CLIENTS).map(|_| tokio::spawn(Work::Connect.repeat(Arc::clone(&tally)))).collect();
    tally.begin();
    tokio::time::sleep(BETWEEN_RELOADS).await;
    let mut slowest: f64 = 0.0;
    for _ in 0..start.reloads {
        let (began, command) = (Instant::now(), command.to_owned());
        let run = move || Command::new("sh").args(["-c", &command]).stdout(Stdio::null()).status();
        let status = tokio::task::spawn_blocking(run).await?.context("run the reload command")?;
        if !status.success() {
            tally.note("the reload failed");
        }
        slowest = slowest.max(began.elapsed().as_secs_f64());
        tokio::time::sleep(BETWEEN_RELOADS).await;
    }
    figures.units = tally.end();
    for client in clients {
        client.await?;
    }
    tokio::time::sleep(SETTLE).await;
    figures.set("reload_s", slowest);
    figures.set("reloaded_memory_mib", process::memory_kib(target.pid) as f64 / 1024.0);
    for (name, microseconds) in tally.latencies() {
        figures.set(name, microseconds);
    }
    figures.errors = tally.errors();
    figures.set("reload_errors", figures.error_count() as f64);
    Ok(())
}

/// A process that ends with the value.
struct Running(Child);

impl Running {
    fn spawn(start: &Start) -> Result<Self> {
        let (program, arguments) = start.command.split_first().context("no command")?;
        let log = std::fs::File::create(&start.log)?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {program}"))?;
        Ok(Self(child))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
        drop(self.0.wait());
    }
}
