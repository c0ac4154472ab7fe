//! Other network namespaces: by which devices of this one packets from there come.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    nsid::{NsidAttribute, NsidMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::program::program;

/// Where `ip netns` keeps namespaces.
const NAMED: &str = "/run/netns";
/// More than any answer about one namespace.
const ANSWER_BYTES: usize = 4096;

/// Returns the devices of this network namespace that join it to another one, by its name (of `ip netns`) or by its file,
/// such as `/proc/PID/ns/net`. Whatever leaves that namespace comes by one of these, whoever sends it.
///
/// # Errors
/// If there is no such namespace; if packets can leave it in another way, or come by a bridge that others use, too; if the
/// program `ip` cannot be run.
pub fn devices_towards(namespace: &str) -> io::Result<Vec<String>> {
    let path: PathBuf =
        if namespace.contains('/') { namespace.into() } else { Path::new(NAMED).join(namespace) };
    let file = File::open(&path).map_err(|error| {
        io::Error::new(error.kind(), format!("there is no network namespace `{}`: {error}", path.display()))
    })?;
    let links = links()?;
    let fd = u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?;
    let number = number(NsidAttribute::Fd(fd)).map_err(|error| none_at(&path, error))?;
    let towards = links.iter().filter(|link| number.is_some() && link.namespace == number);
    let mut devices = Vec::new();
    for link in towards {
        if let Some(bridge) = &link.bridge {
            return Err(io::Error::other(format!(
                "what leaves {namespace} comes by the bridge {bridge}, of which {} is a port: attach --bridge {bridge}, \
                 which holds all that are behind it",
                link.name
            )));
        }
        devices.push(link.name.clone());
    }
    let astray = thread::scope(|scope| {
        let inside = scope.spawn(|| -> io::Result<Option<String>> {
            setns(&file, CloneFlags::CLONE_NEWNET).map_err(|error| none_at(&path, error.into()))?;
            let links = self::links()?;
            let here = self::number(NsidAttribute::Pid(std::process::id()))?;
            Ok(links.into_iter().find(|link| link.leads_beyond(here)).map(|link| link.name))
        });
        inside.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
    })?;
    match astray {
        Some(device) => Err(io::Error::other(format!(
            "the device {device} of {namespace} leads elsewhere than to this network: what leaves by it could not be held"
        ))),
        None if devices.is_empty() => Err(io::Error::other(format!(
            "no device of this network leads to {namespace}: nothing can leave it by here"
        ))),
        None => Ok(devices),
    }
}

/// The error for a file that is there, and that the kernel takes for no network namespace.
fn none_at(path: &Path, error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::InvalidInput {
        io::Error::new(error.kind(), format!("`{}` is no network namespace", path.display()))
    } else {
        error
    }
}

/// A device.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Link {
    name: String,
    /// What kind of virtual device it is; `None` is a real one.
    kind: Option<String>,
    is_loopback: bool,
    /// The number of the namespace that its other end, or what it is on top of, is in.
    namespace: Option<i32>,
    /// The bridge that it is a port of.
    bridge: Option<String>,
}

impl Link {
    /// Whether packets that leave by it come elsewhere than by a veth pair into the namespace of this number. Virtual devices
    /// that have no part in another namespace lead to others of their own.
    fn leads_beyond(&self, here: Option<i32>) -> bool {
        let is_pair = self.kind.as_deref() == Some("veth") && self.namespace == here && here.is_some();
        let is_real = self.kind.is_none() && !self.is_loopback;
        // A bridge, a tap or a tunnel without a part elsewhere: what goes into it comes out inside, or by the pairs.
        is_real || (self.namespace.is_some() && !is_pair)
    }
}

fn links() -> io::Result<Vec<Link>> {
    let shown = ip_json(&["-details", "link", "show"])?;
    Ok(shown.as_array().into_iter().flatten().filter_map(link).collect())
}

fn link(shown: &Value) -> Option<Link> {
    let text = |key: &str| shown.get(key).and_then(Value::as_str).map(str::to_owned);
    let kind = shown.pointer("/linkinfo/info_kind").and_then(Value::as_str).map(str::to_owned);
    Some(Link {
        name: text("ifname")?,
        kind,
        is_loopback: text("link_type").as_deref() == Some("loopback"),
        namespace: shown.get("link_netnsid").and_then(Value::as_i64).and_then(|id| i32::try_from(id).ok()),
        bridge: text("master"),
    })
}

/// The number by which this network namespace knows another one; `None` if it does not.
///
/// # Errors
/// If the kernel does not answer.
pub(crate) fn number(which: NsidAttribute) -> io::Result<Option<i32>> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    let mut question = NsidMessage::default();
    question.attributes.push(which);
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut message =
        NetlinkMessage::new(header, NetlinkPayload::from(RouteNetlinkMessage::GetNsId(question)));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    socket.recv(&mut answer, 0)?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(told)) = answer.payload else {
        // The process has ended.
        return Ok(None);
    };
    let id = |attribute: &NsidAttribute| if let NsidAttribute::Id(id) = attribute { Some(*id) } else { None };
    Ok(told.attributes.iter().find_map(id).filter(|id| *id >= 0))
}

/// Runs `ip` in the network namespace of the thread that calls, and returns what it tells.
///
/// # Errors
/// If it cannot be run, or fails.
pub(crate) fn ip_json(args: &[&str]) -> io::Result<Value> {
    let text = ip(&[&["-json"], args].concat())?;
    serde_json::from_str(&text).map_err(io::Error::other)
}

/// Runs `ip` in the network namespace of the thread that calls.
///
/// # Errors
/// If it cannot be run, or fails.
pub(crate) fn ip(args: &[&str]) -> io::Result<String> {
    let unusable = |error: io::Error| {
        io::Error::new(error.kind(), format!("the program `ip` (iproute2) does not run: {error}"))
    };
    let program = program("ip").ok_or_else(|| unusable(io::ErrorKind::NotFound.into()))?;
    let output =
        Command::new(program).env_clear().args(args).stdin(Stdio::null()).output().map_err(unusable)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("ip {}: {said}", args.join(" "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pairs_with_this_network_are_no_way_out() {
        for (case, shown, want) in [
            ("loopback", r#"{"ifname":"lo","link_type":"loopback"}"#, false),
            ("a pair", r#"{"ifname":"e","linkinfo":{"info_kind":"veth"},"link_netnsid":3}"#, false),
            (
                "a pair with another",
                r#"{"ifname":"e","linkinfo":{"info_kind":"veth"},"link_netnsid":4}"#,
                true,
            ),
            ("a pair within", r#"{"ifname":"e","linkinfo":{"info_kind":"veth"},"link":"f"}"#, false),
            ("on top of ours", r#"{"ifname":"e","linkinfo":{"info_kind":"macvlan"},"link_netnsid":3}"#, true),
            ("a bridge of its own", r#"{"ifname":"e","linkinfo":{"info_kind":"bridge"}}"#, false),
            ("a real one", r#"{"ifname":"e","link_type":"ether"}"#, true),
        ] {
            let link = link(&serde_json::from_str(shown).unwrap()).unwrap();
            assert_eq!(link.leads_beyond(Some(3)), want, "{case}");
        }
    }
}
