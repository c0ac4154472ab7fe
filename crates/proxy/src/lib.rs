//! The forward proxy: listen, read, decide, dial, relay, record.

mod body;
mod chunk;
mod client_hello;
mod control;
mod dial;
mod flows;
mod forward;
mod guard;
mod head;
mod headers;
mod health;
mod http1;
mod http_opening;
mod limits;
mod linger;
mod listen;
mod meter;
pub mod metrics;
mod opening;
mod pace;
mod pool;
mod quarantine;
mod relay;
mod report;
mod respond;
mod selector;
mod serve;
mod session;
mod shared;
mod socks5;
pub mod socks5_wire;
mod target;
#[cfg(test)]
mod testing;
mod trail;
mod tunnel;
mod upstream;

pub use client_hello::{HELLO_BYTES_MAX, Hello, client_hello};
pub use flows::{FlowFilter, FlowId, FlowKind, FlowView};
pub use guard::{Framing, Head, HeadError, check};
pub use limits::Limits;
pub use listen::{Client, Proxy};
pub use quarantine::StateError;
pub use selector::{Selector, SelectorError};
pub use shared::{Parts, Snapshot};
pub use target::{Forward, Scheme, Target, TargetError};
