//! What a user has looked at is what counts: of a found `exeat.toml`, of the files that it names, and while a run asks.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use anyhow::{Result, ensure};
use exeat_tests::confined::Starter;
use exeat_tests::harness::Scenario;
use exeat_tests::world::World;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::ask::question;
use crate::found::{GET, POLICY, answer, on_terminal, project, run, token};

pub(crate) fn scenarios() -> Vec<Scenario> {
    by_each_starter![
        an_answer_saves_nothing_that_nobody_has_looked_at,
        what_was_typed_before_approves_nothing,
        a_file_that_is_named_is_shown_when_it_changes,
        what_does_not_fit_on_a_terminal_is_not_approved,
        a_link_and_a_pipe_are_no_files,
    ]
}

fn an_answer_saves_nothing_that_nobody_has_looked_at(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    project(home)?;
    let file = home.join("project/exeat.toml");
    let nobody = Some(nix::unistd::Uid::from_raw(65534)).filter(|_| starter == Starter::Nobody);
    nix::unistd::chown(&file, nobody, None)?;
    let (status, screen) = answer(starter, home, "y\n", "true")?;
    ensure!(status == 0, "{starter:?}: {screen}");
    let script = "for host in evil.test example.org cdn.example.net; do curl -sS http://$host/ || true; done";
    fs::write(home.join("project/inner/script.sh"), script)?;
    let mut terminal = on_terminal(starter, home, "", "--ask", "sh script.sh")?;
    terminal.until_written("wants to reach evil.test:80:")?;
    // Somebody else writes it meanwhile: the command of another run, for one.
    let planted = POLICY.replace("example.com", "*.example.net");
    fs::write(&file, &planted)?;
    terminal.press("s\n")?;
    terminal.until_written("hello from evil.test")?;
    terminal.until_written("not saved: ")?;
    terminal.until_written("wants to reach example.org:80:")?;
    terminal.press("r\n")?;
    // The policy is still that of before.
    terminal.until_written("wants to reach cdn.example.net:80:")?;
    terminal.press("d\n")?;
    ensure!(terminal.wait()? == 0, "{starter:?}: {}", terminal.written());
    ensure!(fs::read_to_string(&file)? == planted, "{starter:?}: {}", fs::read_to_string(&file)?);
    let unseen = run(starter, home, &[], &["true"])?;
    ensure!(unseen.code == 125 && unseen.err.contains("nobody has looked"), "{starter:?}: {unseen:?}");
    // What nobody else has written is saved, and counts.
    fs::write(&file, POLICY)?;
    let mut terminal = on_terminal(starter, home, "", "--ask", "sh script.sh")?;
    terminal.until_written("wants to reach evil.test:80:")?;
    terminal.press("s\n")?;
    terminal.until_written("wants to reach example.org:80:")?;
    terminal.press("s\n")?;
    terminal.until_written(&question("cdn.example.net:80"))?;
    terminal.press("d\n")?;
    ensure!(terminal.wait()? == 0, "{starter:?}: {}", terminal.written());
    let seen = run(starter, home, &["-q"], &["curl", "-sS", "http://evil.test/"])?;
    ensure!(seen.out == "hello from evil.test\n", "{starter:?}: {seen:?}");
    Ok(())
}

fn what_was_typed_before_approves_nothing(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    project(home)?;
    let wait = "stty kill n; echo ready; while [ ! -e go ]; do sleep 0.05; done; ";
    let mut terminal = on_terminal(starter, home, wait, "", "touch ran")?;
    terminal.until_written("ready\r\n")?;
    terminal.press("y\n")?;
    terminal.until_written("y\r\n")?;
    fs::write(home.join("go"), "")?;
    terminal.until_written("[y/N] ")?;
    terminal.press("ny\n")?;
    ensure!(terminal.wait()? == 125, "{starter:?}: {}", terminal.written());
    ensure!(!home.join("project/inner/ran").exists(), "{starter:?}: it was run");
    Ok(())
}

fn a_file_that_is_named_is_shown_when_it_changes(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    project(home)?;
    let policy = POLICY.replace("\"example.com\"", "\"example.com\", \"@hosts\"");
    fs::write(home.join("project/exeat.toml"), format!("{policy}[groups.hosts]\nfile = \"hosts.txt\"\n"))?;
    let hosts = home.join("project/hosts.txt");
    fs::write(&hosts, "a.test # one\n")?;
    let (status, screen) = answer(starter, home, "y\n", "true")?;
    ensure!(status == 0 && screen.contains("exeat.toml is new, "), "{starter:?}: {screen}");
    ensure!(screen.contains("hosts.txt is new. Use it") && screen.contains("\r\n  a.test\r\n"), "{screen}");
    ensure!(run(starter, home, &["-q"], &GET)?.code == 0, "{starter:?}");
    let many: String = (0..25).map(|number| format!("{number}.evil.test\u{202e}\n")).collect();
    for (text, want, count) in
        [("evil.test\n", "\r\n  evil.test\r\n", 1), (&*many.replace('\u{202e}', ""), "and 5 more", 20)]
    {
        fs::write(&hosts, text)?;
        let (status, screen) = answer(starter, home, "n\n", "true")?;
        ensure!(status == 125 && screen.contains("hosts.txt is changed. Use it"), "{starter:?}: {screen}");
        ensure!(screen.contains(want) && !screen.contains("exeat.toml is new"), "{starter:?}: {screen}");
        ensure!(screen.matches("evil.test\r\n").count() == count, "{starter:?}: {screen}");
    }
    // As it was when it was looked at, and then as others can write it.
    fs::write(&hosts, "a.test # one\n")?;
    ensure!(run(starter, home, &["-q"], &GET)?.code == 0, "{starter:?}");
    fs::set_permissions(&hosts, Permissions::from_mode(0o666))?;
    let refused = run(starter, home, &["--trust-config"], &GET)?;
    ensure!(
        refused.code == 125 && refused.err.contains("hosts.txt` can be written by others"),
        "{refused:?}"
    );
    // A pipe is not waited for.
    fs::remove_file(&hosts)?;
    mkfifo(&hosts, Mode::from_bits_truncate(0o644))?;
    let refused = run(starter, home, &[], &GET)?;
    ensure!(refused.code == 125 && refused.err.contains("no regular file"), "{starter:?}: {refused:?}");
    Ok(())
}

fn what_does_not_fit_on_a_terminal_is_not_approved(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    project(home)?;
    // Each of its few lines has many rows.
    let text = format!("{POLICY}# {}\n", "padding ".repeat(4000));
    fs::write(home.join("project/exeat.toml"), text)?;
    let mut terminal = on_terminal(starter, home, "", "", "touch ran")?;
    terminal.until_written("too long to be shown")?;
    ensure!(terminal.wait()? == 125, "{starter:?}: {}", terminal.written());
    let trusted = run(starter, home, &["--trust-config", "-q"], &GET)?;
    ensure!(trusted.code == 0, "{starter:?}: {trusted:?}");
    Ok(())
}

fn a_link_and_a_pipe_are_no_files(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    project(home)?;
    let inner = home.join("project/inner/exeat.toml");
    symlink("nowhere", &inner)?;
    let refused = run(starter, home, &["--trust-config"], &GET)?;
    ensure!(refused.code == 125 && refused.err.contains("it is no file"), "{starter:?}: {refused:?}");
    fs::remove_file(&inner)?;
    ensure!(run(starter, home, &["--trust-config", "-q"], &GET)?.code == 0, "{starter:?}");
    // Under flags it is read-only as well.
    let write = ["sh", "-c", "(echo >> ../exeat.toml) || echo locked"];
    let tried = run(starter, home, &["-q", "--allow", "example.com"], &write)?;
    ensure!(tried.out == "locked\n", "{starter:?}: {tried:?}");
    ensure!(fs::read_to_string(home.join("project/exeat.toml"))? == POLICY, "{starter:?}");
    token(home, serde_json::json!({}))?;
    fs::remove_file(home.join("token"))?;
    mkfifo(&home.join("token"), Mode::from_bits_truncate(0o644))?;
    for flags in [&["--config", "exeat.toml", "--token", "token"][..], &["--config", "token"]] {
        let refused = starter.run(home, flags, &["touch", "ran"])?;
        ensure!(
            refused.code == 125 && refused.err.contains("no regular file"),
            "{starter:?}: {flags:?}: {refused:?}"
        );
    }
    ensure!(!home.join("ran").exists(), "{starter:?}: it was run");
    Ok(())
}
