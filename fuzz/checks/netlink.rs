//! What holds for the kernel's answers, whatever their bytes are.

use std::net::{IpAddr, SocketAddr};

use exeat_firewall::Element;
use exeat_firewall::kernel_wire::{elements, flows, generation, neighbours, packets};

/// The bytes of a message's header (`struct nlmsghdr`), and of the shortest key of an element.
const HEADER_BYTES: usize = 16;
const KEY_BYTES_MIN: usize = 12;

/// Reads a datagram as each of the answers that the firewall asks for, and as one of the log. Returns how much was found.
pub(crate) fn check(bytes: &[u8]) -> usize {
    let sequence = bytes.get(8..12).and_then(|bytes| bytes.first_chunk());
    let sequence = sequence.map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    let packets = packets(bytes).unwrap_or_default();
    let elements = elements(bytes, sequence).unwrap_or_default();
    let flows = flows(bytes).unwrap_or_default();
    let neighbours = neighbours(bytes).unwrap_or_default();
    let generation = generation(bytes, sequence).ok().flatten();
    // No more than there is room for, and nothing that is not there.
    for count in [packets.len(), flows.len(), neighbours.len()] {
        assert!(count <= bytes.len() / HEADER_BYTES, "{count} of {} bytes", bytes.len());
    }
    assert!(elements.len() <= bytes.len() / KEY_BYTES_MIN, "{} of {} bytes", elements.len(), bytes.len());
    for (_, headers) in &packets {
        for end in [headers.source, headers.target] {
            has_end(bytes, end);
            assert!(headers.transport.is_some() || end.port() == 0, "{end}");
        }
    }
    for listed in &elements {
        let (set, key) = (listed.element.set(), listed.element.key());
        assert_eq!(Element::parse(&set, &key), Some(listed.element));
        has(bytes, &key);
        has(bytes, set.as_bytes());
        let milliseconds = u64::try_from(listed.remaining.as_millis()).unwrap();
        has(bytes, &milliseconds.to_be_bytes());
        has(bytes, listed.name.as_deref().unwrap_or_default().as_bytes());
    }
    for flow in &flows {
        has_end(bytes, flow.client);
        has_end(bytes, SocketAddr::new(flow.address, flow.port.get()));
    }
    for (address, station) in &neighbours {
        has_address(bytes, *address);
        has(bytes, &station.hardware);
        has(bytes, &station.device.to_ne_bytes());
    }
    if let Some(generation) = generation {
        has(bytes, &generation.to_be_bytes());
    }
    packets.len() + elements.len() + flows.len() + neighbours.len() + usize::from(generation.is_some())
}

fn has_end(bytes: &[u8], end: SocketAddr) {
    has_address(bytes, end.ip());
    // 0 stands for none.
    if end.port() != 0 {
        has(bytes, &end.port().to_be_bytes());
    }
}

fn has_address(bytes: &[u8], address: IpAddr) {
    match address {
        IpAddr::V4(address) => has(bytes, &address.octets()),
        IpAddr::V6(address) => has(bytes, &address.octets()),
    }
}

fn has(bytes: &[u8], part: &[u8]) {
    assert!(
        part.is_empty() || bytes.windows(part.len()).any(|window| window == part),
        "{part:02x?} is not there"
    );
}
