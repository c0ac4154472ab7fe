//! Feeds arbitrary bytes to the tap, as name servers do.

#![no_main]

#[path = "../checks/dnstap.rs"]
mod checks;
#[expect(dead_code, reason = "the policy does not change here, and nobody asks")]
#[path = "../checks/names_world.rs"]
mod names_world;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    checks::check(bytes);
});
