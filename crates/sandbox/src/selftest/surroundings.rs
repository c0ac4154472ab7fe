//! Attempts by what the host has beside its networks: unix sockets, files, descriptors, processes.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;

use nix::sys::signal::kill;
use nix::unistd::{Pid, getpid, getppid};

use super::attempt::{Tried, each};
use super::{Attempt, Targets, Wants};

/// What is tried beside the network.
pub(super) const ATTEMPTS: [Attempt; 10] = [
    works("own-socket", "connect to a unix socket of its own", own_socket),
    refused("unix-socket", "connect to a unix socket of this host", unix_socket),
    refused("abstract-socket", "connect to one that has no file", abstract_socket),
    refused("daemons", "connect to container engines, D-Bus, ssh-agent and other daemons", daemons),
    refused("descriptors", "use a descriptor that was left open", descriptors),
    refused("policy", "write what it may reach", policy),
    refused("processes", "see processes outside", processes),
    refused("signals", "signal a process outside", signals),
    refused("control-groups", "see the limits of this host's processes, or its own", control_groups),
    refused("init-files", "go by way of the files of its own first process", init_files),
];

const fn works(name: &'static str, what: &'static str, run: fn(&Targets) -> Tried) -> Attempt {
    Attempt { name, what, wants: Wants::Works, run }
}

const fn refused(name: &'static str, what: &'static str, run: fn(&Targets) -> Tried) -> Attempt {
    Attempt { name, what, wants: Wants::Refused, run }
}

fn own_socket(targets: &Targets) -> Tried {
    let address = SocketAddr::from_abstract_name(format!("{}-own", targets.abstract_socket))?;
    let listener = UnixListener::bind_addr(&address)?;
    UnixStream::connect_addr(&address)?;
    listener.accept()?;
    Ok("it was accepted".to_owned())
}

fn connect(path: &Path) -> Tried {
    UnixStream::connect(path)?;
    Ok("it was connected".to_owned())
}

fn unix_socket(targets: &Targets) -> Tried {
    connect(&targets.socket)
}

fn abstract_socket(targets: &Targets) -> Tried {
    let address = SocketAddr::from_abstract_name(&targets.abstract_socket)?;
    UnixStream::connect_addr(&address)?;
    Ok("it was connected".to_owned())
}

fn daemons(targets: &Targets) -> Tried {
    each(targets.daemons.iter().map(|path| (path.display().to_string(), connect(path))))
}

/// The standard streams, and the directory that is being read.
const DESCRIPTORS_OWN: usize = 4;

fn descriptors(_: &Targets) -> Tried {
    let mut open = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let leads_to = fs::read_link(entry.path()).unwrap_or_default();
        open.push(format!("{} to {}", entry.file_name().display(), leads_to.display()));
    }
    if open.len() > DESCRIPTORS_OWN {
        return Ok(format!("there is {}", open.join(", ")));
    }
    Err(io::Error::other("there is none").into())
}

fn policy(targets: &Targets) -> Tried {
    OpenOptions::new().append(true).open(&targets.policy)?;
    Ok("it can be written".to_owned())
}

fn processes(_: &Targets) -> Tried {
    // The first one inside, the one that has the attempts made, and this.
    let own = [Pid::from_raw(1), getppid(), getpid()];
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok()).map(Pid::from_raw);
        if pid.is_some_and(|pid| !own.contains(&pid)) {
            return Ok(format!("process {} is in sight", name.display()));
        }
    }
    Err(io::Error::other("there are none but its own").into())
}

fn signals(targets: &Targets) -> Tried {
    kill(Pid::from_raw(targets.outsider), None)?;
    Ok("it could be signalled".to_owned())
}

fn init_files(_: &Targets) -> Tried {
    each(["root", "cwd", "fd", "ns/net", "mem"].map(|name| {
        let path = Path::new("/proc/1").join(name);
        let opened =
            if path.is_dir() { fs::read_dir(&path).map(drop) } else { fs::File::open(&path).map(drop) };
        (path.display().to_string(), opened.map(|()| "it was opened".to_owned()).map_err(Into::into))
    }))
}

/// A user may own some of them: then it could end processes outside by writing to a file.
fn control_groups(_: &Targets) -> Tried {
    match fs::read_dir("/sys/fs/cgroup")?.next() {
        Some(entry) => Ok(format!("{} is in sight", entry?.path().display())),
        None => Err(io::Error::other("there are none").into()),
    }
}
