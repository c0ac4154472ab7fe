//! Who asks: workloads by where they come from, and how proofs combine.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

mod containers;
mod ends;
mod guessing;
mod local;
mod setup;
mod table;

use std::process::ExitCode;

use exeat_tests::{harness, scenarios};

use containers::{
    a_container_with_one_cable_is_known_by_the_cable, a_container_without_a_network_goes_out_by_its_socket,
    who_has_gone_before_anybody_looked_did_not_come_by_a_device,
};
use ends::{
    a_workload_in_quarantine_reaches_nothing_with_any_password, flows_end_with_the_place_that_proved_them,
};
use guessing::{
    who_guesses_by_one_socket_does_not_make_another_wait, who_guesses_many_at_once_gains_nothing,
    who_guesses_waits_and_nobody_else,
};
use local::{
    a_local_client_is_known_by_its_user, a_process_is_known_by_its_control_group,
    a_unix_socket_is_for_whom_its_file_is, who_has_gone_before_anybody_looked_is_nobody,
    who_was_not_asked_for_when_it_came_is_nobody_after_a_reload,
};
use table::{
    every_combination_of_proofs_is_as_the_table_says, explain_tells_whether_a_password_counts,
    headers_say_nothing_of_the_place_and_trusted_senders_do,
};

fn main() -> ExitCode {
    harness::main(scenarios![
        every_combination_of_proofs_is_as_the_table_says,
        headers_say_nothing_of_the_place_and_trusted_senders_do,
        a_local_client_is_known_by_its_user,
        who_has_gone_before_anybody_looked_is_nobody,
        who_has_gone_before_anybody_looked_did_not_come_by_a_device,
        who_was_not_asked_for_when_it_came_is_nobody_after_a_reload,
        a_container_without_a_network_goes_out_by_its_socket,
        a_unix_socket_is_for_whom_its_file_is,
        a_process_is_known_by_its_control_group,
        a_container_with_one_cable_is_known_by_the_cable,
        flows_end_with_the_place_that_proved_them,
        a_workload_in_quarantine_reaches_nothing_with_any_password,
        explain_tells_whether_a_password_counts,
        who_guesses_waits_and_nobody_else,
        who_guesses_many_at_once_gains_nothing,
        who_guesses_by_one_socket_does_not_make_another_wait,
    ])
}
