//! What opened a flow, kept so that a rule which comes later can be held against it.

use exeat_model::{Authority, DnsName, Host};
use exeat_policy::{Expect, OpeningRule};

/// For whom the first bytes of a flow spoke.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Spoken {
    /// TLS, for this server name if there was one.
    Tls(Option<DnsName>),
    /// HTTP/1, for this host.
    Http(Host),
    /// Neither, or nothing yet, or it could not be told. Only a rule that takes anything lets that through.
    Unknown,
}

impl Spoken {
    /// Whether it speaks for `host`.
    pub(crate) fn is_for(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Tls(Some(name)), Host::Name(asked)) => name == asked,
            (Self::Http(said), _) => said == host,
            (Self::Tls(_) | Self::Unknown, _) => false,
        }
    }

    /// Whether this is what `rule` wants of a flow to `target`. What could not be told satisfies no rule
    /// that wants something.
    pub(crate) fn satisfies(&self, rule: &OpeningRule, target: &Authority) -> bool {
        match (rule.expect(), self) {
            (Expect::Any, Self::Tls(_) | Self::Http(_) | Self::Unknown) => true,
            (Expect::Tls, Self::Tls(None)) => rule.literal(),
            (Expect::Tls, Self::Tls(Some(name))) => rule.accepts_name(name),
            (Expect::Tls, Self::Http(_) | Self::Unknown) => false,
            (Expect::Http, Self::Http(Host::Name(name))) => !rule.literal() && rule.accepts_name(name),
            (Expect::Http, Self::Http(address @ Host::Address(_))) => *address == target.host,
            (Expect::Http, Self::Tls(_) | Self::Unknown) => false,
        }
    }
}
