//! A confined command is one like any other to whoever started it: status, signals, streams, terminal.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use exeat_tests::confined::Starter;
use exeat_tests::harness::Scenario;
use exeat_tests::terminal::Terminal;
use exeat_tests::world::World;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub(crate) fn scenarios() -> Vec<Scenario> {
    by_each_starter![
        it_ends_as_the_command_does,
        what_it_reached_is_told_at_the_end,
        signals_reach_the_command,
        nothing_outlives_it,
        the_terminal_is_the_commands,
    ]
}

fn it_ends_as_the_command_does(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    std::fs::write(home.join("data"), "no program")?;
    let allow: &[&str] = &["--allow", "example.com"];
    for (flags, command, want) in [
        (allow, &["true"][..], 0),
        (&[], &["true"], 0),
        (allow, &["sh", "-c", "exit 7"], 7),
        (allow, &["sh", "-c", "kill -TERM $$"], 143),
        (allow, &["sh", "-c", "kill -KILL $$"], 137),
        (allow, &["sh", "-c", "env | grep -i malloc; exit 0"], 0),
        (allow, &["no-such-command"], 127),
        (allow, &["./data"], 126),
        (&["--allow", "*"], &["true"], 125),
        (&["--no-such-flag"], &["true"], 125),
        (&["--ro", "no-such-file"], &["true"], 125),
        (&["--ro", "data/below"], &["true"], 125),
        // Where nothing is, nothing can be read.
        (&["-q", "--hide", "no-such-file", "--hide", "data/below"], &["true"], 0),
        (&["--socket", "data"], &["true"], 125),
    ] {
        let output = starter.command(home, flags, command)?.stdin(Stdio::null()).output()?;
        ensure!(output.status.code() == Some(want), "{starter:?}: {flags:?} {command:?}: {output:?}");
        // What is ours to say is on standard error.
        ensure!(output.stdout.is_empty(), "{starter:?}: {output:?}");
        ensure!(
            output.stderr.is_empty() == (want != 125 && want != 126 && want != 127),
            "{starter:?}: {output:?}"
        );
    }
    Ok(())
}

fn what_it_reached_is_told_at_the_end(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let script = "curl -sS http://example.com/; curl -sS -o refused http://evil.test:8080/; \
        curl -sS --noproxy '*' http://other.test/; exit 0";
    let run = |flags: &[&str]| {
        let flags = [&["--allow", "example.com"], flags].concat();
        starter.run(home, &flags, &["sh", "-c", script])
    };
    let told = run(&[])?;
    ensure!(told.code == 0 && told.out == "hello from example.com\n", "{starter:?}: {told:?}");
    ensure!(told.err.contains("  reached  example.com:80  1× by curl, "), "{starter:?}: {told:?}");
    for entry in ["evil.test:8080", "other.test"] {
        let is_told = told.err.lines().any(|line| {
            line.contains(&format!("refused  {entry}  "))
                && line.contains("× by curl, ")
                && line.contains(&format!("; --allow '{entry}'"))
        });
        ensure!(is_told, "{starter:?}: {entry}: {told:?}");
    }
    // What no entry changes is not suggested.
    let script = "import socket, urllib.request
for ask in (lambda: socket.gethostbyaddr('93.184.216.34'),
            lambda: urllib.request.build_opener(urllib.request.ProxyHandler({})).open('http://127.0.0.1:3129/')):
    try: ask()
    except OSError: pass";
    let own = starter.run(home, &["--allow", "example.com"], &["/usr/bin/python3", "-c", script])?;
    let rows = ["refused  34.216.184.93.in-addr.arpa  ", "127.0.0.1:3129  "];
    let is_told = rows.iter().all(|row| own.err.contains(row)) && !own.err.contains("--allow");
    ensure!(is_told, "{starter:?}: {own:?}");
    let quiet = run(&["--quiet", "--fail-on-deny"])?;
    ensure!(quiet.code == 1 && !quiet.err.contains("exeat:"), "{starter:?}: {quiet:?}");
    let json = run(&["--json"])?;
    let line = json.err.lines().last().context("a line")?;
    let summary: serde_json::Value = serde_json::from_str(line)?;
    let reached = summary.pointer("/allowed/0/target").and_then(serde_json::Value::as_str);
    let refused = summary.pointer("/refused/0/reason").and_then(serde_json::Value::as_str);
    for list in ["/allowed/0/processes/0", "/refused/0/processes/0"] {
        ensure!(summary.pointer(list).and_then(serde_json::Value::as_str) == Some("curl"), "{summary}");
    }
    ensure!(reached == Some("example.com:80") && refused == Some("host_not_allowed"), "{summary}");
    let allowed = starter.run(
        home,
        &["--allow", "example.com", "--fail-on-deny"],
        &["curl", "-sS", "http://example.com/"],
    )?;
    ensure!(allowed.code == 0, "{starter:?}: {allowed:?}");
    Ok(())
}

fn signals_reach_the_command(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let script = "trap 'echo usr1' USR1; trap 'exit 42' TERM; echo ready
        while :; do sleep 0.05; done";
    let mut command = starter.command(world.directory(), &[], &["sh", "-c", script])?;
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
    ensure!(lines.next().transpose()?.as_deref() == Some("ready"), "{starter:?}");
    kill(pid, Signal::SIGUSR1)?;
    ensure!(lines.next().transpose()?.as_deref() == Some("usr1"), "{starter:?}");
    kill(pid, Signal::SIGTERM)?;
    ensure!(child.wait()?.code() == Some(42), "{starter:?}");
    Ok(())
}

fn nothing_outlives_it(starter: Starter) -> Result<()> {
    let world = World::new()?;
    // The end of the output is the end of all that could write to it.
    let script = "(trap '' TERM HUP; sleep 1000) & setsid sleep 1000 & echo ready";
    let mut command = starter.command(world.directory(), &[], &["sh", "-c", &format!("{script}; exit 3")])?;
    let output = command.output()?;
    ensure!(output.status.code() == Some(3) && output.stdout == b"ready\n", "{starter:?}: {output:?}");
    // It may itself be ended without a word.
    let mut command = starter.command(world.directory(), &[], &["sh", "-c", &format!("{script}; wait")])?;
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut output = BufReader::new(child.stdout.take().context("stdout")?);
    let mut text = String::new();
    output.read_line(&mut text)?;
    child.kill()?;
    output.read_to_string(&mut text)?;
    ensure!(text == "ready\n", "{starter:?}: {text:?}");
    child.wait()?;
    Ok(())
}

fn the_terminal_is_the_commands(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    // To see that the folder is open to whoever runs it.
    starter.command(home, &[], &["true"])?;
    let words = starter.words()?.join(" ");
    let line = format!(
        "exec {words} -- sh -c 'trap \"echo interrupted; exit 9\" INT; test -t 0 && test -t 1 && echo terminal; \
         while :; do sleep 0.05; done'"
    );
    let mut terminal = Terminal::start(home, 24, 80, &line)?;
    terminal.until_written("terminal\r\n")?;
    terminal.press("\u{3}")?;
    ensure!(terminal.wait()? == 9, "{starter:?}: {}", terminal.written());
    // Once: the terminal has told the command, and nobody passes it on.
    ensure!(terminal.written().matches("interrupted\r\n").count() == 1, "{}", terminal.written());
    Ok(())
}
