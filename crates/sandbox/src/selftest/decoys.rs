//! What the attempts are made on, outside: servers on this host that say who they are to whoever reaches them, and count.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use rustix::io::{FdFlags, fcntl_setfd};

use super::Targets;

/// The name that the attempts may reach. Nobody else has it (RFC 6761 §6.2).
const NAME: &str = "reachable.selftest.test";

/// Where daemons listen by which a command could act outside.
const DAEMONS: [&str; 8] = [
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/podman/podman.sock",
    "/run/dbus/system_bus_socket",
    "/run/systemd/private",
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/nscd/socket",
];

/// Variables that name such places.
const DAEMON_VARIABLES: [&str; 3] = ["SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS", "DOCKER_HOST"];

/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of a request that are read: the decoys' answer is always the same.
const REQUEST_BYTES: usize = 1024;

/// Questions that are remembered. The attempts ask for a handful.
const QUESTIONS_MAX: usize = 1024;

/// Servers on this host, for as long as this is kept.
#[derive(Debug)]
pub struct Decoys {
    targets: Targets,
    name_server: SocketAddr,
    counts: Arc<Counts>,
    questions: Arc<Mutex<Vec<String>>>,
    /// A descriptor that the next program inherits.
    _leaked: OwnedFd,
}

#[derive(Debug, Default)]
struct Counts {
    open: AtomicUsize,
    shut: AtomicUsize,
}

/// What reached the decoys.
#[derive(Clone, Debug)]
pub struct Found {
    /// How many connections came to where they were allowed.
    pub allowed: usize,
    /// How many connections and datagrams came to where they were not.
    pub forbidden: usize,
    /// Names that the name server was asked for and that are not allowed.
    pub names: Vec<String>,
}

impl Decoys {
    /// Sets them up, with files in `folder`, which the command must be able to enter. `policy` is the file that
    /// [`Decoys::policy`] is for.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn set_up(folder: &Path, policy: &Path) -> io::Result<Self> {
        let counts = Arc::new(Counts::default());
        let process = std::process::id();
        let token = format!("exeat-selftest-{process}");
        let serve = |ip: IpAddr, is_open: bool| {
            let listener = TcpListener::bind((ip, 0))?;
            let at = listener.local_addr()?;
            pages(listener, token.clone(), Arc::clone(&counts), is_open);
            Ok::<_, io::Error>(at)
        };
        let here = serve(Ipv4Addr::LOCALHOST.into(), true)?;
        let mut targets = Targets {
            token: token.clone(),
            name: NAME.to_owned(),
            open_port: here.port(),
            open: vec![],
            shut: vec![],
            loopback: vec![serve(Ipv4Addr::LOCALHOST.into(), false)?],
            datagrams: vec![],
            socket: folder.join("agent.sock"),
            abstract_socket: token.clone(),
            daemons: daemons(),
            outsider: i32::try_from(process).map_err(io::Error::other)?,
            policy: policy.to_owned(),
        };
        // A kernel may be without.
        targets.loopback.extend(serve(Ipv6Addr::LOCALHOST.into(), false).ok());
        for ip in own_addresses()? {
            targets.open.push(serve(ip, true)?);
            targets.shut.push(serve(ip, false)?);
            let socket = UdpSocket::bind((ip, 0))?;
            targets.datagrams.push(socket.local_addr()?);
            datagrams(socket, Arc::clone(&counts));
        }
        let listener = UnixListener::bind(&targets.socket)?;
        fs::set_permissions(&targets.socket, fs::Permissions::from_mode(0o666))?;
        connections(listener, Arc::clone(&counts));
        connections(UnixListener::bind_addr(&UnixAddr::from_abstract_name(&token)?)?, Arc::clone(&counts));
        let names = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let name_server = names.local_addr()?;
        let questions = Arc::default();
        answer(names, Arc::clone(&questions));
        let leaked = OwnedFd::from(File::open("/proc/self/comm")?);
        fcntl_setfd(&leaked, FdFlags::empty())?;
        Ok(Self { targets, name_server, counts, questions, _leaked: leaked })
    }

    /// The configuration under which the attempts are made. Its audit log goes to `audit`.
    #[must_use]
    pub fn policy(&self, audit: &Path) -> String {
        let mut allow = format!(
            "{{ host = {NAME:?}, ports = [{}], addresses = [\"127.0.0.1/32\"], expect = \"any\" }}",
            self.targets.open_port
        );
        for open in &self.targets.open {
            allow.push_str(&format!(", {:?}", open.to_string()));
        }
        format!(
            "[proxy]\nanonymous = \"selftest\"\n[resolver]\nservers = [{:?}]\n[audit]\nfile = {audit:?}\n\
             [policy.selftest]\nallow = [{allow}]\n",
            self.name_server.to_string()
        )
    }

    /// What the processes inside are told, as one word.
    #[must_use]
    pub fn targets(&self) -> String {
        // There is nothing in it that JSON could not say but paths that are no text.
        serde_json::to_string(&self.targets).unwrap_or_default()
    }

    /// What has reached them so far.
    #[must_use]
    pub fn found(&self) -> Found {
        let questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        Found {
            allowed: self.counts.open.load(Ordering::Relaxed),
            forbidden: self.counts.shut.load(Ordering::Relaxed),
            names: questions.iter().filter(|name| *name != NAME).cloned().collect(),
        }
    }
}

/// Addresses of this host besides loopback, at most one of each family: what holds for one holds for all.
fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let mut found: Vec<IpAddr> = Vec::new();
    for interface in getifaddrs()? {
        let Some(address) = interface.address else { continue };
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let v6 = address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()));
        let Some(ip) = v4.or(v6) else { continue };
        let is_taken = found.iter().any(|other| other.is_ipv4() == ip.is_ipv4());
        let is_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        // One that cannot be bound, such as one that is still being made sure of, is no target.
        if !is_taken && !is_local && !ip.is_loopback() && TcpListener::bind((ip, 0)).is_ok() {
            found.push(ip);
        }
    }
    Ok(found)
}

/// The sockets of daemons that this host has.
fn daemons() -> Vec<PathBuf> {
    let variables = DAEMON_VARIABLES.iter().filter_map(|name| std::env::var(name).ok());
    let variables = variables.filter_map(|value| {
        let path = value.trim_start_matches("unix:path=").trim_start_matches("unix://");
        path.split(',').next().map(PathBuf::from)
    });
    let paths = DAEMONS.iter().map(PathBuf::from).chain(variables);
    paths.filter(|path| path.is_absolute() && fs::symlink_metadata(path).is_ok()).collect()
}

fn pages(listener: TcpListener, token: String, counts: Arc<Counts>, is_open: bool) {
    let reply =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{token}", token.len());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let count = if is_open { &counts.open } else { &counts.shut };
            count.fetch_add(1, Ordering::Relaxed);
            let Ok(mut stream) = stream else { continue };
            let _ = stream.set_read_timeout(Some(PATIENCE));
            let _ = stream.read(&mut [0; REQUEST_BYTES]);
            // Whoever has gone needs no answer.
            let _ = stream.write_all(reply.as_bytes());
        }
    });
}

fn datagrams(socket: UdpSocket, counts: Arc<Counts>) {
    thread::spawn(move || {
        while let Ok((_, from)) = socket.recv_from(&mut [0; REQUEST_BYTES]) {
            counts.shut.fetch_add(1, Ordering::Relaxed);
            let _ = socket.send_to(b"reached", from);
        }
    });
}

fn connections(listener: UnixListener, counts: Arc<Counts>) {
    thread::spawn(move || {
        for _stream in listener.incoming() {
            counts.shut.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// Answers every question for an IPv4 address with loopback's, and all others with nothing; remembers the names.
fn answer(socket: UdpSocket, questions: Arc<Mutex<Vec<String>>>) {
    thread::spawn(move || {
        let mut message = [0; REQUEST_BYTES];
        while let Ok((count, from)) = socket.recv_from(&mut message) {
            let Some((name, reply)) = message.get(..count).and_then(reply) else { continue };
            let mut questions = questions.lock().unwrap_or_else(PoisonError::into_inner);
            if questions.len() < QUESTIONS_MAX {
                questions.push(name);
            }
            drop(questions);
            let _ = socket.send_to(&reply, from);
        }
    });
}

/// Returns the name that is asked for, and the answer (RFC 1035 §4.1).
fn reply(message: &[u8]) -> Option<(String, Vec<u8>)> {
    let (id, mut rest) = (message.get(..2)?, message.get(12..)?);
    let mut labels = Vec::new();
    loop {
        let (length, after) = rest.split_first()?;
        if *length == 0 {
            rest = after;
            break;
        }
        let (label, after) = after.split_at_checked((*length).into())?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        rest = after;
    }
    let is_address = rest.get(..4)? == [0, 1, 0, 1];
    let question = message.get(12..message.len() - rest.len() + 4)?;
    let mut reply = id.to_vec();
    reply.extend([0x81, 0x80, 0, 1, 0, is_address.into(), 0, 0, 0, 0]);
    reply.extend(question);
    if is_address {
        // The name of the question, an address, a minute.
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend(Ipv4Addr::LOCALHOST.octets());
    }
    Some((labels.join("."), reply))
}

#[cfg(test)]
mod tests {
    use super::super::reach::{A, TXT, question};
    use super::*;

    #[test]
    fn questions_are_answered_for_addresses_alone() {
        let (name, answer) = reply(&question("a.B.test", A)).unwrap();
        assert_eq!(name, "a.b.test");
        assert_eq!((answer[7], answer.last_chunk()), (1, Some(&[127, 0, 0, 1])));
        let (_, nothing) = reply(&question("a.b.test", TXT)).unwrap();
        assert_eq!(nothing[7], 0);
        let whole = question("a.b.test", A);
        for end in 0..whole.len() {
            assert!(reply(&whole[..end]).is_none(), "{end}");
        }
    }
}
