//! Replays the fuzzer's committed inputs through the fuzzer's own checks, on stable Rust.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;

#[path = "../../../fuzz/checks/configuration.rs"]
mod configuration;
#[path = "../../../fuzz/checks/group_file.rs"]
mod group_file;

/// Checks every input of a folder, and every `step`th prefix of it.
fn replay(target: &str, step: usize, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        (0..bytes.len()).step_by(step).filter_map(|end| bytes.get(..end)).for_each(check);
        check(&bytes);
        inputs += 1;
    }
    assert!(inputs > 0, "{} is empty", folder.display());
}

#[test]
fn every_configuration_of_the_corpus_and_every_third_prefix_of_it_passes() {
    replay("configuration", 3, configuration::check);
}

#[test]
fn every_group_file_of_the_corpus_and_every_prefix_of_it_passes() {
    replay("group_file", 1, group_file::check);
}
