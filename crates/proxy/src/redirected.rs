//! Connections that the kernel redirects here (nftables `redirect` and `tproxy`): the client meant to reach somebody else,
//! and says nothing to a proxy. Where it wanted to go is the target: the name that its address stands for
//! ([`VirtualNames`](exeat_dns::VirtualNames)), one that the client was told the address for ([`answered`]), or else the
//! address itself. From there on [`tunnel`] does what it does for a CONNECT.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use exeat_audit::Event;
use exeat_model::{Authority, Host, Port};
use exeat_policy::Reason;
use socket2::SockRef;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    answered,
    chunk::{CHUNK_BYTES, read_chunk},
    client::Client,
    client_stream::ClientStream,
    destination, linger,
    opening::begins_like_http,
    respond::{After, Refusal},
    serve::{self, Ask, Credentials},
    shared::Shared,
    trail::{Target, Trail},
    tunnel::{self, Asked, Form, Relaying},
};

/// How such a request is recorded, which has no method.
const METHOD: &str = "REDIRECT";

/// How long a refused client may take to show that it speaks HTTP, and can be told why. Those that do send their request
/// with the handshake; all others learn of the refusal by a reset, which must not keep them waiting.
const FIRST_WORDS: Duration = Duration::from_millis(20);

/// The same on the port of HTTP, where a client that waits for the server to speak first is a rare one.
const FIRST_WORDS_OF_HTTP: Duration = Duration::from_secs(1);

/// Returns where a redirected connection was meant to go. Of one that was not translated, as with `tproxy`, that is where
/// it arrived.
pub(crate) fn original_destination(stream: &TcpStream) -> std::io::Result<SocketAddr> {
    let arrived = stream.local_addr()?;
    let socket = SockRef::from(stream);
    // A listener on `[::]` takes connections of IPv4 as well, and those are translated by the rules of IPv4.
    let first = if arrived.ip().to_canonical().is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    // ENOENT: connection tracking knows of no translation.
    Ok(destination::original(arrived, first.ok().as_ref()))
}

/// Serves a redirected `client`, whose `local` address is where it meant to go, until its tunnel is open.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    client: Client,
    mut stream: ClientStream,
) -> Option<Relaying> {
    let meant = client.local;
    let mut trail = Trail::new(shared.next_request_id(), &client, METHOD, Target::Bytes(b""));
    let Some(literal) = destination::literal(meant) else {
        let refusal = serve::refuse(&mut trail, Reason::RequestMalformed, None);
        refuse(shared, stream, &[], &trail, &refusal).await;
        return None;
    };
    trail.note_target(Target::Authority(&literal, ""));
    let mut early = BytesMut::new();
    let found = match &shared.answers {
        Some(answers) => {
            Box::pin(answered::meant(shared, answers, &mut stream, &mut early, &mut trail, literal)).await
        }
        None => named(shared, &mut trail, literal),
    };
    let target = match found {
        Ok(target) => target,
        Err(refusal) => {
            refuse(shared, stream, &early, &trail, &refusal).await;
            return None;
        }
    };
    trail.note_target(Target::Authority(&target, ""));
    let address = shared.answers.is_some().then_some(meant.ip());
    let ask = Ask { target: &target, address, credentials: Credentials::Fields(&[]), via: &[] };
    let asker =
        trail.principal().map(|principal| (trail.source().ip().to_canonical(), principal.name.clone()));
    match tunnel::serve(shared, stream, &mut early, trail, ask, Form::Redirected).await {
        Asked::Open(relaying) => Some(held(shared, relaying, asker.zip(address))),
        Asked::Again(_) | Asked::Over => None,
    }
}

/// Has a tunnel that ends leave its name known for a while, however long it lasted: its client may connect again.
fn held(shared: &Shared, relaying: Relaying, of: Option<((IpAddr, Arc<str>), IpAddr)>) -> Relaying {
    let (Some(answers), Some(((client, principal), address))) = (shared.answers.clone(), of) else {
        return relaying;
    };
    Box::pin(async move {
        relaying.await;
        answered::hold(&answers, (client, &principal), address);
    })
}

/// Returns what the client asks for: by name, if the address stands for one.
///
/// # Errors
/// The refusal, if the address stands for nothing that this client was told, or nobody knows who that is.
fn named(shared: &Shared, trail: &mut Trail, literal: Authority) -> Result<Authority, Refusal> {
    let Some(names) = &shared.virtual_names else { return Ok(literal) };
    if !matches!(&literal.host, Host::Address(ip) if names.ranges().contains(ip.get())) {
        return Ok(literal);
    }
    let current = shared.current();
    let snapshot = &current.snapshot;
    let peer = snapshot.peer(&trail.client().shown());
    let known = peer.alone(snapshot.anonymous.as_ref());
    let principal = match &known {
        Ok(principal) => principal,
        Err(error) => {
            trail.note_workload(&peer);
            shared.metrics.note_auth(&known);
            return Err(serve::refuse(trail, error.reason(), Some(&literal)));
        }
    };
    trail.note_principal(principal, &snapshot.policy);
    destination::wanted(literal.clone(), names, &principal.name, Instant::now()).map_err(|unknown| {
        serve::refuse(trail, Reason::HostNotAllowed, Some(&literal)).with_detail(unknown.to_string())
    })
}

/// Ends a refused connection: with the answer of a proxy if the client speaks HTTP, else with a reset. Neither is a
/// challenge: the client does not know that there is a proxy, and has no credentials for it.
///
/// `early` is what it has said already.
pub(crate) async fn refuse(
    shared: &Shared,
    mut stream: ClientStream,
    early: &[u8],
    trail: &Trail,
    refusal: &Refusal,
) {
    // It stands whether or not it can be recorded.
    shared.note(trail.record(Event::Decision, None));
    let is_http = if early.is_empty() {
        let is_for_http = trail.client().local.port() == Port::HTTP.get();
        let patience = if is_for_http { FIRST_WORDS_OF_HTTP } else { FIRST_WORDS };
        let first = timeout(patience, read_chunk(&mut stream, CHUNK_BYTES)).await;
        matches!(&first, Ok(Ok(chunk)) if begins_like_http(chunk.bytes()))
    } else {
        begins_like_http(early)
    };
    if !is_http {
        stream.reset();
        return;
    }
    let status = if refusal.status == 407 { 403 } else { refusal.status };
    let refusal = Refusal { status, ..refusal.clone() };
    let bytes = refusal.to_bytes(shared.signature(trail), After::Close, true);
    linger::say_and_close(stream, &bytes, &shared.limits).await;
}
