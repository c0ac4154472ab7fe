//! Tokens through the real proxy: what they let through and what not, in every protocol, and when that ends.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

mod carried;
mod ends;
mod flags;
mod issued;
mod setup;

use std::process::ExitCode;

use exeat_tests::{harness, scenarios};

use carried::{
    a_token_is_for_its_hosts, curl_shows_what_a_token_lets_through, each_sandbox_has_its_own_allowlist,
    nobody_locks_out_who_has_a_token, tokens_are_carried_by_http2_and_socks,
    tokens_go_no_further_and_are_recorded_without_their_text,
};
use ends::{
    a_key_that_is_taken_away_ends_its_tunnels, a_revocation_ends_tunnels_and_outlives_a_restart,
    an_expiry_ends_openings_and_tunnels_alike, an_issuer_that_binds_its_tokens_ends_those_from_elsewhere,
};
use flags::{
    a_token_for_central_nodes_counts_there_alone, a_token_that_must_use_the_gateway_goes_no_other_way,
    bindings_are_enforced, regulated_traffic_has_its_own_rules_and_tls,
};
use issued::{
    the_admin_api_issues_tokens_and_says_which_side_refuses, the_command_line_makes_tokens_that_count,
};

fn main() -> ExitCode {
    harness::main(scenarios![
        a_token_is_for_its_hosts,
        curl_shows_what_a_token_lets_through,
        tokens_are_carried_by_http2_and_socks,
        tokens_go_no_further_and_are_recorded_without_their_text,
        bindings_are_enforced,
        a_token_for_central_nodes_counts_there_alone,
        a_token_that_must_use_the_gateway_goes_no_other_way,
        regulated_traffic_has_its_own_rules_and_tls,
        an_expiry_ends_openings_and_tunnels_alike,
        a_key_that_is_taken_away_ends_its_tunnels,
        an_issuer_that_binds_its_tokens_ends_those_from_elsewhere,
        a_revocation_ends_tunnels_and_outlives_a_restart,
        nobody_locks_out_who_has_a_token,
        each_sandbox_has_its_own_allowlist,
        the_command_line_makes_tokens_that_count,
        the_admin_api_issues_tokens_and_says_which_side_refuses,
    ])
}
