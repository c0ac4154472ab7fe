//! The transports that an entry is for.

use exeat_model::Transport;

/// One transport, or all.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Transports {
    /// This one alone.
    Only(Transport),
    /// Every one.
    Any,
}

impl Transports {
    /// Every value, in the order in which they are told.
    pub const ALL: [Self; 3] = [Self::Only(Transport::Tcp), Self::Only(Transport::Udp), Self::Any];

    /// What an allow without a transport means: what a proxy relays.
    pub const TCP: Self = Self::Only(Transport::Tcp);

    /// The word used in configuration.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Only(transport) => transport.word(),
            Self::Any => "any",
        }
    }

    /// Returns the value written as `word`, or `None`.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|transports| transports.word() == word)
    }

    /// Returns whether `transport` is one of them.
    #[must_use]
    pub fn contains(self, transport: Transport) -> bool {
        match self {
            Self::Only(only) => only == transport,
            Self::Any => true,
        }
    }
}
