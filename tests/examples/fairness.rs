//! How much a noisy client slows a quiet one: latencies of the quiet one alone, and beside each kind of noise.
//!
//! `cargo build --release -p exeat && cargo run --release -p exeat-tests --example fairness [SECONDS [KIND…]]`
//!
//! Everything runs in a network namespace of its own on this machine, so the noise takes processor time of its own, too,
//! at the lowest priority. What that alone does to the quiet client is the row `busy`: as many threads that only keep the
//! processors busy. What counts is the ratio to that row, and the share of one processor that is the proxy's.
//! `shared out` is with rates and lower limits; `usual` with the limits that everybody has.
#![expect(clippy::print_stdout, reason = "a program that prints a table")]

use std::env;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{password_entry, request_with};
use exeat_tests::namespace::{self, PROXY};
use exeat_tests::noise::{self, Noise};
use exeat_tests::raw::{Raw, authorization};
use exeat_tests::world::World;

/// How long each row is measured, unless the command line says so.
const SECONDS: u64 = 5;
/// Threads of each kind of noise.
const THREADS: usize = 16;
/// What does nothing to the proxy.
const BUSY: &str = "busy";
const PASSWORD: &str = "quiet-generated-0123456789abcdef";
const SHARED_OUT: &str = "[limits]
connections_per_source = 256
connection_rate_per_source = 200
request_rate_per_source = 500
request_rate_per_client = 200
rate_burst = \"1s\"
tunnels_per_client = 8
";

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["noise", kind, seconds] => be_noisy(kind, seconds.parse()?),
        [seconds, kinds @ ..] => measure(Duration::from_secs(seconds.parse()?), kinds),
        [] => measure(Duration::from_secs(SECONDS), &[]),
    }
}

/// The part of the process that [`make_noise`] starts.
fn be_noisy(kind: &str, seconds: u64) -> Result<()> {
    static OVER: AtomicBool = AtomicBool::new(false);
    thread::spawn(move || {
        thread::sleep(Duration::from_secs(seconds));
        OVER.store(true, Ordering::Relaxed);
    });
    if kind == BUSY {
        let spin = || {
            while !OVER.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        };
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(spin);
            }
        });
        return Ok(());
    }
    let kind = Noise::parse(kind).context("a kind of noise")?;
    if kind == Noise::Bulk {
        noise::firehose()?;
    }
    let told = kind.make(THREADS, &OVER)?;
    println!("{:?}", told.0);
    Ok(())
}

fn measure(time: Duration, kinds: &[&str]) -> Result<()> {
    namespace::enter()?;
    println!("in milliseconds: half of the time and 99 times of 100, to connect and to be answered");
    println!(
        "{:<11} {:<9} {:>5} {:>7} {:>7} {:>7} {:>7} {:>8} {:>6}  noise was told",
        "limits", "noise", "asked", "c 50", "c 99", "a 50", "a 99", "longest", "proxy"
    );
    let world = World::new()?;
    for (title, limits) in [("usual", ""), ("shared out", SHARED_OUT)] {
        let exeat = Exeat::serve(world.directory(), &configuration(limits), PROXY)?;
        row(title, None, &exeat, time)?;
        for kind in [BUSY].into_iter().chain(Noise::ALL.map(Noise::word)) {
            if kinds.is_empty() || kinds.contains(&kind) {
                row(title, Some(kind), &exeat, time)?;
            }
        }
        row(title, None, &exeat, time)?;
        exeat.stop()?;
    }
    Ok(())
}

fn configuration(limits: &str) -> String {
    format!(
        "[proxy]\nlisten = [\"{PROXY}\"]\n[audit]\nfile = \"AUDIT\"\n{limits}
[policy.p]\nallow = [\"*.example.org\", \"{}\"]
[client.{}]\npasswords = [\"{}\"]\npolicies = [\"p\"]
[client.quiet]\npasswords = [\"{}\"]\npolicies = [\"p\"]\n",
        noise::FIREHOSE,
        noise::NAME,
        password_entry(noise::PASSWORD),
        password_entry(PASSWORD),
    )
}

/// Measures the quiet client beside `kind`, and prints what came of it.
fn row(title: &str, kind: Option<&str>, exeat: &Exeat, time: Duration) -> Result<()> {
    let noisy = kind.map(|kind| make_noise(kind, time + Duration::from_secs(2))).transpose()?;
    if noisy.is_some() {
        // It begins before anything is measured.
        thread::sleep(Duration::from_secs(1));
    }
    let (began, busy) = (Instant::now(), exeat.processor_time()?);
    let times = be_quiet(time)?;
    let share = (exeat.processor_time()? - busy).as_secs_f64() / began.elapsed().as_secs_f64();
    let told = noisy.map(Child::wait_with_output).transpose()?;
    let told =
        told.map_or_else(String::new, |told| String::from_utf8_lossy(&told.stdout).trim_end().to_owned());
    let (connected, answered): (Vec<_>, Vec<_>) = times.iter().copied().unzip();
    let [[c50, c99, _], [a50, a99, longest]] = [connected, answered].map(percentiles);
    println!(
        "{title:<11} {:<9} {:>5} {c50:>7.2} {c99:>7.2} {a50:>7.2} {a99:>7.2} {longest:>8.2} {:>5.0}%  {told}",
        kind.unwrap_or("none"),
        times.len(),
        share * 100.0
    );
    std::io::stdout().flush()?;
    Ok(())
}

/// The middle one of these times, the one that 99 of 100 do not exceed, and the longest, in milliseconds.
fn percentiles(mut times: Vec<Duration>) -> [f64; 3] {
    times.sort_unstable();
    [50, 99, 100].map(|part| {
        let index = (times.len() * part / 100).min(times.len().saturating_sub(1));
        milliseconds(times.get(index).copied().unwrap_or_default())
    })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn make_noise(kind: &str, time: Duration) -> Result<Child> {
    let mut command = Command::new("nice");
    // From the highest priority to the lowest: more than that is cut off.
    command.args(["-n", "39"]).arg(env::current_exe()?);
    command.args(["noise", kind, &time.as_secs().to_string()]);
    Ok(command.stdout(Stdio::piped()).spawn()?)
}

/// Asks one thing after the other, each on a connection of its own. All of it succeeds. Returns how long each took to
/// connect, and from then on to be answered.
fn be_quiet(time: Duration) -> Result<Vec<(Duration, Duration)>> {
    let get = request_with("GET http://quiet.example.org/", &authorization("quiet", PASSWORD));
    let end = Instant::now() + time;
    let mut times = Vec::new();
    while Instant::now() < end {
        let began = Instant::now();
        let mut client = Raw::proxy()?;
        let connected = began.elapsed();
        let reply = client.ask(&get)?;
        ensure!(reply.status == 200, "{reply:?}");
        times.push((connected, began.elapsed() - connected));
        // A pace that no rate is in the way of.
        thread::sleep(Duration::from_millis(10));
    }
    Ok(times)
}
