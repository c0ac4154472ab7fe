//! Tokens made by the command line and by the admin API.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use exeat_tests::api;
use exeat_tests::client::Client;
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::configuration;
use exeat_tests::namespace::PROXY;
use exeat_tests::tokens::{CONTAINER, TokenIssuer, basic, bearer, now};
use exeat_tests::world::World;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::setup::{CEILING, check, command};

/// Runs a command about single tokens, with `input` on standard input. Returns its exit code, output and errors.
fn offline(world: &World, args: &[&str], input: &str) -> Result<(Option<i32>, String, String)> {
    let mut child = Command::new(exeat_tests::exeat::binary()?)
        .arg("token")
        .args(args)
        .current_dir(world.directory())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // One that reads nothing may have ended.
    let _ = child.stdin.take().context("standard input")?.write_all(input.as_bytes());
    let ended = child.wait_with_output()?;
    Ok((ended.status.code(), String::from_utf8(ended.stdout)?, String::from_utf8(ended.stderr)?))
}

pub(crate) fn the_command_line_makes_tokens_that_count() -> Result<()> {
    let world = World::new()?;
    let done = |args: &[&str], input: &str| {
        let (code, out, err) = offline(&world, args, input)?;
        ensure!(code == Some(0), "{args:?}: {code:?} {err}");
        anyhow::Ok(out)
    };
    let failed = |args: &[&str], input: &str, says: &str| {
        let (code, out, err) = offline(&world, args, input)?;
        ensure!(code.is_some_and(|code| code != 0) && out.is_empty(), "{args:?}: {code:?} {out}");
        ensure!(err.contains(says), "{args:?}: {err}");
        anyhow::Ok(())
    };
    for (kind, key) in [(&[][..], "p256.pem"), (&["--eddsa", "--kid", "k2"], "ed25519.pem")] {
        fs::write(world.directory().join("jwks.json"), done(&[&["keygen", key], kind].concat(), "")?)?;
        let mode = fs::metadata(world.directory().join(key))?.permissions().mode();
        ensure!(mode & 0o777 == 0o600, "{mode:o}");
        failed(&["keygen", key], "", "File exists")?;

        let config = configuration(CEILING, &TokenIssuer::section("app", ""));
        let exeat = Exeat::serve(world.directory(), &config, PROXY)?;
        let kid: &[&str] = if key == "ed25519.pem" { &["--kid", "k2"] } else { &[] };
        let name = ["--issuer", "secure-egress-control", "--audience", "egress-proxy"];
        let issue = |more: &[&'static str]| [&["issue", key][..], kid, &name, more].concat();
        let token = done(&issue(&["--container", CONTAINER, "--host", "example.com"]), "")?;
        let with = basic(CONTAINER, token.trim());
        check("its host", "GET http://example.com/", &with, (200, ""))?;
        check("another host", "GET http://a.example.org/", &with, (403, "host_not_allowed"))?;
        let bound = done(&issue(&["--container", CONTAINER, "--policy", "app", "--bind"]), "")?;
        check("bound", "GET http://example.com/", &bearer(bound.trim()), (403, "container_mismatch"))?;

        let said: Value = serde_json::from_str(&done(&["inspect"], &token)?)?;
        ensure!(said["claims"]["allowed_hosts"] == "example.com", "{said}");
        let life = said["claims"]["exp"].as_u64().zip(said["claims"]["iat"].as_u64());
        ensure!(life.map(|(end, begin)| end - begin) == Some(4 * 3600), "{said}");
        let told = done(&["verify"], &bound)?;
        ensure!(told.contains(&format!("a workload with the container id {CONTAINER}")), "{told}");
        let told = done(&["verify"], &token)?;
        ensure!(told.starts_with("accepted: sandboxes/sbx-1, for another "), "{told}");
        let (signed, _) = token.rsplit_once('.').context("a signature")?;
        let (_, signature) = bound.trim().rsplit_once('.').context("a signature")?;
        failed(&["verify"], &format!("{signed}.{signature}"), "the signature is not the key's")?;
        let wrong = ["issue", key, "--issuer", name[1], "--audience", "another", "--container", CONTAINER];
        let wrong = done(&[&wrong[..], kid, &["--policy", "none"]].concat(), "")?;
        let (signed, _) = wrong.rsplit_once('.').context("a signature")?;
        let says = "the signature is not the key's; and `aud` does not name this proxy; and `policy` names no policy";
        failed(&["verify"], &format!("{signed}.{signature}"), says)?;
        failed(&["inspect"], "", "no token")?;
        failed(&issue(&["--container", CONTAINER, "--host", "10.0.0.0/8"]), "", "no proxy would accept")?;
        failed(&issue(&["--container", CONTAINER]), "", "--host")?;
        exeat.stop()?;
    }
    Ok(())
}

pub(crate) fn the_admin_api_issues_tokens_and_says_which_side_refuses() -> Result<()> {
    let world = World::new()?;
    let (code, set, err) = offline(&world, &["keygen", "issuer.pem"], "")?;
    ensure!(code == Some(0), "{err}");
    // In the set the key has another name than its thumbprint.
    let mut set: Value = serde_json::from_str(&set)?;
    set["keys"][0]["kid"] = "k1".into();
    fs::write(world.directory().join("jwks.json"), set.to_string())?;
    let lines = "signing_key = \"issuer.pem\"\npolicies = [\"team\"]\n";
    let more = "[policy.team]\nallow = [\"example.com\", \"example.org\", \"evil.test\"]\n[api]\nsocket = \"api.sock\"\n\
                [workload.sandbox]\naddresses = [\"10.99.0.1\"]\ncontainer = \"sbx-2\"\nalone = false\n";
    let config = configuration(CEILING, &(TokenIssuer::section("app", lines) + more));
    let mut exeat = Exeat::serve(world.directory(), &config, PROXY)?;

    let ask = |order: Value| ask_api(&world, "POST /v1/tokens", &order.to_string());
    let (status, made) =
        ask(json!({"container": "sbx-1", "hosts": ["example.com", "evil.test", "a.example.org"]}))?;
    ensure!(status == 200 && made["name"] == "sandboxes/sbx-1" && made["kid"] == "k1", "{status} {made}");
    let token = made["token"].as_str().context("a token")?.to_owned();
    let life = made["expires"].as_u64().context("an end")?.saturating_sub(now()?);
    ensure!((4 * 3600 - 20..=4 * 3600).contains(&life), "{life} s");
    check("its host", "GET http://example.com/", &basic(CONTAINER, &token), (200, ""))?;
    for (name, order, status, says) in [
        ("no hosts", json!({"container": "c"}), 400, "either `hosts` or `policy`"),
        ("a network", json!({"container": "c", "hosts": ["10.0.0.0/8"]}), 400, "would not be accepted"),
        ("too long", json!({"hosts": ["example.com"], "ttl": 90_000}), 400, "would not be accepted"),
        ("no such issuer", json!({"issuer": "x", "hosts": []}), 404, "no issuer of this name"),
        ("what is not known", json!({"hosts": [], "host": "x"}), 400, "unknown field"),
    ] {
        let got = ask(order)?;
        ensure!(got.0 == status && got.1.to_string().contains(says), "{name}: {got:?}");
    }
    let records = exeat.audit_until("records of what was issued", |records| {
        records.iter().filter(|record| record["control"]["action"] == "issue").count() >= 4
    })?;
    let issued = records.iter().find(|record| record["control"]["result"] == "done").context("a record")?;
    let target = format!("sandboxes/sbx-1, jti {}", made["jti"].as_str().unwrap_or_default());
    ensure!(issued["control"]["target"] == target.as_str(), "{issued}");
    ensure!(records.iter().all(|record| !record.to_string().contains(&token)), "the token is recorded");

    fs::write(world.directory().join("token"), format!("{token}\n"))?;
    let all: &[&str] = &[];
    for (target, refused, goes_to) in [
        ("https://example.com/", all, all),
        ("https://example.org/", &["token"], &["the token's allowed_hosts"]),
        ("https://a.example.org/", &["limit team"], &["team"]),
        ("https://evil.test/", &["issuer's ceiling"], &["app"]),
        (
            "https://other.test/",
            &["issuer's ceiling", "token", "limit team"],
            &["app", "team", "the token's allowed_hosts"],
        ),
    ] {
        let (_, said) =
            ask_api(&world, "POST /v1/explain", &json!({"token": token, "target": target}).to_string())?;
        let list = |name: &str| said[name].as_array().cloned().unwrap_or_default();
        ensure!(list("refused_by") == refused && list("entry_goes_to") == goes_to, "{target}: {said}");
        ensure!(
            (said["verdict"] == "allow") == refused.is_empty() && said["client"] == "sandboxes/sbx-1",
            "{said}"
        );
        let told = explained(&world, &["--token", "token", target])?;
        for stage in refused {
            let is_told = |line: &str| {
                let rest = line.trim_start().strip_prefix(stage);
                rest.is_some_and(|rest| rest.trim_start().starts_with("host_not_allowed: "))
            };
            ensure!(told.lines().any(is_told), "{target}: {told}");
        }
    }
    for (name, question, status, says) in [
        ("nobody", json!({"target": "a.test"}), 400, "either `client` or `token`"),
        (
            "a wrong one",
            json!({"token": "a.b.c", "target": "a.test"}),
            400,
            "the token is not accepted: a part is",
        ),
    ] {
        let got = ask_api(&world, "POST /v1/explain", &question.to_string())?;
        ensure!(got.0 == status && got.1.to_string().contains(says), "{name}: {got:?}");
    }
    let bound =
        ask(json!({"container": "sbx-1", "hosts": ["example.com"], "enforce_container_binding": true,
        "enforce_centralized_egress": true}))?;
    let question = json!({"token": bound.1["token"], "target": "example.com", "workload": "sandbox"});
    let (_, said) = ask_api(&world, "POST /v1/explain", &question.to_string())?;
    ensure!(said["refused_by"] == json!(["node", "origin"]), "{said}");

    command(&world, &["revoke", "container=sbx-1"])?;
    let question = json!({"token": token, "target": "example.com"}).to_string();
    let (_, said) = ask_api(&world, "POST /v1/explain", &question)?;
    ensure!(said["reason"] == "token_revoked" && said["refused_by"] == json!(["revocation"]), "{said}");
    let told = explained(&world, &["--token", "token", "example.com"])?;
    ensure!(told.starts_with("deny   example.com:443  token_revoked\n"), "{told}");
    // Of one that does not run, nobody knows.
    let nowhere = ["explain", "--token", "token", "example.com"];
    let unknown = Client::new(exeat_tests::exeat::binary()?, world.directory()).args(nowhere);
    let unknown = unknown.env("EXEAT_SOCKET", "nowhere.sock").run()?;
    ensure!(unknown.code == 0 && unknown.out.starts_with("allow  example.com:443\n"), "{unknown:?}");
    ensure!(unknown.err.starts_with("whether the token was revoked is not known: "), "{unknown:?}");

    fs::remove_file(world.directory().join("issuer.pem"))?;
    Exeat::write_config(world.directory(), &config.replace(lines, ""))?;
    exeat.signal(Signal::SIGHUP)?;
    exeat.wait_for_output("reloaded")?;
    let (status, said) = ask(json!({"issuer": "sandboxes", "container": "c", "hosts": ["example.com"]}))?;
    ensure!(status == 409 && said["help"].to_string().contains("signing_key"), "{status} {said}");
    exeat.stop()
}

fn ask_api(world: &World, line: &str, body: &str) -> Result<(u16, Value)> {
    api::ask(&world.directory().join("api.sock"), line, "", body.as_bytes())
}

/// What `exeat explain` prints.
fn explained(world: &World, args: &[&str]) -> Result<String> {
    let all = [&["explain"], args].concat();
    Ok(Client::new(exeat_tests::exeat::binary()?, world.directory()).args(all).run()?.out)
}
