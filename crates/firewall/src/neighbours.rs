//! Who has which hardware address on a device, asked of the kernel (rtnetlink(7)).

use std::{io, net::IpAddr};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourHeader, NeighbourMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::{element::Station, wire::failure};

const DATAGRAM_BYTES: usize = 64 * 1024;

/// A connection to the tables of neighbours of the network namespace that it was made in.
pub(crate) struct Neighbours(Socket);

impl Neighbours {
    /// Connects.
    ///
    /// # Errors
    /// If the system does not let us.
    pub(crate) fn connect() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Returns who `address` is on `device`; `None` if the kernel does not know at present. It does while it speaks with
    /// that address.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub(crate) fn get(&self, device: u32, address: IpAddr) -> io::Result<Option<Station>> {
        let destination = match address {
            IpAddr::V4(address) => NeighbourAddress::Inet(address),
            IpAddr::V6(address) => NeighbourAddress::Inet6(address),
        };
        let mut question = NeighbourMessage::default();
        question.header = NeighbourHeader {
            family: family(address.is_ipv6()),
            ifindex: device,
            ..NeighbourHeader::default()
        };
        question.attributes.push(NeighbourAttribute::Destination(destination));
        let mut found = None;
        match self.ask(question, 0, |neighbour| found = Some(neighbour)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(|()| found.map(|(_, station)| station)),
        }
    }

    /// Returns every neighbour on any device.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub(crate) fn all(&self) -> io::Result<Vec<(IpAddr, Station)>> {
        let mut found = Vec::new();
        for is_ipv6 in [false, true] {
            let mut question = NeighbourMessage::default();
            question.header.family = family(is_ipv6);
            self.ask(question, NLM_F_DUMP, |neighbour| found.push(neighbour))?;
        }
        Ok(found)
    }

    fn ask(
        &self,
        question: NeighbourMessage,
        flags: u16,
        mut found: impl FnMut((IpAddr, Station)),
    ) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let payload = NetlinkPayload::from(RouteNetlinkMessage::GetNeighbour(question));
        let mut message = NetlinkMessage::new(header, payload);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0.send(&bytes, 0)?;
        loop {
            let mut datagram = Vec::with_capacity(DATAGRAM_BYTES);
            self.0.recv(&mut datagram, 0)?;
            if read(&datagram, flags & NLM_F_DUMP != 0, &mut found)? {
                return Ok(());
            }
        }
    }
}

/// Reads one datagram of an answer, or with `is_dump` of a list. Returns whether the answer ends with it.
///
/// # Errors
/// The kernel's own, or that it is not a datagram of its.
pub(crate) fn read(
    datagram: &[u8],
    is_dump: bool,
    mut found: impl FnMut((IpAddr, Station)),
) -> io::Result<bool> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let length = NetlinkBuffer::new_checked(rest).map_err(invalid)?.length() as usize;
        let whole = rest.get(..length).ok_or_else(|| invalid("a message that is cut off"))?;
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(whole).map_err(invalid)?;
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) => {
                neighbour(&message).into_iter().for_each(&mut found);
                if !is_dump {
                    return Ok(true);
                }
            }
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => return Err(failure(error.raw_code())),
            NetlinkPayload::Noop | NetlinkPayload::Overrun(_) | NetlinkPayload::InnerMessage(_) | _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn family(is_ipv6: bool) -> AddressFamily {
    if is_ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

fn neighbour(message: &NeighbourMessage) -> Option<(IpAddr, Station)> {
    let (mut address, mut hardware) = (None, None);
    for attribute in &message.attributes {
        if let NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) = attribute {
            address = Some(IpAddr::V4(*ip));
        }
        if let NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) = attribute {
            address = Some(IpAddr::V6(*ip));
        }
        if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
            hardware = bytes.as_slice().try_into().ok();
        }
    }
    Some((address?, Station { device: message.header.ifindex, hardware: hardware? }))
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
