//! Feeds arbitrary bytes to the reader of client certificates.

#![no_main]

#[path = "../checks/certificate.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::check(bytes));
