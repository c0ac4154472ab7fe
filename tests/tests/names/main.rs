//! The policy server for names: who may ask for what, and what they are told.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

mod answers;
mod clients;
mod collector;
mod hostile;
mod limits;
mod setup;

use std::process::ExitCode;

use exeat_tests::{harness, scenarios};

use answers::{
    addresses_are_one_decision_for_both_families, aliases_belong_to_the_asked_name,
    how_to_connect_is_told_without_ways_past_the_policy, names_of_addresses_are_those_that_were_told,
    other_types_are_passed_on_where_told, times_to_live_are_short, what_is_denied_is_told_as_configured,
};
use clients::{
    curl_and_getent_use_it_as_their_resolver, dig_by_udp_and_tcp, each_client_has_its_own_policy,
    every_address_of_both_families_is_served, no_answer_without_its_record,
    report_mode_lets_names_through_and_says_so, what_decides_changes_at_once,
};
use collector::{
    a_collector_is_told_what_is_asked_and_decided, a_collector_that_comes_and_goes_delays_no_answer,
};
use hostile::{
    connections_that_are_slow_or_hasty, every_message_has_its_answer_and_its_record,
    forged_answers_of_servers_are_ignored, letters_come_back_in_their_case,
};
use limits::{
    a_source_may_ask_so_often, connections_are_bounded, names_under_a_wildcard_are_bounded,
    questions_that_wait_are_bounded, virtual_addresses_run_out, what_asks_nothing_counts_too,
};

fn main() -> ExitCode {
    harness::main(scenarios![
        dig_by_udp_and_tcp,
        each_client_has_its_own_policy,
        every_address_of_both_families_is_served,
        what_decides_changes_at_once,
        curl_and_getent_use_it_as_their_resolver,
        report_mode_lets_names_through_and_says_so,
        no_answer_without_its_record,
        what_is_denied_is_told_as_configured,
        addresses_are_one_decision_for_both_families,
        aliases_belong_to_the_asked_name,
        how_to_connect_is_told_without_ways_past_the_policy,
        other_types_are_passed_on_where_told,
        names_of_addresses_are_those_that_were_told,
        times_to_live_are_short,
        every_message_has_its_answer_and_its_record,
        letters_come_back_in_their_case,
        connections_that_are_slow_or_hasty,
        forged_answers_of_servers_are_ignored,
        names_under_a_wildcard_are_bounded,
        a_source_may_ask_so_often,
        what_asks_nothing_counts_too,
        questions_that_wait_are_bounded,
        connections_are_bounded,
        virtual_addresses_run_out,
        a_collector_is_told_what_is_asked_and_decided,
        a_collector_that_comes_and_goes_delays_no_answer,
    ])
}
