//! The principal, and the step of the request path that finds it.

use std::{sync::Arc, time::SystemTime};

use exeat_policy::{Bound, Labels, PolicySet, Reason};

use crate::{
    authenticator::{Authenticator, Checked},
    claimed::{Form, Offered},
    clients::Clients,
    peer::Peer,
    token::{Issuers, TokenFacts},
};

/// Who a request is made for, with everything a decision needs to know about them.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The name of the client or workload in the configuration, or the name given to the anonymous principal; of a token,
    /// its issuer's name and the container's id, separated by a slash.
    pub name: Arc<str>,
    /// What proved that the request is theirs.
    pub proof: Proof,
    /// Where they belong: organization, space, app and so on.
    pub labels: Labels,
    /// The policies and ceilings that hold for them.
    pub bound: Bound,
    /// What is known of the token, if one is the proof.
    pub token: Option<Arc<TokenFacts>>,
}

/// What proved who a principal is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Proof {
    /// A password, in `Proxy-Authorization: Basic` or in the password negotiation of SOCKS5.
    Password,
    /// A token, as a password or in `Proxy-Authorization: Bearer`.
    Token,
    /// The place that the connection comes from.
    Origin,
    /// A client certificate, in the handshake of TLS.
    Certificate,
    /// Nothing: the request carried no credentials and the configuration admits such requests.
    Anonymous,
}

impl Proof {
    /// The proofs that a listener can demand.
    pub const DEMANDED: [Self; 4] = [Self::Password, Self::Token, Self::Origin, Self::Certificate];

    /// Returns the stable lower-case token of the audit record.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Token => "token",
            Self::Origin => "origin",
            Self::Certificate => "certificate",
            Self::Anonymous => "anonymous",
        }
    }
}

/// Why a request has no principal.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AuthnError {
    /// No credentials were sent, and the configuration admits no anonymous requests.
    #[error("credentials required")]
    Required,
    /// Credentials were sent and are not those of any client.
    #[error("credentials invalid")]
    Invalid,
    /// The token is right, and its time is over.
    #[error("token expired")]
    TokenExpired,
    /// The token is right, and was revoked.
    #[error("token revoked")]
    TokenRevoked,
    /// The proofs do not fit together: the credentials are right and do not count where they come from, or the
    /// connection does not come from where it must.
    #[error("credentials of another container or place")]
    ContainerMismatch,
    /// Credentials from the same source were wrong too often; these were not looked at.
    #[error("too many wrong credentials")]
    Delayed,
    /// The token is right, and counts on central nodes alone.
    #[error("token for central nodes alone")]
    NotCentral,
    /// Too many passwords wait to be checked; the credentials were not looked at.
    #[error("too many passwords wait to be checked")]
    RateLimited,
}

impl AuthnError {
    /// Returns the reason that the refusal and the audit record show.
    pub const fn reason(self) -> Reason {
        match self {
            Self::Required => Reason::AuthRequired,
            Self::Invalid => Reason::AuthInvalid,
            Self::TokenExpired => Reason::TokenExpired,
            Self::TokenRevoked => Reason::TokenRevoked,
            Self::ContainerMismatch => Reason::ContainerMismatch,
            Self::NotCentral => Reason::CentralizedEgressRequired,
            Self::Delayed | Self::RateLimited => Reason::RateLimited,
        }
    }
}

/// Whose credentials a snapshot accepts.
#[derive(Clone, Copy, Debug)]
pub struct Accepted<'a> {
    /// What the principals of tokens are bound to.
    pub policy: &'a PolicySet,
    /// Who has a password.
    pub clients: &'a Clients,
    /// Whose tokens count.
    pub issuers: &'a Issuers,
    /// Who asks without credentials, if anybody may.
    pub anonymous: Option<&'a Arc<Principal>>,
    /// Whether this node is a central one.
    pub is_central: bool,
}

impl Authenticator {
    /// Returns the principal that a request is made for.
    ///
    /// Without credentials, the principal is the workload of `peer`, or `anonymous` if it has none. With any, they must be
    /// right: a client that sends a wrong password is refused even where one that sends none would be admitted, so that
    /// a typing error shows as one instead of as a policy that seems to lack its rules. How proofs combine is the table
    /// in `docs/identity.md`. What is `offered` was read with the same `accepted`.
    ///
    /// # Errors
    ///
    /// [`AuthnError::Required`] without credentials, where neither the connection nor the lack of everything is proof
    /// enough; [`AuthnError::Invalid`] for credentials of another scheme than `Basic` and `Bearer`, malformed, sent more
    /// than once, or not those of a client; [`AuthnError::TokenExpired`] and [`AuthnError::NotCentral`] for a token that
    /// is right and does not count now or on this node; [`AuthnError::ContainerMismatch`] for credentials that are right
    /// and do not count at `peer`, or if nothing does; [`AuthnError::RateLimited`] if the password could not be checked
    /// now.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves a check that has begun to finish on its own, and its place taken until then.
    pub async fn authenticate(
        &self,
        accepted: &Accepted<'_>,
        peer: &Peer<'_>,
        offered: &Offered<'_>,
    ) -> Result<Arc<Principal>, AuthnError> {
        peer.check_shown()?;
        let (policy, issuers) = (accepted.policy, accepted.issuers);
        match &offered.0 {
            Form::Nothing => peer.alone(accepted.anonymous),
            Form::Malformed => Err(AuthnError::Invalid),
            Form::Bearer(token, hash) => {
                let principal = issuers.verify_hashed(policy, token, hash, SystemTime::now())?;
                counting_here(principal, accepted, peer)
            }
            Form::Carried(credentials, hash) => {
                let principal = issuers.of_password(policy, credentials, hash, SystemTime::now())?;
                counting_here(principal, accepted, peer)
            }
            Form::Password(credentials) => match self.check(accepted.clients, credentials).await {
                Checked::Right(principal) => accepted.clients.agree(&principal, peer).map(|()| principal),
                Checked::Wrong => Err(AuthnError::Invalid),
                Checked::Busy => Err(AuthnError::RateLimited),
            },
        }
    }
}

/// Lets a right token count only where it comes from its container and on a node that it is for.
fn counting_here(
    principal: Arc<Principal>,
    accepted: &Accepted<'_>,
    peer: &Peer<'_>,
) -> Result<Arc<Principal>, AuthnError> {
    if let Some(facts) = &principal.token {
        peer.agree(Proof::Token, None)?;
        facts.check_origin(peer.container())?;
        facts.check_node(accepted.is_central)?;
    }
    Ok(principal)
}
