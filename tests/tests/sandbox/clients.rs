//! Unmodified programs under `exeat run` that know of no proxy, each allowed once and refused once.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use exeat_tests::client::tool;
use exeat_tests::confined::Starter;
use exeat_tests::content::{
    Content, GIT_HOST, NODE_REGISTRY, PACKAGE, PYTHON_INDEX, REPOSITORY, REPOSITORY_TEXT,
};
use exeat_tests::harness::Scenario;
use exeat_tests::namespace::scratch;
use exeat_tests::world::World;

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut scenarios = by_each_starter![git_clones, npm_installs, pip_downloads, a_static_program_connects,];
    for starter in Starter::all().iter().copied().filter(|starter| *starter != Starter::Tester) {
        // It does not start for somebody who is called root.
        let name = format!("a_browser_in_its_own_sandbox_loads_{}", starter.word());
        scenarios.push(Scenario::new(name, move || a_browser_in_its_own_sandbox_loads(starter)));
    }
    scenarios
}

/// Everything but these variables is taken away from a program, those of the proxy too.
const BARE: [&str; 4] = ["env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin", "HOME=."];

fn world() -> Result<World> {
    let content = Arc::new(Content::make(&scratch().join("content"))?);
    World::serving(Arc::new(move |request: &_| content.answer(request)))
}

fn git_clones(starter: Starter) -> Result<()> {
    let world = world()?;
    let home = world.directory();
    let authority = format!("GIT_SSL_CAINFO={}", world.ca_file());
    let clone = |host: &str, into: &str| {
        let url = format!("https://{host}{REPOSITORY}");
        let git = [&*authority, "GIT_TERMINAL_PROMPT=0", "git", "clone", "--quiet", &url, into];
        starter.run(home, &["--allow", GIT_HOST, "-q"], &[&BARE[..], &git].concat())
    };
    let done = clone(GIT_HOST, "cloned")?;
    ensure!(done.code == 0, "{starter:?}: {done:?}");
    ensure!(std::fs::read_to_string(home.join("cloned/README"))? == REPOSITORY_TEXT, "another text");
    let accepts = world.accepts();
    let refused = clone("example.com", "not-cloned")?;
    ensure!(refused.code == 128 && !home.join("not-cloned").exists(), "{starter:?}: {refused:?}");
    ensure!(world.accepts() == accepts, "{:?}", world.reached());
    Ok(())
}

fn npm_installs(starter: Starter) -> Result<()> {
    let world = world()?;
    let home = world.directory();
    let authority = format!("--cafile={}", world.ca_file());
    let install = |host: &str, into: &str| {
        let registry = format!("--registry=https://{host}/");
        let npm = ["npm", "install", PACKAGE, &registry, "--no-audit", "--no-fund", "--fetch-retries=0"];
        let npm = [&npm[..], &["--no-update-notifier", "--prefix", into, &authority]].concat();
        starter.run(home, &["--allow", NODE_REGISTRY, "-q"], &[&BARE[..], &npm].concat())
    };
    let done = install(NODE_REGISTRY, "installed")?;
    ensure!(done.code == 0, "{starter:?}: {done:?}");
    ensure!(home.join("installed/node_modules/tiny-package/index.js").exists(), "{done:?}");
    let accepts = world.accepts();
    let refused = install("example.com", "not-installed")?;
    ensure!(refused.code != 0 && refused.err.contains("ENOTFOUND"), "{starter:?}: {refused:?}");
    ensure!(world.accepts() == accepts, "{:?}", world.reached());
    Ok(())
}

fn pip_downloads(starter: Starter) -> Result<()> {
    let world = world()?;
    let home = world.directory();
    // The system's Python with the tests' own pip: everybody may read both.
    let modules =
        std::fs::read_dir(tool("venv/lib")?)?.next().context("modules")??.path().join("site-packages");
    let modules = format!("PYTHONPATH={}", modules.display());
    let authority = world.ca_file();
    let download = |host: &str, into: &str| {
        let index = format!("https://{host}/simple/");
        let pip = ["/usr/bin/python3", "-m", "pip", "--isolated", "download", "--no-cache-dir", "--no-deps"];
        let flags = ["--disable-pip-version-check", "--retries", "0", "--cert", &authority, "-d", into];
        let pip = [&[&*modules][..], &pip, &flags, &["--index-url", &index, PACKAGE]].concat();
        starter.run(home, &["--allow", PYTHON_INDEX, "-q"], &[&BARE[..], &pip].concat())
    };
    let done = download(PYTHON_INDEX, "downloaded")?;
    ensure!(done.code == 0, "{starter:?}: {done:?}");
    ensure!(home.join("downloaded/tiny_package-1.0.0-py3-none-any.whl").exists(), "{done:?}");
    let accepts = world.accepts();
    let refused = download("example.com", "not-downloaded")?;
    ensure!(
        refused.code == 1 && refused.err.contains("No matching distribution"),
        "{starter:?}: {refused:?}"
    );
    ensure!(world.accepts() == accepts, "{:?}", world.reached());
    Ok(())
}

/// Says what the server at an address says first. It needs no library, and knows of no variable.
const STATIC: &str = r#"
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int count, char **words) {
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(words[2])) };
    inet_pton(AF_INET, words[1], &to.sin_addr);
    int s = socket(AF_INET, SOCK_STREAM, 0);
    char text[64];
    if (connect(s, (struct sockaddr *)&to, sizeof to) < 0) { perror("connect"); return 3; }
    long got = read(s, text, sizeof text);
    if (got <= 0) { perror("read"); return 4; }
    return write(1, text, got) == got ? 0 : 5;
}
"#;

fn a_static_program_connects(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    std::fs::write(home.join("talk.c"), STATIC)?;
    let compiled = std::process::Command::new("cc")
        .current_dir(home)
        .args(["-static", "-o", "talk", "talk.c"])
        .output()?;
    ensure!(compiled.status.success(), "{compiled:?}");
    let talk = |address: &str| {
        starter.run(home, &["--allow", "93.184.216.34:25", "-q"], &["env", "-i", "./talk", address, "25"])
    };
    let done = talk("93.184.216.34")?;
    ensure!(done.code == 0 && done.out == exeat_tests::world::GREETING, "{starter:?}: {done:?}");
    let accepts = world.accepts();
    for address in ["93.184.216.35", "127.0.0.1", "169.254.169.254"] {
        let refused = talk(address)?;
        ensure!(refused.code == 3 || refused.code == 4, "{starter:?}: {address}: {refused:?}");
    }
    ensure!(world.accepts() == accepts, "{:?}", world.reached());
    Ok(())
}

fn a_browser_in_its_own_sandbox_loads(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let load = |host: &str| {
        let url = format!("http://{host}/");
        // With the sandbox that it makes of namespaces of its own.
        let browser =
            ["chromium", "--headless", "--disable-gpu", "--user-data-dir=profile", "--dump-dom", &url];
        starter.run(home, &["--allow", "example.com", "-q"], &[&BARE[..], &browser].concat())
    };
    let done = load("example.com")?;
    ensure!(done.code == 0 && done.out.contains("hello from example.com"), "{starter:?}: {done:?}");
    let accepts = world.accepts();
    let refused = load("evil.test")?;
    ensure!(!refused.out.contains("hello from"), "{starter:?}: {refused:?}");
    ensure!(world.accepts() == accepts, "{:?}", world.reached());
    ensure!(!world.dns.names().iter().any(|name| name.contains("evil")), "{:?}", world.dns.queries());
    Ok(())
}
