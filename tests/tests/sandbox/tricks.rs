//! What a command does for the question about it to be another, or for its answer to be.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use exeat_tests::confined::Starter;
use exeat_tests::harness::Scenario;
use exeat_tests::terminal::Terminal;
use exeat_tests::world::World;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ask::{GET, asked, question, start, until_asked};

pub(crate) fn scenarios() -> Vec<Scenario> {
    by_each_starter![
        a_line_is_not_edited_by_what_the_command_says,
        a_question_is_seen_whatever_was_printed,
        nobody_goes_on_behind_a_question,
        a_terminal_that_was_stopped_is_asked_on,
        a_signal_to_the_run_ends_the_question,
    ]
}

/// Begins a script that does `trick`, and waits for the question of what it does then.
fn begin(starter: Starter, home: &Path, trick: &str) -> Result<Terminal> {
    let script = format!("{GET}{trick}\nget evil.test; stty -a");
    let terminal = start(starter, home, "--ask --allow example.com", &script)?;
    terminal.until_written(&question("evil.test:80"))?;
    Ok(terminal)
}

fn a_line_is_not_edited_by_what_the_command_says(starter: Starter) -> Result<()> {
    let world = World::new()?;
    // All that is before an `n` would be taken away, and "once" be left of it.
    for character in ["kill", "erase", "werase", "lnext", "eol", "eol2"] {
        let trick = format!("stty {character} n extproc -icrnl iuclc istrip");
        let mut terminal = begin(starter, world.directory(), &trick)?;
        terminal.press("no\n")?;
        until_asked(&terminal, "evil.test:80", 2)?;
        terminal.press("O\n")?;
        until_asked(&terminal, "evil.test:80", 3)?;
        terminal.press("d\r")?;
        ensure!(terminal.wait()? == 0, "{starter:?}: {}", terminal.written());
        let written = terminal.written();
        ensure!(written.contains("host_not_allowed"), "{starter:?}: {character}: {written}");
        // The command has it as it was.
        ensure!(written.contains(&format!("{character} = n;")), "{starter:?}: {character}: {written}");
    }
    ensure!(world.accepts() == 0, "{starter:?}: {:?}", world.reached());
    Ok(())
}

fn a_question_is_seen_whatever_was_printed(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let hide = "\u{1b}[8m\u{1b}[30;40m\u{1b}(0\u{e}\u{1b}[1;3r\u{1b}[?25l\u{1b}]0;unfinished";
    fs::write(world.directory().join("hide"), hide)?;
    let mut terminal = begin(starter, world.directory(), "cat hide")?;
    let written = terminal.written();
    let between = written.split_once(hide).and_then(|(_, rest)| rest.split_once("exeat: "));
    let (between, _) = between.with_context(|| format!("{starter:?}: {written:?}"))?;
    let mut left = between;
    // In this order: what is unfinished ends first, and the last line is gone to at last.
    for known in
        ["\u{18}\u{1b}\\", "\u{1b}[!p", "\u{1b}[0m", "\u{f}\u{1b}(B", "\u{1b}[?25h", "\u{1b}[r", ";1H\r"]
    {
        let rest = left.split_once(known).with_context(|| format!("{starter:?}: {known:?} {between:?}"))?;
        left = rest.1;
    }
    terminal.press("d\n")?;
    ensure!(terminal.wait()? == 0 && world.accepts() == 0, "{starter:?}: {written:?}");
    Ok(())
}

/// More than are looked at for the name of one.
const MANY: usize = 700;

/// Starts many children, each of which is running what it is to run, and then one that has a child of its own.
const START_MANY: &str = "import os, subprocess, sys, time
start = lambda: subprocess.Popen(['sleep', sys.argv[1]])
children = [start() for _ in range(int(sys.argv[2]))]
if os.fork() == 0:
    children = [start()]
    open('deep', 'w').close()
time.sleep(1000)
";

fn nobody_goes_on_behind_a_question(starter: Starter) -> Result<()> {
    let world = World::new()?;
    // A number that no other scenario has.
    let seconds = format!("9{}{}", std::process::id(), if starter == Starter::Root { 1 } else { 2 });
    fs::write(world.directory().join("many.py"), START_MANY)?;
    let trick =
        format!("/usr/bin/python3 many.py {seconds} {MANY} & while [ ! -e deep ]; do sleep 0.05; done");
    let mut terminal = begin(starter, world.directory(), &trick)?;
    let states = states(&["sleep", &seconds])?;
    ensure!(states.len() == MANY + 1, "{starter:?}: there are {}", states.len());
    let running = states.iter().filter(|state| **state != 'T').count();
    ensure!(running == 0, "{starter:?}: {running} of {MANY} go on");
    terminal.press("d\n")?;
    ensure!(terminal.wait()? == 0 && world.accepts() == 0, "{starter:?}: {}", terminal.written());
    ensure!(asked(&terminal, "evil.test:80") == 1, "{starter:?}: {}", terminal.written());
    Ok(())
}

/// The states of all processes with this command line.
fn states(words: &[&str]) -> Result<Vec<char>> {
    let line: String = words.iter().flat_map(|word| [word, "\0"]).collect();
    let mut states = Vec::new();
    for process in fs::read_dir("/proc")? {
        let path = process?.path();
        if fs::read(path.join("cmdline")).is_ok_and(|is| is == line.as_bytes()) {
            let stat = fs::read_to_string(path.join("stat"))?;
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            states.push(state.context("a state")?);
        }
    }
    Ok(states)
}

fn a_terminal_that_was_stopped_is_asked_on(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let stop = "import sys, termios; termios.tcflow(sys.stdout.fileno(), termios.TCOOFF)";
    let trick = format!("stty -ixon; /usr/bin/python3 -c '{stop}'");
    let mut terminal = begin(starter, world.directory(), &trick)?;
    terminal.press("o\n")?;
    ensure!(terminal.wait()? == 0, "{starter:?}: {}", terminal.written());
    ensure!(terminal.written().contains("hello from evil.test"), "{starter:?}: {}", terminal.written());
    Ok(())
}

fn a_signal_to_the_run_ends_the_question(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let mut terminal = begin(starter, world.directory(), "stty erase x")?;
    let pid = fs::read_to_string(world.directory().join("pid"))?.trim().parse()?;
    kill(Pid::from_raw(pid), Signal::SIGTERM)?;
    // Long before the question would give up, and nobody has been let out.
    ensure!(terminal.wait()? == 143, "{starter:?}: {}", terminal.written());
    ensure!(world.accepts() == 0, "{starter:?}: {:?}", world.reached());
    Ok(())
}
