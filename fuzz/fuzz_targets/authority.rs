//! Feeds arbitrary bytes to the authority parser.

#![no_main]

#[path = "../checks/authority.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::check(bytes));
