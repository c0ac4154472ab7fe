//! Replays the fuzzer's committed inputs through the fuzzer's own checks, on stable Rust.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use exeat_proxy::{Limits, proxy_protocol_wire, socks5_wire};
use proptest::prelude::*;

#[path = "../../../fuzz/checks/client_hello.rs"]
mod client_hello;
#[path = "../../../fuzz/replay/corpus.rs"]
mod corpus;
#[path = "../../../fuzz/checks/destination.rs"]
mod destination;
#[path = "../../../fuzz/replay/edited.rs"]
mod edited;
#[path = "../../../fuzz/checks/proxy_header.rs"]
mod proxy_header;
#[path = "../../../fuzz/checks/request_head.rs"]
mod request_head;
#[path = "../../../fuzz/checks/socks5.rs"]
mod socks5;

use corpus::replay;
use edited::{edited, read};

#[test]
fn every_client_hello_and_prefixes_of_it_pass() {
    replay("client_hello", 256, client_hello::check);
}

#[test]
fn every_original_destination_and_prefixes_of_it_pass() {
    replay("destination", usize::MAX, |bytes| {
        destination::check(bytes);
    });
}

#[test]
fn every_proxy_header_and_its_prefixes_pass() {
    replay("proxy_header", usize::MAX, proxy_header::check);
}

#[test]
fn every_request_head_and_its_prefixes_pass() {
    replay("request_head", usize::MAX, request_head::check);
}

#[test]
fn every_socks5_message_and_its_prefixes_pass() {
    replay("socks5", usize::MAX, socks5::check);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn original_destinations_that_differ_a_little_pass_too(
        bytes in edited("destination", b"\0\x01\x02\x03\x04\x08\x0a\x0c\x12\x16\x50\xc6\xfd\xff")
    ) {
        destination::check(&bytes);
    }

    #[test]
    fn proxy_headers_that_differ_a_little_pass_too(
        bytes in edited("proxy_header", b"\0\x01\x02\x04\x05\x11\x12\x20\x21\x22\x31\xe0\xff\r\n")
    ) {
        proxy_header::check(&bytes);
    }

    #[test]
    fn request_heads_that_differ_a_little_pass_too(
        bytes in edited("request_head", b"\r\n\t :,/?#@%[]\0\x7f\x80aZ09")
    ) {
        request_head::check(&bytes);
    }

    #[test]
    fn socks5_messages_that_differ_a_little_pass_too(
        bytes in edited("socks5", b"\0\x01\x02\x03\x04\x05\xff\r\n:.[]%@a9")
    ) {
        socks5::check(&bytes);
    }
}

// The properties must not hold for want of inputs that say something.

#[test]
fn some_proxy_headers_have_a_client() {
    let sender = proxy_protocol_wire::Ends {
        peer: "10.0.0.9:9".parse().unwrap(),
        local: "10.0.0.1:3128".parse().unwrap(),
    };
    for (name, want) in [
        ("ipv4", Some("192.0.2.1:12345")),
        ("ipv6", Some("[2001:db8::1]:12345")),
        ("ipv6_half_mapped", Some("192.0.2.1:1")),
        ("fields", Some("192.0.2.1:12345")),
        ("ssl", Some("192.0.2.1:12345")),
        ("longest", Some("192.0.2.1:12345")),
        ("local", Some("10.0.0.9:9")),
        ("udp", None),
        ("version_1", None),
    ] {
        let found = proxy_protocol_wire::parse(&read("proxy_header", name), sender);
        assert_eq!(found.map(|client| client.peer.to_string()).as_deref(), want, "{name}");
    }
}

#[test]
fn some_request_heads_pass() {
    for name in ["connect", "connect_ipv6", "connect_http10", "get", "get_close", "get_https", "post_chunked"]
    {
        let found = exeat_proxy::check(&read("request_head", name), &Limits::default());
        assert!(found.is_ok(), "{name}");
    }
}

#[test]
fn some_socks5_messages_have_a_target() {
    for (name, want) in [
        ("connect_name", "example.com:443"),
        ("connect_ipv4", "10.0.0.1:443"),
        ("connect_ipv6_mapped", "192.0.2.1:80"),
        ("name_ipv6", "[::1]:443"),
        ("name_final_dot", "example.com:443"),
    ] {
        let (message, _) = socks5_wire::request(&read("socks5", name)).unwrap().unwrap();
        assert_eq!(message.authority().map(|target| target.to_string()).as_deref(), Some(want), "{name}");
    }
}

#[test]
fn original_destinations_are_names_addresses_or_nothing() {
    let seen = destination::Seen::default;
    for (name, want) in [
        ("mapped_listener", destination::Seen { permitted: 1, ..seen() }),
        ("mapped_denied", destination::Seen { refused: 1, ..seen() }),
        ("nat64_virtual", destination::Seen { refused: 1, ..seen() }),
        ("metadata", destination::Seen { refused: 4, ..seen() }),
        ("port_zero", seen()),
        ("other_family", destination::Seen { permitted: 2, ..seen() }),
        ("virtual", destination::Seen { named: 6, ..seen() }),
        ("virtual_of_another", destination::Seen { named: 2, unknown: 2, ..seen() }),
        ("virtual_never_told", destination::Seen { unknown: 5, ..seen() }),
        ("virtual_full", destination::Seen { named: 1, exhausted: 2, ..seen() }),
        ("virtual_kept", destination::Seen { named: 2, ..seen() }),
        ("answered", destination::Seen { permitted: 4, answered: 4, ..seen() }),
        ("answered_ended", destination::Seen { permitted: 3, answered: 2, ..seen() }),
    ] {
        assert_eq!(destination::check(&read("destination", name)), want, "{name}");
    }
}
