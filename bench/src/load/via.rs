//! How the origin is reached.

use std::net::SocketAddr;
use std::str::FromStr;

use anyhow::{Context, Error, bail, ensure};

/// The way to the origin. Credentials are always the same ones.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Via {
    /// Without a proxy.
    Direct,
    /// CONNECT or absolute-form over HTTP/1.1.
    Http(SocketAddr),
    /// The same through TLS.
    Https(SocketAddr),
    /// CONNECT over HTTP/2 through TLS.
    Http2(SocketAddr),
    /// SOCKS5 with a password.
    Socks5(SocketAddr),
    /// Straight to the address that this name server tells, which stands for the name.
    StandIn(SocketAddr),
}

impl FromStr for Via {
    type Err = Error;

    /// Reads `direct` or `SCHEME://ADDRESS:PORT` with one of `http`, `https`, `h2`, `socks5` and `dns`. The address must be
    /// a loopback one: nothing here puts load on anybody else.
    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "direct" {
            return Ok(Self::Direct);
        }
        let (scheme, address) = text.split_once("://").context("no scheme")?;
        let at: SocketAddr =
            address.parse().with_context(|| format!("`{address}` is no address and port"))?;
        ensure!(at.ip().is_loopback(), "{at} is not on this machine");
        Ok(match scheme {
            "http" => Self::Http(at),
            "https" => Self::Https(at),
            "h2" => Self::Http2(at),
            "socks5" => Self::Socks5(at),
            "dns" => Self::StandIn(at),
            _ => bail!("there is no way `{scheme}`"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_are_ways() {
        let at = SocketAddr::from(([127, 0, 0, 1], 3128));
        for (text, want) in [
            ("direct", Some(Via::Direct)),
            ("http://127.0.0.1:3128", Some(Via::Http(at))),
            ("https://127.0.0.1:3128", Some(Via::Https(at))),
            ("h2://127.0.0.1:3128", Some(Via::Http2(at))),
            ("socks5://127.0.0.1:3128", Some(Via::Socks5(at))),
            ("dns://127.0.0.1:3128", Some(Via::StandIn(at))),
            ("http://10.0.0.1:3128", None),
            ("http://proxy:3128", None),
            ("ftp://127.0.0.1:3128", None),
            ("127.0.0.1:3128", None),
        ] {
            assert_eq!(text.parse::<Via>().ok(), want, "{text}");
        }
    }
}
