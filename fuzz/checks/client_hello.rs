//! What holds for the reader of TLS openings, whatever the bytes are.

use exeat_model::DnsName;
use exeat_proxy::{HELLO_BYTES_MAX, Hello, client_hello};

/// The most prefixes of one input that are looked at.
const PREFIXES_MAX: usize = 64;

/// More than the longest hello that is still read, in the most records it may take.
const ALWAYS_ENOUGH: usize = 2 * HELLO_BYTES_MAX;

/// Reads `bytes`, and checks that no other number of them would have said anything else.
pub(crate) fn check(bytes: &[u8]) {
    let whole = client_hello(bytes);
    check_name(&whole);
    for end in (0..bytes.len()).step_by(bytes.len() / PREFIXES_MAX + 1) {
        let early = client_hello(bytes.get(..end).unwrap_or_default());
        assert!(early == Hello::Incomplete || early == whole, "{early:?} after {end} bytes, then {whole:?}");
    }
    if whole == Hello::Incomplete {
        assert!(bytes.len() < ALWAYS_ENOUGH, "{} bytes and no end", bytes.len());
    } else {
        assert_eq!(client_hello(&[bytes, b"\x16\x03\x01\0\x05"].concat()), whole, "changed by what follows");
    }
}

fn check_name(hello: &Hello) {
    match hello {
        Hello::ServerName(name) | Hello::Encrypted { outer: name } => {
            assert!(!name.as_str().ends_with('.'), "{name}");
            assert_eq!(DnsName::parse(name.as_str()).as_ref(), Ok(name), "{name} is not canonical");
        }
        Hello::Incomplete
        | Hello::NotTls
        | Hello::NoServerName
        | Hello::InvalidServerName
        | Hello::Malformed => {}
    }
}
