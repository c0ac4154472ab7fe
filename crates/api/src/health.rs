//! Health and metrics, on loopback TCP. Nothing here changes anything, and nothing here is about one client.

use std::sync::Arc;

use axum::{Router, extract::State, routing::get};
use exeat_proxy::Proxy;
use http::{StatusCode, header};
use tokio::net::TcpListener;

use crate::{metrics, server, server::Caller, status::Status};

/// What a probe is answered from.
#[derive(Clone)]
struct Seen {
    proxy: Proxy,
    status: Arc<Status>,
}

/// Answers `/healthz`, `/readyz` and `/metrics` on `listener`, for ever.
pub async fn serve(listener: TcpListener, proxy: Proxy, status: Arc<Status>) {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .method_not_allowed_fallback(async || StatusCode::NOT_FOUND)
        .with_state(Seen { proxy, status });
    server::serve(router, async || Ok((listener.accept().await?.0, Caller::default()))).await;
}

/// Whether the proxy takes new work. There is a policy whenever there is a proxy.
async fn ready(State(Seen { proxy, .. }): State<Seen>) -> (StatusCode, &'static str) {
    if proxy.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if proxy.audit().check().is_err() {
        (StatusCode::SERVICE_UNAVAILABLE, "the audit log cannot be written, and it is required\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

async fn scrape(
    State(Seen { proxy, status }): State<Seen>,
) -> Result<([(header::HeaderName, &'static str); 1], String), StatusCode> {
    let text = metrics::render(&proxy, &status).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text))
}
