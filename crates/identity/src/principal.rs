//! The principal, and the step of the request path that finds it.

use std::sync::Arc;

use exeat_policy::{Bound, Labels, Reason};

use crate::{
    authenticator::{Authenticator, Checked},
    basic::Credentials,
    clients::Clients,
    peer::Peer,
};

/// Who a request is made for, with everything a decision needs to know about them.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The name of the client or workload in the configuration, or the name given to the anonymous principal.
    pub name: Arc<str>,
    /// What proved that the request is theirs.
    pub proof: Proof,
    /// Where they belong: organization, space, app and so on.
    pub labels: Labels,
    /// The policies and ceilings that hold for them.
    pub bound: Bound,
}

/// What proved who a principal is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Proof {
    /// A password, in `Proxy-Authorization: Basic` or in the password negotiation of SOCKS5.
    Password,
    /// The place that the connection comes from.
    Origin,
    /// A client certificate, in the handshake of TLS.
    Certificate,
    /// Nothing: the request carried no credentials and the configuration admits such requests.
    Anonymous,
}

impl Proof {
    /// The proofs that a listener can demand.
    pub const DEMANDED: [Self; 3] = [Self::Password, Self::Origin, Self::Certificate];

    /// Returns the stable lower-case token of the audit record.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Password => "password",
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
    /// The proofs do not fit together: the credentials are right and do not count where they come from, or the
    /// connection does not come from where it must.
    #[error("credentials of another container or place")]
    ContainerMismatch,
    /// Credentials from the same source were wrong too often; these were not looked at.
    #[error("too many wrong credentials")]
    Delayed,
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
            Self::ContainerMismatch => Reason::ContainerMismatch,
            Self::Delayed | Self::RateLimited => Reason::RateLimited,
        }
    }
}

/// Returns the name that the credentials of a request claim, if they are well-formed and have one.
#[must_use]
pub fn claimed_name(proxy_authorization: &[&[u8]]) -> Option<String> {
    match proxy_authorization {
        [value] => Credentials::decode(value).ok().map(|credentials| credentials.user().to_owned()),
        [] | [_, _, ..] => None,
    }
}

impl Authenticator {
    /// Returns the principal that a request is made for.
    ///
    /// `proxy_authorization` holds the value of every `Proxy-Authorization` field of the request, in order.
    /// Without any, the principal is the workload of `peer`, or `anonymous` if it has none. With any, they must be
    /// right: a client that sends a wrong password is refused even where one that sends none would be admitted, so that
    /// a typing error shows as one instead of as a policy that seems to lack its rules. How proofs combine is the table
    /// in `docs/identity.md`.
    ///
    /// # Errors
    ///
    /// [`AuthnError::Required`] without credentials, where neither the connection nor the lack of everything is proof
    /// enough; [`AuthnError::Invalid`] for credentials of another scheme than `Basic`, malformed, sent more than once,
    /// or not those of a client; [`AuthnError::ContainerMismatch`] if they are right and do not count here, or nothing
    /// does; [`AuthnError::RateLimited`] if the password could not be checked now.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves a check that has begun to finish on its own, and its place taken until then.
    pub async fn authenticate(
        &self,
        clients: &Clients,
        anonymous: Option<&Arc<Principal>>,
        peer: &Peer<'_>,
        proxy_authorization: &[&[u8]],
    ) -> Result<Arc<Principal>, AuthnError> {
        peer.check_shown()?;
        let value = match proxy_authorization {
            [] => return peer.alone(anonymous),
            [value] => value,
            [_, _, ..] => return Err(AuthnError::Invalid),
        };
        let credentials = Credentials::decode(value).map_err(|_| AuthnError::Invalid)?;
        self.principal_of(clients, peer, &credentials).await
    }

    /// Returns the principal that presents `user` and `password`, where the protocol sends the two apart (RFC 1929).
    ///
    /// # Errors
    ///
    /// [`AuthnError::Invalid`] if they are not UTF-8, have a control character, or are not those of a client;
    /// [`AuthnError::ContainerMismatch`] as in [`Self::authenticate`]; [`AuthnError::RateLimited`] if the password could not be checked now.
    ///
    /// # Cancel safety
    ///
    /// As [`Self::authenticate`].
    pub async fn authenticate_password(
        &self,
        clients: &Clients,
        peer: &Peer<'_>,
        user: &[u8],
        password: &[u8],
    ) -> Result<Arc<Principal>, AuthnError> {
        peer.check_shown()?;
        let credentials = Credentials::of_parts(user, password).map_err(|_| AuthnError::Invalid)?;
        self.principal_of(clients, peer, &credentials).await
    }

    async fn principal_of(
        &self,
        clients: &Clients,
        peer: &Peer<'_>,
        credentials: &Credentials,
    ) -> Result<Arc<Principal>, AuthnError> {
        match self.check(clients, credentials).await {
            Checked::Right(principal) => clients.agree(&principal, peer).map(|()| principal),
            Checked::Wrong => Err(AuthnError::Invalid),
            Checked::Busy => Err(AuthnError::RateLimited),
        }
    }
}
