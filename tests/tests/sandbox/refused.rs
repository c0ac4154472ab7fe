//! Where the command cannot be confined it is not run, and the message says which step failed and what to do.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use exeat_tests::client::Client;
use exeat_tests::confined::Starter;
use exeat_tests::exeat::binary;
use exeat_tests::harness::Scenario;
use exeat_tests::scenarios;
use exeat_tests::world::World;
use nix::mount::{MsFlags, mount};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut scenarios = by_each_starter![
        without_nft_it_is_not_run,
        without_a_whole_proc_it_is_not_run,
        a_hidden_directory_is_not_worked_in,
    ];
    scenarios.extend(scenarios![where_namespaces_are_forbidden_it_is_not_run]);
    if Starter::all().contains(&Starter::Root) {
        scenarios.extend(scenarios![root_is_not_confined]);
    }
    scenarios
}

fn bind(source: &str, target: &str) -> Result<()> {
    Ok(mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

/// A command that would leave a file behind is not run, and both texts are in the message.
fn ensure_not_run(starter: Starter, home: &Path, step: &str, help: &str) -> Result<()> {
    let outcome = starter.run(home, &[], &["touch", "ran"])?;
    ensure!(outcome.code == 125, "{starter:?}: {outcome:?}");
    ensure!(outcome.err.contains(step) && outcome.err.contains(help), "{starter:?}: {outcome:?}");
    ensure!(!home.join("ran").exists(), "{starter:?}: it was run");
    Ok(())
}

fn without_nft_it_is_not_run(starter: Starter) -> Result<()> {
    let world = World::new()?;
    for place in ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"] {
        if fs::metadata(place).is_ok_and(|metadata| metadata.is_file()) {
            bind("/dev/null", place)?;
        }
    }
    ensure_not_run(
        starter,
        world.directory(),
        "cannot redirect connections",
        "install the package nftables",
    )?;
    Ok(())
}

fn without_a_whole_proc_it_is_not_run(starter: Starter) -> Result<()> {
    let world = World::new()?;
    // As container engines do.
    mount(Some("tmpfs"), "/proc/irq", Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    ensure_not_run(starter, world.directory(), "cannot mount a /proc of its own", "show all of /proc")?;
    Ok(())
}

fn where_namespaces_are_forbidden_it_is_not_run() -> Result<()> {
    let world = World::new()?;
    let binary = binary()?.to_string_lossy().into_owned();
    // Limits that hold in a user namespace of its own, and not on the machine.
    for (setting, allowed) in
        [("max_user_namespaces", "0"), ("max_net_namespaces", "0"), ("max_user_namespaces", "100")]
    {
        let script = format!("echo {allowed} > /proc/sys/user/{setting} && exec \"$0\" run -q -- touch ran");
        let args = ["-U", "--map-user=1000", "--map-group=1000", "--keep-caps", "sh", "-c", &script, &binary];
        let outcome = Client::new("unshare", world.directory()).args(args).run()?;
        let ran = fs::remove_file(world.directory().join("ran")).is_ok();
        if allowed != "0" {
            ensure!(outcome.code == 0 && ran, "the nearest that is enough: {outcome:?}");
            continue;
        }
        ensure!(outcome.code == 125 && !ran, "{setting}: {outcome:?}");
        let told = format!("user.{setting} is 0");
        let is_told = outcome.err.contains("cannot make namespaces") && outcome.err.contains(&told);
        // Who becomes root is held to it as well.
        ensure!(is_told && !outcome.err.contains("exeat run --user"), "{setting}: {outcome:?}");
    }
    Ok(())
}

fn root_is_not_confined() -> Result<()> {
    let world = World::new()?;
    let binary = binary()?;
    for (flags, said) in [
        (&["--user", "root"][..], "root owns what it would be confined by"),
        (&["--user", "0"], "root owns what it would be confined by"),
        (&["--user", "no-such-user"], "there is no user `no-such-user`"),
    ] {
        let outcome = Client::new(&binary, world.directory())
            .args([&["run"], flags, &["--", "touch", "ran"]].concat())
            .run()?;
        ensure!(outcome.code == 125 && outcome.err.contains(said), "{flags:?}: {outcome:?}");
        ensure!(!world.directory().join("ran").exists(), "{flags:?}: it was run");
    }
    // Without a name it is somebody else, which is said.
    for (caller, user) in [
        (None, "nobody"),
        (Some("daemon"), "daemon"),
        (Some("root"), "nobody"),
        (Some("no-such-user"), "nobody"),
    ] {
        for quiet in [&[][..], &["--quiet"]] {
            let args = [&["run"], quiet, &["--", "id", "-un"]].concat();
            let client = Client::new(&binary, world.directory()).args(args);
            let outcome =
                caller.into_iter().fold(client, |client, caller| client.env("SUDO_USER", caller)).run()?;
            ensure!(outcome.code == 0 && outcome.out == format!("{user}\n"), "{caller:?}: {outcome:?}");
            let is_told = outcome.err.contains(&format!("the command runs as {user}, since root owns"));
            ensure!(is_told == quiet.is_empty(), "{caller:?}: {outcome:?}");
        }
    }
    // Nobody else can name one.
    let outcome = Starter::Nobody.run(world.directory(), &["--user", "daemon"], &["true"])?;
    ensure!(outcome.code == 125 && outcome.err.contains("only root can run"), "{outcome:?}");
    Ok(())
}

fn a_hidden_directory_is_not_worked_in(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let inner = home.join("inner");
    fs::create_dir(&inner)?;
    let flags = ["--hide", &*home.to_string_lossy()];
    let output = starter.command(home, &flags, &["ls"])?.current_dir(&inner).output()?;
    let err = String::from_utf8_lossy(&output.stderr);
    let is_told = err.contains("cannot enter the working directory") && err.contains("change to a directory");
    ensure!(output.status.code() == Some(125) && is_told, "{starter:?}: {output:?}");
    Ok(())
}
