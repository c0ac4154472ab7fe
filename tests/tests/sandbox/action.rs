//! The script of the GitHub Action, as a runner starts it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use exeat_tests::confined::Starter;
use exeat_tests::harness::Scenario;
use exeat_tests::world::World;

pub(crate) fn scenarios() -> Vec<Scenario> {
    by_each_starter![a_step_reaches_what_is_allowed_and_tells_it]
}

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/github-action/run.sh");
const FILES: [&str; 2] = ["output", "summary"];

/// Runs it with these inputs. Returns the status, what was written to standard output, and the files of [`FILES`].
fn step(starter: Starter, home: &Path, inputs: &[(&str, &str)]) -> Result<(i32, String, [String; 2])> {
    // To see that the folder is open to whoever runs it.
    let ordinary = starter.command(home, &[], &["true"])?;
    let words = starter.words()?;
    let at = words.iter().position(|word| word == "run").context("run")?;
    let (program, user) = (words.get(at - 1).context("the program")?, words.get(at + 2));
    // Whoever is not root is called by another program first.
    let before = words.get(..at - 1).unwrap_or_default();
    let mut command = match before.split_first() {
        Some((first, others)) => {
            let mut command = Command::new(first);
            command.args(others).arg("bash");
            command
        }
        None => Command::new("bash"),
    };
    command.arg(SCRIPT).current_dir(home).env_clear().stdin(Stdio::null());
    command.envs(ordinary.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("EXEAT_ACTION_PROGRAM", program).env("RUNNER_TEMP", home);
    if let Some(user) = user {
        command.env("EXEAT_ACTION_USER", user);
    }
    for file in FILES {
        fs::write(home.join(file), "")?;
        exeat_tests::confined::open_to_all(&home.join(file))?;
    }
    command.env("GITHUB_OUTPUT", home.join("output")).env("GITHUB_STEP_SUMMARY", home.join("summary"));
    let output = command.envs(inputs.iter().copied()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let [first, second] = FILES.map(|file| fs::read_to_string(home.join(file)));
    Ok((output.status.code().context("a status")?, text, [first?, second?]))
}

fn a_step_reaches_what_is_allowed_and_tells_it(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let hosts = ("EXEAT_ACTION_HOSTS", "# what it needs\n  example.com:80   # plain\n\n");
    let curl = |url: &'static str| ("EXEAT_ACTION_RUN", url);
    let (status, out, [output, summary]) =
        step(starter, home, &[hosts, curl("curl -sS http://example.com/")])?;
    ensure!(status == 0 && out == "hello from example.com\n", "{starter:?}: {status} {out}");
    ensure!(output.starts_with("audit-log=") && summary.contains("\"example.com:80\", # 1×"), "{summary}");
    // What a step could tell the next ones is not the command's to write.
    let forge = "echo forged >> \"$GITHUB_OUTPUT\"; echo forged >> \"$GITHUB_STEP_SUMMARY\"; ls exeat;
        curl -sSf http://example.org/";
    let (status, out, [output, summary]) = step(starter, home, &[hosts, ("EXEAT_ACTION_RUN", forge)])?;
    ensure!(status != 0 && !out.contains("jsonl"), "{starter:?}: {status} {out}");
    ensure!(!output.contains("forged") && !summary.contains("forged"), "{starter:?}: {output} {summary}");
    ensure!(summary.contains("# refused: example.org port 80, 1×, host_not_allowed"), "{summary}");
    let quiet = curl("curl -sS -o /dev/null http://example.org/");
    for (inputs, want) in [
        (vec![hosts, quiet], 0),
        (vec![hosts, quiet, ("EXEAT_ACTION_FAIL", "true")], 1),
        (vec![hosts, quiet, ("EXEAT_ACTION_FAIL", "true"), ("EXEAT_ACTION_MODE", "report")], 0),
        (vec![quiet, ("EXEAT_ACTION_MODE", "off")], 2),
        (vec![quiet, ("EXEAT_ACTION_FAIL", "maybe")], 2),
    ] {
        let (status, out, _) = step(starter, home, &inputs)?;
        ensure!(status == want, "{starter:?}: {inputs:?}: {status} {out}");
    }
    Ok(())
}
