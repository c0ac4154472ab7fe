//! Programs that a command can have put into its user's search path are not run outside.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Result, ensure};
use exeat_tests::confined::Starter;
use exeat_tests::harness::Scenario;
use exeat_tests::world::World;

pub(crate) fn scenarios() -> Vec<Scenario> {
    by_each_starter![a_planted_nft_is_not_run]
}

fn a_planted_nft_is_not_run(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let bin = home.join("bin");
    fs::create_dir(&bin)?;
    // It would do what the real one does, so that nobody notices.
    let planted = format!("#!/bin/sh\necho ran >> {}/planted\nexec /usr/sbin/nft \"$@\"\n", home.display());
    fs::write(bin.join("nft"), planted)?;
    fs::set_permissions(bin.join("nft"), fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(&bin, fs::Permissions::from_mode(0o777))?;
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display());
    let run = || -> Result<_> {
        Ok(starter.command(home, &[], &["sh", "-c", "echo it ran"])?.env("PATH", &path).output()?)
    };
    let output = run()?;
    ensure!(output.status.success() && output.stdout == b"it ran\n", "{starter:?}: {output:?}");
    ensure!(!home.join("planted").exists(), "{starter:?}: the planted program was run");
    // Not even where there is no other.
    for place in ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"] {
        if fs::metadata(place).is_ok_and(|metadata| metadata.is_file()) {
            let flags = nix::mount::MsFlags::MS_BIND;
            nix::mount::mount(Some("/dev/null"), place, None::<&str>, flags, None::<&str>)?;
        }
    }
    let output = run()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let is_told = output.status.code() == Some(125) && said.contains("there is no program `nft`");
    ensure!(is_told && !home.join("planted").exists(), "{starter:?}: {output:?}");
    Ok(())
}
