//! One client connection: a request head through the guard, then a tunnel or a hyper session, and again.
//!
//! hyper never sees a CONNECT, and never a byte that the guard has not passed as part of a head or counted as part
//! of a body: [`crate::session`] hands them over one by one. A request with a chunked body is the last of its
//! connection, because only hyper could tell where it ends.

use std::sync::Arc;

use bytes::Bytes;
use exeat_audit::Event;

use crate::{
    client::Client,
    client_stream::ClientStream,
    guard::HeadError,
    head::{HeadReader, Next},
    http2::{self, Rewound},
    linger,
    resources::{self, Here},
    respond::{After, Refusal},
    session,
    shared::Shared,
    target,
    trail::{Target, Trail},
    tunnel::{self, Asked, Relaying},
    websocket,
};

/// Serves `client` until one side has had enough, or a tunnel is open. `reader` may have the beginning of its first
/// request.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    client: Client,
    mut stream: ClientStream,
    mut reader: HeadReader,
) -> Option<Relaying> {
    let mut next = reader.next(&mut stream).await;
    loop {
        match next {
            Next::Closed => return None,
            Next::Http2 => {
                let here = Here::of(&client, &stream);
                let stream = Rewound::new(reader.buffered().split().freeze(), stream);
                Box::pin(http2::serve(shared, client, here, stream)).await;
                return None;
            }
            Next::Refused(error, bytes) => {
                let is_tls = matches!(stream, ClientStream::Tls(_));
                if let Some(answer) = resources::answer(shared.resources, &client, is_tls, &error, &bytes) {
                    Box::pin(linger::say_and_close(stream, &answer, &shared.limits)).await;
                } else {
                    Box::pin(refuse(shared, &client, stream, &error, &bytes)).await;
                }
                return None;
            }
            Next::Head(head, bytes) => match &head.target {
                target::Target::Tunnel(authority) => {
                    match tunnel::run(shared, &client, stream, &mut reader, &head, authority).await {
                        Asked::Open(relaying) => return Some(relaying),
                        Asked::Again(returned) => stream = returned,
                        Asked::Over => return None,
                    }
                    reader.restart();
                    next = read_unless_draining(shared, &mut reader, &mut stream).await;
                }
                target::Target::Forward(_) => {
                    let session = session::run(shared, &client, stream, reader, head, bytes);
                    let ended = Box::pin(session).await;
                    (stream, reader) = (ended.stream, ended.reader);
                    if let Some((agreed, last)) = ended.websocket {
                        let early = reader.buffered().split();
                        return websocket::open(shared, stream, &last, early, agreed).await;
                    }
                    if ended.is_cut {
                        stream.reset();
                        return None;
                    }
                    match ended.next {
                        Some(found) => next = found,
                        None if ended.has_unread => {
                            Box::pin(linger::close(stream, &shared.limits)).await;
                            return None;
                        }
                        None => {
                            linger::end(&mut stream, &shared.limits).await;
                            return None;
                        }
                    }
                }
            },
        }
    }
}

/// Reads the next head. While draining, a connection without a request is closed at once; a head that has begun
/// is still read.
async fn read_unless_draining(shared: &Shared, reader: &mut HeadReader, stream: &mut ClientStream) -> Next {
    tokio::select! {
        biased;
        next = reader.next(stream) => return next,
        () = shared.flows.drain_begins() => {}
    }
    if reader.is_started() { reader.next(stream).await } else { Next::Closed }
}

/// Answers a head that did not pass the guard. Nothing after it can be trusted to be a request, so this is the end.
async fn refuse(shared: &Shared, client: &Client, stream: ClientStream, error: &HeadError, bytes: &Bytes) {
    let mut words = bytes.split(|b| matches!(b, b' ' | b'\r' | b'\n'));
    let method = String::from_utf8_lossy(words.next().unwrap_or_default()).into_owned();
    let asked = Target::Bytes(words.next().unwrap_or_default());
    let mut trail = Trail::new(shared.next_request_id(), client, &method, asked);
    trail.note_reason(error.reason());
    shared.metrics.note_head_error(error);
    let refusal =
        Refusal { status: error.status(), ..Refusal::new(error.reason()) }.with_detail(error.to_string());
    shared.record_refusal(&mut trail, Event::Request, &refusal);
    let bytes = refusal.to_bytes(shared.signature(&trail), After::Close, method != "HEAD");
    linger::say_and_close(stream, &bytes, &shared.limits).await;
}
