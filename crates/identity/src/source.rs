//! Where connections and questions come from, as far as they are counted together.

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

/// Where connections come from. An IPv6 host chooses the last 64 bits of its address (RFC 4862, RFC 8981) and could
/// choose others each time: all of such a network are one source.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Source {
    /// A host.
    V4(Ipv4Addr),
    /// A network, by its first 64 bits.
    V6Network(u64),
    /// A user of this host who came by loopback.
    User(u32),
    /// A user who came by a unix socket, which is known by the hash of its path; `None` is everyone who has no number here.
    /// Containers that have sockets of their own may all run as one user.
    UserBy(u64, Option<u32>),
}

impl Source {
    /// Returns the user who came by the unix socket at `path`.
    #[must_use]
    pub fn by_socket(path: &Path, user: Option<u32>) -> Self {
        // The operator chooses paths: nobody makes two have one hash.
        Self::UserBy(BuildHasherDefault::<DefaultHasher>::default().hash_one(path), user)
    }
}

impl From<IpAddr> for Source {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip),
            IpAddr::V6(ip) => Self::V6Network(network(ip)),
        }
    }
}

/// The first 64 bits.
fn network(ip: Ipv6Addr) -> u64 {
    let [a, b, c, d, ..] = ip.segments();
    [a, b, c, d].into_iter().fold(0, |bits, segment| bits << 16 | u64::from(segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_told_apart_by_how_they_came() {
        let by = |path: &str, user| Source::by_socket(Path::new(path), user);
        assert_eq!(by("/run/a", Some(0)), by("/run/a", Some(0)));
        for (case, other) in [
            ("another user", by("/run/a", Some(1))),
            ("one without a number", by("/run/a", None)),
            ("by another socket", by("/run/b", Some(0))),
            ("by loopback", Source::User(0)),
        ] {
            assert_ne!(by("/run/a", Some(0)), other, "{case}");
        }
    }

    #[test]
    fn addresses_of_one_host_are_one_source() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        for (one, other, want) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2", false),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
        ] {
            assert_eq!(source(one) == source(other), want, "{one} and {other}");
        }
    }
}
