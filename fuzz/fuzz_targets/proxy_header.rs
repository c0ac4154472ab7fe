//! Feeds arbitrary bytes to the reader of PROXY headers.

#![no_main]

#[path = "../checks/proxy_header.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::check(bytes));
