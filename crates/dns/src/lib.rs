//! Resolves names that the policy has already allowed.

mod cache;
mod chain;
mod combine;
mod resolve;
mod upstream;

pub use chain::{ADDRESSES_MAX, CHAIN_MAX};
pub use resolve::{Answer, ResolveError, Resolver};
pub use upstream::{ResolverConfig, ResolverConfigError, Upstream};
