//! What operators see and steer a running proxy by: metrics and health on loopback, the admin API on a unix socket.
//!
//! Thin: it reads what the other crates count and hands orders on to whoever carries them out. What may be opened, and
//! why so little of it on TCP, is in `docs/metrics.md` and `docs/admin-api.md`.
#![forbid(unsafe_code)]

mod admin;
mod diff;
mod differences;
mod document;
mod error;
mod explain;
mod firewall;
mod flows;
mod health;
mod metrics;
mod openapi;
mod orders;
mod policy;
mod process;
mod put;
mod quarantine;
mod recorded;
mod reload;
mod revisions;
mod revocations;
mod route;
mod routes;
mod server;
mod socket;
mod status;
mod target;
mod tokens;
mod traffic;
mod who;

pub use admin::{Admin, Parts, serve as serve_admin};
pub use differences::{
    AccessDifference, ClientDifference, Counts, Difference, SettingDifference, Side, count, differences,
};
pub use health::serve as serve_health;
pub use metrics::{Family, families, render};
pub use orders::{Do, Done, Order, Put, Refused, Terms};
pub use process::{Callers, Ceiling, NewSecret, ProcessApi, Secret, SecretError, Setup};
pub use socket::{Access, Socket, SocketError, SocketFile};
pub use status::{Reloading, Status};
pub use target::{Asked, TargetError, parse_target};
pub use who::{Everyone, add_revocation};
