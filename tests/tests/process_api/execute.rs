//! What is run: as asked, confined, each command by itself.

use std::fs;

use anyhow::{Context, Result, ensure};
use exeat_tests::confined::Starter;
use exeat_tests::harness::Scenario;
use exeat_tests::process_api::Api;
use exeat_tests::world::World;
use serde_json::{Value, json};

pub(crate) fn scenarios() -> Vec<Scenario> {
    by_each_starter![
        a_command_is_run_as_asked,
        only_what_its_policy_allows_is_reached,
        the_secret_and_the_host_are_out_of_sight,
        what_cannot_be_run_is_said,
        runs_are_listed_waited_for_and_signalled,
    ]
}

fn shell(script: &str) -> Value {
    json!({ "command": "sh", "args": ["-c", script] })
}

fn a_command_is_run_as_asked(starter: Starter) -> Result<()> {
    let world = World::new()?;
    fs::create_dir(world.directory().join("inner"))?;
    let api = Api::start(starter, world.directory(), &[])?;
    let inner = world.directory().join("inner");
    let (status, run) = api.execute(&json!({
        "command": "sh",
        "args": ["-c", "pwd; echo \"$GREETING $http_proxy $1\"; cat; printf err >&2; exit 3", "sh", "a b"],
        "env": { "GREETING": "hello", "http_proxy": "http://elsewhere.test:1" },
        "stdin": "from the caller\n",
        "directory": inner,
    }))?;
    ensure!(status == 200 && run["state"] == "ended", "{run}");
    let want = format!("{}\nhello http://127.0.0.1:3128 a b\nfrom the caller\n", inner.display());
    ensure!(run["stdout"]["text"] == want && run["stderr"]["text"] == "err", "{run}");
    ensure!(run["end"]["status"] == 3 && run["end"]["exit_code"] == 3, "{run}");
    let (_, run) = api.execute(&shell("kill -KILL $$"))?;
    ensure!(run["end"]["status"] == 137 && run["end"]["signal"] == 9, "{run}");
    ensure!(run["end"]["exit_code"].is_null(), "{run}");
    let (_, run) = api.execute(&json!({
        "command": "cat", "stdin_base64": "/wD+",
    }))?;
    ensure!(run["stdout"]["base64"] == "/wD+" && run["stdout"]["text"].is_null(), "{run}");
    // No more input than was sent, and nothing of the server's own.
    let (_, run) = api.execute(&json!({ "command": "cat" }))?;
    ensure!(run["stdout"]["text"] == "" && run["end"]["status"] == 0, "{run}");
    api.exeat.stop()
}

fn only_what_its_policy_allows_is_reached(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let mut api = Api::start(starter, world.directory(), &[])?;
    let script = "curl -sS http://example.com/; curl -sS -o refused http://evil.test:8080/; \
        curl -sS --noproxy '*' http://other.test/; env -i curl -sS -m 5 http://93.184.216.66/; exit 0";
    let order = |allow: &[&str]| json!({ "command": "sh", "args": ["-c", script], "policy": { "allow": allow, "deny": ["evil.test"] } });
    let (status, run) = api.execute(&order(&["example.com", "evil.test"]))?;
    ensure!(status == 200, "{run}");
    let text = run["stdout"]["text"].as_str().context("text")?;
    ensure!(text.starts_with("hello from example.com\n"), "{run}");
    ensure!(world.http.accepts() == 1 && world.accepts() == 1, "{:?}", world.reached());
    let network = &run["end"]["network"];
    ensure!(network["allowed"][0]["target"] == "example.com:80", "{run}");
    let refused: Vec<&Value> = network["refused"].as_array().context("refused")?.iter().collect();
    let reason =
        |target: &str| refused.iter().find(|row| row["target"] == target).map(|row| row["reason"].clone());
    ensure!(reason("evil.test:8080") == Some(json!("host_denied")), "{run}");
    ensure!(reason("93.184.216.66:80") == Some(json!("ip_literal_not_allowed")), "{run}");
    // The next command has none of that.
    let (_, second) = api.execute(&order(&[]))?;
    ensure!(second["end"]["network"]["allowed"] == json!([]), "{second}");
    ensure!(world.accepts() == 1, "{:?}", world.reached());
    // Each is a principal of its own.
    let records = api.exeat.audit_until("the records of both", |records| {
        [&run, &second]
            .iter()
            .all(|run| records.iter().any(|record| record["principal"]["name"] == run["id"]))
    })?;
    let of = |run: &Value, host: &str| {
        let mut own = records.iter().filter(|record| record["principal"]["name"] == run["id"]);
        own.any(|record| record["name"] == host && record["verdict"] == "allow")
    };
    ensure!(of(&run, "example.com") && !of(&second, "example.com"), "{records:#?}");
    ensure!(
        run["id"] != second["id"] && run["id"].as_str().is_some_and(|id| id.starts_with("run-")),
        "{run}"
    );
    api.exeat.stop()
}

fn the_secret_and_the_host_are_out_of_sight(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let file = world.directory().join("state/secret");
    let api = Api::start(starter, world.directory(), &[])?;
    let script = format!(
        "cat {0}; cat {0}~; env; cat /proc/*/environ; ls /proc | grep -c '^[0-9]'; mv {1} {1}-elsewhere; cat {1}-elsewhere/secret",
        file.display(),
        world.directory().join("state").display()
    );
    let (status, run) = api.execute(&shell(&script))?;
    ensure!(status == 200, "{run}");
    ensure!(!run.to_string().contains(&api.secret), "{run}");
    ensure!(!run["stdout"]["text"].as_str().context("text")?.contains("PROCESS_API"), "{run}");
    // A command of the server's own user cannot move it; where somebody else has, none is run any more that could read it.
    let (here, elsewhere) = (world.directory().join("state"), world.directory().join("state-elsewhere"));
    ensure!(elsewhere.exists() == (starter == Starter::Root), "{run}");
    if here.exists() {
        fs::rename(&here, &elsewhere)?;
    }
    let (status, answer) = api.execute(&shell("cat state-elsewhere/secret"))?;
    ensure!(!answer.to_string().contains(&api.secret), "{answer}");
    let want = if starter == Starter::Root { 200 } else { 500 };
    ensure!(
        status == want
            && answer.to_string().contains(if want == 200 { "Permission denied" } else { "hidden" }),
        "{answer}"
    );
    api.exeat.stop()
}

fn what_cannot_be_run_is_said(starter: Starter) -> Result<()> {
    let world = World::new()?;
    fs::write(world.directory().join("data"), "no program")?;
    let api = Api::start(starter, world.directory(), &[])?;
    for (name, order, want) in [
        ("no such program", json!({ "command": "no-such-command" }), "no-such-command"),
        ("no program", json!({ "command": "./data" }), "./data"),
        ("no such directory", json!({ "command": "true", "directory": "/no/such" }), "/no/such"),
        (
            "a policy with errors",
            json!({ "command": "true", "policy": { "allow": ["*"] } }),
            "policy has errors",
        ),
        (
            "a flag for an entry",
            json!({ "command": "true", "policy": { "allow": ["--user=root"] } }),
            "policy has errors",
        ),
    ] {
        let (status, answer) = api.execute(&order)?;
        let error = answer["error"].as_str().context("an error")?;
        ensure!((status == 422 || status == 500) && error.contains(want), "{name}: {status} {answer}");
    }
    let (_, list) = api.ask("/runs", &[])?;
    ensure!(list["runs"] == json!([]), "{list}");
    // The same program by itself is fine.
    let (status, run) = api.execute(&json!({ "command": "true" }))?;
    ensure!(status == 200 && run["end"]["status"] == 0, "{run}");
    api.exeat.stop()
}

fn runs_are_listed_waited_for_and_signalled(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let api = Api::start(starter, world.directory(), &[])?;
    let script =
        "trap 'echo usr1' USR1; trap 'echo bye; exit 42' TERM; echo ready; while :; do sleep 0.05; done";
    let mut order = shell(script);
    order["detach"] = json!(true);
    let (status, run) = api.execute(&order)?;
    ensure!(status == 202 && run["state"] == "running", "{status} {run}");
    let id = run["id"].as_str().context("an id")?.to_owned();
    let (_, list) = api.ask("/runs", &[])?;
    ensure!(list["runs"][0]["id"] == run["id"] && list["runs"][0]["stdout"].is_null(), "{list}");
    let (_, health) = api.ask("/health", &[])?;
    ensure!(health["running"] == 1 && health["most"] == 16, "{health}");
    // A wait that is over says so by the state.
    let (status, waited) = api.ask(&format!("/runs/{id}/wait?seconds=0"), &[])?;
    ensure!(status == 200 && waited["state"] == "running", "{waited}");
    let written = |text: &str| -> Result<()> {
        // Each look is a curl, so this is not a tight loop.
        for _ in 0..500 {
            if api.ask(&format!("/runs/{id}"), &[])?.1["stdout"]["text"] == text {
                return Ok(());
            }
        }
        anyhow::bail!("it never wrote {text:?}: {:?}", api.ask(&format!("/runs/{id}"), &[]))
    };
    written("ready\n")?;
    let (status, _) = api.ask(&format!("/runs/{id}/signal"), &["-d", r#"{"signal":"USR1"}"#])?;
    ensure!(status == 200);
    written("ready\nusr1\n")?;
    api.ask(&format!("/runs/{id}/signal"), &["-d", r#"{"signal":"TERM"}"#])?;
    let (_, ended) = api.ask(&format!("/runs/{id}/wait"), &[])?;
    ensure!(ended["state"] == "ended" && ended["end"]["exit_code"] == 42, "{ended}");
    ensure!(ended["stdout"]["text"] == "ready\nusr1\nbye\n", "{ended}");
    for (path, args, want) in [
        (format!("/runs/{id}/signal"), &["-d", r#"{"signal":"TERM"}"#][..], 409),
        (format!("/runs/{id}/signal"), &["-d", r#"{"signal":"SEGV"}"#], 400),
        (format!("/runs/{id}/signal"), &["-d", r#"{"signal":9}"#], 400),
        ("/runs/run-0/signal".to_owned(), &["-d", r#"{"signal":"TERM"}"#], 404),
        ("/runs/run-0".to_owned(), &[], 404),
        ("/runs/run-0/wait".to_owned(), &[], 404),
        (format!("/runs/{id}/wait?minutes=1"), &[], 400),
    ] {
        let (status, answer) = api.ask(&path, args)?;
        ensure!(status == want, "{path} {args:?}: {status} {answer}");
    }
    api.exeat.stop()
}
