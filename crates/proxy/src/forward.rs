//! Absolute-form requests: decide, find or open a connection to the upstream, pass the request on, stream the response.
//!
//! Interim responses (1xx) are counted and end here: the client gets its 100 from this proxy when its body is first
//! asked for, after the allow. Redirects are responses like any other. A WebSocket that the upstream agrees to becomes
//! a tunnel ([`websocket`]).

use std::{pin::pin, sync::Arc};

use exeat_audit::{Event, Seldom};
use exeat_identity::Principal;
use exeat_model::Authority;
use exeat_policy::{Expect, Reason};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, uri::PathAndQuery};
use http_body_util::Full;
use hyper::{
    body::{Body, Incoming},
    ext::ReasonPhrase,
};
use tokio::runtime::Handle;

use crate::{
    body::{ClientBody, DownBody, Streamed, Streaming, UpBody},
    client::Client,
    flows::{FlowKind, Live, Spoken, TunnelSlot},
    guard::{Head, length},
    headers,
    hop::Hop,
    meter::{Meter, Side},
    metrics::LimitHit,
    pool::Key,
    report::Report,
    respond::{After, NextHop, Refusal},
    route::{self, Purpose, Route},
    serve::{self, Admitted, Ask, Credentials},
    shared::Shared,
    target::{self, Forward, Scheme},
    trail::{Target, Trail},
    upstream::{self, Answered, Failure, Lease, Lost},
    websocket::{self, Agreed, Handover, Switched},
};

/// A line that a client can cause by every request.
static CREDENTIALS: Seldom = Seldom::new();

/// Answers one request of `client`, whose head was `passed` by the guard if it is HTTP/1.
pub(crate) async fn answer(
    shared: &Arc<Shared>,
    client: &Client,
    request: Request<ClientBody>,
    passed: Option<Box<Head>>,
    streaming: &Streaming,
    handover: &Handover,
) -> Response<DownBody> {
    streaming.ends();
    // Where a chunked body ends only hyper knows, so the guard cannot find the head after it: no further request.
    let is_last = request.headers().contains_key(header::TRANSFER_ENCODING);
    let has_body = !request.body().is_end_stream();
    let (forward, trail) = parse(shared, client, &request, passed);
    let mut report = Report::new(Arc::clone(shared), trail);
    let exchanged = match forward {
        Ok(forward) => exchange(shared, &mut report, &forward, request).await,
        Err(refusal) => Err(refusal),
    };
    match exchanged {
        Ok(Exchanged { response, lease, websocket }) => {
            report.trail.status = Some(response.status().as_u16());
            if let Some((upstream, slot)) = websocket {
                handover.set(Agreed::new(upstream, slot, report));
                return response.map(|_| DownBody::Whole(Full::default()));
            }
            streaming.begins(&report.meter);
            let mut response =
                response.map(|body| DownBody::Upstream(Box::new(Streamed::new(body, lease, report))));
            if is_last {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
        Err(refusal) => {
            // A connection that cannot be told whose it is stays so: the next one may be known.
            let is_over = is_last || has_body || refusal.reason == Reason::ContainerMismatch;
            let after = if is_over { After::Close } else { After::KeepAlive };
            report.note_refusal(&refusal);
            let response = refusal.to_response(shared.signature(&report.trail), after);
            response.map(|body| DownBody::Whole(Full::new(body)))
        }
    }
}

/// A response for the client, and the upstream's connection if it is to become a WebSocket.
struct Exchanged {
    response: Response<Incoming>,
    lease: Option<Lease>,
    websocket: Option<(Switched, TunnelSlot)>,
}

/// Returns what is asked for. Where hyper's reading of it is not the guard's, the target is read once more, from what hyper
/// made of it. The guard has let nothing else through than what passes here; if it ever did, this is the wall behind it.
fn parse(
    shared: &Shared,
    client: &Client,
    request: &Request<ClientBody>,
    passed: Option<Box<Head>>,
) -> (Result<Forward, Refusal>, Trail) {
    let (id, method) = (shared.next_request_id(), request.method().as_str());
    let is_same = |head: &Head| head.method == method && head.uri.as_ref() == Some(request.uri());
    let passed = passed.filter(|head| is_same(head)).map(|head| Ok(head.target));
    let uri = if passed.is_none() { request.uri().to_string() } else { String::new() };
    match passed.unwrap_or_else(|| target::Target::parse(method, &uri)) {
        Ok(target::Target::Forward(forward)) => {
            let asked = Target::Authority(&forward.authority, forward.scheme.prefix());
            let trail = Trail::new(id, client, method, asked);
            (Ok(forward), trail)
        }
        Ok(target::Target::Tunnel(_)) | Err(_) => {
            let mut trail = Trail::new(id, client, method, Target::Bytes(uri.as_bytes()));
            (Err(serve::refuse(&mut trail, Reason::RequestMalformed, None)), trail)
        }
    }
}

/// Decides on the request and passes it on.
async fn exchange(
    shared: &Arc<Shared>,
    report: &mut Report,
    forward: &Forward,
    mut request: Request<ClientBody>,
) -> Result<Exchanged, Refusal> {
    let Report { trail, meter, flow, .. } = report;
    let (authority, asks_websocket) = (&forward.authority, websocket::is_asked(&request));
    let hops_left = hops_left(&request);
    let (admitted, route) = allow(shared, trail, forward, request.headers()).await?;
    let slot = match asks_websocket {
        true => {
            let slot = shared.flows.open(&admitted.principal, trail.client().source(), &shared.limits);
            Some(slot.map_err(|reason| {
                shared.metrics.limits.count(LimitHit::TunnelsPerClient);
                serve::refuse(trail, reason, Some(authority))
            })?)
        }
        false => None,
    };
    match hops_left {
        Ok(None) => {}
        // What it would learn of the one it has come to is what a refusal of the method says.
        Ok(Some(0)) => {
            let refusal = serve::refuse(trail, Reason::MethodNotAllowed, Some(authority));
            return Err(refusal.with_detail("Max-Forwards is 0: the request goes no further"));
        }
        Ok(Some(left)) => {
            request.headers_mut().insert(header::MAX_FORWARDS, HeaderValue::from(left - 1));
        }
        Err(()) => {
            let refusal = serve::refuse(trail, Reason::RequestMalformed, Some(authority));
            return Err(refusal.with_detail("Max-Forwards is not one number"));
        }
    }
    // A WebSocket is asked for through a tunnel (RFC 6455 §4.1): few proxies pass an upgrade on.
    let hop = if asks_websocket { None } else { route.takes_absolute_form() };
    let outgoing = Outgoing::new(shared, forward, request, meter, hop)
        .ok_or_else(|| serve::refuse(trail, Reason::RequestMalformed, Some(authority)))?;
    let kind = if asks_websocket { FlowKind::Tunnel } else { FlowKind::Request };
    let flow = flow.insert(admitted.begin(shared, trail, &route, kind, meter));
    // What says itself that it is too much need not be begun.
    let announced = outgoing.announced();
    if meter.room(Side::Upstream, announced) < announced {
        meter.stop(Reason::MaxBytes);
    }
    // The request that goes upstream is for this authority, whatever the client's Host was.
    flow.note_spoken(Spoken::Http(authority.host.clone()));
    let sent = {
        // Moved no more: it takes much room.
        let sending = pin!(async {
            if let Some(slot) = slot {
                // Rare, and it takes much room.
                let asking = ask_websocket(shared, trail, flow, &route, authority, outgoing, slot);
                return Box::pin(asking).await;
            }
            let Answered { response, lease } =
                send(shared, trail, flow, &admitted.principal, &route, authority, outgoing).await?;
            check_hop(trail, &route, &response, authority)?;
            let response =
                fit_for_client(shared, response).map_err(|failure| failed(trail, failure, authority))?;
            Ok(Exchanged { response, lease, websocket: None })
        });
        meter.unless_ended(sending).await
    };
    match sent {
        Ok(sent) => sent,
        Err(reason) => Err(ended(trail, flow, reason, authority)),
    }
}

/// How many more proxies an OPTIONS may pass (RFC 9110 §7.6.2), if it says. In other requests the field means nothing.
///
/// # Errors
/// If that is not one number.
fn hops_left(request: &Request<ClientBody>) -> Result<Option<u64>, ()> {
    let mut values = request.headers().get_all(header::MAX_FORWARDS).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if request.method() == Method::OPTIONS => {
            length(value.as_bytes()).map(Some).ok_or(())
        }
        (Some(_), Some(_)) if request.method() == Method::OPTIONS => Err(()),
        (_, _) => Ok(None),
    }
}

/// Sends a request for a WebSocket, always over a new connection.
async fn ask_websocket(
    shared: &Shared,
    trail: &mut Trail,
    flow: &Live,
    route: &Route,
    authority: &Authority,
    outgoing: Outgoing,
    slot: TunnelSlot,
) -> Result<Exchanged, Refusal> {
    let mut request = outgoing.request;
    websocket::write_fields(request.headers_mut());
    let dialled = route::connect(shared, trail, authority, route, Purpose::WebSocket, flow).await?;
    let (response, switched) = upstream::switch(shared, dialled.stream, request)
        .await
        .map_err(|failure| failed(trail, failure, authority))?;
    let mut response =
        fit_for_client(shared, response).map_err(|failure| failed(trail, failure, authority))?;
    if switched.is_some() {
        websocket::write_fields(response.headers_mut());
        // As for every tunnel: the newest word on it, before the client learns of it.
        trail.note_flow(flow);
        if let Some(reason) = flow.meter().reason() {
            return Err(ended(trail, flow, reason, authority));
        }
        trail.status = Some(response.status().as_u16());
        let recorded = shared.record(trail.record(Event::Decision, None)).await;
        recorded.map_err(|_| serve::unaudited(trail, authority))?;
    }
    Ok(Exchanged { response, lease: None, websocket: switched.map(|upstream| (upstream, slot)) })
}

async fn allow(
    shared: &Shared,
    trail: &mut Trail,
    forward: &Forward,
    headers: &http::HeaderMap,
) -> Result<(Admitted, Route), Refusal> {
    let values = |name| headers.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>();
    let (credentials, via) = (values(header::PROXY_AUTHORIZATION), values(header::VIA));
    let ask = Ask {
        target: &forward.authority,
        address: None,
        credentials: Credentials::Fields(&credentials),
        via: &via,
    };
    let admitted = serve::admit(shared, trail, ask).await?;
    // Only now: whoever may not reach the host at all learns that, whatever the scheme.
    match forward.scheme {
        Scheme::Http => {}
        Scheme::Https => return Err(admitted.refuse(trail, Reason::SchemeNotAllowed)),
    }
    let route = admitted.permit(shared, trail).await?;
    match route.opening().expect() {
        Expect::Http | Expect::Any => {}
        Expect::Tls => return Err(admitted.refuse(trail, Reason::TlsRequired)),
    }
    shared.record_ahead(trail).await.map_err(|_| serve::unaudited(trail, &forward.authority))?;
    Ok((admitted, route))
}

/// A request as the upstream gets it.
struct Outgoing {
    request: Request<UpBody>,
    /// It may be sent twice (RFC 9110 §9.2.2), and has no body.
    is_repeatable: bool,
}

impl Outgoing {
    /// The length of its body, as far as it is said.
    fn announced(&self) -> usize {
        let length = self.request.headers().get(header::CONTENT_LENGTH);
        length.and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(0)
    }

    /// `hop` is the next hop that it is sent to in absolute-form. Returns `None` if the path is not one that can be sent.
    fn new(
        shared: &Shared,
        forward: &Forward,
        request: Request<ClientBody>,
        meter: &Arc<Meter>,
        hop: Option<&Hop>,
    ) -> Option<Self> {
        let (mut parts, body) = request.into_parts();
        // A stream of HTTP/2 needs neither to have a body.
        let is_chunked = parts.headers.contains_key(header::TRANSFER_ENCODING)
            || !body.is_end_stream() && !parts.headers.contains_key(header::CONTENT_LENGTH);
        headers::for_upstream(&mut parts.headers, &forward.authority, parts.version, &shared.instance);
        if is_chunked {
            // Said anew for the next connection: hyper would leave the body of a GET out without it.
            parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let path = match parts.uri.path_and_query() {
            Some(path) if path.as_str() == forward.path => path.clone(),
            Some(_) | None => PathAndQuery::try_from(forward.path.as_str()).ok()?,
        };
        parts.uri = match hop {
            None => Uri::from(path),
            Some(hop) => {
                headers::for_hop(&mut parts.headers, hop.credentials.as_ref())?;
                absolute_form(&forward.authority, path)?
            }
        };
        parts.version = Version::HTTP_11;
        parts.extensions = http::Extensions::new();
        let is_repeatable = body.is_end_stream() && is_idempotent(&parts.method);
        let body = if body.is_end_stream() {
            UpBody::empty(Arc::clone(meter))
        } else {
            UpBody::new(body, Arc::clone(meter), &shared.limits)
        };
        Some(Self { request: Request::from_parts(parts, body), is_repeatable })
    }
}

fn absolute_form(authority: &Authority, path: PathAndQuery) -> Option<Uri> {
    let authority = headers::host_field(authority);
    Uri::builder().scheme("http").authority(authority).path_and_query(path).build().ok()
}

fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE].contains(method)
}

/// Sends the request over an idle connection if one fits, over a new one otherwise. An idle connection that the
/// upstream has closed in the meantime is no failure of the request: it is sent once more over a new one.
async fn send(
    shared: &Arc<Shared>,
    trail: &mut Trail,
    flow: &Live,
    principal: &Principal,
    route: &Route,
    authority: &Authority,
    outgoing: Outgoing,
) -> Result<Answered, Refusal> {
    let Outgoing { mut request, is_repeatable } = outgoing;
    let bond = route.bond(trail);
    let idle = route.addrs().iter().find_map(|addr| {
        let key = Key::new(principal, bond, *addr, authority);
        shared.pool.take(&key).map(|upstream| (key, upstream))
    });
    if let Some((key, upstream)) = idle {
        trail.address = Some(key.address());
        flow.note_dialled(key.address());
        let again = is_repeatable.then(|| copy(&request));
        let brought = match upstream.is_at_home(Handle::current().id()) {
            true => Ok(upstream),
            false => Box::pin(upstream.brought_here(shared)).await,
        };
        let exchanged = match brought {
            Ok(upstream) => upstream::exchange(shared, key, upstream, request).await,
            Err(failure) => Err(Lost { request: Some(Box::new(request)), failure }),
        };
        match exchanged {
            Ok(answered) => return Ok(answered),
            Err(Lost { request: Some(unsent), .. }) => request = *unsent,
            Err(Lost { request: None, failure }) => match again {
                Some(again) if failure == Failure::Closed => request = again,
                Some(_) | None => return Err(failed(trail, failure, authority)),
            },
        }
    }
    // On the heap: it takes much room, and most requests find a connection.
    Box::pin(send_anew(shared, trail, flow, principal, route, authority, request)).await
}

/// Sends the request over a new connection.
async fn send_anew(
    shared: &Arc<Shared>,
    trail: &mut Trail,
    flow: &Live,
    principal: &Principal,
    route: &Route,
    authority: &Authority,
    request: Request<UpBody>,
) -> Result<Answered, Refusal> {
    let dialled = route::connect(shared, trail, authority, route, Purpose::Requests, flow).await?;
    let key = Key::new(principal, route.bond(trail), dialled.addr, authority);
    let sent = match upstream::open(shared, dialled.stream).await {
        Ok(upstream) => upstream::exchange(shared, key, upstream, request).await.map_err(|lost| lost.failure),
        Err(failure) => Err(failure),
    };
    sent.map_err(|failure| failed(trail, failure, authority))
}

/// Returns a request without a body once more.
fn copy(request: &Request<UpBody>) -> Request<UpBody> {
    let mut copy = Request::new(UpBody::empty(request.body().meter()));
    request.method().clone_into(copy.method_mut());
    request.uri().clone_into(copy.uri_mut());
    request.headers().clone_into(copy.headers_mut());
    *copy.version_mut() = request.version();
    copy
}

/// Returns the refusal of a request that had to end before its response began.
fn ended(trail: &mut Trail, flow: &Live, reason: Reason, authority: &Authority) -> Refusal {
    let refusal = serve::ended(trail, flow, reason, authority);
    if reason == Reason::IdleTimeout {
        // Waiting for the upstream has a limit of its own, so it was the client that was slow (RFC 9110 §15.5.9).
        return Refusal { status: 408, ..refusal };
    }
    refusal
}

/// Refuses where a next hop asks for credentials: the client's own are not meant, and it has no others.
fn check_hop(
    trail: &mut Trail,
    route: &Route,
    response: &Response<Incoming>,
    authority: &Authority,
) -> Result<(), Refusal> {
    let status = response.status();
    match route.hop_name() {
        Some(name) if route.takes_absolute_form().is_some() && status.as_u16() == 407 => {
            if let Some(left_out) = CREDENTIALS.turn() {
                tracing::warn!(hop = &**name, left_out, "the next hop does not accept the credentials");
            }
            let next_hop = NextHop { name: Arc::clone(name), status: Some(status.as_u16()) };
            let refusal = serve::refuse(trail, Reason::ConnectFailed, Some(authority));
            let refusal = refusal.with_detail("the next hop wants other credentials");
            Err(Refusal { next_hop: Some(next_hop), ..refusal })
        }
        Some(_) | None => Ok(()),
    }
}

/// Returns the refusal for an upstream that did not answer as it should.
fn failed(trail: &mut Trail, failure: Failure, authority: &Authority) -> Refusal {
    let (reason, error) = match failure {
        Failure::Closed => (Reason::ConnectFailed, "http_response_incomplete"),
        Failure::Malformed | Failure::TooManyInterim | Failure::Challenge => {
            (Reason::ConnectFailed, "http_protocol_error")
        }
        Failure::Coding => (Reason::ConnectFailed, "http_response_transfer_coding"),
        Failure::Upgrade => (Reason::ConnectFailed, "http_upgrade_failed"),
        Failure::Silent => (Reason::IdleTimeout, "http_response_timeout"),
    };
    let refusal = serve::refuse(trail, reason, Some(authority)).with_detail(failure.to_string());
    Refusal { error, ..refusal }
}

/// Makes an upstream's response one for the client.
///
/// # Errors
/// What is wrong with it, where that cannot be mended.
fn fit_for_client(shared: &Shared, response: Response<Incoming>) -> Result<Response<Incoming>, Failure> {
    let (mut parts, body) = response.into_parts();
    if parts.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        return Err(Failure::Challenge);
    }
    // hyper takes the last coding off, and says nothing of the others.
    if !parts
        .headers
        .get_all(header::TRANSFER_ENCODING)
        .iter()
        .all(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
    {
        return Err(Failure::Coding);
    }
    headers::for_client(&mut parts.headers, parts.version, &shared.instance);
    // With a body that is delimited in another way a length would be a second opinion on where it ends.
    if body.size_hint().exact().is_none() {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    headers::keep_one_length(&mut parts.headers).ok_or(Failure::Malformed)?;
    parts.version = Version::HTTP_11;
    parts.extensions = http::Extensions::new();
    // The phrase of a refusal is ours, and no upstream's (RFC 9112 §4: a client should not look at it).
    if parts.status.canonical_reason().is_none() {
        parts.extensions.insert(ReasonPhrase::from_static(b""));
    }
    Ok(Response::from_parts(parts, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of the future that `make` returns.
    fn size<A, B, C, D, E, F, G: Future>(_: impl Fn(A, B, C, D, E, F) -> G) -> usize {
        size_of::<G>()
    }

    #[test]
    fn a_request_takes_little_room() {
        // It is moved when it begins, and each byte of it takes the place of another in the nearest cache.
        let bytes = size(answer);
        assert!(bytes <= 6144, "{bytes}");
    }
}
