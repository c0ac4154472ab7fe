//! Health and metrics, on loopback TCP. Nothing here changes anything, and nothing here is about one client.

use std::{sync::Arc, time::Duration};

use axum::{Json, Router, extract::State, routing};
use exeat_firewall::Counted;
use exeat_proxy::Proxy;
use http::{StatusCode, header};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::net::TcpListener;

use crate::{admin::Admin, error::Failure, metrics, server, server::Caller, status::Status};

/// What a probe is answered from.
#[derive(Clone)]
struct Seen {
    proxy: Proxy,
    status: Arc<Status>,
}

/// Answers `/healthz`, `/readyz` and `/metrics` on `listener`, for ever.
pub async fn serve(listener: TcpListener, proxy: Proxy, status: Arc<Status>) {
    let router = Router::new()
        .route("/healthz", routing::get(async || "ok\n"))
        .route("/readyz", routing::get(ready))
        .route("/metrics", routing::get(scrape))
        .method_not_allowed_fallback(async || StatusCode::NOT_FOUND)
        .with_state(Seen { proxy, status });
    server::serve(router, async || Ok((listener.accept().await?.0, Caller::default()))).await;
}

/// How long the kernel may be told of a change: ten times the second that it should take at most.
const BEHIND_MAX: Duration = Duration::from_secs(10);

/// Whether the proxy takes new work, or why not. There is a policy whenever there is a proxy.
fn readiness(proxy: &Proxy, status: &Status) -> Result<(), &'static str> {
    if proxy.is_draining() {
        Err("draining")
    } else if proxy.audit().check().is_err() {
        Err("the audit log cannot be written, and it is required")
    } else if is_behind(status.firewall()) {
        Err("the firewall does not follow what decides now")
    } else {
        Ok(())
    }
}

/// Whether the kernel still holds clients to what decided before, and has for too long.
fn is_behind(firewall: Option<Counted>) -> bool {
    firewall.is_some_and(|counted| counted.behind > BEHIND_MAX)
}

async fn ready(State(Seen { proxy, status }): State<Seen>) -> (StatusCode, String) {
    match readiness(&proxy, &status) {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

/// `GET /v1/health` of the admin API: what `/readyz` says, for whoever has the socket and no HTTP client, such as a
/// container's health check.
pub(crate) async fn get(State(admin): State<Admin>) -> Result<Json<Health>, Failure> {
    match readiness(&admin.proxy, &admin.status) {
        Ok(()) => Ok(Json(Health { is_ready: true })),
        Err(why) => Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, why)),
    }
}

/// The proxy takes new work.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Health {
    /// Always true.
    is_ready: bool,
}

async fn scrape(
    State(Seen { proxy, status }): State<Seen>,
) -> Result<([(header::HeaderName, &'static str); 1], String), StatusCode> {
    let text = metrics::render(&proxy, &status).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_firewall_that_is_behind_for_long_takes_no_new_work() {
        let counted = |seconds| Counted { behind: Duration::from_secs(seconds), ..Counted::default() };
        for (case, firewall, want) in [
            ("none", None, false),
            ("it follows", Some(counted(0)), false),
            ("a change is under way", Some(counted(10)), false),
            ("it is stuck", Some(counted(11)), true),
        ] {
            assert_eq!(is_behind(firewall), want, "{case}");
        }
    }
}
