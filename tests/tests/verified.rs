//! The firewall with the proxy beside it: what the kernel alone cannot tell goes through a listener for redirected
//! connections, by rules that the firewall sets itself.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use exeat_tests::dns::Entry;
use exeat_tests::exeat::{Exeat, binary};
use exeat_tests::lan::{Lan, Net};
use exeat_tests::world::{GREETING, World};
use exeat_tests::{harness, scenarios};
use serde_json::Value;

fn main() -> ExitCode {
    harness::main(scenarios![
        what_a_rule_wants_verified_goes_through_the_proxy,
        names_that_share_an_address_are_told_apart,
        the_next_process_knows_whose_connections_come,
        addresses_that_stand_for_names_lead_to_the_proxy,
    ])
}

/// The product in the router, between the clients and the world.
struct Stage {
    exeat: Exeat,
    lan: Lan,
    world: World,
}

impl Stage {
    /// `dns` is added to `[dns]`, and `allow` is what both clients may reach.
    fn new(dns: &str, allow: &str) -> Result<Self> {
        let world = World::new()?;
        for (name, last) in [("verified", 60), ("shared", 50), ("also", 50), ("refused", 50), ("bounded", 61)]
        {
            let addresses = [format!("93.184.216.{last}"), format!("2606:2800:220:1::{last}")];
            world.dns.set(&format!("{name}.example.net"), Entry::addresses(&[&addresses[0], &addresses[1]]));
        }
        let lan = Lan::new()?;
        let home = world.directory().display().to_string();
        let config = format!(
            r#"
[proxy]
listen = [{{ address = "0.0.0.0:3130", redirected = true }}, {{ address = "[::]:3131", redirected = true }}]
[dns]
listen = ["10.88.1.1", "fd88:1::1", "10.88.2.1", "fd88:2::1"]
{dns}
[firewall]
interfaces = ["lan1", "lan2"]
[api]
socket = "{home}/admin.sock"
[audit]
file = "AUDIT"
[policy.lan]
allow = [{allow}]
[workload.one]
addresses = ["10.88.1.2", "fd88:1::2"]
policies = ["lan"]
[workload.two]
addresses = ["10.88.2.2", "fd88:2::2"]
policies = ["lan"]
"#
        );
        Exeat::write_config(world.directory(), &config)?;
        let exeat = Self::start(&world, &lan)?;
        Ok(Self { exeat, lan, world })
    }

    fn start(world: &World, lan: &Lan) -> Result<Exeat> {
        let inside = format!("--net={}", lan.router.path());
        let file = world.directory().join("exeat.toml").display().to_string();
        let args = ["serve", "--config", &file];
        let mut exeat = Exeat::spawn_as(world.directory(), &["nsenter", &inside, "--"], &args, |_| ())?;
        exeat.wait_until_ready()?;
        Ok(exeat)
    }

    /// What curl prints, or `None` if it fails.
    fn get(&self, url: &str, more: &[&str]) -> Result<Option<String>> {
        let ca = self.world.ca_file();
        let args = [&["-sS", "--max-time", "20", "--cacert", &ca, url], more].concat();
        let (is_well, text) = run(&self.lan.clients[0], "curl", &args)?;
        Ok(is_well.then_some(text))
    }

    /// What `exeat firewall show` says of a name at an address.
    fn shown(&self, name: &str, address: &str) -> Result<String> {
        let socket = self.world.directory().join("admin.sock");
        let output = Command::new(binary()?).args(["firewall", "show", "--socket"]).arg(socket).output()?;
        let text = String::from_utf8(output.stdout)?;
        let is_it = |line: &&str| line.contains(&format!("{name}  {address}  "));
        Ok(text.lines().find(is_it).with_context(|| format!("{name} in {text}"))?.to_owned())
    }

    /// Targets of redirected connections that were decided on so far, with the reason of a refusal.
    fn redirected(&self) -> Result<Vec<(String, String)>> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let records = self.exeat.audit()?.into_iter();
        let decisions =
            records.filter(|record| record["event"] == "decision" && record["method"] == "REDIRECT");
        Ok(decisions.map(|record| (text(&record["target"]), text(&record["reason"]))).collect())
    }
}

fn run(net: &Net, program: &str, args: &[&str]) -> Result<(bool, String)> {
    let output = net.command(program).args(args).output().with_context(|| format!("run {program}"))?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

/// What a server at `host` says first to the first client, or how that ends.
fn greeting(stage: &Stage, host: &str, port: u16) -> Result<String> {
    let script = format!(
        "import socket\ntry:\n s = socket.create_connection(('{host}', {port}), 20)\n print(s.recv(99).decode().strip())\n\
         except (ConnectionResetError, ConnectionRefusedError): print('reset')\nexcept socket.gaierror: print('no such name')"
    );
    Ok(run(&stage.lan.clients[0], "python3", &["-c", &script])?.1.trim_end().to_owned())
}

fn what_a_rule_wants_verified_goes_through_the_proxy() -> Result<()> {
    let allow = r#""example.com", "*.example.org:5432", { host = "verified.example.net", verify = true },
        { host = "bounded.example.net", max_bytes_down = 1048576 }"#;
    let stage = Stage::new("", allow)?;
    for (name, family, address, is_verified) in [
        ("example.com", "-4", "93.184.216.34", false),
        ("example.com", "-6", "2606:2800:220:1::34", false),
        ("verified.example.net", "-4", "93.184.216.60", true),
        ("verified.example.net", "-6", "2606:2800:220:1::60", true),
        ("bounded.example.net", "-4", "93.184.216.61", true),
    ] {
        for (scheme, port) in [("https", 443), ("http", 80)] {
            let got = stage.get(&format!("{scheme}://{name}/"), &[family])?;
            ensure!(got == Some(format!("hello from {name}\n")), "{scheme} {name} {family}: {got:?}");
            let shown = stage.shown(name, address)?;
            ensure!(shown.contains(&format!("tcp/{port} by proxy")) == is_verified, "{shown}");
        }
    }
    ensure!(greeting(&stage, "db.example.org", 5432)? == GREETING.trim_end());
    let mut proxied: Vec<String> = stage.redirected()?.into_iter().map(|(target, _)| target).collect();
    proxied.sort();
    let bounded = ["bounded.example.net:443", "bounded.example.net:80"];
    let verified = ["verified.example.net:443", "verified.example.net:80"];
    let want = [&bounded[..], &[verified[0], verified[0], verified[1], verified[1]]].concat();
    ensure!(proxied == want, "the others go straight: {proxied:?}");

    // Another name for the same address: the kernel cannot tell, the proxy does.
    let at = |host: &str, address: &str| format!("{host}:443:{address}");
    let (straight, verified) = (at("evil.test", "93.184.216.34"), at("evil.test", "93.184.216.60"));
    let url = "https://evil.test/";
    ensure!(stage.get(url, &["--resolve", &straight])?.is_some(), "this is what verifying is for");
    ensure!(stage.get(url, &["--resolve", &verified])?.is_none());
    let Stage { mut exeat, .. } = stage;
    exeat.audit_record("the refusal", |(_, record)| {
        record["target"] == "verified.example.net:443" && record["reason"] == "sni_mismatch"
    })?;
    exeat.stop()
}

fn names_that_share_an_address_are_told_apart() -> Result<()> {
    let allow = r#""shared.example.net", { host = "also.example.net", ports = [80, 443, 6379] }"#;
    let stage = Stage::new("", allow)?;
    let address = "93.184.216.50";
    let hello = |name: &str| Some(format!("hello from {name}.example.net\n"));
    ensure!(stage.get("https://shared.example.net/", &["-4"])? == hello("shared"));
    let shown = stage.shown("shared.example.net", address)?;
    ensure!(!shown.contains("by proxy") && stage.redirected()?.is_empty(), "one name: {shown}");
    ensure!(stage.get("https://also.example.net/", &["-4"])? == hello("also"));
    for name in ["shared", "also"] {
        let shown = stage.shown(&format!("{name}.example.net"), address)?;
        ensure!(shown.contains("tcp/443 by proxy") && shown.contains("tcp/80 by proxy"), "{shown}");
        ensure!(!shown.contains("tcp/6379 by proxy"), "nothing would tell: {shown}");
        for scheme in ["http", "https"] {
            let got = stage.get(&format!("{scheme}://{name}.example.net/"), &["-4"])?;
            ensure!(got == hello(name), "{scheme} {name}: {got:?}");
        }
    }
    let resolve = format!("refused.example.net:443:{address}");
    ensure!(stage.get("https://refused.example.net/", &["--resolve", &resolve])?.is_none());
    let resolve = format!("refused.example.net:80:{address}");
    let refused = stage.get("http://refused.example.net/", &["-i", "--resolve", &resolve])?;
    ensure!(
        refused.as_ref().is_some_and(|text| text.contains("x-deny-reason: host_mismatch")),
        "{refused:?}"
    );
    ensure!(greeting(&stage, "also.example.net", 6379)? == GREETING.trim_end());
    stage.exeat.stop()
}

fn the_next_process_knows_whose_connections_come() -> Result<()> {
    let stage = Stage::new("", r#"{ host = "verified.example.net", verify = true }"#)?;
    let resolve = "verified.example.net:443:93.184.216.60";
    let get = |stage: &Stage| stage.get("https://verified.example.net/", &["--resolve", resolve]);
    ensure!(get(&stage)?.is_none(), "nobody has asked yet");
    ensure!(stage.get("https://verified.example.net/", &["-4"])?.is_some());
    let Stage { exeat, lan, world } = stage;
    exeat.stop()?;
    let exeat = Stage::start(&world, &lan)?;
    let stage = Stage { exeat, lan, world };
    let got = get(&stage)?;
    ensure!(got.as_deref() == Some("hello from verified.example.net\n"), "{got:?} {}", stage.exeat.stderr());
    stage.exeat.stop()
}

fn addresses_that_stand_for_names_lead_to_the_proxy() -> Result<()> {
    let allow = r#""example.com", "*.example.org:22,5432", "93.184.216.38""#;
    let stage = Stage::new("mode = \"virtual\"", allow)?;
    for family in ["-4", "-6"] {
        let got =
            stage.get("https://example.com/", &[family, "-w", "%{remote_ip}"])?.context("example.com")?;
        let address = if family == "-4" { "198.18." } else { "fd65:7865:6174:" };
        ensure!(got.starts_with(&format!("hello from example.com\n{address}")), "{got}");
    }
    ensure!(greeting(&stage, "db.example.org", 5432)? == GREETING.trim_end());
    let accepts = stage.world.accepts();
    for (case, host, port, want) in [
        ("another port", "db.example.org", 25, "reset"),
        ("a name that is not allowed", "evil.test", 443, "no such name"),
        ("an address that nobody was told", "198.18.77.77", 443, "reset"),
        ("the address that the name really has", "93.184.216.34", 443, "reset"),
        ("the proxy itself", "10.88.1.1", 3130, "reset"),
    ] {
        let got = greeting(&stage, host, port)?;
        ensure!(got == want, "{case}: {got}");
    }
    ensure!(stage.world.accepts() == accepts, "{:?}", stage.world.reached());
    // A rule for networks needs neither.
    ensure!(stage.get("http://93.184.216.38/", &[])?.is_some());
    let proxied = stage.redirected()?;
    ensure!(proxied.contains(&("db.example.org:5432".to_owned(), String::new())), "{proxied:?}");
    ensure!(proxied.contains(&("198.18.77.77:443".to_owned(), "host_not_allowed".to_owned())), "{proxied:?}");
    ensure!(!proxied.iter().any(|(target, _)| target.starts_with("93.184.216.38")), "{proxied:?}");
    stage.exeat.stop()
}
