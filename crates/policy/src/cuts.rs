//! All ports, cut where rules begin and end: within a piece every port is decided alike.

use std::collections::BTreeSet;

use exeat_model::{Port, PortRange, PortSet};

/// The ports at which pieces begin.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cuts(BTreeSet<u16>);

impl Cuts {
    /// The ports that an allow without ports means are apart from the others.
    pub(crate) fn of_allows() -> Self {
        Self(BTreeSet::from([80, 81, 443, 444]))
    }

    /// Cuts where the set begins and ends.
    pub(crate) fn at(&mut self, ports: Option<&PortSet>) {
        ports.into_iter().flat_map(PortSet::iter).for_each(|range| self.around(range.first(), range.last()));
    }

    /// Cuts before and after one port.
    pub(crate) fn at_port(&mut self, port: u16) {
        if let Some(port) = Port::new(port) {
            self.around(port, port);
        }
    }

    fn around(&mut self, first: Port, last: Port) {
        self.0.insert(first.get());
        self.0.extend(last.get().checked_add(1));
    }

    /// Returns the pieces, in ascending order.
    pub(crate) fn pieces(mut self) -> Vec<PortRange> {
        self.0.insert(1);
        let ends = self.0.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
        let pieces = self.0.iter().zip(ends);
        pieces.filter_map(|(&first, last)| PortRange::new(Port::new(first)?, Port::new(last)?)).collect()
    }
}
