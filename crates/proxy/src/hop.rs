//! Next hops: how each is spoken to, with which credentials, and whether it answers at present.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use exeat_policy::Announce;

use crate::tls::HopTls;

/// Consecutive failures to connect after which a hop is left alone for a while: one or two can be a lost packet.
const FAILURES_MAX: u32 = 3;
/// How long a hop that does not answer is left alone before one connection tries it again. Short enough that a restart
/// of the hop is hardly noticed, long enough that clients do not all wait for a dead one.
const DOWN_TIME: Duration = Duration::from_secs(5);
/// Bytes of a user or of a password of a hop: as many as SOCKS5 has room for (RFC 1929 §2).
pub const HOP_CREDENTIAL_BYTES_MAX: usize = 255;

/// The protocol that a next hop speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HopProtocol {
    /// HTTP/1: CONNECT for tunnels, absolute-form for requests.
    Http,
    /// SOCKS5, for both.
    Socks5,
}

/// What proves to a next hop who this proxy is. Neither `Debug` nor anything else shows the password.
#[derive(Clone, Eq, PartialEq)]
pub struct HopCredentials {
    user: String,
    password: String,
}

impl HopCredentials {
    /// Returns the credentials, or `None` if one of them is longer than [`HOP_CREDENTIAL_BYTES_MAX`], the user is
    /// empty or has a colon, or one has a control character.
    #[must_use]
    pub fn new(user: &str, password: &str) -> Option<Self> {
        let fits = |text: &str| text.len() <= HOP_CREDENTIAL_BYTES_MAX && !text.chars().any(char::is_control);
        let valid = fits(user) && fits(password) && !user.is_empty() && !user.contains(':');
        valid.then(|| Self { user: user.to_owned(), password: password.to_owned() })
    }

    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    pub(crate) fn password(&self) -> &str {
        &self.password
    }

    /// The value of `Proxy-Authorization` (RFC 7617 §2).
    pub(crate) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user, self.password)))
    }
}

impl fmt::Debug for HopCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HopCredentials(…)")
    }
}

/// Tells one [`Hop`] from every other of this process, those of the same name in other snapshots too.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct HopId(u64);

/// One next hop. Where it is, is part of the policy: [`exeat_policy::HopSpec`].
#[derive(Debug)]
pub struct Hop {
    pub(crate) id: HopId,
    pub(crate) protocol: HopProtocol,
    /// What its protocol is spoken through, if not TCP alone.
    pub(crate) tls: Option<HopTls>,
    pub(crate) credentials: Option<HopCredentials>,
    /// What it is told of the client before anything else.
    pub(crate) announce: Announce,
    pub(crate) health: Health,
}

impl Hop {
    /// Returns a hop of which nothing bad is known yet.
    #[must_use]
    pub fn new(protocol: HopProtocol, credentials: Option<HopCredentials>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: HopId(NEXT.fetch_add(1, Ordering::Relaxed)),
            protocol,
            tls: None,
            credentials,
            announce: Announce::Nothing,
            health: Health::default(),
        }
    }

    /// Speaks to it through TLS.
    #[must_use]
    pub fn through(self, tls: HopTls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// Returns what is different about how this one is spoken to than `old`: that it is, never which credentials they are.
    #[must_use]
    pub fn changed_since(&self, old: &Self) -> Vec<&'static str> {
        let changed = [
            ("protocol", self.protocol != old.protocol),
            ("TLS", self.tls.is_some() != old.tls.is_some()),
            ("credentials", self.credentials != old.credentials),
            ("proxy_protocol", self.announce != old.announce),
        ];
        changed.into_iter().filter(|(_, is_changed)| *is_changed).map(|(what, _)| what).collect()
    }

    /// Tells it this of the client, in a PROXY header before anything else.
    #[must_use]
    pub fn announcing(self, announce: Announce) -> Self {
        Self { announce, ..self }
    }
}

/// The next hops of one configuration, by name.
pub type Hops = HashMap<Arc<str>, Arc<Hop>>;

/// Whether a hop takes connections, as seen from those that were tried. A new load of the configuration forgets it.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// When a hop that is down may be tried again.
    retry_at: Option<Instant>,
}

impl Health {
    /// Whether a connection may be tried at `now`. Of a hop that is down, one connection may once its time is over; the
    /// others go on waiting for what becomes of it.
    pub(crate) fn admits(&self, now: Instant) -> bool {
        let mut state = self.state();
        match state.retry_at {
            None => true,
            Some(at) if now < at => false,
            Some(_) => {
                // Counted from here in case nobody comes back to tell.
                state.retry_at = Some(now + DOWN_TIME);
                true
            }
        }
    }

    /// Notes a connection. Returns whether the hop was down until now.
    pub(crate) fn succeeded(&self) -> bool {
        std::mem::take(&mut *self.state()).retry_at.is_some()
    }

    /// Notes a failure at `now`. Returns whether the hop is down from now on, and was not before.
    pub(crate) fn failed(&self, now: Instant) -> bool {
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        state.failures >= FAILURES_MAX && state.retry_at.replace(now + DOWN_TIME).is_none()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_told_by_its_key() {
        let hop = |protocol, password: &str| Hop::new(protocol, HopCredentials::new("user", password));
        let old = hop(HopProtocol::Http, "one");
        for (case, new, want) in [
            ("nothing", hop(HopProtocol::Http, "one"), &[][..]),
            ("protocol", hop(HopProtocol::Socks5, "one"), &["protocol"]),
            ("another password", hop(HopProtocol::Http, "two"), &["credentials"]),
            ("no credentials", Hop::new(HopProtocol::Http, None), &["credentials"]),
            ("PROXY header", hop(HopProtocol::Http, "one").announcing(Announce::Client), &["proxy_protocol"]),
        ] {
            assert_eq!(new.changed_since(&old), want, "{case}");
        }
    }

    #[test]
    fn three_failures_in_a_row_and_one_trial() {
        let (health, now) = (Health::default(), Instant::now());
        assert!(!health.failed(now) && !health.failed(now));
        assert!(!health.succeeded(), "it was not down");
        assert!(!health.failed(now) && !health.failed(now) && health.admits(now));
        assert!(health.failed(now), "the third in a row");
        assert!(!health.failed(now), "it is down already");
        assert!(!health.admits(now) && !health.admits(now + DOWN_TIME / 2));
        let later = now + DOWN_TIME;
        assert!(health.admits(later), "the trial");
        assert!(!health.admits(later), "and no other beside it");
        assert!(health.admits(later + DOWN_TIME), "unless nobody came back to tell");
        assert!(health.succeeded(), "it was down");
        assert!(health.admits(later) && !health.succeeded());
    }

    #[test]
    fn credentials_stay_out_of_debug_output() {
        let credentials = HopCredentials::new("scott", "tiger").unwrap();
        let shown = format!("{:?}", Hop::new(HopProtocol::Http, Some(credentials.clone())));
        assert!(!shown.contains("scott") && !shown.contains("tiger"), "{shown}");
        assert_eq!(credentials.basic(), "Basic c2NvdHQ6dGlnZXI=");
    }

    #[test]
    fn credentials_that_no_protocol_can_carry() {
        let long = "x".repeat(HOP_CREDENTIAL_BYTES_MAX + 1);
        for (user, password, fits) in [
            ("scott", "", true),
            ("scott", "a:b c", true),
            ("scott", &long[1..], true),
            ("", "tiger", false),
            ("sc:ott", "tiger", false),
            ("scott", "ti\r\nger", false),
            ("scott", &long, false),
            (&long, "", false),
        ] {
            assert_eq!(HopCredentials::new(user, password).is_some(), fits, "{user}:{password}");
        }
    }
}
