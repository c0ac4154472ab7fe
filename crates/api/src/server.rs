//! Serves HTTP/1 to a few local clients, each within bounds: neither a slow nor a hostile one can take more than its
//! place.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use axum::{Router, body::Body, response::Response};
use http::{Request, StatusCode};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};

/// Connections at a time on one listener: operators, a scraper or two, a probe. What exceeds it waits.
pub(crate) const CONNECTIONS_MAX: usize = 64;
/// Time for a request head, and for the pause before it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the clients of an API may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For a whole request and its handling.
    pub(crate) request: Duration,
    /// For one connection with all its requests, so that one which does not read its response ends.
    pub(crate) connection: Duration,
}

/// That with operators: a reload of a million-line list takes a few seconds.
const PATIENCE: Patience =
    Patience { request: Duration::from_secs(60), connection: Duration::from_secs(600) };
/// Bytes of a request head.
const HEAD_BYTES: usize = 16 * 1024;
/// How long accepting rests when descriptors or memory are short.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who is on the other side of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Caller {
    /// The user, where the system tells (`SO_PEERCRED`, unix(7)).
    pub(crate) uid: Option<u32>,
}

/// Takes connections from `accept` and serves them by `router`, for ever.
pub(crate) async fn serve<S, F>(router: Router, mut accept: impl FnMut() -> F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = io::Result<(S, Caller)>>,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // The semaphore is never closed.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match accept().await {
            Ok((stream, caller)) => {
                tokio::spawn(serve_one(router.clone(), stream, caller, place, PATIENCE));
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept an operator's connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection by `router`, which may take it over (RFC 9110 §7.8). It has its place for as long as it speaks HTTP.
pub(crate) async fn serve_one<S>(
    router: Router,
    stream: S,
    caller: Caller,
    place: OwnedSemaphorePermit,
    patience: Patience,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller);
        answer(router.clone(), request, patience.request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    match timeout(patience.connection, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an operator's connection broke"),
        Err(_) => tracing::debug!("an operator's connection took too long"),
    }
    drop(place);
}

async fn answer(router: Router, request: Request<Incoming>, limit: Duration) -> Result<Response, Infallible> {
    let service = TowerToHyperService::new(router);
    match timeout(limit, hyper::service::Service::call(&service, request)).await {
        Ok(response) => response,
        Err(_) => {
            let mut late = Response::new(Body::from("{\"error\":\"this took too long\"}\n"));
            *late.status_mut() = StatusCode::GATEWAY_TIMEOUT;
            Ok(late)
        }
    }
}
