use super::*;

const V4: &[u8] = &[192, 0, 2, 1, 192, 0, 2, 2, 0x30, 0x39, 0x0c, 0x38];

fn raw(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

#[test]
fn headers() {
    let sender = Ends { peer: "10.0.0.9:9".parse().unwrap(), local: "10.0.0.1:3128".parse().unwrap() };
    let mapped = [&[0; 10][..], &[0xff; 2], &V4[..4], &[0; 10], &[0xff; 2], &V4[4..]].concat();
    let (client, own) = (Some("192.0.2.1:12345"), Some("10.0.0.9:9"));
    for (name, bytes, want) in [
        ("IPv4", raw(0x21, 0x11, V4), client),
        ("IPv4 with more", raw(0x21, 0x11, &[V4, &[4, 0, 1, 0]].concat()), client),
        ("IPv6 that is IPv4", raw(0x21, 0x21, &mapped), client),
        ("LOCAL", raw(0x20, 0, &[]), own),
        ("LOCAL with addresses", raw(0x20, 0x11, V4), own),
        ("no family", raw(0x21, 0, &[]), own),
        ("UDP", raw(0x21, 0x12, V4), None),
        ("too short for its family", raw(0x21, 0x11, &V4[1..]), None),
        ("IPv6 too short", raw(0x21, 0x21, V4), None),
        ("another version", raw(0x11, 0x11, V4), None),
        ("another command", raw(0x22, 0x11, V4), None),
        ("another family", raw(0x21, 0x41, V4), None),
        ("another signature", [b"\r\n\r\n\0\r\nQUIT\r", &raw(0x21, 0x11, V4)[12..]].concat(), None),
        ("version 1", b"PROXY TCP4 192.0.2.1 192.0.2.2 12345 3128\r\n".to_vec(), None),
        ("nothing", Vec::new(), None),
    ] {
        let got = parse(&bytes, sender).map(|client| client.peer.to_string());
        assert_eq!(got.as_deref(), want, "{name}");
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end], sender), None, "{name}: {end} bytes of it");
        }
    }
    assert_eq!(parse(&raw(0x21, 0x11, V4), sender).unwrap().local, "192.0.2.2:3128".parse().unwrap());
}

#[test]
fn lengths() {
    let fixed = |signature: &[u8], rest: u16| {
        let mut bytes = [0; FIXED_BYTES];
        bytes[..signature.len()].copy_from_slice(signature);
        bytes[FIXED_BYTES - 2..].copy_from_slice(&rest.to_be_bytes());
        bytes
    };
    for (name, bytes, want) in [
        ("nothing more", fixed(SIGNATURE, 0), Some(16)),
        ("as much as there may be", fixed(SIGNATURE, 520), Some(536)),
        ("a byte more", fixed(SIGNATURE, 521), None),
        ("another signature", fixed(b"\r\n\r\n\0\r\nQUIT\r", 12), None),
        ("version 1", fixed(b"PROXY TCP4 19", 12), None),
        ("a request", fixed(b"GET / HTTP/1.1", 12), None),
    ] {
        assert_eq!(length(&bytes), want, "{name}");
    }
}

#[test]
fn a_header_that_is_written_is_read_again() {
    let long = "x".repeat(PRINCIPAL_BYTES_MAX + 1);
    for (name, peer, local, principal, want_peer, want_principal) in [
        ("IPv4", "192.0.2.1:1", "192.0.2.2:3128", None, "192.0.2.1:1", None),
        ("IPv6", "[2001:db8::1]:1", "[2001:db8::2]:3128", Some("app"), "[2001:db8::1]:1", Some("app")),
        ("IPv4 in IPv6", "[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2", None, "192.0.2.1:1", None),
        ("one of each", "192.0.2.1:1", "[2001:db8::2]:2", None, "[::ffff:192.0.2.1]:1", None),
        (
            "the longest principal",
            "192.0.2.1:1",
            "192.0.2.2:2",
            Some(&long[1..]),
            "192.0.2.1:1",
            Some(&long[1..]),
        ),
        ("one that is longer", "192.0.2.1:1", "192.0.2.2:2", Some(&long[..]), "192.0.2.1:1", None),
    ] {
        let client = Ends { peer: peer.parse().unwrap(), local: local.parse().unwrap() };
        let bytes = header(Some(client), "abc-1", principal);
        let config = ParseConfig { include_tlvs: true, ..PARSE };
        let (parsed, end) = ProxyHeader::parse(&bytes, config).unwrap();
        assert_eq!((end, length(bytes.first_chunk().unwrap())), (bytes.len(), Some(bytes.len())), "{name}");
        let address = parsed.proxied_address().unwrap();
        assert_eq!(address.source, want_peer.parse().unwrap(), "{name}");
        assert_eq!(parsed.unique_id(), Some(&b"abc-1"[..]), "{name}");
        let told = parsed.tlvs().find_map(|field| match field {
            Ok(Tlv::Custom(PRINCIPAL_TYPE, value)) => Some(String::from_utf8(value.to_vec()).unwrap()),
            Ok(_) | Err(_) => None,
        });
        assert_eq!(told.as_deref(), want_principal, "{name}");
        let read = parse(&bytes, client).unwrap();
        assert_eq!(read.peer, canonical(client.peer), "{name}");
        assert_eq!(read.local, canonical(client.local), "{name}");
    }
}
