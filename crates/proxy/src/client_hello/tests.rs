use std::sync::Arc;

use proptest::prelude::*;
use rustls::client::{ClientConnection, EchGreaseConfig, EchMode};
use rustls::crypto::aws_lc_rs::{default_provider, hpke, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, hpke::Hpke};
use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use rustls::{ClientConfig, RootCertStore};

use super::*;

/// What rustls sends first to `server`, with key shares of these groups and a GREASE ECH extension if asked for.
fn rustls_hello(server: &str, groups: &[&'static dyn SupportedKxGroup], grease_ech: bool) -> Vec<u8> {
    let provider = Arc::new(CryptoProvider { kx_groups: groups.to_vec(), ..default_provider() });
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = if grease_ech {
        let suite = hpke::DH_KEM_X25519_HKDF_SHA256_AES_128;
        let (key, _) = suite.generate_key_pair().unwrap();
        builder.with_ech(EchMode::Grease(EchGreaseConfig::new(suite, key))).unwrap()
    } else {
        builder.with_safe_default_protocol_versions().unwrap()
    };
    let mut config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let server = ServerName::try_from(server.to_owned()).unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), server).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

/// A ClientHello for `server` as rustls sends it.
pub(crate) fn hello_for(server: &str) -> Vec<u8> {
    rustls_hello(server, &[kx_group::X25519], false)
}

/// `message` in records of at most `size` bytes each.
fn in_records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |fragment: &[u8]| {
        let length = u16::try_from(fragment.len()).unwrap().to_be_bytes();
        [&[22, 3, 1], &length[..], fragment].concat()
    };
    message.chunks(size).flat_map(record).collect()
}

/// `data` with its length before it.
fn with_length(data: &[u8]) -> Vec<u8> {
    [&u16::try_from(data.len()).unwrap().to_be_bytes()[..], data].concat()
}

/// A handshake message that says `body`.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind], &length[1..], body].concat()
}

/// The handshake message of a ClientHello with these extensions.
fn hello_message(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let one = |(kind, data): &(u16, Vec<u8>)| [&kind.to_be_bytes()[..], &with_length(data)].concat();
    let list: Vec<u8> = extensions.iter().flat_map(one).collect();
    let fixed = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 0x01], &[1, 0]].concat();
    message(1, &[fixed, with_length(&list)].concat())
}

/// The ClientHello with these extensions in one record.
fn hello(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    in_records(&hello_message(extensions), 1 << 14)
}

/// A `server_name` extension with these entries.
fn names(entries: &[(u8, &[u8])]) -> (u16, Vec<u8>) {
    let one = |(kind, name): &(u8, &[u8])| [&[*kind][..], &with_length(name)].concat();
    (0, with_length(&entries.iter().flat_map(one).collect::<Vec<u8>>()))
}

fn name(name: &[u8]) -> (u16, Vec<u8>) {
    names(&[(0, name)])
}

fn server(name: &str) -> Hello {
    Hello::ServerName(DnsName::parse(name).unwrap())
}

fn encrypted(name: &str) -> Hello {
    Hello::Encrypted { outer: DnsName::parse(name).unwrap() }
}

/// A hello whose handshake message, header included, has `length` bytes, with the server name last.
fn hello_of_length(length: usize) -> Vec<u8> {
    let padding = |bytes: usize| {
        vec![
            (21, vec![0; bytes.min(60_000)]),
            (99, vec![0; bytes.saturating_sub(60_000)]),
            name(b"example.com"),
        ]
    };
    let empty = hello_message(&padding(0)).len();
    let message = hello_message(&padding(length - empty));
    assert_eq!(message.len(), length);
    in_records(&message, 1 << 14)
}

/// Hellos that real clients send.
fn captures() -> Vec<(&'static str, Vec<u8>, Hello)> {
    let post_quantum = [kx_group::X25519MLKEM768];
    let large = rustls_hello("large.example.com", &post_quantum, true);
    assert!(large.len() > 1400, "{}", large.len());
    vec![
        ("classical", hello_for("example.com"), server("example.com")),
        ("upper case", hello_for("EXAMPLE.com"), server("example.com")),
        ("post-quantum", rustls_hello("example.com", &post_quantum, false), server("example.com")),
        ("GREASE ECH", rustls_hello("example.com", &[kx_group::X25519], true), encrypted("example.com")),
        ("post-quantum and GREASE ECH", large, encrypted("large.example.com")),
        ("to an address", hello_for("192.0.2.1"), Hello::NoServerName),
    ]
}

#[test]
fn every_prefix_of_a_real_hello_asks_for_more() {
    for (case, bytes, want) in captures() {
        for end in 0..bytes.len() {
            assert_eq!(client_hello(&bytes[..end]), Hello::Incomplete, "{case}, {end} bytes");
        }
        assert_eq!(client_hello(&bytes), want, "{case}");
        let with_early_data = [&bytes[..], &[20, 3, 3, 0, 1, 1], b"\x17\x03\x03\x00\x10"].concat();
        assert_eq!(client_hello(&with_early_data), want, "{case}, more after it");
    }
}

#[test]
fn a_hello_may_be_spread_over_records() {
    for (case, bytes, want) in captures() {
        let message = &bytes[5..];
        for size in [message.len().div_ceil(3), message.len().div_ceil(2), 3, 1] {
            let split = in_records(message, size);
            for end in (0..split.len()).step_by(split.len().div_ceil(500)) {
                assert_eq!(
                    client_hello(&split[..end]),
                    Hello::Incomplete,
                    "{case}, records of {size}, {end} bytes"
                );
            }
            assert_eq!(client_hello(&split), want, "{case}, records of {size}");
        }
    }
}

#[test]
fn server_names() {
    let ech = || (0xfe0d, vec![0; 100]);
    let cases: &[(&str, Vec<u8>, Hello)] = &[
        ("plain", hello(&[name(b"example.com")]), server("example.com")),
        ("upper case", hello(&[name(b"EXAMPLE.Com")]), server("example.com")),
        (
            "GREASE around it",
            hello(&[(0x0a0a, vec![]), name(b"example.com"), (0xfafa, vec![0])]),
            server("example.com"),
        ),
        (
            "unknown extension twice",
            hello(&[(99, vec![]), name(b"example.com"), (99, vec![])]),
            server("example.com"),
        ),
        ("none", hello(&[(99, vec![])]), Hello::NoServerName),
        ("no extension in the list", hello(&[]), Hello::NoServerName),
        ("ECH after the name", hello(&[name(b"example.com"), ech()]), encrypted("example.com")),
        ("ECH before the name", hello(&[ech(), name(b"example.com")]), encrypted("example.com")),
        ("ECH and no name", hello(&[ech()]), Hello::NoServerName),
        ("IPv4 address", hello(&[name(b"10.0.0.1")]), Hello::InvalidServerName),
        ("public IPv4 address", hello(&[name(b"93.184.216.34")]), Hello::InvalidServerName),
        ("IPv6 address", hello(&[name(b"2001:db8::1")]), Hello::InvalidServerName),
        ("legacy address", hello(&[name(b"0x7f.1")]), Hello::InvalidServerName),
        ("trailing dot", hello(&[name(b"example.com.")]), Hello::InvalidServerName),
        ("NUL", hello(&[name(b"example.com\0.example.org")]), Hello::InvalidServerName),
        ("empty", hello(&[name(b"")]), Hello::InvalidServerName),
        ("space", hello(&[name(b" example.com")]), Hello::InvalidServerName),
        ("not ASCII", hello(&[name("ex\u{e4}mple.com".as_bytes())]), Hello::InvalidServerName),
        ("not UTF-8", hello(&[name(b"\xffexample.com")]), Hello::InvalidServerName),
        ("ECH and an address", hello(&[name(b"10.0.0.1"), ech()]), Hello::InvalidServerName),
        ("two extensions", hello(&[name(b"example.com"), name(b"example.org")]), Hello::Malformed),
        ("the same extension twice", hello(&[name(b"example.com"), name(b"example.com")]), Hello::Malformed),
        ("two ECH extensions", hello(&[name(b"example.com"), ech(), ech()]), Hello::Malformed),
        ("two names", hello(&[names(&[(0, b"example.com"), (0, b"example.org")])]), Hello::Malformed),
        ("another kind of name", hello(&[names(&[(1, b"example.com")])]), Hello::Malformed),
        ("another kind after it", hello(&[names(&[(0, b"example.com"), (1, b"x")])]), Hello::Malformed),
        ("empty list", hello(&[names(&[])]), Hello::Malformed),
        ("empty extension", hello(&[(0, vec![])]), Hello::Malformed),
        ("list longer than the extension", hello(&[(0, b"\0\x10\0\0\x01a".to_vec())]), Hello::Malformed),
        ("bytes after the list", hello(&[(0, b"\0\x04\0\0\x01a!".to_vec())]), Hello::Malformed),
        ("bytes after the name", hello(&[(0, b"\0\x05\0\0\x01a!".to_vec())]), Hello::Malformed),
        ("name longer than the list", hello(&[(0, b"\0\x04\0\0\x02a".to_vec())]), Hello::Malformed),
    ];
    for (case, bytes, want) in cases {
        assert_eq!(client_hello(bytes), *want, "{case}");
    }
}

#[test]
fn records_and_messages_that_break_the_rules() {
    let good = hello_message(&[name(b"example.com")]);
    let body = &good[4..];
    let two_records = in_records(&good, good.len() - 10);
    let second = good.len() - 10 + 5;
    let patched = |at: usize, byte: u8| {
        let mut bytes = two_records.clone();
        bytes[at] = byte;
        bytes
    };
    let no_extensions = message(1, &body[..2 + 32 + 1 + 4 + 2]);
    let cases: &[(&str, Vec<u8>, Hello)] = &[
        ("nothing yet", vec![], Hello::Incomplete),
        ("two records", two_records.clone(), server("example.com")),
        ("no extension list", in_records(&no_extensions, 999), Hello::NoServerName),
        ("HTTP", b"G".to_vec(), Hello::NotTls),
        ("SSH", b"SSH-2.0-x\r\n".to_vec(), Hello::NotTls),
        ("an alert", vec![21, 3, 1, 0, 2, 2, 0], Hello::NotTls),
        ("application data", vec![23], Hello::NotTls),
        ("major version 2", vec![22, 2], Hello::NotTls),
        ("minor version 255", patched(2, 255), server("example.com")),
        ("empty record", vec![22, 3, 1, 0, 0], Hello::Malformed),
        ("record of 16384", vec![22, 3, 1, 0x40, 0], Hello::Incomplete),
        ("record of 16385", vec![22, 3, 1, 0x40, 1], Hello::Malformed),
        ("a server's hello", vec![22, 3, 1, 0, 99, 2], Hello::Malformed),
        ("second record is an alert", patched(second, 21), Hello::Malformed),
        ("second record is application data", patched(second, 23), Hello::Malformed),
        ("second record of another version", patched(second + 1, 4), Hello::Malformed),
        ("second record is empty", [&two_records[..second], &[22, 3, 1, 0, 0]].concat(), Hello::Malformed),
        ("second record is too long for it", patched(second + 4, 11), Hello::Malformed),
        ("another message in the record", in_records(&[&good[..], &[1]].concat(), 999), Hello::Malformed),
        ("an announced message in the record", vec![22, 3, 1, 0, 99, 1, 0, 0, 50], Hello::Malformed),
        (
            "bytes after the extensions",
            in_records(&message(1, &[body, &[0]].concat()), 999),
            Hello::Malformed,
        ),
        ("extensions cut short", in_records(&message(1, &body[..body.len() - 1]), 999), Hello::Malformed),
        ("an empty message", in_records(&message(1, &[]), 999), Hello::Malformed),
        ("64 KiB", hello_of_length(HELLO_BYTES_MAX), server("example.com")),
        ("64 KiB and a byte", hello_of_length(HELLO_BYTES_MAX + 1), Hello::Malformed),
        ("16 MiB announced", vec![22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff], Hello::Malformed),
        ("2048 records", in_records(&hello_of_message(2048), 1), server("example.com")),
        ("2049 records", in_records(&hello_of_message(2049), 1), Hello::Malformed),
    ];
    for (case, bytes, want) in cases {
        assert_eq!(client_hello(bytes), *want, "{case}");
    }
}

/// The handshake message of [`hello_of_length`] without its record header.
fn hello_of_message(length: usize) -> Vec<u8> {
    hello_of_length(length)[5..].to_vec()
}

/// The server name that rustls reads as a server; `None` if it refuses the hello or wants more.
fn as_rustls_reads_it(bytes: &[u8]) -> Option<Option<String>> {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        acceptor.read_tls(&mut rest).ok()?;
        match acceptor.accept() {
            Ok(Some(accepted)) => return Some(accepted.client_hello().server_name().map(str::to_owned)),
            Ok(None) => {}
            Err(_) => return None,
        }
    }
    None
}

/// A real hello in records of some size, with some bytes changed.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let captures: Vec<Vec<u8>> = captures().into_iter().map(|(_, bytes, _)| bytes[5..].to_vec()).collect();
    let change = (any::<prop::sample::Index>(), any::<u8>());
    (prop::sample::select(captures), 1..2000_usize, prop::collection::vec(change, 0..4)).prop_map(
        |(message, size, changes)| {
            let mut bytes = in_records(&message, size);
            for (index, byte) in changes {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        },
    )
}

proptest! {
    #[test]
    fn anything_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(!matches!(client_hello(&bytes), Hello::ServerName(_)));
    }

    #[test]
    fn what_was_said_is_never_taken_back(bytes in damaged(), end in any::<prop::sample::Index>()) {
        let early = client_hello(&bytes[..end.index(bytes.len())]);
        prop_assert!(early == Hello::Incomplete || early == client_hello(&bytes));
    }

    #[test]
    fn a_server_never_reads_another_name(bytes in damaged()) {
        let Some(read) = as_rustls_reads_it(&bytes) else { return Ok(()) };
        match client_hello(&bytes) {
            Hello::ServerName(ours) | Hello::Encrypted { outer: ours } => {
                prop_assert_eq!(Some(ours.to_string()), read.map(|name| name.to_ascii_lowercase()));
            }
            Hello::NoServerName => prop_assert_eq!(None, read),
            Hello::InvalidServerName | Hello::Malformed => {}
            Hello::Incomplete | Hello::NotTls => prop_assert!(false, "rustls reads it"),
        }
    }
}
