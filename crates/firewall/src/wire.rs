//! Messages to nftables: batches of elements, and what the kernel says of tables, chains, rules and elements.

use std::{io, net::IpAddr, time::Duration};

use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, Nla, NlaBuffer, NlasIterator,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily,
    nftables::{
        DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList, SetElementMessage,
    },
    none::ControlMessage,
};

use crate::element::Element;

/// The name of our table, in the family `inet`.
pub(crate) const TABLE: &str = "exeat";
/// The number of nftables among the parts of netfilter (`NFNL_SUBSYS_NFTABLES`), which a batch is for.
const NFTABLES: u16 = 10;
/// Elements of one message: the length of a list of attributes has 16 bits, and a key of IPv6 with a comment comes to
/// some 400 bytes.
const ELEMENTS_PER_MESSAGE: usize = 128;
/// The first type that is not netlink's own (`NLMSG_MIN_TYPE`).
const MIN_TYPE: u16 = 16;
/// `NFT_MSG_DESTROYSETELEM`, of nftables.
const DESTROY_ELEMENTS: u8 = 30;
/// The bytes of what comes first in a message (`struct nfgenmsg`).
pub(crate) const FAMILY_BYTES: usize = 4;
/// Attributes of a list of elements (`NFTA_SET_ELEM_LIST_`), of an element (`NFTA_SET_ELEM_`) and of its key (`NFTA_DATA_`).
const SET: u16 = 2;
const ELEMENTS: u16 = 3;
const KEY: u16 = 1;
const EXPIRATION: u16 = 5;
const USER_DATA: u16 = 6;
const VALUE: u16 = 1;
/// The type of a comment in the bytes that nftables keeps for whoever made an element (`NFTNL_UDATA_SET_ELEM_COMMENT`).
const COMMENT: u8 = 0;
/// The sets of flows of datagrams that were cut off, of both families.
pub(crate) const CUT_SETS: [&str; 2] = ["cut4", "cut6"];
/// How long a client and a server whose datagrams were cut off are kept apart after their last packet; longer than any
/// system keeps a flow of datagrams.
pub(crate) const CUT_FOR: Duration = Duration::from_secs(600);

/// For how long an element is put that is taken out in the same transaction: any time will do.
const TAKEN_OUT_WITHIN: Duration = Duration::from_secs(1);

/// A change of a set.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Put {
    /// What comes in, or is renewed.
    pub(crate) element: Element,
    /// For how long from now on.
    pub(crate) lifetime: Duration,
    /// The name that it was opened for.
    pub(crate) comment: String,
}

/// One transaction: all of it happens, or nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    messages: Vec<NetfilterMessage>,
    flags: Vec<u16>,
}

impl Batch {
    /// Puts elements into their sets, or renews them there.
    ///
    /// Before Linux 6.12 a set that has an element already leaves its time as it was. `renews_in_place` is whether it
    /// does not: else each element goes in, so that it is there to be taken out, out, and in again.
    pub(crate) fn put(&mut self, puts: &[Put], renews_in_place: bool) {
        if !renews_in_place {
            self.add(puts);
            let elements: Vec<Element> = puts.iter().map(|put| put.element).collect();
            self.delete(&elements, false);
        }
        self.add(puts);
    }

    /// Takes elements out of their sets, whether they are there or have ended by themselves.
    ///
    /// Linux 6.3 and later do that: `destroys`. To others a transaction is refused as a whole for one element that is not
    /// there: each goes in before it goes out, which no packet sees, and for which there may be no room in its set.
    pub(crate) fn take_out(&mut self, gone: &[Element], destroys: bool) {
        if !destroys {
            let in_first = |element: &Element| Put {
                element: *element,
                lifetime: TAKEN_OUT_WITHIN,
                comment: String::new(),
            };
            self.add(&gone.iter().map(in_first).collect::<Vec<_>>());
        }
        self.delete(gone, destroys);
    }

    fn add(&mut self, puts: &[Put]) {
        for (set, puts) in by_set(puts, |put| put.element) {
            for puts in puts.chunks(ELEMENTS_PER_MESSAGE) {
                let message = elements(&set, puts.iter().map(added));
                self.push(NfTablesMessage::NewSetElement(message), NLM_F_CREATE);
            }
        }
    }

    fn delete(&mut self, gone: &[Element], destroys: bool) {
        for (set, gone) in by_set(gone, |element| *element) {
            for gone in gone.chunks(ELEMENTS_PER_MESSAGE) {
                let message = elements(&set, gone.iter().map(|element| vec![key(element)]));
                let message =
                    if destroys { destroyed(&message) } else { NfTablesMessage::DeleteSetElement(message) };
                self.push(message, 0);
            }
        }
    }

    /// Lets datagrams from `server` to `client` begin no flow for a while. It holds as long as they come.
    pub(crate) fn keep_apart(&mut self, client: (IpAddr, u16), server: (IpAddr, u16)) {
        let mut key = Vec::new();
        for address in [client.0, server.0] {
            match address {
                IpAddr::V4(address) => key.extend_from_slice(&address.octets()),
                IpAddr::V6(address) => key.extend_from_slice(&address.octets()),
            }
        }
        for port in [client.1, server.1] {
            key.extend_from_slice(&port.to_be_bytes());
            key.extend_from_slice(&[0; 2]);
        }
        let set = if client.0.is_ipv6() { CUT_SETS[1] } else { CUT_SETS[0] };
        let milliseconds = u64::try_from(CUT_FOR.as_millis()).unwrap_or(u64::MAX);
        let attributes = vec![
            SetElementAttribute::Key(DataAttribute::Value(key)),
            SetElementAttribute::Timeout(milliseconds),
        ];
        let message = elements(set, std::iter::once(attributes));
        self.push(NfTablesMessage::NewSetElement(message), NLM_F_CREATE);
    }

    fn push(&mut self, message: NfTablesMessage, flags: u16) {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
        self.messages.push(NetfilterMessage::new(header, message));
        self.flags.push(flags);
    }

    /// Whether it changes nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Returns the bytes to send. The last change is acknowledged, with the sequence number `sequence`; what fails before
    /// it is told with the same.
    pub(crate) fn finish(self, sequence: u32) -> Vec<u8> {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFTABLES);
        let mut bytes = Vec::new();
        append(&mut bytes, NetfilterMessage::new(header.clone(), ControlMessage::BatchBegin), 0, sequence);
        let last = self.messages.len().saturating_sub(1);
        for (at, (message, flags)) in self.messages.into_iter().zip(self.flags).enumerate() {
            let ack = if at == last { NLM_F_ACK } else { 0 };
            append(&mut bytes, message, flags | ack, sequence);
        }
        append(&mut bytes, NetfilterMessage::new(header, ControlMessage::BatchEnd), 0, sequence);
        bytes
    }
}

/// Returns the bytes of a question to nftables: about one thing, or with `is_dump` about all.
pub(crate) fn question(message: NfTablesMessage, is_dump: bool, sequence: u32) -> Vec<u8> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
    let mut bytes = Vec::new();
    let flags = if is_dump { NLM_F_DUMP } else { 0 };
    append(&mut bytes, NetfilterMessage::new(header, message), flags, sequence);
    bytes
}

/// Returns the question for an element as it is now.
pub(crate) fn element_question(element: &Element) -> NfTablesMessage {
    NfTablesMessage::GetSetElement(elements(&element.set(), std::iter::once(vec![key(element)])))
}

/// Returns the question for all elements of a set.
pub(crate) fn set_question(set: &str) -> NfTablesMessage {
    let table = SetElementList::Table(TABLE.to_owned());
    NfTablesMessage::GetSetElement(SetElementMessage {
        attributes: vec![table, SetElementList::Set(set.to_owned())],
    })
}

/// Returns the question for all counters of our table (`NFTA_OBJ_TABLE`, `NFTA_OBJ_TYPE`).
pub(crate) fn counters_question() -> NfTablesMessage {
    const COUNTER: u32 = 1;
    let table = [TABLE.as_bytes(), &[0]].concat();
    NfTablesMessage::GetObject(vec![
        DefaultNla::new(1, table),
        DefaultNla::new(3, COUNTER.to_be_bytes().to_vec()),
    ])
}

/// An element as the kernel tells it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Held {
    /// What it lets through.
    pub(crate) element: Element,
    /// How long it still does.
    pub(crate) remaining: Duration,
    /// The name that it was opened for, if it is known.
    pub(crate) name: Option<String>,
}

/// Returns the elements that the payload of an answer holds, as far as they are of the kind that we make.
///
/// It is read attribute by attribute: the crate's reader of elements panics where a key is shorter than it says.
///
/// # Errors
/// If an attribute is cut off.
pub(crate) fn held(payload: &[u8]) -> io::Result<Vec<Held>> {
    let mut set = None;
    let mut found = Vec::new();
    for attribute in attributes(payload.get(FAMILY_BYTES..).unwrap_or_default()) {
        let attribute = attribute?;
        match attribute.kind() {
            SET => set = text(attribute.value()),
            ELEMENTS => {
                let Some(set) = &set else { continue };
                for element in attributes(attribute.value()) {
                    found.extend(held_element(set, element?.value())?);
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

fn held_element(set: &str, element: &[u8]) -> io::Result<Option<Held>> {
    let (mut element_held, mut remaining, mut name) = (None, None, None);
    for attribute in attributes(element) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            KEY => {
                for data in attributes(value) {
                    let data = data?;
                    if data.kind() == VALUE {
                        element_held = Element::parse(set, data.value());
                    }
                }
            }
            EXPIRATION => {
                remaining =
                    value.try_into().ok().map(|bytes| Duration::from_millis(u64::from_be_bytes(bytes)));
            }
            USER_DATA => name = comment(value),
            _ => {}
        }
    }
    let held = |element, remaining| Held { element, remaining, name };
    Ok(element_held.zip(remaining).map(|(element, remaining)| held(element, remaining)))
}

/// The attributes in `bytes`, up to the first that is cut off.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = io::Result<NlaBuffer<&[u8]>>> {
    NlasIterator::new(bytes)
        .map(|attribute| attribute.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)))
}

fn text(bytes: &[u8]) -> Option<String> {
    let [text @ .., 0] = bytes else { return None };
    String::from_utf8(text.to_vec()).ok()
}

/// Holds a message to one part of netfilter, or to netlink itself: the readers of other parts do not check all they read.
///
/// # Errors
/// If it is of another part.
pub(crate) fn ensure_part(message: &[u8], part: u16) -> io::Result<()> {
    let kind = message.get(4..).and_then(<[u8]>::first_chunk).map(|kind| u16::from_ne_bytes(*kind));
    let is_it = kind.is_some_and(|kind| kind < MIN_TYPE || kind >> 8 == part);
    if is_it {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "a message of another part of netfilter"))
    }
}

/// The error that an answer's code stands for: the system's number with a minus before it.
pub(crate) fn failure(code: i32) -> io::Error {
    // The least number has no opposite.
    io::Error::from_raw_os_error(code.saturating_neg())
}

fn elements(set: &str, elements: impl Iterator<Item = Vec<SetElementAttribute>>) -> SetElementMessage {
    SetElementMessage {
        attributes: vec![
            SetElementList::Table(TABLE.to_owned()),
            SetElementList::Set(set.to_owned()),
            SetElementList::Elements(elements.map(ListAttribute::Element).collect()),
        ],
    }
}

/// The order to delete elements that may not be there, which the crate has no type for.
fn destroyed(elements: &SetElementMessage) -> NfTablesMessage {
    let plain = |attribute: &SetElementList| {
        let mut value = vec![0; attribute.value_len()];
        attribute.emit_value(&mut value);
        DefaultNla::new(attribute.kind(), value)
    };
    let attributes = elements.attributes.iter().map(plain).collect();
    NfTablesMessage::Other { message_type: DESTROY_ELEMENTS, attributes }
}

fn key(element: &Element) -> SetElementAttribute {
    SetElementAttribute::Key(DataAttribute::Value(element.key()))
}

fn added(put: &Put) -> Vec<SetElementAttribute> {
    let milliseconds = u64::try_from(put.lifetime.as_millis()).unwrap_or(u64::MAX).max(1);
    let mut attributes = vec![
        key(&put.element),
        SetElementAttribute::Timeout(milliseconds),
        SetElementAttribute::Expiration(milliseconds),
    ];
    // With its type, its length and the zero at its end it may come to 256 bytes; no name is longer than that leaves.
    if let Ok(length) = u8::try_from(put.comment.len() + 1) {
        let bytes = [&[COMMENT, length][..], put.comment.as_bytes(), &[0]].concat();
        attributes.push(SetElementAttribute::UserData(bytes));
    }
    attributes
}

fn comment(bytes: &[u8]) -> Option<String> {
    let [COMMENT, length, rest @ ..] = bytes else { return None };
    let [text @ .., 0] = rest.get(..usize::from(*length))? else { return None };
    String::from_utf8(text.to_vec()).ok()
}

/// The items of each set, in the order of the sets' names.
pub(crate) fn by_set<T: Clone>(items: &[T], element: impl Fn(&T) -> Element) -> Vec<(String, Vec<T>)> {
    let mut sets: Vec<(String, Vec<T>)> = Vec::new();
    for item in items {
        let set = element(item).set();
        match sets.iter_mut().find(|(other, _)| *other == set) {
            Some((_, items)) => items.push(item.clone()),
            None => sets.push((set, vec![item.clone()])),
        }
    }
    sets
}

fn append(bytes: &mut Vec<u8>, message: NetfilterMessage, flags: u16, sequence: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let start = bytes.len();
    bytes.resize(start + message.buffer_len(), 0);
    if let Some(room) = bytes.get_mut(start..) {
        message.serialize(room);
    }
}
