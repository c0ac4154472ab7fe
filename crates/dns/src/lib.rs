//! Resolves names that the policy has already allowed.

mod answers;
mod cache;
mod chain;
mod combine;
mod dnstap;
mod gate;
mod own;
mod records;
mod resolve;
mod server;
mod silence;
mod surroundings;
mod upstream;
mod virtual_names;

pub use answers::{Answers, Asker, Full};
pub use chain::{ADDRESSES_MAX, CHAIN_MAX};
pub use dnstap::{Collector, Feed, FeedError, Heard, Next, Tap, TapOut, TapOutTask, Unframed, Unheard};
pub use gate::{Gate, GateError, LIFETIME_MIN, NoGate, Opened, Opening};
pub use own::{mark, mark_own_sockets};
pub use resolve::{Answer, ResolveError, Resolver};
pub use server::{Carrier, DeniedAnswer, Entrance, Extra, Server, ServerConfig, UdpListener};
pub use surroundings::{Deciding, Happening, Recorded, Surroundings, Tapped};
pub use upstream::{ResolverConfig, ResolverConfigError, Upstream};
pub use virtual_names::{
    ASSIGNED_MAX, Addresses, Exhausted, HOLD, Meaning, Ranges, RangesError, VirtualNames,
};
