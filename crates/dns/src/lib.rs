//! Resolves names that the policy has already allowed.

mod cache;
mod chain;
mod combine;
mod resolve;
mod upstream;
mod virtual_names;

pub use chain::{ADDRESSES_MAX, CHAIN_MAX};
pub use resolve::{Answer, ResolveError, Resolver};
pub use upstream::{ResolverConfig, ResolverConfigError, Upstream};
pub use virtual_names::{
    ASSIGNED_MAX, Addresses, Exhausted, HOLD, Meaning, Ranges, RangesError, VirtualNames,
};
