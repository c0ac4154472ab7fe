//! The kernel's part: what the policy lets packets do, as rules and sets of nftables.
//!
//! A name that the policy allows is opened for the client that asks for it, before the client is told an address
//! ([`Firewall`] is a [`Gate`](exeat_dns::Gate)); all else that packets may do is in the [`Plan`].
#![forbid(unsafe_code)]

mod conntrack;
mod counts;
mod devices;
mod doctor;
mod element;
mod firewall;
mod group;
mod kernel;
pub mod kernel_wire;
mod namespace;
mod neighbours;
mod nft;
mod packet_count;
mod plan;
mod program;
mod refused;
mod script;
mod state;
mod watch;
mod wire;

pub use counts::{Counted, Counts};
pub use devices::addresses;
pub use doctor::{Attachment, Finding, Grade, NameServer, NameServers, doctor};
pub use element::{Element, Sender, Station};
pub use firewall::{Attached, Config, Firewall, FirewallError, LIFETIME_MIN, OpenedView, Swept, remove};
pub use group::{GROUPS_MAX, Group};
pub use namespace::devices_towards;
pub use nft::{NFT_VERSION_MIN, NftError, check_permitted, version};
pub use packet_count::Count;
pub use plan::{Deciding, Device, Plan};
pub use program::program;
pub use refused::{Fate, NAMES_MAX, Packet, Packets};
pub use script::{LOG_GROUP, OWN_MARK};
pub use state::Client;
