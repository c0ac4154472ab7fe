//! The single steps of a request: what each costs without a socket.

#![expect(clippy::expect_used, reason = "a step that does not work is not measured")]

mod addresses;
mod cpu_time;
mod decide;
mod identity;
mod names;
mod parse;
mod record;
mod world;

use cpu_time::CpuTime;
use criterion::{criterion_group, criterion_main};

/// What every step is given.
pub(crate) type Criterion = criterion::Criterion<CpuTime>;

criterion_group!(
    name = steps;
    config = criterion::Criterion::default().with_measurement(CpuTime);
    targets = decide::decisions, parse::requests, identity::passwords, identity::tokens, names::messages, addresses::lookups, record::lines
);
criterion_main!(steps);
