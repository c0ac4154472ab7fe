//! What holds for the authority parser, whatever the bytes are.

use exeat_model::{Authority, Host, NAME_OCTETS_MAX, Port};

/// Parses `bytes` with and without a default port, and checks the properties of what comes out.
pub(crate) fn check(bytes: &[u8]) {
    let bare = Authority::parse_bytes(bytes, None);
    let defaulted = Authority::parse_bytes(bytes, Some(Port::HTTP));
    if bare.is_ok() {
        assert_eq!(bare, defaulted, "a default port changed a port that is given");
    }
    for authority in [bare, defaulted].into_iter().flatten() {
        check_canonical(&authority);
    }
}

fn check_canonical(authority: &Authority) {
    let printed = authority.to_string();
    assert!(printed.is_ascii() && printed.len() <= NAME_OCTETS_MAX + ":65535".len(), "{printed:?}");
    assert_eq!(Authority::parse(&printed, None).as_ref(), Ok(authority), "{printed:?} is not canonical");
    assert_eq!(Host::parse(&authority.host.to_string()).as_ref(), Ok(&authority.host), "{printed:?}");
    match &authority.host {
        Host::Name(name) => {
            assert!(!name.as_str().bytes().any(|b| b.is_ascii_uppercase()), "{printed:?}");
            assert_eq!(name.labels().count(), name.parents().count() + 1, "{printed:?}");
        }
        Host::Address(address) => {
            assert_eq!(address.get(), address.get().to_canonical(), "{printed:?}");
            assert!(!address.class().name().is_empty(), "{printed:?}");
        }
    }
}
