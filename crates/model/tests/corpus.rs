//! Replays the fuzzer's committed inputs through the fuzzer's own checks, on stable Rust.

use std::fs;
use std::path::Path;

#[path = "../../../fuzz/checks/authority.rs"]
mod authority;

#[test]
fn every_authority_of_the_corpus_and_every_prefix_of_it_passes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/authority");
    let mut inputs = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        for end in 0..=bytes.len() {
            authority::check(&bytes[..end]);
        }
        inputs += 1;
    }
    assert!(inputs > 0, "{} is empty", folder.display());
}
