//! The host as the gateway of containers whose connections the kernel redirects to the proxy.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::container::Container;

/// Has the kernel redirect what comes in by any cable: questions to 5353, connections to 3141 and, of IPv6, to 3142.
///
/// # Errors
/// When `nft` is missing or fails.
pub fn redirect() -> Result<()> {
    // Every address is local in this world, so what is ours is told by its network.
    let rules = "table inet world {
        chain redirected { type nat hook prerouting priority dstnat;
            iifname \"cable*\" meta l4proto { tcp, udp } th dport 53 redirect to :5353
            iifname \"cable*\" ip daddr != 10.97.0.0/16 meta l4proto tcp redirect to :3141
            iifname \"cable*\" ip6 daddr != fd97::/16 meta l4proto tcp redirect to :3142
        }
    }";
    nft(rules)
}

/// Sets these rules.
///
/// # Errors
/// When `nft` is missing or refuses.
pub fn nft(rules: &str) -> Result<()> {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
    nft.stdin.take().context("stdin of nft")?.write_all(rules.as_bytes())?;
    ensure!(nft.wait()?.success(), "nft (package nftables)");
    Ok(())
}

/// A container with addresses of both families that sends everything to us.
///
/// # Errors
/// When a tool is missing or fails.
pub fn container(number: u8) -> Result<Container> {
    let device = format!("cable{number}");
    let at = |host: u8| [format!("10.97.{number}.{host}/24"), format!("fd97:{number}::{host}/64")];
    let (ours, theirs) = (at(1), at(2));
    let container = Container::with_cable(&device, &[&ours[0], &ours[1]], &[&theirs[0], &theirs[1]])?;
    container.route_by(&format!("10.97.{number}.1"))?;
    container.route_by(&format!("fd97:{number}::1"))?;
    Ok(container)
}
