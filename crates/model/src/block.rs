//! Blocks of addresses, as rules write them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};

use crate::address::CanonicalIp;

/// The addresses from one to another of the same family, both included.
///
/// Written as a network (`10.0.0.0/8`), a range (`10.0.0.1-10.0.0.9`) or one address. Like the
/// addresses it is compared with, a block is never IPv4-mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpBlock {
    first: IpAddr,
    last: IpAddr,
}

/// The forms of IPv6 that carry an IPv4 address in front of all that is free in them: the bits before it, and how many
/// come after it.
const CARRYING: [(u128, u32); 4] = [
    (0x64_ff9b << 96, 0),    // NAT64, RFC 6052 §2.1
    (0xffff << 48, 0),       // SIIT, RFC 2765 §2.1
    (0x2002 << 112, 80),     // 6to4, RFC 3056 §2
    (0x2001_0000 << 96, 64), // Teredo, RFC 4380 §4
];

/// Why a text is not a block of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// A part of the text that should be an address is not one.
    #[error("{text:?} is not an IP address")]
    Address {
        /// The part that was read.
        text: String,
    },
    /// The text after the slash is not a prefix length of the address's family.
    #[error("{text:?} is not a prefix length: write a number from 0 to {max}")]
    PrefixLength {
        /// The text after the slash.
        text: String,
        /// The longest prefix of the family, 32 or 128.
        max: u8,
    },
    /// A network whose address has bits set after the prefix, so that it is unclear which of the two is
    /// wrong.
    #[error("the address has bits set after its prefix: the network is {network}")]
    HostBits {
        /// The network that holds the address.
        network: IpNet,
    },
    /// A range that ends before it starts.
    #[error("the range runs backwards: write {last}-{first}")]
    Reversed {
        /// The start as written.
        first: IpAddr,
        /// The end as written.
        last: IpAddr,
    },
    /// A range from one family to the other.
    #[error("the range starts in one address family and ends in the other")]
    MixedFamilies,
    /// IPv4-mapped IPv6 (`::ffff:0:0/96`): such addresses are compared as IPv4, so the block
    /// would cover nothing.
    #[error("an IPv4-mapped block: write it as IPv4, {block}")]
    Mapped {
        /// The same addresses as IPv4.
        block: IpBlock,
    },
}

impl BlockError {
    /// Returns the text to write instead, where what was meant is clear enough.
    #[must_use]
    pub fn correction(&self) -> Option<String> {
        match self {
            Self::HostBits { network } => Some(network.to_string()),
            Self::Reversed { first, last } => Some(format!("{last}-{first}")),
            Self::Mapped { block } => Some(block.to_string()),
            Self::Address { .. } | Self::PrefixLength { .. } | Self::MixedFamilies => None,
        }
    }
}

impl IpBlock {
    /// Returns the block that `text` writes. IPv6 stands without brackets.
    ///
    /// # Errors
    /// The rule that `text` breaks.
    pub fn parse(text: &str) -> Result<Self, BlockError> {
        let block = if let Some((address, prefix)) = text.split_once('/') {
            let network = parse_network(address, prefix)?;
            Self { first: network.network(), last: network.broadcast() }
        } else if let Some((first, last)) = text.split_once('-') {
            parse_range(first, last)?
        } else {
            let address = parse_address(text)?;
            Self { first: address, last: address }
        };
        block.refuse_mapped()
    }

    /// Returns the block from `first` to `last`, both included, or `None` if it would run backwards,
    /// mix families or be IPv4-mapped.
    #[must_use]
    pub fn between(first: IpAddr, last: IpAddr) -> Option<Self> {
        let one_family = first.is_ipv4() == last.is_ipv4();
        (one_family && first <= last)
            .then_some(Self { first, last })
            .and_then(|block| block.refuse_mapped().ok())
    }

    /// Returns the lowest address.
    #[must_use]
    pub const fn first(&self) -> IpAddr {
        self.first
    }

    /// Returns the highest address.
    #[must_use]
    pub const fn last(&self) -> IpAddr {
        self.last
    }

    /// Returns whether `address` lies in the block.
    #[must_use]
    pub fn contains(&self, address: CanonicalIp) -> bool {
        // IpAddr orders all of IPv4 before all of IPv6, and both ends are of one family.
        self.first <= address.get() && address.get() <= self.last
    }

    /// Returns the fewest networks that cover the block and nothing else, in ascending order: one
    /// for a network, at most 62 for IPv4 and 254 for IPv6.
    #[must_use]
    pub fn networks(&self) -> Vec<IpNet> {
        match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                IpSubnets::from(Ipv4Subnets::new(first, last, 0)).collect()
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                IpSubnets::from(Ipv6Subnets::new(first, last, 0)).collect()
            }
            // No constructor mixes families; a block that did would hold nothing.
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => Vec::new(),
        }
    }

    /// Returns the IPv6 blocks whose addresses carry those of this block where a block can tell: NAT64, SIIT, 6to4 and the
    /// server of Teredo. What ISATAP and a Teredo client carry stands in the lowest bits, so that no block has it. None
    /// for IPv6. [`CanonicalIp::carried`] is the other way round, for one address.
    pub fn carriers(&self) -> impl Iterator<Item = Self> + use<> {
        let ends = match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => Some((first.to_bits().into(), last.to_bits().into())),
            (IpAddr::V4(_) | IpAddr::V6(_), _) => None,
        };
        ends.into_iter().flat_map(|(first, last): (u128, u128)| {
            CARRYING.map(|(prefix, shift)| Self {
                first: Ipv6Addr::from_bits(prefix | first << shift).into(),
                last: Ipv6Addr::from_bits(prefix | last << shift | ((1 << shift) - 1)).into(),
            })
        })
    }

    fn refuse_mapped(self) -> Result<Self, BlockError> {
        match (self.first, self.last) {
            (IpAddr::V6(first), IpAddr::V6(last)) => match (first.to_ipv4_mapped(), last.to_ipv4_mapped()) {
                (Some(first), Some(last)) => {
                    let block = Self { first: IpAddr::V4(first), last: IpAddr::V4(last) };
                    Err(BlockError::Mapped { block })
                }
                (Some(_), None) | (None, _) => Ok(self),
            },
            (IpAddr::V4(_), _) | (_, IpAddr::V4(_)) => Ok(self),
        }
    }
}

fn parse_address(text: &str) -> Result<IpAddr, BlockError> {
    text.parse().map_err(|_| BlockError::Address { text: text.to_owned() })
}

fn parse_network(address: &str, prefix: &str) -> Result<IpNet, BlockError> {
    let address = parse_address(address)?;
    let max = if address.is_ipv4() { 32 } else { 128 };
    let malformed = || BlockError::PrefixLength { text: prefix.to_owned(), max };
    if prefix.is_empty()
        || !prefix.bytes().all(|b| b.is_ascii_digit())
        || (prefix.len() > 1 && prefix.starts_with('0'))
    {
        return Err(malformed());
    }
    let length: u8 = prefix.parse().map_err(|_| malformed())?;
    let network = IpNet::new(address, length).map_err(|_| malformed())?;
    if network.trunc() != network {
        return Err(BlockError::HostBits { network: network.trunc() });
    }
    Ok(network)
}

fn parse_range(first: &str, last: &str) -> Result<IpBlock, BlockError> {
    let (first, last) = (parse_address(first)?, parse_address(last)?);
    if first.is_ipv4() != last.is_ipv4() {
        return Err(BlockError::MixedFamilies);
    }
    if last < first {
        return Err(BlockError::Reversed { first, last });
    }
    Ok(IpBlock { first, last })
}

impl From<CanonicalIp> for IpBlock {
    fn from(address: CanonicalIp) -> Self {
        Self { first: address.get(), last: address.get() }
    }
}

/// Writes one address, else one network, else a range: whichever is the shortest that is exact.
impl fmt::Display for IpBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return self.first.fmt(f);
        }
        match self.networks().as_slice() {
            [network] => network.fmt(f),
            _ => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl FromStr for IpBlock {
    type Err = BlockError;

    fn from_str(text: &str) -> Result<Self, BlockError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests;
