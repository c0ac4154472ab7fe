//! The admin API: every route in one table, which `docs/openapi.json` describes and a test compares.

use std::{net::SocketAddr, path::Path, sync::Arc};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{MethodRouter, delete, get, post, put as put_to},
};
use exeat_proxy::Proxy;
use exeat_store::History;
use http::{Method, StatusCode, Uri};
use tokio::{
    net::UnixListener,
    sync::{Semaphore, mpsc},
};

use crate::{
    diff,
    document::{DOCUMENT_BYTES_MAX, DOCUMENTS_MAX},
    error::Failure,
    explain, flows, health,
    orders::Order,
    policy, put, quarantine, reload, revisions, server,
    server::Caller,
    status::Status,
    traffic,
};

/// Bytes of a request body: an explanation with a few hundred addresses fits.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;

/// What the handlers work on.
#[derive(Clone)]
pub struct Admin {
    /// The proxy.
    pub(crate) proxy: Proxy,
    /// What came of loads of the configuration.
    pub(crate) status: Arc<Status>,
    /// Takes orders to change it.
    pub(crate) orders: mpsc::Sender<Order>,
    /// What has decided.
    pub(crate) history: Arc<History>,
    /// Where relative paths of documents start from.
    pub(crate) base_dir: Arc<Path>,
    /// What is listened on, for the floor of documents that are compared.
    pub(crate) listeners: Arc<[SocketAddr]>,
    /// Places for work on whole documents.
    pub(crate) documents: Arc<Semaphore>,
}

/// What an [`Admin`] is put together from.
pub struct Parts<'a> {
    /// The proxy.
    pub proxy: Proxy,
    /// What came of loads of the configuration.
    pub status: Arc<Status>,
    /// Takes orders to change it.
    pub orders: mpsc::Sender<Order>,
    /// What has decided.
    pub history: Arc<History>,
    /// The folder of the configuration file.
    pub base_dir: &'a Path,
    /// What is listened on.
    pub listeners: &'a [SocketAddr],
}

impl Admin {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: Parts<'_>) -> Self {
        let Parts { proxy, status, orders, history, base_dir, listeners } = parts;
        let documents = Arc::new(Semaphore::new(DOCUMENTS_MAX));
        let (base_dir, listeners) = (base_dir.into(), listeners.into());
        Self { proxy, status, orders, history, base_dir, listeners, documents }
    }
}

/// One method of one path.
struct Route {
    method: Method,
    path: &'static str,
    handler: fn() -> MethodRouter<Admin>,
}

const ROUTES: [Route; 17] = [
    Route { method: Method::GET, path: "/v1/health", handler: || get(health::get) },
    Route { method: Method::GET, path: "/v1/policy", handler: || get(policy::get) },
    Route { method: Method::PUT, path: "/v1/policy", handler: || put_to(put::put).layer(whole_document()) },
    Route { method: Method::GET, path: "/v1/policy/revisions", handler: || get(revisions::list) },
    Route { method: Method::GET, path: "/v1/policy/revisions/{revision}", handler: || get(revisions::one) },
    Route { method: Method::GET, path: "/v1/policy/diff", handler: || get(diff::between) },
    Route {
        method: Method::POST,
        path: "/v1/policy/diff",
        handler: || post(diff::sent).layer(whole_document()),
    },
    Route { method: Method::POST, path: "/v1/policy/rollback", handler: || post(put::rollback) },
    Route { method: Method::POST, path: "/v1/reload", handler: || post(reload::post) },
    Route { method: Method::POST, path: "/v1/explain", handler: || post(explain::post) },
    Route { method: Method::GET, path: "/v1/flows", handler: || get(flows::list) },
    Route { method: Method::DELETE, path: "/v1/flows", handler: || delete(flows::cut) },
    Route { method: Method::DELETE, path: "/v1/flows/{id}", handler: || delete(flows::cut_one) },
    Route { method: Method::GET, path: "/v1/traffic", handler: || get(traffic::get) },
    Route { method: Method::GET, path: "/v1/quarantine", handler: || get(quarantine::list) },
    Route { method: Method::POST, path: "/v1/quarantine", handler: || post(quarantine::add) },
    Route { method: Method::DELETE, path: "/v1/quarantine", handler: || delete(quarantine::release) },
];

/// The bound of a body that is a configuration.
fn whole_document() -> DefaultBodyLimit {
    DefaultBodyLimit::max(DOCUMENT_BYTES_MAX)
}

/// Answers the admin API on `listener`, for ever.
pub async fn serve(listener: UnixListener, admin: Admin) {
    let accept = async || {
        let stream = listener.accept().await?.0;
        // Where the system does not tell, nobody is named.
        let uid = stream.peer_cred().ok().map(|peer| peer.uid());
        Ok((stream, Caller { uid }))
    };
    server::serve(router(admin), accept).await;
}

pub(crate) fn router(admin: Admin) -> Router {
    let router =
        ROUTES.iter().fold(Router::new(), |router, route| router.route(route.path, (route.handler)()));
    router
        .fallback(async |uri: Uri| {
            let routes = ROUTES.iter().map(|route| format!("{} {}", route.method, route.path));
            let routes: Vec<String> = routes.collect();
            Failure::new(StatusCode::NOT_FOUND, format!("there is no {}", uri.path()))
                .help(format!("there are {}", routes.join(", ")))
        })
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            let error = format!("{method} is not a method of {}", uri.path());
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, error).help("see docs/openapi.json")
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(admin)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use serde_json::Value;

    use super::*;

    #[test]
    fn the_document_describes_the_routes() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
        let document: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let described: BTreeSet<String> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, methods)| {
                methods
                    .as_object()
                    .unwrap()
                    .keys()
                    .map(move |method| format!("{} {path}", method.to_uppercase()))
            })
            .collect();
        let served: BTreeSet<String> =
            ROUTES.iter().map(|route| format!("{} {}", route.method, route.path)).collect();
        assert_eq!(described, served);
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn references_of_the_document_lead_somewhere() {
        fn check(document: &Value, value: &Value) {
            match value {
                Value::Object(members) => {
                    if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                        let pointer = reference.trim_start_matches('#');
                        assert!(document.pointer(pointer).is_some(), "{reference}");
                    }
                    members.values().for_each(|value| check(document, value));
                }
                Value::Array(values) => values.iter().for_each(|value| check(document, value)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
        let document: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        check(&document, &document);
    }
}
