//! CONNECT (RFC 9110 §9.3.6): decide, dial, answer, check how the tunnel is opened, relay.

use std::sync::Arc;

use bytes::BytesMut;
use exeat_audit::Event;
use exeat_model::Authority;
use exeat_policy::Permit;
use tokio::net::TcpStream;

use crate::{
    dial::Dialled,
    flows::TunnelSlot,
    guard::Head,
    head::HeadReader,
    linger,
    listen::Client,
    opening::{self, Opening, Speaks, read_opening, tls_alert},
    relay::{End, relay},
    respond::{After, Refusal},
    serve::{self, Ask},
    shared::Shared,
    trail::{Ending, Target, Trail},
};

/// The answer to an allowed CONNECT: no Content-Length, no Transfer-Encoding (RFC 9110 §9.3.6).
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// A tunnel that may begin.
struct Ready {
    permit: Permit,
    dialled: Dialled,
    slot: TunnelSlot,
}

/// Answers the CONNECT of `head` and relays. Returns the connection if it can take another request: after a 407, so
/// that clients which send credentials only when asked can send them now.
pub(crate) async fn run(
    shared: &Arc<Shared>,
    client: Client,
    mut stream: TcpStream,
    reader: &mut HeadReader,
    head: &Head,
    target: &Authority,
) -> Option<TcpStream> {
    let asked = Target::Authority(target, "");
    let mut trail = Trail::new(shared.next_request_id(), client.peer, &head.method, asked);
    let prepared = prepare(shared, &mut trail, head, target).await;
    let ready = match prepared.and_then(|ready| record_allow(shared, &mut trail, target, ready)) {
        Ok(ready) => ready,
        Err(refusal) => {
            let may_retry = refusal.status == 407 && head.is_persistent && reader.buffered().is_empty();
            return refuse(shared, stream, &mut trail, &refusal, may_retry).await;
        }
    };
    if linger::say(&mut stream, ESTABLISHED, &shared.limits).await {
        open(shared, stream, reader.buffered().split(), target, ready, trail).await;
    } else {
        record_end(shared, &trail, Ending::nothing_moved("client_reset"));
    }
    None
}

async fn prepare(
    shared: &Shared,
    trail: &mut Trail,
    head: &Head,
    target: &Authority,
) -> Result<Ready, Refusal> {
    let credentials: Vec<&[u8]> = head.proxy_authorization.iter().map(Vec::as_slice).collect();
    let via: Vec<&[u8]> = head.via.iter().map(Vec::as_slice).collect();
    let admitted = serve::admit(shared, trail, Ask { target, credentials: &credentials, via: &via }).await?;
    let slot = shared
        .flows
        .open(&admitted.principal.name, &shared.limits)
        .map_err(|reason| serve::refuse(trail, reason, Some(target)))?;
    let permit = admitted.permit(shared, trail).await?;
    let dialled = serve::connect(shared, trail, target, &permit).await?;
    Ok(Ready { permit, dialled, slot })
}

/// Records the decision before the client learns of it.
fn record_allow(
    shared: &Shared,
    trail: &mut Trail,
    target: &Authority,
    ready: Ready,
) -> Result<Ready, Refusal> {
    trail.status = Some(200);
    match shared.record(trail.record(Event::Decision, None)) {
        Ok(()) => Ok(ready),
        Err(_) => Err(serve::unaudited(trail, target)),
    }
}

async fn refuse(
    shared: &Shared,
    mut stream: TcpStream,
    trail: &mut Trail,
    refusal: &Refusal,
    may_retry: bool,
) -> Option<TcpStream> {
    shared.record_refusal(trail, Event::Decision, refusal);
    let after = if may_retry { After::KeepAlive } else { After::Close };
    let bytes = refusal.to_bytes(shared.signature(trail), after, true);
    if may_retry && linger::say(&mut stream, &bytes, &shared.limits).await {
        return Some(stream);
    }
    if !may_retry {
        linger::say_and_close(stream, &bytes, &shared.limits).await;
    }
    None
}

/// Checks the opening of an answered tunnel and relays it to its end.
async fn open(
    shared: &Shared,
    mut stream: TcpStream,
    early: BytesMut,
    target: &Authority,
    ready: Ready,
    mut trail: Trail,
) {
    let limits = &shared.limits;
    let ending = match read_opening(&mut stream, early, ready.permit.opening(), target, limits).await {
        Opening::Agreed(early) => {
            let stop = shared.flows.stop();
            let end = relay(stream, ready.dialled.stream, &early, limits.idle_timeout, stop).await;
            if let End::Broken { side, source } = &end.why {
                tracing::debug!(request_id = trail.request_id(), ?side, error = %source, "a tunnel broke");
            }
            Ending { bytes_up: end.bytes_up, bytes_down: end.bytes_down, end: end.why.token() }
        }
        Opening::Refused(refused) => {
            // Nothing went upstream, and nothing will: that connection ends before the client is told.
            drop(ready.dialled);
            trail.note_taken_back(refused.reason);
            say_refused(shared, stream, &trail, target, refused).await;
            Ending::nothing_moved(refused.reason.token())
        }
        Opening::ClientGone(None) => Ending::nothing_moved("finished"),
        Opening::ClientGone(Some(_)) => Ending::nothing_moved("client_reset"),
    };
    drop(ready.slot);
    record_end(shared, &trail, ending);
}

/// Tells the client in the protocol that it began to speak why its tunnel ends.
async fn say_refused(
    shared: &Shared,
    stream: TcpStream,
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
fn record_end(shared: &Shared, trail: &Trail, ending: Ending) {
    let _ = shared.record(trail.record(Event::End, Some(ending)));
}
