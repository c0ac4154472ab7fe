//! What credentials claim, before anybody has looked whether they are right.

use sha2::{Digest, Sha256};

use crate::{
    basic::{self, Credentials},
    principal::Accepted,
};

/// Whose credentials these claim to be: what wrong ones are counted by.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Claimed {
    /// Those of the client of this name.
    Name(String),
    /// Those that a token speaks of, which is known by its SHA-256. Wrong ones have no name: nobody can guess a token, and
    /// whoever could use up the attempts of a name would lock out who has it.
    Token([u8; 32]),
    /// Nobody's: they are not well-formed.
    Nobody,
}

impl Accepted<'_> {
    /// Returns what the values of `Proxy-Authorization` claim.
    #[must_use]
    pub fn claimed(&self, proxy_authorization: &[&[u8]]) -> Claimed {
        let [value] = proxy_authorization else { return Claimed::Nobody };
        match basic::bearer(value) {
            Some(token) => Claimed::Token(hash(token)),
            None => Credentials::decode(value).map_or(Claimed::Nobody, |found| self.claimed_by(&found)),
        }
    }

    /// Returns what `user` and `password` claim, where the protocol sends the two apart (RFC 1929).
    #[must_use]
    pub fn claimed_apart(&self, user: &[u8], password: &[u8]) -> Claimed {
        Credentials::of_parts(user, password).map_or(Claimed::Nobody, |found| self.claimed_by(&found))
    }

    fn claimed_by(&self, credentials: &Credentials) -> Claimed {
        match self.issuers.carried(credentials.user(), credentials.password_text()) {
            Some(token) => Claimed::Token(hash(token)),
            None => Claimed::Name(credentials.user().to_owned()),
        }
    }

    /// Whether this is a token that is known to be right without another look at it. Only who has it can show it.
    #[must_use]
    pub fn remembers(&self, claimed: &Claimed) -> bool {
        match claimed {
            Claimed::Token(hash) => self.issuers.remembers(hash),
            Claimed::Name(_) | Claimed::Nobody => false,
        }
    }
}

/// What a token is known by.
pub(crate) fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}
