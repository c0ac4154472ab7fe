//! The policy server: answers clients' questions for names that the policy allows them, and opens the way to what it tells.
//!
//! A question is decided on by who asks and the name that was asked for, before anything of it leaves this host.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use exeat_audit::Seldom;
use exeat_identity::{Part, Place, Source};
use hickory_proto::op::ResponseCode;

use crate::{
    dnstap::TapOut,
    gate::Gate,
    resolve::Resolver,
    surroundings::{Happening, Surroundings},
    virtual_names::VirtualNames,
};

mod arpa;
mod budget;
mod config;
mod learn;
mod lookup;
mod question;
mod reply;
mod service;
mod tcp;
mod telling;
mod told;
mod trail;
mod udp;
mod unasked;

pub use config::{DeniedAnswer, Extra, ServerConfig};
pub use udp::UdpListener;

use budget::{Budget, Places};
pub(crate) use question::{Head, Question};
use reply::Reply;
use telling::Telling;
use told::Told;
use trail::Trail;

/// A line that a client can cause by every question.
static UNWRITTEN: Seldom = Seldom::new();

/// Questions that wait for servers or the kernel, in all: as many as may be asked of servers at a time, four times over.
/// Each holds about 4 KB.
const WAITING_MAX: usize = 4096;

/// The same of one source: a sixteenth, so that a few that ask for what nobody answers leave the others room.
const WAITING_PER_SOURCE: usize = 256;

/// Connections of one source: a stub resolver has one or two, and a host with many containers behind one address tens.
const CONNECTIONS_PER_SOURCE: usize = 64;

/// Answers questions. Cheap to clone; all clones are one server.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

struct Inner {
    around: Arc<dyn Surroundings>,
    gate: Arc<dyn Gate>,
    names: Option<Arc<VirtualNames>>,
    tap_out: Option<TapOut>,
    resolver: Resolver,
    config: ServerConfig,
    budget: Budget,
    told: Told,
    waiting: Arc<Places<Source>>,
    connections: Arc<Places<Source>>,
}

/// Who sent a message, as the system tells.
#[derive(Clone, Debug)]
struct Client {
    /// As the socket has it: answers go there.
    from: SocketAddr,
    /// Where it was sent to, if the system tells.
    at: Option<SocketAddr>,
    place: Place,
}

/// What reaching a socket says of who asks there.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Entrance {
    /// Nothing.
    #[default]
    Open,
    /// The question came by this network device.
    Interface(Arc<str>),
    /// A process of this control group of this host asks: no other gets there.
    Group(Arc<str>),
}

impl Client {
    fn new(from: SocketAddr, at: Option<SocketAddr>, entrance: &Entrance) -> Self {
        let ip = from.ip().to_canonical();
        // Nobody asks the kernel whose question it is; a workload that is known by its user must not be taken for another.
        let user = if ip.is_loopback() { Part::Unknown } else { Part::Nothing };
        let (address, interface, cgroup, user) = match entrance {
            Entrance::Open => (Some(ip), Part::Nothing, Part::Nothing, user),
            Entrance::Interface(name) => (Some(ip), Part::Known(Arc::clone(name)), Part::Nothing, user),
            // An address of this host says nothing of who it is.
            Entrance::Group(path) => (None, Part::Nothing, Part::Known(Arc::clone(path)), Part::Unknown),
        };
        Self { from, at, place: Place { address, interface, user, cgroup, ..Place::default() } }
    }

    fn source(&self) -> Source {
        Source::from(self.from.ip())
    }

    fn shown(&self) -> SocketAddr {
        SocketAddr::new(self.from.ip().to_canonical(), self.from.port())
    }
}

/// How a question came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Carrier {
    /// By UDP: what is too long for it is left out, and asked for again.
    Udp,
    /// By TCP.
    Tcp,
}

impl Carrier {
    /// How many octets the answer may have.
    fn room(self, question: &Question) -> usize {
        match self {
            Self::Udp => question.room(),
            Self::Tcp => u16::MAX.into(),
        }
    }
}

impl Server {
    /// Returns a server that asks `resolver` for names that the policy allows, and tells what it learned once `gate` has
    /// opened the way there. With `names` it tells addresses of those instead, and the way there is never opened: they lead
    /// to a listener for redirected connections. With `tap_out` somebody is told what is asked, and what was decided.
    #[must_use]
    pub fn new(
        config: ServerConfig,
        resolver: Resolver,
        around: Arc<dyn Surroundings>,
        gate: Arc<dyn Gate>,
        names: Option<Arc<VirtualNames>>,
        tap_out: Option<TapOut>,
    ) -> Self {
        Self(Arc::new(Inner {
            around,
            gate,
            names,
            tap_out,
            resolver,
            budget: Budget::new(config.queries_per_second, config.names_per_minute),
            told: Told::default(),
            waiting: Places::new(WAITING_MAX, WAITING_PER_SOURCE),
            connections: Places::new(config.connections, CONNECTIONS_PER_SOURCE),
            config,
        }))
    }

    /// Returns the answer to one message that came from this address; `None` if it gets none.
    pub async fn answer(&self, message: &[u8], from: SocketAddr, carrier: Carrier) -> Option<Vec<u8>> {
        self.handle(message, &Client::new(from, None, &Entrance::Open), carrier).await
    }

    async fn handle(&self, message: &[u8], client: &Client, carrier: Carrier) -> Option<Vec<u8>> {
        let inner = &self.0;
        let telling = Telling::new(inner, message, client, carrier);
        let (answer, decided) = match Question::read(message) {
            Ok(question) => {
                telling.iter().for_each(Telling::question);
                let mut trail = Trail::new(Some(&question), client, inner.around.next_request_id());
                let reply = inner.answer(&question, client, &mut trail).await;
                let decided = telling.is_some().then(|| trail.decided(reply.code, !reply.answers.is_empty()));
                (self.write(reply, &question, carrier, trail.started)?, decided)
            }
            Err(unasked) => {
                inner.around.count(Happening::Malformed);
                let answer = inner.answer_unasked(unasked, client)?;
                telling.iter().for_each(Telling::question);
                (answer, None)
            }
        };
        if let Some(telling) = telling {
            telling.answer(&answer, decided);
        }
        Some(answer)
    }

    fn write(
        &self,
        reply: Reply,
        question: &Question,
        carrier: Carrier,
        started: Instant,
    ) -> Option<Vec<u8>> {
        let around = &self.0.around;
        let written = reply.write(question, carrier.room(question));
        around.count(Happening::Answered(started.elapsed()));
        match written {
            Ok(written) => {
                if written.is_cut {
                    around.count(Happening::Truncated);
                }
                Some(written.bytes)
            }
            Err(error) => {
                if let Some(left_out) = UNWRITTEN.turn() {
                    tracing::warn!(%error, left_out, "an answer could not be written");
                }
                let failed = Reply::code(ResponseCode::ServFail);
                failed.write(question, carrier.room(question)).ok().map(|written| written.bytes)
            }
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("config", &self.0.config).finish_non_exhaustive()
    }
}
