//! The firewall in the kernel, driven directly: clients in namespaces of their own, behind a router.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use exeat_dns::{Gate, GateError, Opening};
use exeat_firewall::{Config, Deciding, Device, Firewall, LIFETIME_MIN, Swept};
use exeat_identity::{Place, Principal, Proof};
use exeat_model::{DnsName, IpBlock};
use exeat_policy::{
    Builder, Defaults, Labels, ListBuilder, Mode, PolicySet, PolicySpec, Revision, Transports, reach,
};
use exeat_tests::exeat::Exeat;
use exeat_tests::lan::{Lan, Net};
use exeat_tests::origin::PATIENCE;
use exeat_tests::world::World;
use exeat_tests::{harness, scenarios};

fn main() -> ExitCode {
    harness::main(scenarios![
        what_is_opened_is_open_at_once,
        the_first_packet_never_waits,
        sources_that_are_not_a_clients_own_reach_nothing,
        a_new_policy_cuts_what_it_no_longer_allows,
        what_has_ended_is_taken_away_with_the_rest,
        datagrams_that_were_cut_stay_cut,
        a_flush_is_mended,
        the_next_process_takes_over,
        a_full_set_opens_nothing_more,
        what_is_not_egress_passes,
        names_are_asked_of_us_alone,
        nothing_is_left_behind,
        one_command_sets_it_up,
        what_is_no_device_is_not_attached,
    ])
}

/// A policy for each client.
struct Policies {
    set: PolicySet,
    askers: [Option<Arc<Principal>>; 2],
}

impl Policies {
    /// What each of the two may reach; `None` is a client that nobody knows.
    fn new(revision: u64, allow: [Option<&[&str]>; 2]) -> Result<Arc<Self>> {
        Self::over(revision, allow, None)
    }

    fn over(revision: u64, allow: [Option<&[&str]>; 2], transport: Option<Transports>) -> Result<Arc<Self>> {
        let mut builder = Builder::new();
        let list = |entries: &[&str]| -> Result<_> {
            let mut list = ListBuilder::new("test", Defaults::default());
            for entry in entries {
                list.push_text(entry, 1, 1)?;
            }
            Ok(list.finish())
        };
        let place = exeat_policy::Place { file: "test".into(), line: 1, column: 1 };
        for (name, allow) in ["one", "two"].into_iter().zip(allow) {
            builder.policy(PolicySpec {
                name: name.to_owned(),
                place: place.clone(),
                allow: list(allow.unwrap_or_default())?,
                deny: list(&[])?,
                defaults: Defaults { transport, ..Defaults::default() },
                mode: Mode::Enforce,
                bind: None,
                metadata: Vec::new(),
                next_hop: None,
            });
        }
        let set = builder.finish(Revision(revision)).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
        let asker = |name: &str, allow: Option<&[&str]>| {
            allow.map(|_| {
                Arc::new(Principal {
                    name: name.into(),
                    proof: Proof::Origin,
                    labels: Labels::default(),
                    bound: set.bind(&[name], &Labels::default()),
                    token: None,
                })
            })
        };
        let [one, two] = allow;
        let askers = [asker("one", one), asker("two", two)];
        Ok(Arc::new(Self { set, askers }))
    }

    /// What the name server would ask of the gate.
    fn opening(&self, client: u8, name: &str, addresses: &[&str]) -> Result<Opening> {
        let address = Lan::v4(client);
        let place = Place { address: Some(address), ..Place::default() };
        let principal = self.asker(&place).context("a client that is known")?;
        let name = DnsName::parse(name)?;
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        let reached = reach(&self.set, &principal.bound, &name, &addresses)
            .map_err(|denial| anyhow::anyhow!("{name}: {}", denial.reason))?;
        let revision = self.set.revision();
        Ok(Opening {
            client: address,
            principal,
            place,
            name,
            reach: reached,
            lifetime: LIFETIME_MIN,
            revision,
        })
    }
}

impl Deciding for Policies {
    fn policy(&self) -> &PolicySet {
        &self.set
    }

    fn asker(&self, place: &Place) -> Option<Arc<Principal>> {
        let address = place.address?;
        let [one, two] = &self.askers;
        if [Lan::v4(1), Lan::v6(1)].contains(&address) {
            one.clone()
        } else if [Lan::v4(2), Lan::v6(2)].contains(&address) {
            two.clone()
        } else {
            None
        }
    }

    fn networks(&self) -> Vec<IpBlock> {
        [Lan::v4(1), Lan::v4(2), Lan::v6(1), Lan::v6(2)]
            .into_iter()
            .filter_map(|ip| IpBlock::between(ip, ip))
            .collect()
    }
}

/// Elements of a set.
const SIZE: u32 = 4096;
/// What `example.com` resolves to.
const EXAMPLE: [&str; 2] = ["93.184.216.34", "2606:2800:220:1::34"];

struct Stage {
    world: World,
    lan: Lan,
    firewall: Firewall,
    policies: Arc<Policies>,
}

impl Stage {
    fn start(allow: [Option<&[&str]>; 2]) -> Result<Self> {
        Self::with(Policies::new(1, allow)?)
    }

    /// The first client may reach these over these transports.
    fn start_with(allow: &[&str], transport: Transports) -> Result<Self> {
        Self::with(Policies::over(1, [Some(allow), None], Some(transport))?)
    }

    fn with(policies: Arc<Policies>) -> Result<Self> {
        let world = World::new()?;
        let lan = Lan::new()?;
        let firewall = lan.router.run(|| Ok(Firewall::start(config(), Arc::clone(&policies) as _)?))?;
        Ok(Self { world, lan, firewall, policies })
    }

    /// What the name server does before it answers.
    fn resolve(&self, client: u8, name: &str, addresses: &[&str]) -> Result<()> {
        let opening = self.policies.opening(client, name, addresses)?;
        let gateway = format!("10.88.{client}.1:53");
        self.client(client.into())?.run(|| Ok(UdpSocket::bind("0.0.0.0:0")?.send_to(b"who", gateway)?))?;
        // What the kernel is asked on the way is asked of the namespace that the caller is in.
        self.lan.router.run(|| Ok(open_gate(&self.firewall, opening)?))
    }

    /// Lets another policy decide.
    fn replace(&mut self, revision: u64, allow: [Option<&[&str]>; 2]) -> Result<Swept> {
        self.policies = Policies::new(revision, allow)?;
        let policies = Arc::clone(&self.policies);
        self.lan.router.run(|| Ok(self.firewall.replace(policies as _)?))
    }

    fn client(&self, number: usize) -> Result<&Net> {
        self.lan.clients.get(number - 1).context("a client")
    }

    fn nft(&self, order: &str) -> Result<()> {
        let status = self.lan.router.command("nft").args(order.split(' ')).status()?;
        ensure!(status.success(), "nft {order}");
        Ok(())
    }

    /// Packets that one of the table's counters has seen.
    fn counter(&self, name: &str) -> Result<u64> {
        let output =
            self.lan.router.command("nft").args(["list", "counter", "inet", "exeat", name]).output()?;
        let text = String::from_utf8(output.stdout)?;
        let mut words = text.split_whitespace().skip_while(|word| *word != "packets");
        Ok(words.nth(1).context("a number")?.parse()?)
    }

    /// Whether the client of this number can connect, and how long it took to know.
    fn connect(&self, client: usize, to: &str) -> Result<(bool, Duration)> {
        let to: SocketAddr = to.parse()?;
        self.client(client)?.run(|| {
            let began = Instant::now();
            let result = TcpStream::connect_timeout(&to, Duration::from_secs(20));
            let took = began.elapsed();
            match result {
                Ok(_) => Ok((true, took)),
                // The rules may come while it connects.
                Err(error)
                    if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset) =>
                {
                    Ok((false, took))
                }
                Err(error) => bail!("{to}: {error}"),
            }
        })
    }

    fn check(&self, cases: &[(&str, usize, &str, bool)]) -> Result<()> {
        for &(case, client, to, want) in cases {
            let socket: SocketAddr = to.parse()?;
            let reached = || self.world.reached().into_iter().filter(|to| *to == socket).count();
            let before = reached();
            let (got, took) = self.connect(client, to)?;
            ensure!(got == want, "{case}: client {client} to {to}: connected {got}");
            ensure!(took < Duration::from_secs(1), "{case}: a packet was lost: {took:?}");
            if !want {
                ensure!(reached() == before, "{case}: an origin was reached");
            }
            // The kernel connects before the origin takes it, which must not be counted for a later case.
            let end = Instant::now() + PATIENCE;
            while want && self.world.has_origin_at(socket.port()) && reached() == before {
                ensure!(Instant::now() < end, "{case}: no origin was reached");
            }
        }
        Ok(())
    }
}

fn config() -> Config {
    Config {
        devices: ["lan1", "lan2"].into_iter().filter_map(|name| Device::new(name, false)).collect(),
        groups: Vec::new(),
        closed: Vec::new(),
        lifetime: LIFETIME_MIN,
        size: SIZE,
        is_counted: true,
        dns: vec![(Ipv4Addr::UNSPECIFIED, 53).into(), (Ipv6Addr::UNSPECIFIED, 53).into()],
        dns_elsewhere: Vec::new(),
        relay: Vec::new(),
        stand_ins: Vec::new(),
        doors: Vec::new(),
    }
}

/// What the greeting servers do with a line.
fn echoes(stream: &mut TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"ping\n")?;
    let mut line = Vec::new();
    while !line.ends_with(b"ping\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok(())
}

fn ip(line: &str) -> Result<()> {
    let status = std::process::Command::new("ip").args(line.split(' ')).status()?;
    ensure!(status.success(), "ip {line}");
    Ok(())
}

/// Waits until it is open.
fn open_gate(gate: &impl Gate, opening: Opening) -> Result<(), GateError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.map_err(GateError::Kernel)?.block_on(gate.open(opening))
}

fn what_is_opened_is_open_at_once() -> Result<()> {
    let stage = Stage::start([Some(&["example.com:443,5432", "10.20.0.0/16:22"]), Some(&["example.org"])])?;
    stage.check(&[
        ("nothing was asked for", 1, "93.184.216.34:443", false),
        ("nothing was asked for", 1, "[2606:2800:220:1::34]:443", false),
    ])?;
    stage.resolve(1, "example.com", &EXAMPLE)?;
    stage.check(&[
        ("the first packet", 1, "93.184.216.34:443", true),
        ("the other port", 1, "93.184.216.34:5432", true),
        ("another port", 1, "93.184.216.34:80", false),
        ("in the other family", 1, "[2606:2800:220:1::34]:443", true),
        ("another port in the other family", 1, "[2606:2800:220:1::34]:80", false),
        ("another address", 1, "93.184.216.35:443", false),
        ("another client", 2, "93.184.216.34:443", false),
        ("another client in the other family", 2, "[2606:2800:220:1::34]:443", false),
        ("a network", 1, "10.20.3.4:22", true),
        ("beside the network", 1, "10.21.3.4:22", false),
        ("another port of the network", 1, "10.20.3.4:25", false),
        ("another client's network", 2, "10.20.3.4:22", false),
    ])
}

fn the_first_packet_never_waits() -> Result<()> {
    let stage = Stage::start([Some(&["*.example.org:443", "*.wide.test:1-65535"]), None])?;
    for number in 0..200u8 {
        let address = format!("93.184.216.{number}");
        stage.resolve(1, &format!("n{number}.example.org"), &[&address])?;
        stage.check(&[("the first packet", 1, &format!("{address}:443"), true)])?;
    }
    stage.resolve(1, "x.wide.test", &["93.184.216.201"])?;
    stage.check(&[
        ("a range of ports", 1, "93.184.216.201:8080", true),
        ("at its end", 1, "93.184.216.201:22", true),
        ("of another name", 1, "93.184.216.200:8080", false),
    ])
}

fn sources_that_are_not_a_clients_own_reach_nothing() -> Result<()> {
    let stage = Stage::start([Some(&["example.com"]), Some(&["example.com", "@any-public"])])?;
    let [one, _] = &stage.lan.clients;
    stage.resolve(2, "example.com", &EXAMPLE)?;
    stage
        .check(&[("its own", 2, "93.184.216.34:443", true), ("any address", 2, "93.184.216.40:80", true)])?;
    // The other client's address, and one that is nobody's but fits the device.
    one.ip("address add 10.88.2.2/32 dev lo\naddress add 10.88.1.77/24 dev eth0\n")?;
    let to: SocketAddr = "93.184.216.34:443".parse()?;
    let from = |source: &str| -> Result<std::io::Error> {
        let source: SocketAddr = format!("{source}:0").parse()?;
        one.run(|| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.bind(&source.into())?;
            let result = socket.connect_timeout(&to.into(), Duration::from_millis(1500));
            result.err().context("a packet from somebody else's address has passed")
        })
    };
    // It is dropped: an answer would go to whose address it is.
    ensure!(from("10.88.2.2")?.kind() == ErrorKind::TimedOut, "spoofed");
    ensure!(from("10.88.1.77")?.kind() == ErrorKind::ConnectionRefused, "unknown");
    ensure!(stage.counter("spoofed")? > 0, "it is counted");
    Ok(())
}

fn a_new_policy_cuts_what_it_no_longer_allows() -> Result<()> {
    let allow: &[&str] = &["example.com:5432", "example.org:5432", "10.20.0.0/16:22", "10.30.0.0/16:22"];
    let mut stage = Stage::start([Some(allow), Some(&["example.com:5432"])])?;
    for client in [1, 2] {
        stage.resolve(client, "example.com", &EXAMPLE)?;
    }
    stage.resolve(1, "example.org", &["93.184.216.36"])?;
    let open = |client: usize, to: &str| -> Result<TcpStream> {
        let to: SocketAddr = to.parse()?;
        let stream = stage.client(client)?.run(|| Ok(TcpStream::connect(to)?))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(stream)
    };
    let mut cut =
        [open(1, "93.184.216.34:5432")?, open(1, "[2606:2800:220:1::34]:5432")?, open(1, "10.20.0.1:22")?];
    let mut kept = [open(1, "93.184.216.36:5432")?, open(2, "93.184.216.34:5432")?, open(1, "10.30.0.1:22")?];
    cut.iter_mut().chain(&mut kept).try_for_each(echoes)?;
    let next: [Option<&[&str]>; 2] =
        [Some(&["example.org:5432", "10.30.0.0/16:22"]), Some(&["example.com:5432"])];
    let swept = stage.replace(2, next)?;
    ensure!((swept.cut, swept.kept) == (3, 3), "{swept:?}");
    for (stream, what) in cut.iter_mut().zip(["by name", "in the other family", "by network"]) {
        let error = echoes(stream).err().with_context(|| format!("{what}: it goes on"))?;
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        ensure!(kind == Some(ErrorKind::ConnectionReset), "{what}: {error:#}");
    }
    kept.iter_mut().try_for_each(echoes)?;
    stage.check(&[
        ("cut", 1, "93.184.216.34:5432", false),
        ("cut", 1, "[2606:2800:220:1::34]:5432", false),
        ("cut", 1, "10.20.0.1:22", false),
        ("kept", 1, "93.184.216.36:5432", true),
        ("kept", 2, "93.184.216.34:5432", true),
        ("kept", 1, "10.30.0.1:22", true),
    ])?;
    let late = stage.policies.opening(2, "example.com", &EXAMPLE)?;
    let late = Opening { revision: Revision(1), ..late };
    let refused = stage.lan.router.run(|| Ok(open_gate(&stage.firewall, late)))?;
    ensure!(matches!(refused, Err(GateError::Outdated)), "what was decided before the change: {refused:?}");
    Ok(())
}

fn what_has_ended_is_taken_away_with_the_rest() -> Result<()> {
    let address = |number: u32| Ipv4Addr::from_bits(0x5db8_7800 + number).to_string();
    let mut stage = Stage::start([Some(&["*.example.org:443"]), Some(&["example.com:443"])])?;
    let answers = 8;
    let resolve = |stage: &Stage, answer: u32| {
        let addresses: Vec<String> = (0..64).map(|number| address(answer * 64 + number)).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        stage.resolve(1, &format!("n{answer}.example.org"), &addresses)
    };
    for (revision, case, is_there) in [
        (2, "all of it is there", &[true, true][..]),
        (4, "one half has ended", &[true, false]),
        (6, "all of it has ended", &[false, false]),
    ] {
        (0..answers).try_for_each(|answer| resolve(&stage, answer))?;
        // As the kernel forgets by itself.
        stage.nft("flush set inet exeat names4")?;
        let still = (0..answers).filter(|answer| is_there.get((answer % 2) as usize) == Some(&true));
        still.clone().try_for_each(|answer| resolve(&stage, answer))?;
        stage.resolve(2, "example.com", &EXAMPLE)?;
        let transactions = || {
            let counted = stage.firewall.counts().get();
            (counted.commits + counted.failed, counted.failed)
        };
        let (before, failed) = transactions();
        let next: [Option<&[&str]>; 2] = [Some(&["example.com:443"]), Some(&["example.com:443"])];
        stage.policies = Policies::new(revision, next)?;
        let policies = Arc::clone(&stage.policies);
        stage.lan.router.run(|| Ok(stage.firewall.replace(policies as _)?))?;
        let (after, failed_after) = transactions();
        // Twice for the one set: a packet may have renewed something meanwhile.
        ensure!((after - before, failed_after - failed) == (2, 0), "{case}: {before} {after} {failed_after}");
        stage.check(&[
            (case, 1, &format!("{}:443", address(0)), false),
            (case, 2, "93.184.216.34:443", true),
        ])?;
        stage.replace(revision + 1, [Some(&["*.example.org:443"]), Some(&["example.com:443"])])?;
    }
    Ok(())
}

fn datagrams_that_were_cut_stay_cut() -> Result<()> {
    let udp = &["10.20.0.0/16:9000"][..];
    let mut stage = Stage::start_with(udp, Transports::Any)?;
    let server = UdpSocket::bind("10.20.0.1:9000").or_else(|_| {
        std::process::Command::new("ip").args(["address", "add", "10.20.0.1/32", "dev", "lo"]).status()?;
        UdpSocket::bind("10.20.0.1:9000")
    })?;
    server.set_read_timeout(Some(Duration::from_secs(20)))?;
    let client = stage.client(1)?.run(|| Ok(UdpSocket::bind("10.88.1.2:4000")?))?;
    client.connect("10.20.0.1:9000")?;
    client.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut buffer = [0; 16];
    client.send(b"out")?;
    let (_, peer) = server.recv_from(&mut buffer)?;
    server.send_to(b"back", peer)?;
    ensure!(client.recv(&mut buffer)? == 4, "the answer");
    let swept = stage.replace(2, [Some(&[]), None])?;
    ensure!(swept.cut == 1, "{swept:?}");
    // The server goes on, which must not open the way for the client.
    ensure!(server.send_to(b"more", peer).is_ok(), "it is only told by an error later");
    client.send(b"out")?;
    let refused = client.recv(&mut buffer).err().context("it goes on")?;
    ensure!(refused.raw_os_error() == Some(113), "host unreachable, said at once: {refused}");
    server.set_read_timeout(Some(Duration::from_millis(300)))?;
    let nothing = server.recv_from(&mut buffer);
    ensure!(nothing.is_err(), "a datagram has passed: {nothing:?}");
    Ok(())
}

fn a_flush_is_mended() -> Result<()> {
    let stage = Stage::start([Some(&["example.com:443", "10.20.0.0/16:22"]), None])?;
    stage.resolve(1, "example.com", &EXAMPLE)?;
    for order in [
        "flush ruleset",
        "delete table inet exeat",
        "flush table inet exeat",
        "flush chain inet exeat forward",
    ] {
        stage.nft(order)?;
        let began = Instant::now();
        // It is closed first, and then what was open is opened again.
        while stage.connect(1, "93.184.216.35:443")?.0 || !stage.connect(1, "93.184.216.34:443")?.0 {
            ensure!(began.elapsed() < PATIENCE, "after `{order}` it does not become as it was");
        }
        stage.check(&[
            (order, 1, "93.184.216.34:443", true),
            (order, 1, "[2606:2800:220:1::34]:443", true),
            (order, 1, "10.20.3.4:22", true),
            (order, 1, "10.21.3.4:22", false),
        ])?;
    }
    // Whoever asks before we have looked is not told an address that is closed.
    stage.nft("flush ruleset")?;
    stage.resolve(1, "example.com", &["93.184.216.99"])?;
    stage.check(&[
        ("opened again", 1, "93.184.216.99:443", true),
        ("closed again", 1, "93.184.216.98:443", false),
    ])
}

fn the_next_process_takes_over() -> Result<()> {
    let allow: &[&str] = &["example.com:5432", "example.org:5432"];
    let stage = Stage::start([Some(allow), None])?;
    stage.resolve(1, "example.com", &EXAMPLE)?;
    stage.resolve(1, "example.org", &["93.184.216.36"])?;
    let [one, _] = &stage.lan.clients;
    let mut kept = one.run(|| Ok(TcpStream::connect("93.184.216.34:5432")?))?;
    let mut cut = one.run(|| Ok(TcpStream::connect("93.184.216.36:5432")?))?;
    echoes(&mut kept)?;
    echoes(&mut cut)?;
    let Stage { world, lan, firewall, .. } = stage;
    drop(firewall);
    let alone = |to: &str| -> Result<bool> {
        let to: SocketAddr = to.parse()?;
        lan.clients.first().context("a client")?.run(|| Ok(TcpStream::connect_timeout(&to, PATIENCE).is_ok()))
    };
    ensure!(alone("93.184.216.34:5432")?, "what was open stays open without us");
    ensure!(!alone("93.184.216.37:5432")?, "what was closed stays closed without us");
    echoes(&mut kept)?;
    let policies = Policies::new(1, [Some(&["example.com:5432"]), None])?;
    let firewall = lan.router.run(|| Ok(Firewall::start(config(), Arc::clone(&policies) as _)?))?;
    let names: BTreeSet<String> = firewall.opened().iter().map(|opened| opened.name.to_string()).collect();
    ensure!(names == BTreeSet::from(["example.com".to_owned()]), "taken over: {names:?}");
    let stage = Stage { world, lan, firewall, policies };
    stage.check(&[
        ("taken over", 1, "93.184.216.34:5432", true),
        ("taken over in the other family", 1, "[2606:2800:220:1::34]:5432", true),
        ("not allowed any more", 1, "93.184.216.36:5432", false),
    ])?;
    echoes(&mut kept)?;
    ensure!(echoes(&mut cut).is_err(), "a flow that is not allowed any more goes on");
    Ok(())
}

fn a_full_set_opens_nothing_more() -> Result<()> {
    let stage = Stage::start([Some(&["*.example.org:443"]), Some(&["*.example.org:443"])])?;
    let address = |number: u32| Ipv4Addr::from_bits(0x5db8_d800 + number).to_string();
    // A client's share, in answers of 64 addresses.
    for answer in 0..SIZE / 4 / 64 {
        let addresses: Vec<String> = (0..64).map(|number| address(answer * 64 + number)).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        stage.resolve(1, &format!("n{answer}.example.org"), &addresses)?;
    }
    let more = stage.policies.opening(1, "more.example.org", &["93.184.230.1"])?;
    let refused = stage.lan.router.run(|| Ok(open_gate(&stage.firewall, more)))?;
    ensure!(matches!(refused, Err(GateError::Full)), "{refused:?}");
    stage.check(&[("not opened", 1, "93.184.230.1:443", false)])?;
    stage.resolve(1, "n0.example.org", &["93.184.216.0"])?;
    stage.resolve(2, "more.example.org", &["93.184.216.1"])?;
    stage.check(&[("another client has its own share", 2, "93.184.216.1:443", true)])
}

fn what_is_not_egress_passes() -> Result<()> {
    let stage = Stage::start([Some(&["example.com:443"]), None])?;
    let [one, _] = &stage.lan.clients;
    // A port of a client that others may connect to.
    let published = one.run(|| Ok(TcpListener::bind("10.88.1.2:8080")?))?;
    let mut inside = TcpStream::connect("10.88.1.2:8080").context("from outside")?;
    let (mut near, _) = published.accept()?;
    inside.write_all(b"in")?;
    near.read_exact(&mut [0; 2])?;
    near.write_all(b"out")?;
    inside.read_exact(&mut [0; 3]).context("the answer of a published port")?;
    // The router itself: its services are closed, its own connections are its own.
    let service = stage.lan.router.run(|| Ok(TcpListener::bind("10.88.1.1:9999")?))?;
    stage.check(&[("a service of the router", 1, "10.88.1.1:9999", false)])?;
    drop(service);
    stage.lan.router.run(|| Ok(TcpStream::connect("10.88.1.2:8080")?)).context("from the router")?;
    stage.lan.router.run(|| Ok(TcpStream::connect("93.184.216.50:443")?)).context("the router's own")?;
    // An error about a flow that was let through comes through.
    stage.resolve(1, "example.com", &EXAMPLE)?;
    ip("link set up0 mtu 1300")?;
    stage.lan.router.ip("link set wan mtu 1300")?;
    let mut stream = one.run(|| Ok(TcpStream::connect("93.184.216.34:443")?))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let seen = || stage.world.https.seen().iter().map(|seen| seen.received.len()).max().unwrap_or(0);
    stream.write_all(&[0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3])?;
    stream.write_all(&[0; 16_000])?;
    let began = Instant::now();
    while seen() < 16_000 {
        ensure!(began.elapsed() < PATIENCE, "long packets do not arrive: {}", seen());
    }
    Ok(())
}

fn names_are_asked_of_us_alone() -> Result<()> {
    let stage = Stage::start([Some(&["example.com:443", "@any-public", "9.9.9.9:53,853"]), None])?;
    let _over_tls = TcpListener::bind("[::]:853")?;
    let ours = stage.lan.router.run(|| Ok(UdpSocket::bind("0.0.0.0:53")?))?;
    let ours_v6 = stage.lan.router.run(|| Ok(TcpListener::bind("[::]:53")?))?;
    ours.set_read_timeout(Some(PATIENCE))?;
    let [one, _] = &stage.lan.clients;
    for server in ["93.184.216.53:53", "10.88.1.1:53", "9.9.9.9:53"] {
        let asking = one.run(|| Ok(UdpSocket::bind("10.88.1.2:0")?))?;
        asking.connect(server)?;
        asking.set_read_timeout(Some(PATIENCE))?;
        asking.send(b"who")?;
        let mut buffer = [0; 16];
        let (_, peer) = ours.recv_from(&mut buffer)?;
        ensure!(peer == asking.local_addr()?, "the question's source is the client's own: {peer}");
        ours.send_to(b"answer", peer)?;
        ensure!(asking.recv(&mut buffer)? == 6, "the answer comes from {server}");
    }
    let asking = one.run(|| Ok(TcpStream::connect("[2606:2800:220:1::53]:53")?)).context("TCP and IPv6")?;
    ensure!(ours_v6.accept()?.1 == asking.local_addr()?, "the question's source is the client's own");
    stage.check(&[
        ("DNS over TLS of one that is no destination", 1, "10.9.9.9:853", false),
        ("DNS over TLS that a rule opens", 1, "9.9.9.9:853", true),
    ])
}

fn nothing_is_left_behind() -> Result<()> {
    let stage = Stage::start([Some(&["example.com:443"]), None])?;
    let list = || -> Result<String> {
        let output = stage.lan.router.command("nft").args(["list", "ruleset"]).output()?;
        Ok(String::from_utf8(output.stdout)?)
    };
    ensure!(list()?.contains("table inet exeat"), "the table");
    let Stage { lan, firewall, .. } = stage;
    drop(firewall);
    lan.router.run(|| Ok(exeat_firewall::remove()?))?;
    let output = lan.router.command("nft").args(["list", "ruleset"]).output()?;
    ensure!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    lan.router.run(|| Ok(exeat_firewall::remove()?)).context("again")
}

/// Runs a program in a client's namespace; whether it succeeded, and what it printed.
fn run(net: &Net, program: &str, args: &[&str]) -> Result<(bool, String)> {
    let output = net.command(program).args(args).output().with_context(|| format!("run {program}"))?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

/// The product in the router, started with these arguments; returned when its admin API answers.
fn start_in_router(world: &World, lan: &Lan, args: &[&str]) -> Result<Exeat> {
    let inside = format!("--net={}", lan.router.path());
    let mut exeat = Exeat::spawn_as(world.directory(), &["nsenter", &inside, "--"], args, |_| ())?;
    exeat.wait_until_ready()?;
    Ok(exeat)
}

fn what_is_no_device_is_not_attached() -> Result<()> {
    let (world, lan) = (World::new()?, Lan::new()?);
    let file = world.directory().join("file");
    std::fs::write(&file, "no namespace")?;
    let (socket, file) = (world.directory().join("fw.sock"), file.to_string_lossy().into_owned());
    let socket = socket.to_string_lossy().into_owned();
    let binary = exeat_tests::exeat::binary()?.to_string_lossy().into_owned();
    for (devices, want) in [
        (&["--interface", "lo"][..], "`lo` is the loopback device"),
        (&["--interface", "lan1", "--interface", "lan1"], "`lan1` is named twice"),
        (&["--bridge", "lan1", "--interface", "lan1"], "`lan1` is named twice"),
        (&["--netns", &file], "is no network namespace"),
    ] {
        let args = [&["firewall", "attach", "--socket", &socket][..], devices, &["example.com"]].concat();
        let (is_well, told) = run(&lan.router, &binary, &args)?;
        ensure!(!is_well && told.contains(want), "{devices:?}: {told}");
    }
    Ok(())
}

fn one_command_sets_it_up() -> Result<()> {
    let world = World::new()?;
    let lan = Lan::new()?;
    let socket = world.directory().join("fw.sock").to_string_lossy().into_owned();
    let audit = world.directory().join("audit.jsonl").to_string_lossy().into_owned();
    let attach = [
        "firewall",
        "attach",
        "--interface",
        "lan1",
        "--interface",
        "lan2",
        "--socket",
        &socket,
        "--audit",
        &audit,
    ];
    let mut exeat =
        start_in_router(&world, &lan, &[&attach[..], &["example.com.", "*.example.org:443,5432"]].concat())?;
    let [one, two] = &lan.clients;
    let ca = world.ca_file();
    let curl = |net: &Net, family: &str, url: &str| {
        run(
            net,
            "curl",
            &[
                "-sS",
                "--max-time",
                "10",
                "--cacert",
                &ca,
                "-o",
                "/dev/null",
                "-w",
                "%{remote_ip}",
                family,
                url,
            ],
        )
    };
    for (client, family, url, want) in [
        (one, "-4", "https://example.com/", Ok("93.184.216.34")),
        (one, "-6", "https://example.com/", Ok("2606:2800:220:1::34")),
        (one, "-4", "http://example.com/", Ok("93.184.216.34")),
        (two, "-6", "https://www.example.org/", Ok("2606:2800:220:1::35")),
        (one, "-4", "https://evil.test/", Err("Could not resolve host")),
        (one, "-4", "http://www.example.org/", Err("port 80 after")),
        (one, "-4", "http://93.184.216.66/", Err("port 80 after")),
        (two, "-4", "https://93.184.216.34/", Err("port 443 after")),
    ] {
        let (is_well, text) = curl(client, family, url)?;
        let found = if is_well { Ok(text.as_str()) } else { Err(text.as_str()) };
        let fits = match (&want, &found) {
            (Ok(want), Ok(found)) => want == found,
            (Err(want), Err(found)) => found.contains(want),
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
        };
        ensure!(fits, "{family} {url}: {found:?}, not {want:?}\n{}", exeat.stderr());
    }
    let refused = exeat.audit_until("the packets", |records| {
        let to = |target: &str| {
            records.iter().any(|record| record["event"] == "packet" && record["target"] == target)
        };
        to("93.184.216.66:80") && to("93.184.216.34:443") && to("93.184.216.35:80")
    })?;
    for (source, target, reason, names) in [
        ("10.88.1.2:", "93.184.216.66:80", "ip_literal_not_allowed", None),
        ("10.88.2.2:", "93.184.216.34:443", "ip_literal_not_allowed", Some("example.com")),
        ("10.88.1.2:", "93.184.216.35:80", "port_not_allowed", Some("www.example.org")),
    ] {
        let is_it = |record: &&serde_json::Value| {
            record["event"] == "packet"
                && record["target"] == target
                && record["source"].as_str().is_some_and(|text| text.starts_with(source))
        };
        let record = refused.iter().find(is_it).with_context(|| format!("a record of {target}"))?;
        ensure!(record["reason"] == reason && record["verdict"] == "deny", "{record}");
        let named = record["names"].get(0).and_then(serde_json::Value::as_str);
        ensure!(named == names, "{record}");
    }
    let ours = |args: &[&str]| -> Result<(bool, String)> {
        let binary = exeat_tests::exeat::binary()?.to_string_lossy().into_owned();
        run(&lan.router, &binary, &[&["firewall"], args].concat())
    };
    let (is_well, text) = ours(&["why", "--socket", &socket, "93.184.216.34"])?;
    ensure!(is_well && text.contains("10.88.1.2  example.com  93.184.216.34  tcp/80,tcp/443"), "{text}");
    let (is_well, text) = ours(&["show", "--socket", &socket])?;
    ensure!(is_well && text.contains("www.example.org  2606:2800:220:1::35"), "{text}");
    let (is_well, text) = ours(&["doctor"])?;
    ensure!(is_well && !text.contains("BAD"), "{text}");
    exeat.stop()?;
    let (is_well, text) = curl(one, "-4", "https://example.com/")?;
    ensure!(!is_well && text.contains("resolve"), "nobody answers: {text}");
    let (is_well, text) = ours(&["remove"])?;
    ensure!(is_well, "{text}");
    let (is_well, text) = ours(&["doctor"])?;
    ensure!(!is_well && text.contains("BAD"), "{text}");
    let (is_well, text) = curl(two, "-4", "http://93.184.216.66/")?;
    ensure!(is_well, "as it was before: {text}");
    Ok(())
}
