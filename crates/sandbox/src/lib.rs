//! Runs a command whose only way out is the proxy, whatever the command does.
//!
//! The program starts itself anew. This *stage* (`stage.rs`) makes the namespaces, and a process in them that goes on from there:
//! *init* (`init.rs`), which is process 1 inside. It makes a network that has nothing but loopback, binds in it the sockets that the
//! proxy outside serves, puts out of sight what would lead out, gives up every privilege and runs the command. The stage has ended by
//! then: init is a child of the process that wants the command run, the *launcher* (`launch.rs`). What they tell each other is in
//! `wire.rs`.
//!
//! Each step either succeeds or ends it all: [`Failure`] says which, and what to do about it.
#![deny(unsafe_code)]

mod bare;
mod environment;
mod failure;
mod first;
mod forbidden;
mod groups;
mod init;
mod kin;
mod launch;
mod limited;
mod limits;
mod mounted;
mod mounts;
mod names;
mod network;
mod packets;
mod pause;
mod places;
mod plan;
mod privileges;
mod program;
mod redirect;
mod repository;
mod rules;
mod run_as;
mod runner;
pub mod selftest;
mod signals;
mod sockets;
mod stage;
mod streams;
mod syscalls;
mod wire;

pub use bare::give_back_text;
pub use failure::{Failure, Step};
pub use launch::{Beginning, Outcome, Sandbox, Sockets};
pub use limits::{Exceeded, LimitedBy, Limits};
pub use names::state_folder;
pub use network::{NAMES, PROXY, REDIRECTED};
pub use packets::Packets;
pub use pause::{Paused, Pauser};
pub use places::links;
pub use plan::Plan;
pub use run_as::RunAs;
pub use runner::{Fault, Hidden, Job, NotRun, Runner, Said, Signaller, Supervisor};
pub use signals::{Held, Signals};
pub use wire::Ended;

use std::process::ExitCode;

/// Runs the stage or an attempt of the self-test if that is what this process was started as. Call it before anything
/// else: they need the process to have one thread.
#[must_use]
pub fn run_if_inside() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    match args.next()?.to_str()? {
        launch::STAGE => Some(stage::run(args.collect())),
        limited::LIMITED => Some(limited::run(&args.collect::<Vec<_>>())),
        selftest::ATTEMPTS => Some(selftest::run_all(&args.collect::<Vec<_>>())),
        selftest::ATTEMPT => Some(selftest::run_one(&args.collect::<Vec<_>>())),
        _ => None,
    }
}
