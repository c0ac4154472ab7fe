//! What was opened is held to the policy that decides now: after a start, after a change, and in flows.

use std::{collections::HashSet, io, net::IpAddr, sync::Arc, time::Instant};

use exeat_identity::{Part, Place};
use exeat_model::DnsName;
use exeat_policy::{reach, reach_relayed};

use super::{Config, Working, config::number, rules::put};
use crate::{
    conntrack::Flow,
    element::{Element, Sender, Station},
    group::Located,
    plan::{Device, place_of},
    script::kept_sets,
    state::{Client, Entry, State, View},
    wire::{Held, Put},
};

/// Something that a name opens from now on, of which the kernel is not told yet.
#[derive(Clone, Debug)]
pub(super) struct New {
    client: Client,
    name: DnsName,
    address: IpAddr,
    put: Put,
}

impl Working {
    /// Takes over what is in the kernel already, as far as it says what it was opened for. It is decided on again before it
    /// counts.
    pub(super) fn adopt(&mut self, config: &Config, found: &[Held]) {
        let now = Instant::now();
        let neighbours = self.neighbours.all().unwrap_or_default();
        for held in found {
            let Some(name) = held.name.as_deref().and_then(|name| DnsName::parse(name).ok()) else {
                continue;
            };
            let element = held.element;
            let address = match element.sender {
                Sender::Address(client) => Some(client),
                Sender::Station(station) => neighbours
                    .iter()
                    .find(|(ip, at)| *at == station && ip.is_ipv4() != element.address.is_ipv4())
                    .map(|(ip, _)| *ip),
                Sender::Group(_) => None,
            };
            let (client, place) = match (element.sender, address) {
                (Sender::Group(id), _) => {
                    let is_it = |group: &Option<Located>| group.as_ref().is_some_and(|group| group.id == id);
                    let mut known = config.groups.iter().zip(&self.groups);
                    let Some((attached, _)) = known.find(|(_, group)| is_it(group)) else { continue };
                    (Client::Group(Arc::clone(attached.group.path())), place_of(&attached.group))
                }
                (Sender::Address(_) | Sender::Station(_), None) => continue,
                (Sender::Address(_) | Sender::Station(_), Some(client)) => {
                    let interface = self.interface(config, client, &neighbours);
                    let place = Place {
                        address: Some(client),
                        interface: interface.map_or(Part::Nothing, Part::Known),
                        ..Place::default()
                    };
                    (Client::Address(client), place)
                }
            };
            let until = now + held.remaining;
            let entry = Entry { elements: vec![element], until };
            if self.state.make_room(&client, &name, &[element.address], now).is_ok() {
                self.state.note(&client, &name, &place, [(element.address, entry)]);
            }
        }
    }

    /// The enforced device that a client is on.
    fn interface(
        &self,
        config: &Config,
        client: IpAddr,
        neighbours: &[(IpAddr, Station)],
    ) -> Option<Arc<str>> {
        let devices = neighbours.iter().filter(|(ip, _)| *ip == client).map(|(_, station)| station.device);
        let devices: Vec<u32> = devices.collect();
        let is_there =
            |device: &&Device| number(device.name()).is_some_and(|number| devices.contains(&number));
        let found = config.devices.iter().find(is_there).or(config.devices.first());
        found.map(|device| Arc::clone(device.name()))
    }

    /// Holds what was opened by name to what decides now: what nothing opens any more is leaving from then on. `found` may
    /// be in the kernel besides what we know of. Returns what the kernel has to be told of besides.
    pub(super) fn decide_again(&mut self, config: &Config, found: &[Element]) -> Vec<New> {
        let now = Instant::now();
        let known = self.state.known();
        let mut state = std::mem::replace(&mut self.state, State::new(0));
        let (gone, new) = state.decide_again(now, |view| {
            let names = known.get(&view.address).into_iter().flatten();
            self.again(config, view, names.into_iter().any(|name| name != view.name))
        });
        self.state = state;
        self.counts.open(self.state.len());
        let open = self.state.open();
        self.leaving.extend(gone);
        self.leaving.extend(found);
        let known: HashSet<String> = kept_sets(&self.plan).into_iter().map(|(name, _)| name).collect();
        self.leaving.retain(|element| !open.contains(element) && known.contains(&element.set()));
        let mut opened = Vec::new();
        for view in self.state.views() {
            let new = view.entry.elements.iter().filter_map(|element| Some((*element, *new.get(element)?)));
            opened.extend(new.map(|(element, lifetime)| New {
                client: view.client.clone(),
                address: view.address,
                put: put(element, lifetime, view.name),
                name: view.name.clone(),
            }));
        }
        opened
    }

    /// Tells the kernel of these, as far as they are still open.
    pub(super) fn put_opened(&mut self, new: &[New]) -> io::Result<()> {
        let is_open = |New { client, name, address, put }: &&New| {
            self.state
                .entry(client, name, *address)
                .is_some_and(|entry| entry.elements.contains(&put.element))
        };
        let puts: Vec<Put> = new.iter().filter(is_open).map(|opened| opened.put.clone()).collect();
        self.put(&puts)
    }

    /// What a name opens now of what it has opened.
    pub(super) fn again(&self, config: &Config, view: &View<'_>, is_shared: bool) -> Vec<Element> {
        let Some(asker) = self.deciding.asker(view.place) else { return Vec::new() };
        let reach = if config.relays(view.client) { reach_relayed } else { reach };
        let Ok(reached) = reach(self.deciding.policy(), &asker.bound, view.name, &[view.address]) else {
            return Vec::new();
        };
        let elements = reached
            .iter()
            .filter_map(|reached| self.elements(config, view.client, view.address, reached, is_shared));
        elements.flatten().collect()
    }

    /// The flows that are not allowed, and how many are.
    pub(super) fn part(&self, config: &Config, flows: Vec<Flow>) -> io::Result<(Vec<Flow>, usize)> {
        let neighbours = self.neighbours.all()?;
        let open = self.state.open();
        let (kept, cut): (Vec<Flow>, Vec<Flow>) =
            flows.into_iter().partition(|flow| self.is_allowed(config, flow, &open, &neighbours));
        Ok((cut, kept.len()))
    }

    fn is_allowed(
        &self,
        config: &Config,
        flow: &Flow,
        open: &HashSet<Element>,
        neighbours: &[(IpAddr, Station)],
    ) -> bool {
        let Flow { client, address, port, transport, slot, .. } = *flow;
        let ranges = self.plan.ranges.iter().copied().filter(|range| range.contains(port));
        let ports: Vec<_> = std::iter::once(port.into()).chain(ranges).collect();
        // One that passed before its address was known to be shared goes on.
        let element = |sender, is_relayed, ports| Element { sender, address, transport, ports, is_relayed };
        let is_open = |sender| {
            ports
                .iter()
                .any(|&ports| [false, true].iter().any(|way| open.contains(&element(sender, *way, ports))))
        };
        if let Some(slot) = slot {
            let Some((number, _)) = config.of_slot(slot) else { return false };
            let group = self.groups.get(number).and_then(Option::as_ref);
            return group.is_some_and(|group| is_open(Sender::Group(group.id)))
                || self.plan.allows_local(number, address, transport, port);
        }
        let stations = neighbours.iter().filter(|(ip, _)| *ip == client).map(|(_, at)| Sender::Station(*at));
        let mut senders = std::iter::once(Sender::Address(client)).chain(stations);
        senders.any(is_open)
            || self
                .plan
                .behind
                .iter()
                .any(|behind| self.plan.allows(behind.device.name(), client, address, transport, port))
    }
}
