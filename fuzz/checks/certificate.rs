//! What holds for the reader of client certificates, whatever the bytes are.

use exeat_identity::{Certificate, CertificateError, Instance};

/// As `certificate.rs` bounds them.
const VALUE_BYTES_MAX: usize = 512;
const NAMES_MAX: usize = 64;

/// Reads `bytes` as a certificate in DER.
pub(crate) fn check(bytes: &[u8]) {
    let read = Certificate::read(bytes);
    assert_eq!(read, Certificate::read(bytes), "the same bytes say the same");
    let Ok(certificate) = read else { return };
    let texts = certificate.dns.iter().chain(&certificate.common_name).chain(&certificate.spiffe);
    for text in texts {
        assert!((1..=VALUE_BYTES_MAX).contains(&text.len()), "{text:?}");
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
    assert!(certificate.dns.len() + certificate.addresses.len() <= NAMES_MAX);
    assert!(certificate.dns.iter().all(|name| *name == name.to_ascii_lowercase()));
    if let Some(id) = &certificate.spiffe {
        assert!(id.starts_with("spiffe://") && certificate.has_spiffe(id) && !certificate.has_spiffe("x"));
    }
    if let Some(Instance { organization, space, app, instance }) = &certificate.instance {
        for id in [organization, space, app, instance] {
            assert!(!id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{id:?}");
        }
        assert_eq!(Some(instance), certificate.common_name.as_ref());
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert_eq!(Certificate::read(&longer), Err(CertificateError::Syntax), "one byte more");
}
