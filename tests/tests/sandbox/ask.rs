//! `exeat run --ask`: connections to names that no rule covers wait for what is answered on the terminal.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use exeat_tests::confined::Starter;
use exeat_tests::harness::Scenario;
use exeat_tests::terminal::Terminal;
use exeat_tests::world::World;

pub(crate) fn scenarios() -> Vec<Scenario> {
    by_each_starter![
        an_answer_is_for_once_or_for_the_run,
        what_is_denied_is_asked_once,
        an_answer_is_saved_to_the_policy,
        what_was_typed_before_is_no_answer,
        a_command_that_reads_has_the_terminal_again,
        without_a_terminal_nobody_is_asked,
    ]
}

/// Runs a shell script on a terminal under these flags.
pub(crate) fn start(starter: Starter, home: &Path, flags: &str, script: &str) -> Result<Terminal> {
    starter.command(home, &[], &["true"])?;
    fs::write(home.join("script.sh"), script)?;
    let words = starter.words()?.join(" ");
    Terminal::start(
        home,
        40,
        120,
        &format!("echo $$ > pid; HOME={} exec {words} -q {flags} -- sh script.sh", home.display()),
    )
}

/// The question about a name, which is there once for each time that it is asked.
pub(crate) fn question(name: &str) -> String {
    format!(" wants to reach {name}: [o]nce, this [r]un,")
}

pub(crate) fn asked(terminal: &Terminal, name: &str) -> usize {
    terminal.written().matches(&question(name)).count()
}

/// Waits until it was asked about for this time.
pub(crate) fn until_asked(terminal: &Terminal, name: &str, times: usize) -> Result<()> {
    let deadline = std::time::Instant::now() + exeat_tests::origin::PATIENCE;
    while asked(terminal, name) < times {
        ensure!(std::time::Instant::now() < deadline, "{}", terminal.written());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Ok(())
}

/// Without a proxy, so that it is the lookup of the name that must not be refused.
pub(crate) const GET: &str = "get() { curl -sS --noproxy '*' --max-time 30 http://$1/; }\n";

fn an_answer_is_for_once_or_for_the_run(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let script = format!("{GET}get evil.test; get evil.test; get evil.test; get example.com");
    let mut terminal = start(starter, world.directory(), "--ask --allow example.com", &script)?;
    terminal.until_written(&question("evil.test:80"))?;
    // Nobody outside has heard of it.
    ensure!(world.accepts() == 0 && world.dns.queries().is_empty(), "{:?}", world.dns.queries());
    ensure!(terminal.written().contains("exeat: curl wants to reach"), "{}", terminal.written());
    terminal.press("o\n")?;
    terminal.until_written("hello from evil.test\r\n")?;
    until_asked(&terminal, "evil.test:80", 2)?;
    ensure!(world.accepts() == 1, "{:?}", world.reached());
    terminal.press("r\n")?;
    ensure!(terminal.wait()? == 0, "{starter:?}: {}", terminal.written());
    let written = terminal.written();
    ensure!(written.matches("hello from evil.test").count() == 3, "{starter:?}: {written}");
    ensure!(written.contains("hello from example.com") && asked(&terminal, "evil.test:80") == 2, "{written}");
    ensure!(asked(&terminal, "example.com:80") == 0, "{written}");
    Ok(())
}

fn what_is_denied_is_asked_once(starter: Starter) -> Result<()> {
    let world = World::new()?;
    // Both wait for the one question; the third comes when it is answered.
    let script = format!("{GET}get evil.test & get evil.test & wait; get evil.test; echo over");
    let mut terminal = start(starter, world.directory(), "--ask --allow example.com", &script)?;
    terminal.until_written(&question("evil.test:80"))?;
    terminal.press("d\n")?;
    ensure!(terminal.wait()? == 0, "{starter:?}: {}", terminal.written());
    let written = terminal.written();
    ensure!(written.matches("\"reason\":\"host_not_allowed\"").count() == 3, "{starter:?}: {written}");
    ensure!(asked(&terminal, "evil.test:80") == 1 && world.accepts() == 0, "{starter:?}: {written}");
    // Ctrl-C is no, and what a rule denies is not asked about.
    let script = format!("{GET}get evil.test; get a.example.org");
    let flags = "--ask --allow '*.example.org' --deny a.example.org";
    let mut terminal = start(starter, world.directory(), flags, &script)?;
    terminal.until_written(&question("evil.test:80"))?;
    terminal.press("\u{3}")?;
    ensure!(terminal.wait()? != 130, "{starter:?}: {}", terminal.written());
    ensure!(asked(&terminal, "a.example.org:80") == 0 && world.accepts() == 0, "{}", terminal.written());
    Ok(())
}

fn an_answer_is_saved_to_the_policy(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let policy = home.join("policy.toml");
    let before =
        "# ours\n[proxy]\nanonymous = \"web\"\n[policy.web]\nallow = [\n  \"example.com\", # the site\n]\n";
    fs::write(&policy, before)?;
    let nobody = Some(nix::unistd::Uid::from_raw(65534)).filter(|_| starter == Starter::Nobody);
    nix::unistd::chown(&policy, nobody, None)?;
    let script = format!(
        "{GET}get evil.test; (echo forged >> policy.toml) || echo locked; curl -sS http://evil.test:8080/ || true"
    );
    let mut terminal = start(starter, home, "--ask --config policy.toml", &script)?;
    terminal.until_written("[s]ave, [d]eny? ")?;
    terminal.press("s\n")?;
    // The file is another by now, and still not the command's.
    terminal.until_written("locked\r\n")?;
    terminal.until_written(&question("evil.test:8080"))?;
    terminal.press("d\n")?;
    ensure!(terminal.wait()? == 0, "{starter:?}: {}", terminal.written());
    ensure!(terminal.written().contains("hello from evil.test"), "{}", terminal.written());
    let want = before.replace("# the site\n", "# the site\n  \"evil.test:80\",\n");
    ensure!(fs::read_to_string(&policy)? == want, "{}", fs::read_to_string(&policy)?);
    let again =
        starter.run(home, &["--config", "policy.toml", "-q"], &["curl", "-sS", "http://evil.test/"])?;
    ensure!(again.out == "hello from evil.test\n", "{starter:?}: {again:?}");
    Ok(())
}

fn what_was_typed_before_is_no_answer(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let script = format!("{GET}echo ready; while [ ! -e go ]; do sleep 0.05; done; get evil.test");
    let mut terminal = start(starter, world.directory(), "--ask --allow example.com", &script)?;
    terminal.until_written("ready\r\n")?;
    terminal.press("r\nr\n")?;
    terminal.until_written("r\r\nr\r\n")?;
    fs::write(world.directory().join("go"), "")?;
    terminal.until_written(&question("evil.test:80"))?;
    // Three that make no sense are none.
    for times in 1..=3 {
        ensure!(world.accepts() == 0, "{starter:?}: {}", terminal.written());
        terminal.press("yes\n")?;
        if times < 3 {
            until_asked(&terminal, "evil.test:80", times + 1)?;
        }
    }
    terminal.until_written("exeat: denied\r\n")?;
    ensure!(terminal.wait()? == 0 && world.accepts() == 0, "{starter:?}: {}", terminal.written());
    Ok(())
}

fn a_command_that_reads_has_the_terminal_again(starter: Starter) -> Result<()> {
    let world = World::new()?;
    // It reads all the time, and the answer to the question is not for it.
    let script = format!("{GET}(get evil.test > got) & read -r line; wait; echo \"read $line\"; cat got");
    let mut terminal = start(starter, world.directory(), "--ask --allow example.com", &script)?;
    terminal.until_written(&question("evil.test:80"))?;
    terminal.press("o\n")?;
    let deadline = std::time::Instant::now() + exeat_tests::origin::PATIENCE;
    while world.accepts() == 0 {
        ensure!(std::time::Instant::now() < deadline, "{starter:?}: {}", terminal.written());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    terminal.press("for the command\n")?;
    ensure!(terminal.wait()? == 0, "{starter:?}: {}", terminal.written());
    let written = terminal.written();
    ensure!(written.contains("read for the command\r\nhello from evil.test"), "{starter:?}: {written}");
    Ok(())
}

fn without_a_terminal_nobody_is_asked(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    // A session of its own has no terminal.
    let words = starter.words()?;
    starter.command(home, &[], &["true"])?;
    let output = std::process::Command::new("setsid")
        .arg("--wait")
        .args(words)
        .args(["--ask", "--allow", "example.com", "--", "touch", "ran"])
        .current_dir(home)
        .output()?;
    let err = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(125) && err.contains("--ask needs a terminal"),
        "{starter:?}: {output:?}"
    );
    ensure!(!home.join("ran").exists(), "{starter:?}: it was run");
    Ok(())
}
