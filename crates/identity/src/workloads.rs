//! The workloads of one configuration: principals that are known by where they come from.

use std::{collections::HashMap, net::IpAddr, path::Path, sync::Arc};

use exeat_model::CanonicalIp;
use ipnet::IpNet;

use crate::{
    peer::{Part, Peer, Place, Shown},
    principal::Principal,
};

/// Where a workload is. What is `None` may be anything; all that is set must hold.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Origin {
    /// Its control group or one above it: `/system.slice/ci.service`, with no slash at the end.
    pub cgroup: Option<Box<str>>,
    /// The user that its processes run as, on this host.
    pub user: Option<u32>,
    /// The unix socket that it comes to.
    pub socket: Option<Box<Path>>,
    /// The network device that it comes in by.
    pub interface: Option<Box<str>>,
    /// The network that its address is in.
    pub network: Option<IpNet>,
}

/// How closely an origin is described. Of two that hold for one place and rank the same, every part is the same: the
/// longer of two control groups, or of two networks, that hold for one place is within the other.
type Rank = (usize, bool, bool, bool, Option<u8>);

impl Origin {
    fn rank(&self) -> Rank {
        (
            self.cgroup.as_ref().map_or(0, |group| group.len()),
            self.user.is_some(),
            self.socket.is_some(),
            self.interface.is_some(),
            self.network.map(|network| network.prefix_len()),
        )
    }

    /// Whether nothing but its network describes it.
    fn is_network(&self) -> bool {
        self.cgroup.is_none() && self.user.is_none() && self.socket.is_none() && self.interface.is_none()
    }

    fn holds_for(&self, place: &Place) -> Holds {
        let Self { cgroup, user, socket, interface, network } = self;
        let address = place.address.map(|ip| CanonicalIp::from(ip).get());
        let is_inside = |network: &IpNet| address.is_some_and(|ip| network.contains(&ip));
        let has_rest = socket.as_deref().is_none_or(|socket| place.socket.as_deref() == Some(socket))
            && network.as_ref().is_none_or(is_inside);
        if !has_rest {
            return Holds::No;
        }
        let below = |group: &str| Holds::of(&place.cgroup, |found| is_in_group(found, group));
        let parts = [
            cgroup.as_deref().map(below),
            user.map(|user| Holds::of(&place.user, |found| *found == user)),
            interface.as_deref().map(|name| Holds::of(&place.interface, |found| **found == *name)),
        ];
        parts.into_iter().flatten().min().unwrap_or(Holds::Yes)
    }
}

/// Whether an origin is that of a place; of several parts the least counts.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Holds {
    No,
    /// It would if a part were this that is not known.
    Perhaps,
    Yes,
}

impl Holds {
    fn of<T>(part: &Part<T>, is_it: impl FnOnce(&T) -> bool) -> Self {
        match part {
            Part::Known(found) if is_it(found) => Self::Yes,
            Part::Known(_) | Part::Nothing => Self::No,
            Part::Unknown => Self::Perhaps,
        }
    }
}

/// What a place is.
#[derive(Clone, Copy, Debug)]
enum Found<'a> {
    Workload(&'a Workload),
    Nowhere,
    /// The closest description that may hold depends on what is not known. The next one must not count instead: whoever
    /// makes itself hard to know would choose who it is.
    Uncertain,
}

/// Whether the control group `found` is `group` or below it.
fn is_in_group(found: &str, group: &str) -> bool {
    found.strip_prefix(group).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A workload.
#[derive(Debug)]
pub struct Workload {
    principal: Arc<Principal>,
    container: Box<str>,
    is_proof: bool,
}

impl Workload {
    /// Returns a workload that asks as `principal`, whose container has the id `container`. Unless `is_proof`, being
    /// there proves nothing by itself, and only makes credentials count that are tied to it.
    #[must_use]
    pub fn new(principal: Arc<Principal>, container: &str, is_proof: bool) -> Self {
        Self { principal, container: container.into(), is_proof }
    }

    /// Who asks if nothing else proves it.
    #[must_use]
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    /// The id of its container, which a token can be bound to.
    #[must_use]
    pub fn container(&self) -> &str {
        &self.container
    }

    /// Whether to come from there is proof enough of who asks.
    #[must_use]
    pub fn is_proof(&self) -> bool {
        self.is_proof
    }
}

/// The workloads of a configuration snapshot; never changed once requests can see it.
#[derive(Debug, Default)]
pub struct Workloads {
    all: Vec<Arc<Workload>>,
    /// Those that more than a network describes, the closest description first.
    described: Vec<(Origin, Arc<Workload>)>,
    /// Those that only a network describes: by their prefix length, the longest first.
    networks: Vec<(u8, HashMap<IpNet, Arc<Workload>>)>,
}

impl Workloads {
    /// Returns a set without workloads: every connection comes from nowhere.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a workload that is wherever one of `origins` says. Of two that hold for one place, the closer description
    /// counts: by control group, then user, then unix socket, then device, then network, and the longer one of two
    /// groups or networks. Two workloads must not have one origin: the first would keep it.
    pub fn insert(&mut self, workload: Workload, origins: impl IntoIterator<Item = Origin>) {
        let workload = Arc::new(workload);
        for origin in origins {
            match origin.network {
                Some(network) if origin.is_network() => self.insert_network(network, &workload),
                Some(_) | None => self.described.push((origin, Arc::clone(&workload))),
            }
        }
        self.described.sort_by_key(|(origin, _)| std::cmp::Reverse(origin.rank()));
        self.all.push(workload);
    }

    fn insert_network(&mut self, network: IpNet, workload: &Arc<Workload>) {
        let length = network.prefix_len();
        let at = self.networks.partition_point(|(other, _)| *other > length);
        if self.networks.get(at).is_none_or(|(other, _)| *other != length) {
            self.networks.insert(at, (length, HashMap::new()));
        }
        if let Some((_, networks)) = self.networks.get_mut(at) {
            networks.entry(network).or_insert_with(|| Arc::clone(workload));
        }
    }

    /// Returns the other end of a connection, as this configuration knows it.
    #[must_use]
    pub fn peer(&self, shown: &Shown) -> Peer<'_> {
        match self.find(&shown.place) {
            Found::Workload(workload) => Peer::new(Some(workload), shown.demand),
            Found::Nowhere => Peer::new(None, shown.demand),
            Found::Uncertain => Peer::uncertain(shown.demand),
        }
    }

    /// Returns the workload of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Workload> {
        self.all.iter().find(|workload| *workload.principal.name == *name).map(|workload| &**workload)
    }

    /// Returns the principal of each workload, in the order of insertion.
    pub fn principals(&self) -> impl Iterator<Item = &Arc<Principal>> {
        self.all.iter().map(|workload| &workload.principal)
    }

    /// The networks that tell workloads apart, in no order and with repetitions.
    pub fn networks(&self) -> impl Iterator<Item = IpNet> {
        let described = self.described.iter().filter_map(|(origin, _)| origin.network);
        described.chain(self.networks.iter().flat_map(|(_, networks)| networks.keys().copied()))
    }

    /// Whether some workload is known by the user of a client that came by TCP, which has to be looked up for that.
    #[must_use]
    pub fn know_users(&self) -> bool {
        self.described.iter().any(|(origin, _)| origin.user.is_some())
    }

    /// Whether some workload is known by the control group of a client that came by a unix socket, as above.
    #[must_use]
    pub fn know_groups(&self) -> bool {
        self.described.iter().any(|(origin, _)| origin.cgroup.is_some())
    }

    fn find(&self, place: &Place) -> Found<'_> {
        let held = self.described.iter().map(|(origin, workload)| (origin.holds_for(place), workload));
        match { held }.find(|(holds, _)| *holds != Holds::No) {
            Some((Holds::Yes, workload)) => Found::Workload(workload),
            Some((Holds::Perhaps | Holds::No, _)) => Found::Uncertain,
            None => {
                let of_network = place.address.and_then(|ip| self.of_network(ip));
                of_network.map_or(Found::Nowhere, |workload| Found::Workload(workload))
            }
        }
    }

    fn of_network(&self, ip: IpAddr) -> Option<&Arc<Workload>> {
        let ip = CanonicalIp::from(ip).get();
        let around = |length: u8| IpNet::new(ip, length).ok().map(|network| network.trunc());
        self.networks.iter().find_map(|(length, networks)| networks.get(&around(*length)?))
    }
}

#[cfg(test)]
mod tests;
