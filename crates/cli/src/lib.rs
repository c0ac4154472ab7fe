//! The command line: arguments as typed, then commands.
//!
//! Everything but `serve` runs here from start to end. `serve` needs every crate put together,
//! which is the binary's work, so it is handed back.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod control;
mod keys;
mod output;

use std::process::ExitCode;

use args::FirewallCommand;
use clap::Parser;

pub use args::{Cli, Command, ServeArgs};
pub use commands::serve::{Source, announce};
pub use output::{Exit, error_text, print_error, print_report, report_text};

/// What the binary does next.
#[derive(Debug)]
pub enum Next {
    /// Nothing: the command has run.
    Exit(ExitCode),
    /// Run the proxy with this configuration.
    Serve(Source),
}

/// Parses the process's arguments and runs the command.
///
/// Ends the process with status 2 and a usage message if the arguments are wrong.
#[must_use]
pub fn run() -> Next {
    match Cli::parse().command {
        Command::Serve(args) => match Source::from_args(args) {
            Ok(source) => Next::Serve(source),
            Err(error) => Next::Exit(output::failed(&error)),
        },
        Command::Firewall(FirewallCommand::Attach(args)) => match Source::attaching(args) {
            Ok(source) => Next::Serve(source),
            Err(error) => Next::Exit(output::failed(&error)),
        },
        Command::Firewall(command) => exit(commands::firewall::run(&command)),
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
