//! Addresses of IPv4 in those of IPv6: what is closed stays closed however it is written.

use std::iter::once;
use std::net::IpAddr;

use exeat_model::{CanonicalIp, IpBlock};

/// The address, and those that it carries.
pub(crate) fn with_carried(ip: CanonicalIp) -> impl Iterator<Item = CanonicalIp> {
    once(ip).chain(ip.carried())
}

/// Where the block begins and ends, and the blocks that carry it, as far as blocks can.
pub(crate) fn edges(block: IpBlock) -> impl Iterator<Item = IpAddr> {
    once(block).chain(block.carriers()).flat_map(|block| block.edges())
}
