//! Issuers whose keys are fetched, from a real HTTPS server: rotation, and everything that such a server can do wrong.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Result, ensure};
use exeat_identity::SignatureAlgorithm::{EdDsa, Es256};
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{configuration, request_with};
use exeat_tests::http::{Reply, Request};
use exeat_tests::namespace::PROXY;
use exeat_tests::origin::PATIENCE;
use exeat_tests::raw::Raw;
use exeat_tests::scrape::{API, scrape};
use exeat_tests::tokens::{TokenIssuer, bearer};
use exeat_tests::world::{GREETING, World};
use exeat_tests::{harness, scenarios};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn main() -> ExitCode {
    harness::main(scenarios![
        a_rotation_is_followed_and_a_key_that_is_gone_ends_its_tunnels,
        a_server_that_fails_changes_nothing,
        without_any_keys_tokens_are_refused_and_the_rest_is_served,
        a_key_that_is_not_known_is_asked_for_and_not_too_often,
        a_reload_keeps_what_is_known_and_asks_again,
        only_the_configured_server_is_believed,
    ])
}

/// What no token exceeds.
const CEILING: &str = r#"allow = ["example.com:80,443,25"]"#;
/// Where the keys are. The name is not one that tokens may reach.
const SERVER: &str = "keys.example.org";

/// What the server answers; a test changes it.
#[derive(Clone)]
enum Answer {
    Text(u16, String),
    /// To be found elsewhere.
    Elsewhere(String),
    /// Nothing, for so long that nobody waits.
    Silence,
}

type Answers = Arc<Mutex<Answer>>;

fn set(answers: &Answers, answer: Answer) {
    *answers.lock().unwrap_or_else(PoisonError::into_inner) = answer;
}

/// The set of these issuers' keys.
fn keys(issuers: &[&TokenIssuer]) -> Answer {
    let keys: Vec<Value> = issuers.iter().map(|issuer| issuer.key.to_jwk()).collect();
    Answer::Text(200, json!({ "keys": keys }).to_string())
}

/// A world whose web servers answer `/jwks` with what is in the first part.
fn world(first: Answer) -> Result<(Answers, World)> {
    let answers: Answers = Arc::new(Mutex::new(first));
    let told = Arc::clone(&answers);
    let world = World::serving(Arc::new(move |request: &Request| {
        if request.target != "/jwks?v=1" {
            return Reply::new(200, "hello\n");
        }
        let answer = told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match answer {
            Answer::Text(status, text) => Reply::new(status, text),
            Answer::Elsewhere(place) => Reply::new(302, "").with("Location", &place),
            Answer::Silence => {
                thread::sleep(10 * PATIENCE);
                Reply::new(200, "")
            }
        }
    }))?;
    Ok((answers, world))
}

fn config(url: &str, lines: &str) -> String {
    let section = TokenIssuer::section("app", "")
        .replace("{ file = \"jwks.json\" }", &format!("{{ url = \"{url}\", ca = \"ca.pem\"{lines} }}"));
    configuration(CEILING, &format!("{section}[api]\nlisten = \"{API}\"\n"))
}

fn serve(world: &World, refresh: &str) -> Result<Exeat> {
    let lines = format!(", refresh = \"{refresh}\"");
    Exeat::serve(world.directory(), &config(&format!("https://{SERVER}/jwks?v=1"), &lines), PROXY)
}

fn token(issuer: &TokenIssuer, jti: &str) -> Result<String> {
    issuer.token(json!({"allowed_hosts": ["example.com:25,80"], "jti": jti}))
}

/// The status of a request with a token.
fn status(token: &str) -> Result<u16> {
    let mut client = Raw::proxy()?;
    Ok(client.ask(request_with("GET http://example.com/", &bearer(token)))?.status)
}

/// Waits until the keys have changed for the `count`th time. Asking again and again with a token that is refused would
/// make the proxy answer no more.
fn until_changed(exeat: &mut Exeat, count: usize) -> Result<()> {
    exeat.until("other keys", |exeat| {
        Ok((exeat.stderr().matches("the issuer's keys have changed").count() >= count).then_some(()))
    })
}

/// How often the keys were asked for.
fn asked(world: &World) -> usize {
    world.https.requests().iter().filter(|request| request.target == "/jwks?v=1").count()
}

/// Waits until the keys have been asked for twice more: an answer that was set before has come to something then.
fn after_two_more(exeat: &mut Exeat, world: &World) -> Result<()> {
    let before = asked(world);
    exeat.until("two more fetches", |_| Ok((asked(world) >= before + 2).then_some(())))
}

/// An open tunnel to a server that has spoken first.
fn tunnel(token: &str) -> Result<Raw> {
    let mut client = Raw::proxy()?;
    let reply = client.ask(request_with("CONNECT example.com:25", &bearer(token)))?;
    ensure!(reply.status == 200, "{reply:?}");
    ensure!(client.exactly(GREETING.len())? == GREETING.as_bytes());
    Ok(client)
}

fn is_alive(tunnel: &mut Raw) -> Result<()> {
    tunnel.send("still there")?;
    ensure!(tunnel.exactly(11)? == b"still there");
    Ok(())
}

fn a_rotation_is_followed_and_a_key_that_is_gone_ends_its_tunnels() -> Result<()> {
    let (old, new) = (TokenIssuer::new(Es256, "old")?, TokenIssuer::new(EdDsa, "new")?);
    let (answers, world) = world(keys(&[&old]))?;
    let mut exeat = serve(&world, "1s")?;
    let (first, second) = (token(&old, "first")?, token(&new, "second")?);
    // The start waits for the keys.
    let got = (status(&first)?, status(&second)?);
    ensure!(got == (200, 407), "{got:?}: {}", exeat.stderr());
    ensure!(world.https.seen().iter().all(|seen| seen.requests.iter().all(|r| r.host() == SERVER)));
    let mut goes = tunnel(&first)?;
    set(&answers, keys(&[&old, &new]));
    until_changed(&mut exeat, 2)?;
    let mut stays = tunnel(&second)?;
    ensure!(status(&first)? == 200, "both count while both are there");
    is_alive(&mut goes)?;
    set(&answers, keys(&[&new]));
    goes.closed()?;
    exeat.audit_until("the end of the tunnel", |records| {
        let first = |record: &&Value| record["event"] == "end" && record["principal"]["jti"] == "first";
        records.iter().find(first).is_some_and(|record| record["end"] == "policy_changed")
    })?;
    ensure!(status(&first)? == 407 && status(&second)? == 200);
    is_alive(&mut stays)?;
    drop(stays);
    exeat.stop()
}

fn a_server_that_fails_changes_nothing() -> Result<()> {
    let (issuer, other) = (TokenIssuer::new(Es256, "k1")?, TokenIssuer::new(Es256, "k2")?);
    let (answers, world) = world(keys(&[&issuer]))?;
    let mut exeat = serve(&world, "1s")?;
    let (good, others) = (token(&issuer, "good")?, token(&other, "others")?);
    let mut stays = tunnel(&good)?;
    let jwk = issuer.key.to_jwk();
    let Answer::Text(_, text) = keys(&[&other]) else { anyhow::bail!("keys are a text") };
    for (name, answer) in [
        ("garbage", Answer::Text(200, "<html>".to_owned())),
        ("nothing", Answer::Text(200, String::new())),
        ("an empty set", Answer::Text(200, json!({"keys": []}).to_string())),
        ("two of a name", Answer::Text(200, json!({"keys": [jwk, jwk]}).to_string())),
        ("an error", Answer::Text(500, text.clone())),
        ("a redirect", Answer::Elsewhere(format!("https://{SERVER}/other"))),
        ("too large", Answer::Text(200, format!("{text}{}", " ".repeat(256 * 1024)))),
    ] {
        set(&answers, answer);
        after_two_more(&mut exeat, &world)?;
        ensure!(status(&good)? == 200, "{name}: what was known counts");
        ensure!(status(&others)? != 200, "{name}: and nothing else");
        is_alive(&mut stays)?;
    }
    ensure!(
        world.https.requests().iter().all(|request| request.target != "/other"),
        "a redirect is followed"
    );
    set(&answers, Answer::Silence);
    exeat.until_logged("no answer within 5 s")?;
    ensure!(status(&good)? == 200, "a slow one");
    set(&answers, keys(&[&issuer, &other]));
    until_changed(&mut exeat, 2)?;
    ensure!(status(&good)? == 200, "and is there again");
    is_alive(&mut stays)?;
    let numbers = scrape()?;
    let counted =
        |result| numbers.get(&format!("exeat_token_key_fetches_total{{result=\"{result}\"}}")).copied();
    ensure!(counted("failure") >= Some(8.0) && counted("success") >= Some(2.0), "{numbers:?}");
    drop(stays);
    exeat.stop()
}

fn without_any_keys_tokens_are_refused_and_the_rest_is_served() -> Result<()> {
    let issuer = TokenIssuer::new(Es256, "k1")?;
    let (answers, world) = world(Answer::Text(503, String::new()))?;
    let mut exeat = serve(&world, "1s")?;
    let token = token(&issuer, "j1")?;
    ensure!(status(&token)? == 407, "nothing is known");
    ensure!(exeat_tests::fixture::get("example.com/")?.0 == 200, "a password counts");
    exeat.until_logged("its tokens are refused")?;
    ensure!(scrape()?.contains_key("exeat_token_keys_age_seconds"));
    set(&answers, keys(&[&issuer]));
    until_changed(&mut exeat, 1)?;
    ensure!(status(&token)? == 200);
    exeat.stop()
}

fn a_key_that_is_not_known_is_asked_for_and_not_too_often() -> Result<()> {
    let (old, new) = (TokenIssuer::new(Es256, "old")?, TokenIssuer::new(EdDsa, "new")?);
    let (answers, world) = world(keys(&[&old]))?;
    let mut exeat = serve(&world, "24h")?;
    let (first, second) = (token(&old, "first")?, token(&new, "second")?);
    ensure!(status(&first)? == 200 && asked(&world) == 1);
    set(&answers, keys(&[&new]));
    for _ in 0..3 {
        ensure!(status(&second)? == 407);
    }
    until_changed(&mut exeat, 2)?;
    ensure!(status(&first)? == 407 && status(&second)? == 200);
    // Three tokens, and one question for all of them.
    ensure!(asked(&world) == 2, "{} fetches", asked(&world));
    exeat.stop()
}

fn a_reload_keeps_what_is_known_and_asks_again() -> Result<()> {
    let (old, new) = (TokenIssuer::new(Es256, "old")?, TokenIssuer::new(EdDsa, "new")?);
    let (answers, world) = world(keys(&[&old]))?;
    let mut exeat = serve(&world, "24h")?;
    let (first, second) = (token(&old, "first")?, token(&new, "second")?);
    let mut stays = tunnel(&first)?;
    set(&answers, Answer::Text(500, String::new()));
    exeat.signal(Signal::SIGHUP)?;
    exeat.until_logged("the last ones stay")?;
    ensure!(status(&first)? == 200);
    is_alive(&mut stays)?;
    set(&answers, keys(&[&old, &new]));
    exeat.signal(Signal::SIGHUP)?;
    until_changed(&mut exeat, 2)?;
    ensure!(status(&second)? == 200);
    is_alive(&mut stays)?;

    // Another server's keys are other keys: nothing is taken over.
    set(&answers, Answer::Text(500, String::new()));
    Exeat::write_config(world.directory(), &config("https://other.example.org/jwks?v=1", ""))?;
    exeat.signal(Signal::SIGHUP)?;
    stays.closed()?;
    ensure!(status(&first)? == 407);
    exeat.stop()
}

fn only_the_configured_server_is_believed() -> Result<()> {
    let issuer = TokenIssuer::new(Es256, "k1")?;
    let (_answers, world) = world(keys(&[&issuer]))?;
    // An authority that has nothing to do with the server.
    exeat_tests::tls::Authority::new()?.write(&world.directory().join("ca.pem"))?;
    let mut exeat = serve(&world, "1s")?;
    exeat.until_logged("the server's certificate is not accepted")?;
    ensure!(status(&token(&issuer, "j1")?)? == 407 && asked(&world) == 0);
    exeat.stop()?;

    Exeat::write_config(world.directory(), &config(&format!("http://{SERVER}/jwks?v=1"), ""))?;
    let binary = exeat_tests::exeat::binary()?;
    let checked = std::process::Command::new(binary)
        .args(["check", "exeat.toml"])
        .current_dir(world.directory())
        .output()?;
    let said =
        String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
    ensure!(!checked.status.success() && said.contains("over `https` alone"), "{said}");
    Ok(())
}
