//! Commands under a token: what it says within its issuer's ceiling, or nothing at all.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use exeat_identity::SignatureAlgorithm;
use exeat_tests::client::Client;
use exeat_tests::confined::{Starter, open_to_all};
use exeat_tests::dns::Entry;
use exeat_tests::harness::Scenario;
use exeat_tests::process_api::{ADDRESS, Api, SECRET_VARIABLE, answer, spawn};
use exeat_tests::tokens::{TokenIssuer, claims, now};
use exeat_tests::world::World;
use serde_json::{Value, json};

use crate::lifetime::descendants;
use crate::sockets::Caller;

pub(crate) fn scenarios() -> Vec<Scenario> {
    by_each_starter![
        a_token_says_what_a_command_reaches,
        nobody_finds_the_token,
        a_token_that_does_not_count_runs_nothing,
        a_token_ends_what_is_open,
        commands_cannot_write_whose_tokens_count,
        what_the_configuration_says_now_counts,
        records_go_where_the_configuration_says,
    ]
}

/// An address that a policy can open.
const OUTSIDE: &str = "93.184.216.80:18080";

/// What no token of [`issuer`] exceeds: the API's own address, too, by its number and by a name.
const POLICY: &str = r#"[policy.web]
allow = ["example.com", "cdn.example.net:8080", "93.184.216.80:18080", "api.test:18080"]
"#;

/// An issuer, and a configuration in which its tokens count.
fn issuer(home: &Path) -> Result<TokenIssuer> {
    let issuer = TokenIssuer::new(SignatureAlgorithm::Es256, "k1")?;
    TokenIssuer::publish(&[&issuer], home)?;
    write(home, POLICY)?;
    Ok(issuer)
}

fn write(home: &Path, policy: &str) -> Result<()> {
    let section = TokenIssuer::section("web", "leeway = \"0s\"");
    fs::write(home.join("exeat.toml"), format!("{policy}{section}"))?;
    for file in ["exeat.toml", "jwks.json"] {
        fs::set_permissions(home.join(file), Permissions::from_mode(0o666))?;
    }
    Ok(())
}

fn serve(address: &str, starter: Starter, home: &Path) -> Result<Api> {
    Api::start_at(address, starter, home, &["--config", "exeat.toml"])
}

fn shell(script: &str, token: &str) -> Value {
    json!({ "command": "bash", "args": ["-c", script], "token": token, "limits": { "seconds": 60 } })
}

fn a_token_says_what_a_command_reaches(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    world.dns.set("api.test", Entry::addresses(&["93.184.216.80"]));
    let issuer = issuer(home)?;
    let mut api = serve(OUTSIDE, starter, home)?;
    let script = "for host in example.com evil.test api.test:18080 93.184.216.80:18080; do
        curl -sS http://$host/health; done; env -i curl -sS http://93.184.216.80:18080/health; exit 0";
    // The ceiling has no `evil.test`.
    let hosts = json!({ "allowed_hosts": "example.com,evil.test,api.test:18080", "sub": "build-17" });
    let (status, run) = api.execute(&shell(script, &issuer.token(hosts)?))?;
    ensure!(status == 200, "{run}");
    let out = run["stdout"]["text"].as_str().context("text")?;
    ensure!(out.starts_with("hello from example.com\n") && !out.contains("running"), "{run}");
    let reason = |run: &Value, target: &str| {
        let refused = run["end"]["network"]["refused"].as_array().cloned().unwrap_or_default();
        refused.iter().find(|row| row["target"] == target).map(|row| row["reason"].clone())
    };
    ensure!(reason(&run, "evil.test:80") == Some(json!("host_not_allowed")), "{run}");
    // What a policy of the configuration opens is as shut.
    let policy = json!({ "policy": "web", "allowed_hosts": null, "container_id": null });
    let (status, second) = api.execute(&shell(script, &issuer.token(policy)?))?;
    ensure!(status == 200, "{second}");
    for run in [&run, &second] {
        ensure!(reason(run, "api.test:18080") == Some(json!("address_not_allowed")), "{run}");
        ensure!(!run["stdout"]["text"].to_string().contains("running"), "{run}");
    }
    ensure!(reason(&second, OUTSIDE) == Some(json!("address_not_allowed")), "{second}");
    ensure!(world.accepts() == 2, "{:?}", world.reached());
    // Records tell the run, and whose token it was.
    let records = api.exeat.audit_until("the records of both", |records| {
        let is_of = |run: &Value| records.iter().any(|record| record["principal"]["name"] == run["id"]);
        is_of(&run) && is_of(&second)
    })?;
    for (run, labels) in [
        (&run, json!({ "organization": "org-1", "app": "build-17", "instance": "sbx-1" })),
        (&second, json!({ "organization": "org-1" })),
    ] {
        let own = records.iter().filter(|record| record["principal"]["name"] == run["id"]);
        for record in own {
            let principal = &record["principal"];
            let is_told = principal["proof"] == "token"
                && principal["issuer"] == "sandboxes"
                && principal["jti"] == "j1"
                && principal["labels"] == labels;
            ensure!(is_told, "{record}");
        }
    }
    // A policy that comes with a command still needs no configuration.
    let by_policy = json!({
        "command": "curl", "args": ["-sS", "http://example.com/", "http://cdn.example.net:8080/"],
        "policy": { "allow": ["example.com"] },
    });
    let (_, run) = api.execute(&by_policy)?;
    ensure!(run["end"]["network"]["refused"][0]["target"] == "cdn.example.net:8080", "{run}");
    api.exeat.stop()
}

fn nobody_finds_the_token(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let issuer = issuer(home)?;
    let mut api = serve(ADDRESS, starter, home)?;
    let token = issuer.token(json!({}))?;
    // What makes it one.
    let signature = token.rsplit('.').next().context("a signature")?;
    let script = "env; cat /proc/*/environ /proc/*/cmdline | tr '\\0' '\\n'; ls -l /proc/*/fd
        curl -sS -o /dev/null http://example.com/; echo done; sleep 1000";
    let mut order = shell(script, &token);
    order["detach"] = json!(true);
    let (status, run) = api.execute(&order)?;
    ensure!(status == 202, "{run}");
    let id = run["id"].as_str().context("an id")?.to_owned();
    let told = |api: &mut Api| {
        api.exeat.until("its output", |_| {
            let said = fs::read_to_string(home.join("audit.jsonl")).unwrap_or_default();
            Ok(said.contains(&id).then_some(said))
        })
    };
    let records = told(&mut api)?;
    let processes = descendants(api.exeat.id())?;
    // A runner, a stage, init, the shell and what it runs.
    ensure!(processes.len() >= 3, "{processes:?}");
    for process in processes.into_iter().chain([api.exeat.id()]) {
        for what in ["cmdline", "environ"] {
            let bytes = fs::read(format!("/proc/{process}/{what}")).unwrap_or_default();
            ensure!(!String::from_utf8_lossy(&bytes).contains(signature), "{what} of {process}");
        }
    }
    api.ask(&format!("/runs/{id}/signal"), &["-d", r#"{"signal":"KILL"}"#])?;
    let (_, ended) = api.ask(&format!("/runs/{id}/wait"), &[])?;
    ensure!(ended["stdout"]["text"].as_str().is_some_and(|out| out.contains("http_proxy")), "{ended}");
    let (_, list) = api.ask("/runs", &[])?;
    // One that does not count is told nobody either.
    let other = TokenIssuer::new(SignatureAlgorithm::Es256, "k1")?.token(json!({}))?;
    let (status, refused) = api.execute(&shell("true", &other))?;
    ensure!(status == 422, "{refused}");
    let log = api.exeat.stderr();
    for (place, text) in [
        ("the answer", run.to_string()),
        ("the end", ended.to_string()),
        ("the list", list.to_string()),
        ("the records", records),
        ("the refusal", refused.to_string()),
        ("the log", log),
    ] {
        for token in [&token, &other] {
            let signature = token.rsplit('.').next().context("a signature")?;
            ensure!(!text.contains(signature), "{place}: {text}");
        }
    }
    api.exeat.stop()
}

/// Those of [`wrong_tokens`] that are tried both ways.
const OVER_A_SOCKET: [&str; 4] = ["expired", "alg none", "nothing but depth", "too long"];

/// Tokens that do not count, and what is said of each.
fn wrong_tokens(issuer: &TokenIssuer) -> Result<Vec<(&'static str, String, &'static str)>> {
    let with = |changes: Value| issuer.token(changes);
    let header = r#"{"alg":"ES256","kid":"k1"}"#;
    let nested = format!("{}{}", "[".repeat(3000), "]".repeat(3000));
    let none = format!(
        "{}.{}.",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#),
        URL_SAFE_NO_PAD.encode(claims(json!({}))?.to_string())
    );
    let many: Vec<String> = (0..501).map(|number| format!("h{number}.test")).collect();
    Ok(vec![
        ("no token", "token".into(), "three parts"),
        ("empty", " \n".into(), "empty"),
        ("expired", with(json!({ "exp": now()? - 60 }))?, "expired"),
        ("not yet", with(json!({ "nbf": now()? + 1000 }))?, "not valid yet"),
        ("an unknown issuer", with(json!({ "iss": "others" }))?, "no issuer is configured"),
        ("for somebody else", with(json!({ "aud": "others" }))?, "`aud` does not name"),
        ("another key", TokenIssuer::new(SignatureAlgorithm::Es256, "k1")?.token(json!({}))?, "signature"),
        ("a key nobody knows", TokenIssuer::new(SignatureAlgorithm::Es256, "k2")?.token(json!({}))?, "`kid`"),
        ("alg none", none, "`alg`"),
        (
            "alg none for a known key",
            issuer.forged(r#"{"alg":"none","kid":"k1"}"#, &claims(json!({}))?.to_string())?,
            "`alg`",
        ),
        ("bound to its container", with(json!({ "enforce_container_binding": true }))?, "its container"),
        ("for central nodes", with(json!({ "enforce_centralized_egress": true }))?, "central nodes"),
        ("no such policy", with(json!({ "policy": "everything" }))?, "`policy`"),
        ("an endless label", with(json!({ "container_id": "x".repeat(300) }))?, "`container_id`"),
        ("a label in a list", with(json!({ "sub": ["a", "b"] }))?, "`sub`"),
        ("too many hosts", with(json!({ "allowed_hosts": many }))?, "500"),
        ("an address", with(json!({ "allowed_hosts": "93.184.216.80" }))?, "allowed_hosts"),
        ("claims in claims", issuer.forged(header, &format!("{{\"iss\":{nested}}}"))?, "JSON object"),
        ("nothing but depth", issuer.forged(header, &nested)?, "JSON object"),
        ("a member twice", issuer.forged(header, r#"{"iss":"a","iss":"b"}"#)?, "each member once"),
        ("too long", with(json!({ "padding": "x".repeat(20_000) }))?, "longer than"),
    ])
}

fn a_token_that_does_not_count_runs_nothing(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let issuer = issuer(home)?;
    let right = issuer.token(json!({}))?;
    {
        let api = Api::start(starter, home, &[])?;
        let (status, answer) = api.execute(&shell("touch ran", &right))?;
        let says_how = answer["help"].as_str().is_some_and(|help| help.contains("--config"));
        ensure!(status == 422 && says_how, "{status} {answer}");
        api.exeat.stop()?;
    }
    let api = serve(ADDRESS, starter, home)?;
    let both = |token: &str| {
        let mut order = shell("touch ran", token);
        order["policy"] = json!({});
        order
    };
    let wrong = wrong_tokens(&issuer)?;
    for (name, token, want) in &wrong {
        let (status, answer) = api.execute(&shell("touch ran", token))?;
        let error = answer["error"].as_str().with_context(|| format!("{name}: {status} {answer}"))?;
        ensure!(status == 422 && error.contains(want), "{name}: {status} {answer}");
        if OVER_A_SOCKET.contains(name) {
            let said = Caller::start(&api, &shell("touch ran", token).to_string(), false)?.next()?;
            ensure!(said["refused"]["error"] == error, "{name}: {said} instead of {answer}");
        }
    }
    let (status, answer) = api.execute(&both(&right))?;
    ensure!(status == 422 && answer["help"].is_string(), "{status} {answer}");
    let said = Caller::start(&api, &both(&right).to_string(), false)?.next()?;
    ensure!(said["refused"]["help"].is_string(), "{said}");
    let endless = "x".repeat(10 << 20);
    for (name, token, want) in [
        ("10 MiB", json!(endless), 413),
        ("JSON", json!({ "alg": "none" }), 400),
        ("a list", json!([right]), 400),
        ("a number", json!(7), 400),
    ] {
        let mut order = shell("touch ran", "");
        order["token"] = token;
        let (status, answer) = api.execute(&order)?;
        ensure!(status == want && answer["error"].is_string(), "{name}: {status}");
    }
    ensure!(!home.join("ran").exists(), "it was run");
    let (_, list) = api.ask("/runs", &[])?;
    ensure!(list["runs"] == json!([]), "{list}");
    // The nearest that counts, with as much space around it as a file may have.
    let (status, run) = api.execute(&shell("touch ran", &format!(" {right}\n")))?;
    ensure!(status == 200 && run["end"]["status"] == 0 && home.join("ran").exists(), "{run}");
    let started = Caller::start(&api, &shell("true", &right).to_string(), false)?.next()?;
    ensure!(started["started"].is_object(), "{started}");
    api.exeat.stop()
}

fn a_token_ends_what_is_open(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let issuer = issuer(home)?;
    let api = serve(ADDRESS, starter, home)?;
    let token =
        issuer.token(json!({ "allowed_hosts": "cdn.example.net:8080,example.com", "exp": now()? + 10 }))?;
    // `cat` ends when the connection does.
    let script = "exec 3<>/dev/tcp/cdn.example.net/8080 || exit 1
        read -r greeting <&3; echo \"$greeting\"; cat <&3; echo cut; curl -sS http://example.com/";
    let (status, run) = api.execute(&shell(script, &token))?;
    let out = run["stdout"]["text"].as_str().context("text")?;
    ensure!(status == 200 && out.starts_with("220 ") && out.contains("cut\n"), "{run}");
    ensure!(out.contains("token_expired") && !out.contains("hello"), "{run}");
    // The same again does not begin.
    let (status, answer) = api.execute(&shell("touch ran", &token))?;
    ensure!(
        status == 422 && answer["error"].as_str().is_some_and(|error| error.contains("expired")),
        "{answer}"
    );
    api.exeat.stop()
}

fn commands_cannot_write_whose_tokens_count(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let issuer = issuer(home)?;
    let api = serve(ADDRESS, starter, home)?;
    let files = ["exeat.toml", "jwks.json"].map(|name| home.join(name));
    let before = files.each_ref().map(fs::read_to_string).into_iter().collect::<Result<Vec<_>, _>>()?;
    let script = "for file in exeat.toml jwks.json; do echo x >> $file; mv $file away; rm $file; ln -sf /dev/null $file
        done; mv $PWD $PWD-away; echo > written";
    let by_token = shell(script, &issuer.token(json!({}))?);
    let by_policy = json!({ "command": "bash", "args": ["-c", script] });
    for (name, order) in [("a token", by_token), ("a policy", by_policy)] {
        let (status, run) = api.execute(&order)?;
        ensure!(status == 200, "{name}: {run}");
        let after = files.each_ref().map(fs::read_to_string).into_iter().collect::<Result<Vec<_>, _>>();
        ensure!(after.is_ok_and(|after| after == before), "under {name}: {run}");
        // Beside them is no less free than without a configuration.
        ensure!(fs::remove_file(home.join("written")).is_ok(), "under {name}: {run}");
    }
    api.exeat.stop()
}

fn what_the_configuration_says_now_counts(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let issuer = issuer(home)?;
    let mut api = serve(ADDRESS, starter, home)?;
    let order = shell("curl -sS http://example.com/", &issuer.token(json!({}))?);
    let (_, run) = api.execute(&order)?;
    ensure!(run["stdout"]["text"] == "hello from example.com\n", "{run}");
    write(home, "[policy.web]\nallow = [\"cdn.example.net\"]\n")?;
    let (_, run) = api.execute(&order)?;
    ensure!(run["end"]["network"]["refused"][0]["reason"] == "host_not_allowed", "{run}");
    // One that is wrong now allows nothing, and what is wrong is not for callers.
    write(home, "[policy.web]\nallow = [\"secret-name.*\"]\n")?;
    let (status, answer) = api.execute(&order)?;
    ensure!(status == 500 && answer["error"].as_str().is_some_and(|error| error.contains("log")), "{answer}");
    ensure!(!answer.to_string().contains("secret-name"), "{answer}");
    api.exeat.until_logged("secret-name")?;
    ensure!(world.accepts() == 1, "{:?}", world.reached());
    api.exeat.stop()?;
    // A server does not start with one, nor with one that lets no token count.
    for (name, text, want) in [
        ("errors", "[policy.web]\nallow = [\"secret-name.*\"]\n", "secret-name"),
        ("no issuer", "[policy.web]\nallow = [\"example.com\"]\n", "no [issuer]"),
    ] {
        fs::write(home.join("exeat.toml"), text)?;
        let mut exeat = spawn(starter, home, &["--addr", ADDRESS, "--config", "exeat.toml"], &[])?;
        let status = exeat.wait()?;
        ensure!(!status.success() && exeat.stderr().contains(want), "{name}: {status}: {}", exeat.stderr());
        ensure!(!exeat.stderr().contains("ready"), "{name}: {}", exeat.stderr());
    }
    Ok(())
}

fn records_go_where_the_configuration_says(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let issuer = issuer(home)?;
    fs::create_dir(home.join("log"))?;
    open_to_all(&home.join("log"))?;
    write(home, &format!("[audit]\nfile = \"log/records.jsonl\"\n{POLICY}"))?;
    let secret = "0123456789abcdef0123456789abcdef";
    let flags = ["--addr", ADDRESS, "--config", "exeat.toml"];
    let mut exeat = spawn(starter, home, &flags, &[(SECRET_VARIABLE, secret)])?;
    exeat.until_logged("ready")?;
    let execute = |order: Value| {
        let order = order.to_string();
        let field = format!("Authorization: Bearer {secret}");
        let args = ["-sS", "-w", "\n%{http_code}", "-H", &field, "-d", &order];
        answer(Client::new("curl", home).args(args).args([format!("http://{ADDRESS}/execute")]).run()?)
    };
    let (_, run) = execute(shell("curl -sS http://example.com/", &issuer.token(json!({}))?))?;
    let id = run["id"].as_str().context("an id")?;
    let records = fs::read_to_string(home.join("log/records.jsonl"))?;
    ensure!(records.contains(id) && records.contains("\"jti\":\"j1\""), "{run}: {records}");
    // Another command, of the same user, can neither write it nor put one in its place.
    let script = "echo x > log/records.jsonl; mv log/records.jsonl log/away; mv log away; exit 0";
    let (status, run) = execute(json!({ "command": "bash", "args": ["-c", script] }))?;
    ensure!(status == 200, "{run}");
    ensure!(fs::read_to_string(home.join("log/records.jsonl"))? == records, "{run}");
    exeat.stop()
}
