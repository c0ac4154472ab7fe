//! The one binary: reads the command line, puts the crates together, waits for signals.
#![forbid(unsafe_code)]

mod assemble;
mod descriptors;
mod inherited;
mod notify;
mod signals;

use std::io::IsTerminal;
use std::process::ExitCode;

use exeat_cli::{Exit, Next, Source};
use exeat_policy::Revision;
use exeat_store::Options;
use tracing_subscriber::EnvFilter;

/// The log shows what an operator has to know unless `RUST_LOG` says otherwise.
const LOG_FILTER_DEFAULT: &str = "info";

fn main() -> ExitCode {
    match exeat_cli::run() {
        Next::Exit(code) => code,
        Next::Serve(source) => serve(source),
    }
}

fn serve(source: Source) -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG_FILTER_DEFAULT));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // It would report a log that cannot be written in the log, and panic when that cannot be written.
        .log_internal_errors(false)
        .init();
    let loaded = match source.load(&Options::new(Revision(1))) {
        Ok(loaded) => loaded,
        Err(report) => {
            exeat_cli::print_report(&report);
            return Exit::Config.into();
        }
    };
    exeat_cli::print_report(&loaded.warnings);
    match assemble::run(source, loaded) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            exeat_cli::print_error(&error);
            Exit::Failure.into()
        }
    }
}
