//! WebSocket over absolute-form requests (RFC 6455 §4): the one upgrade that is passed on.
//!
//! The request is decided on as any other. If the upstream agrees to switch, the connection to it is taken out of
//! hyper, and with the client's it becomes a tunnel. Any other response is an ordinary one.

use std::{
    mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version, header};
use hyper::body::Body;

use crate::{
    client_stream::ClientStream,
    flows::TunnelSlot,
    linger,
    relay::{Early, End, Terms, relay},
    report::Report,
    shared::Shared,
    tunnel::Relaying,
    upstream_stream::UpstreamStream,
};

/// The token of the protocol (RFC 6455 §11.2).
const WEBSOCKET: &str = "websocket";
/// What `Connection` says of a message with an upgrade (RFC 9110 §7.8).
const UPGRADE: &str = "upgrade";

/// Whether `request` asks for a WebSocket (RFC 6455 §4.1). Whatever else it offers to switch to is not passed on.
pub(crate) fn is_asked<B: Body>(request: &Request<B>) -> bool {
    request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && request.body().is_end_stream()
        && says(request.headers(), &header::CONNECTION, UPGRADE)
        && says(request.headers(), &header::UPGRADE, WEBSOCKET)
}

/// Whether a 101 with these fields switches to WebSocket and to nothing else (RFC 6455 §4.1).
pub(crate) fn is_agreed(headers: &HeaderMap) -> bool {
    let mut protocols = headers.get_all(header::UPGRADE).iter();
    let (Some(protocol), None) = (protocols.next(), protocols.next()) else { return false };
    protocol.as_bytes().trim_ascii().eq_ignore_ascii_case(WEBSOCKET.as_bytes())
        && says(headers, &header::CONNECTION, UPGRADE)
}

/// Writes the two fields of an upgrade, which are for one connection, anew for the next.
pub(crate) fn write_fields(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(WEBSOCKET));
}

fn says(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .any(|word| word.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// The upstream's side of a connection that has switched.
pub(crate) struct Switched {
    pub(crate) stream: UpstreamStream,
    /// What it sent right after its 101.
    pub(crate) early: Bytes,
}

/// A WebSocket that begins when the client has its 101.
pub(crate) struct Agreed {
    pub(crate) upstream: Switched,
    pub(crate) slot: TunnelSlot,
    /// Makes the record of the end when it is dropped.
    pub(crate) report: Report,
}

/// Where the service leaves a WebSocket for the session that it ends.
#[derive(Default)]
pub(crate) struct Handover {
    is_set: AtomicBool,
    agreed: Mutex<Option<Agreed>>,
}

impl Handover {
    pub(crate) fn set(&self, agreed: Agreed) {
        *self.agreed.lock().unwrap_or_else(PoisonError::into_inner) = Some(agreed);
        self.is_set.store(true, Ordering::Release);
    }

    /// Whether hyper's next bytes are the last of its session.
    pub(crate) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Acquire)
    }

    pub(crate) fn take(&self) -> Option<Agreed> {
        self.agreed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Writes `last`, which ends in the 101, to the client, and returns the tunnel; `early` is what the client has sent
/// since its request.
pub(crate) async fn open(
    shared: &Arc<Shared>,
    mut stream: ClientStream,
    last: &[u8],
    early: BytesMut,
    mut agreed: Agreed,
) -> Option<Relaying> {
    if !linger::say(&mut stream, last, &shared.limits).await {
        agreed.report.end = Some("client_reset");
        return None;
    }
    let shared = Arc::clone(shared);
    Some(Box::pin(async move {
        let Agreed { upstream, report, .. } = &mut agreed;
        let mut early = Early { from_client: early.freeze(), from_upstream: mem::take(&mut upstream.early) };
        let terms = Terms {
            meter: &report.meter,
            // What opens it has been said: the request.
            opened: &|_| {},
            pipes: &shared.pipes,
            is_kept_alive: true,
        };
        let end = relay(&mut stream, &mut upstream.stream, &mut early, &terms).await;
        if let End::Broken { side, source } = &end {
            tracing::debug!(request_id = report.trail.request_id(), ?side, error = %source, "a WebSocket broke");
        }
        report.end = Some(end.token());
        let Agreed { upstream, slot, report } = agreed;
        drop((stream, upstream, slot));
        drop(report);
    }))
}

impl Agreed {
    /// Returns the WebSocket that `report` tells of, from its decision on: the rest is the record of its end.
    pub(crate) fn new(upstream: Switched, slot: TunnelSlot, mut report: Report) -> Self {
        report.becomes_tunnel();
        Self { upstream, slot, report }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full};

    use super::*;

    #[test]
    fn requests() {
        let ask = |method: Method, fields: &[(&str, &str)]| {
            let mut request = Request::builder().method(method);
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            request.body(Empty::<Bytes>::new()).unwrap()
        };
        let asking = [("connection", "Upgrade"), ("upgrade", "websocket")];
        for (name, method, fields, want) in [
            ("as browsers do", Method::GET, &asking[..], true),
            (
                "lists",
                Method::GET,
                &[("connection", "keep-alive, UPGRADE"), ("upgrade", "h2c, WebSocket")],
                true,
            ),
            ("not a GET", Method::POST, &asking, false),
            ("no Connection", Method::GET, &asking[1..], false),
            ("no Upgrade", Method::GET, &asking[..1], false),
            ("h2c", Method::GET, &[("connection", "upgrade"), ("upgrade", "h2c")], false),
            ("a longer token", Method::GET, &[("connection", "upgrade"), ("upgrade", "websocket2")], false),
        ] {
            assert_eq!(is_asked(&ask(method, fields)), want, "{name}");
        }
        let (parts, _) = ask(Method::GET, &asking).into_parts();
        assert!(!is_asked(&Request::from_parts(parts.clone(), Full::new(Bytes::from_static(b"body")))));
        let mut old = Request::from_parts(parts, Empty::<Bytes>::new());
        *old.version_mut() = Version::HTTP_10;
        assert!(!is_asked(&old), "HTTP/1.0 knows no upgrade");
    }

    #[test]
    fn answers() {
        for (fields, want) in [
            (&[("connection", "upgrade"), ("upgrade", "WebSocket")][..], true),
            (&[("upgrade", "websocket")], false),
            (&[("connection", "upgrade"), ("upgrade", "h2c")], false),
            (&[("connection", "upgrade"), ("upgrade", "websocket, h2c")], false),
            (&[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")], false),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(is_agreed(&headers), want, "{fields:?}");
        }
    }
}
