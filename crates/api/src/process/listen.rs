//! Takes connections: only from whom they may come, then TLS, then HTTP.

use std::{sync::Arc, time::Duration};

use axum::Router;
use exeat_audit::Seldom;
use exeat_proxy::Tls;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::callers::Callers;
use crate::server::{ACCEPT_PAUSE, CONNECTIONS_MAX, Caller, Patience, serve_one};

/// Time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A line that whoever connects can cause.
static REFUSED: Seldom = Seldom::new();

/// How connections are taken in.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    pub(crate) callers: Callers,
    pub(crate) tls: Option<Tls>,
    /// Bytes that the kernel keeps for a caller who does not read; it makes it twice as many.
    pub(crate) buffer: usize,
    pub(crate) patience: Patience,
}

/// Serves all that connect, for ever.
pub(crate) async fn serve(router: Router, listener: TcpListener, door: Door) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // The semaphore is never closed.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(take(router.clone(), stream, door.clone(), place));
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a caller's connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A connection that is refused is closed without a word.
async fn take(router: Router, stream: TcpStream, door: Door, place: OwnedSemaphorePermit) {
    let Door { callers, tls, buffer, patience } = door;
    let (Ok(peer), Ok(here)) = (stream.peer_addr(), stream.local_addr()) else { return };
    match spawn_blocking(move || callers.check(peer, here)).await {
        Ok(Ok(())) => {}
        Ok(Err(refused)) => {
            if let Some(left_out) = REFUSED.turn() {
                tracing::warn!(why = refused.why(), left_out, "a connection was refused");
            }
            return;
        }
        Err(_) => return,
    }
    let _ = stream.set_nodelay(true);
    // What it would grow to by itself is megabytes.
    let _ = SockRef::from(&stream).set_send_buffer_size(buffer);
    let Some(tls) = tls else {
        return serve_one(router, stream, Caller::default(), place, patience).await;
    };
    match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok((stream, _))) => serve_one(router, stream, Caller::default(), place, patience).await,
        Ok(Err(error)) => tracing::debug!(%error, "a caller's handshake failed"),
        Err(_) => tracing::debug!("a caller's handshake took too long"),
    }
}
