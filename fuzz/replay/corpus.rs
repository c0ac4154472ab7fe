//! The fuzzer's committed inputs, for the tests that replay them through its own checks on stable Rust.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder of a target's inputs. Every crate of the workspace lies as deep as the other.
pub(crate) fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target)
}

/// Every input of a target: one at least.
pub(crate) fn corpus(target: &str) -> Vec<Vec<u8>> {
    let files = fs::read_dir(folder(target)).unwrap();
    let inputs: Vec<_> = files.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
    assert!(!inputs.is_empty(), "{target} has no corpus");
    inputs
}

/// Checks every input, and prefixes of it: all of them, or about `most` at equal distances.
pub(crate) fn replay(target: &str, most: usize, check: fn(&[u8])) {
    for bytes in corpus(target) {
        check(&bytes);
        for end in (0..bytes.len()).step_by(bytes.len() / most + 1) {
            check(bytes.get(..end).unwrap_or_default());
        }
    }
}
