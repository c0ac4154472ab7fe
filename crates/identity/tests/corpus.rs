//! Replays the fuzzer's committed certificates through the fuzzer's own checks, on stable Rust.

use std::fs;
use std::path::Path;

use exeat_identity::Certificate;

#[path = "../../../fuzz/checks/certificate.rs"]
mod certificate;

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
