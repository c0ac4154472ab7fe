//! What a caller can ask for has bounds.

use std::fs;

use anyhow::{Context, Result, ensure};
use exeat_tests::confined::Starter;
use exeat_tests::harness::Scenario;
use exeat_tests::process_api::Api;
use exeat_tests::world::World;
use serde_json::{Value, json};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut scenarios = by_each_starter![
        what_is_not_understood_is_refused,
        output_is_cut_off_and_that_is_said,
        a_long_summary_is_cut_off_and_that_is_said,
        there_are_no_more_runs_than_may_be,
        time_is_limited,
        limits_are_kept_or_refused,
    ];
    if Starter::all().contains(&Starter::Root) {
        scenarios.push(Scenario::new("memory_is_limited", || memory_is_limited(Starter::Root)));
    }
    scenarios
}

fn what_is_not_understood_is_refused(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let api = Api::start(starter, world.directory(), &[])?;
    let deep = format!("{{\"command\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let long = "x".repeat(40_000);
    let many = vec!["x"; 5000];
    let file = world.directory().join("body");
    for (name, body, want) in [
        ("nothing", String::new(), 400),
        ("no JSON", "command=true".to_owned(), 400),
        ("a list", r#"["true"]"#.to_owned(), 400),
        ("no command", r#"{"args":["true"]}"#.to_owned(), 400),
        ("a member nobody knows", r#"{"command":"true","user":"root"}"#.to_owned(), 400),
        ("one in the policy", r#"{"command":"true","policy":{"allowed":[]}}"#.to_owned(), 400),
        ("one in the limits", r#"{"command":"true","limits":{"memory":1}}"#.to_owned(), 400),
        ("twice", r#"{"command":"true","command":"false"}"#.to_owned(), 400),
        ("something behind", r#"{"command":"true"} {}"#.to_owned(), 400),
        ("too deep", deep, 400),
        ("no text", "{\"command\":\"\\ud800\"}".to_owned(), 400),
        ("a number", r#"{"command":7}"#.to_owned(), 400),
        ("an empty command", r#"{"command":""}"#.to_owned(), 422),
        ("a NUL", r#"{"command":"tr\u0000ue"}"#.to_owned(), 422),
        ("a NUL in an argument", r#"{"command":"true","args":["\u0000"]}"#.to_owned(), 422),
        ("a name that is none", r#"{"command":"true","env":{"A=B":"c"}}"#.to_owned(), 422),
        ("an empty name", r#"{"command":"true","env":{"":"c"}}"#.to_owned(), 422),
        ("a relative directory", r#"{"command":"true","directory":"x"}"#.to_owned(), 422),
        ("two inputs", r#"{"command":"true","stdin":"","stdin_base64":""}"#.to_owned(), 422),
        ("no base64", r#"{"command":"true","stdin_base64":"*"}"#.to_owned(), 422),
        ("long arguments", json!({ "command": "true", "args": [long, long] }).to_string(), 422),
        (
            "control characters",
            json!({ "command": "true", "args": ["\u{1}".repeat(30_000)] }).to_string(),
            422,
        ),
        ("members without names", r#"["true",[],{},null,null,null,null,{},false]"#.to_owned(), 400),
        ("many arguments", json!({ "command": "true", "args": many }).to_string(), 422),
        ("large variables", json!({ "command": "true", "env": { "A": long } }).to_string(), 422),
        ("many entries", json!({ "command": "true", "policy": { "allow": many } }).to_string(), 422),
        ("no time", json!({ "command": "true", "limits": { "seconds": 0 } }).to_string(), 422),
        ("a negative time", json!({ "command": "true", "limits": { "seconds": -1 } }).to_string(), 400),
        ("no processors", json!({ "command": "true", "limits": { "cpus": 0 } }).to_string(), 422),
        ("a large body", format!("{{\"command\":\"true\",\"stdin\":\"{}\"}}", "x".repeat(1 << 20)), 413),
    ] {
        fs::write(&file, body)?;
        let (status, answer) = api.ask("/execute", &["--data-binary", &format!("@{}", file.display())])?;
        ensure!(status == want && answer["error"].is_string(), "{name}: {status} {answer}");
    }
    let (_, list) = api.ask("/runs", &[])?;
    ensure!(list["runs"] == json!([]), "{list}");
    let (status, answer) = api.ask("/runs/%ff/wait", &[])?;
    ensure!(status == 400 && answer["error"].is_string(), "{status} {answer}");
    // As much as there may be.
    let order = json!({
        "command": "sh", "args": ["-c", "echo ${#A}; wc -c", "x".repeat(60_000)],
        "env": { "A": "x".repeat(24_000) }, "stdin": "x".repeat(900_000),
    });
    let (status, run) = api.execute(&order)?;
    ensure!(status == 200 && run["stdout"]["text"] == "24000\n900000\n", "{status} {run}");
    api.exeat.stop()
}

/// However much a command was refused: how it ended is told, and that there was more.
fn a_long_summary_is_cut_off_and_that_is_said(starter: Starter) -> Result<()> {
    const NAMES: usize = 600;
    let world = World::new()?;
    let api = Api::start(starter, world.directory(), &[])?;
    let script = format!(
        "import socket
for some in range(0, {NAMES}, 50):
    proxies = [socket.create_connection(('127.0.0.1', 3128)) for _ in range(50)]
    for number, proxy in enumerate(proxies, some):
        proxy.sendall(b'CONNECT n%d.{long}.test:443 HTTP/1.1\\r\\n\\r\\n' % number)
    for proxy in proxies:
        proxy.recv(65536)
        proxy.close()
raise SystemExit(7)",
        long = [&"x".repeat(60); 3].map(String::as_str).join("."),
    );
    let (status, run) = api.execute(&json!({ "command": "python3", "args": ["-c", script] }))?;
    let end = &run["end"];
    ensure!(status == 200 && end["exit_code"] == 7, "{status} {run}");
    let network = &end["network"];
    let told = network["refused"].as_array().context("no refusals")?.len();
    let left_out = network["left_out"]["refused"].as_u64().context("nothing is said to be left out")?;
    ensure!(told > 50 && left_out > 50, "{told} {left_out}");
    ensure!(network.to_string().len() < 80_000, "{}", network.to_string().len());
    api.exeat.stop()
}

fn output_is_cut_off_and_that_is_said(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let api = Api::start(starter, world.directory(), &[])?;
    let mib = 1 << 20;
    let script = format!(
        "head -c {mib} /dev/zero | tr '\\0' a; head -c 7 /dev/zero | tr '\\0' b; head -c 3 /dev/zero | tr '\\0' c >&2"
    );
    let (status, run) = api.execute(&json!({ "command": "sh", "args": ["-c", script] }))?;
    ensure!(status == 200 && run["end"]["status"] == 0, "{status}");
    let text = run["stdout"]["text"].as_str().context("text")?;
    ensure!(
        text.len() == mib && !text.contains('b') && run["stdout"]["dropped_bytes"] == 7,
        "{}",
        text.len()
    );
    ensure!(run["stderr"]["text"] == "ccc" && run["stderr"]["dropped_bytes"] == 0);
    api.exeat.stop()
}

fn there_are_no_more_runs_than_may_be(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let api = Api::start(starter, world.directory(), &["--runs", "2"])?;
    let order = json!({ "command": "sleep", "args": ["1000"], "detach": true });
    let ids: Vec<String> = (0..2)
        .map(|_| {
            let (status, run) = api.execute(&order)?;
            ensure!(status == 202, "{run}");
            Ok(run["id"].as_str().context("an id")?.to_owned())
        })
        .collect::<Result<_>>()?;
    let (status, refused) = api.execute(&json!({ "command": "true" }))?;
    ensure!(status == 429 && refused["error"].as_str().is_some_and(|error| error.contains('2')), "{refused}");
    let [first, _] = ids.as_slice() else { anyhow::bail!("two") };
    api.ask(&format!("/runs/{first}/signal"), &["-d", r#"{"signal":"KILL"}"#])?;
    let (_, run) = api.ask(&format!("/runs/{first}/wait"), &[])?;
    ensure!(run["end"]["signal"] == 9, "{run}");
    let (status, run) = api.execute(&json!({ "command": "true" }))?;
    ensure!(status == 200, "{run}");
    // Those that have ended are told of.
    let (_, list) = api.ask("/runs", &[])?;
    let runs = list["runs"].as_array().context("runs")?;
    let running = runs.iter().filter(|run| run["state"] == "running").count();
    ensure!(runs.len() == 3 && running == 1, "{list}");
    api.exeat.stop()
}

fn time_is_limited(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let api = Api::start(starter, world.directory(), &["--timeout", "2s"])?;
    let sleep = |limits: Value| json!({ "command": "sleep", "args": ["1000"], "limits": limits });
    for limits in [json!({}), json!({ "seconds": 1 })] {
        let (status, run) = api.execute(&sleep(limits))?;
        ensure!(
            status == 200 && run["end"]["status"] == 124 && run["end"]["limits"] == json!(["timeout"]),
            "{run}"
        );
    }
    let (status, refused) = api.execute(&sleep(json!({ "seconds": 3 })))?;
    ensure!(
        status == 422 && refused["error"].as_str().is_some_and(|error| error.contains("seconds")),
        "{refused}"
    );
    api.exeat.stop()
}

fn limits_are_kept_or_refused(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let flags = ["--limits", "rlimit", "--memory-limit-bytes", "1073741824", "--pids", "50"];
    let api = Api::start(starter, world.directory(), &flags)?;
    let take = |mib: u64, limits: Value| {
        let script = format!("taken = b'x' * ({mib} << 20); print(len(taken) >> 20)");
        json!({ "command": "/usr/bin/python3", "args": ["-c", script], "limits": limits })
    };
    for (name, order, want) in [
        ("what is given", take(600, json!({})), Some("600\n")),
        ("more than that", take(1100, json!({})), None),
        ("less by request", take(600, json!({ "memory_bytes": 536_870_912 })), None),
        ("which is enough", take(60, json!({ "memory_bytes": 536_870_912 })), Some("60\n")),
    ] {
        let (status, run) = api.execute(&order)?;
        ensure!(status == 200, "{name}: {run}");
        let text = run["stdout"]["text"].as_str().filter(|text| !text.is_empty());
        ensure!(text == want, "{name}: {run}");
    }
    for (name, limits, want) in [
        ("more memory than is given", json!({ "memory_bytes": 1_073_741_825_u64 }), 422),
        ("less than a program needs", json!({ "memory_bytes": 1024 }), 422),
        ("more processes than are given", json!({ "pids": 51 }), 422),
        // Nobody here keeps these, so nothing is run.
        ("processors", json!({ "cpus": 1.5 }), 500),
        ("shares of them", json!({ "cpu_shares": 512 }), 500),
    ] {
        let (status, answer) = api.execute(&take(1, limits))?;
        ensure!(status == want && answer["error"].is_string(), "{name}: {status} {answer}");
    }
    api.exeat.stop()
}

fn memory_is_limited(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let flags = ["--memory-limit-bytes", "134217728", "--cpu-shares", "512"];
    let api = Api::start(starter, world.directory(), &flags)?;
    let script = "taken = b'x' * (400 << 20); print(len(taken))";
    let (status, run) = api.execute(&json!({ "command": "/usr/bin/python3", "args": ["-c", script] }))?;
    ensure!(status == 200 && run["end"]["limits"] == json!(["memory"]), "{run}");
    ensure!(run["end"]["status"] == 137 && run["stdout"]["text"] == "", "{run}");
    // Two at a time have groups of their own.
    let (_, one) = api.execute(&json!({ "command": "sleep", "args": ["1000"], "detach": true }))?;
    let (status, two) = api.execute(&json!({ "command": "true" }))?;
    ensure!(one["state"] == "running" && status == 200 && two["end"]["status"] == 0, "{one} {two}");
    api.exeat.stop()
}
