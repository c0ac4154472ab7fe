//! The forward proxy: listen, read, decide, dial, relay, record.

mod body;
mod chunk;
mod client;
mod client_hello;
mod client_stream;
mod control;
mod dial;
mod flows;
mod forward;
mod guard;
mod head;
mod headers;
mod hop;
mod hop_opening;
mod http1;
mod http2;
mod http_opening;
mod joined;
mod limits;
mod linger;
mod listen;
mod local_user;
mod meter;
pub mod metrics;
mod opening;
mod pace;
mod pool;
mod proxy_protocol;
pub mod proxy_protocol_wire;
mod quarantine;
mod rate;
mod refused;
mod relay;
mod report;
mod resources;
mod respond;
mod revocations;
mod route;
mod selector;
mod serve;
mod session;
mod shared;
mod socks5;
pub mod socks5_wire;
mod stall;
mod target;
#[cfg(test)]
mod testing;
mod tls;
mod traffic;
mod trail;
mod tunnel;
mod unix_peer;
mod upstream;
mod upstream_stream;
mod websocket;

pub use client::Client;
pub use client_hello::{HELLO_BYTES_MAX, Hello, client_hello};
pub use flows::{FlowFilter, FlowId, FlowKind, FlowView};
pub use guard::{Framing, Head, HeadError, check};
pub use hop::{HOP_CREDENTIAL_BYTES_MAX, Hop, HopCredentials, HopProtocol, Hops};
pub use limits::Limits;
pub use listen::{Door, Proxy};
pub use quarantine::StateError;
pub use refused::RefusedView;
pub use relay::PIPE_DESCRIPTORS_MAX;
pub use revocations::{Revoked, RevokedError};
pub use selector::{Selector, SelectorError};
pub use shared::{Parts, Snapshot};
pub use target::{Forward, Scheme, Target, TargetError};
pub use tls::{
    AUTHORITIES_MAX, CHAIN_MAX, CRL_FILES_MAX, ClientFiles, HopTls, HopTlsError, HopTlsFiles, PemError, Tls,
    TlsFiles, TlsFilesError,
};
pub use traffic::{PairView, TrafficView};
pub use unix_peer::UNMAPPED_USER;
