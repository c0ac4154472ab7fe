//! A private network in which the whole internet is this machine.
//!
//! Every address, of both families, is routed to the loopback device, so an origin that listens on the wildcard address
//! accepts and counts a connection to *any* address: when it counts none, the product opened none. There is no way out.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// Where the proxy under test listens.
pub const PROXY: &str = "10.99.0.1:3128";
/// Where the name server of the namespace listens.
pub const NAME_SERVER: &str = "10.99.0.53:53";
/// A public-looking network that swallows every packet: connections to it neither succeed nor fail.
pub const SILENT_NETWORK: &str = "93.184.217.0/24";
/// A name that `/etc/hosts` of the namespace maps to [`HOSTS_FILE_ADDRESS`] and that the name server does not know.
pub const HOSTS_FILE_NAME: &str = "only-in-hosts-file.example.org";
/// The address that only the hosts file gives.
pub const HOSTS_FILE_ADDRESS: &str = "93.184.216.250";
/// The search list of `/etc/resolv.conf`: a query below it means that somebody resolved a name relatively.
pub const SEARCH_LIST: &str = "svc.cluster.example";

/// IPv4 first, then IPv6, in the language of `ip -batch`.
///
/// The routes of type `local` in the main table come after the silent network's more specific unicast route, and those
/// in the local table let a server bind to one address of the block.
const IPV4: &str = "\
link set lo up
address add 10.99.0.1/32 dev lo
address add 10.99.0.53/32 dev lo
link add silent0 type veth peer name silent1
link set silent0 arp off up
link set silent1 up
address add 10.98.0.1/32 dev silent0
route add 93.184.217.0/24 dev silent0 src 10.98.0.1
route add local 93.184.216.0/24 dev lo
route add local default dev lo table main
";
const IPV6: &str = "\
address add 2606:2800:220:1::34/128 dev lo nodad
address add 2606:2800:220:1::35/128 dev lo nodad
route add local default dev lo table main
";

/// Moves this process into a new network and mount namespace, and a user namespace where it is not root, and configures
/// them; [`scratch`] is empty then. Threads and processes started later are inside; the process must have one thread when it calls this.
///
/// # Errors
/// When the kernel refuses, or `ip` is missing or fails.
pub fn enter() -> Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    let mut flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    if !uid.is_root() {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).context("unshare")?;
    if !uid.is_root() {
        fs::write("/proc/self/setgroups", "deny").context("setgroups")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1")).context("uid_map")?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1")).context("gid_map")?;
    }
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make mounts private")?;
    fs::create_dir_all(scratch()).context("a folder for scratch files")?;
    mount(Some("tmpfs"), &scratch(), Some("tmpfs"), MsFlags::empty(), none).context("mount a tmpfs")?;
    replace(
        "/etc/resolv.conf",
        &format!("nameserver 10.99.0.53\nsearch {SEARCH_LIST}\noptions ndots:5 timeout:2 attempts:1\n"),
    )?;
    replace("/etc/hosts", &format!("127.0.0.1 localhost\n{HOSTS_FILE_ADDRESS} {HOSTS_FILE_NAME}\n"))?;
    ip(&["-batch", "-"], IPV4)?;
    ip(&["-6", "-batch", "-"], IPV6)
}

/// A folder for what a scenario writes. It is a file system of the namespace's own, which goes with the last process in it,
/// however that ends; what is left outside is an empty folder.
#[must_use]
pub fn scratch() -> PathBuf {
    std::env::temp_dir().join("exeat-tests")
}

/// Shows `text` in place of the file at `path` in this mount namespace.
///
/// # Errors
/// When the kernel refuses.
pub fn replace(path: &str, text: &str) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(scratch())?;
    file.write_all(text.as_bytes())?;
    fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    let none: Option<&str> = None;
    // It stays: nothing could be mounted over a file that is gone.
    let (_, file) = file.keep().context("keep a file")?;
    mount(Some(&file), Path::new(path), none, MsFlags::MS_BIND, none)
        .with_context(|| format!("bind over {path}"))
}

fn ip(args: &[&str], batch: &str) -> Result<()> {
    let mut child =
        Command::new("ip").args(args).stdin(Stdio::piped()).spawn().context("run `ip` (package iproute2)")?;
    child.stdin.take().context("stdin of ip")?.write_all(batch.as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "`ip {}` ended with {status}", args.join(" "));
    Ok(())
}
