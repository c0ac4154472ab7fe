//! The principal, and the step of the request path that finds it.

use std::sync::Arc;

use exeat_policy::{Bound, Labels, Reason};

use crate::{
    authenticator::{Authenticator, Checked},
    basic::Credentials,
    clients::Clients,
};

/// Who a request is made for, with everything a decision needs to know about them.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The name of the client in the configuration, or the name given to the anonymous principal.
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
    /// Nothing: the request carried no credentials and the configuration admits such requests.
    Anonymous,
}

impl Proof {
    /// Returns the stable lower-case token of the audit record.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Password => "password",
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
            Self::RateLimited => Reason::RateLimited,
        }
    }
}

impl Authenticator {
    /// Returns the principal that a request is made for.
    ///
    /// `proxy_authorization` holds the value of every `Proxy-Authorization` field of the request, in order.
    /// Without any, the principal is `anonymous`. With any, they must be right: a client that sends
    /// a wrong password is refused even where one that sends none would be admitted, so that a typing error
    /// shows as one instead of as a policy that seems to lack its rules.
    ///
    /// # Errors
    ///
    /// [`AuthnError::Required`] without credentials and without `anonymous`; [`AuthnError::Invalid`] for
    /// credentials of another scheme than `Basic`, malformed, sent more than once, or not those of a client;
    /// [`AuthnError::RateLimited`] if the password could not be checked now.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves a check that has begun to finish on its own, and its place taken until then.
    pub async fn authenticate(
        &self,
        clients: &Clients,
        anonymous: Option<&Arc<Principal>>,
        proxy_authorization: &[&[u8]],
    ) -> Result<Arc<Principal>, AuthnError> {
        let value = match proxy_authorization {
            [] => return anonymous.cloned().ok_or(AuthnError::Required),
            [value] => value,
            [_, _, ..] => return Err(AuthnError::Invalid),
        };
        let credentials = Credentials::decode(value).map_err(|_| AuthnError::Invalid)?;
        self.principal_of(clients, &credentials).await
    }

    /// Returns the principal that presents `user` and `password`, where the protocol sends the two apart (RFC 1929).
    ///
    /// # Errors
    ///
    /// [`AuthnError::Invalid`] if they are not UTF-8, have a control character, or are not those of a client;
    /// [`AuthnError::RateLimited`] if the password could not be checked now.
    ///
    /// # Cancel safety
    ///
    /// As [`Self::authenticate`].
    pub async fn authenticate_password(
        &self,
        clients: &Clients,
        user: &[u8],
        password: &[u8],
    ) -> Result<Arc<Principal>, AuthnError> {
        let credentials = Credentials::of_parts(user, password).map_err(|_| AuthnError::Invalid)?;
        self.principal_of(clients, &credentials).await
    }

    async fn principal_of(
        &self,
        clients: &Clients,
        credentials: &Credentials,
    ) -> Result<Arc<Principal>, AuthnError> {
        match self.check(clients, credentials).await {
            Checked::Right(principal) => Ok(principal),
            Checked::Wrong => Err(AuthnError::Invalid),
            Checked::Busy => Err(AuthnError::RateLimited),
        }
    }
}
