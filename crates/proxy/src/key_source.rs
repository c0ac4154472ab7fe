//! Issuers whose keys are fetched: when that is due, and what holds meanwhile. The last good set stays when a fetch fails;
//! as long as there has been none, the issuer's tokens are refused.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use exeat_dns::Resolver;
use exeat_identity::Keyring;
use exeat_policy::PolicySet;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    key_fetch::{Fetched, KeyFetchError, KeyServer},
    listen::Proxy,
    metrics::KeyFetch,
};

/// The least time between two fetches that somebody other than the operator causes: with tokens of unknown keys, or by
/// failing. A rotation without overlap is noticed within it; whoever invents keys makes the proxy ask twelve times a
/// minute.
const FETCH_GAP: Duration = Duration::from_secs(5);

/// How often the time until the next try doubles after failures, at most; the refresh time bounds it too.
const DOUBLINGS_MAX: u32 = 6;

/// An issuer whose keys are fetched.
#[derive(Debug)]
pub struct KeySource {
    issuer: Arc<str>,
    server: KeyServer,
    /// The authorities' file, which tells whether another load of the configuration means the same server.
    ca: Option<PathBuf>,
    refresh: Duration,
    keyring: Arc<Keyring>,
    state: watch::Sender<State>,
}

/// What has come of it so far.
#[derive(Clone, Debug)]
struct State {
    /// When it was configured.
    since: Instant,
    /// When the last fetch began; `None` if it is due at once.
    begun: Option<Instant>,
    /// When the last one succeeded.
    fetched: Option<Instant>,
    /// How many failed since.
    failures: u32,
    /// What the keys in use were read from.
    text: Bytes,
}

impl KeySource {
    /// Returns a source of the keys of `issuer`, which go to `keyring`, asked for every `refresh`. `ca` is what the server is
    /// believed by.
    #[must_use]
    pub fn new(
        issuer: Arc<str>,
        server: KeyServer,
        ca: Option<PathBuf>,
        refresh: Duration,
        keyring: Arc<Keyring>,
    ) -> Self {
        let state =
            State { since: Instant::now(), begun: None, fetched: None, failures: 0, text: Bytes::new() };
        Self { issuer, server, ca, refresh, keyring, state: watch::Sender::new(state) }
    }

    /// The issuer's name in the configuration.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Fetches the keys now, and lets them count. Returns whether they are others than before.
    ///
    /// # Errors
    /// [`KeyFetchError`]; what counted before counts still.
    pub async fn fetch(&self, resolver: &Resolver, policy: &PolicySet) -> Result<bool, KeyFetchError> {
        self.state.send_modify(|state| state.begun = Some(Instant::now()));
        let fetched = self.server.fetch(resolver, policy).await;
        let Fetched { keys, text } = fetched.inspect_err(|_| {
            self.state.send_modify(|state| state.failures = state.failures.saturating_add(1));
        })?;
        let is_new = self.state.borrow().text != text;
        // Who waits for the state finds them.
        if is_new {
            for (position, why) in keys.skipped() {
                tracing::warn!(issuer = self.issuer(), position, %why, "a key of the issuer is left out");
            }
            self.keyring.replace(keys);
        }
        self.state.send_modify(|state| {
            *state = State { fetched: Some(Instant::now()), failures: 0, text, ..state.clone() };
        });
        Ok(is_new)
    }

    /// Takes over what `other`, of another load of the configuration, knows. It is fetched again all the same, at once.
    fn adopt(&self, other: &Self) {
        self.keyring.adopt(&other.keyring);
        let known = other.state.borrow().clone();
        self.state.send_replace(State { begun: None, ..known });
    }

    /// Whether both mean the same keys of the same server.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        let of = |source: &Self| {
            (Arc::clone(&source.issuer), source.server.endpoint.clone(), source.server.path.clone())
        };
        of(self) == of(other) && self.ca == other.ca
    }

    /// How long ago the keys were fetched that count; without any, for how long they are lacking.
    fn age(&self) -> Duration {
        let state = self.state.borrow();
        state.fetched.unwrap_or(state.since).elapsed()
    }

    /// Waits until a fetch is due: after its time, or because a token names a key that is not known.
    async fn until_due(&self) {
        let state = self.state.borrow().clone();
        let Some(begun) = state.begun else { return };
        let gap = FETCH_GAP.min(self.refresh);
        let next = match state.failures {
            0 => self.refresh,
            failures => (gap * 2_u32.pow((failures - 1).min(DOUBLINGS_MAX))).min(self.refresh),
        };
        let asked_for = async {
            self.keyring.missed().await;
            sleep_until(begun + gap).await;
        };
        tokio::select! {
            () = sleep_until(begun + next) => {}
            () = asked_for => {}
        }
    }

    /// Waits until the keys have been asked for once, whatever came of it.
    async fn tried(&self) {
        // Its sender is here.
        let _ = self.state.subscribe().wait_for(|state| state.fetched.is_some() || state.failures > 0).await;
    }
}

/// Lets the sources of a new snapshot begin with what those before know.
pub(crate) fn take_over(new: &[Arc<KeySource>], old: &[Arc<KeySource>]) {
    for source in new {
        if let Some(known) = old.iter().find(|other| other.is_same_as(source)) {
            source.adopt(known);
        }
    }
}

impl Proxy {
    /// Keeps the keys fresh that are fetched. What a change of them no longer lets count ends within a second, as after a
    /// reload. Never returns.
    pub async fn watch_keys(self) {
        loop {
            let replaced = self.shared.replaced.notified();
            let mut keepers = JoinSet::new();
            for source in &self.snapshot().key_sources {
                keepers.spawn(self.clone().keep_fresh(Arc::clone(source)));
            }
            // Those of the snapshot before end with it.
            replaced.await;
        }
    }

    /// Waits until all keys that are fetched have been asked for once.
    pub async fn keys_tried(&self) {
        for source in &self.snapshot().key_sources {
            source.tried().await;
        }
    }

    /// How long ago the keys were fetched that are so longest; `None` if no issuer's are fetched.
    #[must_use]
    pub fn keys_age(&self) -> Option<Duration> {
        self.snapshot().key_sources.iter().map(|source| source.age()).max()
    }

    async fn keep_fresh(self, source: Arc<KeySource>) {
        loop {
            source.until_due().await;
            let policy = self.snapshot();
            match source.fetch(&self.shared.resolver, &policy.policy).await {
                Ok(is_new) => {
                    self.shared.metrics.key_fetches.count(KeyFetch::Success);
                    if is_new {
                        tracing::info!(issuer = source.issuer(), "the issuer's keys have changed");
                        self.decide_again();
                    }
                }
                Err(error) => {
                    self.shared.metrics.key_fetches.count(KeyFetch::Failure);
                    warn(&source, &error);
                }
            }
        }
    }
}

fn warn(source: &KeySource, error: &KeyFetchError) {
    let (issuer, age_seconds) = (source.issuer(), source.age().as_secs());
    let is_known = source.state.borrow().fetched.is_some();
    let error = error as &dyn std::error::Error;
    if is_known {
        tracing::warn!(issuer, age_seconds, error, "the issuer's keys cannot be fetched; the last ones stay");
    } else {
        tracing::warn!(issuer, error, "the issuer's keys cannot be fetched; its tokens are refused");
    }
}
