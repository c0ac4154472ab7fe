//! A collector that others wrote (`fstrm_capture`) and readers that others wrote, which are told of questions by dnstap.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use exeat_tests::asker::Asker;
use exeat_tests::dns::Entry;
use exeat_tests::origin::PATIENCE;
use exeat_tests::scrape::scrape;
use hickory_proto::rr::RecordType;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use crate::setup::{APP, NOWHERE, Setup};

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A running `fstrm_capture`, which writes what it is told to a file. It is killed when dropped.
struct Capture {
    child: Child,
    file: PathBuf,
}

impl Capture {
    /// Starts one that listens at `socket`, where there may be what one before it has left.
    fn start(socket: &Path, file: &str) -> Result<Self> {
        drop(fs::remove_file(socket));
        let file = socket.with_file_name(file);
        let log = fs::File::create(file.with_extension("log"))?;
        let mut command = Command::new("fstrm_capture");
        command.args(["-t", "protobuf:dnstap.Dnstap", "-u"]).arg(socket).arg("-w").arg(&file);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("run fstrm_capture")?;
        let capture = Self { child, file };
        let end = Instant::now() + PATIENCE;
        while !socket.exists() {
            ensure!(Instant::now() < end, "fstrm_capture does not listen");
            thread::sleep(LOOK_AGAIN);
        }
        Ok(capture)
    }

    /// Has it write out what it has been told, and end.
    fn stop(mut self) -> Result<PathBuf> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        let end = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < end, "fstrm_capture does not end");
            thread::sleep(LOOK_AGAIN);
        }
        Ok(self.file.clone())
    }

    /// Ends it without a word.
    fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The messages of a file, as protoc writes them.
fn messages(file: &Path) -> Result<Vec<String>> {
    let octets = fs::read(file)?;
    let mut rest = octets.as_slice();
    let mut take = |count: usize| -> Result<&[u8]> {
        let (taken, left) = rest.split_at_checked(count).context("a file that is cut")?;
        rest = left;
        Ok(taken)
    };
    let mut found = Vec::new();
    loop {
        let length = usize::try_from(u32::from_be_bytes(take(4)?.try_into()?))?;
        if length > 0 {
            found.push(decode(take(length)?)?);
            continue;
        }
        let length = usize::try_from(u32::from_be_bytes(take(4)?.try_into()?))?;
        // STOP
        if take(length)?.starts_with(&[0, 0, 0, 3]) {
            return Ok(found);
        }
    }
}

fn decode(message: &[u8]) -> Result<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/names");
    let mut command = Command::new("protoc");
    command.arg("--decode=told.Dnstap").arg("-I").arg(&folder).arg(folder.join("dnstap.proto"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("run protoc")?;
    child.stdin.take().context("its input")?.write_all(message)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "protoc: {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// The lines of the `policy` of a message, each without its indentation.
fn policy(message: &str) -> Vec<&str> {
    let lines = message.lines().map(str::trim).skip_while(|line| *line != "policy {").skip(1);
    lines.take_while(|line| *line != "}").collect()
}

fn tap_out(more: &str) -> String {
    format!("tap_out = {{ socket = \"collector.sock\", uid = {}, {more} }}", geteuid().as_raw())
}

/// Waits until so many messages were told.
fn until_told(setup: &mut Setup, count: u32) -> Result<()> {
    let name = "exeat_dns_tap_out_messages_total{result=\"told\"}";
    let is_it = |told: f64| told == f64::from(count);
    setup.exeat.until(name, |_| Ok(scrape()?.get(name).copied().filter(|told| is_it(*told)).map(drop)))
}

pub(crate) fn a_collector_is_told_what_is_asked_and_decided() -> Result<()> {
    let allow =
        "allow = [\"example.com\", \"*.example.org\", \"a.b.example.net\"]\ndeny = [\"no.example.org\"]";
    let mut setup = Setup::new(allow, &tap_out("identity = \"gw1\""), "")?;
    let socket = setup.world.directory().join("collector.sock");
    setup.world.dns.set("in.example.org", Entry::addresses(&["10.0.0.5"]));
    // Nobody listens yet, which nobody who asks has to know.
    let asked = [
        (APP, "example.com", "by UDP"),
        (APP, "www.example.org", "by TCP"),
        (APP, "evil.test", "by UDP"),
        (APP, "no.example.org", "by UDP"),
        (APP, "b.example.net", "by UDP"),
        (APP, "in.example.org", "by UDP"),
        (NOWHERE, "example.com", "by UDP"),
    ];
    for (client, name, by) in asked {
        let by = if by == "by TCP" { "+tcp" } else { "+notcp" };
        let args = ["-b", client, "@10.99.0.1", by, "+tries=1", name, "A"];
        ensure!(Command::new("dig").args(args).output()?.status.success(), "dig {name}");
    }
    let capture = Capture::start(&socket, "told.fstrm")?;
    until_told(&mut setup, 2 * u32::try_from(asked.len())?)?;
    setup.exeat.signal(Signal::SIGTERM)?;
    setup.exeat.until_logged("the collector of dnstap has read everything")?;
    ensure!(setup.exeat.wait()?.success(), "it does not end well: {}", setup.exeat.stderr());
    let file = capture.stop()?;

    let told = messages(&file)?;
    let [questions, answers] = ["CLIENT_QUERY", "CLIENT_RESPONSE"].map(|kind| -> Vec<&str> {
        told.iter().map(String::as_str).filter(|text| text.contains(&format!("type: {kind}\n"))).collect()
    });
    ensure!(questions.len() == asked.len() && answers.len() == asked.len(), "{told:#?}");
    for (text, (client, name, by)) in questions.iter().chain(&answers).zip(asked.iter().chain(&asked)) {
        let protocol = by.trim_start_matches("by ");
        let address = |text: &str| -> Result<String> {
            let octets = text.parse::<std::net::Ipv4Addr>()?.octets();
            Ok(octets.iter().map(|octet| escaped(*octet)).collect())
        };
        for want in [
            "identity: \"gw1\"".to_owned(),
            "version: \"exeat ".to_owned(),
            "socket_family: INET\n".to_owned(),
            format!("socket_protocol: {protocol}\n"),
            format!("query_address: \"{}\"", address(client)?),
            format!("response_address: \"{}\"", address("10.99.0.1")?),
            "query_port: ".to_owned(),
            "response_port: 53\n".to_owned(),
            "query_time_sec: ".to_owned(),
            "query_time_nsec: ".to_owned(),
        ] {
            ensure!(text.contains(&want), "{name}: no {want} in {text}");
        }
    }
    for (text, (want, reason)) in answers.iter().zip([
        (&["rule: \"example.com\"", "action: PASS", "match: QNAME", "value: \"example.com\""][..], ""),
        (&["rule: \"*.example.org\"", "action: PASS", "match: QNAME", "value: \"www.example.org\""], ""),
        (&["action: NXDOMAIN", "match: QNAME", "value: \"evil.test\""], "host_not_allowed"),
        (
            &["rule: \"no.example.org\"", "action: NXDOMAIN", "match: QNAME", "value: \"no.example.org\""],
            "host_denied",
        ),
        (&["action: NODATA", "match: QNAME", "value: \"b.example.net\""], "host_not_allowed"),
        (&["rule: \"*.example.org\"", "action: NXDOMAIN", "match: RESPONSE_IP"], "address_not_allowed"),
        (&["match: CLIENT_IP", "value: \"93.184.216.103\""], "auth_required"),
    ]) {
        let want: Vec<&str> = ["type: \"exeat\""].iter().chain(want).copied().collect();
        ensure!(policy(text) == want, "{want:?}: {text}");
        let verdict = if reason.is_empty() { "allow" } else { "deny" };
        let has = |what: &str| text.contains(&format!("\\\"{what}\\\""));
        ensure!(has(verdict) && has("request_id") && (reason.is_empty() || has(reason)), "{text}");
    }
    what_bind_reads(&file)
}

/// An octet, as protoc writes it.
fn escaped(octet: u8) -> String {
    match octet {
        b'\n' => "\\n".to_owned(),
        b'\r' => "\\r".to_owned(),
        b'\t' => "\\t".to_owned(),
        b'"' | b'\'' | b'\\' => format!("\\{}", char::from(octet)),
        0x20..=0x7e => char::from(octet).to_string(),
        _ => format!("\\{octet:03o}"),
    }
}

/// BIND's reader of such files knows nothing of policies, and everything of the rest.
fn what_bind_reads(file: &Path) -> Result<()> {
    let output = Command::new("dnstap-read").arg(file).output().context("run dnstap-read")?;
    let text = String::from_utf8(output.stdout)?;
    let lines: Vec<&str> = text.lines().collect();
    ensure!(output.status.success() && lines.len() == 14, "{text}");
    for (kind, words) in [
        ("CQ", [" 93.184.216.101:", " -> 10.99.0.1:53 UDP ", " example.com/IN/A"]),
        ("CR", [" 93.184.216.101:", " <- 10.99.0.1:53 UDP ", " example.com/IN/A"]),
        ("CR", [" 93.184.216.101:", " <- 10.99.0.1:53 TCP ", " www.example.org/IN/A"]),
    ] {
        let is_it =
            |line: &&&str| line.contains(&format!(" {kind}")) && words.iter().all(|word| line.contains(word));
        ensure!(lines.iter().filter(is_it).count() == 1, "{kind} {words:?}: {text}");
    }
    Ok(())
}

pub(crate) fn a_collector_that_comes_and_goes_delays_no_answer() -> Result<()> {
    let mut setup = Setup::new("allow = [\"*.example.org\"]", &tap_out(""), "")?;
    let socket = setup.world.directory().join("collector.sock");
    let ask = |name: &str| Asker::at(APP)?.ask(name, RecordType::A).map(drop);
    let first = Capture::start(&socket, "first.fstrm")?;
    ask("a.test")?;
    until_told(&mut setup, 2)?;
    first.kill()?;
    // Not before: what is written to one that has just left is lost.
    setup.exeat.until("it to be missed", |exeat| {
        let log = exeat.stderr();
        let since = log.rsplit_once("is told by dnstap what is asked").map(|(_, since)| since);
        Ok(since.filter(|since| since.contains("the collector of dnstap cannot be told")).map(drop))
    })?;
    ask("b.test")?;
    let second = Capture::start(&socket, "second.fstrm")?;
    until_told(&mut setup, 4)?;
    ask("c.test")?;
    until_told(&mut setup, 6)?;
    // It is not read from while it is stopped: the end is not waited for long.
    kill(Pid::from_raw(i32::try_from(second.child.id())?), Signal::SIGSTOP)?;
    ask("d.test")?;
    setup.exeat.signal(Signal::SIGTERM)?;
    setup.exeat.until_logged("has not said in time")?;
    ensure!(setup.exeat.wait()?.success(), "it does not end well: {}", setup.exeat.stderr());
    kill(Pid::from_raw(i32::try_from(second.child.id())?), Signal::SIGCONT)?;
    let told = messages(&second.stop()?)?;
    let has = |name: &str| told.iter().filter(|text| text.contains(&format!("value: \"{name}\""))).count();
    if [has("a.test"), has("b.test"), has("c.test")] != [0, 1, 1] {
        bail!("{told:#?}");
    }
    Ok(())
}
