//! What a confined command may use of the machine.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use exeat_tests::confined::Starter;
use exeat_tests::harness::Scenario;
use exeat_tests::world::World;

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut scenarios = by_each_starter![
        a_command_ends_when_its_time_is_over,
        processes_are_held_to_limits_of_their_own,
        limits_that_cannot_be_kept_are_refused,
    ];
    if Starter::all().contains(&Starter::Root) {
        scenarios.push(Scenario::new("root_without_control_groups_is_told_what_would_help", || {
            root_without_control_groups_is_told_what_would_help()
        }));
        scenarios.push(Scenario::new("a_command_is_held_to_limits_as_a_whole", || {
            a_command_is_held_to_limits_as_a_whole(Starter::Root)
        }));
    }
    scenarios
}

/// How a command ended.
#[derive(Debug)]
struct Told {
    code: i32,
    out: String,
    err: String,
}

/// Runs it as anybody would: for the clients of other scenarios, these statuses say that something is amiss.
fn run(starter: Starter, home: &Path, flags: &[&str], command: &[&str]) -> Result<Told> {
    let output = starter.command(home, flags, command)?.stdin(Stdio::null()).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Told {
        code: output.status.code().context("a status")?,
        out: text(&output.stdout),
        err: text(&output.stderr),
    })
}

/// Takes as much memory as the argument says, and uses it.
const TAKE: &str = "import sys; taken = b'x' * (int(sys.argv[1]) << 20); print(len(taken) >> 20)";

/// Has as many processes at a time as the argument says.
const START: &str = "
import os, sys
r, w = os.pipe()
started = 0
try:
    for _ in range(int(sys.argv[1])):
        if os.fork() == 0:
            os.close(w)
            os.read(r, 1)
            os._exit(0)
        started += 1
    print('all')
except OSError as error:
    print(error.errno == 11)
";

fn python<'a>(script: &'a str, argument: &'a str) -> [&'a str; 4] {
    ["/usr/bin/python3", "-c", script, argument]
}

fn a_command_ends_when_its_time_is_over(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let in_time = run(starter, home, &["--timeout", "10m", "--json"], &["sh", "-c", "exit 3"])?;
    ensure!(in_time.code == 3 && in_time.err.contains("\"limits\":[]"), "{starter:?}: {in_time:?}");
    for (script, said) in [
        // One that goes, one that cleans up first, and one that does not want to.
        ("echo ready; exec sleep 1000", "ready\n"),
        ("trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.1; done", "ready\nbye\n"),
        ("trap '' TERM; echo ready; while :; do sleep 0.1; done", "ready\n"),
    ] {
        let over = run(starter, home, &["--timeout", "3s", "--json"], &["sh", "-c", script])?;
        ensure!(over.code == 124 && over.out == said, "{starter:?}: {script}: {over:?}");
        ensure!(over.err.contains("\"limits\":[\"timeout\"]"), "{starter:?}: {script}: {over:?}");
    }
    Ok(())
}

fn processes_are_held_to_limits_of_their_own(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let memory = ["--limits=rlimit", "--memory", "512M", "-q"];
    let pids = ["--limits=rlimit", "--pids", "20", "-q"];
    for (flags, command, code, out) in [
        (&memory[..], python(TAKE, "64"), 0, "64\n"),
        (&memory, python(TAKE, "1024"), 1, ""),
        (&pids, python(START, "10"), 0, "all\n"),
        (&pids, python(START, "30"), 0, "True\n"),
    ] {
        let told = run(starter, home, flags, &command)?;
        ensure!(told.code == code && told.out == out, "{starter:?}: {flags:?} {told:?}");
    }
    // Who says that there is no such command is another process then.
    for (command, code) in [("no-such-command", 127), ("/etc/passwd", 126)] {
        let told = run(starter, home, &pids, &[command])?;
        ensure!(told.code == code && told.err.contains("cannot run the command"), "{starter:?}: {told:?}");
    }
    Ok(())
}

fn limits_that_cannot_be_kept_are_refused(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let mut refused = vec![
        (&["--limits=rlimit", "--cpus", "1"][..], "leave --cpus out"),
        (&["--memory", "1M"], "16M at the least"),
        (&["--pids", "0"], "--pids"),
        (&["--timeout", "5"], "a number and a unit"),
    ];
    if starter != Starter::Root {
        // Nobody has delegated anything to them.
        refused.push((&["--memory", "64M"], "--limits=rlimit"));
    }
    for (flags, help) in refused {
        let told = run(starter, home, flags, &["touch", "ran"])?;
        ensure!(told.code == 125 && told.err.contains(help), "{starter:?}: {flags:?} {told:?}");
        ensure!(!home.join("ran").exists(), "{starter:?}: {flags:?} it was run");
    }
    Ok(())
}

fn root_without_control_groups_is_told_what_would_help() -> Result<()> {
    let world = World::new()?;
    // As in a container that does not show them.
    let none = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("tmpfs"), "/sys/fs/cgroup", Some("tmpfs"), none, None::<&str>)?;
    let told = run(Starter::Root, world.directory(), &["--memory", "64M"], &["touch", "ran"])?;
    ensure!(told.code == 125 && told.err.contains("cannot limit what the command uses"), "{told:?}");
    ensure!(told.err.contains("control groups are mounted") && !told.err.contains("as root"), "{told:?}");
    ensure!(!world.directory().join("ran").exists(), "it was run");
    Ok(())
}

fn a_command_is_held_to_limits_as_a_whole(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    for (flags, command, code, out, limits) in [
        (["--memory", "64M"], python(TAKE, "16"), 0, "16\n", "[]"),
        (["--memory", "64M"], python(TAKE, "256"), 137, "", "[\"memory\"]"),
        (["--pids", "20"], python(START, "10"), 0, "all\n", "[]"),
        (["--pids", "20"], python(START, "30"), 0, "True\n", "[\"pids\"]"),
        // To the last one, itself included.
        (["--pids", "20"], python(START, "19"), 0, "all\n", "[]"),
        (["--pids", "20"], python(START, "20"), 0, "True\n", "[\"pids\"]"),
        (["--pids", "1"], python(START, "1"), 0, "True\n", "[\"pids\"]"),
    ] {
        let told = run(starter, home, &[&flags[..], &["--json"]].concat(), &command)?;
        ensure!(told.code == code && told.out == out, "{flags:?} {told:?}");
        ensure!(told.err.contains(&format!("\"limits\":{limits}")), "{flags:?} {told:?}");
    }
    // A share of processors is not seen in what a command does, but in what the kernel was told.
    let mut command =
        starter.command(home, &["--cpus", "0.25", "-q"], &["sh", "-c", "echo ready; read end"])?;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
    let group = format!("exeat-{}", child.id());
    let found = find(Path::new("/sys/fs/cgroup"), &group).context("no group")?;
    let quota = fs::read_to_string(found.join("cpu.cfs_quota_us"))
        .or_else(|_| fs::read_to_string(found.join("cpu.max")))?;
    ensure!(quota.trim() == "25000" || quota.trim() == "25000 100000", "{quota}");
    let members = fs::read_to_string(found.join("command/cgroup.procs"))?;
    ensure!(members.lines().count() == 2, "init and the command: {members}");
    drop(child.stdin.take());
    child.wait()?;
    ensure!(find(Path::new("/sys/fs/cgroup"), &group).is_none(), "it left a group behind");
    Ok(())
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let folders = fs::read_dir(folder).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    let folders: Vec<PathBuf> = folders.filter(|path| path.is_dir() && !path.is_symlink()).collect();
    let here = folders.iter().find(|path| path.ends_with(name)).cloned();
    here.or_else(|| folders.iter().find_map(|folder| find(folder, name)))
}
