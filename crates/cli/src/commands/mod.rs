//! One file a command.

pub(crate) mod check;
pub(crate) mod client;
pub(crate) mod diff;
pub(crate) mod docs;
pub(crate) mod explain;
pub(crate) mod firewall;
pub(crate) mod flows;
pub(crate) mod generate;
pub(crate) mod health;
pub(crate) mod import;
pub(crate) mod policy;
pub(crate) mod quarantine;
pub(crate) mod reload;
pub(crate) mod run;
pub(crate) mod sandbox;
pub(crate) mod selftest;
pub(crate) mod serve;
pub(crate) mod suggest;
pub(crate) mod token;
pub(crate) mod top;
