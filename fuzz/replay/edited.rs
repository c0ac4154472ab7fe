//! Inputs that differ a little from the fuzzer's committed ones.

use std::fs;

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::corpus::{corpus, folder};

/// The input of this name.
pub(crate) fn read(target: &str, name: &str) -> Vec<u8> {
    fs::read(folder(target).join(name)).unwrap()
}

/// Inputs of the corpus with a few bytes changed, put in or left out. The bytes are some that mean something to the
/// reader.
pub(crate) fn edited(target: &str, telling: &'static [u8]) -> impl Strategy<Value = Vec<u8>> + use<> {
    let edits = proptest::collection::vec((any::<Index>(), select(telling), 0..3), 1..4);
    (select(corpus(target)), edits).prop_map(|(mut bytes, edits)| {
        for (at, byte, kind) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    })
}
