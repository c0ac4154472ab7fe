//! What `exeat run` adds to a command: how much later it is there, and what the processes around it hold meanwhile.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::process;
use crate::record::{Figures, Sheet};

/// What to run.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Runs {
    #[command(flatten)]
    sheet: Sheet,
    #[arg(long)]
    round: u32,
    /// How often in this round, with and without; the figures are the medians
    #[arg(long, default_value_t = 10)]
    times: u32,
    /// Seconds for which the command is quiet once in a round, before memory is looked at a second time
    #[arg(long, default_value_t = 25)]
    quiet: u64,
    /// What stands before the command to have it confined, in words that are separated by spaces
    #[arg(long)]
    confined: String,
    /// The command. It says `ready`, waits for a line, does what it does, says `done` and waits for another line
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// What came of one run.
struct Ran {
    ready_ms: f64,
    cpu_ms: f64,
    memory_mib: f64,
    quiet_mib: f64,
}

/// Runs the command by itself and confined, in turn.
///
/// # Errors
/// If it does not say what it has to.
pub(crate) fn run(runs: &Runs) -> Result<()> {
    let confined: Vec<String> =
        runs.confined.split_whitespace().map(str::to_owned).chain(runs.command.iter().cloned()).collect();
    let targets = [("bare", &runs.command), ("exeat", &confined)];
    let mut all = [Vec::new(), Vec::new()];
    for _ in 0..runs.times {
        for ((_, words), ran) in targets.iter().zip(&mut all) {
            ran.push(once(words, Duration::ZERO)?);
        }
    }
    for ((name, words), ran) in targets.iter().zip(&all) {
        let mut figures = Figures { units: ran.len() as u64, ..Figures::default() };
        figures.set("ready_ms", median(ran.iter().map(|ran| ran.ready_ms)));
        figures.set("run_cpu_ms", median(ran.iter().map(|ran| ran.cpu_ms)));
        figures.set("own_mib", median(ran.iter().map(|ran| ran.memory_mib)));
        figures.set("quiet_mib", once(words, Duration::from_secs(runs.quiet))?.quiet_mib);
        runs.sheet.add(name, runs.round, figures)?;
    }
    Ok(())
}

fn once(words: &[String], quiet: Duration) -> Result<Ran> {
    let (program, args) = words.split_first().context("no command")?;
    let (before, began) = (children_ms()?, Instant::now());
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {program}"))?;
    let (mut input, output) = (child.stdin.take().context("input")?, child.stdout.take().context("output")?);
    let mut lines = BufReader::new(output).lines();
    let mut says = |what: &str| {
        let line = lines.next().transpose()?;
        ensure!(line.as_deref() == Some(what), "it says {line:?} and not `{what}`");
        Ok(())
    };
    says("ready")?;
    let ready_ms = began.elapsed().as_secs_f64() * 1000.0;
    writeln!(input)?;
    says("done")?;
    let memory_mib = own_kib(&child) as f64 / 1024.0;
    thread::sleep(quiet);
    let quiet_mib = own_kib(&child) as f64 / 1024.0;
    writeln!(input)?;
    ensure!(child.wait()?.success(), "it failed");
    Ok(Ran { ready_ms, cpu_ms: children_ms()? - before, memory_mib, quiet_mib })
}

/// What the processes hold that are of Exeat and not of the command: the first one, and those that it has made of itself.
fn own_kib(child: &Child) -> u64 {
    let is_own = |pid: u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        // The program, and what is started by way of `/proc/self/exe`.
        ["exeat", "exe"].contains(&name.trim_end())
    };
    process::tree(child.id()).into_iter().filter(|pid| is_own(*pid)).filter_map(process::pss_kib).sum()
}

fn children_ms() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(microseconds as f64 / 1000.0)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_measured_that_says_what_it_has_to() {
        let words = |script: &str| ["sh", "-c", script].map(str::to_owned);
        let ran = once(&words("echo ready; read line; echo done; read line"), Duration::ZERO).unwrap();
        assert!(ran.ready_ms > 0.0 && ran.memory_mib + ran.quiet_mib == 0.0, "no process of it is ours");
        once(&words("echo ready; read line; echo failed; read line"), Duration::ZERO).err().unwrap();
        once(&words("echo ready; read line; echo done; read line; exit 1"), Duration::ZERO).err().unwrap();
    }
}
