//! Running it: the quick start, checking, explaining, reloading, draining, credentials.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use exeat_tests::client::{Client, Outcome};
use exeat_tests::exeat::{Exeat, binary};
use exeat_tests::fixture::{ask, configuration, echoes, get, request_with, tunnel};
use exeat_tests::namespace::{HOSTS_FILE_NAME, PROXY};
use exeat_tests::raw::{Raw, authorization};
use exeat_tests::terminal::Terminal;
use exeat_tests::world::World;
use exeat_tests::{harness, scenarios};
use nix::sys::signal::Signal;

fn main() -> ExitCode {
    harness::main(scenarios![
        the_quick_start_prints_a_line_that_works,
        a_reload_takes_effect_at_once,
        a_bad_reload_changes_nothing_and_says_so,
        a_reload_reopens_the_audit_file,
        the_audit_file_is_private,
        a_drain_lets_a_tunnel_finish,
        a_drain_ends_at_its_limit,
        a_drain_closes_connections_without_a_request,
        a_second_signal_ends_it_at_once,
        check_prints_every_problem_with_its_place,
        a_file_with_errors_is_never_served,
        explain_and_the_proxy_agree,
        added_clients_get_in_and_comments_stay,
        a_password_hash_from_standard_input_gets_in,
        a_password_on_a_terminal_is_asked_for_twice_and_not_shown,
        one_line_of_standard_input_is_a_password_and_two_are_not,
        the_hosts_file_is_not_read,
        unresponsive_name_servers_and_origins_end_in_an_answer,
    ])
}

/// A configuration that allows `entries`.
fn config(entries: &str, extra: &str) -> String {
    configuration(&format!("allow = [{entries}]"), extra)
}

/// The status of a GET for the host.
fn status(host: &str) -> Result<u16> {
    Ok(get(&format!("{host}/"))?.0)
}

/// The status of a GET for `http://example.com/` by another client.
fn status_as(user: &str, password: &str) -> Result<u16> {
    let request = request_with("GET http://example.com/", &authorization(user, password));
    Ok(Raw::proxy()?.ask(request)?.status)
}

fn exeat(directory: &Path, args: &[&str]) -> Result<Outcome> {
    Client::new(binary()?, directory).args(args).run()
}

fn the_quick_start_prints_a_line_that_works() -> Result<()> {
    let world = World::new()?;
    let mut exeat = Exeat::spawn(world.directory(), &["serve", "--allow", "example.com"])?;
    let printed = exeat.wait_for_output("curl -x")?;
    let line =
        printed.lines().find(|line| line.trim_start().starts_with("curl -x")).context("the curl line")?;
    let paste = |line: &str| {
        Client::new("sh", world.directory()).env("CURL_CA_BUNDLE", world.ca_file()).args(["-c", line]).run()
    };
    exeat.wait_until_ready()?;
    let pasted = paste(line)?;
    ensure!(pasted.code == 0 && pasted.out == "hello from example.com\n", "{pasted:?}");
    let refused = paste(&line.replace("https://example.com", "https://example.org"))?;
    ensure!(refused.code == 56 && refused.err.contains("403"), "{refused:?}");
    let stranger = paste(&line.replace("http://", "http://x"))?;
    ensure!(stranger.code == 56 && stranger.err.contains("407"), "{stranger:?}");
    exeat.wait_for_output("\"auth_invalid\"")?;
    ensure!(
        exeat.stdout().contains("\"example.com\""),
        "the audit goes to standard output: {}",
        exeat.stdout()
    );
    let open: SocketAddr = PROXY.parse()?;
    ensure!(TcpStream::connect(open).is_err(), "it listens on more than loopback");
    exeat.stop()
}

fn a_reload_takes_effect_at_once() -> Result<()> {
    let world = World::new()?;
    let mut exeat = Exeat::serve(world.directory(), &config(r#""example.com""#, ""), PROXY)?;
    ensure!(status("example.com")? == 200 && status("a.example.org")? == 403);
    Exeat::write_config(world.directory(), &config(r#""*.example.org""#, ""))?;
    exeat.signal(Signal::SIGHUP)?;
    exeat.wait_for_output("reloaded")?;
    ensure!(status("example.com")? == 403 && status("a.example.org")? == 200);
    let records = exeat.audit_until("five records", |records| records.len() == 5)?;
    let told: Vec<_> = records.iter().map(|r| (r["revision"].clone(), r["verdict"].clone())).collect();
    ensure!(
        told == [
            (1.into(), "allow".into()),
            (1.into(), "deny".into()),
            // The change itself.
            (2.into(), serde_json::Value::Null),
            (2.into(), "deny".into()),
            (2.into(), "allow".into())
        ],
        "{records:#?}"
    );
    exeat.stop()
}

fn a_bad_reload_changes_nothing_and_says_so() -> Result<()> {
    let world = World::new()?;
    let mut exeat = Exeat::serve(world.directory(), &config(r#""example.com""#, ""), PROXY)?;
    Exeat::write_config(world.directory(), &config(r#""*.com", "example.org""#, "[typo]\n"))?;
    exeat.signal(Signal::SIGHUP)?;
    let printed = exeat.wait_for_output("reload refused")?;
    ensure!(printed.contains("*.com") && printed.contains("exeat.toml:7:"), "{printed}");
    ensure!(status("example.com")? == 200 && status("example.org")? == 403);
    let records = exeat.audit_until("three records", |records| records.len() == 3)?;
    ensure!(records.iter().all(|r| r["revision"] == 1), "{records:#?}");
    ensure!(records[0]["control"]["result"] == "refused", "{records:#?}");
    // A correct file after that is taken.
    Exeat::write_config(world.directory(), &config(r#""example.org""#, ""))?;
    exeat.signal(Signal::SIGHUP)?;
    exeat.wait_for_output("reloaded")?;
    ensure!(status("example.com")? == 403 && status("example.org")? == 200);
    exeat.stop()
}

fn a_reload_reopens_the_audit_file() -> Result<()> {
    let world = World::new()?;
    let mut exeat = Exeat::serve(world.directory(), &config(r#""example.com""#, ""), PROXY)?;
    ensure!(status("example.com")? == 200);
    exeat.audit_until("a record", |records| records.len() == 1)?;
    let (current, rotated) = (world.directory().join("audit.jsonl"), world.directory().join("audit.jsonl.1"));
    fs::rename(&current, &rotated)?;
    exeat.signal(Signal::SIGHUP)?;
    exeat.wait_for_output("reloaded")?;
    ensure!(status("example.com")? == 200);
    // That of the reload goes to either file.
    let requests = |records: &[serde_json::Value]| records.iter().filter(|r| r["event"] == "request").count();
    exeat.audit_until("a record in the new file", |records| requests(records) == 1)?;
    let before = fs::read_to_string(&rotated)?;
    let before: Vec<serde_json::Value> =
        before.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(requests(&before) == 1, "{before:#?}");
    exeat.stop()
}

fn the_audit_file_is_private() -> Result<()> {
    let world = World::new()?;
    let exeat = Exeat::serve(world.directory(), &config(r#""example.com""#, ""), PROXY)?;
    let mode = fs::metadata(world.directory().join("audit.jsonl"))?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    exeat.stop()
}

fn a_drain_lets_a_tunnel_finish() -> Result<()> {
    let world = World::new()?;
    let mut exeat = Exeat::serve(world.directory(), &config(r#""mail.example.org:25""#, ""), PROXY)?;
    let mut tunnel = tunnel("mail.example.org")?;
    exeat.signal(Signal::SIGTERM)?;
    exeat.wait_for_output("draining")?;
    exeat.wait_until_closed(PROXY.parse()?)?;
    echoes(&mut tunnel)?;
    echoes(&mut tunnel)?;
    tunnel.finish()?;
    tunnel.closed()?;
    let status = exeat.wait()?;
    ensure!(status.success(), "{status}");
    let (_, end) = exeat.audit_record("the end", |(_, r)| r["event"] == "end")?;
    ensure!(end["reason"].is_null() && end["bytes_up"] == 26, "{end}");
    Ok(())
}

fn a_drain_ends_at_its_limit() -> Result<()> {
    let world = World::new()?;
    let config = config(r#""mail.example.org:25""#, "[limits]\ndrain_timeout = \"300ms\"\n");
    let mut exeat = Exeat::serve(world.directory(), &config, PROXY)?;
    let mut tunnel = tunnel("mail.example.org")?;
    exeat.signal(Signal::SIGTERM)?;
    tunnel.closed()?;
    let status = exeat.wait()?;
    ensure!(status.success(), "{status}");
    exeat.audit_record("the end", |(_, r)| r["event"] == "end" && r["end"] == "draining")?;
    Ok(())
}

/// Neither a connection that has not asked yet nor one that has been answered keeps a drain waiting.
fn a_drain_closes_connections_without_a_request() -> Result<()> {
    let world = World::new()?;
    let limits = "[limits]\ndrain_timeout = \"1h\"\nhead_timeout = \"1h\"\nkeepalive_timeout = \"1h\"\n";
    let exeat = Exeat::serve(world.directory(), &config(r#""example.com""#, limits), PROXY)?;
    let (mut answered, reply) = ask("GET http://example.com/")?;
    ensure!(reply.status == 200, "{reply:?}");
    let mut silent = Raw::proxy()?;
    exeat.stop()?;
    answered.closed()?;
    silent.closed()
}

fn a_second_signal_ends_it_at_once() -> Result<()> {
    let world = World::new()?;
    let config = config(r#""mail.example.org:25""#, "[limits]\ndrain_timeout = \"1h\"\n");
    let mut exeat = Exeat::serve(world.directory(), &config, PROXY)?;
    let mut tunnel = tunnel("mail.example.org")?;
    exeat.signal(Signal::SIGTERM)?;
    exeat.wait_for_output("draining")?;
    exeat.signal(Signal::SIGTERM)?;
    tunnel.closed()?;
    exeat.wait().map(drop)
}

fn check_prints_every_problem_with_its_place() -> Result<()> {
    let world = World::new()?;
    let directory = world.directory();
    Exeat::write_config(directory, &config(r#""example.com""#, ""))?;
    let good = exeat(directory, &["check", "exeat.toml"])?;
    ensure!(good.code == 0 && good.out.is_empty(), "{good:?}");
    Exeat::write_config(
        directory,
        &config(r#""http://example.com/", "*.com", "example.org:0""#, "[limits]\nhed_timeout = \"1s\"\n"),
    )?;
    let bad = exeat(directory, &["check", "exeat.toml"])?;
    ensure!(bad.code == 78, "{bad:?}");
    for told in [
        "http://example.com/",
        "*.com",
        "example.org:0",
        "hed_timeout",
        "head_timeout",
        "exeat.toml:7:",
        "exeat.toml:12:",
    ] {
        ensure!(bad.err.contains(told), "{told} is not in {}", bad.err);
    }
    let machine = exeat(directory, &["check", "--format", "json", "exeat.toml"])?;
    let problems: Vec<serde_json::Value> =
        machine.out.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(machine.code == 78 && problems.len() == 4, "{machine:?}");
    let missing = exeat(directory, &["check", "no-such-file.toml"])?;
    ensure!(missing.code == 78 && missing.err.contains("no-such-file.toml"), "{missing:?}");
    Ok(())
}

fn a_file_with_errors_is_never_served() -> Result<()> {
    let world = World::new()?;
    Exeat::write_config(world.directory(), &config(r#""example.*""#, ""))?;
    let done = exeat(world.directory(), &["serve", "--config", "exeat.toml"])?;
    ensure!(done.code == 78 && done.err.contains("exeat.toml:7:"), "{done:?}");
    ensure!(!world.directory().join("audit.jsonl").exists());
    Ok(())
}

/// `explain` says what the proxy does, and the entry that it proposes makes the request pass.
fn explain_and_the_proxy_agree() -> Result<()> {
    let world = World::new()?;
    let directory = world.directory();
    let mut entries = vec![r#""example.com""#.to_owned()];
    let mut exeat_process = Exeat::serve(directory, &config(&entries.join(", "), ""), PROXY)?;
    let explain = |target: &str| exeat(directory, &["explain", "app", target]);
    let allowed = explain("http://example.com/x")?;
    ensure!(allowed.code == 0 && allowed.out.starts_with("allow  example.com:80"), "{allowed:?}");
    ensure!(allowed.out.contains("exeat.toml:7:10"), "the place of the rule: {allowed:?}");

    for (target, reason) in
        [("http://a.example.org/", "host_not_allowed"), ("http://example.com:8080/", "port_not_allowed")]
    {
        let refused = explain(target)?;
        ensure!(refused.code == 1 && refused.out.contains(reason), "{refused:?}");
        let (_, reply) = ask(&format!("GET {target}"))?;
        ensure!(reply.head.field("x-deny-reason") == Some(reason), "{reply:?}");
        let body: serde_json::Value = serde_json::from_slice(&reply.body)?;
        let entry = body["allow"].as_str().context("the smallest entry in the body")?;
        ensure!(refused.out.contains(&format!("add {entry} to ")), "{entry} is not in {refused:?}");
        entries.push(entry.to_owned());
    }
    Exeat::write_config(directory, &config(&entries.join(", "), ""))?;
    exeat_process.signal(Signal::SIGHUP)?;
    exeat_process.wait_for_output("reloaded")?;
    ensure!(status("a.example.org")? == 200 && explain("http://a.example.org/")?.code == 0);
    // What stands there does not speak HTTP, so the request fails behind the decision.
    ensure!(explain("http://example.com:8080/")?.code == 0 && status("example.com:8080")? == 502);
    let stranger = exeat(directory, &["explain", "nobody", "http://example.com/"])?;
    ensure!(stranger.code == 2 && stranger.err.contains("nobody"), "{stranger:?}");
    let mistyped = exeat(directory, &["explain", "ap", "http://example.com/"])?;
    ensure!(mistyped.code == 2 && mistyped.err.contains("did you mean `app`?"), "{mistyped:?}");
    exeat_process.stop()
}

fn added_clients_get_in_and_comments_stay() -> Result<()> {
    let world = World::new()?;
    let mut process = Exeat::serve(world.directory(), &config(r#""example.com""#, ""), PROXY)?;
    let added = exeat(
        world.directory(),
        &[
            "client",
            "add",
            "second",
            "--policy",
            "app",
            "--label",
            "space=dev",
            "--generated",
            "--config",
            "exeat.toml",
        ],
    )?;
    ensure!(added.code == 0, "{added:?}");
    let password = added.out.trim();
    let text = fs::read_to_string(world.directory().join("exeat.toml"))?;
    ensure!(text.contains("# A comment of the operator.") && !text.contains(password), "{text}");
    process.signal(Signal::SIGHUP)?;
    process.wait_for_output("reloaded")?;
    ensure!(status_as("second", password)? == 200);
    let (_, record) =
        process.audit_record("the second client", |(_, r)| r["principal"]["name"] == "second")?;
    ensure!(record["principal"]["labels"]["space"] == "dev", "{record}");
    let again = exeat(world.directory(), &["client", "add", "second", "--policy", "app", "--generated"])?;
    ensure!(again.code == 1, "{again:?}");
    // Neither what would not load nor a password that nobody has seen is written.
    let text = fs::read_to_string(world.directory().join("exeat.toml"))?;
    let bad = exeat(world.directory(), &["client", "add", "third", "--policy", "ap", "--generated"])?;
    ensure!(bad.code == 78 && bad.out.is_empty() && bad.err.contains("there is no policy `ap`"), "{bad:?}");
    let (_, nobody_reads) = std::io::pipe()?;
    let unseen = Command::new(binary()?)
        .args(["client", "add", "third", "--policy", "app", "--generated"])
        .current_dir(world.directory())
        .stdout(nobody_reads)
        .output()?;
    ensure!(unseen.status.code() == Some(1), "{unseen:?}");
    ensure!(fs::read_to_string(world.directory().join("exeat.toml"))? == text);
    process.stop()
}

fn a_password_hash_from_standard_input_gets_in() -> Result<()> {
    let world = World::new()?;
    let mut child = Command::new(binary()?)
        .args(["client", "hash"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("run exeat")?;
    child.stdin.take().context("its input")?.write_all(b"a human's password\n")?;
    let hash = String::from_utf8(child.wait_with_output()?.stdout)?;
    ensure!(hash.starts_with("$argon2id$") && !hash.contains("human"), "{hash}");
    let extra = format!("[client.human]\npasswords = [\"{}\"]\npolicies = [\"app\"]\n", hash.trim());
    let exeat = Exeat::serve(world.directory(), &config(r#""example.com""#, &extra), PROXY)?;
    for (password, status) in
        [("a human's password", 200), ("a human's passwort", 407), ("a human's password", 200)]
    {
        ensure!(status_as("human", password)? == status, "{password}");
    }
    exeat.stop()
}

fn a_password_on_a_terminal_is_asked_for_twice_and_not_shown() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let line = format!("exec {} client hash 2>&1", binary()?.display());
    for (second, want) in [("a human's password", 0), ("another", 1)] {
        let mut terminal = Terminal::start(folder.path(), 24, 100, &line)?;
        terminal.until_written("password (it is not shown): ")?;
        terminal.press("a human's passwort\x7fd\r")?;
        terminal.until_written("the same again: ")?;
        terminal.press(&format!("{second}\r"))?;
        ensure!(terminal.wait()? == want, "{second}: {}", terminal.written());
        let written = terminal.written();
        ensure!(!written.contains("human"), "{written}");
        ensure!(written.contains("$argon2id$") == (want == 0), "{written}");
    }
    Ok(())
}

fn one_line_of_standard_input_is_a_password_and_two_are_not() -> Result<()> {
    for (input, want) in [("one\n", 0), ("one", 0), ("one\ntwo\n", 1), ("\n", 1)] {
        let mut child = Command::new(binary()?)
            .args(["client", "hash"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("run exeat")?;
        child.stdin.take().context("its input")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.code() == Some(want), "{input:?}: {:?}", output.status);
        ensure!(output.stdout.starts_with(b"$argon2id$") == (want == 0), "{input:?}");
    }
    Ok(())
}

fn the_hosts_file_is_not_read() -> Result<()> {
    let world = World::new()?;
    let allow = format!("\"{HOSTS_FILE_NAME}\"");
    world
        .dns
        .set(HOSTS_FILE_NAME, exeat_tests::dns::Entry::failure(hickory_proto::op::ResponseCode::NXDomain));
    let exeat = Exeat::serve(world.directory(), &config(&allow, ""), PROXY)?;
    let got = get(&format!("{HOSTS_FILE_NAME}/"))?;
    ensure!(got == (502, Some("dns_failed".to_owned())), "{got:?}");
    ensure!(world.dns.names() == [HOSTS_FILE_NAME], "{:?}", world.dns.names());
    ensure!(world.accepts() == 0, "{:?}", world.reached());
    exeat.stop()
}

/// Silence is answered within the limits: of the name server, of an address, of an origin.
fn unresponsive_name_servers_and_origins_end_in_an_answer() -> Result<()> {
    let world = World::new()?;
    world.dns.set("mute.example.org", exeat_tests::dns::Entry::silence());
    world.dns.set("far.example.org", exeat_tests::dns::Entry::addresses(&["93.184.217.7"]));
    world.dns.set("one.example.org", exeat_tests::dns::Entry::addresses(&["93.184.217.8", "93.184.216.35"]));
    let extra = "[limits]\nconnect_timeout = \"1s\"\nresponse_head_timeout = \"500ms\"\n[resolver]\nservers = [\"10.99.0.53:53\"]\ntimeout = \"300ms\"\nattempts = 1\n";
    let mut exeat = Exeat::serve(
        world.directory(),
        &config(r#""*.example.org", "silent.example.org:8080""#, extra),
        PROXY,
    )?;
    for (host, status, reason) in [
        ("mute.example.org", 504, Some("dns_failed")),
        ("far.example.org", 504, Some("connect_timeout")),
        ("one.example.org", 200, None),
    ] {
        let got = get(&format!("{host}/"))?;
        ensure!(got == (status, reason.map(str::to_owned)), "{host}: {got:?}");
    }
    exeat.wait_for_output("a name server of [resolver] does not answer")?;
    exeat.stop()
}
