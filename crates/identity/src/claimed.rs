//! Credentials as they were sent, before anybody has looked whether they are right.

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

/// Credentials, read once for all that has to be asked about them. Nothing of them is proven, and there is no `Debug`.
pub struct Offered<'a>(pub(crate) Form<'a>);

/// How credentials come.
pub(crate) enum Form<'a> {
    /// There are none.
    Nothing,
    /// They are not well-formed, or came more than once.
    Malformed,
    /// A token by itself, and its hash.
    Bearer(&'a str, [u8; 32]),
    /// A token in the place of a password, and its hash.
    Carried(Credentials, [u8; 32]),
    /// A user and a password.
    Password(Credentials),
}

impl Offered<'_> {
    /// Whether no credentials were sent.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        matches!(self.0, Form::Nothing)
    }

    /// Returns whose they claim to be.
    #[must_use]
    pub fn claimed(&self) -> Claimed {
        match &self.0 {
            Form::Nothing | Form::Malformed => Claimed::Nobody,
            Form::Bearer(_, hash) | Form::Carried(_, hash) => Claimed::Token(*hash),
            Form::Password(credentials) => Claimed::Name(credentials.user().to_owned()),
        }
    }
}

impl Accepted<'_> {
    /// Reads the value of every `Proxy-Authorization` field of a request, in order.
    #[must_use]
    pub fn offered<'a>(&self, proxy_authorization: &[&'a [u8]]) -> Offered<'a> {
        Offered(match proxy_authorization {
            [] => Form::Nothing,
            [value] => match basic::bearer(value) {
                Some(token) => Form::Bearer(token, hash(token)),
                None => Credentials::decode(value).map_or(Form::Malformed, |found| self.of_pair(found)),
            },
            [_, _, ..] => Form::Malformed,
        })
    }

    /// Reads `user` and `password`, where the protocol sends the two apart (RFC 1929).
    #[must_use]
    pub fn offered_apart<'a>(&self, user: &[u8], password: &[u8]) -> Offered<'a> {
        let read = Credentials::of_parts(user, password);
        Offered(read.map_or(Form::Malformed, |found| self.of_pair(found)))
    }

    fn of_pair<'a>(&self, credentials: Credentials) -> Form<'a> {
        match self.issuers.carried(credentials.user(), credentials.password_text()).map(hash) {
            Some(hash) => Form::Carried(credentials, hash),
            None => Form::Password(credentials),
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
