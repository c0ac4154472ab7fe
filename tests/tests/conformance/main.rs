//! The bypass cases, as bytes on sockets against the real binary.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

mod address;
mod auth;
mod dns;
mod host;
mod http;
mod http2;
mod kernel;
mod operations;
mod socks;
mod stage;
mod tls;
mod tokens;
mod tunnel;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use exeat_tests::harness::{self, Scenario};
use serde_json::Value;

use stage::Case;

/// The case list and the list of those that are not run.
const LIST: &str = include_str!("../../conformance/bypass-cases.jsonl");
const SKIPPED: &str = include_str!("../../conformance/skip.toml");

/// What the product lacks: the only grounds on which `skip.toml` may leave a case out. Remove a line when it is built.
const MISSING: [&str; 3] = ["credential injection", "interception", "path rules"];

/// Layers of which every case must be run or be listed by itself.
const DELIVERED_LAYERS: [&str; 11] = [
    "address",
    "auth",
    "dns",
    "enforcement",
    "host",
    "http",
    "http2",
    "operations",
    "socks",
    "tls",
    "tunnel",
];

/// Cases that need another world than these, such as users, control groups and confined commands, with the file and the
/// scenario that has them.
const ELSEWHERE: [(&str, &str, &str); 18] = [
    ("AUTH-33", "identity/local.rs", "fn a_process_is_known_by_its_control_group"),
    ("TLS-19", "names/answers.rs", "fn how_to_connect_is_told_without_ways_past_the_policy"),
    ("TLS-20", "redirected.rs", "fn names_of_one_address_are_told_apart"),
    ("DNS-18", "redirected.rs", "fn names_of_one_address_are_told_apart"),
    ("ENF-01", "sandbox/escapes.rs", "fn addresses_are_reached_without_a_proxy_if_they_are_allowed"),
    ("ENF-02", "sandbox/escapes.rs", "fn names_are_reached_without_a_proxy_if_they_are_allowed"),
    ("ENF-03", "sandbox/escapes.rs", "fn addresses_are_reached_without_a_proxy_if_they_are_allowed"),
    ("ENF-04", "sandbox/escapes.rs", "fn packets_that_are_no_connection_reach_nobody"),
    ("ENF-05", "sandbox/escapes.rs", "fn packets_that_are_no_connection_reach_nobody"),
    ("ENF-06", "sandbox/escapes.rs", "fn addresses_are_reached_without_a_proxy_if_they_are_allowed"),
    ("ENF-08", "sandbox/selftest.rs", "fn the_selftest_finds_every_way_out_shut"),
    ("ENF-09", "sandbox/selftest.rs", "fn the_selftest_finds_every_way_out_shut"),
    ("ENF-11", "sandbox/escapes.rs", "fn namespaces_within_lead_nowhere"),
    ("ENF-12", "sandbox/selftest.rs", "fn the_selftest_finds_every_way_out_shut"),
    // Nothing runs before the rules are there: where they cannot be, nothing runs at all.
    ("ENF-15", "sandbox/refused.rs", "fn without_nft_it_is_not_run"),
    // No connection is older than its network namespace, but one that is handed down.
    ("ENF-17", "sandbox/files.rs", "fn inherited_descriptors_are_closed"),
    ("ENF-21", "sandbox/files.rs", "fn what_others_run_is_not_written"),
    ("ENF-22", "sandbox/limits.rs", "fn a_command_is_held_to_limits_as_a_whole"),
];

fn tables() -> impl Iterator<Item = &'static Case> {
    [
        address::CASES,
        auth::CASES,
        dns::CASES,
        host::CASES,
        http::CASES,
        http2::CASES,
        operations::CASES,
        socks::CASES,
        tls::CASES,
        tokens::CASES,
        tunnel::CASES,
    ]
    .into_iter()
    .flatten()
}

fn main() -> ExitCode {
    let mut scenarios = vec![
        Scenario::plain("every_case_is_run_or_skipped_for_a_reason", every_case_is_accounted_for),
        Scenario::plain("differences_are_explained", differences_are_explained),
    ];
    scenarios.extend(tables().map(|case| Scenario::new(case.id, || case.run())));
    scenarios.extend(kernel::CASES.iter().map(|case| Scenario::new(case.id, || case.run())));
    harness::main(scenarios)
}

/// The cases of the list: id to layer.
fn listed() -> Result<BTreeMap<String, String>> {
    LIST.lines()
        .map(|line| {
            let case: Value = serde_json::from_str(line)?;
            let text =
                |key: &str| case[key].as_str().map(str::to_owned).with_context(|| format!("{key} in {line}"));
            Ok((text("id")?, text("layer")?))
        })
        .collect()
}

/// The id of the listed case that a scenario belongs to: `ADDR-21-under-wide-rules` belongs to `ADDR-21`.
fn base(id: &str) -> String {
    id.splitn(3, '-').take(2).collect::<Vec<_>>().join("-")
}

fn every_case_is_accounted_for() -> Result<()> {
    let listed = listed()?;
    let elsewhere = ELSEWHERE.map(|(id, _, _)| id.to_owned());
    let packets = kernel::CASES.iter().map(|case| base(case.id));
    let run: BTreeSet<String> = tables().map(|case| base(case.id)).chain(packets).chain(elsewhere).collect();
    let skipped: toml::Table = SKIPPED.parse().context("skip.toml")?;
    let mut problems = Vec::new();
    for (id, file, scenario) in ELSEWHERE {
        let text = std::fs::read_to_string(exeat_tests::source::root()?.join("tests/tests").join(file))?;
        if !text.contains(scenario) {
            problems.push(format!("{id} is not in {file} any more"));
        }
    }
    for id in run.iter().chain(skipped.keys()) {
        if !listed.contains_key(id) {
            problems.push(format!("{id} is not in the list"));
        }
    }
    for (id, entry) in &skipped {
        let missing = entry.get("missing").and_then(|v| v.as_str()).unwrap_or_default();
        if !MISSING.contains(&missing) {
            problems
                .push(format!("{id} is skipped for want of {missing:?}, which the product does not lack"));
        }
        if run.contains(id) {
            problems.push(format!("{id} is run and skipped"));
        }
    }
    for (id, layer) in &listed {
        if DELIVERED_LAYERS.contains(&layer.as_str()) && !run.contains(id) && !skipped.contains_key(id) {
            problems.push(format!("{id} ({layer}) is neither run nor skipped"));
        }
    }
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

fn differences_are_explained() -> Result<()> {
    let packets = kernel::CASES.iter().map(|case| (case.id, case.differs));
    for (id, differs) in tables().map(|case| (case.id, case.differs)).chain(packets) {
        ensure!(differs.is_none_or(|why| why.len() > 20), "{id}: say why");
    }
    Ok(())
}
