//! `cargo fetch` under `exeat run`, from a registry with a sparse index.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use exeat_tests::client::Outcome;
use exeat_tests::confined::Starter;
use exeat_tests::content::{Content, PACKAGE, RUST_REGISTRY};
use exeat_tests::harness::Scenario;
use exeat_tests::namespace::scratch;
use exeat_tests::world::World;

pub(crate) fn scenarios() -> Vec<Scenario> {
    by_each_starter![cargo_fetches]
}

/// Says what the compiler has said to the same question before: cargo asks it what it compiles for, whatever it does. The one that the
/// tests are built with may be out of others' sight.
const COMPILER: &str = "#!/bin/sh
folder=$(dirname \"$0\")
said=$folder/$(printf '%s' \"$*\" | cksum | tr ' ' -)
if [ -n \"$REAL\" ]; then \"$REAL\" \"$@\" > \"$said.out\" 2> \"$said.err\"; echo $? > \"$said.status\"; fi
cat \"$said.out\"; cat \"$said.err\" >&2; exit \"$(cat \"$said.status\")\"
";

/// A project with this dependency, in a folder of its own.
fn project(folder: &Path, dependency: &str) -> Result<()> {
    fs::create_dir_all(folder.join("src"))?;
    fs::write(folder.join("src/lib.rs"), "")?;
    let package = "[package]\nname = \"ours\"\nversion = \"0.1.0\"\nedition = \"2021\"\n";
    fs::write(folder.join("Cargo.toml"), format!("{package}[dependencies]\n{dependency}\n"))?;
    fs::set_permissions(folder, Permissions::from_mode(0o777)).context("open the folder")
}

/// The tests' own cargo, where everybody can run it, and a compiler that answers as theirs.
fn tools(home: &Path) -> Result<()> {
    fs::create_dir(home.join("bin"))?;
    fs::copy(env!("CARGO"), home.join("bin/cargo"))?;
    fs::write(home.join("bin/rustc"), COMPILER)?;
    fs::set_permissions(home.join("bin/rustc"), Permissions::from_mode(0o755))?;
    project(&home.join("alone"), "")?;
    let output = Command::new(home.join("bin/cargo"))
        .args(["fetch", "--offline"])
        .current_dir(home.join("alone"))
        .env("RUSTC", home.join("bin/rustc"))
        .env("REAL", Path::new(env!("CARGO")).with_file_name("rustc"))
        .env("CARGO_HOME", home.join("alone"))
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

fn cargo_fetches(starter: Starter) -> Result<()> {
    let content = Arc::new(Content::make(&scratch().join("content"))?);
    let world = World::serving(Arc::new(move |request: &_| content.answer(request)))?;
    let home = world.directory();
    tools(home)?;
    let fetch = |host: &str, into: &str| -> Result<Outcome> {
        project(&home.join(into), &format!("{PACKAGE} = {{ version = \"1.0.0\", registry = \"tiny\" }}"))?;
        let index = format!("CARGO_REGISTRIES_TINY_INDEX=sparse+https://{host}/index/");
        let at = |name: &str, path: &str| format!("{name}={}", home.join(path).display());
        let (cargo_home, compiler) = (at("CARGO_HOME", into), at("RUSTC", "bin/rustc"));
        let (authority, manifest) = (at("CARGO_HTTP_CAINFO", "ca.pem"), format!("{into}/Cargo.toml"));
        let bare = ["env", "-i", "PATH=/usr/bin:/bin", "CARGO_NET_RETRY=0", &index, &cargo_home, &compiler];
        let fetch = [&authority, "bin/cargo", "fetch", "--manifest-path", &manifest];
        starter.run(home, &["--allow", RUST_REGISTRY, "-q"], &[&bare[..], &fetch].concat())
    };
    let done = fetch(RUST_REGISTRY, "fetched")?;
    ensure!(done.code == 0, "{starter:?}: {done:?}");
    let sources = fs::read_dir(home.join("fetched/registry/src"))?.next().context("a registry")??;
    ensure!(sources.path().join("tiny-package-1.0.0/src/lib.rs").exists(), "{done:?}");
    let accepts = world.accepts();
    ensure!(accepts > 0, "nothing was asked of the registry");
    let refused = fetch("example.com", "not-fetched")?;
    ensure!(refused.code == 101 && refused.err.contains("resolve host"), "{starter:?}: {refused:?}");
    ensure!(!home.join("not-fetched/registry/src").exists(), "{refused:?}");
    ensure!(world.accepts() == accepts, "{:?}", world.reached());
    Ok(())
}
