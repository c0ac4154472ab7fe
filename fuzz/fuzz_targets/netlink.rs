//! Feeds arbitrary bytes to what reads the kernel's answers.

#![no_main]

#[path = "../checks/netlink.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    checks::check(bytes);
});
