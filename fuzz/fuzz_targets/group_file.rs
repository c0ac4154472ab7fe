//! Feeds arbitrary bytes to the reader of group files.

#![no_main]

#[path = "../checks/group_file.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::check(bytes));
