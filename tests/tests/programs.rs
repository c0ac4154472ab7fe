//! Programs that know of no proxy and speak no HTTP, by the names of their servers: OpenSSH, PostgreSQL, mail, and one that
//! resolves once for ever. The servers are real ones, all at the address of another name that is refused.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use exeat_tests::client::Outcome;
use exeat_tests::container::Container;
use exeat_tests::dns::{Dns, Entry};
use exeat_tests::exeat::Exeat;
use exeat_tests::gateway::{container, redirect};
use exeat_tests::namespace::{NAME_SERVER, PROXY, scratch};
use exeat_tests::origin::{Origin, PATIENCE, greet_and_echo};
use exeat_tests::servers::{MailServer, Postgres, Sshd, USER};
use exeat_tests::{harness, scenarios};
use serde_json::Value;
use tempfile::TempDir;

fn main() -> ExitCode {
    harness::main(scenarios![
        ssh_by_name,
        psql_by_name,
        mail_by_name,
        a_program_that_resolves_once_goes_on,
        it_goes_on_with_the_names_own_address,
    ])
}

/// Where every server of these scenarios is.
const SERVER: &str = "93.184.216.60";

/// A client in a container, a proxy that allows it this, and a name server.
struct Setting {
    home: TempDir,
    dns: Dns,
    client: Container,
    exeat: Exeat,
}

impl Setting {
    /// `allow` is what the client may reach, and `mode` that of `[dns]`.
    fn new(mode: &str, allow: &str) -> Result<Self> {
        let home = TempDir::new_in(scratch())?;
        let dns = Dns::start(NAME_SERVER.parse()?)?;
        for name in ["git.example.com", "db.example.com", "mail.example.com", "other.example.com"] {
            dns.set(name, Entry::addresses(&[SERVER]));
        }
        redirect()?;
        let client = container(1)?;
        let config = format!(
            r#"
[proxy]
listen = ["{PROXY}", {{ address = "0.0.0.0:3141", redirected = true }}, {{ address = "[::]:3142", redirected = true }}]
[dns]
listen = ["0.0.0.0:5353"]
mode = "{mode}"
[audit]
file = "AUDIT"
[policy.tools]
allow = [{allow}]
[workload.one]
addresses = ["10.97.1.2", "fd97:1::2"]
policies = ["tools"]
"#
        );
        let exeat = Exeat::serve(home.path(), &config, PROXY)?;
        Ok(Self { home, dns, client, exeat })
    }

    fn home(&self) -> &Path {
        self.home.path()
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<Outcome> {
        self.client.client(program, self.home()).args(args).env("PGCONNECT_TIMEOUT", "30").run()
    }

    /// The record of a decision on this target.
    fn decision(&mut self, target: &str) -> Result<Value> {
        let is_it = |record: &Value| record["event"] == "decision" && record["target"] == target;
        let found = self.exeat.audit_record(target, |(_, record)| is_it(record))?;
        Ok(found.1)
    }

    fn allowed(&mut self, target: &str) -> Result<()> {
        let record = self.decision(target)?;
        ensure!(record["verdict"] == "allow" && record["method"] == "REDIRECT", "{record}");
        ensure!(record["address"].as_str().is_some_and(|address| address.starts_with(SERVER)), "{record}");
        Ok(())
    }
}

fn ssh_by_name() -> Result<()> {
    let mut at = Setting::new("virtual", "\"git.example.com:22\", \"db.example.com:5432\"")?;
    let sshd = Sshd::start(at.home(), &[SERVER], 22)?;
    let options = sshd.options();
    let ssh = |host: &str| {
        let (options, to) = (options.iter().map(String::as_str), format!("{USER}@{host}"));
        let args: Vec<&str> = options.chain([&*to, "echo through; cat"]).collect();
        at.run("ssh", &args)
    };
    let done = ssh("git.example.com")?;
    ensure!(done.code == 0 && done.out == "through\n", "{done:?}");
    let accepts = sshd.accepts()?;
    for (case, host, says) in [
        ("another name at the same address", "other.example.com", "Could not resolve hostname"),
        ("a name that may be reached on another port", "db.example.com", "reset"),
        ("the address that the name really has", SERVER, "reset"),
    ] {
        let done = ssh(host)?;
        ensure!(done.code == 255 && done.err.contains(says), "{case}: {done:?}");
    }
    ensure!(accepts > 0 && sshd.accepts()? == accepts, "it heard of none of these");
    at.allowed("git.example.com:22")?;
    ensure!(at.decision("db.example.com:22")?["reason"] == "port_not_allowed");
    at.exeat.stop()
}

fn psql_by_name() -> Result<()> {
    let mut at = Setting::new("virtual", "\"db.example.com:5432\"")?;
    let _postgres = Postgres::start(at.home(), &[SERVER], 5432)?;
    let psql =
        |host: &str| at.run("psql", &["-h", host, "-U", USER, "-d", "postgres", "-Atc", "select 6 * 7"]);
    let done = psql("db.example.com")?;
    ensure!(done.code == 0 && done.out == "42\n", "{done:?}");
    for (case, host, says) in [
        ("another name at the same address", "other.example.com", "could not translate host name"),
        ("the address that the name really has", SERVER, "server closed the connection"),
    ] {
        let done = psql(host)?;
        let is_refused = done.err.contains(says) || done.err.contains("Connection reset");
        ensure!(done.code == 2 && is_refused, "{case}: {done:?}");
    }
    at.allowed("db.example.com:5432")?;
    at.exeat.stop()
}

fn mail_by_name() -> Result<()> {
    let mut at = Setting::new("virtual", "\"mail.example.com:25\"")?;
    let server = MailServer::start(at.home(), SERVER, 25)?;
    let send = |host: &str| {
        let script = format!(
            "import smtplib\nwith smtplib.SMTP('{host}', 25, timeout=30) as s:\n \
             s.sendmail('a@example.com', ['b@example.com'], 'Subject: to {host}\\n\\nhello')\nprint('sent')"
        );
        at.run("python3", &["-c", &script])
    };
    let done = send("mail.example.com")?;
    ensure!(done.code == 0 && done.out == "sent\n", "{done:?}");
    for (case, host, says) in [
        ("another name at the same address", "other.example.com", "gaierror"),
        ("the address that the name really has", SERVER, "ConnectionResetError"),
    ] {
        let done = send(host)?;
        let is_refused = done.err.contains(says) || done.err.contains("SMTPServerDisconnected");
        ensure!(done.code == 1 && is_refused, "{case}: {done:?}");
    }
    let mails = server.mails()?;
    ensure!(mails.contains("Subject: to mail.example.com"), "{mails}");
    ensure!(mails.matches("Subject: ").count() == 1, "{mails}");
    at.allowed("mail.example.com:25")?;
    at.exeat.stop()
}

/// A program that asks for a name when it starts, as runtimes do that keep addresses for ever, and connects for every
/// line that it is given.
const HOLDS: &str = "import socket, sys\naddress = socket.getaddrinfo('mail.example.com', 25, socket.AF_INET)[0][4]\n\
    print('knows', address[0], flush=True)\nfor line in sys.stdin:\n \
    s = socket.create_connection(address, 30)\n print(s.makefile().readline().strip(), flush=True)";

fn a_program_that_resolves_once_goes_on() -> Result<()> {
    holds_its_address("virtual")
}

fn it_goes_on_with_the_names_own_address() -> Result<()> {
    holds_its_address("resolve")
}

fn holds_its_address(mode: &str) -> Result<()> {
    let mut at = Setting::new(mode, "\"mail.example.com:25\"")?;
    // It is out of every cache at once.
    at.dns.set("mail.example.com", Entry::addresses(&[SERVER]).kept_for(0));
    let port_at = |address: &str| -> Result<SocketAddr> { Ok(format!("{address}:25").parse()?) };
    let moved = "93.184.216.61";
    let _first = Origin::start(port_at(SERVER)?, greet_and_echo("220 first\r\n"))?;
    let _second = Origin::start(port_at(moved)?, greet_and_echo("220 second\r\n"))?;
    let mut program = at.client.command("python3");
    let mut program = program.args(["-c", HOLDS]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut says = BufReader::new(program.stdout.take().context("its output")?).lines();
    let mut next = || says.next().context("another line")?.map_err(anyhow::Error::from);
    let mut tell = program.stdin.take().context("its input")?;
    ensure!(next()?.starts_with(if mode == "virtual" { "knows 198.18." } else { "knows 93.184." }));
    for _ in 0..2 {
        writeln!(tell, "connect")?;
        ensure!(next()? == "220 first");
    }
    // The name moves; this program will never know.
    at.dns.set("mail.example.com", Entry::addresses(&[moved]).kept_for(0));
    let began = Instant::now();
    loop {
        writeln!(tell, "connect")?;
        let line = next()?;
        // An answer is kept for a second at least.
        if mode == "virtual" && line == "220 first" && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        }
        ensure!(line == if mode == "virtual" { "220 second" } else { "220 first" }, "{mode}: {line}");
        break;
    }
    drop(tell);
    ensure!(program.wait()?.success());
    at.decision("mail.example.com:25")?;
    at.exeat.stop()
}
