//! Runs scenarios that need the process to themselves.
//!
//! A scenario enters a network namespace, and where the user is not root also a user namespace. The kernel lets only a
//! process with one thread do the latter, so the standard test harness, which runs each test in a thread, cannot be
//! used. This one speaks the part of its command line that `cargo nextest` and `cargo test` use, runs one scenario on
//! the main thread, and starts a process of its own for each when asked for several.

use std::io::{self, Write};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::namespace;

/// One named test.
pub struct Scenario {
    name: String,
    run: Box<dyn FnOnce() -> Result<()>>,
    needs_namespace: bool,
}

impl Scenario {
    /// A test that runs in a network namespace of its own.
    pub fn new(name: impl Into<String>, run: impl FnOnce() -> Result<()> + 'static) -> Self {
        Self { name: name.into(), run: Box::new(run), needs_namespace: true }
    }

    /// A test that reads files or runs a command and needs no network.
    pub fn plain(name: impl Into<String>, run: impl FnOnce() -> Result<()> + 'static) -> Self {
        Self { name: name.into(), run: Box::new(run), needs_namespace: false }
    }
}

/// Builds the list of scenarios from function names.
#[macro_export]
macro_rules! scenarios {
    ($($name:ident),+ $(,)?) => { vec![$($crate::harness::Scenario::new(stringify!($name), $name)),+] };
}

/// What the command line asks for.
#[derive(Default)]
struct Options {
    list: bool,
    ignored: bool,
    exact: bool,
    filters: Vec<String>,
}

impl Options {
    /// Reads the libtest options that test runners use; the others (colour, capture, thread count) mean nothing here.
    fn parse(mut args: impl Iterator<Item = String>) -> Self {
        let mut options = Self::default();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--list" => options.list = true,
                "--ignored" => options.ignored = true,
                "--exact" => options.exact = true,
                "--format" | "--color" | "--test-threads" | "--logfile" | "--skip" | "-Z" => {
                    args.next();
                }
                flag if flag.starts_with('-') => {}
                filter => options.filters.push(filter.to_owned()),
            }
        }
        options
    }

    fn selects(&self, name: &str) -> bool {
        self.filters.is_empty()
            || self.filters.iter().any(|f| if self.exact { f == name } else { name.contains(f.as_str()) })
    }
}

/// The `main` of a test binary: lists or runs `scenarios` as the command line says.
pub fn main(scenarios: Vec<Scenario>) -> ExitCode {
    let options = Options::parse(std::env::args().skip(1));
    let mut selected: Vec<Scenario> = scenarios.into_iter().filter(|s| options.selects(&s.name)).collect();
    if options.ignored {
        selected.clear();
    }
    let done = if options.list {
        list(&selected)
    } else if options.exact && selected.len() == 1 {
        selected.into_iter().next().map_or(Ok(true), run_here)
    } else {
        run_each(&selected)
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Standard error, in one write; a runner that has gone away is not this process's problem.
fn say(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

fn list(selected: &[Scenario]) -> Result<bool> {
    let mut out = io::stdout().lock();
    for scenario in selected {
        writeln!(out, "{}: test", scenario.name)?;
    }
    Ok(true)
}

/// Runs one scenario in this process.
fn run_here(scenario: Scenario) -> Result<bool> {
    if scenario.needs_namespace
        && let Err(error) = namespace::enter()
    {
        say(&format!("{}: no private network namespace: {error:#}", scenario.name));
        // On a build machine a skipped scenario would be a hole that nobody sees.
        return Ok(std::env::var_os("CI").is_none_or(|ci| ci.is_empty() || ci == "false"));
    }
    (scenario.run)().with_context(|| format!("scenario {} failed", scenario.name))?;
    Ok(true)
}

/// Runs several scenarios, each in a process of its own, and reports all that failed.
fn run_each(selected: &[Scenario]) -> Result<bool> {
    let binary = std::env::current_exe().context("the path of the test binary")?;
    let mut failed = Vec::new();
    for scenario in selected {
        let status = Command::new(&binary).arg(&scenario.name).arg("--exact").status()?;
        say(&format!("test {} ... {}", scenario.name, if status.success() { "ok" } else { "FAILED" }));
        if !status.success() {
            failed.push(scenario.name.as_str());
        }
    }
    say(&format!("{} run, {} failed {failed:?}", selected.len(), failed.len()));
    Ok(failed.is_empty())
}
