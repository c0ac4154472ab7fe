//! The world itself, without the product: what the other scenarios rely on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use exeat_tests::client::{Client, tool};
use exeat_tests::content::{Content, GIT_HOST, NODE_REGISTRY, PACKAGE, PYTHON_INDEX, REPOSITORY};
use exeat_tests::dns::Entry;
use exeat_tests::namespace::scratch;
use exeat_tests::world::{GREETING, World};
use exeat_tests::{harness, namespace, scenarios};

fn main() -> ExitCode {
    harness::main(scenarios![
        every_address_is_local,
        a_silent_network_swallows_connections,
        curl_reaches_a_plain_origin,
        curl_reaches_a_tls_origin_and_checks_its_certificate,
        the_name_server_writes_down_questions,
        long_answers_come_over_tcp,
        content_can_be_fetched_without_a_proxy,
    ])
}

fn every_address_is_local() -> Result<()> {
    let world = World::new()?;
    for address in
        ["8.8.8.8:80", "169.254.169.254:80", "10.1.2.3:443", "[fd00:ec2::254]:80", "[64:ff9b::a00:1]:443"]
    {
        TcpStream::connect(address)?;
    }
    world.http.wait("three connections", |seen| seen.len() == 3)?;
    world.https.wait("two connections", |seen| seen.len() == 2)?;
    let mut reached: Vec<String> = world.reached().iter().map(ToString::to_string).collect();
    reached.sort();
    let want =
        ["10.1.2.3:443", "169.254.169.254:80", "8.8.8.8:80", "[64:ff9b::a00:1]:443", "[fd00:ec2::254]:80"];
    ensure!(reached == want, "reached {reached:?}");
    let mut greeting = vec![0; GREETING.len()];
    TcpStream::connect("93.184.216.34:25")?.read_exact(&mut greeting)?;
    ensure!(greeting == GREETING.as_bytes());
    Ok(())
}

fn a_silent_network_swallows_connections() -> Result<()> {
    let address = namespace::SILENT_NETWORK.replace("0/24", "1:443").parse()?;
    let connected = TcpStream::connect_timeout(&address, Duration::from_millis(200));
    ensure!(connected.is_err_and(|e| e.kind() == std::io::ErrorKind::TimedOut));
    Ok(())
}

fn curl_reaches_a_plain_origin() -> Result<()> {
    let world = World::new()?;
    let curl = Client::new("curl", world.directory()).args(["-sS", "http://example.com/x?y"]).run()?;
    ensure!(curl.code == 0 && curl.out == "hello from example.com\n", "{curl:?}");
    let requests = world.http.requests();
    ensure!(
        requests.len() == 1 && requests.iter().all(|r| r.path() == "/x" && r.query() == "y"),
        "{requests:?}"
    );
    Ok(())
}

fn curl_reaches_a_tls_origin_and_checks_its_certificate() -> Result<()> {
    let world = World::new()?;
    let curl = |args: &[&str]| Client::new("curl", world.directory()).args(["-sS", "-4"]).args(args).run();
    let trusting = curl(&["--cacert", &world.ca_file(), "https://a.example.org/"])?;
    ensure!(trusting.code == 0 && trusting.out == "hello from a.example.org\n", "{trusting:?}");
    let doubting = curl(&["https://a.example.org/"])?;
    ensure!(doubting.code == 60, "{doubting:?}");
    ensure!(world.reached().iter().all(|a| a.to_string() == "93.184.216.35:443"), "{:?}", world.reached());
    ensure!(world.https.seen().first().is_some_and(|s| s.received.starts_with(&[22, 3, 1])));
    let mut tunnel = world.authority.connect("example.com", TcpStream::connect("93.184.216.34:443")?)?;
    tunnel.write_all(b"GET / HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n")?;
    world.https.wait("a request", |seen| {
        seen.iter().any(|s| s.requests.iter().any(|r| r.host() == "example.com"))
    })?;
    Ok(())
}

fn the_name_server_writes_down_questions() -> Result<()> {
    let world = World::new()?;
    world.dns.set("alias.example.org", Entry::alias("example.com"));
    let curl = Client::new("curl", world.directory()).args(["-sS", "http://alias.example.org/"]).run()?;
    ensure!(curl.code == 0, "{curl:?}");
    ensure!(world.dns.wait_for("alias.example.org", Duration::from_secs(5)));
    // The search list is tried first, as the resolver file asks for: a relative look-up cannot hide here.
    let relative = format!("alias.example.org.{}", namespace::SEARCH_LIST);
    ensure!(world.dns.names() == [relative.as_str(), "alias.example.org"], "{:?}", world.dns.names());
    Ok(())
}

fn long_answers_come_over_tcp() -> Result<()> {
    let world = World::new()?;
    let many: Vec<String> = (1..200).map(|n| format!("93.184.216.{n}")).collect();
    world.dns.set("many.example.org", Entry::addresses(&many.iter().map(String::as_str).collect::<Vec<_>>()));
    let script = "import socket; print(len({a[4][0] for a in socket.getaddrinfo('many.example.org.', 80)}))";
    let python = Client::new("python3", world.directory()).args(["-c", script]).run()?;
    ensure!(python.out == "199\n", "{python:?}");
    Ok(())
}

/// What makes a refusal by the product worth something: without it, the same clients succeed.
fn content_can_be_fetched_without_a_proxy() -> Result<()> {
    let directory = tempfile::TempDir::new_in(scratch())?;
    let content = Content::make(directory.path())?;
    let world = World::serving(Arc::new(move |request| content.answer(request)))?;
    let home = world.directory();
    let ca = world.ca_file();
    let git = Client::new("git", home).env("GIT_SSL_CAINFO", &ca);
    let git = git.args(["clone", "-q", &format!("https://{GIT_HOST}{REPOSITORY}"), "cloned"]).run()?;
    ensure!(git.code == 0 && home.join("cloned/README").exists(), "{git:?}");
    let index = format!("https://{PYTHON_INDEX}/simple/");
    let pip = Client::new(tool("venv/bin/pip")?, home).env("PIP_CONFIG_FILE", "/dev/null");
    let pip =
        pip.args(["download", "--no-cache-dir", "--cert", &ca, "--index-url", &index, PACKAGE]).run()?;
    ensure!(pip.code == 0, "{pip:?}");
    let registry = format!("--registry=https://{NODE_REGISTRY}/");
    let npm = Client::new("npm", home)
        .args(["install", "--no-audit", &registry, &format!("--cafile={ca}"), PACKAGE])
        .run()?;
    ensure!(npm.code == 0 && home.join("node_modules/tiny-package/index.js").exists(), "{npm:?}");
    Ok(())
}
