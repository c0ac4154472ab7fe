//! Tunnels that are opened, left alone, used once, left alone, and closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;

use crate::load::client::Stream;
use crate::load::work::tunnel;
use crate::load::{Options, Tally};
use crate::origin::ECHO_PORT;
use crate::process;
use crate::record::Figures;
use crate::socket::{failed, skip};

/// Bytes that go through each tunnel and back.
const TOUCH_BYTES: usize = 16 * 1024;

/// After each step the process gets this long to give back what it wants to give back.
const SETTLE: Duration = Duration::from_millis(1500);

/// How long one tunnel may take to send back what it was sent.
const TOUCH_TIMEOUT: Duration = Duration::from_secs(5);

/// A client that fails this often does not open any more.
const FAILURES_MAX: usize = 20;

/// Returns what the process holds for each tunnel, and what it keeps when all are closed.
pub(crate) async fn run(tally: &Arc<Tally>, pid: u32, options: &Options) -> Figures {
    let memory = || process::memory_kib(pid) as f64;
    let before = memory();
    let (began, cpu) = (Instant::now(), process::cpu(pid));
    let mut tunnels = open(tally, options).await;
    let seconds = began.elapsed().as_secs_f64();
    let opening = process::cpu(pid).since(cpu);
    let count = (tunnels.len() as f64).max(1.0);
    tokio::time::sleep(SETTLE).await;
    let idle = memory();
    let (began, cpu) = (Instant::now(), process::cpu(pid));
    tokio::time::sleep(Duration::from_secs_f64(options.seconds)).await;
    let idling = process::cpu(pid).since(cpu).total() / began.elapsed().as_secs_f64();
    touch(tally, &mut tunnels).await;
    tokio::time::sleep(SETTLE).await;
    let touched = memory();
    let opened = tunnels.len() as u64;
    drop(tunnels);
    tokio::time::sleep(SETTLE).await;
    if opened != options.tunnels as u64 {
        tally.note("tunnels are missing");
    }

    let mut figures = Figures { units: opened, seconds, ..Figures::default() };
    figures.set("process_mib", before / 1024.0);
    figures.set("idle_kib", (idle - before) / count);
    figures.set("touched_kib", (touched - before) / count);
    figures.set("kept_mib", memory() / 1024.0);
    figures.set("idle_cpu_ms_per_s", idling * 1e3);
    figures.set("cpu_us", opening.total() * 1e6 / count);
    figures
}

async fn open(tally: &Arc<Tally>, options: &Options) -> Vec<Stream> {
    let taken = Arc::new(AtomicUsize::new(0));
    let wanted = options.tunnels;
    let clients: Vec<_> = (0..options.clients)
        .map(|_| {
            let (tally, taken) = (Arc::clone(tally), Arc::clone(&taken));
            tokio::spawn(async move {
                let (mut opened, mut failures) = (Vec::new(), 0);
                while failures < FAILURES_MAX && taken.fetch_add(1, Ordering::Relaxed) < wanted {
                    match tunnel(&tally, tally.name(), ECHO_PORT).await {
                        Ok(stream) => opened.push(stream),
                        Err(error) => {
                            failures += 1;
                            tally.fail(error).await;
                        }
                    }
                }
                opened
            })
        })
        .collect();
    let mut all = Vec::new();
    for client in clients {
        match client.await {
            Ok(opened) => all.extend(opened),
            Err(error) => tally.note(&error.to_string()),
        }
    }
    all
}

async fn touch(tally: &Tally, tunnels: &mut [Stream]) {
    let bytes = vec![b't'; TOUCH_BYTES];
    for stream in tunnels {
        let there_and_back = async {
            stream.write_all(&bytes).await?;
            skip(stream, TOUCH_BYTES as u64).await
        };
        match tokio::time::timeout(TOUCH_TIMEOUT, there_and_back).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tally.fail(error).await,
            Err(_) => tally.fail(failed("nothing comes back")).await,
        }
    }
}
