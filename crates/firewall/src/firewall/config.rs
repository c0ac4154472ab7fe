//! What a firewall is made of, and what follows from that alone.

use std::{io, net::SocketAddr, time::Duration};

use ipnet::IpNet;

use super::LIFETIME_MIN;
use crate::{
    devices::ip,
    group::{self, Group, Located},
    plan::{Deciding, Device, Plan},
    script::{self, Frame, GROUP_LABELS},
    state::Client,
};

/// What a firewall is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// The devices whose clients are held to the policy.
    pub devices: Vec<Device>,
    /// The control groups of this host whose processes are; at most [`GROUPS_MAX`](crate::GROUPS_MAX).
    pub groups: Vec<Attached>,
    /// Our listeners that processes of those may not connect to.
    pub closed: Vec<SocketAddr>,
    /// How long something opened by name is open after the last packet to it; at least [`LIFETIME_MIN`].
    pub lifetime: Duration,
    /// Elements that each set of the kernel holds at most, and entries of our own.
    pub size: u32,
    /// Whether the packets that a name lets through are counted, for [`Firewall::count`](crate::Firewall::count).
    pub is_counted: bool,
    /// Where our name server listens, or the one that we hear of, for what is asked on port 53.
    pub dns: Vec<SocketAddr>,
    /// Those of them that are not ours.
    pub dns_elsewhere: Vec<SocketAddr>,
    /// Our other listeners that clients may connect to.
    pub doors: Vec<SocketAddr>,
    /// Those of them that take redirected connections: what opens a connection is looked at there, where that is needed.
    pub relay: Vec<SocketAddr>,
    /// Networks whose addresses stand for names: all connections to them are redirected.
    pub stand_ins: Vec<IpNet>,
}

/// A control group that is held to the policy.
#[derive(Clone, Debug)]
pub struct Attached {
    /// The group.
    pub group: Group,
    /// Where its processes are led with what they ask for names: loopback addresses that are its own.
    pub dns: Vec<SocketAddr>,
}

impl Config {
    fn has_relay(&self) -> bool {
        !self.relay.is_empty()
    }

    /// Whether connections of a client can go through the relay. Those of processes of this host are not redirected: what
    /// only a relay could judge stays closed to them.
    pub(super) fn relays(&self, client: &Client) -> bool {
        match client {
            Client::Address(_) => self.has_relay(),
            Client::Group(_) => false,
        }
    }

    pub(super) fn plan(&self, deciding: &dyn Deciding) -> Plan {
        let groups: Vec<Group> = self.groups.iter().map(|attached| attached.group.clone()).collect();
        Plan::new(deciding, &self.devices, &groups).with_relay(self.has_relay())
    }

    /// The bit of each group in labels of connections. It comes from the path, so that it is the same after a start with
    /// other groups, but where two would have the same.
    fn slots(&self) -> Vec<u32> {
        let mut slots: Vec<u32> = Vec::new();
        for attached in &self.groups {
            // FNV-1a, which is the same in every version of this program.
            let bytes = attached.group.path().bytes();
            let hash =
                bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
            let count = GROUP_LABELS.end - GROUP_LABELS.start;
            let tried = (0..count).map(|step| GROUP_LABELS.start + hash.wrapping_add(step) % count);
            slots.push(tried.into_iter().find(|slot| !slots.contains(slot)).unwrap_or(GROUP_LABELS.start));
        }
        slots
    }

    /// The group whose bit this is, and its number.
    pub(super) fn of_slot(&self, slot: u32) -> Option<(usize, &Group)> {
        let number = self.slots().iter().position(|other| *other == slot)?;
        Some((number, &self.groups.get(number)?.group))
    }

    /// Looks for the groups.
    pub(super) fn locate(&self) -> io::Result<Vec<Option<Located>>> {
        self.groups.iter().map(|attached| group::locate(&attached.group)).collect()
    }

    pub(super) fn frame(&self, located: &[Option<Located>]) -> Frame {
        let mut groups: Vec<script::Held> = Vec::new();
        for (number, ((attached, located), slot)) in
            self.groups.iter().zip(located).zip(self.slots()).enumerate()
        {
            let Some(located) = located else { continue };
            let (nft, level, dns) = (located.nft.clone(), attached.group.level(), attached.dns.clone());
            groups.push(script::Held { number, nft, level, slot, dns });
        }
        groups.sort_by_key(|held| std::cmp::Reverse(held.level));
        let is_ours = |name: &str| self.devices.iter().any(|device| **device.name() == *name);
        let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(|address| {
            let ip = ip(address.address?)?;
            is_ours(&address.interface_name).then_some((address.interface_name, ip))
        });
        Frame {
            dns: self.dns.clone(),
            doors: self.doors.clone(),
            relay: self.relay.clone(),
            stand_ins: self.stand_ins.clone(),
            addresses: addresses.collect(),
            lifetime: self.lifetime.max(LIFETIME_MIN),
            size: self.size,
            is_counted: self.is_counted,
            groups,
            is_marked: self.is_own(),
            closed: self.closed.clone(),
        }
    }

    /// Whether this process is itself in a group that is held, so that its own sockets have to be told from those of others.
    fn is_own(&self) -> bool {
        // Whoever is not sure is held as well: that shows, and a mark that lets others through would not.
        self.groups.iter().any(|attached| attached.group.is_ours().unwrap_or(false))
    }
}

pub(super) fn number(device: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(device).ok()
}
