//! One request and its response head over one connection to an upstream.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::{Request, Response, StatusCode};
use hyper::{
    body::Incoming,
    client::conn::http1::{Builder, SendRequest},
    ext::on_informational,
};
use hyper_util::rt::TokioIo;
use tokio::{sync::Notify, time::sleep};

use crate::{
    body::UpBody,
    limits::Limits,
    meter::Side,
    pool::{Key, Upstream},
    shared::Shared,
    upstream_stream::UpstreamStream,
    websocket::{self, Switched},
};

/// Why an upstream gave no response.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Failure {
    /// It closed the connection before its response, or the connection broke.
    #[error("the upstream closed the connection before its response")]
    Closed,
    /// What it sent is not an HTTP/1 response within the limits.
    #[error("the upstream's response is malformed")]
    Malformed,
    /// It sent interim responses without end.
    #[error("the upstream sent too many interim responses")]
    TooManyInterim,
    /// It switched protocols without being asked to, or to another one (RFC 9110 §15.2.2).
    #[error("the upstream switched protocols")]
    Upgrade,
    /// It took the request and said nothing.
    #[error("the upstream did not respond in time")]
    Silent,
}

/// A request without a response.
pub(crate) struct Lost {
    /// The request, if not a byte of it has been written.
    pub(crate) request: Option<Request<UpBody>>,
    pub(crate) failure: Failure,
}

/// Makes `stream` ready for requests.
pub(crate) async fn open(shared: &Shared, stream: UpstreamStream) -> Result<Upstream, Failure> {
    let (sender, connection) =
        builder(shared).handshake(TokioIo::new(stream)).await.map_err(|error| classify(&error))?;
    // Ends with the sender, or when the upstream closes. Its error reaches whoever waits for the response.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(Upstream::new(sender))
}

/// Sends `request` and returns the head of the final response, its body to be streamed. When that has been read to
/// its end the connection goes to the pool as `key`.
pub(crate) async fn exchange(
    shared: &Shared,
    key: Key,
    mut upstream: Upstream,
    request: Request<UpBody>,
) -> Result<Response<Incoming>, Lost> {
    let response = response_head(&mut upstream.sender, request, &shared.limits).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Lost { request: None, failure: Failure::Upgrade });
    }
    let pool = Arc::clone(&shared.pool);
    tokio::spawn(async move {
        if upstream.sender.ready().await.is_ok() {
            pool.put(key, upstream);
        }
    });
    Ok(response)
}

/// Sends a `request` that asks for a WebSocket over a connection of its own, which never goes to the pool. Returns the
/// head of the final response, and the connection if that is a 101 which agrees.
pub(crate) async fn switch(
    shared: &Shared,
    stream: UpstreamStream,
    request: Request<UpBody>,
) -> Result<(Response<Incoming>, Option<Switched>), Failure> {
    let (mut sender, connection) = builder(shared)
        .handshake::<_, UpBody>(TokioIo::new(stream))
        .await
        .map_err(|error| classify(&error))?;
    let connection = tokio::spawn(connection.without_shutdown());
    let response = response_head(&mut sender, request, &shared.limits).await.map_err(|lost| lost.failure)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok((response, None));
    }
    if !websocket::is_agreed(response.headers()) {
        return Err(Failure::Upgrade);
    }
    match connection.await {
        Ok(Ok(parts)) => {
            Ok((response, Some(Switched { stream: parts.io.into_inner(), early: parts.read_buf })))
        }
        Ok(Err(_)) | Err(_) => Err(Failure::Closed),
    }
}

fn builder(shared: &Shared) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_headers(shared.limits.header_count)
        .max_header_size(shared.limits.response_head_bytes)
        .max_buf_size(shared.limits.response_head_bytes);
    builder
}

async fn response_head(
    sender: &mut SendRequest<UpBody>,
    mut request: Request<UpBody>,
    limits: &Limits,
) -> Result<Response<Incoming>, Lost> {
    let interim = Interim::watch(&mut request, limits.informational_max);
    let meter = request.body().meter();
    let mut sent_before = meter.taken(Side::Upstream);
    let mut response = std::pin::pin!(sender.try_send_request(request));
    loop {
        tokio::select! {
            biased;
            () = interim.too_many() => return Err(Lost { request: None, failure: Failure::TooManyInterim }),
            response = &mut response => return response.map_err(|mut error| Lost {
                request: error.take_message(),
                failure: classify(error.error()),
            }),
            () = sleep(limits.response_head_timeout) => {
                // An upload that goes on is not silence.
                let sent = meter.taken(Side::Upstream);
                if sent == sent_before {
                    return Err(Lost { request: None, failure: Failure::Silent });
                }
                sent_before = sent;
            }
        }
    }
}

/// Tells when a request has had more interim responses than it may.
struct Interim(Arc<Notify>);

impl Interim {
    fn watch(request: &mut Request<UpBody>, max: usize) -> Self {
        let too_many = Arc::new(Notify::new());
        let (notify, count) = (Arc::clone(&too_many), AtomicUsize::new(0));
        on_informational(request, move |_| {
            if count.fetch_add(1, Ordering::Relaxed) >= max {
                notify.notify_one();
            }
        });
        Self(too_many)
    }

    async fn too_many(&self) {
        self.0.notified().await;
    }
}

fn classify(error: &hyper::Error) -> Failure {
    if error.is_parse() || error.is_parse_too_large() || error.is_parse_status() {
        Failure::Malformed
    } else {
        Failure::Closed
    }
}
