//! Policies that no flag spells out: of an `exeat.toml` above the working directory, and of a token.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Result, ensure};
use exeat_identity::SignatureAlgorithm;
use exeat_tests::client::Outcome;
use exeat_tests::confined::{Starter, open_to_all};
use exeat_tests::harness::Scenario;
use exeat_tests::terminal::Terminal;
use exeat_tests::tokens::{TokenIssuer, now};
use exeat_tests::world::World;
use serde_json::{Value, json};

pub(crate) fn scenarios() -> Vec<Scenario> {
    by_each_starter![
        a_file_above_counts_once_it_was_looked_at,
        a_file_that_others_can_write_does_not_count,
        a_command_cannot_say_what_was_looked_at,
        a_token_says_what_is_reached,
        a_token_ends_while_the_command_runs,
        records_go_where_the_flag_says,
    ]
}

pub(crate) const POLICY: &str = "[proxy]\nanonymous = \"web\"\n[policy.web]\nallow = [\"example.com\"]\n";

/// A project with a policy, below a folder that others cannot write, and a place for what its user has said.
pub(crate) fn project(home: &Path) -> Result<()> {
    fs::create_dir_all(home.join("project/inner"))?;
    fs::create_dir_all(home.join("open/state"))?;
    open_to_all(&home.join("open"))?;
    open_to_all(&home.join("open/state"))?;
    fs::write(home.join("project/exeat.toml"), POLICY)?;
    Ok(())
}

/// Runs a command in the project, where there is no terminal.
pub(crate) fn run(starter: Starter, home: &Path, flags: &[&str], command: &[&str]) -> Result<Outcome> {
    let mut started = starter.command(home, flags, command)?;
    // The whole way to the file has to be its user's.
    fs::set_permissions(home, Permissions::from_mode(0o755))?;
    started.current_dir(home.join("project/inner")).env("XDG_STATE_HOME", home.join("open/state"));
    let output = started.stdin(std::process::Stdio::null()).output()?;
    Ok(Outcome {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs a command in the project on a terminal, once `before` was done there.
pub(crate) fn on_terminal(
    starter: Starter,
    home: &Path,
    before: &str,
    flags: &str,
    command: &str,
) -> Result<Terminal> {
    starter.command(home, &[], &["true"])?;
    fs::set_permissions(home, Permissions::from_mode(0o755))?;
    let (state, inner) = (home.join("open/state"), home.join("project/inner"));
    let words = starter.words()?.join(" ");
    let home_is = format!("HOME={} XDG_STATE_HOME={}", home.display(), state.display());
    let line = format!("{before}cd {} && {home_is} exec {words} -q {flags} -- {command}", inner.display());
    Terminal::start(home, 40, 120, &line)
}

/// Runs a command in the project on a terminal, and answers a question.
pub(crate) fn answer(starter: Starter, home: &Path, answer: &str, command: &str) -> Result<(i32, String)> {
    let mut terminal = on_terminal(starter, home, "", "", command)?;
    terminal.until_written("[y/N] ")?;
    terminal.press(answer)?;
    let status = terminal.wait()?;
    Ok((status, terminal.written()))
}

pub(crate) const GET: [&str; 3] = ["curl", "-sS", "http://example.com/"];

fn a_file_above_counts_once_it_was_looked_at(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    project(home)?;
    let unseen = run(starter, home, &[], &GET)?;
    ensure!(
        unseen.code == 125 && unseen.err.contains("nobody has looked at it yet"),
        "{starter:?}: {unseen:?}"
    );
    let log = ["--trust-config", "-q", "--audit", "../../open/log.jsonl"];
    let trusted = run(starter, home, &log, &GET)?;
    ensure!(trusted.out == "hello from example.com\n", "{starter:?}: {trusted:?}");
    let records = fs::read_to_string(home.join("open/log.jsonl"))?;
    ensure!(records.contains("\"name\":\"example.com\""), "{starter:?}: {records}");
    let refused = run(starter, home, &["--trust-config", "-q"], &["curl", "-sSf", "http://evil.test/"])?;
    ensure!(refused.code == 22, "{starter:?}: {refused:?}");
    let accepts = world.accepts();
    let flags =
        run(starter, home, &["--allow", "example.org", "-q"], &["curl", "-sSf", "http://example.com/"])?;
    ensure!(flags.code == 22, "flags take its place: {starter:?}: {flags:?}");
    let (status, screen) = answer(starter, home, "n\n", "curl -sS http://example.com/")?;
    ensure!(status == 125 && screen.contains("allow = [\"example.com\"]"), "{starter:?}: {screen}");
    ensure!(run(starter, home, &[], &GET)?.code == 125 && world.accepts() == accepts, "{starter:?}");
    let (status, screen) = answer(starter, home, "y\n", "curl -sS http://example.com/")?;
    ensure!(status == 0 && screen.contains("hello from example.com"), "{starter:?}: {screen}");
    let seen = run(starter, home, &["-q"], &GET)?;
    ensure!(seen.out == "hello from example.com\n", "{starter:?}: {seen:?}");
    let accepts = world.accepts();
    fs::write(home.join("project/exeat.toml"), POLICY.replace("example.com", "evil.test"))?;
    let changed = run(starter, home, &[], &["curl", "-sS", "http://evil.test/"])?;
    ensure!(changed.code == 125 && changed.err.contains("nobody has looked"), "{starter:?}: {changed:?}");
    ensure!(world.accepts() == accepts, "{:?}", world.reached());
    Ok(())
}

fn a_file_that_others_can_write_does_not_count(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    project(home)?;
    for (path, mode) in [("project/exeat.toml", 0o666), ("project", 0o777), ("project", 0o1777)] {
        let path = home.join(path);
        let before = fs::metadata(&path)?.permissions();
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        let refused = run(starter, home, &["--trust-config"], &GET)?;
        ensure!(
            refused.code == 125 && refused.err.contains("can be written by others"),
            "{starter:?}: {refused:?}"
        );
        fs::set_permissions(&path, before)?;
    }
    ensure!(run(starter, home, &["--trust-config"], &GET)?.code == 0, "{starter:?}");
    ensure!(world.accepts() == 1, "{:?}", world.reached());
    Ok(())
}

fn a_command_cannot_say_what_was_looked_at(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    project(home)?;
    let (status, screen) = answer(starter, home, "y\n", "true")?;
    ensure!(status == 0, "{starter:?}: {screen}");
    let approved = home.join("open/state/exeat/approved");
    let before = fs::read_to_string(&approved)?;
    let script = "ls -A $XDG_STATE_HOME/exeat; echo forged > $XDG_STATE_HOME/exeat/approved
        mv $XDG_STATE_HOME $XDG_STATE_HOME.old || mv $XDG_STATE_HOME/exeat $XDG_STATE_HOME/other && echo moved; exit 0";
    for flags in [&["-q"][..], &["-q", "--allow", "example.com", "--rw", "../../open"]] {
        let tried = run(starter, home, flags, &["sh", "-c", script])?;
        ensure!(tried.code == 0 && tried.out.is_empty(), "{starter:?}: {tried:?}");
        ensure!(fs::read_to_string(&approved)? == before, "{starter:?}: it was changed");
    }
    Ok(())
}

pub(crate) fn token(home: &Path, changes: Value) -> Result<()> {
    let issuer = TokenIssuer::new(SignatureAlgorithm::Es256, "k1")?;
    TokenIssuer::publish(&[&issuer], home)?;
    let section = TokenIssuer::section("web", "leeway = \"0s\"");
    fs::write(
        home.join("exeat.toml"),
        format!("[policy.web]\nallow = [\"example.com\", \"cdn.example.net\"]\n{section}"),
    )?;
    fs::write(home.join("token"), issuer.token(changes)?)?;
    Ok(())
}

fn a_token_says_what_is_reached(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    // The ceiling has no `evil.test`, and the token no `cdn.example.net`.
    token(home, json!({ "allowed_hosts": "example.com,evil.test" }))?;
    let flags = ["--config", "exeat.toml", "--token", "token", "-q"];
    let script = "cat token; curl -sS http://example.com/";
    let done = starter.run(home, &flags, &["sh", "-c", script])?;
    ensure!(done.code == 0 && done.out == "hello from example.com\n", "{starter:?}: {done:?}");
    let accepts = world.accepts();
    for host in ["evil.test", "cdn.example.net"] {
        let refused = starter.run(home, &flags, &["curl", "-sSf", &format!("http://{host}/")])?;
        ensure!(refused.code == 22, "{starter:?}: {host}: {refused:?}");
    }
    ensure!(world.accepts() == accepts, "{:?}", world.reached());
    let mut by_variable = starter.command(
        home,
        &["--config", "exeat.toml", "--token", "env:PERMIT", "-q"],
        &["sh", "-c", "echo $PERMIT; curl -sS http://example.com/"],
    )?;
    let output = by_variable.env("PERMIT", fs::read_to_string(home.join("token"))?).output()?;
    ensure!(output.stdout == b"\nhello from example.com\n", "{starter:?}: {output:?}");
    for changes in [
        json!({ "exp": now()? - 60 }),
        json!({ "aud": "others" }),
        json!({ "enforce_container_binding": true }),
    ] {
        token(home, changes.clone())?;
        let refused = starter.run(home, &flags, &["touch", "ran"])?;
        ensure!(
            refused.code == 125 && refused.err.contains("the token "),
            "{starter:?}: {changes}: {refused:?}"
        );
        ensure!(!home.join("ran").exists(), "{starter:?}: {changes}: it was run");
    }
    Ok(())
}

fn a_token_ends_while_the_command_runs(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    token(home, json!({ "allowed_hosts": "example.com", "exp": now()? + 6 }))?;
    let script = "curl -sSf -o /dev/null http://example.com/ || exit 1
        while curl -sf -o /dev/null http://example.com/; do sleep 0.1; done
        curl -sS http://example.com/";
    let done =
        starter.run(home, &["--config", "exeat.toml", "--token", "token", "-q"], &["sh", "-c", script])?;
    ensure!(done.code == 0 && done.out.contains("token_expired"), "{starter:?}: {done:?}");
    Ok(())
}

fn records_go_where_the_flag_says(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    project(home)?;
    let audited = format!("{POLICY}[audit]\nfile = \"configured.jsonl\"\n");
    fs::write(home.join("project/exeat.toml"), audited)?;
    open_to_all(&home.join("project/inner"))?;
    let config = home.join("project/exeat.toml").to_string_lossy().into_owned();
    for (name, flags) in [
        ("named", &["--config", &*config][..]),
        ("named, with its policy", &["--config", &config, "--policy", "web"]),
        ("found", &["--trust-config"]),
    ] {
        let log = home.join(format!("project/inner/{}.jsonl", flags.len())).to_string_lossy().into_owned();
        let flags = [flags, &["--audit", &log, "-q"]].concat();
        let done = run(starter, home, &flags, &GET)?;
        ensure!(done.out == "hello from example.com\n", "{starter:?}: {name}: {done:?}");
        let records = fs::read_to_string(&log)?;
        ensure!(records.contains("example.com"), "{starter:?}: {name}: {records}");
        ensure!(!home.join("project/configured.jsonl").exists(), "{starter:?}: {name}");
    }
    // By itself it says nothing of what may be reached, so no file is looked for.
    let refused =
        run(starter, home, &["--audit", "inner.jsonl", "-q"], &["curl", "-sSf", "http://example.com/"])?;
    ensure!(refused.code == 22 && world.accepts() == 3, "{starter:?}: {refused:?}");
    Ok(())
}
