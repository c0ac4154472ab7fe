//! Replays the fuzzer's committed inputs through the fuzzer's own checks, on stable Rust.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../../../fuzz/checks/configuration.rs"]
mod configuration;
#[path = "../../../fuzz/replay/corpus.rs"]
mod corpus;
#[path = "../../../fuzz/checks/group_file.rs"]
mod group_file;

#[test]
fn every_configuration_of_the_corpus_and_prefixes_of_it_pass() {
    corpus::replay("configuration", 512, configuration::check);
}

#[test]
fn every_group_file_of_the_corpus_and_prefixes_of_it_pass() {
    corpus::replay("group_file", 512, group_file::check);
}
