//! The single steps of a request: what each costs without a socket.

#![expect(clippy::expect_used, reason = "a step that does not work is not measured")]

mod decide;
mod identity;
mod names;
mod parse;
mod record;
mod world;

use criterion::{criterion_group, criterion_main};

criterion_group!(
    steps,
    decide::decisions,
    parse::requests,
    identity::passwords,
    names::messages,
    record::lines
);
criterion_main!(steps);
