//! Servers that count every connection they accept and keep every byte they receive.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::http::{Request, shown};

/// How long a test waits for something that must happen: ten times what the slowest machine needs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What an origin knows of one connection.
#[derive(Clone)]
pub struct Seen {
    /// The address and port that the connection was made to.
    pub local: SocketAddr,
    /// Where it came from.
    pub peer: SocketAddr,
    /// Every byte received, as it came (before decryption on a TLS origin).
    pub received: Vec<u8>,
    /// The HTTP requests read from it (after decryption on a TLS origin).
    pub requests: Vec<Request>,
    /// The other side has closed its direction or the connection broke.
    pub ended: bool,
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.ended { "ended" } else { "open" };
        write!(
            f,
            "{} from {} ({end}): {:?} {:?}",
            self.local,
            self.peer,
            shown(&self.received),
            self.requests
        )
    }
}

#[derive(Default)]
struct Log {
    seen: Mutex<Vec<Seen>>,
    changed: Condvar,
}

impl Log {
    /// A poisoned lock only means that another test thread failed first.
    fn lock(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, index: usize, change: impl FnOnce(&mut Seen)) {
        if let Some(seen) = self.lock().get_mut(index) {
            change(seen);
        }
        self.changed.notify_all();
    }
}

/// The server's side of one connection: reading from it writes the log.
pub struct Peer {
    stream: TcpStream,
    log: Arc<Log>,
    index: usize,
}

impl Peer {
    /// Closes the direction towards the client.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn finish(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Writes down the requests that are read from this connection, also while the connection itself is borrowed.
    #[must_use]
    pub fn notebook(&self) -> Notebook {
        Notebook { log: Arc::clone(&self.log), index: self.index }
    }
}

/// Where the requests of one connection are written down.
pub struct Notebook {
    log: Arc<Log>,
    index: usize,
}

impl Notebook {
    /// Writes down one request.
    pub fn note(&self, request: &Request) {
        self.log.update(self.index, |seen| seen.requests.push(request.clone()));
    }
}

impl Read for Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer);
        self.log.update(self.index, |seen| match &read {
            Ok(0) | Err(_) => seen.ended = true,
            Ok(length) => seen.received.extend_from_slice(buffer.get(..*length).unwrap_or_default()),
        });
        read
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// What an origin does with a connection.
pub type Service = Arc<dyn Fn(&mut Peer) -> io::Result<()> + Send + Sync>;

/// A running server; it ends with the process.
pub struct Origin {
    address: SocketAddr,
    log: Arc<Log>,
}

impl Origin {
    /// Listens on `address` and gives every connection to `service`, each in its own thread.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn start(address: SocketAddr, service: Service) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| format!("bind {address}"))?;
        let origin = Self { address: listener.local_addr()?, log: Arc::default() };
        let log = Arc::clone(&origin.log);
        thread::spawn(move || {
            while let Ok((stream, peer)) = listener.accept() {
                let Ok(local) = stream.local_addr() else { continue };
                let (local, peer) = (canonical(local), canonical(peer));
                let index = {
                    let mut seen = log.lock();
                    seen.push(Seen { local, peer, received: Vec::new(), requests: Vec::new(), ended: false });
                    seen.len() - 1
                };
                log.changed.notify_all();
                let (log, service) = (Arc::clone(&log), Arc::clone(&service));
                thread::spawn(move || {
                    // An error here is the client's doing and the log shows what came before it.
                    drop(service(&mut Peer { stream, log: Arc::clone(&log), index }));
                    log.update(index, |seen| seen.ended = true);
                });
            }
        });
        Ok(origin)
    }

    /// The bound address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn accepts(&self) -> usize {
        self.log.lock().len()
    }

    /// What is known of each connection so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.log.lock().clone()
    }

    /// Every HTTP request so far, over all connections.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().iter().flat_map(|seen| seen.requests.clone()).collect()
    }

    /// Waits until `done` holds for the connections.
    ///
    /// # Errors
    /// When it does not within [`PATIENCE`].
    pub fn wait(&self, what: &str, done: impl Fn(&[Seen]) -> bool) -> Result<Vec<Seen>> {
        let seen = self.log.lock();
        let (seen, _) = self
            .log
            .changed
            .wait_timeout_while(seen, PATIENCE, |seen| !done(seen))
            .unwrap_or_else(PoisonError::into_inner);
        ensure!(done(&seen), "the origin {} waited in vain for {what}; it saw {:?}", self.address, *seen);
        Ok(seen.clone())
    }
}

/// Folds an IPv4 address that a dual-stack socket reports as IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(IpAddr::to_canonical(&address.ip()), address.port())
}

/// Sends a greeting first, as mail and database servers do, then sends back what it gets, and closes when the client does.
#[must_use]
pub fn greet_and_echo(greeting: &'static str) -> Service {
    Arc::new(move |peer| {
        peer.write_all(greeting.as_bytes())?;
        let mut buffer = [0; 16 * 1024];
        loop {
            let length = peer.read(&mut buffer)?;
            if length == 0 {
                return peer.finish();
            }
            peer.write_all(buffer.get(..length).unwrap_or_default())?;
        }
    })
}
