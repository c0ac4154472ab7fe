//! Asks a server for the keys of an issuer: over TLS, by our own resolver, to addresses that are permitted as
//! infrastructure, once and within bounds.

use std::{error::Error, time::Duration};

use bytes::Bytes;
use exeat_dns::{ResolveError, Resolver};
use exeat_identity::{KEY_SET_BYTES_MAX, KeySet, KeySetError};
use exeat_model::{Authority, Host};
use exeat_policy::{PolicySet, Reason, permit_key_server};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};

use crate::{
    dial::{Dialled, Keepalive, dial_infra},
    tls::HopTls,
};

/// How long a fetch may take, from the name to the last byte. Such servers answer within a fraction of a second; who
/// waits longer than this only keeps a socket.
pub const KEY_FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// A server that has the keys of an issuer.
#[derive(Clone, Debug)]
pub struct KeyServer {
    /// Its host and port.
    pub endpoint: Authority,
    /// Path and query of its keys, from the first slash on.
    pub path: String,
    /// Whom it is believed, and for which name.
    pub tls: HopTls,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyFetchError {
    /// The server's name has no addresses.
    #[error("the server's name could not be resolved")]
    Resolve(#[source] ResolveError),
    /// One of its addresses is not one that may be dialled.
    #[error("the server's address is not permitted: {0}")]
    Address(Reason),
    /// It cannot be connected to, or TLS does not begin.
    #[error("no connection to the server")]
    Connect(#[source] Box<dyn Error + Send + Sync>),
    /// What it sent is not HTTP, or ended too early.
    #[error("the answer could not be read")]
    Answer(#[source] Box<dyn Error + Send + Sync>),
    /// It answered something else than 200. Redirects are not followed.
    #[error("the server answered {0} instead of 200")]
    Status(StatusCode),
    /// The answer is too large.
    #[error("the answer is larger than {} KiB", KEY_SET_BYTES_MAX / 1024)]
    TooLarge,
    /// It took too long.
    #[error("no answer within {} s", KEY_FETCH_TIMEOUT.as_secs())]
    Slow,
    /// What it answered is no set of keys that can be used.
    #[error("the answer is not usable")]
    Keys(#[source] KeySetError),
}

/// A set of keys, and the text that it was read from.
pub(crate) struct Fetched {
    pub(crate) keys: KeySet,
    pub(crate) text: Bytes,
}

impl KeyServer {
    /// Fetches the keys once.
    ///
    /// # Errors
    /// For everything but a set of keys from whom the configuration names, in time.
    pub(crate) async fn fetch(
        &self,
        resolver: &Resolver,
        policy: &PolicySet,
    ) -> Result<Fetched, KeyFetchError> {
        let text = timeout(KEY_FETCH_TIMEOUT, self.ask(resolver, policy)).await;
        let text = text.unwrap_or(Err(KeyFetchError::Slow))?;
        let keys = KeySet::parse(&text).map_err(KeyFetchError::Keys)?;
        Ok(Fetched { keys, text })
    }

    async fn ask(&self, resolver: &Resolver, policy: &PolicySet) -> Result<Bytes, KeyFetchError> {
        let connect = |error: Box<dyn Error + Send + Sync>| KeyFetchError::Connect(error);
        let answer = |error: hyper::Error| KeyFetchError::Answer(error.into());
        let addrs = match &self.endpoint.host {
            Host::Address(_) => Default::default(),
            Host::Name(name) => resolver.resolve(name).await.map_err(KeyFetchError::Resolve)?.addrs,
        };
        let permit = permit_key_server(policy, &self.endpoint, &addrs)
            .map_err(|denial| KeyFetchError::Address(denial.reason))?;
        let deadline = Instant::now() + KEY_FETCH_TIMEOUT;
        let dialled = dial_infra(&permit, KEY_FETCH_TIMEOUT, Keepalive::Later).await;
        let Dialled { stream, .. } = dialled.map_err(|error| connect(error.into()))?;
        let stream = self.tls.connect(stream, deadline).await.map_err(|error| connect(error.into()))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(answer)?;
        let exchange = async {
            let response = sender.send_request(self.request()?).await.map_err(answer)?;
            if response.status() != StatusCode::OK {
                return Err(KeyFetchError::Status(response.status()));
            }
            let body = Limited::new(response.into_body(), KEY_SET_BYTES_MAX).collect().await;
            body.map(|body| body.to_bytes()).map_err(|error| match error.is::<hyper::Error>() {
                true => KeyFetchError::Answer(error),
                false => KeyFetchError::TooLarge,
            })
        };
        tokio::pin!(connection, exchange);
        // Whichever ends first: what the connection has read by its end is still handed on.
        tokio::select! {
            answered = &mut exchange => answered,
            _ = &mut connection => exchange.await,
        }
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, KeyFetchError> {
        Request::get(&self.path)
            .header(header::HOST, self.endpoint.to_string())
            .header(header::ACCEPT, HeaderValue::from_static("application/jwk-set+json, application/json"))
            .header(header::USER_AGENT, HeaderValue::from_static("exeat"))
            .header(header::CONNECTION, HeaderValue::from_static("close"))
            .body(Empty::new())
            .map_err(|error| KeyFetchError::Answer(error.into()))
    }
}
