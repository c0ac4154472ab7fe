//! A connection to an upstream while a response is read from it.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use super::Upstream;
use crate::pool::{Key, Pool};

/// A connection that goes to the pool when its response has been read, and is closed when the response is given up.
pub(crate) struct Lease {
    pool: Arc<Pool>,
    key: Key,
    upstream: Upstream,
}

impl Lease {
    /// Returns what has to be driven so that the body of a response comes; `None` if it comes by itself, or there is none:
    /// `is_whole`. Then the connection is the pool's as soon as it is free.
    pub(super) fn begin(pool: &Arc<Pool>, key: Key, mut upstream: Upstream, is_whole: bool) -> Option<Self> {
        if upstream.driver.is_detached() {
            let pool = Arc::clone(pool);
            tokio::spawn(async move {
                if upstream.sender.ready().await.is_ok() {
                    pool.put(key, upstream);
                }
            });
            return None;
        }
        let lease = Self { pool: Arc::clone(pool), key, upstream };
        if is_whole { lease.unless_free() } else { Some(lease) }
    }

    /// Polls for something that comes of the connection, which is driven for it.
    pub(crate) fn poll<T>(
        lease: &mut Option<Self>,
        cx: &mut Context<'_>,
        mut wanted: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let Some(held) = lease else { return wanted(cx) };
        let polled = held.upstream.driver.poll(cx, wanted);
        if polled.is_ready() && held.upstream.is_ready() {
            *lease = lease.take().and_then(Self::unless_free);
        }
        polled
    }

    /// Ends with the response, all of which has come: what is left to do for the connection is done now or never.
    pub(crate) fn end(mut self) {
        self.upstream.driver.drive();
        drop(self.unless_free());
    }

    /// Gives the connection back if it can take another request.
    fn unless_free(mut self) -> Option<Self> {
        // Taking the body tells the connection, which must not wake the pool for it.
        self.upstream.look();
        if !self.upstream.is_ready() {
            return Some(self);
        }
        let Self { pool, key, upstream } = self;
        pool.put(key, upstream);
        None
    }
}
