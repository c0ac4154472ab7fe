//! The IANA special-purpose address registries, as tables.
//!
//! Sources: the IANA registries "IPv4 Special-Purpose Address Space" and "IPv6 Special-Purpose
//! Address Space" (RFC 6890, RFC 8190), and for what they leave out the multicast and IPv6 address
//! space registries. Rows that a registry marks "globally reachable" are `Global`. Within a table
//! the longer prefix comes first, so that the first row that holds an address decides.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::address::{AddressClass, METADATA_ADDRESSES, Never, SpecialUse};

/// A block, from its first address to its last, and the class of what lies in it.
struct Row<T> {
    first: T,
    last: T,
    class: AddressClass,
}

const fn v4([a, b, c, d]: [u8; 4], prefix: u32, class: AddressClass) -> Row<u32> {
    let first = Ipv4Addr::new(a, b, c, d).to_bits();
    // A shift by the full width, which /0 would need, is not in the table.
    Row { first, last: first | (u32::MAX.unbounded_shr(prefix)), class }
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], prefix: u32, class: AddressClass) -> Row<u128> {
    let first = Ipv6Addr::new(a, b, c, d, e, f, g, h).to_bits();
    Row { first, last: first | (u128::MAX.unbounded_shr(prefix)), class }
}

const GLOBAL: AddressClass = AddressClass::Global;
const LOOPBACK: AddressClass = AddressClass::SpecialUse(SpecialUse::Loopback);
const PRIVATE: AddressClass = AddressClass::SpecialUse(SpecialUse::Private);
const SHARED: AddressClass = AddressClass::SpecialUse(SpecialUse::Shared);
const LINK_LOCAL: AddressClass = AddressClass::SpecialUse(SpecialUse::LinkLocal);
const UNIQUE_LOCAL: AddressClass = AddressClass::SpecialUse(SpecialUse::UniqueLocal);
const SITE_LOCAL: AddressClass = AddressClass::SpecialUse(SpecialUse::SiteLocal);
const DOCUMENTATION: AddressClass = AddressClass::SpecialUse(SpecialUse::Documentation);
const BENCHMARKING: AddressClass = AddressClass::SpecialUse(SpecialUse::Benchmarking);
const DISCARD: AddressClass = AddressClass::SpecialUse(SpecialUse::Discard);
const PROTOCOL: AddressClass = AddressClass::SpecialUse(SpecialUse::ProtocolAssignment);
const SEGMENT_ROUTING: AddressClass = AddressClass::SpecialUse(SpecialUse::SegmentRouting);
const TRANSLATED: AddressClass = AddressClass::SpecialUse(SpecialUse::Translated);
const TUNNELLED: AddressClass = AddressClass::SpecialUse(SpecialUse::Tunnelled);
const RESERVED: AddressClass = AddressClass::SpecialUse(SpecialUse::Reserved);
const UNSPECIFIED: AddressClass = AddressClass::Never(Never::Unspecified);
const MULTICAST: AddressClass = AddressClass::Never(Never::Multicast);
const BROADCAST: AddressClass = AddressClass::Never(Never::Broadcast);
const COMPATIBLE: AddressClass = AddressClass::Never(Never::Compatible);

const V4: &[Row<u32>] = &[
    v4([192, 0, 0, 8], 32, PROTOCOL),         // RFC 7600: IPv4 dummy address
    v4([192, 0, 0, 9], 32, GLOBAL),           // RFC 7723: Port Control Protocol anycast
    v4([192, 0, 0, 10], 32, GLOBAL),          // RFC 8155: TURN anycast
    v4([192, 0, 0, 170], 32, PROTOCOL),       // RFC 8880, RFC 7050: NAT64/DNS64 discovery
    v4([192, 0, 0, 171], 32, PROTOCOL),       // RFC 8880, RFC 7050: NAT64/DNS64 discovery
    v4([192, 88, 99, 2], 32, TUNNELLED),      // RFC 6751: 6a44 relay anycast
    v4([255, 255, 255, 255], 32, BROADCAST),  // RFC 8190, RFC 919 §7: limited broadcast
    v4([192, 0, 0, 0], 29, PROTOCOL),         // RFC 7335: IPv4 service continuity prefix
    v4([192, 0, 0, 0], 24, PROTOCOL),         // RFC 6890 §2.1: IETF protocol assignments
    v4([192, 0, 2, 0], 24, DOCUMENTATION),    // RFC 5737: TEST-NET-1
    v4([192, 31, 196, 0], 24, GLOBAL),        // RFC 7535: AS112-v4
    v4([192, 52, 193, 0], 24, GLOBAL),        // RFC 7450: automatic multicast tunnelling
    v4([192, 88, 99, 0], 24, TUNNELLED),      // RFC 7526: 6to4 relay anycast, deprecated
    v4([192, 175, 48, 0], 24, GLOBAL),        // RFC 7534: direct delegation AS112
    v4([198, 51, 100, 0], 24, DOCUMENTATION), // RFC 5737: TEST-NET-2
    v4([203, 0, 113, 0], 24, DOCUMENTATION),  // RFC 5737: TEST-NET-3
    v4([169, 254, 0, 0], 16, LINK_LOCAL),     // RFC 3927
    v4([192, 168, 0, 0], 16, PRIVATE),        // RFC 1918
    v4([198, 18, 0, 0], 15, BENCHMARKING),    // RFC 2544
    v4([172, 16, 0, 0], 12, PRIVATE),         // RFC 1918
    v4([100, 64, 0, 0], 10, SHARED),          // RFC 6598
    v4([0, 0, 0, 0], 8, UNSPECIFIED),         // RFC 791 §3.2, RFC 1122 §3.2.1.3: "this network"
    v4([10, 0, 0, 0], 8, PRIVATE),            // RFC 1918
    v4([127, 0, 0, 0], 8, LOOPBACK),          // RFC 1122 §3.2.1.3
    v4([224, 0, 0, 0], 4, MULTICAST),         // RFC 5771
    v4([240, 0, 0, 0], 4, RESERVED),          // RFC 1112 §4
];

/// `::ffff:0:0/96` (RFC 4291 §2.5.5.2) is missing: no canonical address lies in it.
const V6: &[Row<u128>] = &[
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128, UNSPECIFIED), // RFC 4291 §2.5.2
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, LOOPBACK),    // RFC 4291 §2.5.3
    v6([0x2001, 1, 0, 0, 0, 0, 0, 1], 128, GLOBAL), // RFC 7723: Port Control Protocol anycast
    v6([0x2001, 1, 0, 0, 0, 0, 0, 2], 128, GLOBAL), // RFC 8155: TURN anycast
    v6([0x2001, 1, 0, 0, 0, 0, 0, 3], 128, GLOBAL), // RFC 9665: DNS-SD registration anycast
    v6([0, 0, 0, 0, 0, 0, 0, 0], 96, COMPATIBLE),   // RFC 4291 §2.5.5.1, deprecated
    v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96, TRANSLATED), // RFC 2765 §2.1: SIIT, obsolete
    v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, GLOBAL), // RFC 6052 §2.1: NAT64, as what it carries
    v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64, DISCARD),  // RFC 6666: discard only
    v6([0x100, 0, 0, 1, 0, 0, 0, 0], 64, DISCARD),  // RFC 9780: dummy prefix
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, TRANSLATED), // RFC 8215: local-use translation
    v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, BENCHMARKING), // RFC 5180, RFC Errata 1752
    v6([0x2001, 4, 0x112, 0, 0, 0, 0, 0], 48, GLOBAL), // RFC 7535: AS112-v6
    v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48, GLOBAL), // RFC 7534: direct delegation AS112
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, TUNNELLED), // RFC 4380: Teredo
    v6([0x2001, 3, 0, 0, 0, 0, 0, 0], 32, GLOBAL),  // RFC 7450: automatic multicast tunnelling
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, DOCUMENTATION), // RFC 3849
    v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28, PROTOCOL), // RFC 4843: ORCHID, deprecated
    v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28, GLOBAL), // RFC 7343: ORCHIDv2
    v6([0x2001, 0x30, 0, 0, 0, 0, 0, 0], 28, GLOBAL), // RFC 9374: drone remote identification
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, PROTOCOL), // RFC 2928: IETF protocol assignments
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, DOCUMENTATION), // RFC 9637
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, TUNNELLED), // RFC 3056: 6to4
    v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16, SEGMENT_ROUTING), // RFC 9602
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, LINK_LOCAL), // RFC 4291 §2.5.6
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, SITE_LOCAL), // RFC 3879 §4, deprecated
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, MULTICAST), // RFC 4291 §2.7
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, UNIQUE_LOCAL), // RFC 4193
    v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3, GLOBAL),   // RFC 4291 §2.4: all that IANA allocates
    v6([0, 0, 0, 0, 0, 0, 0, 0], 0, RESERVED),      // RFC 4291 §4: everything else
];

/// Returns the class of the block that holds `address`; `Global` where no row does.
pub(crate) fn class_v4(address: Ipv4Addr) -> AddressClass {
    find(V4, address.to_bits()).unwrap_or(GLOBAL)
}

/// Returns the class of the block that holds `address`, without regard to any IPv4 address in it.
pub(crate) fn class_v6(address: Ipv6Addr) -> AddressClass {
    find(V6, address.to_bits()).unwrap_or(RESERVED)
}

/// Returns addresses at which [`crate::CanonicalIp::class`] changes: from one of them to the next,
/// all addresses are of one class. Unordered, with repetitions.
///
/// NAT64 (`64:ff9b::/96`) and 6to4 (`2002::/16`) are divided as the IPv4 that they carry is. What
/// Teredo, ISATAP and `64:ff9b:1::/48` carry divides too finely to be listed; those addresses can
/// differ in class from their neighbours.
pub fn class_boundaries() -> impl Iterator<Item = IpAddr> {
    let metadata_v4 = METADATA_ADDRESSES.iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some((address.to_bits(), address.to_bits())),
        IpAddr::V6(_) => None,
    });
    let metadata_v6 = METADATA_ADDRESSES.iter().filter_map(|address| match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some((address.to_bits(), address.to_bits())),
    });
    let rows_v4 = V4.iter().map(|row| (row.first, row.last)).chain(metadata_v4);
    let rows_v6 = V6.iter().map(|row| (row.first, row.last)).chain(metadata_v6);
    let v4 = rows_v4.flat_map(|(first, last)| [Some(first), last.checked_add(1)]).flatten();
    let v6 = rows_v6.flat_map(|(first, last)| [Some(first), last.checked_add(1)]).flatten();
    let inside = |v4: u32| {
        let nat64 = (0x64_ff9b << 96) | u128::from(v4);
        let six_to_four = (0x2002 << 112) | (u128::from(v4) << 80);
        [
            IpAddr::V4(Ipv4Addr::from_bits(v4)),
            Ipv6Addr::from_bits(nat64).into(),
            Ipv6Addr::from_bits(six_to_four).into(),
        ]
    };
    v4.flat_map(inside).chain(v6.map(|v6| IpAddr::V6(Ipv6Addr::from_bits(v6))))
}

fn find<T: PartialOrd>(table: &[Row<T>], address: T) -> Option<AddressClass> {
    table.iter().find(|row| row.first <= address && address <= row.last).map(|row| row.class)
}

#[cfg(test)]
mod tests;
