//! What holds for the reader of PROXY headers, whatever the bytes are.

use std::net::SocketAddr;

use exeat_proxy::proxy_protocol_wire::{
    Ends, FIXED_BYTES, HEADER_BYTES_MAX, SIGNATURE, header, length, parse,
};

/// Reads `bytes` as the beginning of what a load balancer sends.
pub(crate) fn check(bytes: &[u8]) {
    let here = |port| SocketAddr::from(([203, 0, 113, 1], port));
    let sender = Ends { peer: here(1), local: here(2) };
    let Some(fixed) = bytes.first_chunk::<FIXED_BYTES>() else {
        assert_eq!(parse(bytes, sender), None, "less than a header");
        return;
    };
    let Some(length) = length(fixed) else { return };
    assert!(fixed.starts_with(SIGNATURE), "{fixed:?}");
    assert!((FIXED_BYTES..=HEADER_BYTES_MAX).contains(&length), "{length}");
    let Some(whole) = bytes.get(..length) else { return };
    for end in 0..length {
        assert_eq!(parse(&whole[..end], sender), None, "{end} bytes of {length}");
    }
    if bytes.len() > length {
        assert_eq!(parse(bytes, sender), None, "more than a header");
    }
    if let Some(client) = parse(whole, sender) {
        check_client(client, sender);
    }
}

/// Addresses are canonical, and what is written of them is read as the same.
fn check_client(client: Ends, sender: Ends) {
    for address in [client.peer, client.local] {
        assert_eq!(address.ip(), address.ip().to_canonical());
    }
    let written = header(Some(client), "0-1", Some("app"));
    assert_eq!(parse(&written, sender), Some(client));
    let fixed = written.first_chunk().expect("a header");
    assert_eq!(length(fixed), Some(written.len()));
}
