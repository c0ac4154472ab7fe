//! `exeat selftest`, by whom it may be started.

use anyhow::{Context, Result, ensure};
use exeat_tests::client::Client;
use exeat_tests::confined::Starter;
use exeat_tests::harness::Scenario;
use exeat_tests::world::World;
use serde_json::Value;

pub(crate) fn scenarios() -> Vec<Scenario> {
    by_each_starter![the_selftest_finds_every_way_out_shut, the_selftest_tells_of_a_sandbox_that_is_not_made]
}

/// The command line of `run` is that of `selftest` but for its name.
fn selftest(starter: Starter, world: &World, flag: &str) -> Result<exeat_tests::client::Outcome> {
    // To see that the folder is open to whoever runs it.
    starter.command(world.directory(), &[], &["true"])?;
    let mut words = starter.words()?;
    words.iter_mut().filter(|word| *word == "run").for_each(|word| "selftest".clone_into(word));
    let (program, args) = words.split_first().context("a program")?;
    Client::new(program, world.directory())
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(args)
        .args([flag])
        .run()
}

fn the_selftest_finds_every_way_out_shut(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let told = selftest(starter, &world, "--json")?;
    let told_value: Value = serde_json::from_str(&told.out).with_context(|| format!("{told:?}"))?;
    let attempts = told_value.get("attempts").and_then(Value::as_array).context("attempts")?;
    let ended = |wanted: &str| attempts.iter().filter(|attempt| attempt.get(wanted).is_some()).count();
    let holes: Vec<&Value> =
        attempts.iter().filter(|attempt| attempt.get("ok") != Some(&Value::Bool(true))).collect();
    ensure!(told.code == 0 && holes.is_empty(), "{starter:?}: {holes:#?} {}", told.err);
    ensure!(told_value.get("ok") == Some(&Value::Bool(true)), "{starter:?}: {told:?}");
    ensure!(ended("worked") >= 8 && ended("refused") >= 38, "{starter:?}: {told:?}");
    // It has servers of its own.
    ensure!(world.accepts() == 0 && world.dns.queries().is_empty(), "{:?}", world.dns.queries());
    Ok(())
}

fn the_selftest_tells_of_a_sandbox_that_is_not_made(starter: Starter) -> Result<()> {
    let world = World::new()?;
    // As container engines do.
    nix::mount::mount(Some("tmpfs"), "/proc/irq", Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>)?;
    let told = selftest(starter, &world, "--json")?;
    ensure!(told.code == 1 && told.out.is_empty(), "{starter:?}: {told:?}");
    ensure!(told.err.contains("cannot mount a /proc of its own"), "{starter:?}: {told:?}");
    Ok(())
}
