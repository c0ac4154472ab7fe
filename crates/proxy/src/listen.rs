//! Accepts connections within the budget, and the proxy as its owner sees it.

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use exeat_audit::{AuditLog, Event};
use exeat_dns::Resolver;
use exeat_identity::Authenticator;
use exeat_model::IpBlock;
use exeat_policy::Reason;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};

use crate::{
    client_stream::ClientStream,
    flows::ConnectionSlot,
    head::HeadReader,
    http1, http2, linger,
    metrics::Metrics,
    opening, proxy_protocol,
    resources::Here,
    respond::{After, Refusal},
    shared::{Parts, Shared, Snapshot},
    socks5,
    tls::Tls,
    trail::{Target, Trail},
    tunnel::Relaying,
};

/// How long accepting rests when descriptors or memory are short. Connections end on their own in the meantime.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections over the budget that are told so at one time. Others beyond are closed without a word: answering a
/// flood must not cost more than the flood.
const REFUSALS_AT_A_TIME: usize = 64;
/// How long cut connections may take to write their last records.
const CUT_GRACE: Duration = Duration::from_secs(2);
/// How long a connection that was accepted before a drain may take to begin its first request. Clients that are not
/// waiting for anything begin within a round trip.
const FIRST_BYTE_GRACE: Duration = Duration::from_secs(2);
/// Connections that are still taken from the kernel's queue when a drain begins: more than any such queue holds.
const BACKLOG_MAX: usize = 65_536;

/// The two ends of a client's connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Client {
    /// Where the client is.
    pub peer: SocketAddr,
    /// The address that it reached.
    pub local: SocketAddr,
}

/// A forward proxy. Clones are the same proxy.
#[derive(Clone)]
pub struct Proxy {
    pub(crate) shared: Arc<Shared>,
    refusals: Arc<Semaphore>,
    /// The listeners being served.
    listeners: Arc<watch::Sender<usize>>,
}

/// A listener being served; it is no more when this is dropped.
struct Serving(Arc<watch::Sender<usize>>);

impl Serving {
    fn begin(listeners: &Arc<watch::Sender<usize>>) -> Self {
        listeners.send_modify(|count| *count += 1);
        Self(Arc::clone(listeners))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Proxy {
    /// Returns a proxy made of `parts`; it serves nobody yet.
    ///
    /// # Errors
    /// If the system gives no random bytes for the instance's name.
    pub fn new(parts: Parts) -> Result<Self, getrandom::Error> {
        Ok(Self {
            shared: Arc::new(Shared::new(parts)?),
            refusals: Arc::new(Semaphore::new(REFUSALS_AT_A_TIME)),
            listeners: Arc::new(watch::Sender::new(0)),
        })
    }

    /// Decides new requests by `snapshot` from now on, and every open flow again: those that it does not allow end
    /// within a second with `policy_changed`, the others go on under its rules and do not notice.
    ///
    /// Returns at once when called on a runtime, whose blocking threads then do the second part; otherwise does it
    /// itself. Revisions must grow from one snapshot to the next.
    pub fn replace(&self, snapshot: Snapshot) {
        let now = self.shared.replace(snapshot);
        let shared = Arc::clone(&self.shared);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                // Not waited for: what it does shows in the flows.
                drop(runtime.spawn_blocking(move || shared.sweep(&now)));
            }
            Err(_) => shared.sweep(&now),
        }
    }

    /// The name of this instance in `Via` and `Proxy-Status`.
    pub fn instance(&self) -> &str {
        &self.shared.instance
    }

    /// The snapshot that new requests are decided by.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.shared.current().snapshot)
    }

    /// What has been counted so far.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// The load balancers whose PROXY header is believed, since the start.
    pub fn proxy_protocol_from(&self) -> &[IpBlock] {
        &self.shared.proxy_protocol_from
    }

    /// Where its records go.
    pub fn audit(&self) -> &AuditLog {
        &self.shared.audit
    }

    /// What resolves its names.
    pub fn resolver(&self) -> &Resolver {
        &self.shared.resolver
    }

    /// What checks its clients' credentials.
    pub fn authenticator(&self) -> &Authenticator {
        &self.shared.authenticator
    }

    /// How many client connections are open.
    pub fn connections(&self) -> usize {
        *self.shared.flows.connections().borrow()
    }

    /// Whether a drain has begun.
    pub fn is_draining(&self) -> bool {
        *self.shared.flows.draining().borrow()
    }

    /// Serves the clients of `listener`, through TLS if it is given, until a drain begins. The connections it
    /// accepted, or the kernel for it, go on after that.
    pub async fn serve(&self, listener: TcpListener, tls: Option<Tls>) {
        let _serving = Serving::begin(&self.listeners);
        let listener = Listener::new(listener);
        let mut draining = self.shared.flows.draining();
        let mut drain_begins = pin!(draining.wait_for(|is_draining| *is_draining));
        let mut is_starved = false;
        loop {
            let accepted = tokio::select! {
                biased;
                _ = &mut drain_begins => return self.take_backlog(listener, tls.as_ref()),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, client)) => {
                    is_starved = false;
                    self.take(stream, client, tls.as_ref());
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    // Once for each time that it begins: it may last, and be tried twenty times a second.
                    if !std::mem::replace(&mut is_starved, true) {
                        tracing::warn!(%error, "cannot accept connections; trying again");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Ends the proxy: no new connections and requests, idle connections closed at once, tunnels and responses under
    /// way until `drain_timeout`. Returns how many connections were cut then.
    pub async fn drain(&self) -> usize {
        let flows = &self.shared.flows;
        let (mut connections, mut listeners) = (flows.connections(), self.listeners.subscribe());
        flows.begin_drain();
        let ended = timeout(self.shared.limits.drain_timeout, async {
            // First the listeners: until they have emptied their backlogs, no connection is not yet the last one.
            let _ = listeners.wait_for(|count| *count == 0).await;
            let _ = connections.wait_for(|count| *count == 0).await;
        });
        if ended.await.is_ok() {
            return 0;
        }
        let left = *connections.borrow();
        flows.cut(Reason::Draining);
        let _ = timeout(CUT_GRACE, connections.wait_for(|count| *count == 0)).await;
        left
    }

    /// Takes what has connected before the drain: closing the listener would reset it, requests and all.
    fn take_backlog(&self, Listener { socket, local }: Listener, tls: Option<&Tls>) {
        // The kernel is asked itself: the runtime may not have heard of them yet.
        let Ok(socket) = socket.into_std() else { return };
        for _ in 0..BACKLOG_MAX {
            let accepted = socket.accept().and_then(|(stream, peer)| {
                stream.set_nonblocking(true)?;
                with_client(TcpStream::from_std(stream)?, peer, local)
            });
            match accepted {
                Ok((stream, client)) => self.take(stream, client, tls),
                Err(error) if is_of_one_connection(&error) => {}
                Err(_) => return,
            }
        }
    }

    fn take(&self, stream: TcpStream, client: Client, tls: Option<&Tls>) {
        let shared = Arc::clone(&self.shared);
        let ip = client.peer.ip().to_canonical();
        let is_sender = shared.is_sender(ip);
        let admitted = if is_sender {
            shared.flows.admit_unknown(&shared.limits)
        } else {
            shared.flows.admit(ip, &shared.limits)
        };
        match admitted {
            Ok(slot) => {
                shared.metrics.connections.add(1);
                let tls = tls.cloned();
                if is_sender {
                    tokio::spawn(self.clone().serve_sent(client, stream, tls, slot));
                } else {
                    tokio::spawn(serve_client(shared, client, stream, tls, slot));
                }
            }
            Err(over) => self.turn_away(stream, client, shared.over(over), tls.is_some()),
        }
    }

    /// Serves the client that the PROXY header of a connection from `sender` tells of. The header comes before TLS.
    async fn serve_sent(
        self,
        sender: Client,
        mut stream: TcpStream,
        tls: Option<Tls>,
        mut slot: ConnectionSlot,
    ) {
        let shared = Arc::clone(&self.shared);
        let mut draining = shared.flows.draining();
        let read = tokio::select! {
            biased;
            read = proxy_protocol::read(&mut stream, sender, &shared.limits) => read,
            _ = draining.wait_for(|is_draining| *is_draining) => return,
        };
        let client = match read {
            Ok(client) => client,
            Err(proxy_protocol::Error::Closed) => return,
            Err(proxy_protocol::Error::Malformed) => {
                let refusal = Refusal::new(Reason::RequestMalformed);
                return self.turn_away(stream, sender, refusal, tls.is_some());
            }
        };
        match slot.count_source(client.peer.ip(), &shared.limits, Instant::now()) {
            Ok(()) => serve_client(shared, client, stream, tls, slot).await,
            Err(over) => self.turn_away(stream, client, shared.over(over), tls.is_some()),
        }
    }

    /// Says why, if there is room to say it, and closes. Never waits: this is the accept loop.
    fn turn_away(&self, stream: TcpStream, client: Client, refusal: Refusal, is_tls: bool) {
        let Ok(room) = Arc::clone(&self.refusals).try_acquire_owned() else { return };
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let mut trail = Trail::new(shared.next_request_id(), client, "", Target::Bytes(b""));
            trail.note_reason(refusal.reason);
            shared.record_refusal(&mut trail, Event::Request, &refusal);
            if is_tls {
                // A handshake costs more than the connection that there is no room for.
                linger::say_and_close(stream, &opening::tls_alert(refusal.reason), &shared.limits).await;
            } else {
                let bytes = refusal.to_bytes(shared.signature(&trail), After::Close, true);
                linger::say_and_close(stream, &bytes, &shared.limits).await;
            }
            drop(room);
        });
    }
}

/// Serves a client to the end.
fn serve_client(
    shared: Arc<Shared>,
    client: Client,
    stream: TcpStream,
    tls: Option<Tls>,
    slot: ConnectionSlot,
) -> impl Future<Output = ()> + Send {
    // In a box of its own, which is gone before a tunnel waits for its bytes.
    let opening = Box::pin(serve_until_tunnel(shared, client, stream, tls));
    async move {
        let relaying = opening.await;
        if let Some(relaying) = relaying {
            relaying.await;
        }
        drop(slot);
    }
}

/// Serves a client until it has had enough, or a tunnel is open.
async fn serve_until_tunnel(
    shared: Arc<Shared>,
    client: Client,
    stream: TcpStream,
    tls: Option<Tls>,
) -> Option<Relaying> {
    match tls {
        None => serve_stream(&shared, client, ClientStream::Plain(stream)).await,
        Some(tls) => Box::pin(serve_tls(&shared, client, stream, tls)).await,
    }
}

async fn serve_tls(shared: &Arc<Shared>, client: Client, stream: TcpStream, tls: Tls) -> Option<Relaying> {
    let (stream, is_http2) = handshake(shared, client, stream, &tls).await?;
    if is_http2 {
        let here = Here::of(client, &stream);
        http2::serve(shared, client, here, stream).await;
        return None;
    }
    serve_stream(shared, client, stream).await
}

/// Serves a client in the protocol that its first byte tells. Each protocol is on the heap: a connection takes room
/// for the one that it speaks, and a task is moved a few times before it begins.
async fn serve_stream(shared: &Arc<Shared>, client: Client, mut stream: ClientStream) -> Option<Relaying> {
    let mut reader = HeadReader::new(shared.limits, Arc::clone(&shared.metrics));
    if shared.http2 {
        reader = reader.or_http2();
    }
    let first = tokio::select! {
        biased;
        first = reader.first_byte(&mut stream) => first,
        () = grace_of_a_drain(shared) => None,
    };
    match first {
        None => None,
        Some(byte) if socks5::begins_with(byte) => {
            Box::pin(socks5::serve(shared, client, stream, reader)).await
        }
        Some(_) => Box::pin(http1::serve(shared, client, stream, reader)).await,
    }
}

/// Does the TLS handshake within the time that a request head has, and says whether HTTP/2 was agreed on. A failure is
/// the end of this connection alone.
async fn handshake(
    shared: &Shared,
    client: Client,
    stream: TcpStream,
    tls: &Tls,
) -> Option<(ClientStream, bool)> {
    let done = timeout(shared.limits.head_timeout, tls.accept(stream)).await;
    match done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok((stream, is_http2)) => Some((ClientStream::Tls(Box::new(stream)), is_http2)),
        Err(error) => {
            shared.metrics.handshakes_failed.add(1);
            tracing::debug!(peer = %client.peer, %error, "TLS handshake failed");
            None
        }
    }
}

/// Ends [`FIRST_BYTE_GRACE`] after the beginning of a drain. A client whose connection was accepted knows that somebody
/// is there: when another process takes over the listener, its first request must not be lost.
async fn grace_of_a_drain(shared: &Shared) {
    shared.flows.drain_begins().await;
    sleep(FIRST_BYTE_GRACE).await;
}

/// A listening socket, and what all of its connections have in common.
struct Listener {
    socket: TcpListener,
    /// The address that they reach, unless each may reach another one.
    local: Option<SocketAddr>,
}

impl Listener {
    fn new(socket: TcpListener) -> Self {
        // Proxies write small pieces that others wait for. The connections inherit it.
        if let Err(error) = SockRef::from(&socket).set_tcp_nodelay(true) {
            tracing::warn!(%error, "connections will wait for small writes to become larger");
        }
        let local = socket.local_addr().ok().filter(|local| !local.ip().is_unspecified());
        Self { socket, local }
    }

    /// Takes the next connection.
    async fn accept(&self) -> io::Result<(TcpStream, Client)> {
        let (stream, peer) = self.socket.accept().await?;
        with_client(stream, peer, self.local)
    }
}

fn with_client(
    stream: TcpStream,
    peer: SocketAddr,
    local: Option<SocketAddr>,
) -> io::Result<(TcpStream, Client)> {
    let local = local.map_or_else(|| stream.local_addr(), Ok)?;
    Ok((stream, Client { peer, local }))
}

/// Whether an accept failed because its one connection is gone already; the next may be taken at once.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NotConnected
            | io::ErrorKind::InvalidInput
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of the future that `make` returns.
    fn size<A, B, C, D, E, F: Future>(_: impl Fn(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_task_of_a_connection_is_small() {
        let bytes = size(serve_client);
        assert!(bytes <= 2048, "{bytes}");
    }
}
