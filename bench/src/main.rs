//! Measures what the proxy costs, beside the least that a proxy can cost. `bench/run` puts the parts together.
#![forbid(unsafe_code)]

mod calls;
mod compare;
mod connects;
mod criterion;
mod dns;
mod floor;
mod generate;
mod head;
mod kernel;
mod load;
mod lookups;
mod names;
mod origin;
mod process;
mod record;
mod report;
mod run;
mod socket;
mod stand_ins;
mod start;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};

/// Load generator, origin, name server and floor for the benchmarks of a proxy.
#[derive(Parser)]
#[command(name = "exeat-bench")]
enum Command {
    /// Serve HTTP on port 9080, an echo on 9007 and HTTPS on 9443
    Origin {
        /// Where `cert.pem` and `key.pem` are
        certificates: PathBuf,
    },
    /// Serve the addresses of the generated names
    Dns {
        /// The address and port
        at: SocketAddr,
    },
    /// Serve CONNECT with as little work as can be
    Floor {
        /// The address and port
        at: SocketAddr,
        /// How many names are allowed
        rules: u64,
    },
    /// Write `ca.pem`, `cert.pem` and `key.pem`
    Certificates {
        /// The folder
        folder: PathBuf,
    },
    /// Print what configurations are made of
    #[command(subcommand)]
    Generate(Generate),
    /// Measure targets against each other, round after round
    Compare(compare::Comparison),
    /// Start a proxy; measure how long it takes, what it holds, and what a reload disturbs
    Start(start::Start),
    /// Ask a name server, and measure how it answers
    Lookups(lookups::Lookups),
    /// Ask for names and connect to them at once, and count what is refused
    Connects(connects::Connects),
    /// Measure what it takes to open something in the kernel, and what a packet costs then
    Kernel(kernel::Kernel),
    /// Measure what addresses that stand for names take
    StandIns(stand_ins::StandIns),
    /// Run a command with and without `exeat run`, and measure what that adds
    Run(run::Runs),
    /// Count the system calls of a connection
    Calls(calls::Count),
    /// Write down what criterion has measured
    Criterion(criterion::Import),
    /// Print the results as Markdown
    Report(report::Report),
}

/// What can be generated.
#[derive(Subcommand)]
enum Generate {
    /// A list of names, one a line
    Rules {
        /// How many
        count: u64,
    },
    /// Sections of clients and of the policies that they share
    Principals {
        /// How many clients
        count: u64,
    },
    /// The value of `Proxy-Authorization`
    Credentials,
    /// The password
    Password,
}

fn main() -> Result<()> {
    raise_descriptor_limit()?;
    match Command::parse() {
        Command::Origin { certificates } => runtime()?.block_on(origin::serve(&certificates)),
        Command::Dns { at } => dns::serve(at),
        Command::Floor { at, rules } => floor::serve(at, rules),
        Command::Certificates { folder } => tls::write_certificates(&folder),
        Command::Generate(Generate::Rules { count }) => generate::rules(count),
        Command::Generate(Generate::Principals { count }) => generate::principals(count),
        Command::Generate(Generate::Credentials) => generate::line(&load::basic_credentials()),
        Command::Generate(Generate::Password) => generate::line(load::PASSWORD),
        Command::Compare(comparison) => runtime()?.block_on(compare::run(&comparison)),
        Command::Start(start) => runtime()?.block_on(start::run(&start)),
        Command::Lookups(lookups) => runtime()?.block_on(lookups::run(&lookups)),
        Command::Connects(connects) => connects::run(&connects),
        Command::Kernel(kernel) => kernel::run(&kernel),
        Command::StandIns(stand_ins) => stand_ins::run(&stand_ins),
        Command::Run(runs) => run::run(&runs),
        Command::Calls(count) => runtime()?.block_on(calls::run(&count)),
        Command::Criterion(import) => criterion::run(&import),
        Command::Report(report) => report::run(&report),
    }
}

/// One thread: the proxy is to have the other cores.
fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// Thousands of tunnels take a descriptor each.
fn raise_descriptor_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}
