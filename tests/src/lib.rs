//! The world in which the product's end-to-end scenarios run: a network of its own, a name server that logs, origins
//! that count, real clients, and the real binary.

pub mod api;
pub mod asker;
pub mod cgroup;
pub mod client;
pub mod confined;
pub mod container;
pub mod content;
pub mod dns;
pub mod exeat;
pub mod firewalled;
pub mod fixture;
pub mod gateway;
pub mod haproxy;
pub mod harness;
pub mod hello;
pub mod http;
pub mod http2;
pub mod lan;
pub mod namespace;
pub mod noise;
pub mod origin;
pub mod process_api;
pub mod raw;
pub mod scrape;
pub mod servers;
pub mod socks;
pub mod source;
pub mod terminal;
pub mod tls;
pub mod tokens;
pub mod traffic;
pub mod world;
