//! The firewall as real clients meet it: two networks behind one router that runs the product, each with a policy of its own.
//!
//! Nothing here is told of a proxy. What is refused is refused by a reset or by an error of ICMP, and never by silence.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

mod calls;
mod changes;
mod clients;
mod killed;
mod late;
mod many;

use std::process::ExitCode;

use exeat_tests::{harness, scenarios};

use calls::lookups_start_no_process;
use changes::{
    a_quarantine_cuts_one_client, a_reload_cuts_what_it_no_longer_allows, bad_reloads_change_nothing,
};
use clients::{
    a_browser_loads_what_its_policy_names, curl_reaches_what_its_policy_names, dig_is_told_why,
    git_and_ssh_reach_what_their_policy_names, psql_reaches_what_its_policy_names,
};
use killed::{killed_and_started_again_nothing_leaks, the_next_process_closes_what_its_policy_does};
use late::who_comes_too_late_is_on_record_as_that;
use many::{much_is_taken_away_at_once_and_nobody_else_waits, the_next_process_takes_much_away_at_once};

fn main() -> ExitCode {
    harness::main(scenarios![
        curl_reaches_what_its_policy_names,
        git_and_ssh_reach_what_their_policy_names,
        psql_reaches_what_its_policy_names,
        dig_is_told_why,
        a_browser_loads_what_its_policy_names,
        a_reload_cuts_what_it_no_longer_allows,
        a_quarantine_cuts_one_client,
        bad_reloads_change_nothing,
        killed_and_started_again_nothing_leaks,
        the_next_process_closes_what_its_policy_does,
        who_comes_too_late_is_on_record_as_that,
        lookups_start_no_process,
        much_is_taken_away_at_once_and_nobody_else_waits,
        the_next_process_takes_much_away_at_once,
    ])
}
