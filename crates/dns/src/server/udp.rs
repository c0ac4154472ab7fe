//! Questions by UDP.

use std::{
    future::{Future, poll_fn},
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::Poll,
};

use exeat_policy::Reason;
use hickory_proto::op::ResponseCode;
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use tokio::{io::Interest, net::UdpSocket};

use super::{
    Carrier, Client, Entrance, Server,
    question::Question,
    reply::{Reply, Why},
    telling::Telling,
    trail::Trail,
};
use crate::surroundings::Happening;

/// Datagrams that are taken from the socket at a time.
const BATCH: usize = 16;

/// Octets of one buffer. The kernel may put several datagrams of one sender into it; a question is 60 octets or so, and what
/// does not fit is not read.
const BUFFER_BYTES: usize = 16 * 1024;

/// A socket for questions by UDP, which answers from the address that it was asked at.
#[derive(Debug)]
pub struct UdpListener {
    socket: UdpSocket,
    state: UdpSocketState,
    /// What it is bound to.
    at: Option<SocketAddr>,
    entrance: Entrance,
    batch: usize,
}

/// Where an answer goes, and from which of our addresses.
#[derive(Clone, Copy, Debug)]
struct Way {
    to: SocketAddr,
    from: Option<IpAddr>,
}

type Answering = Pin<Box<dyn Future<Output = Option<Vec<u8>>> + Send>>;

impl UdpListener {
    /// Takes questions from a bound socket that does not block, of whom `entrance` says something. To be called on the
    /// runtime that serves it.
    ///
    /// # Errors
    /// If the system does not let the socket tell what it was asked at.
    pub fn new(socket: std::net::UdpSocket, entrance: Entrance) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        let at = socket.local_addr().ok();
        Ok(Self { socket: UdpSocket::from_std(socket)?, state, at, entrance, batch: BATCH })
    }

    /// Takes questions one by one, for a single client: that needs less memory.
    #[must_use]
    pub fn one_by_one(self) -> Self {
        Self { batch: 1, ..self }
    }

    /// Who sent a message that came this way.
    fn client(&self, way: Way) -> Client {
        let at = self.at.map(|at| SocketAddr::new(way.from.unwrap_or(at.ip()), at.port()));
        Client::new(way.to, at, &self.entrance)
    }

    /// Takes what has come, a few at a time. Waits until something has.
    async fn receive(&self, buffers: &mut [Vec<u8>], metas: &mut [RecvMeta]) -> io::Result<usize> {
        let read = || {
            let mut slices = [const { None }; BATCH];
            for (slice, buffer) in slices.iter_mut().zip(buffers.iter_mut()) {
                *slice = Some(IoSliceMut::new(buffer));
            }
            let mut slices = slices.into_iter().flatten().collect::<Vec<_>>();
            self.state.recv((&self.socket).into(), &mut slices, metas)
        };
        self.socket.async_io(Interest::READABLE, read).await
    }

    async fn send(&self, bytes: &[u8], way: Way) {
        let transmit = Transmit {
            destination: way.to,
            ecn: None,
            contents: bytes,
            segment_size: None,
            src_ip: way.from,
        };
        let write = || self.state.try_send((&self.socket).into(), &transmit);
        if let Err(error) = self.socket.async_io(Interest::WRITABLE, write).await {
            // The client has gone, or a firewall is in the way: it asks again.
            tracing::debug!(%error, "an answer could not be sent");
        }
    }
}

impl Server {
    /// Answers the questions that come to `listener`, until the future is dropped.
    pub async fn serve_udp(&self, listener: UdpListener) {
        let listener = Arc::new(listener);
        let mut buffers = vec![vec![0; BUFFER_BYTES]; listener.batch];
        let mut metas = vec![RecvMeta::default(); listener.batch];
        loop {
            let received = match listener.receive(&mut buffers, &mut metas).await {
                Ok(received) => received,
                Err(error) => {
                    // Those of single datagrams that were sent, by ICMP.
                    tracing::debug!(%error, "the socket for questions tells of an error");
                    continue;
                }
            };
            for (buffer, meta) in buffers.iter().zip(&metas).take(received) {
                let datagrams = buffer.get(..meta.len).unwrap_or_default();
                let way = Way { to: meta.addr, from: meta.dst_ip };
                for message in datagrams.chunks(meta.stride.max(1)) {
                    self.take(&listener, message, way).await;
                }
            }
        }
    }

    /// Answers at once if that can be; otherwise lets the answer come when it does, if there is a place to wait.
    async fn take(&self, listener: &Arc<UdpListener>, message: &[u8], way: Way) {
        let client = listener.client(way);
        let source = client.source();
        let (server, owned) = (self.clone(), message.to_vec());
        let mut answering: Answering =
            Box::pin(async move { server.handle(&owned, &client, Carrier::Udp).await });
        match poll_fn(|cx| Poll::Ready(answering.as_mut().poll(cx))).await {
            Poll::Ready(Some(answer)) => listener.send(&answer, way).await,
            Poll::Ready(None) => {}
            Poll::Pending => {
                let Some(place) = self.0.waiting.take(source) else {
                    drop(answering);
                    self.turn_away(listener, message, way).await;
                    return;
                };
                let listener = Arc::clone(listener);
                // Lives until its answer is there: the resolver gives up after a time.
                drop(tokio::spawn(async move {
                    let _place = place;
                    if let Some(answer) = answering.await {
                        listener.send(&answer, way).await;
                    }
                }));
            }
        }
    }

    async fn turn_away(&self, listener: &UdpListener, message: &[u8], way: Way) {
        self.0.around.count(Happening::TooManyWaiting);
        let Ok(question) = Question::read(message) else { return };
        let reason = Reason::ConnectionLimit;
        let refusal = reason.dns();
        let why = Some(Why { code: refusal.ede, text: reason.token() });
        let reply = Reply { why, ..Reply::code(ResponseCode::from(0, refusal.rcode)) };
        let client = listener.client(way);
        let decided = self.0.tap_out.is_some().then(|| {
            let mut trail = Trail::new(Some(&question), &client, self.0.around.next_request_id());
            trail.note_refusal(reason);
            trail.decided(reply.code, false)
        });
        if let Ok(written) = reply.write(&question, question.room()) {
            if let Some(telling) = Telling::new(&self.0, message, &client, Carrier::Udp) {
                telling.answer(&written.bytes, decided);
            }
            listener.send(&written.bytes, way).await;
        }
    }
}
