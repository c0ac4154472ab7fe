//! The firewall for processes of the host itself, by their control group. The host is the router of a [`Lan`].

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStdin, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use exeat_tests::cgroup::Cgroup;
use exeat_tests::exeat::{self, Exeat};
use exeat_tests::lan::Lan;
use exeat_tests::world::World;
use exeat_tests::{harness, scenarios};
use nix::sys::signal::Signal;

fn main() -> ExitCode {
    harness::main(scenarios![
        one_command_holds_the_processes_of_a_group,
        a_group_that_is_made_again_is_held_again,
        a_new_policy_cuts_the_flows_of_a_group,
        it_may_be_in_the_group_itself,
        packets_and_bytes_are_counted,
        the_doctor_sends_packets,
        who_may_not_is_told_what_to_do,
        a_namespace_is_held_from_outside,
    ])
}

/// A host, and a group of its processes.
struct Host {
    world: World,
    lan: Lan,
    group: Cgroup,
}

/// Whether this user may make control groups. Nobody but the machine's root may, where none has been handed over.
fn may_make_groups() -> Result<bool> {
    match Cgroup::new("try") {
        Ok(_) => Ok(true),
        Err(error) => {
            eprintln!("skipped: {error:#}");
            let is_strict = std::env::var_os("CI").is_some_and(|ci| !ci.is_empty() && ci != "false");
            ensure!(!is_strict, "no control group: {error:#}");
            Ok(false)
        }
    }
}

impl Host {
    fn new() -> Result<Self> {
        Ok(Self { world: World::new()?, lan: Lan::new()?, group: Cgroup::new("held")? })
    }

    /// Runs a program on the host, in its group or not; whether it succeeded, and what it printed.
    fn run(&self, group: Option<&Cgroup>, command: &[&str]) -> Result<(bool, String)> {
        let prefix = group.map(Cgroup::prefix);
        let words: Vec<&str> =
            prefix.iter().flatten().map(String::as_str).chain(command.iter().copied()).collect();
        let (program, args) = words.split_first().context("a program")?;
        let output = self.lan.router.command(program).args(args).output().context("run it")?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
    }

    fn curl(&self, group: Option<&Cgroup>, family: &str, url: &str) -> Result<(bool, String)> {
        let ca = self.world.ca_file();
        let shown = ["-o", "/dev/null", "-w", "%{remote_ip}", family, url];
        self.run(group, &[&["curl", "-sS", "--max-time", "10", "--cacert", &ca][..], &shown].concat())
    }

    /// Each case is whether a process of the group asks, the family, what it asks for, and the address that it reaches or
    /// what curl says instead.
    fn check(&self, exeat: &Exeat, cases: &[(bool, &str, &str, Result<&str, &str>)]) -> Result<()> {
        for &(is_held, family, url, want) in cases {
            let began = Instant::now();
            let (is_well, text) = self.curl(is_held.then_some(&self.group), family, url)?;
            let fits = match want {
                Ok(address) => is_well && text == address,
                Err(said) => !is_well && text.contains(said),
            };
            ensure!(
                fits,
                "{family} {url}, held {is_held}: {is_well} {text}, not {want:?}\n{}",
                exeat.stderr()
            );
            ensure!(
                began.elapsed() < Duration::from_secs(5),
                "{family} {url}: nobody said that it is refused"
            );
        }
        Ok(())
    }

    /// The product on the host, in the group or not; returned when it is ready.
    fn start(&self, group: Option<&Cgroup>, args: &[&str]) -> Result<Exeat> {
        let inside = format!("--net={}", self.lan.router.path());
        let group = group.map(Cgroup::prefix);
        let group = group.iter().flatten().map(String::as_str);
        let prefix: Vec<&str> = ["nsenter", &inside, "--"].into_iter().chain(group).collect();
        let mut exeat = Exeat::spawn_as(self.world.directory(), &prefix, args, |_| ())?;
        exeat.wait_until_ready()?;
        Ok(exeat)
    }

    fn attach(&self, group: Option<&Cgroup>, held: &str, rest: &[&str]) -> Result<Exeat> {
        let socket = self.socket();
        let audit = self.world.directory().join("audit.jsonl").to_string_lossy().into_owned();
        let attach = ["firewall", "attach", "--cgroup", held, "--socket", &socket, "--audit", &audit];
        self.start(group, &[&attach[..], rest].concat())
    }

    fn socket(&self) -> String {
        self.world.directory().join("fw.sock").to_string_lossy().into_owned()
    }

    fn exeat(&self, args: &[&str]) -> Result<(bool, String)> {
        let binary = exeat::binary()?.to_string_lossy().into_owned();
        self.run(None, &[&[binary.as_str()], args].concat())
    }

    /// All rules, and all that there is of devices, addresses and routes.
    fn traces(&self) -> Result<String> {
        let mut all = String::new();
        for command in [
            &["nft", "list", "ruleset"][..],
            &["ip", "link"],
            &["ip", "address"],
            &["ip", "route", "show", "table", "all"],
            &["ip", "rule"],
        ] {
            all += &self.run(None, command)?.1;
        }
        Ok(all)
    }
}

fn one_command_holds_the_processes_of_a_group() -> Result<()> {
    if !may_make_groups()? {
        return Ok(());
    }
    let host = Host::new()?;
    let before = host.traces()?;
    let other = Cgroup::new("other")?;
    let other_path = other.folder();
    let allowed = ["--cgroup", &other_path, "example.com.", "*.example.org:443"];
    let mut exeat = host.attach(None, host.group.path(), &allowed)?;
    host.check(
        &exeat,
        &[
            (true, "-4", "http://93.184.216.34/", Err("port 80 after")),
            (true, "-4", "https://example.com/", Ok("93.184.216.34")),
            (true, "-6", "https://example.com/", Ok("2606:2800:220:1::34")),
            (true, "-4", "http://93.184.216.34/", Ok("93.184.216.34")),
            (true, "-6", "https://www.example.org/", Ok("2606:2800:220:1::35")),
            (true, "-4", "https://evil.test/", Err("Could not resolve host")),
            (true, "-4", "http://www.example.org/", Err("port 80 after")),
            (true, "-4", "http://93.184.216.66/", Err("port 80 after")),
            (true, "-6", "http://[2606:2800:220:1::66]/", Err("port 80 after")),
            // Nobody else notices.
            (false, "-4", "http://evil.test/", Ok("93.184.216.66")),
            (false, "-6", "http://[2606:2800:220:1::66]/", Ok("2606:2800:220:1::66")),
        ],
    )?;
    let (is_well, text) = host.curl(Some(&other), "-4", "http://93.184.216.34/")?;
    ensure!(!is_well && text.contains("port 80 after"), "another group has not asked: {text}");
    // What stays on this host is no egress.
    for address in ["127.0.0.1:8088", "[::1]:8088", "10.97.0.2:8089"] {
        let own = host.lan.router.run(|| Ok(TcpListener::bind(address)?))?;
        let answering = std::thread::spawn(move || -> Result<()> {
            let (mut stream, _) = own.accept()?;
            ensure!(stream.read(&mut [0; 4096])? > 0, "a request");
            Ok(stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n")?)
        });
        let family = if address.starts_with('[') { "-6" } else { "-4" };
        let (is_well, text) = host.curl(Some(&host.group), family, &format!("http://{address}/"))?;
        ensure!(is_well, "{address}: {text}");
        answering.join().map_err(|_| anyhow::anyhow!("it panicked"))??;
    }
    // Its listener answers nobody else, not even the other group.
    let (_, rules) = host.run(None, &["nft", "list", "chain", "inet", "exeat", "output"])?;
    let ports: Vec<&str> = rules
        .lines()
        .filter(|line| line.contains("127.0.0.1"))
        .filter_map(|line| line.split("th dport ").nth(1)?.split(' ').next())
        .collect();
    let [port, other_port] = ports[..] else { bail!("not two listeners: {rules}") };
    for (group, port, want) in [
        (Some(&host.group), port, true),
        (Some(&host.group), other_port, false),
        (Some(&other), other_port, true),
        (Some(&other), port, false),
        (None, port, false),
    ] {
        let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
        let (got, text) = host.run(group, &["bash", "-c", &connect])?;
        ensure!(got == want, "a listener of a group: {text}\n{rules}");
    }
    let refused = exeat.audit_until("the packets", |records| {
        records.iter().any(|record| record["event"] == "packet" && record["target"] == "93.184.216.66:80")
    })?;
    let record = refused.iter().find(|record| record["target"] == "93.184.216.35:80").context("a record")?;
    ensure!(
        record["reason"] == "port_not_allowed"
            && record["names"].get(0).is_some_and(|name| name == "www.example.org"),
        "{record}"
    );
    let (is_well, text) = host.exeat(&["firewall", "show", "--socket", &host.socket()])?;
    let want = format!("cgroup:{}  example.com  93.184.216.34  tcp/80,tcp/443", host.group.path());
    ensure!(is_well && text.contains(&want), "{text}");
    exeat.stop()?;
    let (is_well, text) = host.curl(Some(&host.group), "-4", "http://93.184.216.66/")?;
    ensure!(!is_well && text.contains("port 80 after"), "it stays closed without us: {text}");
    let (is_well, text) = host.exeat(&["firewall", "remove"])?;
    ensure!(is_well, "{text}");
    let after = host.traces()?;
    ensure!(before == after, "something is left:\n{before}\n---\n{after}");
    let (is_well, text) = host.curl(Some(&host.group), "-4", "http://93.184.216.66/")?;
    ensure!(is_well, "as it was before: {text}");
    Ok(())
}

fn a_group_that_is_made_again_is_held_again() -> Result<()> {
    if !may_make_groups()? {
        return Ok(());
    }
    let host = Host::new()?;
    let mut exeat = host.attach(None, host.group.path(), &["example.com"])?;
    host.check(&exeat, &[(true, "-4", "https://example.com/", Ok("93.184.216.34"))])?;
    host.group.end()?;
    exeat.until_logged("has come or gone")?;
    host.group.make()?;
    exeat.until("it has noticed", |exeat| {
        Ok((exeat.stderr().matches("has come or gone").count() == 2).then_some(()))
    })?;
    host.check(
        &exeat,
        &[
            (true, "-4", "https://93.184.216.66/", Err("port 443 after")),
            (true, "-6", "https://example.com/", Ok("2606:2800:220:1::34")),
            (true, "-4", "https://example.com/", Ok("93.184.216.34")),
        ],
    )?;
    exeat.stop()
}

/// A connection of a process of the host that says what it hears.
struct Talk {
    child: Child,
    input: ChildStdin,
}

impl Talk {
    fn open(host: &Host, group: Option<&Cgroup>, to: &str) -> Result<Self> {
        let script = format!("exec 3<>/dev/tcp/{to}; cat <&3 & exec cat >&3");
        let prefix = group.map(Cgroup::prefix);
        let words: Vec<&str> =
            prefix.iter().flatten().map(String::as_str).chain(["bash", "-c", &script]).collect();
        let (program, args) = words.split_first().context("a program")?;
        let mut child = host
            .lan
            .router
            .command(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let input = child.stdin.take().context("its input")?;
        Ok(Self { child, input })
    }

    /// Whether a line comes back. The server greets first.
    fn echoes(&mut self, line: &str) -> Result<bool> {
        if self.input.write_all(format!("{line}\n").as_bytes()).is_err() {
            return Ok(false);
        }
        let output = self.child.stdout.as_mut().context("its output")?;
        let mut heard = Vec::new();
        let mut byte = [0];
        while !heard.ends_with(format!("{line}\n").as_bytes()) {
            if output.read(&mut byte)? == 0 {
                return Ok(false);
            }
            heard.extend_from_slice(&byte);
        }
        Ok(true)
    }

    /// What comes until the connection ends.
    fn hears_to_the_end(&mut self) -> Result<Vec<u8>> {
        let mut heard = Vec::new();
        self.child.stdout.as_mut().context("its output")?.read_to_end(&mut heard)?;
        Ok(heard)
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn a_new_policy_cuts_the_flows_of_a_group() -> Result<()> {
    if !may_make_groups()? {
        return Ok(());
    }
    let host = Host::new()?;
    let config = |allow: &str| {
        format!(
            "[proxy]\nlisten = [\"127.0.0.1:3128\"]\n[firewall]\ncgroups = [\"{0}\"]\n\
             [api]\nlisten = \"127.0.0.1:9464\"\nsocket = \"{1}\"\n[audit]\nfile = \"AUDIT\"\n\
             [policy.ci]\nallow = [{allow}]\n[workload.ci]\ncgroup = \"{0}\"\npolicies = [\"ci\"]\n",
            host.group.path(),
            host.socket()
        )
    };
    let path = Exeat::write_config(host.world.directory(), &config(r#""93.184.216.0/24:5432,6000""#))?;
    let mut exeat = host.start(None, &["serve", "--config", &path.to_string_lossy()])?;
    let mut cut = Talk::open(&host, Some(&host.group), "93.184.216.34/5432")?;
    let mut kept = Talk::open(&host, Some(&host.group), "93.184.216.35/5432")?;
    let mut others = Talk::open(&host, None, "93.184.216.34/5432")?;
    for talk in [&mut cut, &mut kept, &mut others] {
        ensure!(talk.echoes("before")?, "a network rule: {}", exeat.stderr());
    }
    let server = TcpListener::bind("93.184.216.34:6000")?;
    let mut silent = Talk::open(&host, Some(&host.group), "93.184.216.34/6000")?;
    let (mut served, _) = server.accept()?;
    served.write_all(b"before\n")?;
    // Where health and metrics are told is for others on this host.
    let metrics = "http://127.0.0.1:9464/metrics";
    ensure!(host.curl(None, "-4", metrics)?.0, "metrics");
    ensure!(!host.curl(Some(&host.group), "-4", metrics)?.0, "metrics are told to those that are held");
    Exeat::write_config(host.world.directory(), &config(r#""93.184.216.35/32:5432""#))?;
    exeat.signal(Signal::SIGHUP)?;
    exeat.until_logged("the firewall follows")?;
    ensure!(!cut.echoes("after")?, "it goes on");
    // Where the server alone sends, both ends are told.
    served.set_read_timeout(Some(Duration::from_secs(20)))?;
    let told = served.write_all(b"after\n").and_then(|()| served.read(&mut [0]));
    let told = told.map_err(|error| error.kind());
    ensure!(told == Err(ErrorKind::ConnectionReset), "the server was told {told:?}");
    // What it has received first it may have read: its answer to that is what is reset.
    let heard = String::from_utf8(silent.hears_to_the_end()?)?;
    ensure!(["before\n", "before\nafter\n"].contains(&&*heard), "the client goes on: {heard}");
    ensure!(kept.echoes("after")? && others.echoes("after")?, "what is still allowed goes on");
    exeat.stop()
}

fn it_may_be_in_the_group_itself() -> Result<()> {
    if !may_make_groups()? {
        return Ok(());
    }
    let host = Host::new()?;
    let exeat = host.attach(Some(&host.group), host.group.path(), &["example.com"])?;
    host.check(
        &exeat,
        &[
            (true, "-4", "https://example.com/", Ok("93.184.216.34")),
            (true, "-6", "https://example.com/", Ok("2606:2800:220:1::34")),
            (true, "-4", "http://93.184.216.66/", Err("port 80 after")),
        ],
    )?;
    exeat.stop()
}

fn packets_and_bytes_are_counted() -> Result<()> {
    if !may_make_groups()? {
        return Ok(());
    }
    let host = Host::new()?;
    let exeat = host.attach(None, host.group.path(), &["example.com:443", "10.20.0.0/16:9000"])?;
    let show = || -> Result<serde_json::Value> {
        let (is_well, text) = host.exeat(&["firewall", "show", "--json", "--socket", &host.socket()])?;
        ensure!(is_well, "{text}");
        Ok(serde_json::from_str(&text)?)
    };
    host.check(&exeat, &[(true, "-4", "https://example.com/", Ok("93.184.216.34"))])?;
    let row = |shown: &serde_json::Value, address: &str| -> Result<(u64, u64)> {
        let rows = shown["opened"].as_array().context("what is open")?;
        let row = rows.iter().find(|row| row["address"] == address).context("a row")?;
        Ok((row["packets"].as_u64().context("packets")?, row["bytes"].as_u64().context("bytes")?))
    };
    let shown = show()?;
    let (packets, bytes) = row(&shown, "93.184.216.34")?;
    // At least a handshake, a request and an end, and no packet twice: each has 40 bytes of headers, and few are full.
    ensure!(packets >= 5 && bytes > packets * 40 && packets < 60, "{packets} packets, {bytes} bytes");
    ensure!(row(&shown, "2606:2800:220:1::34")? == (0, 0), "nothing went there");
    // One SYN each, which has no data.
    let counter = |shown: &serde_json::Value, name: &str| -> Result<u64> {
        let counters = shown["counters"].as_array().context("counters")?;
        let counter = counters.iter().find(|counter| counter["name"] == name).context("a counter")?;
        counter["packets"].as_u64().context("packets")
    };
    let before = (counter(&shown, "allowed")?, counter(&shown, "refused")?);
    for url in ["http://93.184.216.66/", "http://93.184.216.34/"] {
        host.check(&exeat, &[(true, "-4", url, Err("port 80 after"))])?;
    }
    let shown = show()?;
    let after = (counter(&shown, "allowed")?, counter(&shown, "refused")?);
    ensure!(after == (before.0, before.1 + 2), "{before:?} and then {after:?}");
    let (_, text) = host.exeat(&["firewall", "show", "--socket", &host.socket()])?;
    ensure!(text.contains(&format!("{packets} packets  {bytes} bytes")), "{text}");
    ensure!(text.contains(&format!("refused: {} packets", after.1)), "{text}");
    exeat.stop()
}

fn the_doctor_sends_packets() -> Result<()> {
    if !may_make_groups()? {
        return Ok(());
    }
    let host = Host::new()?;
    host.lan.router.ip(
        "link add br0 type bridge\nlink set br0 up\naddress add 10.88.9.1/24 dev br0\naddress add fd88:9::1/64 dev br0 nodad\n",
    )?;
    let attached = ["--interface", "lan1", "--bridge", "br0", "example.com"];
    let exeat = host.attach(None, host.group.path(), &attached)?;
    let doctor = || host.exeat(&["firewall", "doctor", "--socket", &host.socket()]);
    let (is_well, text) = doctor()?;
    ensure!(is_well && !text.contains("BAD") && !text.contains("??"), "{text}\n{}", exeat.stderr());
    let a_process = format!("a process of {}", host.group.path());
    for who in ["a client of lan1", "a client of br0", &a_process] {
        for family in ["IPv4", "IPv6"] {
            for what in
                ["sends to nobody's address was refused by our rules", "asks a name server comes to us"]
            {
                let line = format!("ok   {family}: what {who} {what}");
                ensure!(text.contains(&line), "{line}\n{text}");
            }
        }
    }
    // Nothing of that is left.
    let (_, links) = host.run(None, &["ip", "link"])?;
    ensure!(!links.contains("exd"), "{links}");
    let left = std::fs::read_dir(host.group.folder())?.filter_map(Result::ok);
    let left: Vec<_> = left.filter(|entry| entry.file_name().to_string_lossy().contains("doctor")).collect();
    ensure!(left.is_empty(), "{left:?}");
    // What somebody else refuses proves nothing.
    for order in [
        "add table inet other",
        "add chain inet other forward { type filter hook forward priority -200 ; }",
        "add rule inet other forward meta nfproto ipv4 tcp dport 9 reject with tcp reset",
    ] {
        ensure!(host.run(None, &["nft", order])?.0, "{order}");
    }
    let (is_well, text) = doctor()?;
    ensure!(!is_well, "{text}");
    for (line, want) in [
        ("BAD  IPv4: what a client of br0 sends to nobody's address was refused by somebody else", true),
        ("BAD  IPv6: what a client of br0 sends", false),
    ] {
        ensure!(text.contains(line) == want, "{line}\n{text}");
    }
    exeat.stop()?;
    let (_, text) = doctor()?;
    ensure!(text.contains("??   what is attached is not known"), "{text}");
    Ok(())
}

fn who_may_not_is_told_what_to_do() -> Result<()> {
    let host = World::new()?;
    let binary = exeat::binary()?.to_string_lossy().into_owned();
    let without = ["--bounding-set=-all", "--inh-caps=-all", "--", &binary];
    for args in [&["firewall", "attach", "--interface", "lo", "example.com"][..], &["firewall", "remove"]] {
        let output = std::process::Command::new("setpriv")
            .args(without)
            .args(args)
            .current_dir(host.directory())
            .output()
            .context("run `setpriv` (package util-linux)")?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "{args:?}: {text}");
        ensure!(text.contains("not permitted: run this as root") && text.contains("unshare -Urn"), "{text}");
        ensure!(!text.contains("Permission denied"), "{text}");
    }
    Ok(())
}

fn a_namespace_is_held_from_outside() -> Result<()> {
    let (world, lan) = (World::new()?, Lan::new()?);
    let [one, two] = &lan.clients;
    let binary = exeat::binary()?.to_string_lossy().into_owned();
    let socket = world.directory().join("fw.sock").to_string_lossy().into_owned();
    let attach = |path: &str| {
        let args = ["firewall", "attach", "--netns", path, "--socket", &socket, "example.com"];
        args.map(str::to_owned)
    };
    let refused = |path: &str| -> Result<String> {
        let output = lan.router.command(&binary).args(attach(path)).output()?;
        ensure!(!output.status.success(), "{path} is attached");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    ensure!(refused("nobody")?.contains("there is no network namespace `/run/netns/nobody`"), "no such name");
    let inside = format!("--net={}", lan.router.path());
    let args = attach(&one.path());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut exeat = Exeat::spawn_as(world.directory(), &["nsenter", &inside, "--"], &args, |_| ())?;
    exeat.wait_until_ready()?;
    let curl = |net: &exeat_tests::lan::Net, family: &str, url: &str| -> Result<(bool, String)> {
        let output =
            net.command("curl").args(["-sS", "--max-time", "10", "-o", "/dev/null", family, url]).output()?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    // Root of the namespace has no rules to take away.
    ensure!(one.command("nft").args(["flush", "ruleset"]).status()?.success(), "flush");
    for (net, family, url, want) in [
        (one, "-4", "http://example.com/", true),
        (one, "-6", "http://example.com/", true),
        (one, "-4", "http://93.184.216.66/", false),
        (one, "-6", "http://[2606:2800:220:1::66]/", false),
        (two, "-4", "http://93.184.216.66/", true),
    ] {
        let (got, text) = curl(net, family, url)?;
        ensure!(got == want, "{family} {url}: {text}\n{}", exeat.stderr());
    }
    exeat.stop()?;
    ensure!(lan.router.command(&binary).args(["firewall", "remove"]).status()?.success(), "removed");
    ensure!(curl(one, "-4", "http://93.184.216.66/")?.0, "as it was before");
    // Ways out that could not be held.
    let other = exeat_tests::lan::Net::new()?;
    let pid = other.path().replace("/proc/", "").replace("/ns/net", "");
    one.ip(&format!("link add aside type veth peer name back netns {pid}\n"))?;
    ensure!(refused(&one.path())?.contains("the device aside of "), "a pair with another namespace");
    lan.router.ip("link add br0 type bridge\nlink set lan2 master br0\n")?;
    ensure!(refused(&two.path())?.contains("attach --bridge br0"), "a port of a bridge");
    let alone = exeat_tests::lan::Net::new()?;
    let said = refused(&alone.path())?;
    ensure!(said.contains("no device of this network leads to"), "no pair with this network: {said}");
    Ok(())
}
