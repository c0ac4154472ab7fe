//! Programs of this host: by their user, their control group, and the socket that they come by.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use exeat_tests::client::Client;
use exeat_tests::container::Container;
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{PASSWORD, echoes, request_with};
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::Raw;
use exeat_tests::world::{GREETING, World};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::ends::is_reset;
use crate::setup::{
    Answer, LOOPBACK, NOWHERE, OTHERS, ask_unix, config, denied, get_from, has_other_users, let_in, ok,
    record_of, reload, tunnel,
};

/// curl, run as this user.
fn curl_as(user: u32, home: &Path, proxy: &str) -> Result<String> {
    let client =
        Client::new("setpriv", home).args(["--reuid", &user.to_string(), "--clear-groups", "curl", "-sS"]);
    let args = ["-o", "/dev/null", "-w", "%{http_code}", "-x", proxy, "http://example.com/"];
    Ok(client.args(args).run()?.out)
}

pub(crate) fn a_local_client_is_known_by_its_user() -> Result<()> {
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

pub(crate) fn who_has_gone_before_anybody_looked_is_nobody() -> Result<()> {
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

pub(crate) fn who_was_not_asked_for_when_it_came_is_nobody_after_a_reload() -> Result<()> {
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

pub(crate) fn a_unix_socket_is_for_whom_its_file_is() -> Result<()> {
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

pub(crate) fn a_process_is_known_by_its_control_group() -> Result<()> {
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
