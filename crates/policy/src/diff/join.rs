//! Joins findings of neighbouring blocks of addresses that changed alike.

use std::net::IpAddr;

use exeat_model::{AddressClass, CanonicalIp, IpBlock};

use super::compare::Finding;
use super::{Hosts, What};

/// Takes blocks in ascending order, each with what was found of it.
#[derive(Default)]
pub(super) struct Joiner {
    open: Vec<Finding>,
    done: Vec<Finding>,
    end: Option<IpAddr>,
}

impl Joiner {
    /// Adds one block. Addresses that are never reachable do not come between their neighbours.
    pub(super) fn add(&mut self, block: &IpBlock, found: Vec<Finding>) {
        let touches = self.end.and_then(|end| IpBlock::from(CanonicalIp::new(end)).edges().nth(1))
            == Some(block.first());
        let never = matches!(CanonicalIp::new(block.first()).class(), AddressClass::Never(_));
        self.end = Some(block.last());
        if touches && never && found.is_empty() {
            return;
        }
        let mut before = std::mem::take(&mut self.open);
        if !touches {
            self.done.append(&mut before);
        }
        for finding in found {
            let continued = before.iter().position(|old| continues(old, &finding));
            self.open.push(match continued.map(|at| before.swap_remove(at)) {
                Some(mut old) => {
                    stretch(&mut old, block);
                    old
                }
                None => finding,
            });
        }
        self.done.append(&mut before);
    }

    pub(super) fn finish(mut self) -> Vec<Finding> {
        self.done.append(&mut self.open);
        self.done
    }
}

fn continues(old: &Finding, new: &Finding) -> bool {
    let same_what = match (&old.what, &new.what) {
        (What::At(a), What::At(b)) => a.first().is_ipv4() == b.first().is_ipv4(),
        (a, b) => a == b,
    };
    let same_hosts = match (&old.hosts, &new.hosts) {
        (Hosts::Addresses(a), Hosts::Addresses(b)) => a.first().is_ipv4() == b.first().is_ipv4(),
        (a, b) => a == b,
    };
    same_what
        && same_hosts
        && old.direction == new.direction
        && old.ports == new.ports
        && old.rule == new.rule
        && old.refused == new.refused
        && old.opening == new.opening
}

/// The witness stays the one of the first block.
fn stretch(finding: &mut Finding, to: &IpBlock) {
    let place = match (&mut finding.what, &mut finding.hosts) {
        (What::At(block), _) | (_, Hosts::Addresses(block)) => block,
        (
            What::Target
            | What::AtPublic
            | What::MixedAnswers
            | What::OpenedBy(_)
            | What::LeavesBy(_)
            | What::Announcing(_)
            | What::Beyond(_),
            _,
        ) => {
            return;
        }
    };
    *place = IpBlock::between(place.first(), to.last()).unwrap_or(*place);
}
