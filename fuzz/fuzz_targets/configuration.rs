//! Feeds arbitrary bytes to the reader of configuration files.

#![no_main]

#[path = "../checks/configuration.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::check(bytes));
