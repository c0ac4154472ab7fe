//! What the kernel has to be told of a policy: who is who by where packets come from, and which networks they may reach
//! without asking for a name. Pure: the same snapshot and attachments make the same plan.

use std::{net::IpAddr, sync::Arc};

use exeat_identity::{Part, Place, Principal};
use exeat_model::{CanonicalIp, IpBlock, Port, PortRange, Transport, partition};
use exeat_policy::{Bound, Network, PolicySet, PortPiece, networks, port_pieces};

use crate::{element::is_one, group::Group};

/// A network device whose clients are held to the policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Device {
    name: Arc<str>,
    is_bridge: bool,
}

/// Octets of a device's name at most (`IFNAMSIZ` less the zero at its end).
const NAME_OCTETS_MAX: usize = 15;

impl Device {
    /// Returns the device of this name. Of a bridge, packets from one of its clients to another do not leave, and are let
    /// through. `None` if no device that a rule can speak of has such a name.
    #[must_use]
    pub fn new(name: &str, is_bridge: bool) -> Option<Self> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
        let is_name = (1..=NAME_OCTETS_MAX).contains(&name.len()) && name.chars().all(is_plain);
        is_name.then(|| Self { name: name.into(), is_bridge })
    }

    /// Whether it is by its name the one on which a host speaks with itself.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        *self.name == *"lo"
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether it is a bridge.
    #[must_use]
    pub fn is_bridge(&self) -> bool {
        self.is_bridge
    }
}

/// Who decides, as far as the kernel's part needs to know.
pub trait Deciding: Send + Sync {
    /// The policies.
    fn policy(&self) -> &PolicySet;

    /// Returns who asks from `place`, by that alone; `None` if nobody does, or nobody may for now.
    fn asker(&self, place: &Place) -> Option<Arc<Principal>>;

    /// The networks that tell askers apart: within a piece between two of their ends, all addresses of one device are
    /// the same asker's.
    fn networks(&self) -> Vec<IpBlock>;
}

/// Who is at which addresses of a device, and the region of the plan that they may reach.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Source {
    pub(crate) block: IpBlock,
    pub(crate) region: usize,
}

/// What is behind one device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Behind {
    pub(crate) device: Device,
    /// In ascending order, without overlaps; an address that is in none is nobody's.
    pub(crate) sources: Vec<Source>,
}

/// What the processes of a control group may reach.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Local {
    pub(crate) group: Group,
    /// The region of the plan that is theirs; `None` if they are nobody's.
    pub(crate) region: Option<usize>,
}

/// Where the processes of a group are, which is all that is known of them.
pub(crate) fn place_of(group: &Group) -> Place {
    Place { cgroup: Part::Known(Arc::clone(group.path())), user: Part::Unknown, ..Place::default() }
}

/// What the kernel is told.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    pub(crate) behind: Vec<Behind>,
    pub(crate) locals: Vec<Local>,
    /// What may be reached without a name: one list for all who may reach the same.
    pub(crate) regions: Vec<Vec<Network>>,
    /// The ranges of more than one port that anything opened by name is made of.
    pub(crate) ranges: Vec<PortRange>,
    /// Whether there is a relay that new connections can be redirected to.
    pub(crate) has_relay: bool,
    pieces: Vec<PortPiece>,
}

impl Plan {
    /// Returns the plan for what decides and for whom it holds. Who may reach more networks than the kernel can be told may
    /// reach none without a name, and the log says so.
    #[must_use]
    pub fn new(deciding: &dyn Deciding, devices: &[Device], groups: &[Group]) -> Self {
        let pieces = port_pieces(deciding.policy());
        let opened = pieces.iter().filter(|piece| piece.may_open).map(|piece| piece.ports);
        let ranges = opened.filter(|ports| !is_one(*ports)).collect();
        let mut plan = Self { ranges, pieces, ..Self::default() };
        let mut bounds: Vec<Bound> = Vec::new();
        let edges: Vec<IpAddr> = deciding.networks().iter().flat_map(IpBlock::edges).collect();
        for device in devices {
            let mut sources: Vec<Source> = Vec::new();
            for block in partition(edges.iter().copied()) {
                let place = Place {
                    address: Some(block.first()),
                    interface: Part::Known(Arc::clone(device.name())),
                    ..Place::default()
                };
                let Some(asker) = deciding.asker(&place) else { continue };
                let region = plan.region(deciding.policy(), &asker, &mut bounds);
                add(&mut sources, Source { block, region });
            }
            plan.behind.push(Behind { device: device.clone(), sources });
        }
        for group in groups {
            let asker = deciding.asker(&place_of(group));
            let region = asker.map(|asker| plan.region(deciding.policy(), &asker, &mut bounds));
            plan.locals.push(Local { group: group.clone(), region });
        }
        plan
    }

    /// The same, with a relay that new connections can be redirected to, or none.
    #[must_use]
    pub(crate) fn with_relay(self, has_relay: bool) -> Self {
        Self { has_relay, ..self }
    }

    /// The number of the region of `asker`, who has one from now on. `bounds` holds who has which.
    fn region(&mut self, policy: &PolicySet, asker: &Principal, bounds: &mut Vec<Bound>) -> usize {
        if let Some(region) = bounds.iter().position(|bound| *bound == asker.bound) {
            return region;
        }
        let open = networks(policy, &asker.bound).unwrap_or_else(|error| {
            tracing::error!(principal = %asker.name, %error, "networks stay closed: the policy names too many");
            Vec::new()
        });
        bounds.push(asker.bound.clone());
        self.regions.push(open);
        self.regions.len() - 1
    }

    /// Returns whether packets from `source` on `device` may go to a port of an address without a name.
    #[must_use]
    pub fn allows(
        &self,
        device: &str,
        source: IpAddr,
        address: IpAddr,
        transport: Transport,
        port: Port,
    ) -> bool {
        let (source, address) = (CanonicalIp::new(source), CanonicalIp::new(address));
        let behind = self.behind.iter().filter(|behind| **behind.device.name() == *device);
        let mut from =
            behind.flat_map(|behind| behind.sources.iter().find(|from| from.block.contains(source)));
        from.any(|from| self.region_allows(from.region, address, transport, port))
    }

    /// Returns whether the processes of the group of this number may reach a port of an address without a name.
    pub(crate) fn allows_local(
        &self,
        local: usize,
        address: IpAddr,
        transport: Transport,
        port: Port,
    ) -> bool {
        let region = self.locals.get(local).and_then(|local| local.region);
        region.is_some_and(|region| self.region_allows(region, CanonicalIp::new(address), transport, port))
    }

    fn region_allows(&self, region: usize, address: CanonicalIp, transport: Transport, port: Port) -> bool {
        let mut open = self.regions.get(region).into_iter().flatten();
        !closed_form(address.get())
            && open.any(|network| {
                network.transport == transport
                    && network.ports.contains(port)
                    && network.block.contains(address)
            })
    }

    /// Returns `ports` as the elements that the kernel keeps for them: single ports, and the plan's ranges. `None` if it
    /// is none of the policy's, so that it cannot be said.
    pub(crate) fn split(&self, ports: PortRange) -> Option<Vec<PortRange>> {
        let first = self.pieces.binary_search_by_key(&ports.first(), |piece| piece.ports.first()).ok()?;
        let last = self.pieces.binary_search_by_key(&ports.last(), |piece| piece.ports.last()).ok()?;
        let within = self.pieces.get(first..=last)?;
        within.iter().all(|piece| piece.may_open).then(|| within.iter().map(|piece| piece.ports).collect())
    }
}

/// Adds a source, as part of the one before if nothing but the block differs.
fn add(sources: &mut Vec<Source>, next: Source) {
    if let Some(last) = sources.last_mut()
        && last.region == next.region
        && last.block.edges().last() == Some(next.block.first())
        && let Some(joined) = IpBlock::between(last.block.first(), next.block.last())
    {
        last.block = joined;
        return;
    }
    sources.push(next);
}

/// Whether an address has a form that carries another address in bits which no network tells apart (Teredo, ISATAP and a
/// network's own NAT64). None is reached without a name.
pub(crate) fn closed_form(address: IpAddr) -> bool {
    let IpAddr::V6(address) = address else { return false };
    match address.segments() {
        [0x2001, 0, ..] | [0x64, 0xff9b, 1, ..] => true,
        [_, _, _, _, interface, 0x5efe, _, _] => interface & 0xfdff == 0,
        _ => false,
    }
}
