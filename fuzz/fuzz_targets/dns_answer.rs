//! Feeds arbitrary bytes to the policy server, as the servers that it asks do.

#![no_main]

#[path = "../checks/dns_answer.rs"]
mod checks;
#[expect(dead_code, reason = "the policy does not change here")]
#[path = "../checks/names_world.rs"]
mod names_world;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    checks::check(bytes);
});
