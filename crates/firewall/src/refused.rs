//! Packets that were refused, as the kernel logs them: whose they were, where they went, and which name was meant.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use exeat_identity::Principal;
use exeat_model::{CanonicalIp, DnsName, Transport};
use exeat_policy::{Reason, Revision};
use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::{
    NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    nflog::{ConfigCmd, ConfigMode, PacketNla, ULogMessage, config_request},
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_NETFILTER};

use crate::{
    firewall::{Firewall, Inner},
    script::{LOG_GROUP, REFUSED, SPOOFED, WATCHED},
    wire::{ensure_part, failure},
};

/// Between two looks for packets when there were none. The kernel keeps some thousand meanwhile, and logs a hundred a second.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const DATAGRAM_BYTES: usize = 64 * 1024;
/// The number of the log among the parts of netfilter (`NFNL_SUBSYS_ULOG`).
const LOG: u16 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What became of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// It was refused.
    Refused,
    /// It was dropped: its source is not where it came from.
    Spoofed,
    /// It went on, because of report mode alone.
    Watched,
}

/// A packet that the policy does not allow.
#[derive(Clone, Debug)]
pub struct Packet {
    /// What became of it.
    pub fate: Fate,
    /// Whose it was, by its source address and port; the port is 0 where there is none.
    pub source: SocketAddr,
    /// Where it was to go.
    pub target: SocketAddr,
    /// How; `None` is neither TCP nor UDP.
    pub transport: Option<Transport>,
    /// Who that is.
    pub principal: Option<Arc<Principal>>,
    /// Why it may not, by what decides now.
    pub reason: Reason,
    /// The number of that.
    pub revision: Revision,
    /// The names that have resolved to the address, for this client if there are any, else for others; at most
    /// [`NAMES_MAX`].
    pub names: Vec<DnsName>,
    /// Whether one of these opened it for this client, and has ended.
    pub is_late: bool,
}

/// Names of one packet.
pub const NAMES_MAX: usize = 8;

/// Listens for refused packets for as long as it is there.
pub struct Packets {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Packets {
    /// Tells `told` of each packet that the kernel logs: at most a hundred a second, and some hundred at once.
    ///
    /// # Errors
    /// If the kernel keeps no such log, somebody listens to this firewall already, or the system gives no thread.
    pub fn listen(firewall: &Firewall, told: impl Fn(Packet) + Send + 'static) -> io::Result<Self> {
        let Log(socket) = firewall.take_log()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, inner) = (Arc::clone(&stop), Arc::clone(firewall.inner()));
        let thread = std::thread::Builder::new().name("firewall-log".to_owned()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match read(&socket, &inner, &told) {
                    Ok(true) => {}
                    Ok(false) => std::thread::sleep(LOOK_EVERY),
                    Err(error) => {
                        // Some were lost, for instance.
                        tracing::debug!(%error, "the log of refused packets");
                        std::thread::sleep(LOOK_EVERY);
                    }
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Packets {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell.
            let _ = thread.join();
        }
    }
}

/// The kernel's log of what our rules refuse in this network. One process at a time has it.
pub(crate) struct Log(Socket);

impl Log {
    /// # Errors
    /// `EPERM` if somebody else has it, or what else the kernel says.
    pub(crate) fn open() -> io::Result<Self> {
        bind().map(Self)
    }
}

fn bind() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    let orders = vec![ConfigCmd::Bind.into(), ConfigMode::PACKET_MAX.into()];
    let order = config_request(NetfilterProtoFamily::Unspec, LOG_GROUP, orders);
    let mut bytes = vec![0; order.buffer_len()];
    order.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answer = Vec::with_capacity(DATAGRAM_BYTES);
    socket.recv(&mut answer, 0)?;
    let answer = NetlinkMessage::<NetfilterMessage>::deserialize(&answer).map_err(io::Error::other)?;
    if let NetlinkPayload::Error(error) = answer.payload
        && error.code.is_some()
    {
        return Err(failure(error.raw_code()));
    }
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// Reads one datagram. Returns whether there was one.
fn read(socket: &Socket, inner: &Inner, told: &impl Fn(Packet)) -> io::Result<bool> {
    let mut datagram = Vec::with_capacity(DATAGRAM_BYTES);
    match socket.recv(&mut datagram, 0) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
        Err(error) => return Err(error),
    }
    packets(&datagram, |fate, slot, headers| told(inner.explain(fate, slot, &headers)))?;
    Ok(true)
}

/// Reads one datagram of the log, and tells `found` of each packet in it, with the slot of the group of this host whose it was.
///
/// # Errors
/// If the kernel does not write so. What comes before is told.
pub(crate) fn packets(datagram: &[u8], mut found: impl FnMut(Fate, Option<u32>, Headers)) -> io::Result<()> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let length = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?.length() as usize;
        let Some(whole) = rest.get(..length) else { break };
        ensure_part(whole, LOG)?;
        let message = NetlinkMessage::<NetfilterMessage>::deserialize(whole).map_err(io::Error::other)?;
        if let NetlinkPayload::InnerMessage(message) = message.payload
            && let NetfilterMessageInner::ULog(ULogMessage::Packet(parts)) = message.inner
            && let Some((fate, slot, headers)) = logged(&parts)
        {
            found(fate, slot, headers);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

/// Where a packet came from and was to go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Headers {
    /// Where it came from; the port is 0 where there is none.
    pub source: SocketAddr,
    /// Where it was to go.
    pub target: SocketAddr,
    /// How; `None` is neither TCP nor UDP.
    pub transport: Option<Transport>,
}

/// What became of a packet, the slot of the group of this host whose it was, and its headers.
fn logged(parts: &[PacketNla]) -> Option<(Fate, Option<u32>, Headers)> {
    let (mut about, mut headers) = (None, None);
    for part in parts {
        if let PacketNla::Prefix(prefix) = part {
            about = prefixed(&String::from_utf8_lossy(prefix.as_bytes()));
        }
        if let PacketNla::Payload(bytes) = part {
            headers = Headers::parse(bytes);
        }
    }
    let (fate, slot) = about?;
    Some((fate, slot, headers?))
}

/// What the prefix of a logged packet says.
fn prefixed(prefix: &str) -> Option<(Fate, Option<u32>)> {
    let fates = [(REFUSED, Fate::Refused), (SPOOFED, Fate::Spoofed), (WATCHED, Fate::Watched)];
    let (rest, fate) = fates.into_iter().find_map(|(text, fate)| Some((prefix.strip_prefix(text)?, fate)))?;
    match rest {
        "" => Some((fate, None)),
        slot => Some((fate, Some(slot.strip_prefix(' ')?.parse().ok()?))),
    }
}

impl Headers {
    /// Reads the headers of IPv4 (RFC 791 §3.1) or IPv6 (RFC 8200 §3), and the ports after them. Extension headers of IPv6 are
    /// not looked into.
    fn parse(packet: &[u8]) -> Option<Self> {
        let first = packet.first()?;
        let (source, target, protocol, rest): (IpAddr, IpAddr, u8, &[u8]) = if first >> 4 == 4 {
            let source = packet.get(12..16)?.first_chunk::<4>()?;
            let target = packet.get(16..20)?.first_chunk::<4>()?;
            let length = usize::from(first & 0xf) * 4;
            ((*source).into(), (*target).into(), *packet.get(9)?, packet.get(length..).unwrap_or_default())
        } else {
            let source = packet.get(8..24)?.first_chunk::<16>()?;
            let target = packet.get(24..40)?.first_chunk::<16>()?;
            ((*source).into(), (*target).into(), *packet.get(6)?, packet.get(40..).unwrap_or_default())
        };
        let transport = match protocol {
            TCP => Some(Transport::Tcp),
            UDP => Some(Transport::Udp),
            _ => None,
        };
        let port = |at: usize| {
            let bytes = rest.get(at..at + 2).and_then(|bytes| bytes.first_chunk::<2>());
            bytes.filter(|_| transport.is_some()).map_or(0, |bytes| u16::from_be_bytes(*bytes))
        };
        let canonical = |ip: IpAddr| CanonicalIp::new(ip).get();
        Some(Self {
            source: SocketAddr::new(canonical(source), port(0)),
            target: SocketAddr::new(canonical(target), port(2)),
            transport,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_far_as_they_go() {
        let mut v4 = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 2, 93, 184, 216, 34];
        v4.extend([0x9c, 0x40, 1, 187]);
        let mut v6 = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
        v6.extend("fd00::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
        v6.extend("2606:2800:220::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        v6.extend([0x9c, 0x40, 1, 187]);
        let mut ping = v4.clone();
        *ping.get_mut(9).unwrap() = 1;
        for (name, packet, want) in [
            ("IPv4", v4.clone(), Some(("10.0.0.2:40000", "93.184.216.34:443", Some(Transport::Tcp)))),
            ("IPv6", v6, Some(("[fd00::2]:40000", "[2606:2800:220::1]:443", Some(Transport::Udp)))),
            ("without ports", ping, Some(("10.0.0.2:0", "93.184.216.34:0", None))),
            (
                "cut off in the ports",
                v4.get(..21).unwrap().to_vec(),
                Some(("10.0.0.2:0", "93.184.216.34:0", Some(Transport::Tcp))),
            ),
            ("cut off", v4.get(..19).unwrap().to_vec(), None),
            ("empty", Vec::new(), None),
        ] {
            let want = want.map(|(source, target, transport)| Headers {
                source: source.parse().unwrap(),
                target: target.parse().unwrap(),
                transport,
            });
            assert_eq!(Headers::parse(&packet), want, "{name}");
        }
    }
}
