//! Feeds arbitrary bytes to the reader of SOCKS5 messages.

#![no_main]

#[path = "../checks/socks5.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::check(bytes));
