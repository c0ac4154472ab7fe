//! The class of data that a rule is meant for.

/// A class of data with rules of its own. Who handles data of a class reaches only what is marked for it, over TLS.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Class {
    /// Health data under HIPAA.
    Hipaa,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 1] = [Self::Hipaa];

    /// The word used in configuration, and as the value of the label `class`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Hipaa => "hipaa",
        }
    }

    /// Returns the value written as `word`, or `None`.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.word() == word)
    }
}
