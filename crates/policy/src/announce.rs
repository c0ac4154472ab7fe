//! What the other side of an upstream connection is told of the client. How it is told is not known here.

/// What a PROXY header (version 2) at the start of an upstream connection says. Nothing is sent unless an operator asks
/// for it: it gives the client's address away.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Announce {
    /// There is no header.
    #[default]
    Nothing,
    /// Where the client is, the address that it reached, and the request's id.
    Client,
    /// The same and who the client is.
    ClientAndPrincipal,
}

impl Announce {
    /// Every value, as it is shown to people.
    pub const ALL: [Self; 3] = [Self::Nothing, Self::Client, Self::ClientAndPrincipal];

    /// The word used in configuration.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Nothing => "off",
            Self::Client => "v2",
            Self::ClientAndPrincipal => "v2-principal",
        }
    }

    /// Returns the value written as `word`, or `None`.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|announce| announce.word() == word)
    }
}
