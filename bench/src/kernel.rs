//! The kernel's part alone: how long it takes to open something, and what a packet costs beside a thousand openings and
//! beside a million.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use exeat_dns::{Gate, Opening};
use exeat_firewall::{Config, Deciding, Device, Firewall, LIFETIME_MIN};
use exeat_identity::{Place, Principal, Proof};
use exeat_model::{DnsName, IpBlock, Transport};
use exeat_policy::{
    Builder, Defaults, Labels, ListBuilder, Mode, PolicySet, PolicySpec, Revision, Transports, reach,
};
use nix::sched::{CloneFlags, setns};

use crate::record::{Figures, Sheet};

/// The first client, which sends the packets, and those after it.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 2);
/// A client has a quarter of all openings at most, and a network of 65,536 addresses is enough for one.
const PER_CLIENT: u32 = 65_000;
/// Where the first opened address is, and those whose opening is measured.
const FILLED: Ipv4Addr = Ipv4Addr::new(93, 184, 0, 0);
const MEASURED: Ipv4Addr = Ipv4Addr::new(93, 200, 0, 0);
/// Addresses of an answer when many are opened.
const ANSWER: u32 = 64;
/// Openings that are measured, of one address each.
const COMMITS: u32 = 4000;
/// Addresses that packets are sent to in turn, and how many packets.
const DESTINATIONS: u32 = 256;
const PACKETS: u32 = 100_000;
const PORT: u16 = 9000;

/// Measure the kernel's part.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Kernel {
    #[command(flatten)]
    sheet: Sheet,
    /// The device that the clients are behind
    #[arg(long)]
    device: String,
    /// The network namespace that the first client sends from, as a file
    #[arg(long)]
    client_net: PathBuf,
    /// How many openings there are, the fewest first
    #[arg(long)]
    openings: Vec<u32>,
    /// The round
    #[arg(long)]
    round: u32,
}

/// Who decides: everybody has one policy.
struct Everybody {
    set: PolicySet,
    principal: Arc<Principal>,
}

impl Deciding for Everybody {
    fn policy(&self) -> &PolicySet {
        &self.set
    }

    fn asker(&self, _: &Place) -> Option<Arc<Principal>> {
        Some(Arc::clone(&self.principal))
    }

    fn networks(&self) -> Vec<IpBlock> {
        Vec::new()
    }
}

impl Everybody {
    fn new() -> Result<Self> {
        let list = |entries: &[String]| -> Result<_> {
            let mut list = ListBuilder::new("bench", Defaults::default());
            entries.iter().try_for_each(|entry| list.push_text(entry, 1, 1).map(drop))?;
            Ok(list.finish())
        };
        let mut builder = Builder::new();
        builder.policy(PolicySpec {
            name: "bench".to_owned(),
            place: exeat_policy::Place { file: "bench".into(), line: 1, column: 1 },
            allow: list(&[format!("*.lan.test:{PORT}")])?,
            deny: list(&[])?,
            defaults: Defaults { transport: Some(Transports::Only(Transport::Udp)), ..Defaults::default() },
            mode: Mode::Enforce,
            bind: None,
            metadata: Vec::new(),
            next_hop: None,
        });
        let set = builder.finish(Revision(1)).map_err(|errors| anyhow!("{errors:?}"))?;
        let principal = Principal {
            name: "bench".into(),
            proof: Proof::Origin,
            labels: Labels::default(),
            bound: set.bind(&["bench"], &Labels::default()),
            token: None,
        };
        Ok(Self { set, principal: Arc::new(principal) })
    }

    fn opening(&self, client: Ipv4Addr, name: &str, addresses: &[IpAddr]) -> Result<Opening> {
        let name = DnsName::parse(name)?;
        let reach = reach(&self.set, &self.principal.bound, &name, addresses)
            .map_err(|denial| anyhow!("{name}: {}", denial.reason))?;
        let place = Place { address: Some(client.into()), ..Place::default() };
        let principal = Arc::clone(&self.principal);
        let revision = self.set.revision();
        Ok(Opening { client: client.into(), principal, place, name, reach, lifetime: LIFETIME_MIN, revision })
    }
}

/// Measures it, and writes it down.
///
/// # Errors
/// If the kernel refuses, or the results cannot be written.
pub(crate) fn run(options: &Kernel) -> Result<()> {
    let everybody = Arc::new(Everybody::new()?);
    let config = Config {
        groups: Vec::new(),
        closed: Vec::new(),
        is_counted: true,
        devices: Device::new(&options.device, false).into_iter().collect(),
        lifetime: LIFETIME_MIN,
        size: 1 << 20,
        dns: vec![(Ipv4Addr::UNSPECIFIED, 53).into()],
        dns_elsewhere: Vec::new(),
        doors: Vec::new(),
        relay: Vec::new(),
        stand_ins: Vec::new(),
    };
    exeat_firewall::remove()?;
    let firewall = Firewall::start(config, Arc::clone(&everybody) as _)?;
    // For whoever has to wait for the look at the rules.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    // They need not be read: what does not fit into its queue is dropped behind the rules.
    let _sink = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    let (mut filled, mut measured) = (0, 0);
    for &openings in &options.openings {
        while filled < openings {
            let count = ANSWER.min(openings - filled);
            let client = Ipv4Addr::from_bits(CLIENT.to_bits() + filled / PER_CLIENT);
            let addresses: Vec<IpAddr> = (filled..filled + count)
                .map(|number| Ipv4Addr::from_bits(FILLED.to_bits() + number % PER_CLIENT).into())
                .collect();
            let opening = everybody.opening(client, &format!("n{filled}.lan.test"), &addresses)?;
            runtime.block_on(firewall.open(opening))?;
            filled += count;
        }
        let mut commits = Vec::new();
        for number in measured..measured + COMMITS {
            let address = Ipv4Addr::from_bits(MEASURED.to_bits() + number).into();
            let opening = everybody.opening(CLIENT, &format!("m{number}.lan.test"), &[address])?;
            let began = Instant::now();
            runtime.block_on(firewall.open(opening))?;
            commits.push(began.elapsed().as_secs_f64() * 1e6);
        }
        measured += COMMITS;
        let mut figures = Figures { units: u64::from(COMMITS), ..Figures::default() };
        figures.set_quantiles(&mut commits, "us");
        figures.set("packet_ns", packets(options)?);
        options.sheet.add(&format!("openings/{openings}"), options.round, figures)?;
    }
    drop(firewall);
    Ok(exeat_firewall::remove()?)
}

/// Nanoseconds for each packet that the first client sends to what is open for it.
fn packets(options: &Kernel) -> Result<f64> {
    let net = File::open(&options.client_net).context("the client's namespace")?;
    let sending = std::thread::spawn(move || -> Result<f64> {
        setns(net, CloneFlags::CLONE_NEWNET)?;
        let socket = UdpSocket::bind((CLIENT, 0))?;
        let to = |number: u32| {
            SocketAddr::from((Ipv4Addr::from_bits(FILLED.to_bits() + number % DESTINATIONS), PORT))
        };
        // The kernel's own tables know the flows after the first of them.
        for number in 0..DESTINATIONS {
            socket.send_to(b"bench", to(number)).with_context(|| format!("to {}", to(number)))?;
        }
        let began = Instant::now();
        for number in 0..PACKETS {
            socket.send_to(b"bench", to(number))?;
        }
        Ok(began.elapsed().as_secs_f64() * 1e9 / f64::from(PACKETS))
    });
    sending.join().map_err(|_| anyhow!("the client has panicked"))?
}
