//! What a client asks to reach: `host:port`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::address::CanonicalIp;
use crate::name::{DnsName, NameError};
use crate::port::{Port, PortError};

/// A destination's host: a name, or an address given as such.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A DNS name.
    Name(DnsName),
    /// An address literal.
    Address(CanonicalIp),
}

/// A host and a port (RFC 9110 §7.2, RFC 9112 §3.2.3), never with userinfo.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Authority {
    /// The host asked for.
    pub host: Host,
    /// The port asked for.
    pub port: Port,
}

/// Why a text is not an authority.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// A byte outside ASCII. Such text is refused, not mapped, because mappings differ.
    #[error("the authority is not ASCII")]
    NotAscii,
    /// An `@`: userinfo is refused (RFC 9110 §4.2.4).
    #[error("the authority has userinfo")]
    Userinfo,
    /// The text after the colon is not a port.
    #[error("malformed port")]
    Port(#[source] PortError),
    /// No port is given and none is implied.
    #[error("the port is missing")]
    PortMissing,
    /// Brackets around something other than an IPv6 address, an IPv6 address without them, or
    /// brackets that do not match (RFC 3986 §3.2.2).
    #[error("brackets belong around an IPv6 address and nothing else")]
    Brackets,
    /// The host is neither an address nor a name.
    #[error("malformed host name")]
    Name(#[source] NameError),
    /// The host is a malformed address, or an IPv4 address in a form that only some parsers read.
    #[error("malformed or ambiguous address")]
    Address,
    /// An IPv6 zone identifier (RFC 6874), which has no meaning for another host.
    #[error("zone identifiers are not accepted")]
    ZoneId,
}

impl Host {
    /// Returns the host that `text` writes: a name, an IPv4 address in four decimal parts, or an
    /// IPv6 address in brackets.
    ///
    /// # Errors
    /// The rule that `text` breaks.
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        check_characters(text)?;
        match text.strip_prefix('[') {
            Some(rest) => bracketed(rest.strip_suffix(']').ok_or(AuthorityError::Brackets)?),
            None if is_bare_ipv6(text) => Err(AuthorityError::Brackets),
            None => unbracketed(text),
        }
    }
}

impl Authority {
    /// Returns the authority that `text` writes, with `default_port` where `text` has no port. A
    /// colon without a port after it is an error even then.
    ///
    /// # Errors
    /// The rule that `text` breaks.
    pub fn parse(text: &str, default_port: Option<Port>) -> Result<Self, AuthorityError> {
        check_characters(text)?;
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (inside, after) = rest.split_once(']').ok_or(AuthorityError::Brackets)?;
                let port = match after.strip_prefix(':') {
                    Some(port) => Some(port),
                    None if after.is_empty() => None,
                    None => return Err(AuthorityError::Brackets),
                };
                (bracketed(inside)?, port)
            }
            None => {
                if is_bare_ipv6(text) {
                    return Err(AuthorityError::Brackets);
                }
                let (host, port) = match text.split_once(':') {
                    Some((host, port)) => (host, Some(port)),
                    None => (text, None),
                };
                (unbracketed(host)?, port)
            }
        };
        let port = match port {
            Some(port) => Port::parse(port).map_err(AuthorityError::Port)?,
            None => default_port.ok_or(AuthorityError::PortMissing)?,
        };
        Ok(Self { host, port })
    }

    /// [`Authority::parse`] of bytes as they stand on the wire.
    ///
    /// # Errors
    /// The rule that `bytes` break; [`AuthorityError::NotAscii`] for anything that is not ASCII.
    pub fn parse_bytes(bytes: &[u8], default_port: Option<Port>) -> Result<Self, AuthorityError> {
        if !bytes.is_ascii() {
            return Err(AuthorityError::NotAscii);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| AuthorityError::NotAscii)?;
        Self::parse(text, default_port)
    }
}

fn check_characters(text: &str) -> Result<(), AuthorityError> {
    if !text.is_ascii() {
        return Err(AuthorityError::NotAscii);
    }
    if text.contains('@') {
        return Err(AuthorityError::Userinfo);
    }
    Ok(())
}

/// The text between brackets: an IPv6 address in any spelling of RFC 4291 §2.2.
fn bracketed(inside: &str) -> Result<Host, AuthorityError> {
    if inside.contains('%') {
        return Err(AuthorityError::ZoneId);
    }
    match inside.parse::<Ipv6Addr>() {
        Ok(address) => Ok(Host::Address(CanonicalIp::new(IpAddr::V6(address)))),
        Err(_) if inside.contains(':') => Err(AuthorityError::Address),
        Err(_) => Err(AuthorityError::Brackets),
    }
}

/// A host without brackets. A text whose last label is a number is an IPv4 address in four decimal
/// parts or nothing: `127.1` and `0177.0.0.1` mean different addresses to different parsers.
fn unbracketed(text: &str) -> Result<Host, AuthorityError> {
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Address(CanonicalIp::new(IpAddr::V4(address))));
    }
    DnsName::parse(text).map(Host::Name).map_err(|error| match error {
        NameError::NumericLastLabel => AuthorityError::Address,
        NameError::Empty
        | NameError::TooLong { .. }
        | NameError::EmptyLabel
        | NameError::LabelTooLong { .. }
        | NameError::NotAscii
        | NameError::Character { .. }
        | NameError::Hyphen => AuthorityError::Name(error),
    })
}

fn is_bare_ipv6(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok()
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Address(address) => match address.get() {
                IpAddr::V4(address) => write!(f, "{address}"),
                IpAddr::V6(address) => write!(f, "[{address}]"),
            },
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for Host {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Self, AuthorityError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests;
