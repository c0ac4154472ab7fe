//! One stream: a request is checked, decided on and answered; a CONNECT becomes a tunnel.

use std::{future::poll_fn, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use exeat_audit::Event;
use exeat_model::Authority;
use h2::{Reason, RecvStream, SendStream, ext::Protocol, server::SendResponse};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::{
    request,
    stream::{BodyEvent, Http2Body, Http2Stream},
};
use crate::{
    body::{ClientBody, DownBody, Streaming},
    client::Client,
    client_stream::ClientStream,
    forward,
    guard::HeadError,
    resources::{self, Here},
    respond::{After, Refusal},
    serve::{Ask, Credentials},
    shared::Shared,
    target,
    trail::{Target, Trail},
    tunnel::{self, Form, Relaying},
    websocket::Handover,
};

/// Fields of HTTP/1 connections, which no message of HTTP/2 may have (RFC 9113 §8.2.2).
const CONNECTION_FIELDS: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Answers one request of `client`, and relays its tunnel.
pub(super) async fn serve(
    shared: Arc<Shared>,
    client: Client,
    here: Arc<Here>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    // In a box of its own, which is gone before the tunnel waits for its bytes.
    if let Some(relaying) = Box::pin(answer(&shared, &client, &here, request, respond)).await {
        relaying.await;
    }
}

/// Answers one request of `client`. Returns its tunnel, if it is open.
async fn answer(
    shared: &Arc<Shared>,
    client: &Client,
    here: &Here,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Option<Relaying> {
    let (mut parts, body) = request.into_parts();
    if let Some((content_type, content)) = resources::answer_http2(shared.resources, here, &parts) {
        send_resource(content_type, content, &mut respond);
        return None;
    }
    let checked = match parts.extensions.get::<Protocol>() {
        // RFC 8441 was not offered.
        Some(_) => Err(request::extended_connect()),
        None => request::check(&parts, &shared.limits),
    };
    match checked {
        Ok(target::Target::Tunnel(target)) => {
            return tunnel(shared, client, &parts, body, respond, &target).await;
        }
        Ok(target::Target::Forward(_)) => {
            request::join_cookies(&mut parts);
            forward(shared, client, parts, body, respond).await;
        }
        Err(error) => refuse(shared, client, &parts, &error, &mut respond),
    }
    None
}

/// Answers what is for this listener itself.
fn send_resource(content_type: &'static str, content: String, respond: &mut SendResponse<Bytes>) {
    let response = Response::builder()
        .header(header::CONTENT_TYPE, content_type)
        .header(header::CACHE_CONTROL, "no-store")
        .header(header::CONTENT_LENGTH, content.len())
        .body(());
    // A stream that is gone needs no answer.
    if let Ok(response) = response
        && let Ok(mut stream) = respond.send_response(response, false)
    {
        let _ = stream.send_data(content.into(), true);
    }
}

/// Answers a request that is not one.
fn refuse(
    shared: &Shared,
    client: &Client,
    parts: &Parts,
    error: &HeadError,
    respond: &mut SendResponse<Bytes>,
) {
    shared.metrics.note_head_error(error);
    let asked = request::asked(parts);
    let asked = Target::Bytes(asked.as_bytes());
    let mut trail = Trail::new(shared.next_request_id(), client, parts.method.as_str(), asked);
    trail.note_reason(error.reason());
    let refusal =
        Refusal { status: error.status(), ..Refusal::new(error.reason()) }.with_detail(error.to_string());
    shared.record_refusal(&mut trail, Event::Request, &refusal);
    send_refusal(shared, &trail, &refusal, parts.method != Method::HEAD, respond);
}

fn send_refusal(
    shared: &Shared,
    trail: &Trail,
    refusal: &Refusal,
    has_body: bool,
    respond: &mut SendResponse<Bytes>,
) {
    let (head, body) = refusal.to_response(shared.signature(trail), After::KeepAlive).into_parts();
    // A stream that is gone needs no answer.
    if let Ok(mut stream) = respond.send_response(fit(Response::from_parts(head, ())), !has_body)
        && has_body
    {
        let _ = stream.send_data(body, true);
    }
}

/// Drops what a message of HTTP/2 has no place for.
fn fit<B>(mut response: Response<B>) -> Response<B> {
    for name in CONNECTION_FIELDS {
        response.headers_mut().remove(name);
    }
    *response.version_mut() = http::Version::HTTP_2;
    response
}

/// Decides on a CONNECT, answers it, and opens its tunnel over the stream.
async fn tunnel(
    shared: &Arc<Shared>,
    client: &Client,
    parts: &Parts,
    body: RecvStream,
    mut respond: SendResponse<Bytes>,
    target: &Authority,
) -> Option<Relaying> {
    let asked = Target::Authority(target, "");
    let mut trail = Trail::new(shared.next_request_id(), client, parts.method.as_str(), asked);
    let values = |name| parts.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>();
    let (credentials, via) = (values(header::PROXY_AUTHORIZATION), values(header::VIA));
    let ask = Ask { target, address: None, credentials: Credentials::Fields(&credentials), via: &via };
    let form = Form::Connect { may_retry: false };
    let ready = match tunnel::begin(shared, &mut trail, ask, form).await {
        Ok(ready) => ready,
        Err(refusal) => {
            shared.record_refusal(&mut trail, Event::Decision, &refusal);
            send_refusal(shared, &trail, &refusal, true, &mut respond);
            return None;
        }
    };
    match respond.send_response(Response::new(()), false) {
        Ok(sending) => {
            let stream = ClientStream::Http2(Box::new(Http2Stream::new(sending, body)));
            tunnel::open(shared, stream, BytesMut::new(), target, ready, trail).await
        }
        Err(_) => {
            ready.unopened(shared, trail);
            None
        }
    }
}

/// Passes any other request on, and its response back.
async fn forward(
    shared: &Arc<Shared>,
    client: &Client,
    parts: Parts,
    body: RecvStream,
    mut respond: SendResponse<Bytes>,
) {
    let is_head = parts.method == Method::HEAD;
    let waits = parts
        .headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    // Room for one event of each kind.
    let (sender, mut events) = mpsc::channel(2);
    let body = ClientBody::Http2(Http2Body::new(body, shared.limits.idle_timeout, sender));
    let mut stop = shared.flows.stop();
    let streaming = Streaming::default();
    // Nothing is ever left there: an upgrade is of HTTP/1.1 alone, and RFC 8441 was not offered.
    let handover = Handover::default();
    let request = Request::from_parts(parts, body);
    let mut answered = std::pin::pin!(forward::answer(shared, client, request, None, &streaming, &handover));
    let response = loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(Option::is_some) => return,
            // The client no longer wants it: what is under way for it ends with `answered`.
            _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
            Some(event) = events.recv() => match event {
                BodyEvent::Wanted if waits => {
                    let mut interim = Response::new(());
                    *interim.status_mut() = StatusCode::CONTINUE;
                    let _ = respond.send_informational(interim);
                }
                BodyEvent::Wanted => {}
                BodyEvent::Stalled => return respond.send_reset(Reason::CANCEL),
            },
            response = &mut answered => break response,
        }
    };
    let (head, body) = response.into_parts();
    let has_no_body = is_head || body.is_end_stream();
    let Ok(stream) = respond.send_response(fit(Response::from_parts(head, ())), has_no_body) else { return };
    if !has_no_body {
        let idle_timeout = streaming.idle_timeout().unwrap_or(shared.limits.idle_timeout);
        Download { stream, events, stop, streaming: &streaming, idle_timeout }.run(body).await;
    }
}

/// A response body on its way to the client.
struct Download<'a> {
    stream: SendStream<Bytes>,
    events: mpsc::Receiver<BodyEvent>,
    stop: watch::Receiver<Option<exeat_policy::Reason>>,
    streaming: &'a Streaming,
    idle_timeout: Duration,
}

impl Download<'_> {
    /// Sends `body` to its end; a body that breaks off breaks the stream off.
    async fn run(mut self, mut body: DownBody) {
        loop {
            let frame = tokio::select! {
                biased;
                _ = self.stop.wait_for(Option::is_some) => return,
                _ = poll_fn(|cx| self.stream.poll_reset(cx)) => return,
                Some(event) = self.events.recv() => match event {
                    BodyEvent::Wanted => continue,
                    BodyEvent::Stalled => return self.stream.send_reset(Reason::CANCEL),
                },
                frame = body.frame() => frame,
            };
            let sent = match frame {
                Some(Ok(frame)) => self.send(frame.into_data().unwrap_or_default()).await,
                Some(Err(_)) => return self.stream.send_reset(Reason::INTERNAL_ERROR),
                None => return drop(self.stream.send_data(Bytes::new(), true)),
            };
            if sent.is_none() {
                return self.stream.send_reset(Reason::CANCEL);
            }
        }
    }

    /// Sends `data` as the client makes room for it. `None` if it does not, or the stream is gone.
    async fn send(&mut self, mut data: Bytes) -> Option<()> {
        while !data.is_empty() {
            self.stream.reserve_capacity(data.len());
            let capacity = poll_fn(|cx| self.stream.poll_capacity(cx));
            let capacity = tokio::select! {
                biased;
                _ = self.stop.wait_for(Option::is_some) => return None,
                () = self.streaming.cut() => return None,
                capacity = timeout(self.idle_timeout, capacity) => match capacity {
                    Ok(capacity) => capacity?.ok()?,
                    Err(_) => {
                        self.streaming.stall();
                        return None;
                    }
                },
            };
            let piece = data.split_to(capacity.min(data.len()));
            self.stream.send_data(piece, false).ok()?;
        }
        Some(())
    }
}
