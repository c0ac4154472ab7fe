//! Names, patterns, canonical addresses and their classes, authorities, ports.
//!
//! Every type here is canonical by construction: two spellings of one destination become one
//! value when they are parsed, and nothing downstream compares strings again. The crate is pure:
//! no clock, no sockets, no async, no serialisation.

#![forbid(unsafe_code)]

mod address;
mod authority;
mod block;
mod duration;
mod name;
mod partition;
mod pattern;
mod port;
mod registry;
mod suffix;
mod transport;

pub use address::{AddressClass, CanonicalIp, METADATA_ADDRESSES, Never, SpecialUse};
pub use authority::{Authority, AuthorityError, Host};
pub use block::{BlockError, IpBlock};
pub use duration::{duration_text, parse_duration};
pub use name::{DnsName, LABEL_OCTETS_MAX, NAME_OCTETS_MAX, NameError};
pub use partition::partition;
pub use pattern::{NamePattern, PatternError};
pub use port::{Port, PortError, PortRange, PortSet};
pub use registry::class_boundaries;
pub use suffix::{CLOSED_ZONES, SuffixKind, in_closed_zone, suffix_kind};
pub use transport::Transport;
