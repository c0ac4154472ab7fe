//! Feeds arbitrary bytes to the byte guard.

#![no_main]

#[path = "../checks/request_head.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::check(bytes));
