//! The admin API: what its handlers work on, and how it is served.

use std::{net::SocketAddr, path::Path, sync::Arc};

use axum::{Router, extract::DefaultBodyLimit};
use exeat_firewall::Firewall;
use exeat_proxy::Proxy;
use exeat_store::History;
use http::{Method, StatusCode, Uri};
use tokio::{
    net::UnixListener,
    sync::{Semaphore, mpsc},
};

use crate::{
    document::DOCUMENTS_MAX, error::Failure, orders::Order, routes::ROUTES, server, server::Caller,
    status::Status,
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
    /// The kernel's part, if there is one.
    pub(crate) firewall: Option<Arc<Firewall>>,
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
    /// The kernel's part, if there is one.
    pub firewall: Option<Arc<Firewall>>,
}

impl Admin {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: Parts<'_>) -> Self {
        let Parts { proxy, status, orders, history, base_dir, listeners, firewall } = parts;
        let documents = Arc::new(Semaphore::new(DOCUMENTS_MAX));
        let (base_dir, listeners) = (base_dir.into(), listeners.into());
        Self { proxy, status, orders, history, base_dir, listeners, firewall, documents }
    }
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
    let router = ROUTES.iter().fold(Router::new(), |router, route| {
        router.route(route.path, (route.handler)(route.method.filter()))
    });
    router
        .fallback(async |uri: Uri| {
            let routes = ROUTES.iter().map(|route| format!("{} {}", route.method.word(), route.path));
            let routes: Vec<String> = routes.collect();
            Failure::new(StatusCode::NOT_FOUND, format!("there is no {}", uri.path()))
                .help(format!("there are {}", routes.join(", ")))
        })
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            let error = format!("{method} is not a method of {}", uri.path());
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, error).help("see GET /v1/openapi.json")
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(admin)
}
