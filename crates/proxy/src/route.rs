//! The way out of a permitted request: straight to its addresses, or through a next hop that is asked for it by name.

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use exeat_audit::Seldom;
use exeat_model::{Authority, Host};
use exeat_policy::{
    Announce, Caps, Denial, HopPermit, InfraPermit, OpeningRule, Permit, PolicySet, Reason, RuleId,
    permit_hop,
};

use crate::{
    dial::{DialError, Dialled, Keepalive, dial, dial_infra},
    flows::Live,
    hop::{Hop, HopProtocol},
    hop_opening,
    pool::Bond,
    proxy_protocol,
    respond::{NextHop, Refusal},
    serve::{ended, refuse},
    shared::Shared,
    tls::HandshakeError,
    trail::Trail,
    upstream_stream::Connected,
};

/// Lines that a client can cause by every request.
static UNTRUSTED: Seldom = Seldom::new();
static UNWELCOME: Seldom = Seldom::new();
static LOOPING: Seldom = Seldom::new();

/// What a request may open, and how.
pub(crate) enum Route {
    /// The addresses of the target.
    Straight(Permit),
    /// The addresses of a next hop.
    Via(Box<Via>),
}

/// What a [`Route`] rests on: what is left to know once it has been taken.
#[derive(Clone, Debug)]
pub(crate) enum Grant {
    /// The addresses of the target.
    Straight(Permit),
    /// The target, asked of a next hop. On the heap: few flows leave through one, and all would have the room for it.
    Via(Box<HopPermit>),
}

/// A way through a next hop.
pub(crate) struct Via {
    permit: HopPermit,
    infra: InfraPermit,
    hop: Arc<Hop>,
    /// What the hop is told of the proxies that the request has passed: with this instance, so that a loop is seen.
    passed: String,
}

/// What a connection is opened for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Purpose {
    /// Bytes of any kind.
    Tunnel,
    /// HTTP requests, which an HTTP hop takes in absolute-form.
    Requests,
    /// A WebSocket, asked for through a tunnel. It may be refused, and then there is a response to wait for.
    WebSocket,
}

impl Purpose {
    /// When to have the kernel watch over the connection.
    const fn keepalive(self) -> Keepalive {
        match self {
            // The relay asks for it.
            Self::Tunnel => Keepalive::Later,
            Self::Requests | Self::WebSocket => Keepalive::Now,
        }
    }
}

impl Grant {
    /// The rule that it cites.
    pub(crate) fn rule(&self) -> RuleId {
        match self {
            Self::Straight(permit) => permit.rule(),
            Self::Via(permit) => permit.rule(),
        }
    }

    /// What must open the connection.
    pub(crate) fn opening(&self) -> &OpeningRule {
        match self {
            Self::Straight(permit) => permit.opening(),
            Self::Via(permit) => permit.opening(),
        }
    }

    /// What the flow may come to.
    pub(crate) fn caps(&self) -> Caps {
        match self {
            Self::Straight(permit) => permit.caps(),
            Self::Via(permit) => permit.caps(),
        }
    }

    /// Why report mode alone let it through, if so.
    pub(crate) fn would_deny(&self) -> Option<Denial> {
        match self {
            Self::Straight(permit) => permit.would_deny(),
            Self::Via(permit) => permit.would_deny(),
        }
    }
}

impl Route {
    /// What it rests on.
    pub(crate) fn grant(&self) -> Grant {
        match self {
            Self::Straight(permit) => Grant::Straight(permit.clone()),
            Self::Via(via) => Grant::Via(Box::new(via.permit.clone())),
        }
    }

    /// What must open the connection.
    pub(crate) fn opening(&self) -> &OpeningRule {
        match self {
            Self::Straight(permit) => permit.opening(),
            Self::Via(via) => via.permit.opening(),
        }
    }

    /// The addresses that may be dialled.
    pub(crate) fn addrs(&self) -> &[SocketAddr] {
        match self {
            Self::Straight(permit) => permit.addrs(),
            Self::Via(via) => via.infra.addrs(),
        }
    }

    /// The name of the next hop.
    pub(crate) fn hop_name(&self) -> Option<&Arc<str>> {
        match self {
            Self::Straight(_) => None,
            Self::Via(via) => Some(&via.permit.hop().name),
        }
    }

    /// What a connection of it for the client of `trail` is tied to.
    pub(crate) fn bond(&self, trail: &Trail) -> Bond {
        let (hop, announce) = match self {
            Self::Straight(permit) => (None, permit.announce()),
            Self::Via(via) => (Some(via.hop.id), via.hop.announce),
        };
        let announced = match announce {
            Announce::Nothing => None,
            Announce::Client | Announce::ClientAndPrincipal => Some(trail.source()),
        };
        Bond { hop, announced }
    }

    /// The next hop, if requests are sent to it in absolute-form (RFC 9112 §3.2.2).
    pub(crate) fn takes_absolute_form(&self) -> Option<&Hop> {
        match self {
            Self::Straight(_) => None,
            Self::Via(via) => match via.hop.protocol {
                HopProtocol::Http => Some(&via.hop),
                HopProtocol::Socks5 => None,
            },
        }
    }
}

/// Finds the addresses of the next hop that `permit` names.
///
/// # Errors
/// The refusal, which `trail` has noted too.
pub(crate) async fn through(
    shared: &Shared,
    trail: &mut Trail,
    policy: &PolicySet,
    hop: Option<&Arc<Hop>>,
    permit: HopPermit,
    client_via: &[u8],
) -> Result<Via, Refusal> {
    let Some(hop) = hop else {
        return Err(refuse(trail, Reason::PolicyUnavailable, Some(permit.target())));
    };
    let addrs = match &permit.hop().endpoint.host {
        Host::Address(_) => Arc::default(),
        Host::Name(name) => match shared.resolver.resolve(name).await {
            Ok(answer) => answer.addrs,
            Err(error) => {
                note_failure(hop, &permit, &error);
                return Err(unavailable(trail, &permit, "its name could not be resolved"));
            }
        },
    };
    match permit_hop(policy, &permit, &addrs) {
        Ok(infra) => {
            let own = format!("1.1 {}", shared.instance);
            let passed = match std::str::from_utf8(client_via) {
                Ok(before) if !before.is_empty() => format!("{before}, {own}"),
                Ok(_) | Err(_) => own,
            };
            Ok(Via { hop: Arc::clone(hop), infra, permit, passed })
        }
        Err(denial) if denial.reason == Reason::LoopDetected => Err(loops(trail, &permit)),
        Err(_) => Err(unavailable(trail, &permit, "its name has no usable address")),
    }
}

/// Opens the connection of `route` for `purpose` of `flow`: what is returned leads to the target, or takes requests for it.
///
/// # Errors
/// The refusal, which `trail` has noted too. There is no other way in place of one that fails.
pub(crate) async fn connect(
    shared: &Shared,
    trail: &mut Trail,
    target: &Authority,
    route: &Route,
    purpose: Purpose,
    flow: &Live,
) -> Result<Connected, Refusal> {
    let started = Instant::now();
    let opened = flow.meter().unless_ended(open(shared, trail, target, route, purpose)).await;
    shared.metrics.connect_time.observe(started.elapsed());
    let dialled = opened.unwrap_or_else(|reason| Err(ended(trail, flow, reason, target)))?;
    flow.note_dialled(dialled.addr);
    Ok(dialled)
}

async fn open(
    shared: &Shared,
    trail: &mut Trail,
    target: &Authority,
    route: &Route,
    purpose: Purpose,
) -> Result<Connected, Refusal> {
    match route {
        Route::Straight(permit) => straight(shared, trail, target, permit, purpose).await,
        Route::Via(via) => {
            Box::pin(async {
                let dialled = to_hop(shared, trail, via, purpose).await?;
                trail.address = Some(dialled.addr);
                match (via.hop.protocol, purpose) {
                    (HopProtocol::Http, Purpose::Requests) => Ok(dialled),
                    (HopProtocol::Http, Purpose::Tunnel | Purpose::WebSocket) | (HopProtocol::Socks5, _) => {
                        ask_hop(shared, trail, via, dialled).await
                    }
                }
            })
            .await
        }
    }
}

async fn straight(
    shared: &Shared,
    trail: &mut Trail,
    target: &Authority,
    permit: &Permit,
    purpose: Purpose,
) -> Result<Connected, Refusal> {
    let dialling = dial(permit, shared.limits.connect_timeout, purpose.keepalive());
    let Dialled { mut stream, addr } = match dialling.await {
        Ok(dialled) => dialled,
        Err(error) => {
            note_undialled(trail, &error);
            if let DialError::Ours { .. } = error {
                trail.note_taken_back(error.reason());
            }
            let refusal = refuse(trail, error.reason(), Some(target)).with_detail(error.told());
            return Err(Refusal { socks_reply: error.socks_reply(), ..refusal });
        }
    };
    trail.address = Some(addr);
    match proxy_protocol::announce(&mut stream, permit.announce(), trail).await {
        Ok(()) => Ok(Connected { stream: stream.into(), addr }),
        Err(error) => {
            note_undialled(trail, &error);
            let refusal = refuse(trail, Reason::ConnectFailed, Some(target));
            Err(refusal.with_detail("the upstream closed the connection before its PROXY header"))
        }
    }
}

fn note_undialled(trail: &Trail, error: &(dyn std::error::Error + 'static)) {
    tracing::debug!(request_id = trail.request_id(), error, "dialing failed");
}

/// Why there is no connection to a next hop that its protocol could be spoken over.
#[derive(Debug, thiserror::Error)]
enum ReachError {
    #[error("no connection")]
    Dial(#[source] DialError),
    #[error("the next hop closed the connection before its PROXY header")]
    Announce(#[source] io::Error),
    #[error("no TLS")]
    Tls(#[source] HandshakeError),
}

/// Connects to the hop, tells it of the client and begins TLS, each if it is to be, within `connect_timeout`.
async fn reach(shared: &Shared, trail: &Trail, via: &Via, purpose: Purpose) -> Result<Connected, ReachError> {
    let (limit, hop) = (shared.limits.connect_timeout, &via.hop);
    let deadline = tokio::time::Instant::now() + limit;
    // The relay knows nothing of the connection below TLS.
    let keepalive = if hop.tls.is_some() { Keepalive::Now } else { purpose.keepalive() };
    let dialled = dial_infra(&via.infra, limit, keepalive).await.map_err(ReachError::Dial)?;
    let Dialled { mut stream, addr } = dialled;
    proxy_protocol::announce(&mut stream, hop.announce, trail).await.map_err(ReachError::Announce)?;
    let stream = match &hop.tls {
        None => stream.into(),
        Some(tls) => tls.connect(stream, deadline).await.map_err(ReachError::Tls)?.into(),
    };
    Ok(Connected { stream, addr })
}

async fn to_hop(
    shared: &Shared,
    trail: &mut Trail,
    via: &Via,
    purpose: Purpose,
) -> Result<Connected, Refusal> {
    let Via { hop, permit, .. } = via;
    if !hop.health.admits(Instant::now()) {
        return Err(unavailable(trail, permit, "it did not answer before and is left alone for a while"));
    }
    let failed = match reach(shared, trail, via, purpose).await {
        Ok(connected) => {
            note_success(hop, permit);
            return Ok(connected);
        }
        Err(failed) => failed,
    };
    match &failed {
        ReachError::Tls(error) if !error.is_absence() => {
            // It is there, and not what it should be.
            note_success(hop, permit);
            Err(untrusted(trail, permit, error))
        }
        ReachError::Dial(DialError::Ours { .. }) => Err(loops(trail, permit)),
        ReachError::Dial(_) | ReachError::Announce(_) | ReachError::Tls(_) => {
            note_failure(hop, permit, &failed);
            Err(unavailable(trail, permit, "it cannot be connected to"))
        }
    }
}

/// Returns the refusal for a hop with which TLS does not begin, for a reason that stays until somebody does something.
fn untrusted(trail: &mut Trail, permit: &HopPermit, error: &HandshakeError) -> Refusal {
    let name = &permit.hop().name;
    let source = error as &dyn std::error::Error;
    if let Some(left_out) = UNTRUSTED.turn() {
        tracing::warn!(
            hop = &**name,
            error = source,
            left_out,
            "the next hop is not spoken to: TLS does not begin"
        );
    }
    let refusal = refuse(trail, Reason::ConnectFailed, Some(permit.target())).with_detail(error.detail());
    let next_hop = NextHop { name: Arc::clone(name), status: None };
    Refusal { next_hop: Some(next_hop), error: error.proxy_error(), ..refusal }
}

async fn ask_hop(
    shared: &Shared,
    trail: &mut Trail,
    via: &Via,
    mut dialled: Connected,
) -> Result<Connected, Refusal> {
    let target = via.permit.target();
    let asked = hop_opening::open(&mut dialled.stream, &via.hop, target, &via.passed, &shared.limits).await;
    let Err(error) = asked else { return Ok(dialled) };
    let hop = &*via.permit.hop().name;
    let source = &error as &dyn std::error::Error;
    if error.lasts() {
        if let Some(left_out) = UNWELCOME.turn() {
            tracing::warn!(hop, error = source, left_out, "the next hop does not accept this proxy");
        }
    } else {
        let error = source;
        tracing::debug!(request_id = trail.request_id(), hop, error, "the next hop gives no connection");
    }
    let next_hop = NextHop { name: Arc::clone(&via.permit.hop().name), status: error.received_status() };
    let refusal = refuse(trail, error.reason(), Some(target)).with_detail(error.to_string());
    Err(Refusal { next_hop: Some(next_hop), ..refusal })
}

fn note_success(hop: &Hop, permit: &HopPermit) {
    if hop.health.succeeded() {
        tracing::info!(hop = &*permit.hop().name, "the next hop answers again");
    }
}

fn note_failure(hop: &Hop, permit: &HopPermit, error: &(dyn std::error::Error + 'static)) {
    let name = &*permit.hop().name;
    if hop.health.failed(Instant::now()) {
        tracing::warn!(hop = name, error, "the next hop is down: it is left alone, and tried again later");
    } else {
        tracing::debug!(hop = name, error, "the next hop cannot be reached");
    }
}

/// Returns the refusal for a hop that is this proxy itself.
fn loops(trail: &mut Trail, permit: &HopPermit) -> Refusal {
    if let Some(left_out) = LOOPING.turn() {
        tracing::error!(hop = &*permit.hop().name, left_out, "this next hop is one of our own listeners");
    }
    refuse(trail, Reason::LoopDetected, Some(permit.target()))
}

/// Returns the refusal for a hop that cannot be reached.
fn unavailable(trail: &mut Trail, permit: &HopPermit, why: &str) -> Refusal {
    let name = &permit.hop().name;
    let refusal = refuse(trail, Reason::EgressGatewayUnavailable, Some(permit.target()));
    let next_hop = NextHop { name: Arc::clone(name), status: None };
    Refusal { next_hop: Some(next_hop), ..refusal.with_detail(format!("next hop {name}: {why}")) }
}
