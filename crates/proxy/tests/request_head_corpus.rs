//! Replays the fuzzer's committed request heads through the fuzzer's own checks, on stable Rust.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::Path;

use proptest::prelude::*;

#[path = "../../../fuzz/checks/request_head.rs"]
mod request_head;

fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/request_head");
    let files = fs::read_dir(folder).unwrap();
    files.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect()
}

/// Bytes that mean something in a head.
const TELLING: &[u8] = b"\r\n\t :,/?#@%[]\0\x7f\x80aZ09";

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn heads_that_differ_a_little_pass_too(
        input in proptest::sample::select(corpus()),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), proptest::sample::select(TELLING), 0..3), 1..4),
    ) {
        let mut bytes = input;
        for (at, byte, kind) in edits {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
            prop_assume!(!bytes.is_empty());
        }
        request_head::check(&bytes);
    }
}

#[test]
fn every_request_head_of_the_corpus_and_its_prefixes_pass() {
    for bytes in corpus() {
        for end in 0..=bytes.len() {
            request_head::check(&bytes[..end]);
        }
    }
}

/// The properties must not hold for want of heads that pass.
#[test]
fn some_of_the_corpus_passes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/request_head");
    for name in ["connect", "connect_ipv6", "connect_http10", "get", "get_close", "get_https", "post_chunked"]
    {
        let bytes = fs::read(folder.join(name)).unwrap();
        assert!(exeat_proxy::check(&bytes, &exeat_proxy::Limits::default()).is_ok(), "{name}");
    }
}
