//! The whole address space in pieces, so that what changes at known addresses alone is asked once for each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::block::IpBlock;

impl IpBlock {
    /// Returns where the block begins, and where what follows it does; nothing follows the last address of a family.
    pub fn edges(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [Some(self.first()), after(self.last())].into_iter().flatten()
    }
}

/// Returns both address families, cut before each of these addresses, in ascending order: what changes at them alone is
/// the same within each piece. IPv4-mapped addresses are left out: none is canonical.
#[must_use]
pub fn partition(starts: impl IntoIterator<Item = IpAddr>) -> Vec<IpBlock> {
    let mapped_first = Ipv6Addr::from_bits(0xffff << 32);
    let mapped_after = Ipv6Addr::from_bits(0x1_0000 << 32);
    let mut starts: Vec<IpAddr> = starts.into_iter().collect();
    starts.extend([
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        IpAddr::V6(mapped_first),
        IpAddr::V6(mapped_after),
    ]);
    starts.sort_unstable();
    starts.dedup();
    let ends = starts.iter().skip(1).map(|&next| before(next)).chain([None]);
    let blocks = starts.iter().zip(ends).filter_map(|(&first, end)| {
        let top = match first {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::BROADCAST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)),
        };
        IpBlock::between(first, end.unwrap_or(top))
    });
    blocks.collect()
}

fn after(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().checked_add(1).map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        IpAddr::V6(ip) => ip.to_bits().checked_add(1).map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
    }
}

/// The address before, within the family.
fn before(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().checked_sub(1).map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        IpAddr::V6(ip) => ip.to_bits().checked_sub(1).map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
    }
}
