//! A run ends with whoever has asked for it, and with the server, however that ends.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use exeat_tests::confined::Starter;
use exeat_tests::harness::Scenario;
use exeat_tests::process_api::{ADDRESS, Api};
use exeat_tests::world::World;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

pub(crate) fn scenarios() -> Vec<Scenario> {
    by_each_starter![
        a_run_ends_when_its_caller_goes,
        runs_are_told_to_end_when_the_server_is,
        a_server_that_is_killed_leaves_nothing_behind,
    ]
}

/// A command that does not want to end, and has started others.
fn stubborn() -> Value {
    let script =
        "trap '' TERM HUP INT; (setsid sleep 1000) & sleep 1000 & echo ready; while :; do sleep 1; done";
    json!({ "command": "sh", "args": ["-c", script], "detach": true })
}

/// All processes that descend from this one, as far as they have not ended.
pub(crate) fn descendants(of: u32) -> Result<BTreeSet<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(process) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        if let Some(parent) = parent(process) {
            parents.push((process, parent));
        }
    }
    let mut found = BTreeSet::from([of]);
    loop {
        let before = found.len();
        found.extend(
            parents
                .iter()
                .filter(|(_, parent)| found.contains(parent))
                .map(|(process, _)| *process)
                .collect::<Vec<_>>(),
        );
        if found.len() == before {
            found.remove(&of);
            return Ok(found);
        }
    }
}

/// The parent of a process; `None` if it has ended, whether somebody has noticed or not.
fn parent(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The state comes after the name, which is in parentheses and may hold some itself.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    fields.next()?.parse().ok().filter(|_| state != "Z" && state != "X")
}

fn start_two(api: &Api) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for _ in 0..2 {
        let (status, run) = api.execute(&stubborn())?;
        ensure!(status == 202, "{run}");
        let id = run["id"].as_str().context("an id")?.to_owned();
        let mut looks = 0;
        while api.ask(&format!("/runs/{id}"), &[])?.1["stdout"]["text"] != "ready\n" {
            looks += 1;
            ensure!(looks < 500, "it is never ready");
        }
        ids.push(id);
    }
    Ok(ids)
}

fn a_run_ends_when_its_caller_goes(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let mut api = Api::start(starter, world.directory(), &[])?;
    let mut order = stubborn();
    order["detach"] = json!(false);
    let file = world.directory().join("held.json");
    fs::write(&file, order.to_string())?;
    let field = api.authorization();
    let body = format!("@{}", file.display());
    let mut caller = std::process::Command::new("curl")
        .args(["-sS", "-H", &field, "--data-binary", &body, &format!("http://{ADDRESS}/execute")])
        .stdout(Stdio::null())
        .spawn()?;
    api.exeat.until_logged("a command runs")?;
    let (_, list) = api.ask("/runs", &[])?;
    ensure!(list["runs"][0]["state"] == "running", "{list}");
    caller.kill()?;
    caller.wait()?;
    api.exeat.until_logged("a command has ended")?;
    let (_, list) = api.ask("/runs", &[])?;
    ensure!(list["runs"][0]["end"]["signal"] == 9, "{list}");
    let server = api.exeat.id();
    api.exeat.until("its processes to have ended", |_| Ok(descendants(server)?.is_empty().then_some(())))?;
    api.exeat.stop()
}

fn runs_are_told_to_end_when_the_server_is(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let api = Api::start(starter, world.directory(), &[])?;
    start_two(&api)?;
    let polite = json!({
        "command": "sh", "detach": true,
        "args": ["-c", "trap 'echo bye > said; exit 0' TERM; while :; do sleep 0.05; done"],
    });
    let (status, run) = api.execute(&polite)?;
    ensure!(status == 202, "{run}");
    let left = descendants(api.exeat.id())?;
    ensure!(left.len() > 9, "each has a runner, init, the command and what that has started: {left:?}");
    let mut exeat = api.exeat;
    // It may have set its trap by now or be ended by the signal: both are its end.
    exeat.signal(Signal::SIGTERM)?;
    let status = exeat.wait()?;
    ensure!(status.success(), "{status}: {}", exeat.stderr());
    exeat.until("nothing to be left", |_| {
        Ok(left.iter().all(|process| parent(*process).is_none()).then_some(()))
    })
}

fn a_server_that_is_killed_leaves_nothing_behind(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let api = Api::start(starter, world.directory(), &[])?;
    start_two(&api)?;
    let left = descendants(api.exeat.id())?;
    ensure!(left.len() > 9, "each has a runner, init, the command and what that has started: {left:?}");
    let mut exeat = api.exeat;
    exeat.signal(Signal::SIGKILL)?;
    exeat.wait()?;
    exeat.until("nothing to be left", |_| {
        Ok(left.iter().all(|process| parent(*process).is_none()).then_some(()))
    })
}
