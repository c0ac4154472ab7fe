//! Changes of what decides and of what is open leave a record each: who asked, what was replaced by what, what came of it.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use exeat_tests::api;
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{ask, configuration, get, tunnel};
use exeat_tests::namespace::PROXY;
use exeat_tests::world::World;
use exeat_tests::{harness, scenarios};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn main() -> ExitCode {
    harness::main(scenarios![
        reloads_are_recorded,
        what_is_put_and_put_back_is_recorded,
        what_ends_flows_is_recorded,
        a_change_needs_no_room_and_is_recorded_before_what_it_allows,
    ])
}

const MAIL: &str = "\"mail.example.org:25\"";
const MORE: &str = "\"mail.example.org:25\", \"example.com\", \"example.org\"";

/// A whole configuration, as it is in the file.
fn document(world: &World, allow: &str) -> String {
    let audit = world.directory().join("audit.jsonl");
    let extra = "[api]\nsocket = \"s\"\n[state]\ndirectory = \"state\"\n";
    configuration(&format!("allow = [{allow}]"), extra).replace("AUDIT", &audit.to_string_lossy())
}

fn serve(world: &World) -> Result<Exeat> {
    fs::create_dir_all(world.directory().join("state"))?;
    Exeat::serve(world.directory(), &document(world, MAIL), PROXY)
}

fn api(world: &World, line: &str, fields: &str, body: &str) -> Result<(u16, Value)> {
    api::ask(&world.directory().join("s"), line, fields, body.as_bytes())
}

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Waits for the record of a change with this number, counted from 1, and returns it.
fn record(exeat: &mut Exeat, number: usize) -> Result<Value> {
    let of_changes = |records: &[Value]| -> Vec<Value> {
        records.iter().filter(|record| record["event"] == "control").cloned().collect()
    };
    let records =
        exeat.audit_until("the records of changes", |records| of_changes(records).len() >= number)?;
    let changes = of_changes(&records);
    ensure!(changes.len() == number, "{changes:#?}");
    changes.last().cloned().context("a record")
}

/// Checks the newest record of a change: what decides from then on, and what it says.
fn is_recorded(exeat: &mut Exeat, number: usize, revision: u64, want: &Value) -> Result<()> {
    let got = record(exeat, number)?;
    ensure!(
        got["v"] == 1 && got["revision"] == revision && got["control"] == *want,
        "{got:#} is not {want:#}"
    );
    Ok(())
}

fn reloads_are_recorded() -> Result<()> {
    let world = World::new()?;
    let mut exeat = serve(&world)?;
    let (first, second) = (document(&world, MAIL), document(&world, MORE));
    let uid = geteuid().as_raw();
    let (_, answer) = api(&world, "POST /v1/reload", "", "")?;
    ensure!(answer["changed"] == false, "{answer}");
    let want = json!({
        "action": "reload", "by": "api", "uid": uid, "result": "unchanged", "old_revision": 1, "digest": digest(&first),
    });
    is_recorded(&mut exeat, 1, 1, &want)?;

    Exeat::write_config(world.directory(), &second)?;
    exeat.signal(Signal::SIGHUP)?;
    let want = json!({
        "action": "reload", "by": "signal", "result": "done", "old_revision": 1, "digest": digest(&second),
        "gained": 2, "lost": 0,
    });
    is_recorded(&mut exeat, 2, 2, &want)?;

    let bad = document(&world, "\"*.com\", \"https://example.com/secret\"");
    Exeat::write_config(world.directory(), &bad)?;
    exeat.signal(Signal::SIGHUP)?;
    let file = world.directory().join("exeat.toml");
    let error = format!(
        "the configuration has errors, so the policy in use stays: invalid_entry at {}:7:10 and 1 more",
        file.display()
    );
    let want = json!({
        "action": "reload", "by": "signal", "result": "refused", "digest": digest(&bad), "error": error,
    });
    is_recorded(&mut exeat, 3, 2, &want)?;
    exeat.stop()
}

fn what_is_put_and_put_back_is_recorded() -> Result<()> {
    let world = World::new()?;
    let mut exeat = serve(&world)?;
    let (first, second) = (document(&world, MAIL), document(&world, MORE));
    let uid = geteuid().as_raw();
    let asked =
        |action: &str, result: &str| json!({ "action": action, "by": "api", "uid": uid, "result": result });
    let with = |mut record: Value, more: Value| -> Result<Value> {
        let members = record.as_object_mut().context("an object")?;
        members.extend(more.as_object().cloned().context("an object")?);
        Ok(record)
    };
    // What is only asked about is no change, whatever would come of it.
    for (line, body, status) in [
        ("PUT /v1/policy?dry_run=true", second.as_str(), 200),
        ("PUT /v1/policy?dry_run=true", "nonsense", 422),
        ("POST /v1/policy/rollback?dry_run=true", "{\"revision\":9}", 404),
        ("POST /v1/policy/diff", &second, 200),
    ] {
        let (got, answer) = api(&world, line, "", body)?;
        ensure!(got == status, "{line}: {answer}");
    }
    let (status, _) = api(&world, "PUT /v1/policy", "If-Match: \"1\"\r\n", &second)?;
    ensure!(status == 200);
    let want = json!({ "old_revision": 1, "digest": digest(&second), "gained": 2, "lost": 0 });
    is_recorded(&mut exeat, 1, 2, &with(asked("put", "done"), want)?)?;

    let (status, _) = api(&world, "PUT /v1/policy", "If-Match: \"1\"\r\n", &first)?;
    ensure!(status == 412);
    let error = "revision 2 decides, another one than was named";
    let want = json!({ "digest": digest(&first), "error": error });
    is_recorded(&mut exeat, 2, 2, &with(asked("put", "refused"), want)?)?;

    let (status, _) = api(&world, "POST /v1/policy/rollback", "", "{\"revision\":1}")?;
    ensure!(status == 200);
    let want = json!({ "old_revision": 2, "restored": 1, "digest": digest(&first), "gained": 0, "lost": 2 });
    is_recorded(&mut exeat, 3, 3, &with(asked("rollback", "done"), want)?)?;

    let (status, _) = api(&world, "POST /v1/policy/rollback", "", "{\"revision\":9}")?;
    ensure!(status == 404);
    let want = json!({ "restored": 9, "error": "revision 9 is not kept" });
    is_recorded(&mut exeat, 4, 3, &with(asked("rollback", "refused"), want)?)?;
    exeat.stop()
}

fn what_ends_flows_is_recorded() -> Result<()> {
    let world = World::new()?;
    let mut exeat = serve(&world)?;
    let uid = geteuid().as_raw();
    let mut number = 0;
    let mut check = |exeat: &mut Exeat, line: &str, body: &str, status: u16, want: &Value| -> Result<()> {
        let (got, answer) = api(&world, line, "", body)?;
        ensure!(got == status, "{line}: {answer}");
        number += 1;
        let mut want = want.clone();
        want["by"] = json!("api");
        want["uid"] = json!(uid);
        is_recorded(exeat, number, 1, &want).with_context(|| line.to_owned())
    };
    let client = "{\"client\":\"app\"}";
    let mut open = tunnel("mail.example.org")?;
    let want = json!({ "action": "quarantine", "result": "done", "target": "client app", "flows": 1 });
    check(&mut exeat, "POST /v1/quarantine", client, 200, &want)?;
    open.closed()?;
    let want = json!({ "action": "release", "result": "done", "target": "client app" });
    check(&mut exeat, "DELETE /v1/quarantine?client=app", "", 200, &want)?;
    let want = json!({ "action": "release", "result": "unchanged", "target": "client app" });
    check(&mut exeat, "DELETE /v1/quarantine?client=app", "", 404, &want)?;

    let mut open = tunnel("mail.example.org")?;
    let target = "client app, to mail.example.org";
    let want = json!({ "action": "cut", "result": "done", "target": target, "flows": 1 });
    check(&mut exeat, "DELETE /v1/flows?client=app&target=mail.example.org", "", 200, &want)?;
    open.closed()?;
    let want = json!({ "action": "cut", "result": "unchanged", "target": "flow 999", "flows": 0 });
    check(&mut exeat, "DELETE /v1/flows/999", "", 404, &want)?;

    // A quarantine that cannot be kept holds all the same, and the record says both.
    fs::remove_dir_all(world.directory().join("state"))?;
    let cause = ": No such file or directory (os error 2)";
    let error = format!("cannot write {}{cause}", world.directory().join("state/quarantine").display());
    let want = json!({ "action": "quarantine", "result": "done", "target": "client app", "error": error });
    check(&mut exeat, "POST /v1/quarantine", client, 500, &want)?;
    let (_, refused) = ask("CONNECT mail.example.org:25")?;
    ensure!(refused.status == 403, "{refused:?}");
    exeat.stop()
}

/// A small disk that is full, and what fills it.
fn full_disk(world: &World) -> Result<(PathBuf, PathBuf)> {
    let disk = world.directory().join("disk");
    fs::create_dir(&disk)?;
    mount(Some("tmpfs"), &disk, Some("tmpfs"), MsFlags::empty(), Some("size=65536"))
        .context("mount a tmpfs")?;
    let ballast = disk.join("ballast");
    // One page is left, so that the log begins well.
    fs::write(&ballast, vec![0; 65536 - 4096])?;
    Ok((disk.join("audit.jsonl"), ballast))
}

fn a_change_needs_no_room_and_is_recorded_before_what_it_allows() -> Result<()> {
    let world = World::new()?;
    let (log, ballast) = full_disk(&world)?;
    fs::create_dir_all(world.directory().join("state"))?;
    let config = |allow| {
        let document = document(&world, allow);
        let (head, rest) = document.split_once("file = \"").unwrap_or_default();
        let rest = rest.split_once('"').unwrap_or_default().1;
        format!("{head}file = \"{}\"\nrequired = true{rest}", log.display())
    };
    let mut exeat = Exeat::serve(world.directory(), &config(MAIL), PROXY)?;
    let unavailable = |(status, reason): &(u16, Option<String>)| {
        *status == 503 && reason.as_deref() == Some("audit_unavailable")
    };
    let asked = || -> Result<(u16, Option<String>)> {
        let (_, reply) = ask("CONNECT mail.example.org:25")?;
        Ok((reply.status, reply.head.field("x-deny-reason").map(str::to_owned)))
    };
    exeat.until("the disk to be full", |_| Ok(unavailable(&asked()?).then_some(())))?;
    let (status, answer) = api(&world, "PUT /v1/policy", "", &config(MORE))?;
    ensure!(status == 200 && answer["revision"] == 2, "{answer}");
    let (status, _) = api(&world, "POST /v1/quarantine", "", "{\"label\":\"space=none\"}")?;
    ensure!(status == 200);
    ensure!(get("example.com/")?.0 == 503 && world.http.requests().is_empty());
    fs::remove_file(ballast)?;
    exeat.until("room", |_| Ok((get("example.com/")?.0 == 200).then_some(())))?;
    exeat.stop()?;
    let text = fs::read_to_string(log)?;
    let records: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let place = |wanted: &dyn Fn(&Value) -> bool| records.iter().position(wanted);
    let put = place(&|r| r["control"]["action"] == "put").context("the put")?;
    let quarantine = place(&|r| r["control"]["action"] == "quarantine").context("the quarantine")?;
    let allowed = place(&|r| r["verdict"] == "allow" && r["revision"] == 2).context("what is allowed")?;
    ensure!(put < quarantine && quarantine < allowed, "{put} {quarantine} {allowed}");
    ensure!(!records.iter().any(|r| r["event"] == "lost"), "{records:#?}");
    Ok(())
}
