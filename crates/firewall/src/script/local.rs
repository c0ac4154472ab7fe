//! The part of the text that is about processes of this host, by their control group.
//!
//! What they send meets the same decisions as what comes by a device, but for this: they are known by their group and not
//! by an address; what stays on this host is no egress; and they ask for names at a listener of their own, on a loopback
//! address, which is how that knows them.

use std::net::SocketAddr;

use super::{
    FLOWS, Held, LABEL, MIDDLE, NEIGHBOURS, OWN_MARK, REFUSED, Refusing, Script, WATCHED, apart, cut,
    range_chain, refuse, reset,
};
use crate::{
    element::{Kind, set_name},
    plan::Plan,
};

impl Script<'_> {
    /// Leads what processes of groups send to their chains, before anything else is looked at, and has what we have cut not
    /// begin again from the other side. Returns the lines of the chain that leads what they ask for names to us; `None` if no
    /// group is held.
    pub(super) fn hook_locals(
        &mut self,
        output: &mut Vec<String>,
        input: &mut Vec<String>,
    ) -> Option<Vec<String>> {
        let serial = self.serial;
        let frame = self.frame;
        if frame.groups.is_empty() {
            return None;
        }
        let mut redirected = vec!["type nat hook output priority -110; policy accept;".to_owned()];
        if frame.is_marked {
            let ours = format!("meta mark {OWN_MARK:#x} accept");
            output.push(ours.clone());
            redirected.push(ours);
        }
        for held in &frame.groups {
            let (number, is_theirs) = (held.number, is_theirs(held));
            self.line(format_args!("chain local_{serial}_{number} {{ }}"));
            output.push(format!("{is_theirs} goto local_{serial}_{number}"));
            self.chain(&format!("lnames_{serial}_{number}"), &names(&held.dns));
            redirected.push(format!(
                "{is_theirs} meta l4proto {{ tcp, udp }} th dport 53 goto lnames_{serial}_{number}"
            ));
        }
        // The label is one that we have set, and the addresses those of a flow that was ours: that may be of a client, too.
        input.push(reset());
        input.extend(apart());
        // Nobody else asks there, or what that opened would be open for the group.
        let listeners = frame.groups.iter().flat_map(|held| &held.dns);
        self.text.push_str("chain refuse { }\n");
        output.extend(listeners.map(|listener| format!("{} goto refuse", at(*listener))));
        Some(redirected)
    }

    /// The chains of each group.
    pub(super) fn locals(&mut self, plan: &Plan) {
        let serial = self.serial;
        let frame = self.frame;
        for held in &frame.groups {
            let number = held.number;
            let prefix = format!("{REFUSED} {}", held.slot);
            let refusing = format!("lrefuse_{serial}_{number}");
            self.chain(&refusing, &refuse(&prefix));
            let used = self.local_opened(held, exeat_model::Port::HTTP.into()).into_iter();
            let used = used.map(|renewing| format!("{renewing} accept")).chain(["accept".to_owned()]);
            self.chain(&format!("lused_{serial}_{number}"), &used.collect::<Vec<_>>());
            let region = plan.locals.get(number).and_then(|local| plan.regions.get(local.region?));
            let region_name = format!("region_{serial}_l{number}");
            if let Some(open) = region {
                let (watched, labels) = (format!("{WATCHED} {}", held.slot), labels(held));
                let refusing = Refusing { chain: &refusing, watched: &watched, labels: &labels };
                self.region(&region_name, open, &refusing);
            }
            let then = if region.is_some() { &region_name } else { &refusing };
            self.local_decision(plan, held, &refusing, then);
            let lines = self.local_passing(held, &refusing);
            self.chain(&format!("local_{serial}_{number}"), &lines);
        }
    }

    /// What every packet of a group goes through.
    fn local_passing(&self, held: &Held, refusing: &str) -> Vec<String> {
        let (serial, number) = (self.serial, held.number);
        let mut lines = vec![NEIGHBOURS.to_owned()];
        lines.push(cut());
        lines.extend(FLOWS.map(str::to_owned));
        for listener in self.frame.groups.iter().flat_map(|other| &other.dns) {
            let verdict =
                if held.dns.contains(listener) { "accept".to_owned() } else { format!("goto {refusing}") };
            lines.push(format!("{} {verdict}", at(*listener)));
        }
        for closed in &self.frame.closed {
            lines.push(format!("oif \"lo\" {} goto {refusing}", at(*closed)));
        }
        lines.push("oif \"lo\" accept".to_owned());
        lines.push(format!("ct state established ct label {LABEL} goto lused_{serial}_{number}"));
        lines.push(format!("goto ldecide_{serial}_{number}"));
        lines
    }

    /// The decision on a new flow.
    fn local_decision(&mut self, plan: &Plan, held: &Held, refusing: &str, then: &str) {
        let (serial, number) = (self.serial, held.number);
        let mut lines = vec![
            MIDDLE.to_owned(),
            format!("meta l4proto != {{ tcp, udp }} goto {refusing}"),
            format!("th dport 53 goto {refusing}"),
        ];
        lines.extend(self.local_by_name(held, exeat_model::Port::HTTP.into()));
        let mut ranges = Vec::new();
        for &range in &plan.ranges {
            let name = format!("l{}_{serial}_{number}", range_chain(range));
            let by_name = self.local_by_name(held, range);
            self.chain(&name, &by_name);
            ranges.push(format!("{}-{} : jump {name}", range.first(), range.last()));
        }
        if !ranges.is_empty() {
            lines.push(format!("th dport vmap {{ {} }}", ranges.join(", ")));
        }
        lines.push(format!("goto {then}"));
        self.chain(&format!("ldecide_{serial}_{number}"), &lines);
    }

    /// Lets through what was opened by name for these ports, and renews it.
    fn local_by_name(&self, held: &Held, ports: exeat_model::PortRange) -> Vec<String> {
        let labels = labels(held);
        let opened = self.local_opened(held, ports).into_iter();
        opened
            .map(|renewing| format!("{renewing} ct label set {LABEL} {labels}counter name allowed accept"))
            .collect()
    }

    /// What matches a packet that fits an element, and renews that.
    fn local_opened(&self, held: &Held, ports: exeat_model::PortRange) -> Vec<String> {
        let seconds = self.frame.lifetime.as_secs();
        let port = if ports.first() == ports.last() { " . th dport" } else { "" };
        let families = [(false, "ip"), (true, "ip6")].into_iter();
        let lines = families.map(|(is_ipv6, ip)| {
            let set = set_name(false, Kind::Groups, is_ipv6, ports);
            let key = format!("socket cgroupv2 level {} . {ip} daddr . meta l4proto{port}", held.level);
            format!("{key} @{set} update @{set} {{ {key} timeout {seconds}s }}")
        });
        lines.collect()
    }
}

fn is_theirs(held: &Held) -> String {
    format!("socket cgroupv2 level {} \"{}\"", held.level, held.nft)
}

/// What is said of a connection that a group began.
fn labels(held: &Held) -> String {
    format!("ct label set {} ", held.slot)
}

/// Leads questions to the listeners of a group.
fn names(dns: &[SocketAddr]) -> Vec<String> {
    let lines = dns.iter().map(|listener| {
        let family = if listener.is_ipv6() { "ipv6" } else { "ipv4" };
        format!("meta nfproto {family} meta l4proto {{ tcp, udp }} redirect to :{}", listener.port())
    });
    lines.collect()
}

/// What matches packets to a listener of ours.
fn at(listener: SocketAddr) -> String {
    let (family, ip) = if listener.is_ipv6() { ("ipv6", "ip6") } else { ("ipv4", "ip") };
    let port = format!("meta l4proto {{ tcp, udp }} th dport {}", listener.port());
    match listener.ip() {
        any if any.is_unspecified() => format!("meta nfproto {family} {port}"),
        address => format!("{ip} daddr {address} {port}"),
    }
}
