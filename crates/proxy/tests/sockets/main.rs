//! A whole proxy on loopback sockets: what clients see, what upstreams get, and how often they are reached.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod announce;
mod bounds;
mod budget;
mod client_certificates;
mod common;
mod connect;
mod forward;
mod hops;
mod http2;
mod live;
mod proxy_protocol;
mod rates;
mod resources;
mod rules;
mod socks;
mod tls;
mod tls_hops;
mod upstreams;
mod websocket;
