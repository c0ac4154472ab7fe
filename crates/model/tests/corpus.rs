//! Replays the fuzzer's committed inputs through the fuzzer's own checks, on stable Rust.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../../../fuzz/checks/authority.rs"]
mod authority;
#[path = "../../../fuzz/replay/corpus.rs"]
mod corpus;

#[test]
fn every_authority_of_the_corpus_and_every_prefix_of_it_passes() {
    corpus::replay("authority", usize::MAX, authority::check);
}
