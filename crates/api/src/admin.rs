//! The admin API: every route in one table, which `docs/openapi.json` describes and a test compares.

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{MethodRouter, delete, get, post},
};
use exeat_proxy::Proxy;
use http::{Method, StatusCode, Uri};
use tokio::{net::UnixListener, sync::mpsc};

use crate::{
    error::Failure, explain, flows, policy, quarantine, reload, reload::ReloadOrder, server, status::Status,
    traffic,
};

/// Bytes of a request body: an explanation with a few hundred addresses fits.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;

/// What the handlers work on.
#[derive(Clone)]
pub struct Admin {
    /// The proxy.
    pub proxy: Proxy,
    /// What came of loads of the configuration.
    pub status: Arc<Status>,
    /// Takes orders to load it again.
    pub reloads: mpsc::Sender<ReloadOrder>,
}

/// One method of one path.
struct Route {
    method: Method,
    path: &'static str,
    handler: fn() -> MethodRouter<Admin>,
}

const ROUTES: [Route; 10] = [
    Route { method: Method::GET, path: "/v1/policy", handler: || get(policy::get) },
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

/// Answers the admin API on `listener`, for ever.
pub async fn serve(listener: UnixListener, admin: Admin) {
    server::serve(router(admin), async || Ok(listener.accept().await?.0)).await;
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
