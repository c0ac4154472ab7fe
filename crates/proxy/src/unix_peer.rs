//! Who is at the other end of a unix socket, as the kernel tells.
//!
//! The kernel notes who connects when it does (unix(7), SO_PEERCRED): a process that hands its descriptor on stays who is
//! told. Its number, unlike its user, may be another's by now, so what is read by number counts only while the process
//! itself is known to live (SO_PEERPIDFD).

use std::{
    fs::File,
    io::Read,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use exeat_identity::Part;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::UnixStream;

/// The user that the kernel shows for every user who has no number on this host (user_namespaces(7)): nobody in
/// particular.
pub const UNMAPPED_USER: u32 = 65534;
/// Bytes read of the file that tells the control group: paths are shorter than 4096 bytes each, and there is one line for
/// each of the hierarchies of version 1 besides that of version 2.
const CGROUP_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Returns the user of the process that opened `stream`.
pub(crate) fn user(stream: &UnixStream) -> Part<u32> {
    match stream.peer_cred().map(|credentials| credentials.uid()) {
        Ok(UNMAPPED_USER) => Part::Nothing,
        Ok(user) => Part::Known(user),
        Err(_) => Part::Unknown,
    }
}

/// Returns the control group of the process that opened `stream`. A process that has ended is not known to have been
/// in none.
pub(crate) fn cgroup(stream: &UnixStream) -> Part<Arc<str>> {
    let pid = stream.peer_cred().ok().and_then(|credentials| credentials.pid());
    pid.and_then(|pid| cgroup_of(stream, pid)).map_or(Part::Unknown, Part::Known)
}

/// Reads the control group of the process `pid`, if the one that opened `stream` is still the one of that number
/// afterwards.
fn cgroup_of(stream: &UnixStream, pid: i32) -> Option<Arc<str>> {
    // Fails for a process that has ended, and before Linux 6.5.
    let process: OwnedFd = nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerPidfd).ok()?;
    let mut text = String::new();
    let file = File::open(format!("/proc/{pid}/cgroup")).ok()?;
    file.take(CGROUP_FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    let group = of_version_2(&text)?;
    lives(&process).then(|| group.into())
}

/// Returns the path in the hierarchy of version 2 (cgroups(7)).
fn of_version_2(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::")).filter(|path| path.starts_with('/'))
}

/// Whether the process has not ended: its descriptor becomes readable when it does (pidfd_open(2)).
fn lives(process: &OwnedFd) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    matches!(poll(&mut polled, Some(&Timespec::default())), Ok(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_line_of_version_2_tells_the_group() {
        for (name, text, want) in [
            ("version 2 alone", "0::/system.slice/ci.service\n", Some("/system.slice/ci.service")),
            ("both", "1:net_cls:/x\n0::/y\n", Some("/y")),
            ("version 1 alone", "1:net_cls:/x\n", None),
            ("outside of our namespace", "0::/../x\n", Some("/../x")),
            ("no path", "0::\n", None),
            ("empty", "", None),
        ] {
            assert_eq!(of_version_2(text), want, "{name}");
        }
    }

    #[tokio::test]
    async fn the_peer_of_a_socket_is_the_process_that_opened_it() {
        let (near, _far) = UnixStream::pair().unwrap();
        assert_eq!(user(&near), Part::Known(rustix::process::getuid().as_raw()));
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        assert_eq!(cgroup(&near).known().map(|group| &**group), of_version_2(&own));
    }
}
