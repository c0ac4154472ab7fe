//! Replays the fuzzer's committed PROXY headers through the fuzzer's own checks, on stable Rust.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use exeat_proxy::Client;
use exeat_proxy::proxy_protocol_wire::parse;
use proptest::prelude::*;

#[path = "../../../fuzz/checks/proxy_header.rs"]
mod proxy_header;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/proxy_header")
}

fn corpus() -> Vec<Vec<u8>> {
    let files = fs::read_dir(folder()).unwrap();
    files.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect()
}

/// Bytes that mean something in a header.
const TELLING: &[u8] = b"\0\x01\x02\x04\x05\x11\x12\x20\x21\x22\x31\xe0\xff\r\n";

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn headers_that_differ_a_little_pass_too(
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
        proxy_header::check(&bytes);
    }
}

#[test]
fn every_header_of_the_corpus_and_its_prefixes_pass() {
    for bytes in corpus() {
        for end in 0..=bytes.len() {
            proxy_header::check(&bytes[..end]);
        }
    }
}

/// The properties must not hold for want of clients.
#[test]
fn some_of_the_corpus_has_a_client() {
    let sender = Client { peer: "10.0.0.9:9".parse().unwrap(), local: "10.0.0.1:3128".parse().unwrap() };
    for (name, want) in [
        ("ipv4", Some("192.0.2.1:12345")),
        ("ipv6", Some("[2001:db8::1]:12345")),
        ("ipv6_half_mapped", Some("192.0.2.1:1")),
        ("fields", Some("192.0.2.1:12345")),
        ("ssl", Some("192.0.2.1:12345")),
        ("longest", Some("192.0.2.1:12345")),
        ("local", Some("10.0.0.9:9")),
        ("udp", None),
        ("version_1", None),
    ] {
        let bytes = fs::read(folder().join(name)).unwrap();
        assert_eq!(parse(&bytes, sender).map(|c| c.peer.to_string()).as_deref(), want, "{name}");
    }
}
