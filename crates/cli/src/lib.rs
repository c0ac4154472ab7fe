//! The command line: arguments as typed, then commands.
//!
//! Everything but `serve`, `run` and `sandbox serve` runs here from start to end. Those need every crate put together,
//! which is the binary's work, so they are handed back.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod control;
mod input;
mod keys;
mod output;
mod terminal;

use std::process::ExitCode;

use args::{FirewallCommand, SandboxCommand};
use clap::Parser;

pub use args::{Cli, Command, ServeArgs};
pub use commands::run::{Run, Summary, target_of_summary};
pub use commands::sandbox::SandboxServe;
pub use commands::serve::{Source, announce};
pub use output::{Exit, error_text, print_error, print_report, report_text};
pub use terminal::Terminal;

/// What the binary does next.
#[derive(Debug)]
pub enum Next {
    /// Nothing: the command has run.
    Exit(ExitCode),
    /// Run the proxy with this configuration.
    Serve(Source),
    /// Run a command that has no other way out than the proxy.
    Run(Run),
    /// Run commands for others.
    SandboxServe(SandboxServe),
}

/// Parses the process's arguments and runs the command.
///
/// Ends the process with status 2, or 125 for `run`, and a usage message if the arguments are wrong.
#[must_use]
pub fn run() -> Next {
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        // A command that is run has exit statuses of its own, and this one could be taken for one of them.
        if error.use_stderr() && std::env::args_os().nth(1).is_some_and(|word| word == "run") {
            // There is nobody else to tell.
            let _ = error.print();
            std::process::exit(Exit::NotRun.status().into());
        }
        error.exit()
    });
    match cli.command {
        Command::Serve(args) => match Source::from_args(args) {
            Ok(source) => Next::Serve(source),
            Err(error) => Next::Exit(output::failed(&error)),
        },
        Command::Firewall(FirewallCommand::Attach(args)) => match Source::attaching(args) {
            Ok(source) => Next::Serve(source),
            Err(error) => Next::Exit(output::failed(&error)),
        },
        Command::Firewall(command) => exit(commands::firewall::run(&command)),
        Command::Run(args) => Next::Run(Run::from_args(args)),
        Command::Sandbox(SandboxCommand::Serve(args)) => Next::SandboxServe(SandboxServe::from_args(args)),
        Command::Selftest(args) => exit(commands::selftest::run(&args)),
        Command::Suggest(args) => exit(commands::suggest::run(&args)),
        Command::Check(args) => exit(commands::check::run(&args)),
        Command::Explain(args) => exit(commands::explain::run(&args)),
        Command::Reload(args) => exit(commands::reload::run(&args)),
        Command::Health(args) => exit(commands::health::run(&args)),
        Command::Flows(args) => exit(commands::flows::run(&args)),
        Command::Top(args) => exit(commands::top::run(&args)),
        Command::Token(command) => exit(commands::token::run(&command)),
        Command::Quarantine(args) => exit(commands::quarantine::run(&args)),
        Command::Policy(command) => exit(commands::policy::run(&command)),
        Command::Diff(args) => exit(commands::diff::run(&args)),
        Command::Generate(command) => exit(commands::generate::run(&command)),
        Command::Import(command) => exit(commands::import::run(&command)),
        Command::Client(command) => exit(commands::client::run(command)),
        Command::Completions { shell } => exit(commands::docs::completions(shell)),
        Command::Man { directory } => exit(commands::docs::man(directory.as_deref())),
    }
}

fn exit(result: anyhow::Result<Exit>) -> Next {
    Next::Exit(result.map_or_else(|error| output::failed(&error), ExitCode::from))
}
