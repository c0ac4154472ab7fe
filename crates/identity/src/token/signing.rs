//! Tokens that are issued here: by an issuer of the configuration whose private key is at hand, and only those that count.

use std::sync::Arc;
use std::time::SystemTime;

use exeat_policy::PolicySet;

use super::claims::seconds;
use super::issue::{Order, SigningKeyError};
use super::issuers::{IssuerSpec, Issuers, TokenError};
use crate::principal::Principal;

/// A token that was issued here. Only `token` is secret.
pub struct Issued {
    /// The token.
    pub token: String,
    /// Whom it is for, as it will be known.
    pub principal: Arc<Principal>,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
}

/// Why no token was issued.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IssueError {
    /// There is no such issuer.
    #[error("there is no issuer of this name")]
    Issuer,
    /// None was named, and not exactly one has a signing key.
    #[error("an issuer must be named")]
    Unnamed,
    /// Its private key is elsewhere.
    #[error("the issuer has no signing key here")]
    NoKey,
    /// Its tokens would not count: the issuer's set has no such key.
    #[error("the public half of the signing key is not among the issuer's keys")]
    Unpublished,
    /// The token could not be made.
    #[error(transparent)]
    Sign(#[from] SigningKeyError),
    /// It would not count.
    #[error("such a token would not be accepted")]
    Refused(#[source] TokenError),
}

impl Issuers {
    /// Issues a token of `issuer`, or of the only one with a signing key, whose names take the place of those of `order`. It
    /// counts here, now.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn issue(
        &self,
        policy: &PolicySet,
        issuer: Option<&str>,
        order: Order,
        now: SystemTime,
    ) -> Result<Issued, IssueError> {
        let spec = self.signing(issuer)?;
        let signing = spec.signing.as_ref().ok_or(IssueError::NoKey)?;
        let keys = spec.keys.load();
        let published = keys.with_thumbprint(signing.thumbprint()).ok_or(IssueError::Unpublished)?;
        let order = Order { issuer: spec.issuer.to_string(), audience: spec.audience.to_string(), ..order };
        let token = signing.issue_as(&order, now, published.kid.as_deref())?;
        let principal = self.verify(policy, &token, now).map_err(IssueError::Refused)?;
        Ok(Issued { token, principal, expires: seconds(now).saturating_add(order.life.as_secs()) })
    }

    fn signing(&self, issuer: Option<&str>) -> Result<&IssuerSpec, IssueError> {
        match issuer {
            Some(name) => self.named(name).ok_or(IssueError::Issuer),
            None => {
                let mut all = self.all().filter(|spec| spec.signing.is_some());
                match (all.next(), all.next()) {
                    (Some(only), None) => Ok(only),
                    (None, _) => Err(IssueError::NoKey),
                    (Some(_), Some(_)) => Err(IssueError::Unnamed),
                }
            }
        }
    }
}
