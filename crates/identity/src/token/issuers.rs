//! The issuers of a configuration: whose tokens count here, and who they are for.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use exeat_policy::{Class, Label, Labels, PolicySet, TokenTerms};
use moka::Expiry;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::claims::{Claims, ClaimsError, Lifetime, OutOfTime};
use super::issue::SigningKey;
use super::jws::{HeaderError, TokenText};
use super::keyring::Keyring;
use super::keys::{Key, KeySet, Thumbprint};
use crate::basic::Credentials;
use crate::claimed;
use crate::peer::Peer;
use crate::principal::{AuthnError, Principal, Proof};

/// The most by which clocks may differ. Clocks that are kept in time differ by milliseconds; a revocation list need
/// not keep an entry for longer than this after a token's end.
pub const LEEWAY_MAX: Duration = Duration::from_secs(30);

/// What the verified tokens that are remembered may take, in bytes, estimated: some ten thousand of the usual size.
const SEEN_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// What a remembered token takes beside its list of hosts, in bytes, estimated.
const SEEN_BYTES: usize = 2048;

/// How many tokens are remembered that have ended, at about 150 bytes each.
const OVER_MAX: u64 = 10_000;

/// For how long one is known to have ended. A clock that was wrong is believed again after that.
const OVER_REMEMBERED: Duration = Duration::from_secs(60);

/// An issuer, as read from configuration.
#[derive(Debug)]
pub struct IssuerSpec {
    /// The name that records and principals use.
    pub name: Arc<str>,
    /// What `iss` must be.
    pub issuer: Box<str>,
    /// What `aud` must have.
    pub audience: Box<str>,
    /// Its keys.
    pub keys: Arc<Keyring>,
    /// The policy that no token of it exceeds.
    pub ceiling: String,
    /// Policies of which one must allow what a token asks for, too.
    pub policies: Vec<String>,
    /// How long a token may live.
    pub lifetime: Lifetime,
    /// What a user name with a token begins with; the container's id follows.
    pub user_prefix: Box<str>,
    /// What a password with a token begins with; the token follows.
    pub password_prefix: Box<str>,
    /// Whether every token counts from its container alone, whatever it says itself.
    pub enforce_container_binding: bool,
    /// What tokens of it are signed with that are issued here; `None` if they are issued elsewhere alone.
    pub signing: Option<SigningKey>,
}

/// Whose tokens are accepted. Part of a snapshot, and so is what it remembers: a new configuration looks at every token
/// anew.
#[derive(Debug)]
pub struct Issuers {
    list: Vec<IssuerSpec>,
    /// Verified tokens by their hash, until they end.
    seen: Cache<[u8; 32], Seen>,
    /// Signed tokens that have ended, by their hash: whoever goes on sending one costs no signature each time.
    over: Cache<[u8; 32], ()>,
}

/// A verified token, and for how long it counts.
#[derive(Clone, Debug)]
struct Seen {
    principal: Arc<Principal>,
    left: Duration,
    /// The set that it was verified with: another one is asked anew.
    keys: Arc<KeySet>,
}

struct UntilItsEnd;

impl Expiry<[u8; 32], Seen> for UntilItsEnd {
    fn expire_after_create(&self, _: &[u8; 32], seen: &Seen, _: std::time::Instant) -> Option<Duration> {
        Some(seen.left)
    }
}

/// What is known of the token that proves a principal.
#[derive(Debug)]
pub struct TokenFacts {
    /// The issuer's name in the configuration.
    pub issuer: Arc<str>,
    /// The name of the key that signed it.
    pub key: Option<Arc<str>>,
    /// Its own number.
    pub id: Option<Arc<str>>,
    /// The container that it is for.
    pub container: Option<Arc<str>>,
    /// The organization that it belongs to.
    pub organization: Option<Arc<str>>,
    /// From when on it does not count: its end and the leeway.
    pub ends: SystemTime,
    /// Whether it counts from its container alone, by its own word or its issuer's.
    is_bound: bool,
    claims: Claims,
    thumbprint: Thumbprint,
}

/// Why a token proves nothing. Clients are told no more than that it is invalid, or expired.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TokenError {
    /// It has not the form of a token.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// Its claims cannot be used.
    #[error(transparent)]
    Claims(#[from] ClaimsError),
    /// No issuer here calls itself so.
    #[error("no issuer is configured for this `iss`")]
    Issuer,
    /// It is for somebody else.
    #[error("`aud` does not name this proxy")]
    Audience,
    /// Its keys are fetched, and none have been yet.
    #[error("the issuer's keys have not been fetched yet")]
    NoKeys,
    /// The issuer has no such key, or several and the token names none.
    #[error("the issuer has no key of this `kid`")]
    Key,
    /// The key is for another algorithm.
    #[error("the key is for {0}, not for the token's `alg`")]
    Algorithm(&'static str),
    /// The key did not sign it.
    #[error("the signature is not the key's")]
    Signature,
    /// It has ended.
    #[error("the token has expired")]
    Expired,
    /// It does not count yet, was issued in the future, or lives for too long.
    #[error("the token's time is not acceptable: {0}")]
    Time(&'static str),
    /// It names a policy that does not exist.
    #[error("`policy` names no policy of the configuration")]
    Policy,
    /// It came in the wrong place: with a user name of another issuer.
    #[error("the user name or password begins as those of another issuer do")]
    Carried,
}

impl From<OutOfTime> for TokenError {
    fn from(error: OutOfTime) -> Self {
        match error {
            OutOfTime::Expired => Self::Expired,
            OutOfTime::NotYet => Self::Time("not valid yet"),
            OutOfTime::IssuedLater => Self::Time("issued in the future"),
            OutOfTime::TooLong => Self::Time("it lives longer than the issuer's tokens may"),
        }
    }
}

impl From<TokenError> for AuthnError {
    /// One answer for every cause but the end of its time, so that nobody learns from it how to forge one.
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Expired => Self::TokenExpired,
            TokenError::Header(_)
            | TokenError::Claims(_)
            | TokenError::Issuer
            | TokenError::Audience
            | TokenError::NoKeys
            | TokenError::Key
            | TokenError::Algorithm(_)
            | TokenError::Signature
            | TokenError::Time(_)
            | TokenError::Policy
            | TokenError::Carried => Self::Invalid,
        }
    }
}

impl Default for Issuers {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Issuers {
    /// Returns the issuers of a snapshot. No two have the same `iss`.
    #[must_use]
    pub fn new(list: Vec<IssuerSpec>) -> Self {
        let weigh = |_: &[u8; 32], seen: &Seen| -> u32 {
            let items = seen.principal.token.as_ref().and_then(|facts| facts.claims.hosts.as_ref());
            let bytes = SEEN_BYTES + items.map_or(0, |hosts| hosts.len() * 128);
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        let seen = Cache::builder()
            .max_capacity(if list.is_empty() { 0 } else { SEEN_BYTES_MAX })
            .weigher(weigh)
            .expire_after(UntilItsEnd)
            .build();
        let over = Cache::builder()
            .max_capacity(if list.is_empty() { 0 } else { OVER_MAX })
            .time_to_live(OVER_REMEMBERED)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { list, seen, over }
    }

    /// Returns whether no token is accepted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Returns how long a token that counts now may count at most.
    #[must_use]
    pub fn longest_life(&self) -> Duration {
        let of = |issuer: &IssuerSpec| issuer.lifetime.longest + 2 * LEEWAY_MAX;
        self.list.iter().map(of).max().unwrap_or(2 * LEEWAY_MAX)
    }

    /// Returns the token, if a user and a password are a container's name and one, and not a client's.
    pub(crate) fn carried<'t>(&self, user: &str, password: &'t str) -> Option<&'t str> {
        self.list.iter().find_map(|issuer| issuer.token_in(user, password))
    }

    /// Whether the token of this hash was verified, and has not ended.
    pub(crate) fn remembers(&self, hash: &[u8; 32]) -> bool {
        self.seen.get(hash).is_some_and(|seen| self.has_still(&seen))
    }

    /// Returns whom a token is for that came as a user and a password, and whose hash is `hash`.
    ///
    /// # Errors
    /// [`TokenError`], as [`AuthnError`]; [`AuthnError::ContainerMismatch`] if the user name is of another container.
    pub(crate) fn of_password(
        &self,
        policy: &PolicySet,
        credentials: &Credentials,
        hash: &[u8; 32],
        now: SystemTime,
    ) -> Result<Arc<Principal>, AuthnError> {
        let (user, password) = (credentials.user(), credentials.password_text());
        let token = self.carried(user, password);
        let principal = self.verify_hashed(policy, token.ok_or(AuthnError::Invalid)?, hash, now)?;
        let facts = principal.token.as_ref().ok_or(AuthnError::Invalid)?;
        let issuer = self.named(&facts.issuer).ok_or(AuthnError::Invalid)?;
        // The token was cut out by what its user name and password begin with; that must be its own issuer's.
        if issuer.token_in(user, password) != token {
            return Err(TokenError::Carried.into());
        }
        match user.strip_prefix(&*issuer.user_prefix) {
            Some(container) if facts.container.as_deref() == Some(container) => Ok(principal),
            Some(_) | None => Err(AuthnError::ContainerMismatch),
        }
    }

    /// Returns whom a token is for.
    ///
    /// # Errors
    /// The first check that it fails.
    pub fn verify(
        &self,
        policy: &PolicySet,
        token: &str,
        now: SystemTime,
    ) -> Result<Arc<Principal>, TokenError> {
        self.verify_hashed(policy, token, &claimed::hash(token), now)
    }

    /// The same for a token whose hash is known.
    pub(crate) fn verify_hashed(
        &self,
        policy: &PolicySet,
        token: &str,
        hash: &[u8; 32],
        now: SystemTime,
    ) -> Result<Arc<Principal>, TokenError> {
        if let Some(Seen { principal, .. }) = self.seen.get(hash).filter(|seen| self.has_still(seen)) {
            // It was taken out of memory at its end by another clock.
            return match principal.token.as_ref().is_some_and(|facts| facts.ends > now) {
                true => Ok(principal),
                false => Err(TokenError::Expired),
            };
        }
        if self.over.contains_key(hash) {
            return Err(TokenError::Expired);
        }
        let text = TokenText::parse(token)?;
        let claims = Claims::parse(&text.payload)?;
        let issuer = self.list.iter().find(|issuer| issuer.issuer == claims.issuer);
        let issuer = issuer.ok_or(TokenError::Issuer)?;
        let keys = issuer.keys.load();
        let key = issuer.check_signature(&keys, &text)?;
        let checked = issuer.check(&claims, now);
        if matches!(checked, Err(TokenError::Expired)) {
            self.over.insert(*hash, ());
        }
        checked?;
        let principal = issuer.principal(policy, claims, key)?;
        let facts = principal.token.as_ref();
        let left = facts.and_then(|facts| facts.ends.duration_since(now).ok()).unwrap_or_default();
        self.seen.insert(*hash, Seen { principal: Arc::clone(&principal), left, keys: Arc::clone(&keys) });
        Ok(principal)
    }

    /// Checks a token as [`verify`](Self::verify) does, and goes on after the first check that fails. Nothing is remembered.
    ///
    /// # Errors
    /// Each check that failed, in the order in which they are made; what cannot be read cannot be checked further.
    pub fn examine(
        &self,
        policy: &PolicySet,
        token: &str,
        now: SystemTime,
    ) -> Result<Arc<Principal>, Vec<TokenError>> {
        let alone = |error| vec![error];
        let text = TokenText::parse(token).map_err(|error| alone(error.into()))?;
        let claims = Claims::parse(&text.payload).map_err(|error| alone(error.into()))?;
        let issuer = self.list.iter().find(|issuer| issuer.issuer == claims.issuer);
        let issuer = issuer.ok_or_else(|| alone(TokenError::Issuer))?;
        let keys = issuer.keys.load();
        let (key, mut failed) = match issuer.check_signature(&keys, &text) {
            Ok(key) => (Some(key), Vec::new()),
            Err(error) => (None, alone(error)),
        };
        failed.extend(issuer.check_audience(&claims).err());
        failed.extend(claims.check_time(now, issuer.lifetime).err().map(TokenError::from));
        // Whose key it is matters to what it is called alone.
        let found = key.or(keys.first()).map(|key| issuer.principal(policy, claims, key));
        match found {
            Some(Ok(principal)) if failed.is_empty() => Ok(principal),
            Some(Ok(_)) | None => Err(failed),
            Some(Err(error)) => {
                failed.push(error);
                Err(failed)
            }
        }
    }

    /// Whether a key of any issuer is meant by `name`: by its `kid`, or its thumbprint.
    #[must_use]
    pub fn has_key(&self, name: &str) -> bool {
        self.list.iter().any(|issuer| issuer.keys.load().is_named(name))
    }

    /// Returns who a token's principal of another snapshot is here; `None` if the issuer is gone, its key is, or what
    /// it asks of tokens `now` is not what this one has. Where it counts from is for those who hold it to check.
    #[must_use]
    pub fn again(
        &self,
        policy: &PolicySet,
        principal: &Principal,
        now: SystemTime,
    ) -> Option<Arc<Principal>> {
        let facts = principal.token.as_ref()?;
        let issuer = self.named(&facts.issuer)?;
        let keys = issuer.keys.load();
        let key = keys.with_thumbprint(&facts.thumbprint)?;
        if issuer.issuer != facts.claims.issuer {
            return None;
        }
        issuer.check(&facts.claims, now).ok()?;
        issuer.principal(policy, facts.claims.clone(), key).ok()
    }

    /// Whether the keys that a token was verified with are those that count now.
    fn has_still(&self, seen: &Seen) -> bool {
        let issuer = seen.principal.token.as_ref().and_then(|facts| self.named(&facts.issuer));
        issuer.is_some_and(|issuer| Arc::ptr_eq(&issuer.keys.load(), &seen.keys))
    }

    /// Returns all of them, in the order of the configuration.
    pub fn all(&self) -> impl Iterator<Item = &IssuerSpec> {
        self.list.iter()
    }

    pub(crate) fn named(&self, name: &str) -> Option<&IssuerSpec> {
        self.list.iter().find(|issuer| *issuer.name == *name)
    }
}

impl IssuerSpec {
    /// The token in a user and a password that begin as this issuer's do.
    fn token_in<'t>(&self, user: &str, password: &'t str) -> Option<&'t str> {
        user.strip_prefix(&*self.user_prefix)?;
        password.strip_prefix(&*self.password_prefix)
    }

    fn check_signature<'k>(&self, keys: &'k KeySet, text: &TokenText<'_>) -> Result<&'k Key, TokenError> {
        if keys.is_empty() {
            return Err(TokenError::NoKeys);
        }
        let key =
            keys.get(text.kid.as_deref()).ok_or(TokenError::Key).inspect_err(|_| self.keys.note_missed())?;
        if text.alg != key.algorithm.name() {
            return Err(TokenError::Algorithm(key.algorithm.name()));
        }
        let (signed, algorithm) = (text.signed.as_bytes(), key.algorithm.algorithm());
        match jsonwebtoken::crypto::verify(text.signature, signed, &key.public, algorithm) {
            Ok(true) => Ok(key),
            Ok(false) | Err(_) => Err(TokenError::Signature),
        }
    }

    fn check(&self, claims: &Claims, now: SystemTime) -> Result<(), TokenError> {
        self.check_audience(claims)?;
        Ok(claims.check_time(now, self.lifetime)?)
    }

    fn check_audience(&self, claims: &Claims) -> Result<(), TokenError> {
        if claims.audience.contains(&self.audience) { Ok(()) } else { Err(TokenError::Audience) }
    }

    fn principal(&self, policy: &PolicySet, claims: Claims, key: &Key) -> Result<Arc<Principal>, TokenError> {
        let labels = labels(&claims);
        let terms = TokenTerms {
            ceiling: &self.ceiling,
            policies: &self.policies,
            policy: claims.policy.as_deref(),
            hosts: claims.hosts.as_ref(),
            class: claims.flags.is_hipaa_regulated.then_some(Class::Hipaa),
            via_next_hop: claims.flags.use_egress_gateway,
        };
        let bound = policy.bind_token(&terms, &labels).ok_or(TokenError::Policy)?;
        let facts = TokenFacts {
            issuer: Arc::clone(&self.name),
            key: key.kid.clone(),
            id: claims.id.clone(),
            container: claims.container.clone(),
            organization: claims.organization.clone(),
            ends: UNIX_EPOCH
                .checked_add(Duration::from_secs(claims.ends(self.lifetime)))
                .ok_or(TokenError::Time("beyond what the clock can say"))?,
            is_bound: self.enforce_container_binding || claims.flags.enforce_container_binding,
            thumbprint: key.thumbprint,
            claims: claims.clone(),
        };
        Ok(Arc::new(Principal {
            name: format!("{}/{}", self.name, whose(&claims)).into(),
            proof: Proof::Token,
            labels,
            bound,
            token: Some(Arc::new(facts)),
        }))
    }
}

impl TokenFacts {
    /// What tells its key from every other one, whatever it is called: the thumbprint (RFC 7638), in base64url.
    #[must_use]
    pub fn key_thumbprint(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.thumbprint)
    }

    /// Checks where a request with the token comes from: `origin` is the container that the connection itself is known
    /// to come from. Where that is not known, a token that counts from its container alone does not count.
    ///
    /// # Errors
    /// [`AuthnError::ContainerMismatch`].
    pub(crate) fn check_origin(&self, origin: Option<&str>) -> Result<(), AuthnError> {
        let is_there = self.container.is_some() && self.container.as_deref() == origin;
        match self.is_bound && !is_there {
            true => Err(AuthnError::ContainerMismatch),
            false => Ok(()),
        }
    }

    /// Whether it counts from its container alone, and so from nowhere if it has none.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.is_bound
    }

    /// Whether it counts on central nodes alone.
    #[must_use]
    pub fn is_for_central_nodes(&self) -> bool {
        self.claims.flags.enforce_centralized_egress
    }

    /// Checks whether the token counts on this node.
    ///
    /// # Errors
    /// [`AuthnError::NotCentral`].
    pub(crate) fn check_node(&self, is_central: bool) -> Result<(), AuthnError> {
        match self.claims.flags.enforce_centralized_egress && !is_central {
            true => Err(AuthnError::NotCentral),
            false => Ok(()),
        }
    }

    /// Whether it counts at `peer`, on a node that is central or not.
    #[must_use]
    pub fn counts_at(&self, peer: &Peer<'_>, is_central: bool) -> bool {
        let checks = peer
            .agree(Proof::Token, None)
            .and_then(|()| self.check_origin(peer.container()))
            .and_then(|()| self.check_node(is_central));
        checks.is_ok()
    }
}

/// What the names of principals begin with that are no containers, or look so.
const MARKS: [&str; 3] = ["sub=", "jti=", "container="];

/// Whom a token is for, within its issuer. A user and a token's number are marked as such: whoever has the name of
/// another's container is counted and quarantined apart from it. So is a container whose name looks like such a mark.
fn whose(claims: &Claims) -> String {
    match (&claims.container, &claims.subject, &claims.id) {
        (Some(container), _, _) if MARKS.iter().any(|mark| container.starts_with(mark)) => {
            format!("container={container}")
        }
        (Some(container), _, _) => container.to_string(),
        (None, Some(subject), _) => format!("sub={subject}"),
        (None, None, Some(id)) => format!("jti={id}"),
        (None, None, None) => String::new(),
    }
}

/// What policies and ceilings bind to. It is the issuer's word: what they permit or deny is within the issuer's ceiling.
fn labels(claims: &Claims) -> Labels {
    let class = claims.flags.is_hipaa_regulated.then(|| Arc::from(Class::Hipaa.word()));
    let set = [
        (Label::Organization, claims.organization.clone()),
        (Label::App, claims.subject.clone()),
        (Label::Instance, claims.container.clone()),
        (Label::Class, class),
    ];
    set.into_iter().filter_map(|(label, value)| Some((label, value?))).collect()
}

#[cfg(test)]
mod tests;
