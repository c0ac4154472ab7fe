//! Packets that the kernel refused inside by itself: they are no connection, and never reach the proxy. The kernel counts them, where
//! nobody inside can lie about it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use netlink_packet_core::{
    DefaultNla, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NlasIterator,
};
use netlink_packet_netfilter::nftables::NfTablesMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use serde::{Deserialize, Serialize};

use crate::redirect::{DATAGRAMS, OTHERS, TABLE};

/// How many packets were refused.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Packets {
    /// Of UDP, such as those of QUIC.
    pub datagrams: u64,
    /// Of anything else but TCP, such as ICMP.
    pub others: u64,
}

/// Bytes of the kernel's answers that are read at once: it fills no more of one buffer.
const ANSWER_BYTES: usize = 64 * 1024;

/// The bytes of a message's header (`struct nlmsghdr`), and of what says whose it is (`struct nfgenmsg`).
const HEADER_BYTES: usize = 16;
const FAMILY_BYTES: usize = 4;

/// `NLMSG_ERROR`, `NLMSG_DONE`, and `NFT_MSG_NEWOBJ` of nftables.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const NEW_OBJECT: u16 = 10 << 8 | 18;

/// Attributes of a question and its answer: `NFTA_OBJ_TABLE`, `NFTA_OBJ_NAME`, `NFTA_OBJ_TYPE`, `NFTA_OBJ_DATA`.
const OBJECT_TABLE: u16 = 1;
const OBJECT_NAME: u16 = 2;
const OBJECT_TYPE: u16 = 3;
const OBJECT_DATA: u16 = 4;
/// `NFT_OBJECT_COUNTER`, and of one `NFTA_COUNTER_PACKETS`.
const COUNTER: u32 = 1;
const COUNTER_PACKETS: u16 = 2;

/// Returns a way to ask for the counters of the network that this process is in.
pub(crate) fn counters() -> io::Result<OwnedFd> {
    let socket = Socket::new(NETLINK_NETFILTER)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.as_fd().try_clone_to_owned()
}

impl Packets {
    /// Asks by what [`counters`] returned, from within that network or outside.
    pub(crate) fn read(counters: &OwnedFd) -> io::Result<Self> {
        send(counters, &question(), SendFlags::empty())?;
        let mut packets = Self::default();
        let mut answer = vec![0; ANSWER_BYTES];
        loop {
            // The kernel has answered within `send`, and goes on when some of it is read.
            let (length, _) = recv(counters, &mut answer, RecvFlags::DONTWAIT)?;
            if packets.take(answer.get(..length).unwrap_or_default())? {
                return Ok(packets);
            }
        }
    }

    /// Takes in what a part of the answer says. Returns whether it is the last.
    fn take(&mut self, part: &[u8]) -> io::Result<bool> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let mut rest = part;
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(|_| invalid())?;
            let length = usize::try_from(message.length()).map_err(io::Error::other)?;
            let payload = rest.get(HEADER_BYTES..length).ok_or_else(invalid)?;
            match message.message_type() {
                DONE => return Ok(true),
                ERROR => {
                    let code = payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                }
                NEW_OBJECT => {
                    let (name, count) = counted(payload).ok_or_else(invalid)?;
                    match name.as_str() {
                        DATAGRAMS => self.datagrams = count,
                        OTHERS => self.others = count,
                        _ => return Err(invalid()),
                    }
                }
                _ => return Err(invalid()),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(false)
    }
}

/// The question for all counters of our table.
fn question() -> Vec<u8> {
    let attributes = vec![
        DefaultNla::new(OBJECT_TABLE, [TABLE.as_bytes(), &[0]].concat()),
        DefaultNla::new(OBJECT_TYPE, COUNTER.to_be_bytes().to_vec()),
    ];
    let ours = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let message = NetfilterMessage::new(ours, NfTablesMessage::GetObject(attributes));
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// The name of the counter that an answer is about, and how many packets it has counted.
fn counted(payload: &[u8]) -> Option<(String, u64)> {
    let attributes = payload.get(FAMILY_BYTES..)?;
    let name = inner(attributes, OBJECT_NAME)?;
    let name = String::from_utf8(name.strip_suffix(&[0])?.to_vec()).ok()?;
    let count = inner(&inner(attributes, OBJECT_DATA)?, COUNTER_PACKETS)?;
    Some((name, u64::from_be_bytes(count.try_into().ok()?)))
}

/// The value of the first attribute of a kind.
fn inner(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    let mut found = NlasIterator::new(attributes).map_while(Result::ok);
    found.find(|attribute| attribute.kind() == kind).map(|attribute| attribute.value().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An attribute (`struct nlattr`), padded.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len() + HEADER_BYTES).unwrap();
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], payload].concat()
    }

    fn counter(name: &str, packets: u64) -> Vec<u8> {
        const NESTED: u16 = 1 << 15;
        let data = [attribute(1, &1000_u64.to_be_bytes()), attribute(2, &packets.to_be_bytes())].concat();
        let name = attribute(OBJECT_NAME, &[name.as_bytes(), &[0]].concat());
        let table = attribute(OBJECT_TABLE, b"exeat\0");
        let payload = [&[1, 0, 0, 0][..], &table, &name, &attribute(NESTED | OBJECT_DATA, &data)].concat();
        message(NEW_OBJECT, &payload)
    }

    #[test]
    fn counters_are_told_apart_and_nothing_else_is_taken_for_one() {
        let done = message(DONE, &[0; 4]);
        let both = [counter(OTHERS, 2), counter(DATAGRAMS, 7)].concat();
        let mut packets = Packets::default();
        assert!(!packets.take(&both).unwrap());
        assert!(packets.take(&done).unwrap());
        assert_eq!(packets, Packets { datagrams: 7, others: 2 });
        let whole = counter(DATAGRAMS, 7);
        for length in 1..whole.len() {
            assert!(Packets::default().take(&whole[..length]).is_err(), "cut off at {length}");
        }
        assert!(Packets::default().take(&counter("else", 1)).is_err());
        let refused = Packets::default().take(&message(ERROR, &(-libc::EPERM).to_ne_bytes()));
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EPERM));
    }
}
