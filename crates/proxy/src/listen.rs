//! Accepts connections within the budget, and the proxy as its owner sees it.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use exeat_audit::{AuditLog, Event};
use exeat_dns::Resolver;
use exeat_identity::{Authenticator, Demand, Part, Place, Shown};
use exeat_model::IpBlock;
use exeat_policy::Reason;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};

use crate::{
    client::Client,
    client_stream::ClientStream,
    flows::ConnectionSlot,
    handshakes,
    head::HeadReader,
    http1, http2, linger, local_address, local_user,
    metrics::Metrics,
    opening, proxy_protocol, redirected,
    resources::Here,
    respond::{After, Refusal},
    shared::{Current, Parts, Shared, Snapshot},
    socks5,
    tls::Tls,
    trail::{Target, Trail},
    tunnel::Relaying,
    unix_peer,
    within::told,
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

/// A forward proxy. Clones are the same proxy.
#[derive(Clone)]
pub struct Proxy {
    pub(crate) shared: Arc<Shared>,
    refusals: Arc<Semaphore>,
    /// The listeners being served.
    listeners: Arc<watch::Sender<usize>>,
}

/// How a listener takes its clients in.
#[derive(Clone, Debug, Default)]
pub struct Door {
    /// TLS, if it speaks that.
    pub tls: Option<Tls>,
    /// The network device whose connections it takes, if it is bound to one.
    pub interface: Option<Arc<str>>,
    /// The proofs that it demands.
    pub demand: Demand,
    /// Whether it takes connections that the kernel redirects to it, whose clients mean to reach somebody else.
    pub is_redirected: bool,
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
        self.sweep(self.shared.replace(snapshot));
    }

    /// Decides every open flow again by what decides now, of which something has changed. Otherwise as [`Self::replace`].
    pub(crate) fn decide_again(&self) {
        self.sweep(self.shared.renew());
    }

    fn sweep(&self, now: Arc<Current>) {
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
        self.shared.flows.connections()
    }

    /// Whether a drain has begun.
    pub fn is_draining(&self) -> bool {
        *self.shared.flows.draining().borrow()
    }

    /// Serves the clients of `listener`, as `door` says, until a drain begins. The connections it accepted, or the kernel
    /// for it, go on after that. A drain waits for what is returned from now on, whether it has been polled or not.
    pub fn serve(&self, listener: TcpListener, door: Door) -> impl Future<Output = ()> + Send + use<> {
        self.clone().serve_all(Listener::tcp(listener, &door), door, Serving::begin(&self.listeners))
    }

    /// Serves the clients of the unix socket that the configuration names `path`, as [`Self::serve`] does. There is
    /// neither TLS nor a device.
    pub fn serve_unix(
        &self,
        listener: UnixListener,
        path: &Path,
        demand: Demand,
    ) -> impl Future<Output = ()> + Send + use<> {
        let listener = Listener::Unix { socket: listener, path: path.into() };
        let door = Door { demand, ..Door::default() };
        self.clone().serve_all(listener, door, Serving::begin(&self.listeners))
    }

    async fn serve_all(self, listener: Listener, door: Door, _serving: Serving) {
        let mut drain_begins = pin!(told(self.shared.flows.draining(), |is_draining| *is_draining));
        let mut is_starved = false;
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut drain_begins => return self.take_backlog(listener, &door),
                accepted = listener.accept(&door) => accepted,
            };
            match accepted {
                Ok((stream, client)) => {
                    is_starved = false;
                    self.take(stream, client, &door);
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
        let mut listeners = self.listeners.subscribe();
        flows.begin_drain();
        let ended = timeout(self.shared.limits.drain_timeout, async {
            // First the listeners: until they have emptied their backlogs, no connection is not yet the last one.
            let _ = listeners.wait_for(|count| *count == 0).await;
            flows.no_connections().await;
        });
        if ended.await.is_ok() {
            return 0;
        }
        let left = flows.connections();
        flows.cut(Reason::Draining);
        let _ = timeout(CUT_GRACE, flows.no_connections()).await;
        left
    }

    /// Takes what has connected before the drain: closing the listener would reset it, requests and all.
    fn take_backlog(&self, listener: Listener, door: &Door) {
        let Ok(backlog) = listener.into_backlog() else { return };
        for _ in 0..BACKLOG_MAX {
            match backlog.accept(door) {
                Ok((stream, client)) => self.take(stream, client, door),
                Err(error) if is_of_one_connection(&error) => {}
                Err(_) => return,
            }
        }
    }

    fn take(&self, stream: ClientStream, client: Client, door: &Door) {
        let shared = Arc::clone(&self.shared);
        // What is redirected comes from the client itself.
        let is_sender =
            !door.is_redirected && client.address().is_some_and(|address| shared.is_sender(address.ip()));
        let admitted = if is_sender {
            shared.flows.admit_unknown(&shared.limits)
        } else {
            shared.flows.admit(client.source(), &shared.limits)
        };
        match admitted {
            Ok(slot) => {
                shared.metrics.connections.add(1);
                let tls = door.tls.clone();
                match stream {
                    ClientStream::Plain(stream) if is_sender => {
                        tokio::spawn(self.clone().serve_sent(client, stream, tls, slot));
                    }
                    stream @ (ClientStream::Plain(_)
                    | ClientStream::Unix(_)
                    | ClientStream::Tls(_)
                    | ClientStream::Http2(_)) => {
                        // Now, while the client is most likely to be still there.
                        let client = with_place(&shared, perhaps_here(&shared, client), &stream);
                        if door.is_redirected {
                            tokio::spawn(serve_redirected(shared, client, stream, slot));
                        } else {
                            tokio::spawn(serve_client(shared, client, stream, tls, slot));
                        }
                    }
                }
            }
            Err(over) => self.turn_away(stream, client, shared.over(over), door.tls.is_some()),
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
            read = proxy_protocol::read(&mut stream, &sender, &shared.limits) => read,
            _ = draining.wait_for(|is_draining| *is_draining) => return,
        };
        let client = match read {
            Ok(client) => client,
            Err(proxy_protocol::Error::Closed) => return,
            Err(error @ (proxy_protocol::Error::Malformed | proxy_protocol::Error::Late)) => {
                let is_late = matches!(error, proxy_protocol::Error::Late);
                let reason = if is_late { Reason::HeadTimeout } else { Reason::RequestMalformed };
                return self.turn_away(stream.into(), sender, Refusal::new(reason), tls.is_some());
            }
        };
        let stream = stream.into();
        match slot.count_source(client.source(), &shared.limits, Instant::now) {
            Ok(()) => {
                // One that speaks for itself is a client like any other.
                let client = with_place(&shared, client, &stream);
                serve_client(shared, client, stream, tls, slot).await;
            }
            Err(over) => self.turn_away(stream, client, shared.over(over), tls.is_some()),
        }
    }

    /// Says why, if there is room to say it, and closes. Never waits: this is the accept loop.
    fn turn_away(&self, stream: ClientStream, client: Client, refusal: Refusal, is_tls: bool) {
        let Ok(room) = Arc::clone(&self.refusals).try_acquire_owned() else { return };
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let mut trail = Trail::new(shared.next_request_id(), &client, "", Target::Bytes(b""));
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
    stream: ClientStream,
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

/// Serves a client that the kernel redirected here, to the end.
fn serve_redirected(
    shared: Arc<Shared>,
    client: Client,
    stream: ClientStream,
    slot: ConnectionSlot,
) -> impl Future<Output = ()> + Send {
    let opening = Box::pin(async move { redirected::serve(&shared, client, stream).await });
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
    stream: ClientStream,
    tls: Option<Tls>,
) -> Option<Relaying> {
    match (tls, stream) {
        (Some(tls), ClientStream::Plain(stream)) => Box::pin(serve_tls(&shared, client, stream, tls)).await,
        (Some(_) | None, stream) => serve_stream(&shared, client, stream).await,
    }
}

async fn serve_tls(shared: &Arc<Shared>, client: Client, stream: TcpStream, tls: Tls) -> Option<Relaying> {
    let (stream, is_http2) = handshake(shared, &client, stream, &tls).await?;
    let client = match &stream {
        ClientStream::Tls(stream) => {
            let presented = tls.presented(stream);
            client.with_certificate(presented)
        }
        ClientStream::Plain(_) | ClientStream::Unix(_) | ClientStream::Http2(_) => client,
    };
    if is_http2 {
        let here = Here::of(&client, &stream);
        http2::serve(shared, client, here, stream).await;
        return None;
    }
    serve_stream(shared, client, stream).await
}

/// Serves a client in the protocol that its first byte tells. Each protocol is on the heap: a connection takes room
/// for the one that it speaks, and a task is moved a few times before it begins.
async fn serve_stream(shared: &Arc<Shared>, client: Client, mut stream: ClientStream) -> Option<Relaying> {
    let mut reader = HeadReader::new(Arc::clone(&shared.limits), Arc::clone(&shared.metrics));
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
    client: &Client,
    stream: TcpStream,
    tls: &Tls,
) -> Option<(ClientStream, bool)> {
    let done = timeout(shared.limits.head_timeout, tls.accept(stream)).await;
    match done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok((stream, is_http2)) => Some((ClientStream::Tls(Box::new(stream)), is_http2)),
        Err(error) => {
            shared.metrics.handshakes_failed.add(1);
            tracing::debug!(peer = %client.peer, %error, "TLS handshake failed");
            if tls.asks_for_certificates() {
                handshakes::note_refused(shared, client, &error);
            }
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

/// Returns `client` as one of this host if its address says so, where some workload is known by its user: who is here may
/// come from any address of this host, and must not choose by that not to be known.
fn perhaps_here(shared: &Shared, client: Client) -> Client {
    let is_elsewhere = client.place().user == Part::Nothing;
    let Some(address) = client.address().filter(|_| is_elsewhere) else { return client };
    if !shared.current().snapshot.workloads.know_users() {
        return client;
    }
    match local_address::is_ours(address, None) {
        Ok(false) => client,
        Ok(true) | Err(_) => client.at(|place| place.user = Part::Unknown),
    }
}

/// Returns `client` with what the kernel has to be asked for of its place: who opened its connection, as far as some
/// workload is known by that and the client is on this host; and no device, if it is on this host. What is not asked for
/// stays unknown: a later configuration may want to know it.
fn with_place(shared: &Shared, client: Client, stream: &ClientStream) -> Client {
    let place = client.place();
    let (has_user, has_group) = (place.user != Part::Unknown, place.cgroup != Part::Unknown);
    let workloads = &shared.current().snapshot.workloads;
    let user = match stream {
        ClientStream::Plain(_) if !has_user && workloads.know_users() => {
            local_user::of(client.peer, client.local)
        }
        ClientStream::Plain(_) | ClientStream::Unix(_) | ClientStream::Tls(_) | ClientStream::Http2(_) => {
            place.user
        }
    };
    let cgroup = match stream {
        ClientStream::Unix(stream) if !has_group && workloads.know_groups() => unix_peer::cgroup(stream),
        ClientStream::Plain(_) | ClientStream::Unix(_) | ClientStream::Tls(_) | ClientStream::Http2(_) => {
            place.cgroup.clone()
        }
    };
    let interface = match &place.interface {
        Part::Known(name) => local_user::device(client.peer, client.local, name),
        Part::Nothing | Part::Unknown => place.interface.clone(),
    };
    if (user, &cgroup, &interface) == (place.user, &place.cgroup, &place.interface) {
        return client;
    }
    client.at(|place| *place = Place { user, cgroup, interface, ..place.clone() })
}

/// What the connections of a listener show, but for their addresses: those from this host, whose users are not known yet,
/// and all others, who have none here.
struct Showing {
    here: Arc<Shown>,
    elsewhere: Arc<Shown>,
}

impl Showing {
    fn of(door: &Door) -> Self {
        let of = |user| {
            let interface = door.interface.clone().map_or(Part::Nothing, Part::Known);
            let place = Place { interface, user, ..Place::default() };
            Arc::new(Shown { place, demand: door.demand, certificate: None })
        };
        Self { here: of(Part::Unknown), elsewhere: of(Part::Nothing) }
    }
}

/// A listening socket, and what all of its connections have in common.
enum Listener {
    Tcp {
        socket: TcpListener,
        /// The address that they reach, unless each may reach another one.
        local: Option<SocketAddr>,
        shown: Showing,
    },
    Unix {
        socket: UnixListener,
        path: Arc<Path>,
    },
}

impl Listener {
    fn tcp(socket: TcpListener, door: &Door) -> Self {
        // Proxies write small pieces that others wait for. The connections inherit it.
        if let Err(error) = SockRef::from(&socket).set_tcp_nodelay(true) {
            tracing::warn!(%error, "connections will wait for small writes to become larger");
        }
        let local = socket.local_addr().ok().filter(|local| !local.ip().is_unspecified());
        Self::Tcp { socket, local, shown: Showing::of(door) }
    }

    /// Takes the next connection.
    async fn accept(&self, door: &Door) -> io::Result<(ClientStream, Client)> {
        match self {
            Self::Tcp { socket, local, shown } => {
                let (stream, peer) = socket.accept().await?;
                with_client(stream, peer, *local, shown, door)
            }
            Self::Unix { socket, path } => {
                let (stream, _) = socket.accept().await?;
                Ok(with_unix_client(stream, path, door))
            }
        }
    }

    /// Returns the queue of the kernel, which is asked itself: the runtime may not have heard of all that is in it.
    fn into_backlog(self) -> io::Result<Backlog> {
        Ok(match self {
            Self::Tcp { socket, local, shown } => Backlog::Tcp { socket: socket.into_std()?, local, shown },
            Self::Unix { socket, path } => Backlog::Unix { socket: socket.into_std()?, path },
        })
    }
}

/// A listening socket whose connections are taken without waiting.
enum Backlog {
    Tcp { socket: std::net::TcpListener, local: Option<SocketAddr>, shown: Showing },
    Unix { socket: std::os::unix::net::UnixListener, path: Arc<Path> },
}

impl Backlog {
    fn accept(&self, door: &Door) -> io::Result<(ClientStream, Client)> {
        match self {
            Self::Tcp { socket, local, shown } => {
                let (stream, peer) = socket.accept()?;
                stream.set_nonblocking(true)?;
                with_client(TcpStream::from_std(stream)?, peer, *local, shown, door)
            }
            Self::Unix { socket, path } => {
                let (stream, _) = socket.accept()?;
                stream.set_nonblocking(true)?;
                Ok(with_unix_client(UnixStream::from_std(stream)?, path, door))
            }
        }
    }
}

fn with_client(
    stream: TcpStream,
    peer: SocketAddr,
    local: Option<SocketAddr>,
    shown: &Showing,
    door: &Door,
) -> io::Result<(ClientStream, Client)> {
    let arrived = local.map_or_else(|| stream.local_addr(), Ok)?;
    // Whoever is on this host may also come from another of its addresses.
    let is_loopback = |address: SocketAddr| address.ip().to_canonical().is_loopback();
    let is_of_this_host = is_loopback(peer) || is_loopback(arrived) || peer.ip() == arrived.ip();
    // As the client's own socket has it.
    let local = if door.is_redirected { redirected::original_destination(&stream)? } else { arrived };
    let shown = if is_of_this_host { &shown.here } else { &shown.elsewhere };
    Ok((stream.into(), Client::new(peer, local, Arc::clone(shown))))
}

fn with_unix_client(stream: UnixStream, path: &Arc<Path>, door: &Door) -> (ClientStream, Client) {
    let (socket, user) = (Some(Arc::clone(path)), unix_peer::user(&stream));
    let place = Place { socket, user, cgroup: Part::Unknown, ..Place::default() };
    (ClientStream::Unix(stream), Client::of_unix(Shown { place, demand: door.demand, certificate: None }))
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
