//! What goes wrong around it: reloads under load, kills, full disks, dead name servers, lost addresses, hostile
//! clients, and everything running out. What is allowed goes on, what fails says so, and all of it comes back.
//!
//! Counts and times are bounded; a limit that has a time in it is waited for ten times as long.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

mod audit;
mod crowd;
mod load;
mod network;
mod noise;

use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result, anyhow};
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{configuration, tunnel};
use exeat_tests::raw::Raw;
use exeat_tests::world::World;
use exeat_tests::{fixture, harness, scenarios};

use audit::*;
use crowd::*;
use load::*;
use network::*;
use noise::*;

fn main() -> ExitCode {
    harness::main(scenarios![
        reloads_under_load_fail_nothing,
        a_kill_loses_no_record_but_the_last,
        a_kill_loses_no_required_record,
        a_stop_under_load_finishes_what_was_accepted,
        connections_in_the_backlog_are_served_before_the_end,
        a_full_disk_stops_no_decision,
        a_full_disk_stops_every_decision_that_must_be_recorded,
        a_file_that_may_not_grow_stops_no_decision,
        a_stuck_sink_loses_records_and_says_how_many,
        a_stuck_sink_stops_every_decision_that_must_be_recorded,
        closed_outputs_stop_nothing,
        an_unread_standard_error_stops_nothing,
        name_servers_that_fail_are_survived,
        half_of_the_addresses_are_lost,
        a_crowd_of_silent_clients_holds_up_nobody,
        descriptors_run_out,
        a_noisy_client_takes_nothing_from_a_quiet_one,
        guessed_passwords_leave_room_for_right_ones,
        slow_sides_hold_no_memory,
    ])
}

/// A configuration that allows `entries`.
fn config(entries: &str, extra: &str) -> String {
    configuration(&format!("allow = [{entries}]"), extra)
}

/// Serves `config` by way of the command `wrapper`.
fn serve_under(world: &World, wrapper: &[&str], config: &str) -> Result<Exeat> {
    Exeat::write_config(world.directory(), config)?;
    let args = ["serve", "--config", "exeat.toml"];
    let mut exeat = Exeat::spawn_as(world.directory(), wrapper, &args, |_| ())?;
    exeat.wait_until_ready()?;
    Ok(exeat)
}

/// The status of a GET for the host on a connection of its own.
fn status(host: &str) -> Result<u16> {
    Ok(fixture::get(&format!("{host}/"))?.0)
}

/// Sends `bytes` through a [`tunnel`] and checks that they come back.
fn echo(tunnel: &mut Raw, bytes: &[u8]) -> Result<()> {
    tunnel.send(bytes)?;
    anyhow::ensure!(tunnel.exactly(bytes.len())? == bytes, "other bytes came back");
    Ok(())
}

/// Runs `work` in as many threads as there are, all at once, and returns what each made.
fn at_once<T: Send>(count: usize, work: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|number| scope.spawn(move || work(number))).collect();
        threads
            .into_iter()
            .enumerate()
            .map(|(number, thread)| {
                let done = thread.join().map_err(|_| anyhow!("client {number} panicked"))?;
                done.with_context(|| format!("client {number}"))
            })
            .collect()
    })
}
