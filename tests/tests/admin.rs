//! The admin API and the commands that speak to it: policy, reload, explain, flows, quarantine.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use exeat_tests::api::Document;
use exeat_tests::client::{Client, Outcome};
use exeat_tests::exeat::{Exeat, binary};
use exeat_tests::fixture::{PASSWORD, ask, configuration, echoes, get, password_entry, request_with};
use exeat_tests::namespace::PROXY;
use exeat_tests::origin::PATIENCE;
use exeat_tests::raw::{Raw, authorization};
use exeat_tests::world::{GREETING, World};
use exeat_tests::{harness, scenarios};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn main() -> ExitCode {
    harness::main(scenarios![
        the_socket_is_private_and_goes_with_the_proxy,
        a_socket_in_use_is_not_taken_and_a_stale_one_is,
        the_policy_in_use_is_shown,
        reloads_take_effect_or_say_what_is_wrong,
        explanations_agree_with_the_proxy,
        flows_are_listed_by_filter,
        a_flow_is_cut_and_the_others_never_notice,
        a_quarantine_holds_until_its_release,
        a_quarantine_of_nobody_is_told,
        following_prints_what_begins_and_ends,
        requests_that_are_not_understood_say_what_to_do,
        commands_without_a_proxy_say_so,
        health_is_an_exit_code,
        answers_are_as_the_document_describes_them,
    ])
}

/// A second client, in another space than the first, and the API at `SOCKET`.
fn config(allow: &str) -> String {
    let other = password_entry("the-other-password-of-32-characters");
    let extra = format!(
        "labels = {{ space = \"blue\" }}\n[client.other]\npasswords = [\"{other}\"]\npolicies = [\"app\"]\nlabels = {{ space = \"green\" }}\n[api]\nsocket = \"s\"\n"
    );
    configuration(&format!("allow = [{allow}]"), &extra)
}

const ALLOW: &str = "\"example.com\", \"mail.example.org:25\", \"news.example.org:25\"";

fn serve(world: &World) -> Result<Exeat> {
    Exeat::serve(world.directory(), &config(ALLOW), PROXY)
}

fn socket(world: &World) -> PathBuf {
    world.directory().join("s")
}

/// Asks the API over its socket.
fn api(world: &World, line: &str, body: &str) -> Result<(u16, Value)> {
    exeat_tests::api::ask(&socket(world), line, "", body.as_bytes())
}

/// Runs a command beside the configuration.
fn command(world: &World, args: &[&str]) -> Result<Outcome> {
    Client::new(binary()?, world.directory()).args(args).run()
}

/// An open tunnel of a client to a server that has spoken first.
fn tunnel(user: &str, password: &str, host: &str) -> Result<Raw> {
    let mut tunnel = Raw::proxy()?;
    let reply = tunnel.ask(request_with(&format!("CONNECT {host}:25"), &authorization(user, password)))?;
    ensure!(reply.status == 200, "{reply:?}");
    ensure!(tunnel.exactly(GREETING.len())? == GREETING.as_bytes());
    Ok(tunnel)
}

fn tunnel_of_app(host: &str) -> Result<Raw> {
    tunnel("app", PASSWORD, host)
}

fn tunnel_of_other(host: &str) -> Result<Raw> {
    tunnel("other", "the-other-password-of-32-characters", host)
}

fn until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !done()? {
        ensure!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn the_socket_is_private_and_goes_with_the_proxy() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world)?;
    let metadata = fs::symlink_metadata(socket(&world))?;
    ensure!(metadata.mode() & 0o7777 == 0o600, "{:o}", metadata.mode());
    exeat.stop()?;
    ensure!(!socket(&world).exists());
    // Without the key there is none.
    let exeat = Exeat::serve(world.directory(), &configuration("allow = [\"example.com\"]", ""), PROXY)?;
    ensure!(!socket(&world).exists());
    exeat.stop()
}

fn a_socket_in_use_is_not_taken_and_a_stale_one_is() -> Result<()> {
    let world = World::new()?;
    let mut exeat = serve(&world)?;
    let second = config(ALLOW).replace(PROXY, "127.0.0.1:4444").replace("AUDIT", "second.jsonl");
    let path = world.directory().join("second.toml");
    fs::write(&path, second)?;
    let refused = command(&world, &["serve", "--config", "second.toml"])?;
    ensure!(refused.code == 1 && refused.err.contains("another proxy listens there"), "{refused:?}");
    ensure!(api(&world, "GET /v1/policy", "")?.0 == 200, "the first one still answers");
    exeat.signal(Signal::SIGKILL)?;
    exeat.wait()?;
    ensure!(socket(&world).exists(), "a killed process leaves its socket behind");
    let exeat = serve(&world)?;
    ensure!(api(&world, "GET /v1/policy", "")?.0 == 200);
    exeat.stop()
}

fn the_policy_in_use_is_shown() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world)?;
    let (status, policy) = api(&world, "GET /v1/policy", "")?;
    let path = world.directory().join("exeat.toml");
    ensure!(status == 200 && policy["revision"] == 1 && policy["is_current"] == true, "{policy}");
    ensure!(policy["source"] == *path.to_string_lossy() && policy["clients"] == 2, "{policy}");
    let place = format!("{}:6:9", path.display());
    ensure!(policy["policies"] == json!([{ "name": "app", "place": place, "mode": "enforce" }]), "{policy}");
    ensure!(policy["ceilings"] == json!([]), "{policy}");
    exeat.stop()
}

fn reloads_take_effect_or_say_what_is_wrong() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world)?;
    ensure!(get("example.com/")?.0 == 200 && get("a.example.org/")?.0 == 403);
    let other = config("\"*.example.org\"").replace("[audit]", "[limits]\ntunnels_per_client = 7\n[audit]");
    Exeat::write_config(world.directory(), &other)?;
    let reloaded = command(&world, &["reload"])?;
    ensure!(reloaded.code == 0 && reloaded.out == "reloaded: revision 2\n", "{reloaded:?}");
    ensure!(reloaded.err.contains("takes effect at a restart only: limits\n"), "{reloaded:?}");
    ensure!(get("example.com/")?.0 == 403 && get("a.example.org/")?.0 == 200);
    // A bad one changes nothing, and says each problem with its place. The socket is still found in the broken file.
    Exeat::write_config(
        world.directory(),
        &config("\"*.com\", \"https://example.com/\"").replace("[audit]", "[audit]\nnonsense = 1"),
    )?;
    let refused = command(&world, &["reload"])?;
    ensure!(refused.code == 78 && refused.out.is_empty(), "{refused:?}");
    for part in [
        "exeat.toml:5:1: error: unknown key `nonsense`",
        "exeat.toml:8:10: error:",
        "exeat.toml:8:19: error:",
        "\n  help: ",
        "reload refused",
    ] {
        ensure!(refused.err.contains(part), "{part}: {}", refused.err);
    }
    let (status, body) = api(&world, "POST /v1/reload", "")?;
    let problems = body["problems"].as_array().context("problems")?;
    ensure!(status == 422 && problems.len() == 3, "{body}");
    let first = &problems[0];
    ensure!(first["line"] == 5 && first["column"] == 1 && first["code"] == "unknown_key", "{body}");
    ensure!(get("example.com/")?.0 == 403 && get("a.example.org/")?.0 == 200);
    ensure!(api(&world, "GET /v1/policy", "")?.1["is_current"] == false);
    Exeat::write_config(world.directory(), &config("\"example.com\""))?;
    let (status, body) = api(&world, "POST /v1/reload", "")?;
    ensure!(status == 200 && body["revision"] == 3, "{body}");
    ensure!(get("example.com/")?.0 == 200);
    exeat.stop()
}

fn explanations_agree_with_the_proxy() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world)?;
    for (target, status, reason) in [
        ("http://example.com/", 200, None),
        ("http://evilexample.com/", 403, Some("host_not_allowed")),
        ("http://example.com:81/", 403, Some("port_not_allowed")),
        ("http://10.0.0.1/", 403, Some("ip_literal_not_allowed")),
    ] {
        let question = json!({ "client": "app", "target": target, "addresses": ["93.184.216.34"] });
        let (code, answer) = api(&world, "POST /v1/explain", &question.to_string())?;
        ensure!(code == 200 && answer["reason"].as_str() == reason, "{target}: {answer}");
        ensure!((answer["verdict"] == "allow") == reason.is_none(), "{target}: {answer}");
        ensure!(answer["entry"].is_string() == reason.is_some(), "{target}: {answer}");
        let got = ask(&format!("GET {target}"))?.1;
        ensure!(got.status == status && got.head.field("x-deny-reason") == reason, "{target}: {got:?}");
    }
    // An allowed name whose addresses no rule covers.
    let question = json!({ "client": "app", "target": "example.com", "addresses": ["10.0.0.1"] });
    let (_, answer) = api(&world, "POST /v1/explain", &question.to_string())?;
    ensure!(answer["reason"] == "address_not_allowed", "{answer}");
    let question = json!({ "client": "nobody", "target": "example.com" });
    let (code, answer) = api(&world, "POST /v1/explain", &question.to_string())?;
    ensure!(code == 404 && answer["error"] == "there is no client `nobody`", "{answer}");
    exeat.stop()
}

fn flows_are_listed_by_filter() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world)?;
    let mut one = tunnel_of_app("mail.example.org")?;
    echoes(&mut one)?;
    let _two = tunnel_of_app("news.example.org")?;
    let _three = tunnel_of_other("mail.example.org")?;
    for (query, want) in [
        ("", 3),
        ("?client=app", 2),
        ("?client=nobody", 0),
        ("?label=space%3Dgreen", 1),
        ("?target=mail.example.org", 2),
        ("?target=example.org", 0),
        ("?client=app&target=mail.example.org", 1),
        ("?source=127.0.0.1", 0),
    ] {
        let (status, found) = api(&world, &format!("GET /v1/flows{query}"), "")?;
        let listed = found["flows"].as_array().context("flows")?.len();
        ensure!(status == 200 && found["total"] == want && listed == want, "{query}: {found}");
    }
    let (_, found) = api(&world, "GET /v1/flows?limit=1", "")?;
    ensure!(found["total"] == 3 && found["flows"].as_array().map(Vec::len) == Some(1), "{found}");
    let flow = &found["flows"][0];
    let sent = GREETING.len() + 13;
    ensure!(flow["client"] == "app" && flow["labels"] == json!({ "space": "blue" }), "{flow}");
    ensure!(flow["target"] == "mail.example.org:25" && flow["method"] == "CONNECT", "{flow}");
    ensure!(flow["bytes_up"] == 13 && flow["bytes_down"] == sent, "{flow}");
    ensure!(flow["rule"]["text"] == "mail.example.org:25" && flow["revision"] == 1, "{flow}");
    // The command: tab-separated for programs.
    let listed = command(&world, &["flows", "--client", "other"])?;
    let cells: Vec<&str> = listed.out.trim_end().split('\t').collect();
    ensure!(listed.code == 0 && cells.len() == 10, "{listed:?}");
    ensure!(cells[1] == "tunnel" && cells[2] == "other" && cells[3] == "mail.example.org:25", "{listed:?}");
    let listed = command(&world, &["flows", "--json"])?;
    ensure!(serde_json::from_str::<Value>(&listed.out)?["total"] == 3, "{listed:?}");
    exeat.signal(Signal::SIGTERM)?;
    Ok(())
}

fn a_flow_is_cut_and_the_others_never_notice() -> Result<()> {
    let world = World::new()?;
    let mut exeat = serve(&world)?;
    let mut one = tunnel_of_app("mail.example.org")?;
    let mut two = tunnel_of_app("news.example.org")?;
    let mut three = tunnel_of_other("mail.example.org")?;
    let (_, found) = api(&world, "GET /v1/flows?client=app&target=mail.example.org", "")?;
    let id = found["flows"][0]["id"].to_string();
    let cut = command(&world, &["flows", "cut", &id])?;
    ensure!(cut.code == 0 && cut.out == "1 flow ends\n", "{cut:?}");
    one.closed()?;
    echoes(&mut two)?;
    echoes(&mut three)?;
    let again = command(&world, &["flows", "cut", &id])?;
    ensure!(
        again.code == 1 && again.err.contains(&format!("there is no flow {id}; it may have ended")),
        "{again:?}"
    );
    let cut = command(&world, &["flows", "cut", "--client", "app"])?;
    ensure!(cut.code == 0 && cut.out == "1 flow ends\n", "{cut:?}");
    two.closed()?;
    echoes(&mut three)?;
    let all = command(&world, &["flows", "cut"])?;
    ensure!(all.code == 1 && all.err.contains("--all"), "{all:?}");
    let (status, all) = api(&world, "DELETE /v1/flows", "")?;
    ensure!(status == 400 && all["error"] == "this would end every flow", "{all}");
    echoes(&mut three)?;
    let (status, all) = api(&world, "DELETE /v1/flows?all=true", "")?;
    ensure!(status == 200 && all["cut"] == 1, "{all}");
    three.closed()?;
    let ends = |records: &[Value]| records.iter().filter(|r| r["end"] == "policy_changed").count();
    exeat.audit_until("three ends", |records| ends(records) == 3)?;
    // They may come back: nothing is denied to them.
    drop(tunnel_of_app("mail.example.org")?);
    exeat.stop()
}

fn a_quarantine_holds_until_its_release() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world)?;
    let mut one = tunnel_of_app("mail.example.org")?;
    let mut other = tunnel_of_other("mail.example.org")?;
    let put = command(&world, &["quarantine", "space=blue"])?;
    ensure!(put.code == 0 && put.out == "space=blue is in quarantine; 1 flow ends\n", "{put:?}");
    one.closed()?;
    echoes(&mut other)?;
    ensure!(get("example.com/")? == (403, Some("policy_changed".to_owned())));
    let listed = command(&world, &["quarantine"])?;
    ensure!(listed.code == 0 && listed.out == "space=blue\n", "{listed:?}");
    let released = command(&world, &["quarantine", "space=blue", "--release"])?;
    ensure!(released.code == 0 && released.out == "space=blue is released\n", "{released:?}");
    ensure!(get("example.com/")?.0 == 200);
    let again = command(&world, &["quarantine", "space=blue", "--release"])?;
    ensure!(again.code == 1 && again.err.contains("is not in quarantine"), "{again:?}");
    let (status, put) = api(&world, "POST /v1/quarantine", "{\"client\":\"other\"}")?;
    ensure!(status == 200 && put["cut"] == 1, "{put}");
    other.closed()?;
    let (_, listed) = api(&world, "GET /v1/quarantine", "")?;
    ensure!(listed == json!({ "quarantined": [{ "client": "other" }] }), "{listed}");
    let (status, released) = api(&world, "DELETE /v1/quarantine?client=other", "")?;
    ensure!(status == 200 && released["released"] == true, "{released}");
    drop(tunnel_of_other("mail.example.org")?);
    exeat.stop()
}

/// A name that nobody has holds, since somebody may come to have it; but whoever was meant goes on.
fn a_quarantine_of_nobody_is_told() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world)?;
    let mut other = tunnel_of_other("mail.example.org")?;
    for (selector, meant) in [
        ("client=othr", "did you mean `other`?"),
        ("client=zebra", "nobody who is has a flow"),
        ("space=bleu", "did you mean `space=blue`?"),
        ("workload=batch", "nobody who is has a flow"),
    ] {
        let put = command(&world, &["quarantine", selector])?;
        let warned = format!("warning: the configuration knows nobody who is {selector}");
        ensure!(put.code == 0 && put.err.contains(&warned) && put.err.contains(meant), "{put:?}");
        ensure!(put.out == format!("{selector} is in quarantine; 0 flows end\n"), "{put:?}");
    }
    echoes(&mut other)?;
    let put = command(&world, &["quarantine", "client=other"])?;
    ensure!(put.code == 0 && put.err.is_empty(), "{put:?}");
    other.closed()?;
    exeat.stop()
}

fn following_prints_what_begins_and_ends() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world)?;
    let out = world.directory().join("followed");
    let mut follower = Command::new(binary()?)
        .args(["flows", "--follow", "--client", "app"])
        .current_dir(world.directory())
        .stdout(Stdio::from(fs::File::create(&out)?))
        .spawn()?;
    let lines = |sign: &str| -> Result<usize> {
        Ok(fs::read_to_string(&out)?.lines().filter(|line| line.starts_with(sign)).count())
    };
    let tunnel = tunnel_of_app("mail.example.org")?;
    let _other = tunnel_of_other("mail.example.org")?;
    until("the tunnel to be shown", || Ok(lines("+")? == 1))?;
    drop(tunnel);
    until("its end to be shown", || Ok(lines("-")? == 1))?;
    ensure!(lines("")? == 2, "{}", fs::read_to_string(&out)?);
    follower.kill()?;
    follower.wait()?;
    exeat.signal(Signal::SIGTERM)?;
    Ok(())
}

fn requests_that_are_not_understood_say_what_to_do() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world)?;
    let long = format!("{{\"client\":\"{}\",\"target\":\"x\"}}", "a".repeat(70_000));
    for (line, body, status, says) in [
        ("GET /", "", 404, "GET /v1/policy"),
        ("GET /v2/policy", "", 404, "GET /v1/policy"),
        ("GET /metrics", "", 404, "GET /v1/policy"),
        ("POST /v1/policy", "", 405, "not a method of /v1/policy"),
        ("GET /v1/flows?user=x", "", 400, "user"),
        ("GET /v1/flows?label=x", "", 400, "organization, space"),
        ("GET /v1/flows?target=example.com:443", "", 400, "without a port"),
        ("GET /v1/flows?source=here", "", 400, "not an address"),
        ("DELETE /v1/flows?client=a&label=space%3Db", "", 400, "exclude each other"),
        ("DELETE /v1/flows/x", "", 400, "is a number"),
        ("GET /v1/traffic?limit=few", "", 400, "limit"),
        ("GET /v1/traffic?client=app", "", 400, "client"),
        ("DELETE /v1/flows/99999", "", 404, "it may have ended"),
        ("POST /v1/explain", "", 400, "openapi.json"),
        ("POST /v1/explain", "{\"client\":\"app\"}", 400, "target"),
        ("POST /v1/explain", "{\"client\":\"app\",\"target\":\"x.example.com\",\"more\":1}", 400, "more"),
        ("POST /v1/explain", long.as_str(), 413, "bytes"),
        ("POST /v1/quarantine", "{}", 400, "name a client"),
        ("POST /v1/quarantine", "{\"client\":\"\"}", 400, "empty"),
        ("POST /v1/quarantine", "{\"client\":\"a\",\"label\":\"space=b\"}", 400, "exclude"),
        ("DELETE /v1/quarantine?client=nobody", "", 404, "not in quarantine"),
    ] {
        let (got, answer) = api(&world, line, body).with_context(|| line.to_owned())?;
        ensure!(got == status && answer["error"].is_string(), "{line}: {got} {answer}");
        ensure!(answer.to_string().contains(says), "{line}: {answer} lacks {says:?}");
    }
    exeat.stop()
}

fn commands_without_a_proxy_say_so() -> Result<()> {
    let world = World::new()?;
    let run = |args: &[&str]| command(&world, args);
    let nowhere = run(&["reload"])?;
    ensure!(nowhere.code == 1 && nowhere.err.contains("--socket PATH or EXEAT_SOCKET"), "{nowhere:?}");
    let missing = run(&["flows", "--socket", "nothing.sock"])?;
    let says = "no socket at nothing.sock: is the server running with [api] socket?";
    ensure!(missing.code == 1 && missing.err.contains(says), "{missing:?}");
    drop(std::os::unix::net::UnixListener::bind(world.directory().join("stale"))?);
    let stale = run(&["quarantine", "--socket", "stale"])?;
    ensure!(stale.code == 1 && stale.err.contains("has the server ended?"), "{stale:?}");
    let exeat = serve(&world)?;
    fs::remove_file(world.directory().join("exeat.toml"))?;
    let path = socket(&world);
    let found = Client::new(binary()?, world.directory()).env("EXEAT_SOCKET", &path).args(["flows"]).run()?;
    ensure!(found.code == 0 && found.out.is_empty(), "{found:?}");
    for help in ["reload", "health", "flows", "top", "quarantine"] {
        let shown = run(&[help, "--help"])?;
        ensure!(shown.code == 0 && shown.out.contains("Examples:"), "{shown:?}");
    }
    exeat.stop()
}

fn health_is_an_exit_code() -> Result<()> {
    let world = World::new()?;
    let mut exeat = serve(&world)?;
    let ready = command(&world, &["health"])?;
    ensure!(ready.code == 0 && ready.out == "ready\n", "{ready:?}");
    let tunnel = tunnel_of_app("mail.example.org")?;
    exeat.signal(Signal::SIGTERM)?;
    exeat.wait_for_output("draining")?;
    let draining = command(&world, &["health"])?;
    ensure!(draining.code == 1 && draining.out.is_empty(), "{draining:?}");
    ensure!(draining.err.contains("error: draining"), "{draining:?}");
    drop(tunnel);
    ensure!(exeat.wait()?.success());
    let gone = command(&world, &["health"])?;
    ensure!(gone.code == 1 && gone.err.contains("no socket at"), "{gone:?}");
    Ok(())
}

/// The answers have the members that the document says, no others, and those of the right type.
fn answers_are_as_the_document_describes_them() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world)?;
    let document = Document::read()?;
    let (_, served) = api(&world, "GET /v1/openapi.json", "")?;
    ensure!(document.is(&served), "docs/openapi.json is another document than the one that is served");
    let _tunnel = tunnel_of_app("mail.example.org")?;
    ensure!(get("evil.test/")?.0 == 403);
    let question = json!({ "client": "app", "target": "https://example.net/" }).to_string();
    for (line, body, schema) in [
        ("GET /v1/health", "", "Health"),
        ("GET /v1/policy", "", "Policy"),
        ("GET /v1/flows", "", "Flows"),
        ("GET /v1/traffic", "", "Traffic"),
        ("POST /v1/explain", question.as_str(), "Explanation"),
        ("POST /v1/explain", "{}", "Failure"),
        ("POST /v1/reload", "", "Changed"),
        ("DELETE /v1/flows?client=nobody", "", "Cut"),
        ("POST /v1/quarantine", "{\"label\":\"space=green\"}", "Quarantine"),
        ("GET /v1/quarantine", "", "Quarantined"),
        ("DELETE /v1/quarantine?label=space%3Dgreen", "", "Released"),
    ] {
        let (_, answer) = api(&world, line, body)?;
        document.describes(&answer, schema, line)?;
    }
    Exeat::write_config(world.directory(), &config("\"*.com\""))?;
    let (_, answer) = api(&world, "POST /v1/reload", "")?;
    ensure!(answer["problems"].as_array().is_some_and(|problems| !problems.is_empty()), "{answer}");
    document.describes(&answer, "Failure", "reload")?;
    exeat.signal(Signal::SIGTERM)?;
    Ok(())
}
