//! One entry of a set in the kernel: who may reach which address, over which transport, on which ports.

use std::net::IpAddr;

use exeat_model::{PortRange, Transport};

/// Numbers of IP protocols, as packets carry them.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Who sends the packets that an element lets through.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Sender {
    /// Whoever has this address.
    Address(IpAddr),
    /// A neighbour on a device, at its hardware address. It stands for a client that asked in one address family and
    /// connects in the other, where nothing but this is known of it.
    Station(Station),
    /// The processes of a control group of this host, by its number.
    Group(u64),
}

/// A neighbour on a network device.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Station {
    /// The device's number.
    pub device: u32,
    /// The neighbour's hardware address.
    pub hardware: [u8; 6],
}

/// An entry of a set of the kernel.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Element {
    /// Who may send. An address is of the family of `address`.
    pub sender: Sender,
    /// Where to.
    pub address: IpAddr,
    /// How.
    pub transport: Transport,
    /// To which ports: one, or exactly one of the ranges that have a set of their own.
    pub ports: PortRange,
    /// Whether new connections are redirected to the relay, and do not pass.
    pub is_relayed: bool,
}

/// What the names of sets begin with whose connections are redirected.
pub(crate) const RELAYED: &str = "relayed";

impl Element {
    /// Returns the name of the set that it belongs to.
    #[must_use]
    pub fn set(&self) -> String {
        let kind = match self.sender {
            Sender::Address(_) => Kind::Names,
            Sender::Station(_) => Kind::Stations,
            Sender::Group(_) => Kind::Groups,
        };
        set_name(self.is_relayed, kind, self.address.is_ipv6(), self.ports)
    }

    /// Returns its key as the kernel compares it: each part padded to four bytes, numbers of packets in network order and
    /// those of devices and groups in the machine's.
    #[must_use]
    pub fn key(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(48);
        match self.sender {
            Sender::Address(address) => push_address(&mut key, address),
            Sender::Station(Station { device, hardware }) => {
                key.extend_from_slice(&device.to_ne_bytes());
                key.extend_from_slice(&hardware);
                key.extend_from_slice(&[0; 2]);
            }
            Sender::Group(id) => key.extend_from_slice(&id.to_ne_bytes()),
        }
        push_address(&mut key, self.address);
        let protocol = match self.transport {
            Transport::Tcp => TCP,
            Transport::Udp => UDP,
        };
        key.extend_from_slice(&[protocol, 0, 0, 0]);
        if is_one(self.ports) {
            key.extend_from_slice(&self.ports.first().get().to_be_bytes());
            key.extend_from_slice(&[0; 2]);
        }
        key
    }

    /// Returns the element that a key of the set `set` stands for; `None` if it is not one that [`Self::key`] makes.
    #[must_use]
    pub fn parse(set: &str, key: &[u8]) -> Option<Self> {
        let (is_relayed, set) = match set.strip_prefix(RELAYED) {
            Some(set) => (true, set),
            None => (false, set),
        };
        let (kind, range) = match set.split_once('_') {
            Some((kind, range)) => (kind, Some(PortRange::parse(&range.replace('_', "-")).ok()?)),
            None => (set, None),
        };
        let (sender, family) = kind.split_at_checked(kind.len().checked_sub(1)?)?;
        let mut key = Key(key);
        let sender = match sender {
            "names" => Sender::Address(key.address(family)?),
            "stations" => {
                let device = u32::from_ne_bytes(key.take()?);
                let hardware = key.take()?;
                let [0, 0] = key.take()? else { return None };
                Sender::Station(Station { device, hardware })
            }
            "groups" => Sender::Group(u64::from_ne_bytes(key.take()?)),
            _ => return None,
        };
        let address = key.address(family)?;
        let transport = match key.take()? {
            [TCP, 0, 0, 0] => Transport::Tcp,
            [UDP, 0, 0, 0] => Transport::Udp,
            _ => return None,
        };
        let ports = match range {
            Some(range) => range,
            None => {
                let [high, low, 0, 0] = key.take()? else { return None };
                exeat_model::Port::new(u16::from_be_bytes([high, low]))?.into()
            }
        };
        key.0.is_empty().then_some(Self { sender, address, transport, ports, is_relayed })
    }
}

/// What the senders of a set are known by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// Their address.
    Names,
    /// Their station.
    Stations,
    /// Their control group.
    Groups,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Names => "names",
            Self::Stations => "stations",
            Self::Groups => "groups",
        }
    }

    /// Whether a set of this name is of one of these kinds: whether it holds what names have opened.
    pub(crate) fn is_of(set: &str) -> bool {
        let set = set.strip_prefix(RELAYED).unwrap_or(set);
        [Self::Names, Self::Stations, Self::Groups].iter().any(|kind| set.starts_with(kind.word()))
    }
}

/// Returns the name of the set for what is redirected or passes, for senders known by this, of a family, and for these ports.
pub(crate) fn set_name(is_relayed: bool, kind: Kind, is_ipv6: bool, ports: PortRange) -> String {
    let way = if is_relayed { RELAYED } else { "" };
    let kind = kind.word();
    let family = if is_ipv6 { 6 } else { 4 };
    if is_one(ports) {
        format!("{way}{kind}{family}")
    } else {
        format!("{way}{kind}{family}_{}_{}", ports.first(), ports.last())
    }
}

/// Whether a range is one port, which stands in the key then.
pub(crate) fn is_one(ports: PortRange) -> bool {
    ports.first() == ports.last()
}

fn push_address(key: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => key.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => key.extend_from_slice(&address.octets()),
    }
}

/// What is left of a key.
struct Key<'a>(&'a [u8]);

impl Key<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn address(&mut self, family: &str) -> Option<IpAddr> {
        match family {
            "4" => self.take::<4>().map(IpAddr::from),
            "6" => self.take::<16>().map(IpAddr::from),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(sender: &str, address: &str, transport: Transport, ports: &str) -> Element {
        Element {
            sender: match sender.parse() {
                Ok(address) => Sender::Address(address),
                Err(_) if sender == "group" => Sender::Group(0x0102_0304_0506),
                Err(_) => Sender::Station(Station { device: 7, hardware: [2, 0, 0, 0, 0, 9] }),
            },
            address: address.parse().unwrap(),
            transport,
            ports: PortRange::parse(ports).unwrap(),
            is_relayed: false,
        }
    }

    #[test]
    fn a_key_is_what_the_kernel_compares_and_reads_back() {
        let v6: [u8; 16] = "2606:2800:220::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
        for (name, element, set, want) in [
            (
                "an address and a port",
                element("10.0.0.2", "93.184.216.34", Transport::Tcp, "443"),
                "names4",
                vec![10, 0, 0, 2, 93, 184, 216, 34, 6, 0, 0, 0, 1, 187, 0, 0],
            ),
            (
                "a range has a set of its own",
                element("10.0.0.2", "93.184.216.34", Transport::Udp, "1-79"),
                "names4_1_79",
                vec![10, 0, 0, 2, 93, 184, 216, 34, 17, 0, 0, 0],
            ),
            (
                "a station",
                element("station", "2606:2800:220::1", Transport::Tcp, "443"),
                "stations6",
                [&7u32.to_ne_bytes()[..], &[2, 0, 0, 0, 0, 9, 0, 0], &v6, &[6, 0, 0, 0, 1, 187, 0, 0]]
                    .concat(),
            ),
            (
                "a group",
                element("group", "93.184.216.34", Transport::Tcp, "443"),
                "groups4",
                [&0x0102_0304_0506_u64.to_ne_bytes()[..], &[93, 184, 216, 34, 6, 0, 0, 0, 1, 187, 0, 0]]
                    .concat(),
            ),
            (
                "redirected",
                Element { is_relayed: true, ..element("10.0.0.2", "93.184.216.34", Transport::Tcp, "443") },
                "relayednames4",
                vec![10, 0, 0, 2, 93, 184, 216, 34, 6, 0, 0, 0, 1, 187, 0, 0],
            ),
            (
                "a range of it",
                Element { is_relayed: true, ..element("10.0.0.2", "93.184.216.34", Transport::Tcp, "1-79") },
                "relayednames4_1_79",
                vec![10, 0, 0, 2, 93, 184, 216, 34, 6, 0, 0, 0],
            ),
        ] {
            assert_eq!(element.set(), set, "{name}");
            assert_eq!(element.key(), want, "{name}");
            assert_eq!(Element::parse(set, &want), Some(element), "{name}");
        }
    }

    #[test]
    fn what_is_no_key_is_no_element() {
        let key = element("10.0.0.2", "93.184.216.34", Transport::Tcp, "443").key();
        for (name, set, key) in [
            ("another set", "cut4", key.clone()),
            ("no family", "names", key.clone()),
            ("another way", "relay4", key.clone()),
            ("another family", "names6", key.clone()),
            ("too short", "names4", key.split_last().unwrap().1.to_vec()),
            ("too long", "names4", [&key[..], &[0]].concat()),
            ("another protocol", "names4_1_79", vec![10, 0, 0, 2, 93, 184, 216, 34, 1, 0, 0, 0]),
            ("not a range", "names4_79_1", vec![10, 0, 0, 2, 93, 184, 216, 34, 6, 0, 0, 0]),
        ] {
            assert_eq!(Element::parse(set, &key), None, "{name}");
        }
    }
}
