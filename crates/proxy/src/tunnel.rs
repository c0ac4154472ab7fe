//! Tunnels: decide, dial, answer, check how the tunnel is opened, relay. A tunnel is asked for by CONNECT (RFC 9110
//! §9.3.6), over SOCKS5 (RFC 1928 §4), or by nobody where the kernel redirects a connection; only the answers differ.

use std::{
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
};

use bytes::BytesMut;
use exeat_audit::Event;
use exeat_model::Authority;

use crate::{
    client::Client,
    client_stream::ClientStream,
    flows::{FlowKind, Live, Spoken, TunnelSlot},
    guard::Head,
    head::HeadReader,
    linger,
    meter::Meter,
    opening::{self, Opening, Speaks, read_opening, tls_alert},
    redirected,
    relay::{Early, End, Terms, relay},
    respond::{After, Refusal, SocksStep},
    route::{self, Purpose, Route},
    serve::{self, Ask, Credentials},
    shared::Shared,
    socks5_wire,
    trail::{Target, Trail},
    upstream_stream::{Connected, UpstreamStream},
};

/// The answer to an allowed CONNECT: no Content-Length, no Transfer-Encoding (RFC 9110 §9.3.6).
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// The protocol in which a tunnel is asked for, and answered until it begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Form {
    /// HTTP. `may_retry`: after a 407 the connection can take another request.
    Connect { may_retry: bool },
    /// SOCKS5.
    Socks5,
    /// None: the kernel redirected the connection, and its client knows of no proxy.
    Redirected,
}

/// A tunnel that may begin.
pub(crate) struct Ready {
    route: Route,
    dialled: Connected,
    slot: TunnelSlot,
    flow: Live,
}

impl Ready {
    /// Records the end of a tunnel whose client went away before it was answered.
    pub(crate) fn unopened(self, shared: &Shared, mut trail: Trail) {
        record_end(shared, &mut trail, &self.flow, "client_reset");
    }
}

/// What comes of asking for a tunnel.
pub(crate) enum Asked {
    /// It is open.
    Open(Relaying),
    /// The connection can take another request: after a 407, so that clients which send credentials only when asked can
    /// send them now.
    Again(ClientStream),
    /// The connection is over.
    Over,
}

/// An open tunnel, until it ends. It holds what relaying needs and nothing else, and whoever runs it drops before what
/// it took to come so far: there are many tunnels, and most of them wait.
pub(crate) type Relaying = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Answers the CONNECT of `head`, and opens its tunnel.
pub(crate) async fn run(
    shared: &Arc<Shared>,
    client: &Client,
    stream: ClientStream,
    reader: &mut HeadReader,
    head: &Head,
    target: &Authority,
) -> Asked {
    let asked = Target::Authority(target, "");
    let trail = Trail::new(shared.next_request_id(), client, &head.method, asked);
    let fields: Vec<&[u8]> = head.proxy_authorization.iter().map(Vec::as_slice).collect();
    let via: Vec<&[u8]> = head.via.iter().map(Vec::as_slice).collect();
    let ask = Ask { target, address: None, credentials: Credentials::Fields(&fields), via: &via };
    let form = Form::Connect { may_retry: head.is_persistent && reader.buffered().is_empty() };
    serve(shared, stream, reader.buffered(), trail, ask, form).await
}

/// Answers `ask` in its `form`, and opens its tunnel, into which goes first what the client has sent `early`.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    mut stream: ClientStream,
    early: &mut BytesMut,
    mut trail: Trail,
    ask: Ask<'_>,
    form: Form,
) -> Asked {
    let target = ask.target;
    // Each phase is on the heap, so that a tunnel which is open takes no room for how it came to be.
    let ready = match Box::pin(begin(shared, &mut trail, ask, form)).await {
        Ok(ready) => ready,
        Err(refusal) => return Box::pin(refuse(shared, stream, early, &mut trail, &refusal, form)).await,
    };
    if linger::say(&mut stream, &form.established(&ready.dialled), &shared.limits).await {
        let relaying = Box::pin(open(shared, stream, early.split(), target, ready, trail)).await;
        relaying.map_or(Asked::Over, Asked::Open)
    } else {
        ready.unopened(shared, trail);
        Asked::Over
    }
}

impl Form {
    /// The HTTP status of the answer that the tunnel is open.
    const fn status(self) -> Option<u16> {
        match self {
            Self::Connect { .. } => Some(200),
            Self::Socks5 | Self::Redirected => None,
        }
    }

    /// The answer that the tunnel is open.
    fn established(self, dialled: &Connected) -> Vec<u8> {
        match self {
            Self::Connect { .. } => ESTABLISHED.to_vec(),
            Self::Socks5 => {
                let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
                socks5_wire::succeeded(dialled.stream.local_addr().unwrap_or(unknown))
            }
            Self::Redirected => Vec::new(),
        }
    }
}

/// Decides on a tunnel, dials, and records the decision. The caller answers, and then [`open`]s the tunnel.
///
/// # Errors
/// The refusal, which `trail` has noted too and nobody has recorded yet.
pub(crate) async fn begin(
    shared: &Shared,
    trail: &mut Trail,
    ask: Ask<'_>,
    form: Form,
) -> Result<Ready, Refusal> {
    let target = ask.target;
    let ready = prepare(shared, trail, ask).await?;
    record_allow(shared, trail, target, ready, form).await
}

async fn prepare(shared: &Shared, trail: &mut Trail, ask: Ask<'_>) -> Result<Ready, Refusal> {
    let target = ask.target;
    let admitted = serve::admit(shared, trail, ask).await?;
    let slot = shared
        .flows
        .open(&admitted.principal, trail.client().source(), &shared.limits)
        .map_err(|reason| serve::refuse(trail, reason, Some(target)))?;
    let route = admitted.permit(shared, trail).await?;
    // Nobody is reached for what cannot be recorded, as far as that is known before.
    shared.audit.check().map_err(|_| serve::unaudited(trail, target))?;
    let meter = Arc::new(Meter::new(&shared.limits).counting(&shared.metrics));
    let flow = admitted.begin(shared, trail, &route, FlowKind::Tunnel, &meter);
    let dialled = route::connect(shared, trail, target, &route, Purpose::Tunnel, &flow).await?;
    Ok(Ready { route, dialled, slot, flow })
}

/// Records the decision before the client learns of it.
async fn record_allow(
    shared: &Shared,
    trail: &mut Trail,
    target: &Authority,
    ready: Ready,
    form: Form,
) -> Result<Ready, Refusal> {
    // The newest word on it: it may have been decided on again since.
    trail.note_flow(&ready.flow);
    if let Some(reason) = ready.flow.meter().reason() {
        return Err(serve::refuse(trail, reason, Some(target)));
    }
    trail.status = form.status();
    match shared.record(trail.record(Event::Decision, None)).await {
        Ok(()) => Ok(ready),
        Err(_) => Err(serve::unaudited(trail, target)),
    }
}

async fn refuse(
    shared: &Shared,
    mut stream: ClientStream,
    early: &[u8],
    trail: &mut Trail,
    refusal: &Refusal,
    form: Form,
) -> Asked {
    let may_retry = match form {
        Form::Connect { may_retry } => may_retry && refusal.status == 407,
        Form::Socks5 => {
            refuse_socks(shared, stream, trail, refusal, SocksStep::Request).await;
            return Asked::Over;
        }
        Form::Redirected => {
            redirected::refuse(shared, stream, early, trail, refusal).await;
            return Asked::Over;
        }
    };
    shared.record_refusal(trail, Event::Decision, refusal);
    let after = if may_retry { After::KeepAlive } else { After::Close };
    let bytes = refusal.to_bytes(shared.signature(trail), after, true);
    if may_retry && linger::say(&mut stream, &bytes, &shared.limits).await {
        return Asked::Again(stream);
    }
    if !may_retry {
        linger::say_and_close(stream, &bytes, &shared.limits).await;
    }
    Asked::Over
}

/// Records a refusal to a SOCKS client, which is sent no HTTP status, says it and closes.
pub(crate) async fn refuse_socks(
    shared: &Shared,
    stream: ClientStream,
    trail: &Trail,
    refusal: &Refusal,
    step: SocksStep,
) {
    // It stands whether or not it can be recorded.
    shared.note(trail.record(Event::Decision, None));
    linger::say_and_close(stream, &refusal.to_socks(step), &shared.limits).await;
}

/// Checks the opening of an answered tunnel. Returns the tunnel, if it may go on.
pub(crate) async fn open(
    shared: &Arc<Shared>,
    mut stream: ClientStream,
    early: BytesMut,
    target: &Authority,
    ready: Ready,
    mut trail: Trail,
) -> Option<Relaying> {
    let Ready { route, dialled, slot, flow } = ready;
    let limits = &shared.limits;
    let reading = read_opening(&mut stream, early, route.opening(), target, limits);
    let end = match flow.meter().unless_ended(reading).await {
        Ok(Opening::Agreed(early)) => {
            let tunnel = Tunnel {
                shared: Arc::clone(shared),
                stream,
                upstream: dialled.stream,
                early: Early { from_client: early.freeze(), ..Early::default() },
                slot,
                flow,
                trail,
            };
            return Some(tunnel.relay());
        }
        Ok(Opening::Refused(refused)) => {
            // Nothing went upstream, and nothing will: that connection ends before the client is told.
            drop(dialled);
            trail.note_taken_back(refused.reason);
            Box::pin(say_refused(shared, stream, &trail, target, refused)).await;
            refused.reason.token()
        }
        Ok(Opening::ClientGone(None)) => "finished",
        Ok(Opening::ClientGone(Some(_))) => "client_reset",
        Err(reason) => {
            stream.reset();
            dialled.stream.reset();
            reason.token()
        }
    };
    drop(slot);
    record_end(shared, &mut trail, &flow, end);
    None
}

/// A tunnel whose opening is as it has to be.
struct Tunnel {
    shared: Arc<Shared>,
    stream: ClientStream,
    upstream: UpstreamStream,
    early: Early,
    slot: TunnelSlot,
    flow: Live,
    trail: Trail,
}

impl Tunnel {
    /// Relays to the end, and records it.
    fn relay(mut self) -> Relaying {
        // Used where it was captured: an `async fn` would hold all of it twice.
        Box::pin(async move {
            let Self { shared, stream, upstream, early, flow, .. } = &mut self;
            if early.from_client.is_empty() {
                flow.note_spoken(Spoken::Unknown);
            }
            let limits = &shared.limits;
            let terms = Terms {
                meter: flow.meter(),
                opened: &|bytes| flow.note_spoken(opening::spoken(bytes, flow.target(), limits)),
                pipes: &shared.pipes,
                is_kept_alive: false,
            };
            let end = relay(stream, upstream, early, &terms).await;
            self.end(&end);
        })
    }

    fn end(self, end: &End) {
        let Self { shared, stream, upstream, slot, flow, mut trail, .. } = self;
        if let End::Broken { side, source } = end {
            tracing::debug!(request_id = trail.request_id(), ?side, error = %source, "a tunnel broke");
        }
        drop((stream, upstream, slot));
        record_end(&shared, &mut trail, &flow, end.token());
    }
}

/// Tells the client in the protocol that it began to speak why its tunnel ends.
async fn say_refused(
    shared: &Shared,
    stream: ClientStream,
    trail: &Trail,
    target: &Authority,
    refused: opening::Refusal,
) {
    match refused.speaks {
        Speaks::Tls => linger::say_and_close(stream, &tls_alert(refused.reason), &shared.limits).await,
        Speaks::Http => {
            let refusal = Refusal { target: Some(target.to_string()), ..Refusal::new(refused.reason) };
            let bytes = refusal.to_bytes(shared.signature(trail), After::Close, true);
            linger::say_and_close(stream, &bytes, &shared.limits).await;
        }
        Speaks::Other => linger::close(stream, &shared.limits).await,
    }
}

/// Records the end of a tunnel. It has ended whether or not that can be recorded.
fn record_end(shared: &Shared, trail: &mut Trail, flow: &Live, end: &'static str) {
    trail.note_flow(flow);
    shared.note(trail.record(Event::End, Some(flow.meter().ending(end))));
}
