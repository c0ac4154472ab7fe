//! Which process of a run made a connection, as the kernel tells: the socket that has the address, and who has it open.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use exeat_audit::Record;
use exeat_proxy::Processes;
use exeat_sandbox::Pauser;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Processes that are looked at for one connection: a parallel build has some hundred.
const PROCESSES_MAX: usize = 512;

/// Open files that are looked at for one connection, at about a microsecond each.
const FILES_MAX: usize = 8192;

/// Our own processes inside, which come first: init.
const OURS: usize = 1;

/// Targets of which names are kept, and names of each.
const TARGETS_MAX: usize = 1024;
const NAMES_MAX: usize = 8;

/// The processes below one, which is in the network namespace of them all.
#[derive(Debug)]
pub(crate) struct Inside {
    first: u32,
    pauser: Option<Pauser>,
    seen: Mutex<Seen>,
}

/// The names of the processes that asked for each target.
pub(crate) type Seen = BTreeMap<String, BTreeSet<Arc<str>>>;

impl Inside {
    pub(crate) fn new(first: u32, pauser: Option<Pauser>) -> Self {
        Self { first, pauser, seen: Mutex::default() }
    }

    /// Returns who asked for what.
    pub(crate) fn seen(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, target: &str, process: &Arc<str>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.contains_key(target) && seen.len() >= TARGETS_MAX {
            return;
        }
        let names = seen.entry(target.to_owned()).or_default();
        if names.len() < NAMES_MAX {
            names.insert(Arc::clone(process));
        }
    }

    /// The number of the socket that has this address.
    fn socket(&self, client: SocketAddr) -> Option<u64> {
        let ip = client.ip().to_canonical();
        ["tcp", "tcp6", "udp", "udp6"].iter().find_map(|table| {
            let text = fs::read_to_string(format!("/proc/{}/net/{table}", self.first)).ok()?;
            text.lines().skip(1).filter_map(row).find_map(|(local, socket)| {
                let is_it =
                    local.port() == client.port() && (local.ip() == ip || local.ip().is_unspecified());
                (is_it && socket != 0).then_some(socket)
            })
        })
    }

    /// The processes, each after its parent.
    fn all(&self) -> Vec<u32> {
        let mut found = vec![self.first];
        let mut next = 0;
        while let Some(pid) = found.get(next).copied().filter(|_| found.len() < PROCESSES_MAX) {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            for thread in threads {
                let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
                found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
            }
            next += 1;
        }
        found
    }
}

/// A command that is paused, with all that it has started. They go on when this is dropped.
pub(crate) struct Paused {
    whole: exeat_sandbox::Paused,
    /// Some of them, each after its parent.
    some: Vec<Pid>,
}

impl Inside {
    /// Pauses the command and all that it has started.
    ///
    /// # Errors
    /// If something of it goes on.
    pub(crate) fn pause(&self) -> io::Result<Paused> {
        let whole = self.pauser.as_ref().ok_or(io::ErrorKind::Unsupported)?.pause()?;
        let some = self.all().into_iter().skip(OURS).filter_map(|pid| i32::try_from(pid).ok());
        Ok(Paused { whole, some: some.map(Pid::from_raw).collect() })
    }
}

impl Paused {
    /// Whether it is to go on soon, whatever for.
    pub(crate) fn is_to_end(&self) -> bool {
        self.whole.is_to_end()
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        // A parent that goes on last finds none of its children stopped.
        for pid in self.some.iter().rev() {
            let _may_have_ended = kill(*pid, Signal::SIGCONT);
        }
    }
}

impl Processes for Inside {
    fn at(&self, client: SocketAddr) -> Option<Arc<str>> {
        let socket = format!("socket:[{}]", self.socket(client)?);
        let mut files = 0;
        // What a process has started is likelier to use a socket that both have.
        for pid in self.all().into_iter().rev() {
            for file in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
                files += 1;
                if files > FILES_MAX {
                    return None;
                }
                if fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == socket.as_str()) {
                    return fs::read(format!("/proc/{pid}/comm")).ok().map(|name| printable(&name));
                }
            }
        }
        None
    }

    fn of(&self, record: &Record) -> Option<Arc<str>> {
        let process = self.at(record.source?)?;
        if let Some(target) = &record.target {
            self.note(exeat_cli::target_of_summary(target.as_str()), &process);
        }
        Some(process)
    }
}

/// Reads a row of `/proc/net/tcp` and its like: the local address, and the number of the socket.
fn row(line: &str) -> Option<(SocketAddr, u64)> {
    let mut fields = line.split_whitespace();
    let (ip, port) = fields.nth(1)?.split_once(':')?;
    let socket = fields.nth(7)?.parse().ok()?;
    // Words of 32 bits as this machine has them in memory.
    let words: Option<Vec<[u8; 4]>> = (ip.as_bytes().chunks(8))
        .map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok().map(u32::to_ne_bytes))
        .collect();
    let octets = words?.concat();
    let ip = match (<[u8; 4]>::try_from(&*octets), <[u8; 16]>::try_from(&*octets)) {
        (Ok(octets), _) => IpAddr::from(octets),
        (Err(_), Ok(octets)) => IpAddr::from(octets).to_canonical(),
        (Err(_), Err(_)) => return None,
    };
    Some((SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?), socket))
}

/// What a process calls itself is its own to say: a terminal shall not do what is in it.
fn printable(name: &[u8]) -> Arc<str> {
    let name = String::from_utf8_lossy(name.trim_ascii());
    name.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn connections_are_traced_to_the_process_that_has_them() {
        let own = Inside::new(std::process::id(), None);
        let name = printable(&fs::read("/proc/self/comm").unwrap());
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            assert_eq!(own.at(client.local_addr().unwrap()).as_ref(), Some(&name), "{address}");
            let gone = client.local_addr().unwrap();
            drop((client, listener));
            assert_eq!(own.at(gone), None, "{address}");
        }
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(own.at(udp.local_addr().unwrap()), Some(name));
    }

    #[test]
    fn names_are_shown_without_what_a_terminal_would_do() {
        assert_eq!(&*printable(b"cu\x1b[2Jrl \xff\n"), "cu?[2Jrl ?");
        assert_eq!(&*printable(b"git-remote-http\n"), "git-remote-http");
        assert_eq!(&*printable(b" npm view demo-r\n"), "npm view demo-r");
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let inside = Inside::new(1, None);
        for number in 0..TARGETS_MAX + 10 {
            inside.note(&format!("{number}.example.com:443"), &"curl".into());
        }
        for number in 0..NAMES_MAX + 10 {
            inside.note("0.example.com:443", &format!("p{number}").into());
        }
        let seen = inside.seen();
        assert_eq!((seen.len(), seen["0.example.com:443"].len()), (TARGETS_MAX, NAMES_MAX));
    }
}
