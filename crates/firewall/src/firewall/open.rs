//! A name is opened for a client before the client is told an address.

use std::{io, net::IpAddr, sync::Arc, time::Instant};

use exeat_dns::{GateError, Opening};
use exeat_policy::{Reach, Relayed};
use nix::errno::Errno;

use super::{Config, Working, config::number, rules::put};
use crate::{
    element::{Element, Sender, Station},
    group::Located,
    state::{Client, Entry},
    wire::Put,
};

impl Working {
    /// Opens what an answer needs.
    pub(super) fn open(&mut self, config: &Config, opening: &Opening) -> Result<(), GateError> {
        if opening.revision < self.revision {
            return Err(GateError::Outdated);
        }
        if self.in_force.is_none() {
            self.apply(config).map_err(|error| GateError::Kernel(io::Error::other(error)))?;
        }
        let lifetime = opening.lifetime.max(config.lifetime);
        let now = Instant::now();
        let client = match opening.place.cgroup.known() {
            Some(path) => Client::Group(Arc::clone(path)),
            None => Client::Address(opening.client),
        };
        let mut entries: Vec<(IpAddr, Entry)> = Vec::new();
        for reached in &opening.reach {
            for &address in &reached.addrs {
                let is_shared = self.state.is_shared(address, &opening.name);
                let elements = self.elements(config, &client, address, reached, is_shared);
                let elements = elements.ok_or_else(|| {
                    GateError::Kernel(io::Error::other("ports that the rules of the firewall do not know"))
                })?;
                match entries.iter_mut().find(|(other, _)| *other == address) {
                    Some((_, entry)) => entry.elements.extend(elements),
                    None => entries.push((address, Entry { elements, until: now + lifetime })),
                }
            }
        }
        let addresses: Vec<IpAddr> = entries.iter().map(|(address, _)| *address).collect();
        self.state.make_room(&client, &opening.name, &addresses, now).map_err(|_| {
            self.counts.full();
            GateError::Full
        })?;
        let elements = entries.iter().flat_map(|(_, entry)| &entry.elements);
        let puts: Vec<Put> = elements.map(|element| put(*element, lifetime, &opening.name)).collect();
        self.put(&puts).or_else(|error| self.put_after(config, error, &puts)).map_err(|error| {
            if error.raw_os_error() == Some(Errno::ENFILE as i32) {
                self.counts.full();
                GateError::Full
            } else {
                GateError::Kernel(error)
            }
        })?;
        if !config.relays(&client) {
            self.state.note(&client, &opening.name, &opening.place, entries);
            self.counts.open(self.state.len());
            return Ok(());
        }
        let becomes_shared = addresses.iter().copied().filter(|address| {
            let known = self.state.names_of(*address);
            known.len() == 1 && !known.contains(&opening.name)
        });
        let becomes_shared: Vec<IpAddr> = becomes_shared.collect();
        let before = self.state.elements_of(&client, &addresses);
        self.state.note(&client, &opening.name, &opening.place, entries);
        self.counts.open(self.state.len());
        self.turn(config, &client, &becomes_shared).map_err(GateError::Kernel)?;
        let after = self.state.elements_of(&client, &addresses);
        let gone: Vec<Element> = before.difference(&after).copied().collect();
        self.kernel.take_out(&gone).map_err(GateError::Kernel)
    }

    /// Has what the other names of a client have opened of these addresses, of which another name is known from now on, go
    /// through the relay where that is to look at it. Other clients' turn comes when they ask again.
    fn turn(&mut self, config: &Config, client: &Client, addresses: &[IpAddr]) -> io::Result<()> {
        let now = Instant::now();
        let mut turned = Vec::new();
        for view in self.state.of_client(client).filter(|view| addresses.contains(&view.address)) {
            let elements = self.again(config, &view, self.state.is_shared(view.address, view.name));
            if elements != view.entry.elements {
                let until = view.entry.until;
                turned.push((view.name.clone(), view.place.clone(), view.address, Entry { elements, until }));
            }
        }
        for (name, place, address, entry) in turned {
            let lifetime = entry.until.saturating_duration_since(now);
            if !lifetime.is_zero() {
                let puts = entry.elements.iter().map(|element| put(*element, lifetime, &name));
                self.put(&puts.collect::<Vec<_>>())?;
            }
            self.state.note(client, &name, &place, [(address, entry)]);
        }
        Ok(())
    }

    /// Tries once more where the sets were gone, because somebody has flushed our table.
    fn put_after(&mut self, config: &Config, error: io::Error, puts: &[Put]) -> io::Result<()> {
        if error.kind() != io::ErrorKind::NotFound {
            return Err(error);
        }
        tracing::error!("somebody has removed the rules of the firewall: they are set again");
        self.not_in_force();
        self.apply(config).map_err(io::Error::other)?;
        self.counts.reinstalled();
        self.put(puts)
    }

    /// What the kernel has to be told so that `client` reaches one address. `None` if the rules have no such ports. Empty
    /// if the client is not known in the family of the address: it may have none of that.
    pub(super) fn elements(
        &self,
        config: &Config,
        client: &Client,
        address: IpAddr,
        reached: &Reach,
        is_shared: bool,
    ) -> Option<Vec<Element>> {
        let sender = match client {
            Client::Address(client) if client.is_ipv4() == address.is_ipv4() => {
                Some(Sender::Address(*client))
            }
            Client::Address(client) => self.station(config, *client).map(Sender::Station),
            Client::Group(path) => self.group(config, path).map(|group| Sender::Group(group.id)),
        };
        let Some(sender) = sender else { return Some(Vec::new()) };
        let is_relayed = match reached.relayed {
            Relayed::Never => false,
            Relayed::IfShared => is_shared && config.relays(client),
            // Nobody would look at it.
            Relayed::Always if !config.relays(client) => return Some(Vec::new()),
            Relayed::Always => true,
        };
        let parts = self.plan.split(reached.ports)?;
        let transport = reached.transport;
        let element = |ports| Element { sender, address, transport, ports, is_relayed };
        Some(parts.into_iter().map(element).collect())
    }

    /// A group as the rules know it.
    fn group(&self, config: &Config, path: &str) -> Option<&Located> {
        let mut known = config.groups.iter().zip(&self.groups);
        known.find(|(attached, _)| **attached.group.path() == *path)?.1.as_ref()
    }

    /// Who a client is on the enforced device that it is a neighbour on.
    pub(super) fn station(&self, config: &Config, client: IpAddr) -> Option<Station> {
        let mut numbers = config.devices.iter().filter_map(|device| number(device.name()));
        numbers.find_map(|device| self.neighbours.get(device, client).ok().flatten())
    }
}
