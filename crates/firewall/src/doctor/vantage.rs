//! Where packets have to be sent from, to meet the rules as those of clients do.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    thread,
};

use netlink_packet_route::nsid::NsidAttribute;
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use super::{
    Finding, NameServer, NameServers, bad, bridge,
    probe::{self, Seen},
    unproven,
};
use crate::{
    group::{self, Group},
    kernel::Kernel,
    namespace::{self, ip_json},
};

/// Probes what is behind a device.
pub(super) fn of_device(name: &str, names: NameServers, kernel: &mut Kernel, findings: &mut Vec<Finding>) {
    if nix::net::if_::if_nametoindex(name).is_err() {
        findings.push(bad(format!("there is no device `{name}` here: its rules hold nobody")));
        return;
    }
    let who = format!("a client of {name}");
    let link = match ip_json(&["-details", "link", "show", "dev", name]) {
        Ok(link) => link,
        Err(error) => {
            findings.push(unproven(format!(
                "{who}: nothing was sent, since the program `ip` does not run: {error}"
            )));
            return;
        }
    };
    let kind = link.pointer("/0/linkinfo/info_kind").and_then(Value::as_str).unwrap_or_default();
    let peer = link.pointer("/0/link_netnsid").and_then(Value::as_i64).and_then(|id| i32::try_from(id).ok());
    let sent = match (kind, peer) {
        ("bridge", _) => bridge::send(name, kernel),
        ("veth", Some(peer)) => from_peer(peer, kernel),
        _ => Err(io::Error::other("it is neither a bridge nor joined to another network by a veth pair")),
    };
    tell(&who, names, sent, findings);
}

/// Probes processes of a group, as one of them: in a group below it, since one that has others below it may have none.
pub(super) fn of_group(path: &str, kernel: &mut Kernel, findings: &mut Vec<Finding>) {
    let who = format!("a process of {path}");
    // Each group has listeners of its own.
    let names = NameServers { v4: NameServer::Ours, v6: NameServer::Ours };
    tell(&who, names, from_group(path, kernel), findings);
}

fn from_group(path: &str, kernel: &mut Kernel) -> io::Result<Vec<Seen>> {
    let folder = folder(path)?.ok_or_else(|| io::Error::other("there is no such group now"))?;
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let visit = Visit {
        folder: folder.join(format!("exeat-doctor-{}", std::process::id())),
        home: folder_of_own(own)?,
    };
    fs::create_dir(&visit.folder)?;
    fs::write(visit.folder.join("cgroup.procs"), "0")?;
    probe::send(kernel)
}

/// Says what came of what was sent.
fn tell(who: &str, names: NameServers, sent: io::Result<Vec<Seen>>, findings: &mut Vec<Finding>) {
    match sent {
        Ok(seen) => probe::judge(who, names, &seen, findings),
        Err(error) => findings.push(unproven(format!("{who}: nothing was sent: {error}"))),
    }
}

fn folder(path: &str) -> io::Result<Option<PathBuf>> {
    let group =
        Group::new(path).ok_or_else(|| io::Error::other("that is not the path of a control group"))?;
    Ok(group::locate(&group)?.map(|located| located.folder))
}

fn folder_of_own(own: &str) -> io::Result<PathBuf> {
    folder(own)?.ok_or_else(|| {
        io::Error::other("the group of this process is not to be seen, so there is no way back")
    })
}

/// A stay of this process in a group. It ends with this, and the group as well.
struct Visit {
    folder: PathBuf,
    home: PathBuf,
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Err(error) = fs::write(self.home.join("cgroup.procs"), "0") {
            tracing::warn!(%error, "this process stays in the control group {}", self.folder.display());
        }
        // It may not have been made.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Sends from the network namespace that the other end of a veth pair is in, by the number that this one knows it by.
fn from_peer(number: i32, kernel: &mut Kernel) -> io::Result<Vec<Seen>> {
    let mut known = BTreeSet::from([fs::metadata("/proc/self/ns/net")?.ino()]);
    for process in fs::read_dir("/proc")?.filter_map(Result::ok) {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let path = process.path().join("ns/net");
        // It may have ended, or be somebody else's.
        let Ok(found) = fs::metadata(&path) else { continue };
        if !known.insert(found.ino()) || namespace::number(NsidAttribute::Pid(pid))? != Some(number) {
            continue;
        }
        let namespace = File::open(&path)?;
        return thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
                probe::send(kernel)
            });
            inside
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread in the client's network panicked")))
        });
    }
    Err(io::Error::other("no process was found in the network at its other end"))
}
