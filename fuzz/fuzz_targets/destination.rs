//! Feeds arbitrary addresses to what finds out where a redirected connection was meant to go.

#![no_main]

#[path = "../checks/destination.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    checks::check(bytes);
});
