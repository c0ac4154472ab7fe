//! Addresses of IPv4 in those of IPv6: what is closed stays closed however it is written.

use std::iter::once;
use std::net::{IpAddr, Ipv4Addr};

use exeat_model::{CanonicalIp, IpBlock};

/// The place of NAT64 among the forms that [`IpBlock::carriers`] gives.
const NAT64: usize = 0;

/// The address, and those that it carries.
pub(crate) fn with_carried(ip: CanonicalIp) -> impl Iterator<Item = CanonicalIp> {
    once(ip).chain(ip.carried())
}

/// Where the block begins and ends, and the blocks that carry it, as far as blocks can.
pub(crate) fn edges(block: IpBlock) -> impl Iterator<Item = IpAddr> {
    once(block).chain(block.carriers()).flat_map(|block| block.edges())
}

/// The forms of IPv6 that carry IPv4, as far as something can open them: NAT64, which is public where what it carries is,
/// and those that a rule names.
#[derive(Debug)]
pub(crate) struct OpenForms(Vec<IpBlock>);

impl OpenForms {
    /// `named` are the blocks that allow rules name.
    pub(crate) fn of<'a>(named: impl Iterator<Item = &'a IpBlock>) -> Self {
        let named: Vec<&IpBlock> = named.collect();
        let all = IpBlock::between(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into());
        let forms = all.iter().flat_map(IpBlock::carriers).enumerate().filter(|(number, form)| {
            let meets = |own: &&IpBlock| own.first() <= form.last() && form.first() <= own.last();
            *number == NAT64 || named.iter().any(meets)
        });
        Self(forms.map(|(_, form)| form).collect())
    }

    /// Where a denied block begins and ends, and the blocks of these forms that carry it.
    pub(crate) fn edges(&self, denied: IpBlock) -> impl Iterator<Item = IpAddr> {
        let is_open = |carrier: &IpBlock| self.0.iter().any(|form| form.contains(carrier.first().into()));
        once(denied).chain(denied.carriers().filter(is_open)).flat_map(|block| block.edges())
    }
}
