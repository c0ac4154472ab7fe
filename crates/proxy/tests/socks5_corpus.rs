//! Replays the fuzzer's committed SOCKS5 messages through the fuzzer's own checks, on stable Rust.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::Path;

use proptest::prelude::*;

#[path = "../../../fuzz/checks/socks5.rs"]
mod socks5;

fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/socks5");
    let files = fs::read_dir(folder).unwrap();
    files.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect()
}

/// Bytes that mean something in a message.
const TELLING: &[u8] = b"\0\x01\x02\x03\x04\x05\xff\r\n:.[]%@a9";

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_that_differ_a_little_pass_too(
        input in proptest::sample::select(corpus()),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), proptest::sample::select(TELLING), 0..3), 1..4),
    ) {
        let mut bytes = input;
        for (at, byte, kind) in edits {
            prop_assume!(!bytes.is_empty());
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        socks5::check(&bytes);
    }
}

#[test]
fn every_message_of_the_corpus_and_its_prefixes_pass() {
    for bytes in corpus() {
        for end in 0..=bytes.len() {
            socks5::check(&bytes[..end]);
        }
    }
}

/// The properties must not hold for want of targets.
#[test]
fn some_of_the_corpus_has_a_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/socks5");
    for (name, want) in [
        ("connect_name", "example.com:443"),
        ("connect_ipv4", "10.0.0.1:443"),
        ("connect_ipv6_mapped", "192.0.2.1:80"),
        ("name_ipv6", "[::1]:443"),
        ("name_final_dot", "example.com:443"),
    ] {
        let bytes = fs::read(folder.join(name)).unwrap();
        let (message, _) = exeat_proxy::socks5_wire::request(&bytes).unwrap().unwrap();
        assert_eq!(message.authority().map(|a| a.to_string()).as_deref(), Some(want), "{name}");
    }
}
