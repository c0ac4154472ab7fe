//! Who asks: credentials become a principal, or a reason why not.

mod authenticator;
mod basic;
mod certificate;
mod certificates;
mod claimed;
mod clients;
mod defence;
mod password;
mod peer;
mod principal;
mod rate;
mod source;
mod token;
mod workloads;

pub use authenticator::Authenticator;
pub use certificate::{Certificate, CertificateError, Instance};
pub use certificates::{Certificates, Holder, Match, Presented, StillGood};
pub use claimed::{Claimed, Offered};
pub use clients::Clients;
pub use defence::{Defence, Turn};
pub use password::{
    PasswordHash, PasswordHashError, SecretError, generate_password, hash_generated, hash_password,
};
pub use peer::{Demand, Part, Peer, Place, Shown};
pub use principal::{Accepted, AuthnError, Principal, Proof};
pub use rate::{Accounts, Rate};
pub use source::Source;
pub use token::{
    Claims, ClaimsError, Flags, HeaderError, IssueError, Issued, IssuerSpec, Issuers, KEY_SET_BYTES_MAX,
    KEYS_MAX, KeyError, KeySet, KeySetError, Keyring, LEEWAY_MAX, Lifetime, Order, SignatureAlgorithm,
    SigningKey, SigningKeyError, TOKEN_BYTES_MAX, TokenError, TokenFacts, TokenText,
};
pub use workloads::{Origin, Workload, Workloads};
