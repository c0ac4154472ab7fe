//! The processes of Exeat around a confined command: which there are, and what is left when they end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use exeat_tests::confined::Starter;
use exeat_tests::harness::Scenario;
use exeat_tests::world::World;

pub(crate) fn scenarios() -> Vec<Scenario> {
    by_each_starter![
        one_process_is_between_it_and_its_launcher,
        all_of_it_is_gone_when_its_launcher_ends,
        all_of_it_ends_with_a_launcher_that_is_killed,
        what_a_request_took_is_given_back_while_it_runs,
    ]
}

/// How long the kernel may take to end what has lost its launcher, and the launcher to look whether there is something to give back.
const PATIENCE: Duration = Duration::from_secs(60);

/// It starts two that do not want to end, one of them in a session of its own.
const SCRIPT: &str =
    "trap '' TERM HUP; (trap '' TERM HUP; sleep 1000) & setsid sleep 1000 & echo ready; read end; exit 3";

/// Runs the script, and returns its launcher and everything below that by then.
fn start(starter: Starter, world: &World) -> Result<(Child, Vec<u32>)> {
    let mut command = starter.command(world.directory(), &[], &["sh", "-c", SCRIPT])?;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
    ensure!(line == "ready\n", "{starter:?}: {line:?}");
    let below = below(child.id());
    Ok((child, below))
}

/// All that descend from a process, each after its parent, those included that nobody has waited for.
fn below(process: u32) -> Vec<u32> {
    let mut found = vec![process];
    let mut next = 0;
    while let Some(process) = found.get(next) {
        found.extend(children(*process));
        next += 1;
    }
    found.split_off(1)
}

fn children(process: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split(' ').filter_map(|one| one.parse().ok()).collect::<Vec<u32>>()).collect()
}

/// The letter of a process's state; `None` if there is no such process.
fn state(process: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn one_process_is_between_it_and_its_launcher(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let (mut child, below) = start(starter, &world)?;
    let [init] = children(child.id())[..] else { anyhow::bail!("{starter:?}: {below:?}") };
    let inside = fs::read_to_string(format!("/proc/{init}/status"))?;
    let numbers = inside.lines().find(|line| line.starts_with("NSpid:")).context("NSpid")?;
    ensure!(numbers.split_whitespace().last() == Some("1"), "{starter:?}: {numbers}");
    let [command] = children(init)[..] else { anyhow::bail!("{starter:?}: {below:?}") };
    let name = fs::read_to_string(format!("/proc/{command}/comm"))?;
    ensure!(name == "sh\n", "{starter:?}: {name}");
    ensure!(below.iter().all(|process| state(*process) != Some('Z')), "{starter:?}: {below:?}");
    drop(child.stdin.take());
    ensure!(child.wait()?.code() == Some(3), "{starter:?}");
    Ok(())
}

fn all_of_it_is_gone_when_its_launcher_ends(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let (mut child, below) = start(starter, &world)?;
    ensure!(below.len() >= 4, "{starter:?}: init, the command and what that has started: {below:?}");
    drop(child.stdin.take());
    ensure!(child.wait()?.code() == Some(3), "{starter:?}");
    // At once: it has waited for the end of them all.
    let left: Vec<_> = below.iter().filter_map(|process| state(*process)).collect();
    ensure!(left.is_empty(), "{starter:?}: {below:?} {left:?}");
    Ok(())
}

fn all_of_it_ends_with_a_launcher_that_is_killed(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let (mut child, below) = start(starter, &world)?;
    ensure!(below.len() >= 4, "{starter:?}: init, the command and what that has started: {below:?}");
    child.kill()?;
    child.wait()?;
    // Who waits for them now is not ours to say.
    let is_over = |process: &u32| matches!(state(*process), None | Some('Z' | 'X'));
    let late = Instant::now() + PATIENCE;
    while !below.iter().all(is_over) {
        ensure!(Instant::now() < late, "{starter:?}: {below:?}");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn what_a_request_took_is_given_back_while_it_runs(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let script = "curl -sS http://example.com/; read end; exit 0";
    let mut command =
        starter.command(world.directory(), &["--allow", "example.com"], &["sh", "-c", script])?;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
    ensure!(line == "hello from example.com\n", "{starter:?}: {line:?}");
    let taken = file_kib(child.id())?;
    let late = Instant::now() + PATIENCE;
    while file_kib(child.id())? > taken / 2 {
        ensure!(Instant::now() < late, "{starter:?}: {} of {taken} KiB are there", file_kib(child.id())?);
        thread::sleep(Duration::from_millis(50));
    }
    drop(child.stdin.take());
    ensure!(child.wait()?.success(), "{starter:?}");
    Ok(())
}

/// How much a process has in memory of files, its own program above all.
fn file_kib(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).context("RssFile")?;
    Ok(line.trim_end_matches("kB").trim().parse()?)
}
