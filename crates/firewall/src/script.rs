//! The plan as the text that `nft` reads: one transaction that takes the place of the rules that were there, and keeps
//! what has been opened by name.
//!
//! A packet from an enforced device is let through in this order: its source fits the device; it answers a flow that
//! somebody else began, or belongs to one that was let through (which has our label); its client has asked for a name
//! that has this address, within the lifetime; a network rule covers it. All else is refused at once.

mod local;

use std::{
    collections::BTreeSet,
    fmt::{Display, Write},
    net::{IpAddr, SocketAddr},
    ops::Range,
    time::Duration,
};

use exeat_model::{IpBlock, PortRange};
use exeat_policy::Network;
use ipnet::IpNet;

use crate::{
    element::{Kind, set_name},
    kernel::Contents,
    plan::{Behind, Plan, Source},
    wire::{CUT_FOR, CUT_SETS, TABLE},
};

/// The bit of a connection's label that says that we let it through: the last one, which `connlabel.conf` of no
/// distribution names. A mark would do, but marks are other programs' (routing, Docker, WireGuard).
pub(crate) const LABEL: u32 = 127;
/// The bit of one that we have cut since, and of one whose client has been reset by that.
pub(crate) const CUT: u32 = 126;
const RESET: u32 = 125;
/// The bits that say which control group of this host began a connection, one for each.
pub(crate) const GROUP_LABELS: Range<u32> = 64..RESET;
/// What our own sockets are marked with where they are among those that are held: "Exea".
pub const OWN_MARK: u32 = 0x4578_6561;
/// The group of netfilter's log that refused packets go to.
pub const LOG_GROUP: u16 = 5391;
/// Refused packets that are logged a second, and at once: somebody who scans must not fill the log.
const LOGGED_PER_SECOND: u32 = 100;
const LOGGED_AT_ONCE: u32 = 500;
/// Bytes of a refused packet that are logged: the headers of IPv6 and TCP.
const LOGGED_BYTES: u32 = 96;
/// What holds whatever the policy says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Frame {
    /// Where our own name server listens, or the one that clients ask in its place.
    pub(crate) dns: Vec<SocketAddr>,
    /// Our other listeners that clients may connect to: they decide for themselves.
    pub(crate) doors: Vec<SocketAddr>,
    /// Where our listeners for redirected connections listen; empty if there are none.
    pub(crate) relay: Vec<SocketAddr>,
    /// The networks whose addresses stand for names, connections to which are redirected.
    pub(crate) stand_ins: Vec<IpNet>,
    /// The addresses of the enforced devices.
    pub(crate) addresses: Vec<(String, IpAddr)>,
    /// How long something opened by name is open after the last new connection to it.
    pub(crate) lifetime: Duration,
    /// Elements that each set holds at most.
    pub(crate) size: u32,
    /// Whether the packets of each element are counted.
    pub(crate) is_counted: bool,
    /// The control groups that are held and are there, the deepest first.
    pub(crate) groups: Vec<Held>,
    /// Whether our own sockets are among those, and marked.
    pub(crate) is_marked: bool,
    /// Our listeners that processes of these groups may not connect to.
    pub(crate) closed: Vec<SocketAddr>,
}

/// A control group whose processes are held to the policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Held {
    /// Which one of the plan's it is.
    pub(crate) number: usize,
    /// Its path for `nft`, and how many groups are above it.
    pub(crate) nft: String,
    pub(crate) level: usize,
    /// Its bit of labels.
    pub(crate) slot: u32,
    /// Where it asks for names, on loopback addresses.
    pub(crate) dns: Vec<SocketAddr>,
}

/// Prefixes of what a log line is about.
pub(crate) const REFUSED: &str = "exeat refused";
pub(crate) const SPOOFED: &str = "exeat spoofed";
pub(crate) const WATCHED: &str = "exeat watched";

/// The sets that hold what was opened by name, each with the type of its key.
pub(crate) fn kept_sets(plan: &Plan) -> Vec<(String, String)> {
    let one = exeat_model::Port::HTTP.into();
    let mut sets = Vec::new();
    for ports in std::iter::once(one).chain(plan.ranges.iter().copied()) {
        for is_ipv6 in [false, true] {
            let address = if is_ipv6 { "ipv6_addr" } else { "ipv4_addr" };
            for (kind, sender) in [
                (Kind::Names, address),
                (Kind::Stations, "iface_index . ether_addr"),
                (Kind::Groups, "cgroupsv2"),
            ] {
                // Kernels before 5.13 know nothing of groups.
                if kind == Kind::Groups && plan.locals.is_empty() {
                    continue;
                }
                let port = if ports == one { " . inet_service" } else { "" };
                let key = format!("{sender} . {address} . inet_proto{port}");
                sets.push((set_name(false, kind, is_ipv6, ports), key.clone()));
                // Connections of processes of this host are not redirected.
                if plan.has_relay && kind != Kind::Groups {
                    sets.push((set_name(true, kind, is_ipv6, ports), key));
                }
            }
        }
    }
    sets
}

/// Returns the text. `old` is what is in our table already, and `serial` is not that of anything there.
pub(crate) fn script(plan: &Plan, frame: &Frame, old: Option<&Contents>, serial: u64) -> String {
    let mut text = format!("add table inet {TABLE}\nflush table inet {TABLE}\n");
    let kept: BTreeSet<String> = kept_sets(plan).into_iter().map(|(name, _)| name).collect();
    if let Some(old) = old {
        remove_old(&mut text, old, &kept);
    }
    let mut script = Script { text, frame, serial };
    script.line(format_args!("table inet {TABLE} {{"));
    script.sets(plan);
    script.hooks(plan);
    script.ways(plan);
    script.new_flows(plan);
    plan.behind.iter().enumerate().for_each(|(number, behind)| script.sources(number, behind));
    plan.regions.iter().enumerate().for_each(|(number, open)| {
        let name = format!("region_{serial}_{number}");
        script.region(&name, open, &Refusing { chain: "refuse", watched: WATCHED, labels: "" });
    });
    script.locals(plan);
    script.line("}");
    script.text
}

/// Returns the text that removes every trace of us.
pub(crate) fn removal() -> String {
    // Adding it first makes that no error if there is none.
    format!("add table inet {TABLE}\ndelete table inet {TABLE}\n")
}

/// Removes what belongs to another plan. The rules are gone by then; maps hold on to chains, so they go before those.
fn remove_old(text: &mut String, old: &Contents, kept: &BTreeSet<String>) {
    let (maps, sets): (Vec<_>, Vec<_>) = old.sets.iter().partition(|name| name.starts_with("from"));
    for map in maps {
        let _ = writeln!(text, "delete map inet {TABLE} {map}");
    }
    for set in sets {
        // The kernel's own, for sets that stand in a rule, go with the rule.
        let is_anonymous = set.starts_with("__");
        if !is_anonymous && !kept.contains(set) && !CUT_SETS.contains(&set.as_str()) {
            let _ = writeln!(text, "delete set inet {TABLE} {set}");
        }
    }
    for chain in old.chains.iter().filter(|chain| chain.contains('_')) {
        let _ = writeln!(text, "delete chain inet {TABLE} {chain}");
    }
}

/// What becomes of packets that a region's chain is asked about.
struct Refusing<'a> {
    /// The chain for those that it does not let through.
    chain: &'a str,
    /// The prefix of what is logged of those that it does in report mode alone.
    watched: &'a str,
    /// What is said of a connection besides that it was let through.
    labels: &'a str,
}

struct Script<'a> {
    text: String,
    frame: &'a Frame,
    serial: u64,
}

impl Script<'_> {
    fn line(&mut self, line: impl Display) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{line}");
    }

    fn chain(&mut self, name: &str, lines: &[String]) {
        self.line(format_args!("chain {name} {{"));
        lines.iter().for_each(|line| self.line(line));
        self.line("}");
    }

    fn sets(&mut self, plan: &Plan) {
        let size = self.frame.size;
        for (name, key) in kept_sets(plan) {
            let counted = if self.frame.is_counted { " counter;" } else { "" };
            self.line(format_args!(
                "set {name} {{ type {key}; flags dynamic, timeout; size {size};{counted} }}"
            ));
        }
        for (name, address) in CUT_SETS.into_iter().zip(["ipv4_addr", "ipv6_addr"]) {
            self.line(format_args!(
                "set {name} {{ type {address} . {address} . inet_service . inet_service; flags dynamic, timeout; size {size}; }}"
            ));
        }
        for counter in ["allowed", "refused", "spoofed", "relayed"] {
            self.line(format_args!("counter {counter} {{ }}"));
        }
    }

    /// Where the kernel hands packets over. Ours come before the usual filters: what we refuse stays refused, and what we let
    /// through those may still refuse.
    fn hooks(&mut self, plan: &Plan) {
        let devices = plan.behind.iter().map(|behind| format!("\"{}\"", behind.device.name()));
        let devices: Vec<String> = devices.collect();
        let hook = |hook| format!("type filter hook {hook} priority filter - 10; policy accept;");
        let nat = "type nat hook prerouting priority dstnat - 10; policy accept;".to_owned();
        let (mut forward, mut input, mut output, mut prerouting) =
            (vec![hook("forward")], vec![hook("input")], vec![hook("output")], vec![nat]);
        // First of all: what processes of this host send to clients is theirs to answer for, too.
        let redirected = self.hook_locals(&mut output, &mut input);
        if !devices.is_empty() {
            let devices = format!("{{ {} }}", devices.join(", "));
            for bridge in plan.behind.iter().filter(|behind| behind.device.is_bridge()) {
                let name = bridge.device.name();
                let within = format!("iifname \"{name}\" oifname \"{name}\"");
                // Or somebody begins a flow to himself in the name of a host outside, whose answers he then sends there.
                forward.push(format!("{within} ct state new {SPOOFED_SOURCE}"));
                forward.push(format!("{within} accept"));
            }
            forward.push(format!("iifname {devices} goto through"));
            forward.push(format!("oifname {devices} goto towards"));
            input.push(format!("iifname {devices} goto here"));
            output.push(format!("oifname {devices} goto towards"));
            prerouting.push(format!("iifname {devices} meta l4proto {{ tcp, udp }} th dport 53 goto names"));
            prerouting.push(format!("iifname {devices} meta l4proto tcp goto relayed"));
        }
        // Those that are jumped to first.
        self.chain("refuse", &refuse(REFUSED));
        self.chain("spoofed", &[logged(SPOOFED), "counter name spoofed drop".to_owned()]);
        self.chain("towards", &towards());
        self.chain("names", &self.redirect());
        self.chain("relayed", &self.relayed(plan));
        let used = self.used();
        self.chain("used", &used);
        self.text.push_str("chain decide { }\n");
        self.chain("through", &passing(&self.name_servers(), false));
        self.chain("here", &passing(&self.doors(), true));
        self.chain("forward", &forward);
        self.chain("input", &input);
        self.chain("output", &output);
        self.chain("prerouting", &prerouting);
        if let Some(redirected) = redirected {
            self.chain("redirected", &redirected);
        }
    }

    /// All that is asked on port 53 comes to us, whomever it was sent to.
    fn redirect(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (family, is_ipv6) in [("ipv4", false), ("ipv6", true)] {
            let ours = self.frame.dns.iter().filter(|listener| listener.is_ipv6() == is_ipv6);
            let ours: Vec<&SocketAddr> = ours.filter(|listener| !listener.ip().is_loopback()).collect();
            let ip = if is_ipv6 { "ip6" } else { "ip" };
            for (device, address) in &self.frame.addresses {
                if let Some(own) = ours.iter().find(|listener| listener.ip() == *address) {
                    lines.push(format!("iifname \"{device}\" meta nfproto {family} meta l4proto {{ tcp, udp }} dnat {ip} to {own}"));
                }
            }
            match ours.first() {
                Some(any) if any.ip().is_unspecified() => {
                    lines.push(format!(
                        "meta nfproto {family} meta l4proto {{ tcp, udp }} redirect to :{}",
                        any.port()
                    ));
                }
                Some(first) => lines
                    .push(format!("meta nfproto {family} meta l4proto {{ tcp, udp }} dnat {ip} to {first}")),
                None => {}
            }
        }
        lines
    }

    /// The name servers that are asked elsewhere, whatever the policy says: those of other hosts, if any are.
    fn name_servers(&self) -> Vec<String> {
        let addressed = self.frame.dns.iter().filter(|server| !server.ip().is_unspecified());
        let lines = addressed.map(|server| {
            let ip = if server.is_ipv6() { "ip6" } else { "ip" };
            format!(
                "{ip} daddr {} meta l4proto {{ tcp, udp }} th dport {} accept",
                server.ip(),
                server.port()
            )
        });
        lines.collect()
    }

    /// New connections that are the relay's: to addresses that stand for names, and to what was opened by name with the
    /// relay in between. What names have opened otherwise does not come to pass first: this is asked before any filter.
    fn relayed(&self, plan: &Plan) -> Vec<String> {
        let mut lines = Vec::new();
        for is_ipv6 in [false, true] {
            let mut relay = self.frame.relay.iter().filter(|listener| listener.is_ipv6() == is_ipv6);
            let Some(relay) = relay.next() else { continue };
            let ip = if is_ipv6 { "ip6" } else { "ip" };
            let target = if relay.ip().is_unspecified() {
                format!("counter name relayed redirect to :{}", relay.port())
            } else {
                format!("counter name relayed dnat {ip} to {relay}")
            };
            let stand_ins = self.frame.stand_ins.iter().filter(|net| net.addr().is_ipv6() == is_ipv6);
            lines.extend(stand_ins.map(|net| format!("meta l4proto tcp {ip} daddr {net} {target}")));
            if !plan.has_relay {
                continue;
            }
            let one = exeat_model::Port::HTTP.into();
            for ports in std::iter::once(one).chain(plan.ranges.iter().copied()) {
                let only = if ports == one {
                    String::new()
                } else {
                    format!("th dport {}-{} ", ports.first(), ports.last())
                };
                let opened = self.opened(true, is_ipv6, ports).into_iter();
                lines.extend(opened.map(|renewing| format!("meta l4proto tcp {only}{renewing} {target}")));
            }
        }
        lines
    }

    /// What clients may connect to here whatever the policy says.
    fn doors(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (listener, protocols) in self
            .frame
            .dns
            .iter()
            .map(|listener| (listener, "{ tcp, udp }"))
            .chain(self.frame.doors.iter().map(|listener| (listener, "tcp")))
        {
            let port = listener.port();
            let (family, ip) = if listener.is_ipv6() { ("ipv6", "ip6") } else { ("ipv4", "ip") };
            if listener.ip().is_unspecified() {
                lines.push(format!("meta nfproto {family} meta l4proto {protocols} th dport {port} accept"));
            } else {
                let address = listener.ip();
                lines.push(format!("{ip} daddr {address} meta l4proto {protocols} th dport {port} accept"));
            }
        }
        lines
    }

    /// The chain of each range of ports: what was opened by name for all of it.
    fn ways(&mut self, plan: &Plan) {
        for &range in &plan.ranges {
            let lines = self.by_name(range);
            let name = range_chain(range);
            self.chain(&name, &lines);
        }
    }

    /// A packet of a flow that was let through keeps open what let it through, if that is one port: whoever connects again
    /// after hours finds what it uses. It passes in any case.
    fn used(&self) -> Vec<String> {
        let one = exeat_model::Port::HTTP.into();
        let renewing = self.both_families(one).into_iter().map(|renewing| format!("{renewing} accept"));
        renewing.chain(["accept".to_owned()]).collect()
    }

    /// Lets through what was opened by name for these ports, and renews it.
    fn by_name(&self, ports: PortRange) -> Vec<String> {
        let opened = self.both_families(ports).into_iter();
        opened
            .map(|renewing| format!("{renewing} ct label set {LABEL} counter name allowed accept"))
            .collect()
    }

    /// What matches a packet that fits an element of those that pass, and renews that.
    fn both_families(&self, ports: PortRange) -> Vec<String> {
        [false, true].into_iter().flat_map(|is_ipv6| self.opened(false, is_ipv6, ports)).collect()
    }

    /// The same of one family, of those that are redirected or those that pass.
    fn opened(&self, is_relayed: bool, is_ipv6: bool, ports: PortRange) -> Vec<String> {
        let seconds = self.frame.lifetime.as_secs();
        let port = if ports.first() == ports.last() { " . th dport" } else { "" };
        let ip = if is_ipv6 { "ip6" } else { "ip" };
        let mut lines = Vec::new();
        for kind in [Kind::Names, Kind::Stations] {
            let set = set_name(is_relayed, kind, is_ipv6, ports);
            let sender =
                if kind == Kind::Stations { "iif . ether saddr".to_owned() } else { format!("{ip} saddr") };
            let key = format!("{sender} . {ip} daddr . meta l4proto{port}");
            lines.push(format!("{key} @{set} update @{set} {{ {key} timeout {seconds}s }}"));
        }
        lines
    }

    /// The decision on a new flow.
    fn new_flows(&mut self, plan: &Plan) {
        let mut lines = vec![
            MIDDLE.to_owned(),
            "meta l4proto != { tcp, udp } goto refuse".to_owned(),
            // Names are asked of us alone.
            "th dport 53 goto refuse".to_owned(),
        ];
        lines.extend(self.by_name(exeat_model::Port::HTTP.into()));
        let ranges: Vec<String> = plan
            .ranges
            .iter()
            .map(|range| format!("{}-{} : jump {}", range.first(), range.last(), range_chain(*range)))
            .collect();
        if !ranges.is_empty() {
            lines.push(format!("th dport vmap {{ {} }}", ranges.join(", ")));
        }
        let serial = self.serial;
        for (number, behind) in plan.behind.iter().enumerate() {
            let chain = format!("behind_{serial}_{number}");
            self.line(format_args!("chain {chain} {{ }}"));
            lines.push(format!("iifname \"{}\" goto {chain}", behind.device.name()));
        }
        lines.push("goto refuse".to_owned());
        self.chain("decide", &lines);
    }

    /// Who is at which addresses behind a device.
    fn sources(&mut self, number: usize, behind: &Behind) {
        let serial = self.serial;
        let regions: BTreeSet<usize> = behind.sources.iter().map(|source| source.region).collect();
        for region in regions {
            self.line(format_args!("chain region_{serial}_{region} {{ }}"));
        }
        let mut lines = Vec::new();
        for (is_ipv6, ip, kind) in [(false, "ip", "ipv4_addr"), (true, "ip6", "ipv6_addr")] {
            let of_family = |source: &&Source| source.block.first().is_ipv6() == is_ipv6;
            let elements = behind.sources.iter().filter(of_family);
            let elements: Vec<String> = elements
                .map(|source| format!("{} : goto region_{serial}_{}", span(&source.block), source.region))
                .collect();
            if elements.is_empty() {
                continue;
            }
            let map = format!("from_{serial}_{number}_{}", if is_ipv6 { 6 } else { 4 });
            self.line(format_args!(
                "map {map} {{ type {kind} : verdict; flags interval; elements = {{ {} }} }}",
                elements.join(", ")
            ));
            lines.push(format!("{ip} saddr vmap @{map}"));
        }
        lines.push("goto refuse".to_owned());
        self.chain(&format!("behind_{serial}_{number}"), &lines);
    }

    /// What may be reached without a name.
    fn region(&mut self, name: &str, open: &[Network], refusing: &Refusing<'_>) {
        let Refusing { chain, watched, labels } = refusing;
        // Forms of IPv6 that carry another address, which no interval tells apart.
        let closed = ["ip6 daddr & ::fdff:ffff:0:0 == ::5efe:0:0", "ip6 daddr { 2001::/32, 64:ff9b:1::/48 }"];
        let mut lines: Vec<String> = closed.map(|form| format!("{form} goto {chain}")).to_vec();
        for (is_watched, suffix, log) in
            [(false, "", String::new()), (true, "_watched", logged_part(watched))]
        {
            for (is_ipv6, ip, kind) in [(false, "ip", "ipv4_addr"), (true, "ip6", "ipv6_addr")] {
                let fits = |network: &&Network| {
                    network.is_watched == is_watched && network.block.first().is_ipv6() == is_ipv6
                };
                let elements: Vec<String> = open.iter().filter(fits).map(element).collect();
                if elements.is_empty() {
                    continue;
                }
                let set = format!("{name}_{}{suffix}", if is_ipv6 { 6 } else { 4 });
                self.line(format_args!(
                    "set {set} {{ type {kind} . inet_proto . inet_service; flags interval; elements = {{ {} }} }}",
                    elements.join(", ")
                ));
                let key = format!("{ip} daddr . meta l4proto . th dport @{set}");
                if is_watched {
                    lines.push(format!("{key} {log}"));
                }
                lines.push(format!("{key} ct label set {LABEL} {labels}counter name allowed accept"));
            }
        }
        lines.push(format!("goto {chain}"));
        self.chain(name, &lines);
    }
}

/// What hosts of one link say to each other in IPv6.
const NEIGHBOURS: &str = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld-listener-report, mld2-listener-report } accept";

/// What is not from where answers to it would go.
const SPOOFED_SOURCE: &str = "fib saddr . iif oif missing goto spoofed";

/// What clients ask our own DHCP server, if there is one: without an address they reach nobody.
const LEASES: [&str; 2] = [
    "ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept",
    "ip6 saddr fe80::/10 udp sport 546 udp dport 547 accept",
];

/// What passes because of what came before.
const FLOWS: [&str; 3] = [
    "ct state invalid counter name refused drop",
    "ct direction reply accept",
    "ct state related meta l4proto { icmp, ipv6-icmp } accept",
];

/// What is in the middle of a connection that we did not let through, or no longer.
const MIDDLE: &str = "tcp flags & (fin | syn | rst | ack) != syn counter name refused reject with tcp reset";

/// Resets who began a connection that has been cut, and says that this is done.
fn cut() -> String {
    format!("meta l4proto tcp ct label {CUT} ct label set {RESET} counter name refused reject with tcp reset")
}

/// What every packet from a client goes through, to this host if `is_here`; `first` is what passes whatever the policy says.
fn passing(first: &[String], is_here: bool) -> Vec<String> {
    let mut lines = Vec::new();
    if is_here {
        // Without these there is no IPv6 at all.
        lines.push(NEIGHBOURS.to_owned());
    }
    lines.push(SPOOFED_SOURCE.to_owned());
    if is_here {
        lines.extend(LEASES.map(str::to_owned));
    }
    lines.extend_from_slice(first);
    lines.push(cut());
    lines.extend(FLOWS.map(str::to_owned));
    lines.push(format!("ct state established ct label {LABEL} goto used"));
    lines.push("goto decide".to_owned());
    lines
}

/// Packets to clients: what others begin is not ours to judge, but what we have cut must not begin again from there.
fn towards() -> Vec<String> {
    let mut lines = vec![reset(), "ct state != new accept".to_owned(), MIDDLE.to_owned()];
    lines.extend(apart());
    lines
}

/// What a client receives, it answers, and is reset by that. Only then its server is.
fn reset() -> String {
    format!("ct label {RESET} tcp flags & rst != rst counter name refused reject with tcp reset")
}

/// Datagrams of flows that have been cut, from their other side.
fn apart() -> Vec<String> {
    let mut lines = Vec::new();
    for (ip, set) in [("ip", "cut4"), ("ip6", "cut6")] {
        let key = format!("{ip} daddr . {ip} saddr . udp dport . udp sport");
        lines.push(format!(
            "{key} @{set} update @{set} {{ {key} timeout {}s }} counter name refused reject with icmpx type admin-prohibited",
            CUT_FOR.as_secs()
        ));
    }
    lines
}

/// No packet is dropped that its sender should know of. ICMP is sent to one address some six times at once and then once a
/// second, whoever asks for it; a reset has no such bound, so that is what TCP gets.
fn refuse(prefix: &str) -> Vec<String> {
    vec![
        "counter name refused".to_owned(),
        logged(prefix),
        "meta l4proto tcp reject with tcp reset".to_owned(),
        "reject with icmpx type admin-prohibited".to_owned(),
    ]
}

fn logged(prefix: &str) -> String {
    logged_part(prefix)
}

fn logged_part(prefix: &str) -> String {
    format!(
        "limit rate {LOGGED_PER_SECOND}/second burst {LOGGED_AT_ONCE} packets log prefix \"{prefix}\" group {LOG_GROUP} snaplen {LOGGED_BYTES}"
    )
}

fn range_chain(range: PortRange) -> String {
    format!("ports_{}_{}", range.first(), range.last())
}

fn element(network: &Network) -> String {
    format!(
        "{} . {} . {}-{}",
        span(&network.block),
        network.transport,
        network.ports.first(),
        network.ports.last()
    )
}

/// A block as `nft` reads it wherever it stands: never as a network, since its parts are joined by the same sign.
fn span(block: &IpBlock) -> String {
    if block.first() == block.last() {
        block.first().to_string()
    } else {
        format!("{}-{}", block.first(), block.last())
    }
}
