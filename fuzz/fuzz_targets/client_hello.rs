//! Feeds arbitrary bytes to the reader of TLS openings.

#![no_main]

#[path = "../checks/client_hello.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::check(bytes));
