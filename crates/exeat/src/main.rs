//! The one binary: reads the command line, puts the crates together, waits for signals.
#![forbid(unsafe_code)]

mod asking;
mod assemble;
mod cores;
mod descriptors;
mod firewall;
mod inherited;
mod listening;
mod local;
mod log;
mod notify;
mod process_api;
mod processes;
mod question;
mod recorded;
mod reloader;
mod run;
mod runner;
mod signals;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use exeat_cli::{Exit, Next, Source};
use exeat_policy::Revision;
use exeat_sandbox::Supervisor;
use exeat_store::Options;
use tikv_jemallocator::Jemalloc;
use tracing_subscriber::EnvFilter;

/// Gives memory back when connections have ended: docs/adr/0028-jemalloc-gives-memory-back.md.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

use crate::log::Log;

/// The log shows what an operator has to know unless `RUST_LOG` says otherwise.
const LOG_FILTER_DEFAULT: &str = "info";

/// How long the last log lines may take to be read when the program ends.
const LOG_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    if let Some(code) = exeat_sandbox::run_if_inside() {
        return code;
    }
    if let Some(code) = question::run_if_asked() {
        return code;
    }
    if let Some(supervisor) = Supervisor::of_this_process() {
        return runner::run(supervisor);
    }
    match exeat_cli::run() {
        Next::Exit(code) => code,
        Next::Serve(source) => serve(source),
        Next::Run(command) => run::run(&command),
        Next::SandboxServe(options) => process_api::serve(&options),
    }
}

fn serve(source: Source) -> ExitCode {
    let log = match start_log(LOG_FILTER_DEFAULT) {
        Ok(log) => log,
        Err(error) => {
            exeat_cli::print_error(&error);
            return Exit::Failure.into();
        }
    };
    let loaded = match source.load(&Options::new(Revision(1))) {
        Ok(loaded) => loaded,
        Err(report) => {
            exeat_cli::print_report(&report);
            return Exit::Config.into();
        }
    };
    exeat_cli::print_report(&loaded.warnings);
    log.take_panics();
    let code = match assemble::run(source, loaded, &log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.say(&exeat_cli::error_text(&error));
            Exit::Failure.into()
        }
    };
    log.finish(LOG_FLUSH_TIMEOUT);
    code
}

/// Starts the log, which shows what the filter of this name lets through unless `RUST_LOG` says otherwise.
fn start_log(filter: &str) -> anyhow::Result<Log> {
    let log = Log::start().context("cannot start the log")?;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(filter));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(log.clone())
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // It would report a log that cannot be written in the log, and panic when that cannot be written.
        .log_internal_errors(false)
        .init();
    Ok(log)
}
