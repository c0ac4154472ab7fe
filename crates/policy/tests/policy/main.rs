//! The decision engine from outside: settled semantics, agreement with a slow reference, and
//! explanations that tell the truth.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot be set up has failed")]

mod bounds;
mod diff;
mod explain;
mod hops;
mod lint;
mod networks;
mod reach;
mod reference;
mod semantics;
mod support;
mod tokens;
