//! The messages of a SOCKS5 client (RFC 1928 §3, §4; RFC 1929 §2), read from bytes. Nothing here does input or output.
//!
//! Each reader returns `Ok(None)` until the message is whole, then the message and its length, and says the same
//! whatever follows. A message is bounded by its own format: 513 bytes at most.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use exeat_model::{Authority, CanonicalIp, Host, Port};

/// The first byte of every message but the password's (RFC 1928 §3).
pub const VERSION: u8 = 5;
/// The first byte of a SOCKS4 request, which is not spoken here.
pub const VERSION_4: u8 = 4;
/// The longest message: version, two lengths, and 255 bytes each of user and password.
pub const MESSAGE_BYTES_MAX: usize = 1 + 2 * (1 + 255);

/// The version of the password negotiation (RFC 1929 §2).
const LOGIN_VERSION: u8 = 1;
const CONNECT: u8 = 1;
/// The types of an address (RFC 1928 §5).
const IPV4: u8 = 1;
const DOMAIN: u8 = 3;
const IPV6: u8 = 4;

/// Why bytes are not the message that they should be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WireError {
    /// The message begins with another version than its own.
    #[error("a message of another version")]
    Version,
    /// A greeting that offers no method at all.
    #[error("a greeting without a method")]
    NoMethod,
    /// The reserved byte of a request is not zero.
    #[error("the reserved byte is not zero")]
    Reserved,
    /// An address type other than IPv4, IPv6 and name.
    #[error("an address type that does not exist")]
    AddressType,
}

/// How a client may prove who it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Method {
    /// Not at all.
    None = 0,
    /// With user and password (RFC 1929).
    Password = 2,
}

/// The methods that a client offers, of those that are known here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Greeting {
    /// It offers to go without.
    pub none: bool,
    /// It offers user and password.
    pub password: bool,
}

/// A user and a password, 255 bytes each at most. The `Debug` form leaves the password out.
#[derive(Clone, Eq, PartialEq)]
pub struct Login {
    /// The user.
    pub user: Vec<u8>,
    /// The password.
    pub password: Vec<u8>,
}

/// What a client asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// Whether it asks for a connection. The other commands, BIND and UDP ASSOCIATE, are not served.
    pub is_connect: bool,
    /// Where to.
    pub address: Address,
    /// The port; may be zero.
    pub port: u16,
}

/// An address as it stands in a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Address {
    /// An IPv4 or IPv6 address.
    Ip(IpAddr),
    /// What should be a name: any bytes, 255 at most.
    Domain(Vec<u8>),
}

/// A message and its length, or nothing yet.
pub type Read<T> = Result<Option<(T, usize)>, WireError>;

/// Reads the greeting (RFC 1928 §3).
///
/// # Errors
/// For another version, and for no method.
pub fn greeting(bytes: &[u8]) -> Read<Greeting> {
    let mut cursor = Cursor::new(bytes);
    message(&mut cursor, |cursor| {
        cursor.version(VERSION)?;
        let count = cursor.byte()?;
        if count == 0 {
            return Err(Stop::Wrong(WireError::NoMethod));
        }
        let methods = cursor.take(count.into())?;
        let offers = |method: Method| methods.contains(&(method as u8));
        Ok(Greeting { none: offers(Method::None), password: offers(Method::Password) })
    })
}

/// Reads user and password (RFC 1929 §2). Either may be empty: that is for the check of the password to refuse.
///
/// # Errors
/// For another version.
pub fn login(bytes: &[u8]) -> Read<Login> {
    let mut cursor = Cursor::new(bytes);
    message(&mut cursor, |cursor| {
        cursor.version(LOGIN_VERSION)?;
        let user = cursor.string()?.to_vec();
        Ok(Login { user, password: cursor.string()?.to_vec() })
    })
}

/// Reads the request (RFC 1928 §4).
///
/// # Errors
/// For another version, a reserved byte that is not zero, and an unknown address type, after which nothing can be
/// read.
pub fn request(bytes: &[u8]) -> Read<Request> {
    let mut cursor = Cursor::new(bytes);
    message(&mut cursor, |cursor| {
        cursor.version(VERSION)?;
        let is_connect = cursor.byte()? == CONNECT;
        if cursor.byte()? != 0 {
            return Err(Stop::Wrong(WireError::Reserved));
        }
        let address = match cursor.byte()? {
            IPV4 => Address::Ip(Ipv4Addr::from(cursor.array()?).into()),
            DOMAIN => Address::Domain(cursor.string()?.to_vec()),
            IPV6 => Address::Ip(Ipv6Addr::from(cursor.array()?).into()),
            _ => return Err(Stop::Wrong(WireError::AddressType)),
        };
        Ok(Request { is_connect, address, port: u16::from_be_bytes(cursor.array()?) })
    })
}

/// Returns the reply that the connection is open, from `bound` on this side (RFC 1928 §6).
pub(crate) fn succeeded(bound: SocketAddr) -> Vec<u8> {
    let mut reply = vec![VERSION, 0, 0];
    match bound.ip().to_canonical() {
        IpAddr::V4(ip) => {
            reply.push(IPV4);
            reply.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            reply.push(IPV6);
            reply.extend(ip.octets());
        }
    }
    reply.extend(bound.port().to_be_bytes());
    reply
}

impl Greeting {
    /// Returns the method to use, if there is one. A client that can prove who it is does, even where
    /// `admits_anonymous`: it was given a password in order to be known.
    pub const fn choose(self, admits_anonymous: bool) -> Option<Method> {
        if self.password {
            Some(Method::Password)
        } else if self.none && admits_anonymous {
            Some(Method::None)
        } else {
            None
        }
    }
}

impl Request {
    /// Returns the canonical target. A name that spells an address is that address, as in any other protocol: an
    /// IPv6 address needs no brackets here, since the port stands apart.
    pub fn authority(&self) -> Option<Authority> {
        let host = match &self.address {
            Address::Ip(ip) => Host::Address(CanonicalIp::new(*ip)),
            Address::Domain(bytes) => host(bytes)?,
        };
        Some(Authority { host, port: Port::new(self.port)? })
    }
}

fn host(bytes: &[u8]) -> Option<Host> {
    let text = std::str::from_utf8(bytes).ok()?;
    match text.parse::<Ipv6Addr>() {
        Ok(ip) => Some(Host::Address(CanonicalIp::new(ip.into()))),
        Err(_) => Host::parse(text).ok(),
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, password: _ } = self;
        f.debug_struct("Login").field("user", user).finish_non_exhaustive()
    }
}

/// Why reading a message stopped.
enum Stop {
    /// It goes on after the bytes that are here.
    Short,
    Wrong(WireError),
}

/// The bytes of a message, and how far it has been read.
struct Cursor<'a> {
    rest: &'a [u8],
    length: usize,
}

fn message<'a, T>(cursor: &mut Cursor<'a>, read: impl FnOnce(&mut Cursor<'a>) -> Result<T, Stop>) -> Read<T> {
    match read(cursor) {
        Ok(value) => Ok(Some((value, cursor.length))),
        Err(Stop::Short) => Ok(None),
        Err(Stop::Wrong(error)) => Err(error),
    }
}

impl<'a> Cursor<'a> {
    const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, length: 0 }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Stop> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Stop::Short)?;
        self.rest = rest;
        self.length += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        self.take(N)?.try_into().map_err(|_| Stop::Short)
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        self.array().map(|[byte]| byte)
    }

    /// One byte of length, then as many bytes.
    fn string(&mut self) -> Result<&'a [u8], Stop> {
        let length = self.byte()?;
        self.take(length.into())
    }

    fn version(&mut self, want: u8) -> Result<(), Stop> {
        if self.byte()? == want { Ok(()) } else { Err(Stop::Wrong(WireError::Version)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name, the bytes, and what is read of them.
    type Case<'a, T> = (&'static str, &'a [u8], Result<Option<T>, WireError>);

    /// A request for `domain` at port 443.
    fn domain(domain: &[u8]) -> Vec<u8> {
        [&[5, 1, 0, 3, u8::try_from(domain.len()).unwrap()], domain, &[1, 0xbb]].concat()
    }

    #[test]
    fn greetings() {
        let offers = |none, password| Ok(Some(Greeting { none, password }));
        let cases: &[Case<'_, Greeting>] = &[
            ("none", &[5, 1, 0], offers(true, false)),
            ("password", &[5, 1, 2], offers(false, true)),
            ("both, and GSSAPI", &[5, 3, 0, 1, 2], offers(true, true)),
            ("neither", &[5, 1, 1], offers(false, false)),
            ("the methods end where they say", &[5, 1, 0, 2], offers(true, false)),
            ("not whole", &[5, 2, 0], Ok(None)),
            ("nothing", &[], Ok(None)),
            ("no method", &[5, 0], Err(WireError::NoMethod)),
            ("another version", &[6, 1, 0], Err(WireError::Version)),
        ];
        for (name, bytes, want) in cases {
            assert_eq!(greeting(bytes).map(|read| read.map(|(message, _)| message)), *want, "{name}");
        }
    }

    #[test]
    fn a_client_that_can_prove_itself_does() {
        // none offered, password offered, anonymous admitted
        for (none, password, admits_anonymous, want) in [
            (true, false, false, None),
            (true, false, true, Some(Method::None)),
            (false, true, false, Some(Method::Password)),
            (false, true, true, Some(Method::Password)),
            (true, true, false, Some(Method::Password)),
            (true, true, true, Some(Method::Password)),
            (false, false, true, None),
        ] {
            let got = Greeting { none, password }.choose(admits_anonymous);
            assert_eq!(got, want, "{none} {password} {admits_anonymous}");
        }
    }

    #[test]
    fn logins() {
        let of = |user: &[u8], password: &[u8]| {
            Ok(Some(Login { user: user.to_vec(), password: password.to_vec() }))
        };
        let long = [&[1, 255][..], &[b'u'; 255], &[255], &[b'p'; 255]].concat();
        let cases: &[Case<'_, Login>] = &[
            ("plain", b"\x01\x03app\x06secret", of(b"app", b"secret")),
            ("empty", b"\x01\0\0", of(b"", b"")),
            ("any bytes", b"\x01\x02\0\xff\x01\n", of(b"\0\xff", b"\n")),
            ("longest", &long, of(&[b'u'; 255], &[b'p'; 255])),
            ("what follows is not part of it", b"\x01\x01a\x01bX", of(b"a", b"b")),
            ("not whole", b"\x01\x03app\x06secre", Ok(None)),
            ("another version", b"\x05\x03app\x06secret", Err(WireError::Version)),
        ];
        for (name, bytes, want) in cases {
            assert_eq!(login(bytes).map(|read| read.map(|(message, _)| message)), *want, "{name}");
        }
        assert_eq!(long.len(), MESSAGE_BYTES_MAX);
        assert!(!format!("{:?}", login(b"\x01\x03app\x06secret")).contains("password: ["));
    }

    #[test]
    fn requests_and_their_targets() {
        let ipv6 = |last: &[u8]| {
            let zeroes = vec![0; 16 - 4 - last.len()];
            [&[5, 1, 0, 4, 0x20, 1, 0xd, 0xb8], &zeroes[..], last, &[0, 80]].concat()
        };
        let mapped = [&[5, 1, 0, 4][..], &[0; 10], &[255, 255, 192, 0, 2, 1], &[0, 80]].concat();
        let long = [&[b'a'; 63][..], b".", &[b'b'; 63], b".", &[b'c'; 63], b".", &[b'd'; 61]].concat();
        let longest = format!("{}:443", String::from_utf8_lossy(&long));
        let cases: &[(&str, Vec<u8>, Option<&str>)] = &[
            ("IPv4", vec![5, 1, 0, 1, 10, 0, 0, 1, 1, 0xbb], Some("10.0.0.1:443")),
            ("IPv6", ipv6(&[1]), Some("[2001:db8::1]:80")),
            ("IPv4-mapped", mapped, Some("192.0.2.1:80")),
            ("a name", domain(b"Example.COM."), Some("example.com:443")),
            ("the longest name", domain(&long), Some(&longest)),
            ("IPv4 as a name", domain(b"10.0.0.1"), Some("10.0.0.1:443")),
            ("IPv6 as a name", domain(b"2001:db8::1"), Some("[2001:db8::1]:443")),
            ("IPv6 in brackets", domain(b"[2001:db8::1]"), Some("[2001:db8::1]:443")),
            ("IPv4-mapped as a name", domain(b"::ffff:192.0.2.1"), Some("192.0.2.1:443")),
            ("empty", domain(b""), None),
            ("too long", domain(&[b'a'; 255]), None),
            ("NUL", domain(b"evil.test\0.example.org"), None),
            ("line break", domain(b"example.com\r\nX: y"), None),
            ("not ASCII", domain("exämple.com".as_bytes()), None),
            ("not UTF-8", domain(b"\xff.example.com"), None),
            ("two parts", domain(b"127.1"), None),
            ("decimal", domain(b"2130706433"), None),
            ("octal", domain(b"0177.0.0.1"), None),
            ("hexadecimal", domain(b"0x7f.1"), None),
            ("zone", domain(b"fe80::1%eth0"), None),
            ("a port", domain(b"example.com:443"), None),
            ("userinfo", domain(b"a@example.com"), None),
            ("space", domain(b"example.com "), None),
            ("port zero", vec![5, 1, 0, 1, 10, 0, 0, 1, 0, 0], None),
        ];
        for (name, bytes, want) in cases {
            let (message, length) = request(bytes).unwrap().unwrap();
            assert_eq!((message.is_connect, length), (true, bytes.len()), "{name}");
            assert_eq!(message.authority().map(|a| a.to_string()).as_deref(), *want, "{name}");
        }
    }

    #[test]
    fn requests_that_are_none() {
        for (name, bytes, want) in [
            ("version", &[4, 1, 0, 1][..], Err(WireError::Version)),
            ("reserved", &[5, 1, 1, 1], Err(WireError::Reserved)),
            ("address type 0", &[5, 1, 0, 0], Err(WireError::AddressType)),
            ("address type 2", &[5, 1, 0, 2], Err(WireError::AddressType)),
            ("address type 5", &[5, 1, 0, 5], Err(WireError::AddressType)),
            ("not whole", &[5, 1, 0, 1, 10, 0, 0, 1, 1], Ok(None)),
        ] {
            assert_eq!(request(bytes), want, "{name}");
        }
        for command in [0, 2, 3, 255] {
            let (message, _) = request(&[5, command, 0, 1, 10, 0, 0, 1, 0, 80]).unwrap().unwrap();
            assert!(!message.is_connect, "{command}");
        }
    }

    #[test]
    fn success_names_what_was_bound() {
        for (bound, want) in [
            ("192.0.2.1:258", &[5, 0, 0, 1, 192, 0, 2, 1, 1, 2][..]),
            ("[::ffff:192.0.2.1]:258", &[5, 0, 0, 1, 192, 0, 2, 1, 1, 2]),
            ("[::1]:1", &[5, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1]),
        ] {
            assert_eq!(succeeded(bound.parse().unwrap()), want, "{bound}");
        }
    }
}
