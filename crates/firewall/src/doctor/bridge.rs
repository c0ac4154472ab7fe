//! A client of a bridge for the time being: a network of its own that is one of the bridge's ports.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::gettid,
};
use serde_json::Value;

use super::probe::{self, Seen};
use crate::{
    kernel::Kernel,
    namespace::{ip, ip_json},
};

/// How long whoever has an address may take to say so, on a link.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Addresses that are tried, from the end of the network: other programs give them out from its beginning.
const TRIED: u32 = 8;
/// The device of the network for the time being.
const INSIDE: &str = "probe0";

/// Sends as a client of the bridge.
///
/// # Errors
/// If there can be no such client, with the reason.
pub(super) fn send(bridge: &str, kernel: &mut Kernel) -> io::Result<Vec<Seen>> {
    let addresses = addresses(bridge)?;
    let port = format!("exd{}", std::process::id());
    let (tell, told) = mpsc::channel();
    let (go, gone) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let inside = scope.spawn(move || -> io::Result<Vec<Seen>> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            tell.send(gettid()).map_err(io::Error::other)?;
            gone.recv().map_err(|_| io::Error::other("the bridge takes no port"))?;
            configure(&addresses)?;
            probe::send(kernel)
        });
        let connected = told
            .recv()
            .map_err(|_| io::Error::other("there can be no network namespace"))
            .and_then(|thread| Port::new(&port, bridge, &thread.to_string()));
        let _port = match connected {
            Ok(port) => {
                // If it has ended, it says why.
                let _ = go.send(());
                Some(port)
            }
            Err(error) => {
                drop(go);
                // What went wrong inside comes first.
                return match inside.join() {
                    Ok(Err(inside)) if inside.raw_os_error().is_some() => Err(inside),
                    Ok(_) | Err(_) => Err(error),
                };
            }
        };
        inside.join().unwrap_or_else(|_| Err(io::Error::other("the network for the time being panicked")))
    })
}

/// A port of a bridge, which ends with this.
struct Port<'a>(&'a str);

impl<'a> Port<'a> {
    /// Makes one, whose other end is in the network namespace of a thread.
    fn new(name: &'a str, bridge: &str, thread: &str) -> io::Result<Self> {
        ip(&["link", "add", name, "type", "veth", "peer", "name", INSIDE, "netns", thread])?;
        let port = Self(name);
        ip(&["link", "set", name, "master", bridge, "up"])?;
        Ok(port)
    }
}

impl Drop for Port<'_> {
    fn drop(&mut self) {
        if let Err(error) = ip(&["link", "delete", self.0]) {
            tracing::warn!(%error, "the port {} stays", self.0);
        }
    }
}

/// An address for a client, the length of its network, and where its packets go.
struct Address {
    own: IpAddr,
    length: u8,
    gateway: IpAddr,
}

fn configure(addresses: &[Address]) -> io::Result<()> {
    ip(&["link", "set", INSIDE, "up"])?;
    for Address { own, length, gateway } in addresses {
        let (own, gateway) = (format!("{own}/{length}"), gateway.to_string());
        let no_wait: &[&str] = if gateway.contains(':') { &["nodad"] } else { &[] };
        ip(&[&["address", "add", &own, "dev", INSIDE], no_wait].concat())?;
        ip(&["route", "add", "default", "via", &gateway, "dev", INSIDE])?;
    }
    Ok(())
}

/// An address that is free for each family in which the bridge has one itself.
fn addresses(bridge: &str) -> io::Result<Vec<Address>> {
    let shown = ip_json(&["address", "show", "dev", bridge, "scope", "global"])?;
    let listed = shown.pointer("/0/addr_info").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut addresses: Vec<Address> = Vec::new();
    for one in &listed {
        let gateway = one.get("local").and_then(Value::as_str).and_then(|text| text.parse::<IpAddr>().ok());
        let length =
            one.get("prefixlen").and_then(Value::as_u64).and_then(|length| u8::try_from(length).ok());
        let (Some(gateway), Some(length)) = (gateway, length) else { continue };
        if addresses.iter().any(|other| other.gateway.is_ipv4() == gateway.is_ipv4()) {
            continue;
        }
        let own = match gateway {
            IpAddr::V4(gateway) => free_v4(bridge, gateway, length)?.map(IpAddr::V4),
            IpAddr::V6(gateway) => random_v6(gateway, length).map(IpAddr::V6),
        };
        addresses.extend(own.map(|own| Address { own, length, gateway }));
    }
    if addresses.is_empty() {
        return Err(io::Error::other("it has no address, or none that is free, that a client could have"));
    }
    Ok(addresses)
}

/// An address of the network that nobody answers for.
fn free_v4(bridge: &str, gateway: Ipv4Addr, length: u8) -> io::Result<Option<Ipv4Addr>> {
    let hosts = u32::MAX.checked_shr(length.into()).unwrap_or(0);
    let last = gateway.to_bits() | hosts;
    let candidates = (1..hosts.min(TRIED)).map(|back| Ipv4Addr::from_bits(last - back));
    let candidates: Vec<Ipv4Addr> = candidates.filter(|address| *address != gateway).collect();
    let socket = UdpSocket::bind((gateway, 0))?;
    for candidate in &candidates {
        // What is sent does not matter: the kernel asks the link who has the address.
        let _ = socket.send_to(&[], (*candidate, 9));
    }
    thread::sleep(ANSWER_MAX);
    let neighbours = ip_json(&["neighbour", "show", "dev", bridge])?;
    let is_taken = |address: &Ipv4Addr| {
        let mut found = neighbours.as_array().into_iter().flatten();
        found.any(|neighbour| {
            neighbour.get("dst").and_then(Value::as_str) == Some(&address.to_string())
                && neighbour.get("lladdr").is_some()
        })
    };
    Ok(candidates.into_iter().find(|address| !is_taken(address)))
}

/// An address of the network by chance; `None` if that has too few for nobody to have it.
fn random_v6(gateway: Ipv6Addr, length: u8) -> Option<Ipv6Addr> {
    let hosts = u128::MAX.checked_shr(length.into()).filter(|hosts| *hosts >= u128::from(u64::MAX))?;
    let random = u128::from(RandomState::new().hash_one(gateway));
    Some(Ipv6Addr::from_bits((gateway.to_bits() & !hosts) | (random & hosts)))
}
