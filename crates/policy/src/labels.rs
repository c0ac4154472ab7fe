//! Labels: what is known of a principal besides its name, and what policies bind to.

use std::fmt;
use std::sync::Arc;

/// One label key. The set is closed: a policy that binds to a misspelt key must not load.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Label {
    /// The organization that owns the workload.
    Organization,
    /// The space (namespace, project) inside the organization.
    Space,
    /// The application.
    App,
    /// One running copy of the application.
    Instance,
    /// The class of data the workload handles.
    Class,
    /// The phase it runs in, such as `staging` or `running`.
    Lifecycle,
}

impl Label {
    /// Every key, in the order they are shown.
    pub const ALL: [Self; 6] =
        [Self::Organization, Self::Space, Self::App, Self::Instance, Self::Class, Self::Lifecycle];

    /// The key as written in configuration and audit records.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::Space => "space",
            Self::App => "app",
            Self::Instance => "instance",
            Self::Class => "class",
            Self::Lifecycle => "lifecycle",
        }
    }

    /// Returns the label with this key, or `None`.
    #[must_use]
    pub fn parse(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|label| label.key() == key)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

/// A value for some of the label keys.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Labels {
    values: [Option<Arc<str>>; Label::ALL.len()],
}

impl Labels {
    /// Sets one label, replacing an earlier value.
    pub fn set(&mut self, label: Label, value: impl Into<Arc<str>>) {
        if let Some(slot) = self.values.get_mut(label as usize) {
            *slot = Some(value.into());
        }
    }

    /// Returns the value of one label.
    #[must_use]
    pub fn get(&self, label: Label) -> Option<&str> {
        self.values.get(label as usize)?.as_deref()
    }

    /// Iterates over the labels that are set, in the order of [`Label::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Label, &str)> {
        Label::ALL.into_iter().filter_map(|label| Some((label, self.get(label)?)))
    }

    /// Returns whether no label is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Returns whether `other` has every label of `self` with the same value. A selector with
    /// no labels selects nothing: an empty `bind` must not bind a policy to everyone.
    #[must_use]
    pub fn selects(&self, other: &Self) -> bool {
        !self.is_empty() && self.iter().all(|(label, value)| other.get(label) == Some(value))
    }
}

impl<V: Into<Arc<str>>> FromIterator<(Label, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (Label, V)>>(pairs: I) -> Self {
        let mut labels = Self::default();
        for (label, value) in pairs {
            labels.set(label, value);
        }
        labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(Label, &str)]) -> Labels {
        pairs.iter().copied().collect()
    }

    #[test]
    fn a_selector_needs_every_one_of_its_labels() {
        let app = labels(&[(Label::Organization, "gsa"), (Label::Space, "prod")]);
        assert!(labels(&[(Label::Space, "prod")]).selects(&app));
        assert!(labels(&[(Label::Space, "prod"), (Label::Organization, "gsa")]).selects(&app));
        assert!(!labels(&[(Label::Space, "prod"), (Label::App, "x")]).selects(&app));
        assert!(!labels(&[(Label::Space, "PROD")]).selects(&app));
        assert!(!Labels::default().selects(&app), "an empty selector selects nothing");
    }
}
