//! The pure decision engine: document → [`PolicySet`] → [`decide`] → [`permit`], and [`explain`].
//!
//! Effective permission = (union of allows) ∩ (every ceiling) − (union of denies) − floor.
//! Nothing here reads a clock, a socket or a file; the same snapshot and request always give
//! the same verdict.
#![forbid(unsafe_code)]

mod announce;
mod caps;
mod carried;
mod class;
mod cuts;
mod decide;
mod diff;
mod entry;
mod explain;
mod floor;
mod hop;
mod hosts;
mod labels;
mod lint;
mod list;
mod narrowing;
mod networks;
mod opening;
mod permit;
mod place;
mod reach;
mod reason;
mod rule;
mod set;
mod slot;
mod transports;

pub use announce::Announce;
pub use caps::{Cap, Caps};
pub use class::Class;
pub use decide::{Allowed, Denial, EgressRequest, Verdict, decide};
pub use diff::{Change, Direction, Hosts, Opening, View, WayOut, What, Witness, diff};
pub use entry::{Answers, Defaults, Destination, Entry, EntryError, Expect, Side};
pub use explain::{Explanation, Outcome, Stage, explain, helping_entry, smallest_entry};
pub use floor::Floor;
pub use hop::{HopSpec, NextHop, Resolve, Way};
pub use hosts::{HOST_ITEMS_MAX, HostList, HostListError};
pub use labels::{Label, Labels};
pub use lint::lint;
pub use list::{EntryProblem, List, ListBuilder, Severity};
pub use narrowing::TokenTerms;
pub use networks::{NETWORKS_MAX, Network, PortPiece, TooManyNetworks, literal, networks, port_pieces};
pub use opening::{OpeningRule, OpensWith};
pub use permit::{HopPermit, InfraPermit, Permit, permit, permit_hop, permit_key_server, permit_via};
pub use place::{Place, Revision};
pub use reach::{Reach, Relayed, allows_below, may_resolve, reach, reach_relayed};
pub use reason::{DnsRefusal, KernelVerdict, Reason};
pub use rule::{RuleId, RuleView};
pub use set::{Bound, BuildError, Builder, CeilingSpec, Mode, OwnerView, PolicySet, PolicySpec};
pub use transports::Transports;
