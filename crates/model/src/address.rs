//! Addresses in one form, and what each may be used for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::registry;

/// An IP address of which one form exists: IPv4-mapped IPv6 (`::ffff:0:0/96`, RFC 4291 §2.5.5.2) is
/// folded into the IPv4 address that it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CanonicalIp(IpAddr);

/// What an address may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressClass {
    /// Reachable from anywhere: an ordinary destination.
    Global,
    /// Set aside by a registry: a destination only where a rule names the block.
    SpecialUse(SpecialUse),
    /// Not a destination, whatever a rule says.
    Never(Never),
}

/// What a special-use address is set aside for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpecialUse {
    /// This host: `127.0.0.0/8`, `::1`.
    Loopback,
    /// A site's own IPv4 space (RFC 1918).
    Private,
    /// Between a provider and its customers, `100.64.0.0/10` (RFC 6598).
    Shared,
    /// One link: `169.254.0.0/16`, `fe80::/10`.
    LinkLocal,
    /// A site's own IPv6 space, `fc00::/7` (RFC 4193).
    UniqueLocal,
    /// `fec0::/10`, which `fc00::/7` replaced (RFC 3879).
    SiteLocal,
    /// Examples in texts.
    Documentation,
    /// Measurements of network devices.
    Benchmarking,
    /// Black holes: packets sent there are dropped.
    Discard,
    /// IETF protocols that are not reached through the public Internet.
    ProtocolAssignment,
    /// Segment identifiers of SRv6, `5f00::/16` (RFC 9602).
    SegmentRouting,
    /// IPv6 that a translator or an ISATAP router turns into special-use IPv4, or into IPv4 by a
    /// network's own translator (`64:ff9b:1::/48`).
    Translated,
    /// 6to4 and Teredo: the packet leaves inside another one, for an IPv4 address in its bits.
    Tunnelled,
    /// Held back or never allocated.
    Reserved,
}

/// Why an address can never be a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Never {
    /// `0.0.0.0/8` and `::`, which systems connect to themselves.
    Unspecified,
    /// Many receivers: `224.0.0.0/4`, `ff00::/8`.
    Multicast,
    /// `255.255.255.255`.
    Broadcast,
    /// A cloud's metadata or credential service: one of [`METADATA_ADDRESSES`].
    Metadata,
    /// `::/96`, a deprecated way to write IPv4 in IPv6 (RFC 4291 §2.5.5.1).
    Compatible,
}

/// The addresses at which clouds hand credentials and host secrets to whoever can connect.
///
/// [`CanonicalIp::class`] also finds the IPv4 ones inside every IPv6 form that carries IPv4.
pub const METADATA_ADDRESSES: &[IpAddr] = &[
    v4(169, 254, 169, 254), // AWS, Azure, Google, Oracle, OpenStack and most others
    v4(169, 254, 170, 2),   // AWS ECS: task credentials
    v4(169, 254, 170, 23),  // AWS EKS: Pod Identity agent
    v4(169, 254, 42, 42),   // Scaleway
    v4(169, 254, 0, 23),    // Tencent Cloud
    v4(168, 63, 129, 16),   // Azure: WireServer, in public address space
    v4(100, 100, 100, 200), // Alibaba Cloud
    v6([0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200]), // Alibaba Cloud, over IPv6
    v4(100, 96, 0, 96),     // Volcano Engine
    v4(192, 0, 0, 192),     // Oracle Cloud, classic
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254]), // AWS, over IPv6
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23]), // AWS EKS: Pod Identity agent, over IPv6
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]), // Google, over IPv6
    v6([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe]), // Oracle Cloud, over IPv6
    v6([0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1]), // Linode, over IPv6
    v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42]), // Scaleway, over IPv6
    v6([0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe]), // OpenStack, over IPv6
];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h))
}

impl CanonicalIp {
    /// Returns the canonical form of `address`.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }

    /// Returns the address, never an IPv4-mapped one.
    #[must_use]
    pub const fn get(self) -> IpAddr {
        self.0
    }

    /// Returns the IPv4 addresses that the address carries in a form with a fixed place for them: NAT64, SIIT, 6to4,
    /// Teredo (two of them) and ISATAP. None for IPv4, and none for a network's own NAT64 (`64:ff9b:1::/48`), in which the
    /// place is the network's choice.
    pub fn carried(self) -> impl Iterator<Item = Self> {
        let address = match self.0 {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address),
        };
        address.into_iter().flat_map(embedded).map(|address| Self(IpAddr::V4(address)))
    }

    /// Returns what the address may be used for, by the IANA special-purpose registries of both
    /// families, [`METADATA_ADDRESSES`], and the IPv4 address that an IPv6 one carries.
    ///
    /// | the IPv6 address | carries never | carries special-use | carries global |
    /// |---|---|---|---|
    /// | is *never* | never | never | never |
    /// | is special-use (6to4, Teredo and local NAT64 are) | never | special-use | special-use |
    /// | is global | never | `Translated` | global |
    #[must_use]
    pub fn class(self) -> AddressClass {
        match self.0 {
            IpAddr::V4(address) => class_v4(address),
            IpAddr::V6(address) => class_v6(address),
        }
    }
}

fn class_v4(address: Ipv4Addr) -> AddressClass {
    if METADATA_ADDRESSES.contains(&IpAddr::V4(address)) {
        return AddressClass::Never(Never::Metadata);
    }
    registry::class_v4(address)
}

fn class_v6(address: Ipv6Addr) -> AddressClass {
    if METADATA_ADDRESSES.contains(&IpAddr::V6(address)) || local_translation_of_metadata(address) {
        return AddressClass::Never(Never::Metadata);
    }
    let class = registry::class_v6(address);
    if matches!(class, AddressClass::Never(_)) {
        return class;
    }
    embedded(address).map(class_v4).fold(class, |outer, inner| match (outer, inner) {
        (AddressClass::Never(_), _) | (_, AddressClass::Global) => outer,
        (_, AddressClass::Never(_)) => inner,
        (AddressClass::SpecialUse(_), AddressClass::SpecialUse(_)) => outer,
        (AddressClass::Global, AddressClass::SpecialUse(_)) => {
            AddressClass::SpecialUse(SpecialUse::Translated)
        }
    })
}

/// The IPv4 addresses that `address` carries in a form with a fixed place for them. One address can
/// carry several: ISATAP is a form of the lower half, the others of the upper.
fn embedded(address: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let segments = address.segments();
    let [_, _, _, _, interface, isatap, high, low] = segments;
    let upper = match segments {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => [Some(join(high, low)), None], // NAT64, RFC 6052 §2.1
        [0, 0, 0, 0, 0xffff, 0, high, low] => [Some(join(high, low)), None],    // SIIT, RFC 2765 §2.1
        [0x2002, high, low, ..] => [Some(join(high, low)), None],               // 6to4, RFC 3056 §2
        // Teredo, RFC 4380 §4: the server, and the client with all bits flipped.
        [0x2001, 0, high, low, _, _, flipped_high, flipped_low] => {
            [Some(join(high, low)), Some(join(!flipped_high, !flipped_low))]
        }
        _ => [None, None],
    };
    // RFC 5214 §6.1: 00-00-5E-FE, or 02-00-5E-FE where the IPv4 address is globally unique.
    let lower = (matches!(interface, 0 | 0x200) && isatap == 0x5efe).then(|| join(high, low));
    upper.into_iter().flatten().chain(lower)
}

/// Whether `address` lies in `64:ff9b:1::/48` (RFC 8215) and carries a metadata address in one of
/// the layouts of RFC 6052 §2.2. A network chooses the prefix length there, so which layout it uses
/// cannot be known; the block is special-use anyway, so nothing but metadata is looked for.
fn local_translation_of_metadata(address: Ipv6Addr) -> bool {
    let [0, 0x64, 0xff, 0x9b, 0, 1, a, b, _, c, d, e, f, g, h, i] = address.octets() else {
        return false;
    };
    let (of_48, of_56, of_64, of_96) = ([a, b, c, d], [b, c, d, e], [c, d, e, f], [f, g, h, i]);
    [of_48, of_56, of_64, of_96].into_iter().any(|octets| METADATA_ADDRESSES.contains(&IpAddr::from(octets)))
}

fn join(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}

impl From<IpAddr> for CanonicalIp {
    fn from(address: IpAddr) -> Self {
        Self::new(address)
    }
}

impl fmt::Display for CanonicalIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl AddressClass {
    /// Returns a stable lower-case token: `global`, or the token of the use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::SpecialUse(special) => special.name(),
            Self::Never(never) => never.name(),
        }
    }
}

impl SpecialUse {
    /// Returns a stable lower-case token.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::Shared => "shared",
            Self::LinkLocal => "link_local",
            Self::UniqueLocal => "unique_local",
            Self::SiteLocal => "site_local",
            Self::Documentation => "documentation",
            Self::Benchmarking => "benchmarking",
            Self::Discard => "discard",
            Self::ProtocolAssignment => "protocol_assignment",
            Self::SegmentRouting => "segment_routing",
            Self::Translated => "translated",
            Self::Tunnelled => "tunnelled",
            Self::Reserved => "reserved",
        }
    }
}

impl Never {
    /// Returns a stable lower-case token.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::Metadata => "metadata",
            Self::Compatible => "compatible",
        }
    }
}

#[cfg(test)]
mod tests;
