//! Whether the firewall is as it should be, told by what the kernel itself says.

use crate::{kernel::Kernel, nft, wire::TABLE};

/// Something that was looked at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// Whether it is as it should be.
    pub is_well: bool,
    /// What was found, for people.
    pub text: String,
}

/// Where the kernel hands packets of both families to us, and of what.
const HOOKS: [(&str, &str); 4] = [
    ("prerouting", "what clients ask of name servers"),
    ("input", "what clients send to this host"),
    ("forward", "what clients send beyond this host"),
    ("output", "what this host sends to clients"),
];

/// Looks at the program, the kernel, and our rules in this network namespace.
#[must_use]
pub fn doctor() -> Vec<Finding> {
    let mut findings = Vec::new();
    match nft::version() {
        Ok(version) => findings.push(well(format!("nft {version}"))),
        Err(error) => {
            findings.push(bad(error.to_string()));
            return findings;
        }
    }
    let contents = Kernel::connect().and_then(|mut kernel| kernel.contents());
    match contents {
        Ok(Some(contents)) => {
            findings.push(well(format!("the table `inet {TABLE}` is there")));
            for (set, family) in [("names4", "IPv4"), ("names6", "IPv6")] {
                let is_there = contents.sets.iter().any(|other| other == set);
                findings.push(finding(is_there, format!("{family}: there is a set for what names open")));
            }
            for (hook, what) in HOOKS {
                let is_hooked = contents.hooked.iter().any(|chain| chain == hook);
                findings.push(finding(is_hooked, format!("IPv4 and IPv6: the kernel asks us about {what}")));
            }
        }
        Ok(None) => {
            findings.push(bad(format!("there is no table `inet {TABLE}` here: nothing is held to a policy")));
            return findings;
        }
        Err(error) => {
            findings.push(bad(format!("the kernel does not tell its tables: {error}")));
            return findings;
        }
    }
    findings
}

fn finding(is_well: bool, text: String) -> Finding {
    Finding { is_well, text }
}

fn well(text: String) -> Finding {
    Finding { is_well: true, text }
}

fn bad(text: String) -> Finding {
    Finding { is_well: false, text }
}
