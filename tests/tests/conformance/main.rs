//! The bypass cases, as bytes on sockets against the real binary.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

mod address;
mod auth;
mod dns;
mod host;
mod http;
mod http2;
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
const MISSING: [&str; 6] = [
    "credential injection",
    "dns firewall",
    "interception",
    "kernel enforcement",
    "path rules",
    "transparent redirection",
];

/// Layers of which every case must be run or be listed by itself.
const DELIVERED_LAYERS: [&str; 10] =
    ["address", "auth", "dns", "host", "http", "http2", "operations", "socks", "tls", "tunnel"];

/// Cases that need another world than this one: users and control groups, in the scenarios of `identity.rs`.
const ELSEWHERE: [&str; 1] = ["AUTH-33"];

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
    let elsewhere = ELSEWHERE.map(str::to_owned);
    let run: BTreeSet<String> = tables().map(|case| base(case.id)).chain(elsewhere).collect();
    let skipped: toml::Table = SKIPPED.parse().context("skip.toml")?;
    let mut problems = Vec::new();
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
    for case in tables() {
        ensure!(case.differs.is_none_or(|why| why.len() > 20), "{}: say why", case.id);
    }
    Ok(())
}
