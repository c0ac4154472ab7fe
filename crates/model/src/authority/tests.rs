use proptest::prelude::*;

use super::*;

/// Parses bytes as CONNECT does, where the port is required (RFC 9110 §9.3.6).
fn connect(bytes: &[u8]) -> Result<Authority, AuthorityError> {
    Authority::parse_bytes(bytes, None)
}

#[test]
fn accepted_authorities_have_one_form() {
    let rows = [
        ("plain name", "example.com:443", "example.com:443"),
        ("HOST-01", "EXAMPLE.COM:443", "example.com:443"),
        ("trailing dot", "example.com.:443", "example.com:443"),
        ("HOST-25 underscore", "a_b.example.org:443", "a_b.example.org:443"),
        ("HOST-36", "kubernetes:443", "kubernetes:443"),
        ("IPv4", "93.184.216.34:443", "93.184.216.34:443"),
        ("IPv6", "[2606:2800:220:1:248:1893:25C8:1946]:443", "[2606:2800:220:1:248:1893:25c8:1946]:443"),
        ("IPv6 written out", "[2606:2800:0220:0000:0000:0000:0000:0001]:443", "[2606:2800:220::1]:443"),
        ("ADDR-12", "[::ffff:10.0.0.1]:443", "10.0.0.1:443"),
        ("ADDR-13", "[::ffff:a9fe:a9fe]:80", "169.254.169.254:80"),
        ("ADDR-14", "[::10.0.0.1]:443", "[::a00:1]:443"),
        ("ADDR-18", "[2001:0:7f00:1::1]:443", "[2001:0:7f00:1::1]:443"),
        ("highest port", "example.com:65535", "example.com:65535"),
    ];
    for (name, input, want) in rows {
        let authority = connect(input.as_bytes());
        assert_eq!(authority.map(|a| a.to_string()), Ok(want.to_owned()), "{name}");
    }
}

#[test]
fn refused_authorities_say_why() {
    use AuthorityError::{Address, Brackets, Name, NotAscii, Port, PortMissing, Userinfo, ZoneId};
    let character = |character| Name(NameError::Character { character });
    let long_label = format!("{}.example.org:443", "a".repeat(64));
    let long_name = format!("{}example.org:443", "a.".repeat(122));
    let rows: &[(&str, &str, AuthorityError)] = &[
        ("ADDR-02 hexadecimal", "0x7f.1:443", Address),
        ("ADDR-02 upper case", "0X7F.1:443", Address),
        ("ADDR-02 one number", "0x7f000001:443", Address),
        ("ADDR-03 decimal", "2130706433:443", Address),
        ("ADDR-04 octal", "0177.0.0.1:443", Address),
        ("ADDR-05 two parts", "127.1:443", Address),
        ("ADDR-06 leading zero", "010.0.0.1:443", Address),
        ("IPv4 with the root's dot", "127.0.0.1.:443", Address),
        ("name that ends in a number", "example.com.1:443", Address),
        ("ADDR-20 zone", "[fe80::1%eth0]:443", ZoneId),
        ("ADDR-20 encoded zone", "[fe80::1%25eth0]:443", ZoneId),
        ("ADDR-27", "[127.0.0.1]:443", Brackets),
        ("ADDR-28", "[example.com]:443", Brackets),
        ("ADDR-29", "１２７.０.０.１:443", NotAscii),
        ("ADDR-30", "127。0。0。1:443", NotAscii),
        ("ADDR-34 octets", "256.256.256.256:443", Address),
        ("ADDR-34 five parts", "1.2.3.4.5:443", Address),
        ("HOST-12", "evil.test%00.example.org:443", character('%')),
        ("HOST-13", "evil.test\0.example.org:443", character('\0')),
        ("HOST-14", "example.com\r\nX: y", character('\r')),
        ("HOST-15 space", "example.com evil.test:443", character(' ')),
        ("HOST-15 tab", "example.com\tevil.test:443", character('\t')),
        ("HOST-16", "example.com@evil.test:443", Userinfo),
        ("HOST-16 with a password", "example.com:443@evil.test:443", Userinfo),
        ("HOST-16 empty", "@evil.test:443", Userinfo),
        ("HOST-19", "evil.test\\.example.org:443", character('\\')),
        ("HOST-19 with userinfo", "example.com\\@evil.test:443", Userinfo),
        ("HOST-20 fragment", "evil.test#.example.org:443", character('#')),
        ("HOST-20 query", "evil.test?.example.org:443", character('?')),
        ("path", "example.com/:443", character('/')),
        ("HOST-22 full-width letter", "ｅxample.com:443", NotAscii),
        ("HOST-22 ideographic full stop", "example。com:443", NotAscii),
        ("HOST-22 soft hyphen", "exam\u{ad}ple.com:443", NotAscii),
        ("HOST-24 label", &long_label, Name(NameError::LabelTooLong { len: 64 })),
        ("HOST-24 name", &long_name, Name(NameError::TooLong { len: 255 })),
        ("HOST-25 leading hyphen", "-a.example.org:443", Name(NameError::Hyphen)),
        ("HOST-25 trailing hyphen", "a-.example.org:443", Name(NameError::Hyphen)),
        ("HOST-26 leading zero", "example.com:0443", Port(PortError::LeadingZero)),
        ("HOST-26 sign", "example.com:+443", Port(PortError::NotDigits)),
        ("HOST-26 twice", "example.com:443:443", Port(PortError::NotDigits)),
        ("HOST-26 modulo", "example.com:65979", Port(PortError::TooLarge)),
        ("HOST-26 hexadecimal", "example.com:0x1bb", Port(PortError::NotDigits)),
        ("HOST-26 full-width", "example.com:４４３", NotAscii),
        ("HOST-26 empty", "example.com:", Port(PortError::Empty)),
        ("HOST-26 zero", "example.com:0", Port(PortError::Zero)),
        ("HOST-27", "example.com", PortMissing),
        ("HOST-27 IPv6", "[2001:db8::1]", PortMissing),
        ("empty", "", Name(NameError::Empty)),
        ("port alone", ":443", Name(NameError::Empty)),
        ("root", ".:443", Name(NameError::Empty)),
        ("URL", "http://example.com", Port(PortError::NotDigits)),
        ("IPv6 without brackets", "2001:db8::1", Brackets),
        ("IPv6 and port without brackets", "::1:443", Brackets),
        ("open bracket", "[::1:443", Brackets),
        ("closed bracket", "::1]:443", Name(NameError::Empty)),
        ("empty brackets", "[]:443", Brackets),
        ("two brackets", "[[::1]]:443", Brackets),
        ("a bracket inside", "[[::1]:443", Address),
        ("text after the bracket", "[::1]x:443", Brackets),
        ("future address", "[v1.a]:443", Brackets),
        ("malformed IPv6", "[::1::2]:443", Address),
        ("nine groups", "[1:2:3:4:5:6:7:8:9]:443", Address),
        ("octal inside IPv6", "[::ffff:010.0.0.1]:443", Address),
        ("space in brackets", "[ ::1]:443", Address),
    ];
    for (name, input, want) in rows {
        assert_eq!(connect(input.as_bytes()).as_ref(), Err(want), "{name}");
    }
    assert_eq!(connect(b"exa\xffmple.com:443"), Err(NotAscii), "not UTF-8");
}

#[test]
fn a_default_port_stands_in_for_an_absent_port_only() {
    let rows = [
        ("absent", "example.com", Ok("example.com:80")),
        ("absent after IPv6", "[2001:db8::1]", Ok("[2001:db8::1]:80")),
        ("given", "example.com:8080", Ok("example.com:8080")),
        ("empty", "example.com:", Err(AuthorityError::Port(PortError::Empty))),
        ("empty after IPv6", "[2001:db8::1]:", Err(AuthorityError::Port(PortError::Empty))),
    ];
    for (name, input, want) in rows {
        let got = Authority::parse(input, Some(Port::HTTP)).map(|a| a.to_string());
        assert_eq!(got, want.map(str::to_owned), "{name}");
    }
}

#[test]
fn a_host_is_an_authority_without_its_port() {
    let rows = [
        ("name", "Example.com.", Ok("example.com")),
        ("IPv4", "127.0.0.1", Ok("127.0.0.1")),
        ("IPv6", "[2001:DB8::1]", Ok("[2001:db8::1]")),
        ("mapped", "[::ffff:127.0.0.1]", Ok("127.0.0.1")),
        ("port", "example.com:443", Err(AuthorityError::Name(NameError::Character { character: ':' }))),
        ("IPv6 and port", "[2001:db8::1]:443", Err(AuthorityError::Brackets)),
        ("IPv6 without brackets", "2001:db8::1", Err(AuthorityError::Brackets)),
        ("zone", "[fe80::1%eth0]", Err(AuthorityError::ZoneId)),
        ("short IPv4", "127.1", Err(AuthorityError::Address)),
        ("userinfo", "a@example.com", Err(AuthorityError::Userinfo)),
        ("not ASCII", "éxample.com", Err(AuthorityError::NotAscii)),
    ];
    for (name, input, want) in rows {
        assert_eq!(Host::parse(input).map(|h| h.to_string()), want.map(str::to_owned), "{name}");
    }
}

fn near_authorities() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[a-c0-3xA-C_.:\\[\\]%@-]{0,20}".prop_map(String::into_bytes),
        "([a-z0-9-]{1,4}\\.){0,3}[a-z0-9]{1,4}\\.?:[0-9]{1,5}".prop_map(String::into_bytes),
        "\\[[0-9a-f:.]{2,20}\\]:[1-9][0-9]{0,3}".prop_map(String::into_bytes),
        any::<std::net::SocketAddr>().prop_map(|address| address.to_string().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..40),
    ]
}

proptest! {
    #[test]
    fn printing_and_parsing_is_the_identity(bytes in near_authorities(), port in any::<u16>()) {
        if let Ok(authority) = Authority::parse_bytes(&bytes, Port::new(port)) {
            prop_assert_eq!(connect(authority.to_string().as_bytes()), Ok(authority.clone()));
            prop_assert_eq!(Host::parse(&authority.host.to_string()), Ok(authority.host));
        }
    }

    #[test]
    fn every_socket_address_is_an_authority(ip in any::<IpAddr>(), port in 1..=u16::MAX) {
        let text = std::net::SocketAddr::new(ip, port).to_string();
        let authority = connect(text.as_bytes()).unwrap();
        prop_assert_eq!(authority.host, Host::Address(CanonicalIp::new(ip)));
        prop_assert_eq!(authority.port.get(), port);
    }

    /// What a C resolver would read as an address is never a name.
    #[test]
    fn numbers_are_addresses_or_nothing(parts in prop::collection::vec("0x[0-9a-fA-F]{0,9}|[0-9]{1,11}", 1..6)) {
        match Host::parse(&parts.join(".")) {
            Ok(Host::Name(name)) => prop_assert!(false, "{} became a name", name),
            Ok(Host::Address(address)) => prop_assert_eq!(address.to_string(), parts.join(".")),
            Err(error) => prop_assert!(matches!(error, AuthorityError::Address | AuthorityError::Name(_))),
        }
    }
}
