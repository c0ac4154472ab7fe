//! `exeat top`: on a terminal, and without one.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::fs;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use exeat_tests::client::{Client, Outcome};
use exeat_tests::exeat::{Exeat, binary};
use exeat_tests::fixture::{ask, configuration, get, request};
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::Raw;
use exeat_tests::scrape::{API, scrape};
use exeat_tests::terminal::Terminal;
use exeat_tests::world::{GREETING, World};
use exeat_tests::{harness, scenarios};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn main() -> ExitCode {
    harness::main(scenarios![
        the_screen_shows_who_talks_to_what_and_what_is_refused,
        flows_are_cut_from_the_screen_after_a_yes,
        the_terminal_is_given_back_however_it_ends,
        without_a_proxy_the_terminal_is_left_alone,
        once_agrees_with_the_metrics,
        requests_are_added_up_while_somebody_looks,
    ])
}

fn serve(world: &World) -> Result<Exeat> {
    let extra = format!("[api]\nsocket = \"s\"\nlisten = \"{API}\"\n");
    let policy = "allow = [\"example.com\", \"mail.example.org:25\"]";
    Exeat::serve(world.directory(), &configuration(policy, &extra), PROXY)
}

fn tunnel() -> Result<Raw> {
    let mut tunnel = Raw::proxy()?;
    let reply = tunnel.ask(request("CONNECT mail.example.org:25"))?;
    ensure!(reply.status == 200, "{reply:?}");
    ensure!(tunnel.exactly(GREETING.len())? == GREETING.as_bytes());
    Ok(tunnel)
}

fn command(world: &World, args: &[&str]) -> Result<Outcome> {
    Client::new(binary()?, world.directory()).args(args).run()
}

/// `exeat top` on a terminal; the settings of the terminal before and after it are in the files `before` and `after`,
/// its process number in `pid`.
fn top(world: &World, rows: usize, columns: usize) -> Result<Terminal> {
    let exeat = binary()?;
    let line = format!(
        "stty -g > before; sh -c 'echo $$ > pid; exec {} top --interval 0.2'; status=$?; stty -g > after; exit $status",
        exeat.display()
    );
    Terminal::start(world.directory(), rows, columns, &line)
}

/// The terminal is as it was: settings, screen, cursor and line wrap. Returns what was written after that.
fn given_back(world: &World, terminal: &Terminal) -> Result<String> {
    let [before, after] = ["before", "after"].map(|name| fs::read_to_string(world.directory().join(name)));
    let (before, after) = (before?, after?);
    ensure!(!before.is_empty() && before == after, "the terminal's settings: {before} then {after}");
    let written = terminal.written();
    let (_, rest) = written.rsplit_once("\u{1b}[?1049l").context("the screen of its own is left")?;
    for (set, reset) in [("\u{1b}[?25l", "\u{1b}[?25h"), ("\u{1b}[?7l", "\u{1b}[?7h")] {
        ensure!(written.rfind(set) < written.rfind(reset), "{set:?} is not undone: {written:?}");
    }
    Ok(rest.to_owned())
}

/// The cells of the first line of the screen with `text` in it.
fn cells<'a>(screen: &'a [String], text: &str) -> Vec<&'a str> {
    let line = screen.iter().find(|line| line.contains(text));
    line.map(|line| line.trim_start_matches('>').split_whitespace().collect()).unwrap_or_default()
}

fn the_screen_shows_who_talks_to_what_and_what_is_refused() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world)?;
    let tunnel = tunnel()?;
    ensure!(get("evil.test/")? == (403, Some("host_not_allowed".to_owned())));
    // Whoever is beside the program changes the size of the terminal when told to.
    let line = format!(
        "(until [ -e go ]; do sleep 0.05; done; stty rows 10 cols 40 < /dev/tty) & {} top --interval 0.2",
        binary()?.display()
    );
    let mut terminal = Terminal::start(world.directory(), 24, 80, &line)?;
    let screen = terminal.until("the tunnel and the refusal", |screen| {
        !cells(screen, "mail.example.org:25").is_empty() && !cells(screen, "evil.test:80").is_empty()
    })?;
    ensure!(screen.len() == 24 && screen.iter().all(|line| line.chars().count() == 80), "{screen:#?}");
    ensure!(screen[0].contains("revision 1") && screen[0].contains("1 tunnel "), "{screen:#?}");
    ensure!(screen.iter().any(|line| line.contains("refused: host_not_allowed 1 ")), "{screen:#?}");
    let refused = cells(&screen, "evil.test:80");
    ensure!(refused[..4] == ["app", "evil.test:80", "host_not_allowed", "1"], "{refused:?}");
    // Client, target, up, down, requests, flows, age.
    let row = cells(&screen, "mail.example.org:25");
    ensure!(row.len() == 7 && row[..2] == ["app", "mail.example.org:25"] && row[5] == "1", "{row:?}");
    terminal.until("bytes that move", |screen| {
        let is_sent = sends(&tunnel);
        let row = cells(screen, "mail.example.org:25");
        is_sent && row.len() == 7 && !["-", "0"].contains(&row[2]) && !["-", "0"].contains(&row[3])
    })?;
    fs::write(world.directory().join("go"), "")?;
    let small = terminal.until("a smaller screen", |screen| screen.len() == 10)?;
    ensure!(small.iter().all(|line| line.chars().count() == 40), "{small:#?}");
    ensure!(!cells(&small, "mail.example.org:25").is_empty(), "{small:#?}");
    terminal.press("fevil\r")?;
    terminal.until("a filter", |screen| cells(screen, "mail.example.org:25").is_empty())?;
    terminal.press("q")?;
    ensure!(terminal.wait()? == 0);
    drop(tunnel);
    exeat.stop()
}

/// Sends a little; what comes back is left in the socket.
fn sends(tunnel: &Raw) -> bool {
    tunnel.writer().is_ok_and(|mut writer| writer.write_all(b"x").is_ok())
}

fn flows_are_cut_from_the_screen_after_a_yes() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world)?;
    let mut one = tunnel()?;
    let mut terminal = top(&world, 24, 80)?;
    terminal.until("the tunnel", |screen| !cells(screen, "mail.example.org:25").is_empty())?;
    terminal.press("c")?;
    terminal.until("the question", |screen| {
        screen.iter().any(|line| line.starts_with("end 1 flow of app to mail.example.org:25? y/N"))
    })?;
    terminal.press("n")?;
    terminal.until("the end of the question", |screen| !screen.iter().any(|line| line.contains("y/N")))?;
    one.send("are you there")?;
    ensure!(one.exactly(13)? == b"are you there");
    terminal.press("cy")?;
    terminal.until("the answer", |screen| screen.iter().any(|line| line.starts_with("1 flow ends")))?;
    one.closed()?;
    terminal.press("q")?;
    ensure!(terminal.wait()? == 0);
    given_back(&world, &terminal)?;
    exeat.stop()
}

fn the_terminal_is_given_back_however_it_ends() -> Result<()> {
    let world = World::new()?;
    for (how, status) in [("q", 0), ("control c", 0), ("SIGTERM", 0), ("SIGINT", 0), ("no proxy", 1)] {
        let exeat = serve(&world)?;
        let mut terminal = top(&world, 24, 80)?;
        terminal.until("the first screen", |screen| screen.len() == 24)?;
        let signal = |signal| -> Result<()> {
            let pid: i32 = fs::read_to_string(world.directory().join("pid"))?.trim().parse()?;
            Ok(kill(Pid::from_raw(pid), signal)?)
        };
        match how {
            "q" => terminal.press("q")?,
            "control c" => terminal.press("\u{3}")?,
            "SIGTERM" => signal(Signal::SIGTERM)?,
            "SIGINT" => signal(Signal::SIGINT)?,
            _ => exeat.signal(Signal::SIGKILL)?,
        }
        let got = terminal.wait()?;
        ensure!(got == status, "{how}: status {got}");
        let rest = given_back(&world, &terminal).context(how)?;
        ensure!((how == "no proxy") == rest.contains("nobody listens at"), "{how}: {rest:?}");
    }
    Ok(())
}

fn without_a_proxy_the_terminal_is_left_alone() -> Result<()> {
    let world = World::new()?;
    let line = format!("{} top --socket nothing.sock", binary()?.display());
    let mut terminal = Terminal::start(world.directory(), 24, 80, &line)?;
    ensure!(terminal.wait()? == 1);
    let written = terminal.written();
    ensure!(written.contains("no socket at nothing.sock"), "{written:?}");
    ensure!(!written.contains("\u{1b}[?1049h"), "{written:?}");
    Ok(())
}

fn once_agrees_with_the_metrics() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world)?;
    let tunnel = tunnel()?;
    for _ in 0..3 {
        ensure!(get("example.com/")?.0 == 200);
    }
    ensure!(get("evil.test/")?.0 == 403 && get("evil.test/")?.0 == 403 && get("10.0.0.1/")?.0 == 403);
    ensure!(ask("GET http://example.com:81/")?.1.status == 403);
    let shown = command(&world, &["top", "--once", "--json", "--interval", "0.1"])?;
    let answer: Value = serde_json::from_str(&shown.out)?;
    let metrics = scrape()?;
    let metric = |name: &str| metrics.get(name).copied();
    let number = |pointer: &str| answer.pointer(pointer).and_then(Value::as_f64);
    for (pointer, name) in [
        ("/decisions/allowed", "exeat_decisions_total{verdict=\"allow\",reason=\"none\"}"),
        ("/bytes_up", "exeat_flow_bytes_total{direction=\"up\"}"),
        ("/bytes_down", "exeat_flow_bytes_total{direction=\"down\"}"),
        ("/revision", "exeat_policy_revision"),
        ("/tunnels", "exeat_flows_active{kind=\"tunnel\"}"),
        ("/connections", "exeat_connections_active"),
    ] {
        let (got, want) = (number(pointer), metric(name));
        ensure!(got.is_some() && got == want, "{pointer}: {got:?}, and {name} is {want:?}\n{answer:#}");
    }
    let reasons = answer["decisions"]["reasons"].as_array().context("reasons")?;
    ensure!(reasons.len() == 3, "{answer:#}");
    for reason in reasons {
        let token = reason["reason"].as_str().context("a reason")?;
        let name = format!("exeat_decisions_total{{verdict=\"deny\",reason=\"{token}\"}}");
        ensure!(reason["denied"].as_f64() == metric(&name) && reason["failed"] == 0, "{reason} {name}");
        // The rows of the summary are the same refusals.
        let rows = answer["refusals"].as_array().context("refusals")?;
        let of = |row: &&Value| row["reason"] == reason["reason"];
        let sum: u64 = rows.iter().filter(of).filter_map(|row| row["count"].as_u64()).sum();
        ensure!(reason["denied"] == sum, "{reason}: {rows:?}");
    }
    ensure!(answer["decisions"]["allowed"] == 4 && answer["decisions"]["denied"] == 4, "{answer:#}");
    ensure!(answer["per_second"]["denied"] == 0.0, "nothing happened between the two looks: {answer:#}");
    // The text, asked for and where there is no terminal.
    for args in [&["top", "--once", "--interval", "0.1"][..], &["top", "--interval", "0.1"]] {
        let text = command(&world, args)?;
        ensure!(text.code == 0 && !text.out.contains('\u{1b}'), "{text:?}");
        for part in
            ["revision 1", "mail.example.org:25", "evil.test:80", "host_not_allowed", "port_not_allowed"]
        {
            ensure!(text.out.contains(part), "{part}: {}", text.out);
        }
    }
    drop(tunnel);
    exeat.stop()
}

fn requests_are_added_up_while_somebody_looks() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world)?;
    ensure!(get("example.com/")?.0 == 200);
    let look = || -> Result<Value> {
        Ok(serde_json::from_str(&command(&world, &["top", "--json", "--interval", "0.1"])?.out)?)
    };
    ensure!(look()?["pairs"] == serde_json::json!([]), "what ended before nobody has counted");
    for _ in 0..5 {
        ensure!(get("example.com/")?.0 == 200);
    }
    let answer = look()?;
    let pair = &answer["pairs"][0];
    ensure!(pair["client"] == "app" && pair["target"] == "example.com:80", "{answer:#}");
    ensure!(pair["requests"] == 5 && pair["flows"] == 0, "{answer:#}");
    // Each response is `hello from example.com`.
    ensure!(pair["bytes_down"] == 5 * 23 && pair["bytes_up"] == 0, "{answer:#}");
    exeat.stop()
}
