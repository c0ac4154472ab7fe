//! When a token counts no longer.

use anyhow::{Context, Result, ensure};
use exeat_identity::SignatureAlgorithm::{EdDsa, Es256};
use exeat_identity::SigningKey;
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::configuration;
use exeat_tests::namespace::PROXY;
use exeat_tests::tokens::{CONTAINER, TokenIssuer, basic, bearer, now};
use exeat_tests::world::World;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::carried::{API, metrics};
use crate::setup::{CEILING, check, command, command_with_warnings, serve, tunnel};

/// The end of the tunnel of this token, from the audit log.
fn end_of(exeat: &mut Exeat, jti: &str) -> Result<Value> {
    let wanted = |record: &Value| record["event"] == "end" && record["principal"]["jti"] == jti;
    let records = exeat.audit_until("the end of the tunnel", |records| records.iter().any(wanted))?;
    records.into_iter().find(wanted).context("the record")
}

pub(crate) fn an_expiry_ends_openings_and_tunnels_alike() -> Result<()> {
    let world = World::new()?;
    let issuer = TokenIssuer::new(Es256, "k1")?;
    let mut exeat = serve(&world, &issuer, CEILING, "leeway = \"1s\"")?;
    let listed = ["example.com:25,80"];
    let lasting = issuer.token(json!({"allowed_hosts": listed, "jti": "lasting"}))?;
    let end = now()? + 2;
    let short = issuer.token(json!({"allowed_hosts": listed, "jti": "short", "exp": end}))?;
    let mut stays = tunnel(&bearer(&lasting))?;
    let mut goes = tunnel(&bearer(&short))?;
    goes.closed()?;
    let over = now()?;
    // The leeway, the second that flows have, and as much again ten times.
    ensure!((end..end + 11).contains(&over), "it ended at {over} instead of {end}");
    let record = end_of(&mut exeat, "short")?;
    ensure!(record["end"] == "token_expired", "{record}");
    check("an opening", "GET http://example.com/", &bearer(&short), (407, "token_expired"))?;
    check("a password", "GET http://example.com/", &basic(CONTAINER, &short), (407, "token_expired"))?;
    stays.send("still there")?;
    ensure!(stays.exactly(11)? == b"still there");
    drop(stays);
    exeat.stop()
}

pub(crate) fn a_key_that_is_taken_away_ends_its_tunnels() -> Result<()> {
    let world = World::new()?;
    let (old, new) = (TokenIssuer::new(Es256, "old")?, TokenIssuer::new(EdDsa, "new")?);
    TokenIssuer::publish(&[&old, &new], world.directory())?;
    let config = configuration(CEILING, &TokenIssuer::section("app", ""));
    let mut exeat = Exeat::serve(world.directory(), &config, PROXY)?;
    let token = |issuer: &TokenIssuer, jti: &str| {
        issuer.token(json!({"allowed_hosts": ["example.com:25,80"], "jti": jti}))
    };
    let (first, second) = (token(&old, "first")?, token(&new, "second")?);
    let (mut goes, mut stays) = (tunnel(&bearer(&first))?, tunnel(&bearer(&second))?);
    TokenIssuer::publish(&[&new], world.directory())?;
    exeat.signal(Signal::SIGHUP)?;
    exeat.wait_for_output("open flows decided on again")?;
    goes.closed()?;
    let record = end_of(&mut exeat, "first")?;
    ensure!(record["end"] == "policy_changed", "{record}");
    check("the old key", "GET http://example.com/", &bearer(&first), (407, "auth_invalid"))?;
    check("the new one", "GET http://example.com/", &bearer(&second), (200, ""))?;
    stays.send("still there")?;
    ensure!(stays.exactly(11)? == b"still there");
    drop(stays);
    exeat.stop()
}

pub(crate) fn an_issuer_that_binds_its_tokens_ends_those_from_elsewhere() -> Result<()> {
    let world = World::new()?;
    let issuer = TokenIssuer::new(Es256, "k1")?;
    TokenIssuer::publish(&[&issuer], world.directory())?;
    let place = "[workload.sbx-1]\naddresses = [\"10.99.0.1\"]\nalone = false\n";
    let config = |lines: &str| configuration(CEILING, &(TokenIssuer::section("app", lines) + place));
    let mut exeat = Exeat::serve(world.directory(), &config(""), PROXY)?;
    let token = |jti: &str, container: &str| {
        issuer.token(json!({"allowed_hosts": ["example.com:25"], "jti": jti, "container_id": container}))
    };
    let (here, elsewhere) = (token("here", "sbx-1")?, token("elsewhere", "sbx-2")?);
    let (mut stays, mut goes) = (tunnel(&bearer(&here))?, tunnel(&bearer(&elsewhere))?);
    Exeat::write_config(world.directory(), &config("enforce_container_binding = true"))?;
    exeat.signal(Signal::SIGHUP)?;
    goes.closed()?;
    let record = end_of(&mut exeat, "elsewhere")?;
    ensure!(record["end"] == "policy_changed", "{record}");
    check("elsewhere", "CONNECT example.com:25", &bearer(&elsewhere), (403, "container_mismatch"))?;
    stays.send("still there")?;
    ensure!(stays.exactly(11)? == b"still there");
    drop(stays);
    exeat.stop()
}

pub(crate) fn a_revocation_ends_tunnels_and_outlives_a_restart() -> Result<()> {
    let world = World::new()?;
    let issuer = TokenIssuer::new(Es256, "k1")?;
    TokenIssuer::publish(&[&issuer], world.directory())?;
    let more = format!("[api]\nsocket = \"api.sock\"\nlisten = \"{API}\"\n[state]\ndirectory = \".\"\n");
    let config = configuration(CEILING, &(TokenIssuer::section("app", "") + &more));
    let mut exeat = Exeat::serve(world.directory(), &config, PROXY)?;
    let token = |jti: &str, container: &str, organization: &str| {
        issuer.token(json!({"allowed_hosts": ["example.com:25,80"], "jti": jti, "container_id": container,
            "organization_uuid": organization}))
    };
    let tokens = [
        ("jti=first", token("first", "sbx-1", "org-1")?, "first"),
        ("container=sbx-2", token("second", "sbx-2", "org-1")?, "second"),
        ("organization=org-2", token("third", "sbx-3", "org-2")?, "third"),
    ];
    let other = token("other", "sbx-4", "org-1")?;
    let mut stays = tunnel(&bearer(&other))?;
    let (line, revoked) = ("GET http://example.com/", (407, "token_revoked"));
    for (name, token, jti) in &tokens {
        let mut goes = tunnel(&bearer(token))?;
        let began = std::time::Instant::now();
        let told = command(&world, &["revoke", name])?;
        ensure!(told == format!("{name} is revoked; 1 flow ends\n"), "{told}");
        goes.closed()?;
        // Ten times the second that it may take.
        ensure!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
        let record = end_of(&mut exeat, jti)?;
        ensure!(record["end"] == "token_revoked" && record["reason"] == "token_revoked", "{record}");
        check(name, line, &bearer(token), revoked)?;
    }
    check("another one", line, &bearer(&other), (200, ""))?;
    stays.send("still there")?;
    ensure!(stays.exactly(11)? == b"still there");
    drop(stays);
    exeat.stop()?;

    let exeat = Exeat::serve(world.directory(), &config, PROXY)?;
    for (name, token, _) in &tokens {
        check(name, line, &bearer(token), revoked)?;
    }
    let attempts = metrics()?;
    for (result, want) in [("accepted", 0), ("revoked", tokens.len())] {
        let line = format!("exeat_auth_attempts_total{{result=\"{result}\"}} {want}\n");
        ensure!(attempts.contains(&line), "a revoked token is not accepted: {attempts}");
    }
    check("another one", line, &bearer(&other), (200, ""))?;
    let listed = command(&world, &["revocations"])?;
    ensure!(tokens.iter().all(|(name, ..)| listed.contains(name)) && listed.lines().count() == 3, "{listed}");
    command(&world, &["revoke", "jti=first", "--lift"])?;
    check("lifted", line, &bearer(&tokens[0].1), (200, ""))?;
    command(&world, &["revoke", "key=k1"])?;
    check("its key", line, &bearer(&other), revoked)?;
    command(&world, &["revoke", "key=k1", "--lift"])?;
    check("the key is lifted", line, &bearer(&other), (200, ""))?;
    let thumbprint = SigningKey::parse(issuer.key.to_pem().as_bytes(), None)?.kid().to_owned();
    command(&world, &["revoke", &format!("key={thumbprint}")])?;
    check("its key, by its thumbprint", line, &bearer(&other), revoked)?;
    let (_, warned) = command_with_warnings(&world, &["revoke", &format!("key={thumbprint}")])?;
    ensure!(warned.is_empty(), "{warned}");
    let (_, warned) = command_with_warnings(&world, &["revoke", "key=k9"])?;
    ensure!(warned == "warning: no issuer has a key of this name now\n", "{warned}");
    exeat.stop()?;

    let exeat = Exeat::serve(world.directory(), &config.replace("[state]\ndirectory = \".\"\n", ""), PROXY)?;
    let (_, warned) = command_with_warnings(&world, &["revoke", "jti=first"])?;
    ensure!(warned.starts_with("warning: it is lost at a restart: set `directory` of [state]"), "{warned}");
    exeat.stop()
}
