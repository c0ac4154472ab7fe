//! Whose a refused packet was, and why it may not pass.

use std::{sync::Arc, time::Instant};

use exeat_identity::{Part, Place};
use exeat_model::Port;
use exeat_policy::{Reason, literal};

use super::Inner;
use crate::{
    plan::place_of,
    refused::{Fate, Headers, NAMES_MAX, Packet},
    state::Client,
};

impl Inner {
    /// Says whose a logged packet was, and why it may not pass.
    pub(crate) fn explain(&self, fate: Fate, slot: Option<u32>, headers: &Headers) -> Packet {
        let Headers { source, target, transport } = *headers;
        let working = self.working();
        let now = Instant::now();
        let group = slot.and_then(|slot| self.config.of_slot(slot)).map(|(_, group)| group);
        let (client, place) = match group {
            Some(group) => (Client::Group(Arc::clone(group.path())), place_of(group)),
            None => {
                let interface = self.config.devices.first().map(|device| Arc::clone(device.name()));
                let interface = interface.map_or(Part::Nothing, Part::Known);
                let place = Place { address: Some(source.ip()), interface, ..Place::default() };
                (Client::Address(source.ip()), place)
            }
        };
        let principal = working.deciding.asker(&place).filter(|_| fate != Fate::Spoofed);
        let policy = working.deciding.policy();
        let (mut names, mut is_late, mut is_known) = (Vec::new(), false, false);
        // In the family that it does not ask for names in, it is known by its station.
        let is_direct = working.state.of_client_at(&client, target.ip()).next().is_some();
        let station =
            if is_direct || group.is_some() { None } else { working.station(&self.config, source.ip()) };
        let client = station.and_then(|station| working.state.client_at(station)).unwrap_or(&client);
        for (name, entry) in working.state.of_client_at(client, target.ip()) {
            is_known = true;
            is_late |= entry.until <= now;
            names.push(name.clone());
        }
        if names.is_empty() {
            names.extend_from_slice(working.state.names_of(target.ip()));
        }
        names.sort_unstable();
        names.dedup();
        names.truncate(NAMES_MAX);
        let reason = match (fate, &principal, transport, Port::new(target.port())) {
            (Fate::Spoofed, ..) => Reason::ContainerMismatch,
            (Fate::Refused | Fate::Watched, None, ..) => Reason::AuthRequired,
            (Fate::Refused, Some(_), Some(_), Some(_)) if is_known && !is_late => Reason::PortNotAllowed,
            (Fate::Refused | Fate::Watched, Some(principal), Some(transport), Some(port)) => {
                match literal(policy, &principal.bound, target.ip(), port, transport) {
                    Err(denial) => denial.reason,
                    // It is allowed by now, or only where a flow begins.
                    Ok(would_deny) => would_deny.map_or(Reason::PolicyChanged, |denial| denial.reason),
                }
            }
            (Fate::Refused | Fate::Watched, Some(_), _, _) => Reason::IpLiteralNotAllowed,
        };
        self.counts.packet(fate, is_late);
        Packet {
            fate,
            source,
            target,
            transport,
            principal,
            reason,
            revision: policy.revision(),
            names,
            is_late,
        }
    }
}
