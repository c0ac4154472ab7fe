//! Feeds arbitrary bytes to the policy server, as clients do.

#![no_main]

#[path = "../checks/dns_query.rs"]
mod checks;
#[expect(dead_code, reason = "nothing is opened here, and the policy does not change")]
#[path = "../checks/names_world.rs"]
mod names_world;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::check(bytes));
