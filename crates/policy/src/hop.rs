//! Next hops: other proxies through which the traffic of a policy leaves. Where they are is known here; how they are
//! spoken to, and with which credentials, is not.

use std::sync::Arc;

use exeat_model::Authority;

use crate::place::Place;

/// Who resolves a name that leaves through a next hop.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Resolve {
    /// The next hop alone. What a rule says of addresses cannot be checked here.
    #[default]
    NextHop,
    /// Here too, to check the addresses. The next hop is still given the name.
    Local,
}

impl Resolve {
    /// The word used in configuration.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::NextHop => "next_hop",
            Self::Local => "local",
        }
    }

    /// Returns the value written as `word`, or `None`.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::NextHop, Self::Local].into_iter().find(|r| r.word() == word)
    }
}

/// A next hop, as read from configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HopSpec {
    /// The name that policies and records use.
    pub name: Arc<str>,
    /// Where it was written.
    pub place: Place,
    /// Where it listens. A name is resolved as infrastructure.
    pub endpoint: Authority,
}

impl HopSpec {
    /// Returns whether this is the same hop as `other`, perhaps of another snapshot and written elsewhere.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        (&self.name, &self.endpoint) == (&other.name, &other.endpoint)
    }
}

/// What a policy says of its way out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NextHop {
    /// The name of a next hop.
    pub name: String,
    /// Who resolves.
    pub resolve: Resolve,
}

/// A policy's way out, compiled.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Way {
    pub(crate) hop: Arc<HopSpec>,
    pub(crate) resolve: Resolve,
}

impl Way {
    /// Returns the next hop.
    #[must_use]
    pub fn hop(&self) -> &Arc<HopSpec> {
        &self.hop
    }

    /// Returns who resolves.
    #[must_use]
    pub fn resolve(&self) -> Resolve {
        self.resolve
    }
}
