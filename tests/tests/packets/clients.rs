//! What users run, in both address families: each is let through at its first packet, or refused at once with a reason.

use anyhow::{Result, ensure};
use exeat_tests::client::Outcome;
use exeat_tests::content::{GIT_HOST, REPOSITORY, REPOSITORY_TEXT};
use exeat_tests::servers::{EVERYWHERE, Postgres, Sshd, USER};

use exeat_tests::firewalled::{ONE, Stage, TWO};

/// Where sshd listens: the port of its own has an origin at every address.
pub(crate) const SSH_PORT: u16 = 2222;
/// Where PostgreSQL listens, for the same reason.
const POSTGRES_PORT: u16 = 5433;

/// `code` and words of what a client said.
fn says(done: &Outcome, code: i32, words: &str) -> Result<()> {
    ensure!(done.code == code && [&done.out, &done.err].iter().any(|text| text.contains(words)), "{done:?}");
    Ok(())
}

pub(crate) fn curl_reaches_what_its_policy_names() -> Result<()> {
    let mut stage = Stage::start(ONE, TWO)?;
    let ca = stage.world.ca_file();
    let curl = |stage: &Stage, client, family: &str, url: &str| {
        let args = ["-sS", "--max-time", "20", "--cacert", &ca, "-o", "/dev/null", family];
        let written = "%{remote_ip} %{http_code} after %{time_total} s, name after %{time_namelookup} s\n";
        stage.client(client, "curl")?.args(args).args(["-w", written, url]).run()
    };
    for (client, family, url, address) in [
        (1, "-4", "https://example.com/", "93.184.216.34 200"),
        (1, "-6", "https://example.com/", "2606:2800:220:1::34 200"),
        (1, "-4", "http://example.com/", "93.184.216.34 200"),
        (1, "-6", "https://www.example.org/", "2606:2800:220:1::35 200"),
        (2, "-4", "http://www.example.org/", "93.184.216.35 200"),
        (2, "-6", "http://www.example.org/", "2606:2800:220:1::35 200"),
    ] {
        says(&curl(&stage, client, family, url)?, 0, address)?;
    }
    ensure!(stage.refused()? == 0, "every first packet has passed");
    let accepts = stage.world.accepts();
    // (client, family, URL, what curl says, the address and port, the reason, names)
    const NO_NAME: i32 = 6;
    const NO_CONNECTION: i32 = 7;
    for (client, url, code) in [
        (1, "https://evil.test/", NO_NAME),
        (1, "https://x.evil.test/", NO_NAME),
        (2, "https://example.com/", NO_NAME),
    ] {
        says(&curl(&stage, client, "-4", url)?, code, "Could not resolve host")?;
        let name = url.trim_start_matches("https://").trim_end_matches('/');
        stage.name(client, name, "host_not_allowed")?;
    }
    let shared = "www.example.org";
    for (client, family, url, target, reason, names) in [
        (1, "-4", "http://93.184.216.66/", "93.184.216.66:80", "ip_literal_not_allowed", &[][..]),
        (1, "-6", "http://[2606:2800:220::66]/", "[2606:2800:220::66]:80", "ip_literal_not_allowed", &[]),
        (1, "-4", "http://www.example.org/", "93.184.216.35:80", "port_not_allowed", &[shared]),
        (1, "-6", "http://www.example.org/", "[2606:2800:220:1::35]:80", "port_not_allowed", &[shared]),
        (2, "-4", "https://93.184.216.34/", "93.184.216.34:443", "ip_literal_not_allowed", &["example.com"]),
        (
            2,
            "-6",
            "https://[2606:2800:220:1::34]/",
            "[2606:2800:220:1::34]:443",
            "ip_literal_not_allowed",
            &["example.com"],
        ),
    ] {
        says(&curl(&stage, client, family, url)?, NO_CONNECTION, "Couldn't connect to server")?;
        stage.packet(client, target, reason, names)?;
    }
    ensure!(stage.world.accepts() == accepts, "{:?}", stage.world.reached());
    for (target, is_open) in [("93.184.216.34:443", true), ("93.184.216.34:8080", false)] {
        ensure!(stage.connect(1, target)?.is_some() == is_open, "{target}");
    }
    stage.end(&[
        "93.184.216.66:80",
        "[2606:2800:220::66]:80",
        "93.184.216.35:80",
        "[2606:2800:220:1::35]:80",
        "93.184.216.34:443",
        "[2606:2800:220:1::34]:443",
        "93.184.216.34:8080",
    ])
}

pub(crate) fn git_and_ssh_reach_what_their_policy_names() -> Result<()> {
    let mut stage = Stage::start(ONE, TWO)?;
    let sshd = Sshd::start(stage.world.directory(), EVERYWHERE, SSH_PORT)?;
    let ca = stage.world.ca_file();
    let options = sshd.options();
    let ssh =
        |stage: &Stage, client, more: &[&str]| stage.client(client, "ssh")?.args(&options).args(more).run();
    let git = |stage: &Stage, client, family: &str, url: &str, into: &str| {
        let command = format!("ssh {}", options.join(" "));
        stage
            .client(client, "git")?
            .env("GIT_SSL_CAINFO", &ca)
            .env("GIT_SSH_COMMAND", command)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .args(["clone", "--quiet", family, url, into])
            .run()
    };
    let host = format!("{USER}@ssh.example.com");
    let done = ssh(&stage, 1, &[&host, "echo hello"])?;
    ensure!(done.code == 0 && done.out == "hello\n", "{done:?}");
    let by_ssh = format!("ssh://{USER}@ssh.example.com:{SSH_PORT}{}", stage.repository.display());
    let by_https = format!("https://{GIT_HOST}{REPOSITORY}");
    for (family, url, into) in [
        ("--ipv4", by_https.as_str(), "over-ipv4"),
        ("--ipv6", &by_https, "over-ipv6"),
        ("--ipv4", &by_ssh, "over-ssh"),
    ] {
        let done = git(&stage, 1, family, url, into)?;
        ensure!(done.code == 0, "{done:?}");
        let text = std::fs::read_to_string(stage.world.directory().join(into).join("README"))?;
        ensure!(text == REPOSITORY_TEXT, "{url}: {text:?}");
    }
    ensure!(stage.refused()? == 0, "every first packet has passed");
    let accepts = stage.world.accepts();
    let denied = git(&stage, 1, "--ipv4", "https://git.evil.test/tiny.git", "no")?;
    says(&denied, 128, "Could not resolve host")?;
    stage.name(1, "git.evil.test", "host_not_allowed")?;
    let denied = ssh(&stage, 2, &[&host, "true"])?;
    says(&denied, 255, "Could not resolve hostname")?;
    stage.name(2, "ssh.example.com", "host_not_allowed")?;
    let by_address = format!("{USER}@93.184.216.71");
    let denied = ssh(&stage, 2, &[&by_address, "true"])?;
    says(&denied, 255, "Connection refused")?;
    stage.packet(2, "93.184.216.71:2222", "ip_literal_not_allowed", &["ssh.example.com"])?;
    let other =
        stage.client(1, "ssh")?.args(["-F", "none", "-o", "BatchMode=yes", "-p", "22", &host]).run()?;
    says(&other, 255, "Connection refused")?;
    stage.packet(1, "93.184.216.71:22", "port_not_allowed", &["ssh.example.com"])?;
    ensure!(stage.world.accepts() == accepts, "{:?}", stage.world.reached());
    stage.end(&["93.184.216.71:2222", "93.184.216.71:22"])
}

pub(crate) fn psql_reaches_what_its_policy_names() -> Result<()> {
    let mut stage = Stage::start(ONE, TWO)?;
    let _postgres = Postgres::start(stage.world.directory(), EVERYWHERE, POSTGRES_PORT)?;
    let psql = |stage: &Stage, client, host: &str, port: u16| {
        let to = format!("host={host} port={port} user={USER} dbname=postgres connect_timeout=20");
        stage.client(client, "psql")?.args(["-At", &to, "-c", "select inet_client_addr()"]).run()
    };
    for (host, from) in [("db.example.com", "10.88.1.2\n"), ("db6.example.com", "fd88:1::2\n")] {
        let done = psql(&stage, 1, host, POSTGRES_PORT)?;
        ensure!(done.code == 0 && done.out == from, "{done:?}");
    }
    ensure!(stage.refused()? == 0, "every first packet has passed");
    let accepts = stage.world.accepts();
    says(&psql(&stage, 2, "db.example.com", POSTGRES_PORT)?, 2, "could not translate host name")?;
    stage.name(2, "db.example.com", "host_not_allowed")?;
    for (client, host, port, target, reason, names) in [
        (2, "93.184.216.72", 5433, "93.184.216.72:5433", "ip_literal_not_allowed", ["db.example.com"]),
        (
            2,
            "2606:2800:220:1::72",
            5433,
            "[2606:2800:220:1::72]:5433",
            "ip_literal_not_allowed",
            ["db6.example.com"],
        ),
        (1, "db.example.com", 5432, "93.184.216.72:5432", "port_not_allowed", ["db.example.com"]),
    ] {
        says(&psql(&stage, client, host, port)?, 2, "Connection refused")?;
        stage.packet(client, target, reason, &names)?;
    }
    ensure!(stage.world.accepts() == accepts, "{:?}", stage.world.reached());
    stage.end(&["93.184.216.72:5433", "[2606:2800:220:1::72]:5433", "93.184.216.72:5432"])
}

pub(crate) fn dig_is_told_why() -> Result<()> {
    let mut stage = Stage::start(ONE, TWO)?;
    let dig = |stage: &Stage, client, args: &[&str]| {
        stage.client(client, "dig")?.args(["+tries=1", "+time=10"]).args(args).run()
    };
    for args in [
        &["example.com"][..],
        &["+tcp", "example.com"],
        // Whomever it asks, over both families.
        &["@93.184.216.53", "example.com"],
        &["@2606:2800:220::53", "example.com"],
        &["@2606:2800:220::53", "+tcp", "example.com"],
    ] {
        let done = dig(&stage, 1, args)?;
        ensure!(done.code == 0 && done.out.contains("93.184.216.34"), "{args:?}: {done:?}");
        let evil: Vec<&str> =
            args.iter().map(|arg| if *arg == "example.com" { "evil.test" } else { arg }).collect();
        let denied = dig(&stage, 1, &evil)?;
        ensure!(denied.out.contains("status: NXDOMAIN"), "{denied:?}");
        ensure!(denied.out.contains("EDE: 15 (Blocked): (host_not_allowed)"), "{denied:?}");
    }
    ensure!(stage.refused()? == 0, "no packet was refused");
    stage.name(1, "evil.test", "host_not_allowed")?;
    // Ports of name servers that are not port 53, by UDP: an error of ICMP says so at once.
    let elsewhere = dig(&stage, 1, &["@93.184.216.53", "-p", "5353", "example.com"])?;
    ensure!(elsewhere.code == 9 && elsewhere.out.contains("host unreachable"), "{elsewhere:?}");
    stage.packet(1, "93.184.216.53:5353", "ip_literal_not_allowed", &[])?;
    let over_tls = dig(&stage, 1, &["@93.184.216.53", "-p", "853", "+tcp", "example.com"])?;
    ensure!(over_tls.code == 9 && over_tls.out.contains("connection refused"), "{over_tls:?}");
    stage.packet(1, "93.184.216.53:853", "ip_literal_not_allowed", &[])?;
    stage.end(&["93.184.216.53:5353", "93.184.216.53:853"])
}

pub(crate) fn a_browser_loads_what_its_policy_names() -> Result<()> {
    let stage = Stage::start(ONE, TWO)?;
    let load = |client, host: &str| {
        let args =
            ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"];
        let quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"];
        let url = format!("http://{host}/");
        let profile = format!("--user-data-dir=profile{client}");
        stage.client(client, "chromium")?.args(args).args(quiet).args([&profile, "--dump-dom", &url]).run()
    };
    let done = load(1, "example.com")?;
    ensure!(done.code == 0 && done.out.contains("hello from example.com"), "{done:?}");
    let accepts = stage.world.accepts();
    let denied = load(2, "example.com")?;
    ensure!(!denied.out.contains("hello from"), "{denied:?}");
    ensure!(stage.world.accepts() == accepts, "{:?}", stage.world.reached());
    stage.exeat.stop()
}
