//! What names have opened, and what the kernel has counted of it.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use exeat_model::{DnsName, Transport};

use super::{Firewall, FirewallError};
use crate::{
    element::Element,
    packet_count::Count,
    state::{Client, View},
};

/// Something that a name opened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OpenedView {
    /// For whom.
    pub client: Client,
    /// The name.
    pub name: DnsName,
    /// An address of it.
    pub address: IpAddr,
    /// Transports and ports.
    pub ports: Vec<(Transport, exeat_model::PortRange)>,
    /// Those of them whose connections are redirected to the proxy, which looks at what opens them.
    pub relayed: Vec<(Transport, exeat_model::PortRange)>,
    /// How long it was still open at least, by what was asked; new connections make that longer. Zero if it has ended.
    pub remaining: Duration,
    /// What was counted of it, if that was asked for and is done.
    pub count: Option<Count>,
    elements: Vec<Element>,
}

impl OpenedView {
    fn of(view: &View<'_>, now: Instant) -> Self {
        let ports = |is_meant: &dyn Fn(&&Element) -> bool| {
            let elements = view.entry.elements.iter().filter(is_meant);
            let mut ports: Vec<_> = elements.map(|element| (element.transport, element.ports)).collect();
            ports.sort_unstable();
            ports.dedup();
            ports
        };
        Self {
            client: view.client.clone(),
            name: view.name.clone(),
            address: view.address,
            ports: ports(&|_| true),
            relayed: ports(&|element| element.is_relayed),
            remaining: view.entry.until.saturating_duration_since(now),
            count: None,
            elements: view.entry.elements.clone(),
        }
    }
}

impl Firewall {
    /// Returns what was opened by name, in no order.
    #[must_use]
    pub fn opened(&self) -> Vec<OpenedView> {
        let working = self.inner.working();
        let now = Instant::now();
        working.state.views().map(|view| OpenedView::of(&view, now)).collect()
    }

    /// Returns what was opened by name of `address`, or for it.
    #[must_use]
    pub fn opened_at(&self, address: IpAddr) -> Vec<OpenedView> {
        let working = self.inner.working();
        let now = Instant::now();
        let client = Client::from(address);
        let views = working.state.views().filter(|view| view.address == address || *view.client == client);
        views.map(|view| OpenedView::of(&view, now)).collect()
    }

    /// Asks the kernel what is left of each of these, and what it has counted of them. It takes some microseconds for each,
    /// between which names are opened.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn count(&self, views: &mut [OpenedView]) -> Result<(), FirewallError> {
        for view in views {
            let mut working = self.inner.working();
            view.remaining = Duration::ZERO;
            view.count = self.inner.config.is_counted.then_some(Count::default());
            for element in &view.elements {
                let Some((held, count)) = working.kernel.get_counted(element)? else { continue };
                view.remaining = held.remaining.max(view.remaining);
                if let (Some(sum), Some(count)) = (&mut view.count, count) {
                    *sum += count;
                }
            }
        }
        Ok(())
    }

    /// Returns what the rules have counted: the flows that they have let through, by their first packets, and the packets that
    /// they have refused, or dropped for a source that is not the sender's own.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn counters(&self) -> Result<Vec<(String, Count)>, FirewallError> {
        let mut counters = self.inner.working().kernel.counters()?;
        counters.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(counters)
    }
}
