//! What the command may have as its standard streams. They come from outside, and stay what they were there: a socket belongs to the
//! network that it was made in, and an open directory leads to what is below it, hidden or not.

use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Stat, fstat, fstatfs, major, minor};
use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType, getpeername};
use rustix::termios::isatty;

use crate::failure::{During, Failure, Step};

/// The file system of namespaces (`NSFS_MAGIC`), whose files look like any other.
const NAMESPACES: u64 = 0x6e73_6673;

/// The devices null, zero, full, random and urandom, by their numbers: whoever reads or writes them reaches nobody.
const MEMORY_MAJOR: u32 = 1;
const HARMLESS_MINORS: [u32; 5] = [3, 5, 7, 8, 9];

/// Refuses every kind of stream that is not known to reach no further than whoever gave it.
///
/// # Errors
/// The first stream that is refused.
pub(crate) fn check(streams: [BorrowedFd<'_>; 3]) -> Result<(), Failure> {
    for (stream, name) in streams.into_iter().zip(["input", "output", "error"]) {
        let status = fstat(stream).during_with(Step::Descriptors, format_args!("standard {name}"))?;
        if let Some(what) = refused(stream, &status) {
            let failure = Failure::new(Step::Descriptors, format_args!("standard {name} is {what}"));
            return Err(failure.with_help(HELP));
        }
    }
    Ok(())
}

const HELP: &str = "give it a file, a terminal or a pipe: … | exeat run …, exeat run … | cat";

/// What is wrong with a stream.
fn refused(stream: BorrowedFd<'_>, status: &Stat) -> Option<&'static str> {
    match FileType::from_raw_mode(status.st_mode) {
        FileType::Fifo => None,
        FileType::RegularFile => is_namespace(stream).then_some("a namespace"),
        FileType::CharacterDevice => {
            let is_harmless =
                major(status.st_rdev) == MEMORY_MAJOR && HARMLESS_MINORS.contains(&minor(status.st_rdev));
            (!is_harmless && !isatty(stream)).then_some("a device, and no terminal")
        }
        FileType::Socket => refused_socket(stream),
        FileType::Directory => Some("a directory"),
        FileType::BlockDevice => Some("a device"),
        FileType::Symlink => Some("a symbolic link"),
        // Such as an epoll or io_uring instance, a process, a timer.
        FileType::Unknown => Some("neither a file nor a pipe"),
    }
}

fn is_namespace(stream: BorrowedFd<'_>) -> bool {
    // What cannot be told is none: only file systems of the kernel's own are asked for nothing.
    fstatfs(stream).is_ok_and(|system| u64::try_from(system.f_type) == Ok(NAMESPACES))
}

/// A pair of unix sockets, or one that has been accepted or connected, has one peer for good. One of another kind can be sent
/// from or connected anew, to whatever its network leads to: that of the host, whose names without a file it knows, too.
fn refused_socket(socket: BorrowedFd<'_>) -> Option<&'static str> {
    if socket_domain(socket) != Ok(AddressFamily::UNIX) {
        return Some("a socket of a network");
    }
    let has_connections = matches!(socket_type(socket), Ok(SocketType::STREAM | SocketType::SEQPACKET));
    (!has_connections || getpeername(socket).is_err()).then_some("a unix socket without a peer of its own")
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use rustix::event::epoll;
    use rustix::fs::{Mode, OFlags, open};
    use rustix::net::{SocketFlags, socket_with, socketpair};

    use super::*;

    #[test]
    fn what_leads_further_than_to_whoever_gave_it_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("file")).unwrap();
        let (unix, _other) = UnixStream::pair().unwrap();
        let (left, gone) = UnixStream::pair().unwrap();
        drop(gone);
        let flags = SocketFlags::CLOEXEC;
        let (packets, _peer) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let unconnected = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        let netlink = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None).unwrap();
        let listening = UnixListener::bind(folder.path().join("socket")).unwrap();
        let (datagrams, _peer) = UnixDatagram::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (pipe, _end) = io::pipe().unwrap();
        let path = |path: &str| open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let opened = |path: &str| OwnedFd::from(File::open(path).unwrap());
        let of_network = Some("a socket of a network");
        let without_peer = Some("a unix socket without a peer of its own");
        for (name, stream, want) in [
            ("a file", file.into(), None),
            ("a pipe", pipe.into(), None),
            ("/dev/null", opened("/dev/null"), None),
            ("/dev/urandom", opened("/dev/urandom"), None),
            ("a pair of unix sockets", unix.into(), None),
            ("one whose peer has gone", left.into(), None),
            ("one that keeps packets apart", packets, None),
            ("a terminal", opened("/dev/ptmx"), None),
            ("a unix socket without a peer", unconnected, without_peer),
            ("a unix socket that listens", listening.into(), without_peer),
            ("a pair of unix sockets for datagrams", datagrams.into(), without_peer),
            ("TCP that listens", listener.into(), of_network),
            ("TCP, connected", connected.into(), of_network),
            ("TCP, accepted", accepted.into(), of_network),
            ("UDP", udp.into(), of_network),
            ("netlink", netlink, of_network),
            ("a directory", opened("/"), Some("a directory")),
            ("a directory's path", path("/"), Some("a directory")),
            ("a socket's path", path(&folder.path().join("socket").to_string_lossy()), of_network),
            ("a namespace", opened("/proc/self/ns/net"), Some("a namespace")),
            ("epoll", epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(), Some("neither a file nor a pipe")),
        ] {
            let status = fstat(&stream).unwrap();
            assert_eq!(refused(stream.as_fd(), &status), want, "{name}");
        }
    }
}
