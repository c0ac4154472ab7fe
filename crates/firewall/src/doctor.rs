//! Whether the firewall is as it should be: by what the kernel says of our rules, and by packets that are sent from where
//! clients are and have to be refused.

mod bridge;
mod probe;
mod tproxy;
mod vantage;

use std::fs;

use crate::{kernel::Kernel, nft, wire::TABLE};

/// Something that was looked at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// What came of it.
    pub grade: Grade,
    /// What was found, for people.
    pub text: String,
}

/// What came of looking at something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Grade {
    /// It is as it should be.
    Well,
    /// It is not.
    Bad,
    /// It could not be found out.
    Unproven,
}

/// What answers questions for names.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum NameServer {
    /// This program.
    Ours,
    /// Another one, which this program hears of.
    Elsewhere,
    /// There is none.
    #[default]
    Nobody,
}

/// What answers them in each address family.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NameServers {
    /// IPv4.
    pub v4: NameServer,
    /// IPv6.
    pub v6: NameServer,
}

/// What is held to the policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Attachment {
    /// The clients behind a network device of this name.
    Device(String),
    /// The processes of the control group of this path.
    Group(String),
}

/// Where the kernel hands packets of both families to us, and of what.
const HOOKS: [(&str, &str); 4] = [
    ("prerouting", "what clients ask of name servers"),
    ("input", "what clients send to this host"),
    ("forward", "what clients send beyond this host"),
    ("output", "what this host sends to clients"),
];

/// Looks at the program, the kernel, and our rules in this network namespace. Then it sends packets from where the clients
/// of each attachment are, to addresses that are nobody's: from a network of its own that is a port of a bridge for the
/// time being, from the network at the other end of a veth pair, from a process in a control group. It takes some seconds,
/// and leaves nothing behind. This process goes into each control group for that time. `names` answers clients of devices.
#[must_use]
pub fn doctor(attached: &[Attachment], names: NameServers) -> Vec<Finding> {
    let mut findings = Vec::new();
    match nft::version() {
        Ok(version) => findings.push(well(format!("nft {version}"))),
        Err(error) => {
            findings.push(bad(error.to_string()));
            return findings;
        }
    }
    findings.extend(tproxy::look());
    let looked = Kernel::connect().and_then(|mut kernel| Ok((kernel.contents()?, kernel)));
    let mut kernel = match looked {
        Ok((Some(contents), kernel)) => {
            findings.push(well(format!("the table `inet {TABLE}` is there")));
            for (set, family) in [("names4", "IPv4"), ("names6", "IPv6")] {
                let is_there = contents.sets.iter().any(|other| other == set);
                findings.push(finding(is_there, format!("{family}: there is a set for what names open")));
            }
            for (hook, what) in HOOKS {
                let is_hooked = contents.hooked.iter().any(|chain| chain == hook);
                findings.push(finding(is_hooked, format!("IPv4 and IPv6: the kernel asks us about {what}")));
            }
            kernel
        }
        Ok((None, _)) => {
            findings.push(bad(format!("there is no table `inet {TABLE}` here: nothing is held to a policy")));
            return findings;
        }
        Err(error) => {
            findings.push(bad(format!("the kernel does not tell its tables: {error}")));
            return findings;
        }
    };
    for attachment in attached {
        match attachment {
            Attachment::Device(name) => vantage::of_device(name, names, &mut kernel, &mut findings),
            Attachment::Group(path) => vantage::of_group(path, &mut kernel, &mut findings),
        }
    }
    findings.extend(pitfalls(attached));
    findings
}

/// Settings of the kernel that surprise.
fn pitfalls(attached: &[Attachment]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let has_devices = attached.iter().any(|attachment| matches!(attachment, Attachment::Device(_)));
    if has_devices && is_on("/proc/sys/net/bridge/bridge-nf-call-iptables") {
        findings.push(well(
            "bridge-nf-call-iptables is 1: packets between clients of one bridge meet rules, and pass ours"
                .to_owned(),
        ));
    }
    for (family, path) in
        [("IPv4", "/proc/sys/net/ipv4/ip_forward"), ("IPv6", "/proc/sys/net/ipv6/conf/all/forwarding")]
    {
        if has_devices && !is_on(path) {
            findings.push(unproven(format!(
                "{family}: this host forwards nothing ({path} is not 1), for anybody"
            )));
        }
    }
    findings
}

fn is_on(path: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}

fn finding(is_well: bool, text: String) -> Finding {
    if is_well { well(text) } else { bad(text) }
}

fn well(text: String) -> Finding {
    Finding { grade: Grade::Well, text }
}

fn bad(text: String) -> Finding {
    Finding { grade: Grade::Bad, text }
}

fn unproven(text: String) -> Finding {
    Finding { grade: Grade::Unproven, text }
}
