//! How much a noisy client slows a quiet one: latencies of the quiet one alone, and beside each kind of noise.
//!
//! `cargo build --release -p exeat && cargo run --release -p exeat-tests --example fairness [SECONDS [KIND…]]`
//!
//! Everything runs in a network namespace of its own on this machine, so the noise takes processor time of its own, too,
//! at the lowest priority. What counts is the ratio to the quiet client alone, and the share of the processors that is the
//! proxy's. `shared out` is with rates and lower limits; without, with the limits that everybody has.
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
    let kind = Noise::parse(kind).context("a kind of noise")?;
    thread::spawn(move || {
        thread::sleep(Duration::from_secs(seconds));
        OVER.store(true, Ordering::Relaxed);
    });
    let told = kind.make(THREADS, &OVER)?;
    println!("{:?}", told.0);
    Ok(())
}

fn measure(time: Duration, kinds: &[&str]) -> Result<()> {
    namespace::enter()?;
    println!(
        "{:<12} {:<10} {:>6} {:>9} {:>9} {:>9} {:>7}  noise was told",
        "limits", "noise", "asked", "p50", "p99", "longest", "proxy"
    );
    let world = World::new()?;
    noise::firehose()?;
    for (title, limits) in [("usual", ""), ("shared out", SHARED_OUT)] {
        let exeat = Exeat::serve(world.directory(), &configuration(limits), PROXY)?;
        row(title, None, &exeat, time)?;
        for kind in Noise::ALL.into_iter().filter(|kind| kinds.is_empty() || kinds.contains(&kind.word())) {
            row(title, Some(kind), &exeat, time)?;
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
fn row(title: &str, kind: Option<Noise>, exeat: &Exeat, time: Duration) -> Result<()> {
    let noisy = kind.map(|kind| make_noise(kind, time + Duration::from_secs(2))).transpose()?;
    if noisy.is_some() {
        // It begins before anything is measured.
        thread::sleep(Duration::from_secs(1));
    }
    let (began, busy) = (Instant::now(), exeat.processor_time()?);
    let mut times = be_quiet(time)?;
    let share = (exeat.processor_time()? - busy).as_secs_f64() / began.elapsed().as_secs_f64();
    let told = noisy.map(Child::wait_with_output).transpose()?;
    let told =
        told.map_or_else(String::new, |told| String::from_utf8_lossy(&told.stdout).trim_end().to_owned());
    times.sort_unstable();
    let at =
        |part: usize| times.get((times.len() * part / 100).min(times.len() - 1)).copied().unwrap_or_default();
    println!(
        "{title:<12} {:<10} {:>6} {:>7.2}ms {:>7.2}ms {:>7.2}ms {:>6.0}%  {told}",
        kind.map_or("none", Noise::word),
        times.len(),
        milliseconds(at(50)),
        milliseconds(at(99)),
        milliseconds(at(100)),
        share * 100.0
    );
    std::io::stdout().flush()?;
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn make_noise(kind: Noise, time: Duration) -> Result<Child> {
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(env::current_exe()?);
    command.args(["noise", kind.word(), &time.as_secs().to_string()]);
    Ok(command.stdout(Stdio::piped()).spawn()?)
}

/// Asks one thing after the other, each on a connection of its own. All of it succeeds. Returns how long each took.
fn be_quiet(time: Duration) -> Result<Vec<Duration>> {
    let get = request_with("GET http://quiet.example.org/", &authorization("quiet", PASSWORD));
    let end = Instant::now() + time;
    let mut times = Vec::new();
    while Instant::now() < end {
        let began = Instant::now();
        let reply = Raw::proxy()?.ask(&get)?;
        ensure!(reply.status == 200, "{reply:?}");
        times.push(began.elapsed());
        // A pace that no rate is in the way of.
        thread::sleep(Duration::from_millis(10));
    }
    Ok(times)
}
