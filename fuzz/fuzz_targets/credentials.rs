//! Feeds arbitrary bytes to the readers of credentials.

#![no_main]

#[path = "../checks/credentials.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::check(bytes));
