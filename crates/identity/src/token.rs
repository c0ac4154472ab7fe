//! Tokens: JSON Web Tokens (RFC 7519) that say for whom they are and what may be reached with them.
//!
//! What a token may permit is settled by its issuer's ceiling; the token narrows it. The signature is checked by
//! `jsonwebtoken`; what a header and claims may say is checked here, strictly (RFC 8725).

mod changes;
mod claims;
mod issue;
mod issuers;
mod json;
mod jws;
mod keyring;
mod keys;
mod signing;

pub use claims::{Claims, ClaimsError, Flags, Lifetime};
pub use issue::{Order, SigningKey, SigningKeyError};
pub use issuers::{IssuerSpec, Issuers, LEEWAY_MAX, TokenError, TokenFacts};
pub use jws::{HeaderError, TOKEN_BYTES_MAX, TokenText};
pub use keyring::{KEY_SET_BYTES_MAX, Keyring};
pub use keys::{KEYS_MAX, KeyError, KeySet, KeySetError, SignatureAlgorithm};
pub use signing::{IssueError, Issued};
