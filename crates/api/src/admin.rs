//! The admin API: what its handlers work on, and how it is served.

use std::{net::SocketAddr, path::Path, sync::Arc};

use axum::Router;
use exeat_firewall::Firewall;
use exeat_proxy::Proxy;
use exeat_store::History;
use tokio::{
    net::UnixListener,
    sync::{Semaphore, mpsc},
};

use crate::{
    document::DOCUMENTS_MAX,
    orders::Order,
    route::{Served, routed},
    routes::ROUTES,
    server,
    server::Caller,
    status::Status,
};

impl Served for Admin {
    const DOCUMENT: &'static str = "/v1/openapi.json";
    /// An explanation with a few hundred addresses fits.
    const BODY_BYTES_MAX: usize = 64 * 1024;
}

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
    routed(&ROUTES).with_state(admin)
}
