//! What the kernel does with packets inside: connections go to the proxy, everything else is refused at once.

use std::fmt::Write;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::network::REDIRECTED;

/// The table of the rules, in the family `inet`, and its counters: of datagrams of UDP that are refused, and of all else that is.
pub(crate) const TABLE: &str = "exeat";
pub(crate) const DATAGRAMS: &str = "datagrams";
pub(crate) const OTHERS: &str = "others";

/// Why the rules are not in force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RedirectError {
    #[error("there is no program `nft`")]
    Missing,
    #[error("`{}` cannot be run", .0.display())]
    Unusable(PathBuf, #[source] std::io::Error),
    #[error("nft ended with {status}: {said}")]
    Refused { status: std::process::ExitStatus, said: String },
}

/// `nft`, which puts the rules in force meanwhile.
pub(crate) struct Loading {
    nft: PathBuf,
    child: Child,
}

/// Has the rules take force. They do not before the end of it has been [waited for](Loading::finish).
pub(crate) fn begin() -> Result<Loading, RedirectError> {
    let nft = exeat_firewall::program("nft").ok_or(RedirectError::Missing)?;
    let unusable = |error| RedirectError::Unusable(nft.clone(), error);
    let mut child = Command::new(&nft)
        .args(["-f", "-"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(unusable)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules().as_bytes()).map_err(unusable)?;
    }
    Ok(Loading { nft, child })
}

impl Loading {
    /// Returns once they are in force.
    pub(crate) fn finish(self) -> Result<(), RedirectError> {
        let Self { nft, child } = self;
        let output = child.wait_with_output().map_err(|error| RedirectError::Unusable(nft, error))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or_default().to_owned();
        Err(RedirectError::Refused { status: output.status, said })
    }
}

/// Loopback is the command's own. A connection that was redirected goes to loopback from there on, and what answers it belongs
/// to it. Nothing else passes.
fn rules() -> String {
    let mut redirects = String::new();
    for to in REDIRECTED {
        let family = if to.is_ipv4() { "ipv4" } else { "ipv6" };
        // Writing to a string cannot fail.
        let _ = writeln!(redirects, "    meta nfproto {family} meta l4proto tcp redirect to :{}", to.port());
    }
    format!(
        "table inet {TABLE} {{
  counter {DATAGRAMS} {{ }}
  counter {OTHERS} {{ }}
  chain to_proxy {{
    type nat hook output priority -100; policy accept;
    ip daddr 127.0.0.0/8 return
    ip6 daddr ::1 return
{redirects}  }}
  chain nothing_else {{
    type filter hook output priority 0; policy drop;
    ip daddr 127.0.0.0/8 accept
    ip6 daddr ::1 accept
    ct state established,related accept
    meta l4proto tcp reject with tcp reset
    meta l4proto udp counter name {DATAGRAMS}
    meta l4proto != udp counter name {OTHERS}
    reject with icmpx type admin-prohibited
  }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_are_redirected_and_loopback_is_not() {
        let rules = rules();
        let at = |text: &str| rules.find(text).unwrap_or_else(|| panic!("{text} is missing from {rules}"));
        assert!(at("ip daddr 127.0.0.0/8 return") < at("nfproto ipv4 meta l4proto tcp redirect to :3129"));
        assert!(at("ip6 daddr ::1 return") < at("nfproto ipv6 meta l4proto tcp redirect to :3129"));
        assert!(at("hook output priority 0; policy drop;") < at("reject with icmpx"));
    }
}
