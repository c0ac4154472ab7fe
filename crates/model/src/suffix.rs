//! Names under which others can register, and zones that are not part of the public DNS.

use psl::{List, Psl, Type};

use crate::name::DnsName;

/// What the Public Suffix List says of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SuffixKind {
    /// In the list's ICANN section (`com`, `co.uk`), or a single label.
    Icann,
    /// In the list's private section (`github.io`): one operator's, with many registrants below.
    Private,
    /// A name that somebody holds, with all below it.
    NotASuffix,
}

/// Zones that never resolve in the public DNS, or that networks use for their own names. Each holds
/// for the zone's own name and everything below it.
pub const CLOSED_ZONES: &[&str] = &[
    "localhost", // RFC 6761 §6.3
    "test",      // RFC 6761 §6.2
    "invalid",   // RFC 6761 §6.4
    "local",     // RFC 6762 §3: multicast DNS
    "onion",     // RFC 7686
    "home.arpa", // RFC 8375
    "alt",       // RFC 9476
    "internal",  // reserved by ICANN for private use (Board resolution 2024.07.29.06)
    "intranet",  // RFC 6762 appendix G, with the next four
    "private",
    "corp",
    "home",
    "lan",
    "svc", // Kubernetes services by their short names, which a search list completes
];

/// Returns what registering below `name` takes.
///
/// A single label is [`SuffixKind::Icann`] whether the list has it or not: a wildcard below it is as
/// wide as `*.com`. A name whose children are suffixes by a wildcard of the list (`kawasaki.jp`,
/// by `*.kawasaki.jp`) is of its children's kind, because a wildcard below it covers all of them.
#[must_use]
pub fn suffix_kind(name: &DnsName) -> SuffixKind {
    if name.is_single_label() {
        return SuffixKind::Icann;
    }
    // No name in the list has this label, so only a wildcard can make it a suffix.
    let child = format!("any-label-at-all.{name}");
    listed(name.as_str()).or_else(|| listed(&child)).unwrap_or(SuffixKind::NotASuffix)
}

/// The section that lists `name` itself as a suffix.
fn listed(name: &str) -> Option<SuffixKind> {
    let suffix = List.suffix(name.as_bytes())?;
    if suffix.as_bytes() != name.as_bytes() {
        return None;
    }
    match suffix.typ()? {
        Type::Icann => Some(SuffixKind::Icann),
        Type::Private => Some(SuffixKind::Private),
    }
}

/// Returns whether `name` is a single label, or lies in one of [`CLOSED_ZONES`].
#[must_use]
pub fn in_closed_zone(name: &DnsName) -> bool {
    name.is_single_label()
        || std::iter::once(name.as_str()).chain(name.parents()).any(|zone| CLOSED_ZONES.contains(&zone))
}

#[cfg(test)]
mod tests;
