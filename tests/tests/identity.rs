//! Who asks: workloads by where they come from, and how proofs combine.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use exeat_tests::client::Client;
use exeat_tests::container::Container;
use exeat_tests::exeat::{Exeat, binary};
use exeat_tests::fixture::{PASSWORD, password_entry, request_with};
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::{Raw, authorization};
use exeat_tests::world::{GREETING, World};
use exeat_tests::{harness, scenarios};
use nix::sys::signal::Signal;
use serde_json::Value;

fn main() -> ExitCode {
    harness::main(scenarios![
        every_combination_of_proofs_is_as_the_table_says,
        headers_say_nothing_of_the_place_and_trusted_senders_do,
        a_local_client_is_known_by_its_user,
        who_has_gone_before_anybody_looked_is_nobody,
        who_has_gone_before_anybody_looked_did_not_come_by_a_device,
        who_was_not_asked_for_when_it_came_is_nobody_after_a_reload,
        a_container_without_a_network_goes_out_by_its_socket,
        a_unix_socket_is_for_whom_its_file_is,
        a_process_is_known_by_its_control_group,
        a_container_with_one_cable_is_known_by_the_cable,
        flows_end_with_the_place_that_proved_them,
        a_workload_in_quarantine_reaches_nothing_with_any_password,
        explain_tells_whether_a_password_counts,
        who_guesses_waits_and_nobody_else,
        who_guesses_many_at_once_gains_nothing,
        who_guesses_by_one_socket_does_not_make_another_wait,
    ])
}

/// Where clients of the scenarios are.
const BATCH: &str = "93.184.216.101:0";
const FACTOR: &str = "93.184.216.102:0";
const NOWHERE: &str = "93.184.216.103:0";

/// What every configuration here has, besides its workloads.
fn config(proxy: &str, rest: &str) -> String {
    let password = password_entry(PASSWORD);
    format!(
        "[proxy]
{proxy}
[audit]
file = \"AUDIT\"
[api]
socket = \"admin.sock\"
[policy.web]
allow = [\"example.com\", \"*.example.org:25\"]
[client.app]
passwords = [\"{password}\"]
policies = [\"web\"]
{rest}"
    )
}

fn listen() -> String {
    format!("listen = [\"{PROXY}\"]")
}

/// The status, the reason if it is a refusal, and the name of the principal in the record.
type Answer = (u16, Option<String>);

fn get_from(source: &str, proxy: SocketAddr, fields: &str) -> Result<Answer> {
    let mut client = Raw::from(source.parse()?, proxy)?;
    let reply = client.ask(request_with("GET http://example.com/", fields))?;
    Ok((reply.status, reply.head.field("x-deny-reason").map(str::to_owned)))
}

fn get_at(source: &str, fields: &str) -> Result<Answer> {
    get_from(source, PROXY.parse()?, fields)
}

fn ok() -> Answer {
    (200, None)
}

fn denied(status: u16, reason: &str) -> Answer {
    (status, Some(reason.to_owned()))
}

fn reload(world: &World, config: &str) -> Result<()> {
    Exeat::write_config(world.directory(), config)?;
    let outcome = exeat_says(world, &["reload", "--socket", "admin.sock"])?;
    ensure!(outcome.code == 0, "{outcome:?}");
    Ok(())
}

/// The first record that is as `wanted`, once there is one.
fn record_of(exeat: &mut Exeat, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let records = exeat.audit_until(what, |records| records.iter().any(&wanted))?;
    records.into_iter().find(|record| wanted(record)).context("a record")
}

/// One row of the table in the documentation.
struct Row {
    cells: Vec<String>,
}

impl Row {
    fn fits(&self, combination: [&str; 4], demands: &[&str]) -> bool {
        let [from, _, anonymous, presents] = combination;
        let is = |at: usize, word: &str| self.cells[at] == "any" || self.cells[at] == word;
        is(0, from)
            && is(2, anonymous)
            && is(3, presents)
            && (is(1, "any") || demands.contains(&&*self.cells[1]))
    }
}

fn table() -> Result<Vec<Row>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/identity.md");
    let text = fs::read_to_string(path)?;
    let table = text.lines().skip_while(|line| !line.starts_with("| comes from ")).skip(2);
    let rows = table.take_while(|line| line.starts_with('|')).map(|line| {
        let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        Row { cells }
    });
    let rows: Vec<Row> = rows.collect();
    ensure!(!rows.is_empty() && rows.iter().all(|row| row.cells.len() == 6), "the table has six columns");
    Ok(rows)
}

fn every_combination_of_proofs_is_as_the_table_says() -> Result<()> {
    let world = World::new()?;
    let rows = table()?;
    let mut used = vec![0; rows.len()];
    let demands: [&[&str]; 4] = [&[], &["password"], &["origin"], &["origin", "password"]];
    let port = |at: usize| format!("10.99.0.1:{}", 3128 + at);
    let listeners: Vec<String> = (0..demands.len())
        .map(|at| format!("{{ address = \"{}\", demand = {:?} }}", port(at), demands[at]))
        .collect();
    let tied = format!(
        "[client.tied]\npasswords = [\"{}\"]\norigin = [\"factor\"]\npolicies = [\"web\"]\n",
        password_entry(PASSWORD)
    );
    for anonymous in ["let in", "refused"] {
        let word = if anonymous == "let in" { "web" } else { "none" };
        let proxy = format!("listen = [{}]\nanonymous = \"{word}\"", listeners.join(", "));
        let rest = format!(
            "{tied}[workload.batch]\naddresses = [\"93.184.216.101\"]\npolicies = [\"web\"]\n\
             [workload.factor]\naddresses = [\"93.184.216.102\"]\nalone = false\npolicies = [\"web\"]\n"
        );
        let directory = world.directory().join(word);
        fs::create_dir(&directory)?;
        let mut exeat = Exeat::serve(&directory, &config(&proxy, &rest), PROXY)?;
        let mut asked = 0;
        for (from, source) in [("batch", BATCH), ("factor", FACTOR), ("nowhere", NOWHERE)] {
            for (at, demanded) in demands.iter().enumerate() {
                for (presents, fields) in [
                    ("nothing", String::new()),
                    ("a wrong password", authorization("app", "wrong")),
                    ("the password of app", authorization("app", PASSWORD)),
                    ("the password of tied", authorization("tied", PASSWORD)),
                ] {
                    let combination = [from, "", anonymous, presents];
                    let found = rows.iter().position(|row| row.fits(combination, demanded));
                    let row = found.with_context(|| format!("no row for {combination:?} {demanded:?}"))?;
                    used[row] += 1;
                    let (status, reason) = get_from(source, port(at).parse()?, &fields)?;
                    let answer = reason.map_or(status.to_string(), |reason| format!("{status} {reason}"));
                    ensure!(answer == rows[row].cells[4], "{combination:?} {demanded:?}: {answer}");
                    asked += 1;
                    let record = exeat.audit_until("a record for each", |records| records.len() >= asked)?;
                    let record = record.last().context("a record")?.clone();
                    let who = record["principal"]["name"].as_str().unwrap_or("nobody");
                    ensure!(who == rows[row].cells[5], "{combination:?} {demanded:?}: {record}");
                    let place = record["workload"].as_str().unwrap_or("nowhere");
                    ensure!(place == from, "{combination:?}: {record}");
                    let proof = record["principal"]["proof"].as_str().unwrap_or_default();
                    ensure!((proof == "origin") == (who == "batch"), "{combination:?}: {record}");
                }
            }
        }
        exeat.stop()?;
    }
    ensure!(used.iter().all(|count| *count > 0), "rows that nothing fits: {used:?}");
    Ok(())
}

/// A PROXY header of version 2 that tells of a client at this address.
fn proxy_header(client: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend(client);
    header.extend([10, 99, 0, 1, 0x30, 0x39, 0x0c, 0x38]);
    header
}

fn headers_say_nothing_of_the_place_and_trusted_senders_do() -> Result<()> {
    let world = World::new()?;
    let proxy = format!("{}\nproxy_protocol_from = [\"93.184.216.9\"]", listen());
    let rest = "[workload.batch]\naddresses = [\"93.184.216.101\"]\npolicies = [\"web\"]\n\
                [workload.sender]\naddresses = [\"93.184.216.9\"]\npolicies = [\"web\"]\n";
    let mut exeat = Exeat::serve(world.directory(), &config(&proxy, rest), PROXY)?;
    ensure!(get_at(BATCH, "")? == ok());
    for field in [
        "X-Forwarded-For: 93.184.216.101",
        "Forwarded: for=93.184.216.101",
        "X-Real-IP: 93.184.216.101",
        "X-Client-IP: 93.184.216.101",
        "True-Client-IP: 93.184.216.101",
    ] {
        let answer = get_at(NOWHERE, &format!("{field}\r\n"))?;
        ensure!(answer == denied(407, "auth_required"), "{field}: {answer:?}");
    }
    for (name, source, told, want) in [
        ("a trusted sender tells of the workload", "93.184.216.9:0", [93, 184, 216, 101], Some(200)),
        (
            "it tells of nobody, and does not lend its own place",
            "93.184.216.9:0",
            [93, 184, 216, 103],
            Some(407),
        ),
        ("nobody else may tell", NOWHERE, [93, 184, 216, 101], Some(400)),
        ("not even the workload itself", BATCH, [93, 184, 216, 101], Some(400)),
    ] {
        let mut client = Raw::from(source.parse()?, PROXY.parse()?)?;
        client.send(proxy_header(told))?;
        let reply = client.ask(request_with("GET http://example.com/", ""));
        let status = reply.as_ref().ok().map(|reply| reply.status);
        ensure!(status == want, "{name}: {reply:?}");
    }
    // The second allowed request went by the connection of the first.
    ensure!(world.accepts() == 1, "{:?}", world.reached());
    let records = exeat.audit_until("all records", |records| records.len() >= 10)?;
    let of_batch = records.iter().filter(|record| record["principal"]["proof"] == "origin");
    ensure!(of_batch.clone().count() == 2, "{records:?}");
    ensure!(of_batch.clone().all(|record| record["workload"] == "batch"), "{records:?}");
    exeat.stop()
}

/// Whether users besides our own have numbers in this user namespace.
fn has_other_users() -> Result<bool> {
    let map = fs::read_to_string("/proc/self/uid_map")?;
    let count = map.split_whitespace().nth(2).and_then(|count| count.parse::<u64>().ok());
    Ok(count.is_some_and(|count| count > 20_000))
}

/// curl, run as this user.
fn curl_as(user: u32, home: &Path, proxy: &str) -> Result<String> {
    let client =
        Client::new("setpriv", home).args(["--reuid", &user.to_string(), "--clear-groups", "curl", "-sS"]);
    let args = ["-o", "/dev/null", "-w", "%{http_code}", "-x", proxy, "http://example.com/"];
    Ok(client.args(args).run()?.out)
}

fn a_local_client_is_known_by_its_user() -> Result<()> {
    const LOCAL: &str = "127.0.0.1:3130";
    const OTHER: u32 = 12_345;
    let world = World::new()?;
    let proxy = format!("listen = [\"{PROXY}\", \"{LOCAL}\", \"[::1]:3130\", \"0.0.0.0:3140\"]");
    let own = nix::unistd::geteuid().as_raw();
    let with = |user: u32| config(&proxy, &format!("[workload.me]\nuid = {user}\npolicies = [\"web\"]\n"));
    let mut exeat = Exeat::serve(world.directory(), &with(own), PROXY)?;
    let from_loopback = |address: &str| -> Result<Answer> {
        let mut client = Raw::connect(address.parse()?)?;
        let reply = client.ask(request_with("GET http://example.com/", ""))?;
        Ok((reply.status, reply.head.field("x-deny-reason").map(str::to_owned)))
    };
    ensure!(from_loopback(LOCAL)? == ok());
    ensure!(from_loopback("[::1]:3130")? == ok());
    for (source, proxy) in
        [("10.99.0.1:0", LOCAL), ("10.99.0.1:0", PROXY), (NOWHERE, PROXY), ("127.0.0.1:0", LOCAL)]
    {
        ensure!(
            get_from(source, proxy.parse()?, "")? == ok(),
            "whatever its address here: {source} to {proxy}"
        );
    }
    let container = Container::with_cable("cable1", &["10.97.1.1/24"], &["10.97.1.2/24"])?;
    let outcome = container
        .curl(world.directory(), &["-x", "http://10.97.1.1:3140", "-D", "-", "http://example.com/"])?;
    ensure!(outcome.out.contains("x-deny-reason: auth_required"), "on this host only: {outcome:?}");
    let record = record_of(&mut exeat, "a GET", |record| record["status"] == 200)?;
    ensure!(record["user"] == own && record["workload"] == "me", "{record}");
    // Its write side ended before the proxy has answered.
    let mut half = std::net::TcpStream::connect(LOCAL)?;
    half.write_all(request_with("GET http://example.com/", "").as_bytes())?;
    half.shutdown(std::net::Shutdown::Write)?;
    let mut text = String::new();
    half.read_to_string(&mut text)?;
    ensure!(text.starts_with("HTTP/1.1 200"), "{text}");
    if has_other_users()? {
        fs::set_permissions(world.directory(), fs::Permissions::from_mode(0o755))?;
        let url = format!("http://{LOCAL}");
        let answer = curl_as(OTHER, world.directory(), &url)?;
        ensure!(answer == "407", "another user: {answer}");
        reload(&world, &with(OTHER))?;
        let answer = curl_as(OTHER, world.directory(), &url)?;
        ensure!(answer == "200", "the user: {answer}");
    } else {
        reload(&world, &with(OTHER))?;
    }
    ensure!(from_loopback(LOCAL)? == denied(407, "auth_required"), "another user");
    exeat.stop()
}

const LOOPBACK: &str = "127.0.0.1:3130";

/// Workloads that are somebody else, of whom nobody is here; and everybody else is let in.
const OTHERS: &str = "[workload.other]\nuid = 12345\npolicies = [\"web\"]\n\
                      [workload.group]\ncgroup = \"/nobody.slice\"\npolicies = [\"web\"]\n";

fn let_in(rest: &str) -> String {
    config(&format!("listen = [\"{PROXY}\", \"{LOOPBACK}\", \"unix:s\"]\nanonymous = \"web\""), rest)
}

/// What is answered to a request on a new connection to the unix socket at `path`.
fn ask_unix(path: &Path) -> Result<String> {
    ask_unix_with(path, "")
}

fn ask_unix_with(path: &Path, fields: &str) -> Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let fields = format!("{fields}Connection: close\r\n");
    stream.write_all(request_with("GET http://example.com/", &fields).as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn who_has_gone_before_anybody_looked_is_nobody() -> Result<()> {
    let world = World::new()?;
    let mut exeat = Exeat::serve(world.directory(), &let_in(OTHERS), PROXY)?;
    let (socket, request) = (world.directory().join("s"), request_with("GET http://example.com/", ""));
    ensure!(Raw::connect(LOOPBACK.parse()?)?.ask(&request)?.status == 200, "who is there is known");
    ensure!(ask_unix(&socket)?.starts_with("HTTP/1.1 200"), "by the socket, too");
    // One of them may have been of the other user, and the other in the group.
    exeat.freeze()?;
    let gone = std::net::TcpStream::connect(LOOPBACK)?;
    (&gone).write_all(request.as_bytes())?;
    drop(gone);
    let script = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); \
                  s.sendall(sys.argv[2].encode())";
    let path = socket.display().to_string();
    let python = Client::new("python3", world.directory()).args(["-c", script, &path, &request]).run()?;
    ensure!(python.code == 0, "{python:?}");
    exeat.signal(Signal::SIGCONT)?;
    let refused = |record: &&Value| record["reason"] == "container_mismatch";
    let both = |records: &[Value]| records.iter().filter(refused).count() == 2;
    let records = exeat.audit_until("two that nobody knows", both)?;
    for record in records.iter().filter(refused) {
        ensure!(record["principal"].is_null() && record["workload"].is_null(), "{record}");
    }
    ensure!(world.accepts() == 1, "{:?}", world.reached());
    exeat.stop()
}

/// A process of this host that sends a request to the address of a device and is gone before the proxy looks: what it sent is
/// read still, and a socket that was reset is not found.
fn who_has_gone_before_anybody_looked_did_not_come_by_a_device() -> Result<()> {
    let world = World::new()?;
    let one = Container::with_cable("cable1", &["10.97.1.1/24"], &["10.97.1.2/24"])?;
    let proxy = format!("listen = [\"{PROXY}\", {{ address = \"0.0.0.0:3140\", interface = \"cable1\" }}]");
    let rest = "[workload.one]\ninterface = \"cable1\"\npolicies = [\"web\"]\n";
    let mut exeat = Exeat::serve(world.directory(), &config(&proxy, rest), PROXY)?;
    let outcome = one.curl(world.directory(), &["-x", "http://10.97.1.1:3140", "http://example.com/"])?;
    ensure!(outcome.code == 0, "who is there is known: {outcome:?}");
    let second = ["address", "add", "10.97.1.3/24", "dev", "cable1"];
    ensure!(Command::new("ip").args(second).status()?.success(), "a second address");
    exeat.freeze()?;
    for source in ["10.97.1.1:0", "10.97.1.3:0"] {
        let mut gone = Raw::from(source.parse()?, "10.97.1.1:3140".parse()?)?.ends_with_reset()?;
        gone.send(request_with("GET http://example.com/", ""))?;
        drop(gone);
    }
    exeat.signal(Signal::SIGCONT)?;
    let refused = |record: &&Value| record["reason"] == "auth_required";
    let both = |records: &[Value]| records.iter().filter(refused).count() == 2;
    let records = exeat.audit_until("two that came by no device", both)?;
    for record in records.iter().filter(refused) {
        ensure!(record["principal"].is_null() && record["workload"].is_null(), "{record}");
    }
    ensure!(world.accepts() == 1, "{:?}", world.reached());
    exeat.stop()
}

fn who_was_not_asked_for_when_it_came_is_nobody_after_a_reload() -> Result<()> {
    let world = World::new()?;
    let exeat = Exeat::serve(world.directory(), &let_in(""), PROXY)?;
    let socket = world.directory().join("s");
    let (get, connect) =
        (request_with("GET http://example.com/", ""), request_with("CONNECT www.example.org:25", ""));
    let mut kept = Raw::connect(LOOPBACK.parse()?)?;
    ensure!(kept.ask(&get)?.status == 200);
    let mut local = Raw::connect(LOOPBACK.parse()?)?;
    ensure!(local.ask(&connect)?.status == 200);
    ensure!(local.exactly(GREETING.len())? == GREETING.as_bytes());
    let mut remote = tunnel(NOWHERE, "")?;
    reload(&world, &let_in(OTHERS))?;
    is_reset(&mut local).context("it may be of the user that is a workload now")?;
    echoes(&mut remote).context("it is certain to be of no user here")?;
    let reply = kept.ask(&get)?;
    ensure!(reply.head.field("x-deny-reason") == Some("container_mismatch"), "{reply:?}");
    kept.closed().context("the next connection can be known")?;
    ensure!(Raw::connect(LOOPBACK.parse()?)?.ask(&get)?.status == 200);
    ensure!(ask_unix(&socket)?.starts_with("HTTP/1.1 200"));
    drop(remote);
    exeat.stop()
}

fn a_container_without_a_network_goes_out_by_its_socket() -> Result<()> {
    let world = World::new()?;
    let proxy = format!("listen = [\"{PROXY}\", \"unix:box.sock\", \"unix:other.sock\"]");
    let rest = "[workload.box]\nsocket = \"box.sock\"\npolicies = [\"web\"]\n";
    let mut exeat = Exeat::serve(world.directory(), &config(&proxy, rest), PROXY)?;
    // curl in a network namespace that has not even loopback up.
    let curl = |socket: &str, url: &str| {
        let proxy = format!("socks5h://localhost{}", world.directory().join(socket).display());
        let args = ["--net", "curl", "-sS", "--max-time", "20", "--proxy", &proxy, url];
        Client::new("unshare", world.directory()).args(args).run()
    };
    let outcome = curl("box.sock", "http://example.com/")?;
    ensure!(outcome.code == 0 && outcome.out == "hello from example.com\n", "{outcome:?}");
    ensure!(world.accepts() == 1, "{:?}", world.reached());
    for (name, socket, url) in [
        ("another host", "box.sock", "http://evil.test/"),
        ("a socket that is nobody's", "other.sock", "http://example.com/"),
    ] {
        let outcome = curl(socket, url)?;
        // "Can't complete SOCKS5 connection", or no acceptable method.
        ensure!(outcome.code == 97, "{name}: {outcome:?}");
    }
    let straight = ["--net", "curl", "-sS", "--max-time", "5", "http://93.184.216.34/"];
    let outcome = Client::new("unshare", world.directory()).args(straight).run()?;
    ensure!(outcome.code == 7, "there is no other way out: {outcome:?}");
    ensure!(world.accepts() == 1, "{:?}", world.reached());
    let record = record_of(&mut exeat, "of the box", |record| record["principal"]["name"] == "box")?;
    ensure!(record["source"].is_null() && record["user"] == 0 && record["workload"] == "box", "{record}");
    // An HTTP proxy by the same socket, with a password: who asks is then the client.
    let mut plain = UnixStream::connect(world.directory().join("other.sock"))?;
    plain.set_read_timeout(Some(Duration::from_secs(10)))?;
    plain.write_all(
        request_with(
            "GET http://example.com/",
            &format!("{}Connection: close\r\n", authorization("app", PASSWORD)),
        )
        .as_bytes(),
    )?;
    let mut text = String::new();
    plain.read_to_string(&mut text)?;
    ensure!(text.starts_with("HTTP/1.1 200") && text.ends_with("hello from example.com\n"), "{text}");
    exeat.stop()?;
    ensure!(!world.directory().join("box.sock").exists(), "its file goes with it");
    Ok(())
}

fn a_unix_socket_is_for_whom_its_file_is() -> Result<()> {
    let world = World::new()?;
    let proxy = format!(
        "listen = [\"{PROXY}\", {{ address = \"unix:s\", mode = \"0600\" }}, {{ address = \"unix:t\", mode = \"0666\" }}]"
    );
    let exeat = Exeat::serve(world.directory(), &config(&proxy, ""), PROXY)?;
    for (name, want) in [("s", 0o600), ("t", 0o666)] {
        let mode = fs::metadata(world.directory().join(name))?.permissions().mode() & 0o777;
        ensure!(mode == want, "{name}: {mode:o}");
    }
    if has_other_users()? {
        fs::set_permissions(world.directory(), fs::Permissions::from_mode(0o755))?;
        let curl = |socket: &str| -> Result<i32> {
            let proxy =
                format!("socks5h://app:{PASSWORD}@localhost{}", world.directory().join(socket).display());
            let args = [
                "--reuid",
                "12345",
                "--clear-groups",
                "curl",
                "-sS",
                "--proxy",
                &proxy,
                "http://example.com/",
            ];
            Ok(Client::new("setpriv", world.directory()).args(args).run()?.code)
        };
        ensure!((curl("t")?, curl("s")?) == (0, 7), "who may write to the file may connect");
    }
    exeat.stop()
}

/// Where control groups of version 2 are, on this machine.
fn cgroups() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let of_version_2 =
        mounts.lines().find(|line| line.contains(" - cgroup2 ")).context("no cgroup2 is mounted")?;
    Ok(of_version_2.split_whitespace().nth(4).context("a mount point")?.into())
}

/// A control group, below our own, that is there for as long as this lives.
struct Group {
    directory: PathBuf,
    path: String,
}

impl Group {
    /// `None` if this user may not make one.
    fn make(name: &str) -> Result<Option<Self>> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own =
            own.lines().find_map(|line| line.strip_prefix("0::")).context("version 2")?.trim_end_matches('/');
        let path = format!("{own}/exeat-{name}-{}", std::process::id());
        let directory = cgroups()?.join(path.trim_start_matches('/'));
        match fs::create_dir(&directory) {
            Ok(()) => Ok(Some(Self { directory, path })),
            Err(error)
                if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) =>
            {
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| directory.display().to_string()),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.directory);
    }
}

fn a_process_is_known_by_its_control_group() -> Result<()> {
    let (Some(ci), Some(other)) = (Group::make("ci")?, Group::make("other")?) else {
        ensure!(std::env::var_os("CI").is_none(), "this machine lets nobody make control groups");
        eprintln!("skipped: this user may not make control groups");
        return Ok(());
    };
    let world = World::new()?;
    let proxy = format!("listen = [\"{PROXY}\", \"unix:s\"]");
    let rest = format!("[workload.ci]\ncgroup = \"{}\"\npolicies = [\"web\"]\n", ci.path);
    let mut exeat = Exeat::serve(world.directory(), &config(&proxy, &rest), PROXY)?;
    let curl = |group: &Group| -> Result<i32> {
        let proxy = format!("socks5h://localhost{}", world.directory().join("s").display());
        let script = format!(
            "echo $$ > {}/cgroup.procs && exec curl -sS --proxy {proxy} http://example.com/",
            group.directory.display()
        );
        Ok(Client::new("sh", world.directory()).args(["-c", &script]).run()?.code)
    };
    ensure!((curl(&ci)?, curl(&other)?) == (0, 97), "{:?}", exeat.audit()?);
    let record = record_of(&mut exeat, "of the group", |record| record["principal"]["name"] == "ci")?;
    ensure!(record["principal"]["proof"] == "origin", "{record}");
    ensure!(world.accepts() == 1, "{:?}", world.reached());
    exeat.stop()
}

fn a_container_with_one_cable_is_known_by_the_cable() -> Result<()> {
    let world = World::new()?;
    let one = Container::with_cable("cable1", &["10.97.1.1/24"], &["10.97.1.2/24"])?;
    let two = Container::with_cable("cable2", &["10.97.2.1/24"], &["10.97.2.2/24"])?;
    let proxy = format!(
        "listen = [\"{PROXY}\", {{ address = \"0.0.0.0:3140\", interface = \"cable1\" }}, \
         {{ address = \"0.0.0.0:3140\", interface = \"cable2\", demand = [\"origin\"] }}]\n\
         proxy_protocol_from = [\"10.97.1.3\"]"
    );
    let rest = "[workload.one]\ninterface = \"cable1\"\npolicies = [\"web\"]\n\
                [workload.two]\ninterface = \"cable2\"\naddresses = [\"10.97.2.9\"]\npolicies = [\"web\"]\n";
    let mut exeat = Exeat::serve(world.directory(), &config(&proxy, rest), PROXY)?;
    let outcome = one.curl(world.directory(), &["-x", "http://10.97.1.1:3140", "http://example.com/"])?;
    ensure!(outcome.code == 0 && outcome.out == "hello from example.com\n", "{outcome:?}");
    let outcome =
        one.curl(world.directory(), &["-x", "http://10.97.1.1:3140", "-D", "-", "http://evil.test/"])?;
    ensure!(outcome.out.contains("x-deny-reason: host_not_allowed"), "{outcome:?}");
    let outcome =
        two.curl(world.directory(), &["-x", "http://10.97.2.1:3140", "-D", "-", "http://example.com/"])?;
    ensure!(
        outcome.out.contains("x-deny-reason: container_mismatch"),
        "the device and another address: {outcome:?}"
    );
    let outcome = one.curl(world.directory(), &["http://93.184.216.34/"])?;
    ensure!(outcome.code == 7, "there is no other way out: {outcome:?}");
    // The kernel lets a connection of this host to the device's own address count as one that came in by it.
    let reply = Raw::connect("10.97.1.1:3140".parse()?)?.ask(request_with("GET http://example.com/", ""))?;
    ensure!(reply.status == 407, "a process of this host is not the container: {reply:?}");
    let second = ["address", "add", "10.97.1.3/24", "dev", "cable1"];
    ensure!(Command::new("ip").args(second).status()?.success(), "a second address");
    let mut sender = Raw::from("10.97.1.3:0".parse()?, "10.97.1.1:3140".parse()?)?;
    sender.send(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")?;
    let reply = sender.ask(request_with("GET http://example.com/", ""))?;
    ensure!(reply.status == 407, "nor is one that sends PROXY headers and speaks for itself: {reply:?}");
    ensure!(Raw::connect("127.0.0.1:3140".parse()?).is_err(), "nobody is let in by another device");
    ensure!(world.accepts() == 1, "{:?}", world.reached());
    let record = record_of(&mut exeat, "of the container", |record| record["workload"] == "one")?;
    ensure!(record["principal"]["name"] == "one", "{record}");
    exeat.stop()
}

/// An open tunnel from `source` to a server that has spoken first.
fn tunnel(source: &str, fields: &str) -> Result<Raw> {
    let mut tunnel = Raw::from(source.parse()?, PROXY.parse()?)?;
    let reply = tunnel.ask(request_with("CONNECT www.example.org:25", fields))?;
    ensure!(reply.status == 200, "{source}: {reply:?}");
    ensure!(tunnel.exactly(GREETING.len())? == GREETING.as_bytes());
    Ok(tunnel)
}

fn echoes(tunnel: &mut Raw) -> Result<()> {
    tunnel.send("are you there")?;
    ensure!(tunnel.exactly(13)? == b"are you there");
    Ok(())
}

fn is_reset(tunnel: &mut Raw) -> Result<()> {
    let mut bytes = [0; 64];
    match tunnel.writer()?.read(&mut bytes) {
        Ok(count) => bail!("{count} bytes instead of a reset"),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn flows_end_with_the_place_that_proved_them() -> Result<()> {
    let world = World::new()?;
    let tied = |origin: &str| {
        format!(
            "[client.tied]\npasswords = [\"{}\"]\norigin = [\"{origin}\"]\npolicies = [\"web\"]\n",
            password_entry(PASSWORD)
        )
    };
    let workload = |name: &str, address: &str, more: &str| {
        format!("[workload.{name}]\naddresses = [\"{address}\"]\npolicies = [\"web\"]\n{more}")
    };
    let (batch, factor) = ("93.184.216.101", "93.184.216.102");
    let both = |more: &str| workload("batch", batch, more) + &workload("factor", factor, "");
    let before = tied("factor") + &both("");
    let exeat = Exeat::serve(world.directory(), &config(&listen(), &before), PROXY)?;
    for (name, after, ends, stays) in [
        ("the workload has gone", tied("factor") + &workload("factor", factor, ""), true, true),
        (
            "it is somewhere else",
            tied("factor") + &workload("batch", "93.184.216.104", "") + &workload("factor", factor, ""),
            true,
            true,
        ),
        (
            "somebody else is there",
            tied("factor") + &workload("new", batch, "") + &workload("factor", factor, ""),
            true,
            true,
        ),
        ("it is no proof any more", tied("factor") + &both("alone = false\n"), true, true),
        (
            "it may reach less",
            tied("factor") + &both("").replacen("policies = [\"web\"]\n", "policies = []\n", 1),
            true,
            true,
        ),
        ("a password counts from elsewhere", tied("batch") + &both(""), false, false),
    ] {
        reload(&world, &config(&listen(), &before))?;
        let mut by_place = tunnel(BATCH, "")?;
        let mut by_password = tunnel(FACTOR, &authorization("tied", PASSWORD))?;
        let mut bystander = tunnel(NOWHERE, &authorization("app", PASSWORD))?;
        reload(&world, &config(&listen(), &after))?;
        for (who, tunnel, ended) in [
            ("place", &mut by_place, ends),
            ("password", &mut by_password, !stays),
            ("bystander", &mut bystander, false),
        ] {
            let outcome = if ended { is_reset(tunnel) } else { echoes(tunnel) };
            outcome.with_context(|| format!("{name}: the tunnel by {who}"))?;
        }
    }
    exeat.stop()
}

fn exeat_says(world: &World, args: &[&str]) -> Result<exeat_tests::client::Outcome> {
    Client::new(binary()?, world.directory()).args(args).run()
}

fn a_workload_in_quarantine_reaches_nothing_with_any_password() -> Result<()> {
    let world = World::new()?;
    let rest = "[workload.batch]\naddresses = [\"93.184.216.101\"]\npolicies = [\"web\"]\n";
    let mut exeat = Exeat::serve(world.directory(), &config(&listen(), rest), PROXY)?;
    let app = authorization("app", PASSWORD);
    let mut by_place = tunnel(BATCH, "")?;
    let mut by_password = tunnel(BATCH, &app)?;
    let mut elsewhere = tunnel(NOWHERE, &app)?;
    let says = |args: &[&str]| exeat_says(&world, &[args, &["--socket", "admin.sock"]].concat());
    let listed = says(&["flows", "--workload", "batch", "--json"])?;
    ensure!(listed.out.contains("\"total\":2"), "{listed:?}");
    let outcome = says(&["quarantine", "workload=batch"])?;
    ensure!(outcome.out.contains("2 flows end"), "{outcome:?}");
    is_reset(&mut by_place)?;
    is_reset(&mut by_password)?;
    echoes(&mut elsewhere)?;
    for fields in ["", &app] {
        ensure!(get_at(BATCH, fields)? == denied(403, "policy_changed"));
    }
    ensure!(get_at(NOWHERE, &app)? == ok());
    ensure!(says(&["quarantine"])?.out == "workload=batch\n");
    ensure!(says(&["quarantine", "workload=batch", "--release"])?.code == 0);
    ensure!(get_at(BATCH, "")? == ok());
    record_of(&mut exeat, "of the place", |record| {
        record["workload"] == "batch" && record["principal"]["name"] == "app"
    })?;
    drop(elsewhere);
    exeat.stop()
}

fn explain_tells_whether_a_password_counts() -> Result<()> {
    let world = World::new()?;
    let rest = format!(
        "[client.tied]\npasswords = [\"{}\"]\norigin = [\"batch\"]\npolicies = [\"web\"]\n\
         [workload.batch]\naddresses = [\"93.184.216.101\"]\npolicies = [\"web\"]\n\
         [workload.other]\naddresses = [\"93.184.216.102\"]\npolicies = [\"web\"]\n",
        password_entry(PASSWORD)
    );
    Exeat::write_config(world.directory(), &config(&listen(), &rest))?;
    for (name, args, code, text) in [
        ("the workload itself", &["batch"][..], 0, "allow"),
        ("a password from where it counts", &["tied", "--workload", "batch"], 0, "counts from batch"),
        ("from elsewhere", &["tied", "--workload", "other"], 1, "container_mismatch"),
        ("from nowhere said", &["tied"], 0, "counts from batch only"),
        ("of no such workload", &["tied", "--workload", "nobody"], 2, "there is no workload `nobody`"),
    ] {
        let url = ["http://example.com/", "--address", "93.184.216.34"];
        let outcome = exeat_says(&world, &[&["explain"], args, &url[..]].concat())?;
        let is_told = outcome.out.contains(text) || outcome.err.contains(text);
        ensure!(is_told && (outcome.code == code || code == 2 && outcome.code != 0), "{name}: {outcome:?}");
    }
    Ok(())
}

/// The hash of a password as the product makes it: one that takes time.
fn argon2id(password: &str) -> Result<String> {
    let mut command = Command::new(binary()?);
    let mut child = command.args(["client", "hash"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("its input")?.write_all(password.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

fn who_guesses_many_at_once_gains_nothing() -> Result<()> {
    const AT_ONCE: usize = 24;
    let world = World::new()?;
    let rest = format!("[client.slow]\npasswords = [\"{}\"]\npolicies = [\"web\"]\n", argon2id(PASSWORD)?);
    let exeat = Exeat::serve(world.directory(), &config(&listen(), &rest), PROXY)?;
    let at_once = |source: &str, password: fn(usize) -> String| -> Result<Vec<Answer>> {
        let ask = |number| get_at(source, &authorization("slow", &password(number)));
        thread::scope(|scope| {
            let asked: Vec<_> = (0..AT_ONCE).map(|number| scope.spawn(move || ask(number))).collect();
            asked.into_iter().map(|thread| thread.join().ok().context("a thread")?).collect()
        })
    };
    let answers = at_once(BATCH, |number| format!("guess {number}"))?;
    let told = |want: Answer| answers.iter().filter(|answer| **answer == want).count();
    let (invalid, delayed) = (told(denied(407, "auth_invalid")), told(denied(429, "rate_limited")));
    ensure!((invalid, delayed) == (6, AT_ONCE - 6), "{answers:?}");
    let answers = at_once(FACTOR, |_| PASSWORD.to_owned())?;
    ensure!(
        answers.iter().all(|answer| *answer == ok()),
        "who is right at once waits for itself: {answers:?}"
    );
    exeat.stop()
}

fn who_guesses_by_one_socket_does_not_make_another_wait() -> Result<()> {
    let world = World::new()?;
    let proxy = format!("listen = [\"{PROXY}\", \"unix:s\", \"unix:t\"]");
    let exeat = Exeat::serve(world.directory(), &config(&proxy, ""), PROXY)?;
    let ask = |socket: &str, password: &str| {
        ask_unix_with(&world.directory().join(socket), &authorization("app", password))
    };
    for attempt in 0..6 {
        ensure!(ask("s", "wrong")?.starts_with("HTTP/1.1 407"), "{attempt}");
    }
    ensure!(ask("s", PASSWORD)?.starts_with("HTTP/1.1 429"), "it waits");
    ensure!(ask("t", PASSWORD)?.starts_with("HTTP/1.1 200"), "and not the container of the other one");
    exeat.stop()
}

fn who_guesses_waits_and_nobody_else() -> Result<()> {
    let world = World::new()?;
    let mut exeat = Exeat::serve(world.directory(), &config(&listen(), ""), PROXY)?;
    let (right, wrong) = (authorization("app", PASSWORD), authorization("app", "wrong"));
    let mut open = tunnel(BATCH, &right)?;
    for attempt in 0..6 {
        ensure!(get_at(BATCH, &wrong)? == denied(407, "auth_invalid"), "{attempt}");
    }
    // Whatever it is now, right or wrong, it gets the same answer and is not looked at.
    for fields in [&wrong, &right] {
        ensure!(get_at(BATCH, fields)? == denied(429, "rate_limited"));
    }
    echoes(&mut open)?;
    for (name, source, fields, want) in [
        ("from another source", FACTOR, &right, ok()),
        (
            "another name, which does not exist",
            BATCH,
            &authorization("nobody", "wrong"),
            denied(407, "auth_invalid"),
        ),
        ("wrong from another source", FACTOR, &wrong, denied(407, "auth_invalid")),
        ("right again from there", FACTOR, &right, ok()),
    ] {
        let answer = get_at(source, fields)?;
        ensure!(answer == want, "{name}: {answer:?}");
    }
    // A name that does not exist is guessed at in the same way.
    let nobody = authorization("nobody", "wrong");
    let answers: Vec<Answer> = (0..7).map(|_| get_at(NOWHERE, &nobody)).collect::<Result<_>>()?;
    ensure!(
        answers[5] == denied(407, "auth_invalid") && answers[6] == denied(429, "rate_limited"),
        "{answers:?}"
    );
    let refused = |records: &[Value]| records.iter().filter(|r| r["reason"] == "rate_limited").count();
    exeat.audit_until("each refusal in the log", |records| refused(records) == 3)?;
    drop(open);
    exeat.stop()
}
