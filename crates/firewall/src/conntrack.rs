//! The kernel's table of flows: which of ours are open, and how to end one.
//!
//! A connection gets a label by which the rules reset both of its ends, and which ends with its entry soon. To forget it would
//! only reset the end that sends first: the other one would wait for ever, as who receives a long answer does. The entry of a
//! flow of datagrams is deleted: its next packet meets the rules as a new one.

use std::{io, net::IpAddr};

use exeat_model::{CanonicalIp, Port, Transport};
use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, Nla,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Status, Tuple},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use crate::{
    script::{CUT, GROUP_LABELS, LABEL},
    wire::{ensure_part, failure},
};

/// The number of conntrack among the parts of netfilter (`NFNL_SUBSYS_CTNETLINK`).
const CONNTRACK: u16 = 1;
/// `CTA_LABELS`, the mask of the bits of it that are meant, and `CTA_ID`, which tells an entry from a later one of the same
/// addresses and ports.
const LABELS: u16 = 22;
const LABELS_MASK: u16 = 23;
const ID: u16 = 12;
/// Bytes of all labels of a flow.
const LABELS_BYTES: usize = 16;
/// Seconds that a connection which was cut is known for: by then both of its ends have sent something again.
const CUT_FOR_SECONDS: u32 = 120;
const DATAGRAM_BYTES: usize = 64 * 1024;

/// A flow that we let through, as its first packet was sent.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) client: IpAddr,
    pub(crate) client_port: u16,
    pub(crate) address: IpAddr,
    pub(crate) port: Port,
    pub(crate) transport: Transport,
    /// The slot of the group of this host that began it.
    pub(crate) slot: Option<u32>,
    status: Status,
    /// What names it to the kernel.
    entry: Vec<ConntrackAttribute>,
}

/// Returns every flow that has our label. Takes time in proportion to the kernel's whole table.
///
/// # Errors
/// If the kernel does not answer.
pub(crate) fn flows() -> io::Result<Vec<Flow>> {
    let socket = connect()?;
    let mut found = Vec::new();
    for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6] {
        let question = ConntrackMessage::Get(Vec::new());
        socket.send(&message(family, question, NLM_F_DUMP), 0)?;
        read_all(&socket, |message| found.extend(flow_of(message)))?;
    }
    Ok(found)
}

/// Ends flows: the next packet of each is refused.
///
/// # Errors
/// If the kernel cannot be asked.
pub(crate) fn cut(flows: &[Flow]) -> io::Result<()> {
    let socket = connect()?;
    for flow in flows {
        let order = match flow.transport {
            Transport::Tcp => ConntrackMessage::New(cut_connection(flow)),
            Transport::Udp => ConntrackMessage::Delete(flow.entry.clone()),
        };
        match change(&socket, flow, order) {
            // It cannot be changed, such as one that ends by itself soon: then its next packet is one of a new flow.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                change(&socket, flow, ConntrackMessage::Delete(flow.entry.clone()))
            }
            other => other,
        }
        .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
    }
    Ok(())
}

fn change(socket: &Socket, flow: &Flow, order: ConntrackMessage) -> io::Result<()> {
    let family = if flow.client.is_ipv4() { NetfilterProtoFamily::IPv4 } else { NetfilterProtoFamily::IPv6 };
    socket.send(&message(family, order, NLM_F_ACK), 0)?;
    read_all(socket, |_| {})
}

/// The entry of a connection, with the label of those that are cut and a time that packets do not prolong.
fn cut_connection(flow: &Flow) -> Vec<ConntrackAttribute> {
    let mut bits = vec![0; LABELS_BYTES];
    let (word, bit) = ((CUT / 32) as usize, CUT % 32);
    if let Some(place) = bits.chunks_exact_mut(4).nth(word) {
        place.copy_from_slice(&(1_u32 << bit).to_ne_bytes());
    }
    // The kernel takes no bit of these back, and which it has set meanwhile is not known.
    let status = flow.status | Status::SeenReply | Status::Assured | Status::FixedTimeout;
    let more = [
        ConntrackAttribute::CtaTimeout(CUT_FOR_SECONDS),
        ConntrackAttribute::CtaStatus(status),
        ConntrackAttribute::Other(DefaultNla::new(LABELS, bits.clone())),
        ConntrackAttribute::Other(DefaultNla::new(LABELS_MASK, bits)),
    ];
    flow.entry.iter().cloned().chain(more).collect()
}

fn connect() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

fn message(family: NetfilterProtoFamily, message: ConntrackMessage, flags: u16) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let message =
        NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), NetfilterMessageInner::Conntrack(message));
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Reads one answer to its end. What is answered is there when the question has been sent; of a long list its beginning.
fn read_all(socket: &Socket, mut found: impl FnMut(NetfilterMessage)) -> io::Result<()> {
    loop {
        let mut datagram = Vec::with_capacity(DATAGRAM_BYTES);
        socket.recv(&mut datagram, 0)?;
        if read(&datagram, &mut found)? {
            return Ok(());
        }
    }
}

/// Reads one datagram of an answer. Returns whether the answer ends with it.
///
/// # Errors
/// The kernel's own, or that it is not a datagram of its.
pub(crate) fn read(datagram: &[u8], mut found: impl FnMut(NetfilterMessage)) -> io::Result<bool> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let length = NetlinkBuffer::new_checked(rest).map_err(invalid)?.length() as usize;
        let whole = rest.get(..length).ok_or_else(|| invalid("a message that is cut off"))?;
        ensure_part(whole, CONNTRACK)?;
        let message = NetlinkMessage::<NetfilterMessage>::deserialize(whole).map_err(invalid)?;
        match message.payload {
            NetlinkPayload::InnerMessage(message) => found(message),
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) if error.code.is_none() => return Ok(true),
            NetlinkPayload::Error(error) => return Err(failure(error.raw_code())),
            NetlinkPayload::Noop | NetlinkPayload::Overrun(_) | _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Returns the flow of ours that a message tells of.
pub(crate) fn flow_of(message: NetfilterMessage) -> Option<Flow> {
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message.inner else {
        return None;
    };
    flow(&attributes)
}

/// Returns the flow that an entry is about, if it is one of ours and has not been cut.
fn flow(attributes: &[ConntrackAttribute]) -> Option<Flow> {
    let mut original = None;
    let mut entry = Vec::new();
    let mut status = Status::empty();
    let mut label = Vec::new();
    for attribute in attributes {
        if let ConntrackAttribute::CtaTupleOrig(tuple) = attribute {
            original = ends(tuple);
            entry.push(attribute.clone());
        }
        if let ConntrackAttribute::CtaStatus(bits) = attribute {
            status = *bits;
        }
        if let ConntrackAttribute::Other(other) = attribute {
            match other.kind() {
                LABELS => label = label_bits(other),
                ID => entry.push(attribute.clone()),
                _ => {}
            }
        }
    }
    let is_ours = has(&label, LABEL) && !has(&label, CUT);
    let (client, client_port, address, port, transport) = original.filter(|_| is_ours)?;
    let slot = GROUP_LABELS.clone().find(|bit| has(&label, *bit));
    Some(Flow { client, client_port, address, port, transport, slot, status, entry })
}

/// The bits of a label. They come in words of the machine, the lowest first.
fn label_bits(attribute: &impl Nla) -> Vec<u32> {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    let words = bytes.chunks_exact(4);
    words.filter_map(|word| word.first_chunk().map(|word| u32::from_ne_bytes(*word))).collect()
}

fn has(label: &[u32], bit: u32) -> bool {
    label.get((bit / 32) as usize).is_some_and(|bits| bits & (1 << (bit % 32)) != 0)
}

fn ends(tuple: &[Tuple]) -> Option<(IpAddr, u16, IpAddr, Port, Transport)> {
    let (mut source, mut destination) = (None, None);
    let (mut source_port, mut destination_port, mut transport) = (None, None, None);
    for part in tuple {
        if let Tuple::Ip(addresses) = part {
            for address in addresses {
                if let IPTuple::SourceAddress(ip) = address {
                    source = Some(*ip);
                }
                if let IPTuple::DestinationAddress(ip) = address {
                    destination = Some(*ip);
                }
            }
        }
        if let Tuple::Proto(parts) = part {
            for part in parts {
                match part {
                    ProtoTuple::Protocol(Protocol::Tcp) => transport = Some(Transport::Tcp),
                    ProtoTuple::Protocol(Protocol::Udp) => transport = Some(Transport::Udp),
                    ProtoTuple::SourcePort(port) => source_port = Some(*port),
                    ProtoTuple::DestinationPort(port) => destination_port = Some(*port),
                    ProtoTuple::Protocol(_) | ProtoTuple::Other(_) | _ => {}
                }
            }
        }
    }
    let canonical = |ip: IpAddr| CanonicalIp::new(ip).get();
    Some((
        canonical(source?),
        source_port?,
        canonical(destination?),
        Port::new(destination_port?)?,
        transport?,
    ))
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
