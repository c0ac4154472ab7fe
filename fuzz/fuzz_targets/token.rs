//! Feeds arbitrary bytes to the readers of tokens.

#![no_main]

#[path = "../checks/token.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::check(bytes));
