//! What an operator must be told, and what must not grow or mix.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use exeat_tests::client::{Client, Outcome};
use exeat_tests::exeat::{Exeat, binary};
use exeat_tests::fixture::{PASSWORD, auth, configuration, request, request_with};
use exeat_tests::raw::{Raw, authorization};
use exeat_tests::scrape::{Scrape, scrape};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::stage::{Case, POLICY, Stage, case, refusal};

/// Metrics, and the admin API.
const API: &str = "[api]\nlisten = \"127.0.0.1:9128\"\nsocket = \"s\"\n";
/// A second client that may reach the same.
const OTHER: &str = "[client.other]\npasswords = [\"OTHER_PASSWORD\"]\npolicies = [\"app\"]\n";

pub(crate) const CASES: &[Case] = &[
    case("OPS-02", report_mode_is_visible)
        .policy("mode = \"report\"\nallow = [\"example.com\"]")
        .with(API),
    case("OPS-04", a_bad_file_changes_nothing).with(API),
    case("OPS-05", unknown_keys_are_errors),
    case("OPS-08", hosts_are_no_labels).with(API).differs(
        "two thousand names, of which no more is kept than of a million; the scenario is about their number, not their pace",
    ),
    case("OPS-10", connections_are_of_one_client)
        .with(OTHER)
        .differs("without interception it is plain HTTP whose connections could be shared"),
];

/// Runs a command beside the configuration.
fn command(stage: &Stage, args: &[&str]) -> Result<Outcome> {
    Client::new(binary()?, stage.world.directory()).args(args).run()
}

fn metric(name: &str) -> Result<f64> {
    scrape()?.get(name).copied().with_context(|| format!("no {name}"))
}

fn report_mode_is_visible(stage: &mut Stage) -> Result<()> {
    // In the log, at the start and with every reload.
    let says = "policy `app` does not enforce";
    let at_start = stage.exeat.wait_for_output(says)?.matches(says).count();
    stage.exeat.signal(Signal::SIGHUP)?;
    stage.exeat.until("a warning of the reload", |exeat| {
        Ok((exeat.stderr().matches(says).count() > at_start).then_some(()))
    })?;
    // In the metrics: that there is one, and what it lets through.
    ensure!(metric("exeat_policies_reporting")? == 1.0);
    let mut client = Raw::proxy()?;
    let reply = client.ask(request("GET http://example.org/"))?;
    ensure!(reply.status == 200, "{reply:?}");
    let record = stage.record("the request", |r| r["event"] == "request")?;
    ensure!(record["mode"] == "report" && record["would_deny"] == "host_not_allowed", "{record}");
    ensure!(metric("exeat_would_deny_total{reason=\"host_not_allowed\"}")? == 1.0);
    // In the status.
    let top = command(stage, &["top", "--once", "--interval", "0.1"])?;
    ensure!(top.out.starts_with("REPORT MODE 1  "), "{top:?}");
    // A production profile can forbid it.
    let checked = command(stage, &["check", "--strict"])?;
    ensure!(checked.code == 78 && checked.err.contains(says), "{checked:?}");
    ensure!(command(stage, &["check"])?.code == 0);
    // The twin: what enforces says nothing of the kind.
    Exeat::write_config(stage.world.directory(), &configuration(POLICY, API))?;
    ensure!(command(stage, &["check", "--strict"])?.code == 0);
    stage.exeat.signal(Signal::SIGHUP)?;
    stage.exeat.until("a policy that enforces", |_| {
        Ok((metric("exeat_policies_reporting")? == 0.0).then_some(()))
    })?;
    stage.refuses("GET http://example.org/", refusal(403, "host_not_allowed"))
}

fn a_bad_file_changes_nothing(stage: &mut Stage) -> Result<()> {
    let good = configuration(POLICY, API);
    let twice = format!("{good}[client.app]\npasswords = []\n");
    let unknown = good.replace("deny =", "denied =");
    for (number, (what, bad)) in (1..).zip([
        ("a syntax error", "[policy.app\n"),
        ("an unknown key", &unknown),
        ("a client twice", &twice),
    ]) {
        Exeat::write_config(stage.world.directory(), bad)?;
        stage.exeat.signal(Signal::SIGHUP)?;
        stage.exeat.until(what, |exeat| {
            let refused = exeat.stderr().matches("reload refused").count();
            Ok((refused == number).then_some(()))
        })?;
        ensure!(metric("exeat_config_last_reload_successful")? == 0.0, "{what}");
        ensure!(metric("exeat_policy_revision")? == 1.0, "{what}");
        // Neither more nor less than before.
        stage.gets("http://a.example.org/")?;
        stage.refuses("GET http://bad.example.org/", refusal(403, "host_denied"))?;
        stage.refuses("GET http://evil.test/", refusal(403, "host_not_allowed"))?;
        // At the start there is no old policy: nothing listens.
        let started = command(stage, &["serve", "--config", "exeat.toml"])?;
        ensure!(started.code == 78 && !started.err.contains("listening"), "{what}: {started:?}");
    }
    // Another text than at the start: the same would be the same revision.
    Exeat::write_config(stage.world.directory(), &format!("{good}# Mended.\n"))?;
    stage.exeat.signal(Signal::SIGHUP)?;
    stage.exeat.until("the good one", |_| {
        // It decides a moment before it is said to have been loaded.
        let is_loaded = metric("exeat_config_last_reload_successful")? == 1.0;
        Ok((is_loaded && metric("exeat_policy_revision")? == 2.0).then_some(()))
    })
}

fn unknown_keys_are_errors(stage: &mut Stage) -> Result<()> {
    for (key, suggestion) in [("alow", "allow"), ("allowed", "allow"), ("denny", "deny")] {
        let policy = format!("{key} = [\"example.com\"]");
        Exeat::write_config(stage.world.directory(), &configuration(&policy, ""))?;
        let checked = command(stage, &["check", "--format", "json"])?;
        ensure!(checked.code == 78, "{key}: {checked:?}");
        let problems: Vec<Value> = checked
            .out
            .lines()
            .chain(checked.err.lines())
            .filter_map(|l| serde_json::from_str(l).ok())
            .collect();
        let found = problems.iter().find(|problem| problem["code"] == "unknown_key");
        let found = found.with_context(|| format!("{key}: {problems:?}"))?;
        ensure!(found["line"] == 7 && found["severity"] == "error", "{found}");
        ensure!(found["help"].as_str().is_some_and(|help| help.contains(suggestion)), "{found}");
    }
    let far = configuration("allowed_domain = [\"example.com\"]", "");
    Exeat::write_config(stage.world.directory(), &far)?;
    let checked = command(stage, &["check"])?;
    ensure!(checked.code == 78 && checked.err.contains("unknown key `allowed_domain`"), "{checked:?}");
    ensure!(checked.err.contains("exeat.toml:7:1"), "{checked:?}");
    Ok(())
}

fn hosts_are_no_labels(stage: &mut Stage) -> Result<()> {
    const HOSTS: usize = 2000;
    let names = |scrape: &Scrape| scrape.keys().cloned().collect::<BTreeSet<String>>();
    let before = names(&scrape()?);
    let mut client = Raw::proxy()?;
    for number in 0..HOSTS {
        let reply = client.ask(request_with(&format!("GET http://h{number}.evil.test/"), &auth()))?;
        ensure!(reply.status == 403, "{reply:?}");
    }
    let after = scrape()?;
    ensure!(names(&after) == before, "{:?}", names(&after).symmetric_difference(&before).collect::<Vec<_>>());
    ensure!(!after.keys().any(|name| name.contains("evil") || name.contains("\"app\"")), "{after:?}");
    let denied = after.get("exeat_decisions_total{verdict=\"deny\",reason=\"host_not_allowed\"}");
    ensure!(denied == Some(&2000.0), "{denied:?}");
    // Names go to the audit log, every one of them.
    let records = stage.exeat.audit_until("the records", |records| records.len() == HOSTS)?;
    let named: BTreeSet<&str> = records.iter().filter_map(|r| r["name"].as_str()).collect();
    ensure!(named.len() == HOSTS);
    // What operators are shown is bounded, too, and counts them all.
    let shown = command(stage, &["top", "--json", "--interval", "0.1"])?;
    let shown: Value = serde_json::from_str(&shown.out)?;
    let rows = shown["refusals"].as_array().context("refusals")?;
    let sum: u64 = rows.iter().filter_map(|row| row["count"].as_u64()).sum();
    ensure!(rows.len() <= 512 && sum == 2000, "{} rows, {sum} refusals", rows.len());
    Ok(())
}

/// Connections to an origin are kept for the client that they were opened for, and no other.
fn connections_are_of_one_client(stage: &mut Stage) -> Result<()> {
    let mut accepts = Vec::new();
    for user in ["app", "app", "other", "other", "app"] {
        let mut client = Raw::proxy()?;
        let fields = authorization(user, PASSWORD);
        stage.passes_on(&mut client, request_with("GET http://example.com/", &fields))?;
        accepts.push(stage.world.http.accepts());
    }
    ensure!(accepts == [1, 1, 2, 2, 2], "connections after each request: {accepts:?}");
    Ok(())
}
