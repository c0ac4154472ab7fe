//! Replays the fuzzer's committed certificates, tokens and credentials through the fuzzer's own checks, on stable Rust.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::Path;

use exeat_identity::Certificate;

#[path = "../../../fuzz/checks/certificate.rs"]
mod certificate;
#[path = "../../../fuzz/checks/credentials.rs"]
mod credentials;
#[path = "../../../fuzz/checks/token.rs"]
mod token;

#[test]
fn every_certificate_its_prefixes_and_edits_pass() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/certificate");
    let (mut count, mut read) = (0, 0);
    for entry in fs::read_dir(folder).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        certificate::check(&bytes);
        read += usize::from(Certificate::read(&bytes).is_ok());
        for at in 0..bytes.len() {
            certificate::check(&bytes[..at]);
            for byte in [0, 1, 0x0a, 0x30, 0x80, 0xff] {
                let mut edited = bytes.clone();
                edited[at] = byte;
                certificate::check(&edited);
            }
        }
        count += 1;
    }
    assert!(count >= 8 && read >= 5, "{read} of {count} are certificates that say something");
}

/// Replays the files of `folder`, with their prefixes and with small changes, of which every `step`th. Returns how many
/// there are.
fn replay(folder: &str, step: usize, check: fn(&[u8])) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(folder);
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        check(&bytes);
        for at in (0..bytes.len()).step_by(step) {
            check(&bytes[..at]);
            for byte in [0, b' ', b'"', b'.', b',', b'*', 0xff] {
                let mut edited = bytes.clone();
                edited[at] = byte;
                check(&edited);
            }
        }
        count += 1;
    }
    count
}

#[test]
fn every_token_of_the_corpus_its_prefixes_and_edits_pass() {
    assert!(replay("token", 1, token::check) >= 14);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/token");
    for (name, want) in [("claims-wide", true), ("claims-policy", true), ("claims-network", false)] {
        let claims = serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap();
        assert_eq!(token::check_signed(&claims), want, "{name}");
    }
}

#[test]
fn all_credentials_of_the_corpus_their_prefixes_and_edits_pass() {
    assert!(replay("credentials", 1, credentials::check) >= 14);
}
