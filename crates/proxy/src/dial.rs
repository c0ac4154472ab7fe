//! Opens the connection that a permit allows: Happy Eyeballs (RFC 8305) over addresses, never over a name. The permit is
//! that of a request, or that of infrastructure which the operator configured.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use exeat_model::CanonicalIp;
use exeat_policy::{InfraPermit, Permit, Reason};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::local_address;

/// How long one attempt has to itself before the next address is tried beside it (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// The least of it, where there are so many addresses that they would not all get their turn in time (RFC 8305 §5).
const ATTEMPT_DELAY_MIN: Duration = Duration::from_millis(10);
/// All attempts begin within this part of the time, 1 in this many, so that the last one can succeed too.
const STARTS_SHARE: u32 = 2;

/// Quiet time before the kernel asks whether the other side is still there, and between two such questions.
/// NAT devices forget idle TCP flows after a few minutes (RFC 5382 allows 124 of them, many take far less).
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Unanswered questions after which the kernel gives the connection up.
const KEEPALIVE_RETRIES: u32 = 4;

/// When the kernel begins to watch over a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Keepalive {
    /// From the start.
    Now,
    /// When whoever dials calls [`keep_alive`]. Nothing is lost if that is within [`KEEPALIVE_TIME`], and a connection
    /// that is over by then never takes the four calls.
    Later,
}

/// A connection to one of the permitted addresses.
#[derive(Debug)]
pub(crate) struct Dialled {
    /// The connection, without Nagle's delay.
    pub(crate) stream: TcpStream,
    /// The address that answered.
    pub(crate) addr: SocketAddr,
}

/// Why no permitted address gave a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// Every address failed before the time was over; the facts are those of the last one.
    #[error("connect to {addr}, the last of {tried} tried")]
    Connect {
        /// The address that failed last.
        addr: SocketAddr,
        /// How many addresses were tried.
        tried: usize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The time for all addresses together was over.
    #[error("connect to any of {tried} addresses: no answer in {limit:?}")]
    Timeout {
        /// How many addresses were tried.
        tried: usize,
        /// The time that all of them had together.
        limit: Duration,
    },
    /// An address is one of this host, and a listener of ours that is on every address has the port.
    #[error("connect to {addr}: it is one of our own listeners")]
    Ours {
        /// The address.
        addr: SocketAddr,
    },
    /// The permit covers no address.
    #[error("permit holds no address")]
    NoAddress,
}

impl DialError {
    /// The reason that the client is told.
    #[must_use]
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::TimedOut => {
                Reason::ConnectTimeout
            }
            Self::Connect { .. } | Self::NoAddress => Reason::ConnectFailed,
            Self::Timeout { .. } => Reason::ConnectTimeout,
            Self::Ours { .. } => Reason::AddressNotAllowed,
        }
    }

    /// What the client is told of it: no address, since the one of a name is not the client's to know.
    pub(crate) fn told(&self) -> String {
        match self {
            Self::Connect { tried, .. } => format!("no connection to any of {tried} addresses"),
            Self::Ours { .. } => "an address is one of this proxy's own listeners".to_owned(),
            Self::Timeout { .. } | Self::NoAddress => self.to_string(),
        }
    }

    /// The SOCKS5 reply, which tells more than the reason's own (RFC 1928 §6).
    #[must_use]
    pub(crate) fn socks_reply(&self) -> u8 {
        const NETWORK_UNREACHABLE: u8 = 3;
        const HOST_UNREACHABLE: u8 = 4;
        let own = self.reason().socks_reply();
        match self {
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::NetworkUnreachable => {
                NETWORK_UNREACHABLE
            }
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::HostUnreachable => {
                HOST_UNREACHABLE
            }
            Self::Connect { .. } | Self::Timeout { .. } | Self::Ours { .. } | Self::NoAddress => own,
        }
    }
}

/// Connects to the first permitted address that answers, within `connect_timeout` for all of them together.
///
/// Addresses are tried in [`attempt_order`], the next one after 250 ms, or sooner where they are many, or as soon as
/// an attempt fails. Attempts that lose are cancelled and their sockets closed.
///
/// # Errors
/// [`DialError::Connect`] if every address failed, [`DialError::Timeout`] if the time was over first, and
/// [`DialError::Ours`], before anything is dialled, if the permit is not for addresses of this host and one of them is.
///
/// # Cancel safety
/// Dropping the future closes every socket it opened.
pub(crate) async fn dial(
    permit: &Permit,
    connect_timeout: Duration,
    keepalive: Keepalive,
) -> Result<Dialled, DialError> {
    let order = attempt_order(permit.addrs());
    let order = if permit.must_be_elsewhere() { elsewhere(order)? } else { order };
    race(&order, connect_timeout, keepalive).await
}

/// [`dial`] for infrastructure.
///
/// # Errors
/// As [`dial`].
///
/// # Cancel safety
/// As [`dial`].
pub(crate) async fn dial_infra(
    permit: &InfraPermit,
    connect_timeout: Duration,
    keepalive: Keepalive,
) -> Result<Dialled, DialError> {
    let order = attempt_order(permit.addrs());
    let order = if permit.must_be_elsewhere() { elsewhere(order)? } else { order };
    race(&order, connect_timeout, keepalive).await
}

/// Returns those of the addresses of which the kernel says that they are not of this host, nor any that they carry.
///
/// # Errors
/// [`DialError::Ours`] if one is; [`DialError::Connect`] if it does not tell of any.
fn elsewhere(order: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, DialError> {
    let (mut left, mut failed, tried) = (Vec::with_capacity(order.len()), None, order.len());
    for addr in order {
        match is_ours(addr) {
            Ok(false) => left.push(addr),
            Ok(true) => return Err(DialError::Ours { addr }),
            // There is no route, or one that forbids it: it cannot be dialled either.
            Err(source) => failed = Some(DialError::Connect { addr, tried, source }),
        }
    }
    match failed {
        Some(error) if left.is_empty() => Err(error),
        Some(_) | None => Ok(left),
    }
}

fn is_ours(addr: SocketAddr) -> io::Result<bool> {
    let ip = CanonicalIp::new(addr.ip());
    for ip in std::iter::once(ip).chain(ip.carried()) {
        if local_address::is_ours(SocketAddr::new(ip.get(), addr.port()), None)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The order of attempts: the families take turns, IPv6 first, each in the order given (RFC 8305 §4).
fn attempt_order(addrs: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut v6 = addrs.iter().filter(|addr| addr.is_ipv6());
    let mut v4 = addrs.iter().filter(|addr| addr.is_ipv4());
    let mut order = Vec::with_capacity(addrs.len());
    while order.len() < addrs.len() {
        order.extend(v6.next());
        order.extend(v4.next());
    }
    order
}

/// How long an attempt has to itself where `count` addresses share `limit`.
fn attempt_delay(count: usize, limit: Duration) -> Duration {
    let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
    (limit / STARTS_SHARE / count).clamp(ATTEMPT_DELAY_MIN, ATTEMPT_DELAY)
}

async fn race(order: &[SocketAddr], limit: Duration, keepalive: Keepalive) -> Result<Dialled, DialError> {
    if let [addr] = *order {
        // Nothing to race with.
        return match timeout(limit, connect(addr, keepalive)).await {
            Ok(Ok(stream)) => Ok(Dialled { stream, addr }),
            Ok(Err(source)) => Err(DialError::Connect { addr, tried: 1, source }),
            Err(_) => Err(DialError::Timeout { tried: 1, limit }),
        };
    }
    let mut attempts = Attempts { keepalive, running: Vec::new(), started: 0 };
    match timeout_at(Instant::now() + limit, attempts.first_success(order, attempt_delay(order.len(), limit)))
        .await
    {
        Ok(end) => end,
        Err(_) => Err(DialError::Timeout { tried: attempts.started, limit }),
    }
}

/// One attempt, and the address it is for.
type Attempt = Pin<Box<dyn Future<Output = (SocketAddr, io::Result<TcpStream>)> + Send>>;

/// The attempts that are under way.
struct Attempts {
    keepalive: Keepalive,
    running: Vec<Attempt>,
    started: usize,
}

impl Attempts {
    async fn first_success(&mut self, order: &[SocketAddr], delay: Duration) -> Result<Dialled, DialError> {
        let mut waiting = order.iter();
        let mut last = DialError::NoAddress;
        loop {
            match waiting.next() {
                Some(addr) => self.start(*addr),
                None if self.running.is_empty() => return Err(last),
                None => {}
            }
            let next_start = Instant::now() + delay;
            let finished = tokio::select! {
                finished = poll_fn(|cx| self.poll_finished(cx)) => finished,
                () = sleep_until(next_start), if !waiting.as_slice().is_empty() => continue,
            };
            match finished {
                (addr, Ok(stream)) => return Ok(Dialled { stream, addr }),
                (addr, Err(source)) => last = DialError::Connect { addr, tried: self.started, source },
            }
        }
    }

    fn start(&mut self, addr: SocketAddr) {
        self.started += 1;
        let keepalive = self.keepalive;
        self.running.push(Box::pin(async move { (addr, connect(addr, keepalive).await) }));
    }

    /// Ready with the first attempt that ended, which is then no longer running.
    fn poll_finished(&mut self, cx: &mut Context<'_>) -> Poll<(SocketAddr, io::Result<TcpStream>)> {
        let ended = self.running.iter_mut().enumerate().find_map(|(index, attempt)| {
            match attempt.as_mut().poll(cx) {
                Poll::Ready(output) => Some((index, output)),
                Poll::Pending => None,
            }
        });
        let Some((index, output)) = ended else { return Poll::Pending };
        drop(self.running.swap_remove(index));
        Poll::Ready(output)
    }
}

async fn connect(addr: SocketAddr, keepalive: Keepalive) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    exeat_dns::mark(&socket)?;
    let stream = socket.connect(addr).await?;
    // The sender has already chosen its segments.
    stream.set_nodelay(true)?;
    match keepalive {
        Keepalive::Now => keep_alive(&stream)?,
        Keepalive::Later => {}
    }
    Ok(stream)
}

/// Has the kernel ask whether the other side is still there when it was quiet for [`KEEPALIVE_TIME`], so that a peer that
/// vanished without a word frees its slot.
///
/// # Errors
/// What the kernel said, usually because the connection is already gone.
pub(crate) fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_TIME)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use socket2::{Domain, Socket, Type};
    use tokio::net::TcpListener;

    use super::*;
    use crate::testing::permit_for;

    /// Long enough that no test waits for it to pass.
    const LIMIT: Duration = Duration::from_secs(60);

    fn loopback(last: u8) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0))
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind(loopback(1)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        (listener, addr)
    }

    /// An address where nothing listens: bound, so that nothing else will.
    fn refusing() -> (Socket, SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&loopback(1).into()).unwrap();
        let addr = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, addr)
    }

    /// An address that answers nothing: a listener whose queue is full, so that the kernel drops what comes.
    fn silent() -> (Socket, std::net::TcpStream, SocketAddr) {
        let (socket, addr) = refusing();
        socket.listen(0).unwrap();
        let filler = std::net::TcpStream::connect(addr).unwrap();
        (socket, filler, addr)
    }

    #[test]
    fn all_addresses_get_their_turn_in_time() {
        for (count, limit_ms, want_ms) in
            [(1, 10_000, 250), (8, 10_000, 250), (64, 10_000, 78), (64, 200, 10), (0, 0, 10)]
        {
            let delay = attempt_delay(count, Duration::from_millis(limit_ms));
            assert_eq!(delay.as_millis(), want_ms, "{count} addresses in {limit_ms} ms");
        }
    }

    #[test]
    fn families_take_turns() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("none", &[], &[]),
            ("one family", &["192.0.2.2:1", "192.0.2.1:1"], &["192.0.2.2:1", "192.0.2.1:1"]),
            ("the other", &["[2001:db8::2]:1", "[2001:db8::1]:1"], &["[2001:db8::2]:1", "[2001:db8::1]:1"]),
            ("IPv6 first", &["192.0.2.1:1", "[2001:db8::1]:1"], &["[2001:db8::1]:1", "192.0.2.1:1"]),
            (
                "turns, then what is left",
                &["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1", "[2001:db8::1]:1"],
                &["[2001:db8::1]:1", "192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"],
            ),
            (
                "each family in its order",
                &["[2001:db8::2]:1", "[2001:db8::1]:1", "[2001:db8::3]:1", "192.0.2.2:1", "192.0.2.1:1"],
                &["[2001:db8::2]:1", "192.0.2.2:1", "[2001:db8::1]:1", "192.0.2.1:1", "[2001:db8::3]:1"],
            ),
        ];
        let parsed =
            |addrs: &[&str]| -> Vec<SocketAddr> { addrs.iter().map(|a| a.parse().unwrap()).collect() };
        for (case, addrs, want) in cases {
            assert_eq!(attempt_order(&parsed(addrs)), parsed(want), "{case}");
        }
    }

    #[tokio::test]
    async fn a_permit_is_dialled_at_its_addresses() {
        let (listener, addr) = listener().await;
        let permit = permit_for(&format!("example.com:{}", addr.port()), &[addr.ip()], None, &[]);
        for keepalive in [Keepalive::Now, Keepalive::Later] {
            let dialled = dial(&permit, LIMIT, keepalive).await.unwrap();
            let (_, client) = listener.accept().await.unwrap();
            assert_eq!((dialled.addr, dialled.stream.local_addr().unwrap()), (addr, client));
            assert!(dialled.stream.nodelay().unwrap());
            let is_kept_alive = SockRef::from(&dialled.stream).keepalive().unwrap();
            assert_eq!(is_kept_alive, keepalive == Keepalive::Now);
        }
    }

    #[tokio::test]
    async fn the_next_address_is_tried() {
        let (_listener, good) = listener().await;
        let (_refusing, refused) = refusing();
        let (_silent, _filler, black_hole) = silent();
        let cases: &[(&str, &[SocketAddr])] = &[
            ("after a refusal", &[refused, good]),
            ("after two refusals", &[refused, refused, good]),
            ("beside one that is silent", &[black_hole, good]),
            ("after both", &[refused, black_hole, refused, good]),
            ("first", &[good, refused, black_hole]),
        ];
        for (case, order) in cases {
            assert_eq!(race(order, LIMIT, Keepalive::Now).await.unwrap().addr, good, "{case}");
        }
    }

    #[tokio::test]
    async fn failures_say_which_and_why() {
        let (_refusing, refused) = refusing();
        for order in [&[refused][..], &[refused, refused]] {
            let error = race(order, LIMIT, Keepalive::Now).await.unwrap_err();
            let DialError::Connect { addr, tried, .. } = error else { panic!("{error:?}") };
            assert_eq!((addr, tried), (refused, order.len()));
            assert_eq!(error.reason(), Reason::ConnectFailed);
        }

        let (_silent, _filler, black_hole) = silent();
        let limit = Duration::from_millis(20);
        for order in [&[black_hole][..], &[refused, black_hole]] {
            let error = race(order, limit, Keepalive::Now).await.unwrap_err();
            let DialError::Timeout { tried, limit: said } = error else { panic!("{error:?}") };
            assert_eq!((tried, said), (order.len(), limit));
            assert_eq!(error.reason(), Reason::ConnectTimeout);
        }

        let error = race(&[], LIMIT, Keepalive::Now).await.unwrap_err();
        assert!(matches!(error, DialError::NoAddress), "{error:?}");
    }

    #[test]
    fn an_attempt_that_the_kernel_timed_out_is_a_timeout() {
        let of =
            |kind: io::ErrorKind| DialError::Connect { addr: loopback(1), tried: 1, source: kind.into() };
        assert_eq!(of(io::ErrorKind::TimedOut).reason(), Reason::ConnectTimeout);
        assert_eq!(of(io::ErrorKind::HostUnreachable).reason(), Reason::ConnectFailed);
    }

    #[test]
    fn addresses_of_this_host_are_not_elsewhere() {
        let cases: &[(&str, &[&str], Option<&str>)] = &[
            ("another host", &["192.0.2.1:1"], None),
            ("nothing", &[], None),
            ("this host", &["127.0.0.2:1"], Some("127.0.0.2:1")),
            ("behind another", &["192.0.2.1:1", "[::1]:1"], Some("[::1]:1")),
            ("as NAT64", &["[64:ff9b::7f00:2]:1"], Some("[64:ff9b::7f00:2]:1")),
            ("another host as NAT64", &["[64:ff9b::c000:201]:1"], None),
        ];
        for (case, addrs, ours) in cases {
            let addrs: Vec<SocketAddr> = addrs.iter().map(|addr| addr.parse().unwrap()).collect();
            match (elsewhere(addrs.clone()), ours) {
                (Ok(left), None) => assert_eq!(left, addrs, "{case}"),
                (Err(error @ DialError::Ours { addr }), Some(ours)) => {
                    assert_eq!(addr.to_string(), *ours, "{case}");
                    assert_eq!(error.reason(), Reason::AddressNotAllowed, "{case}");
                }
                (got, _) => panic!("{case}: {got:?}"),
            }
        }
    }

    #[test]
    fn socks_replies_tell_what_the_kernel_said() {
        for (kind, want) in [
            (io::ErrorKind::ConnectionRefused, 5),
            (io::ErrorKind::NetworkUnreachable, 3),
            (io::ErrorKind::HostUnreachable, 4),
            (io::ErrorKind::TimedOut, 4),
        ] {
            let error = DialError::Connect { addr: loopback(1), tried: 1, source: kind.into() };
            assert_eq!(error.socks_reply(), want, "{kind}");
        }
        assert_eq!(DialError::Timeout { tried: 1, limit: LIMIT }.socks_reply(), 4);
    }
}
