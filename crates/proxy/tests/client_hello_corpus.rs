//! Replays the fuzzer's committed TLS openings through the fuzzer's own checks, on stable Rust.

use std::fs;
use std::path::Path;

#[path = "../../../fuzz/checks/client_hello.rs"]
mod client_hello;

#[test]
fn every_client_hello_of_the_corpus_and_its_prefixes_pass() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/client_hello");
    let mut inputs = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        client_hello::check(&bytes);
        for end in (0..bytes.len()).step_by(bytes.len() / 256 + 1) {
            client_hello::check(&bytes[..end]);
        }
        inputs += 1;
    }
    assert!(inputs > 0, "{} is empty", folder.display());
}
