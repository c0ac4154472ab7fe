//! Which principals are meant: one client, all that come from a workload, or all that carry a label.

use std::{fmt, str::FromStr, sync::Arc};

use exeat_identity::{Peer, Principal};
use exeat_policy::Label;

/// The longest name or value, in bytes. Clients' names and labels are shorter; what is kept must not grow with them.
const VALUE_BYTES_MAX: usize = 512;

/// Selects principals, written as `client NAME`, `workload NAME` or `label KEY=VALUE`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Selector(Selects);

#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Selects {
    Client(Arc<str>),
    Workload(Arc<str>),
    Label(Label, Arc<str>),
}

/// Why a text selects nobody.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SelectorError {
    /// It begins with neither of the two words.
    #[error("a selector is `client NAME`, `workload NAME` or `label KEY=VALUE`")]
    Form,
    /// There is no such label.
    #[error("unknown label: use organization, space, app, instance, class or lifecycle")]
    Label,
    /// The name or value is empty.
    #[error("the name or value is empty")]
    Empty,
    /// The name or value is too long.
    #[error("the name or value has more than {VALUE_BYTES_MAX} bytes")]
    TooLong,
    /// The name or value has a character that no line of a file can have.
    #[error("the name or value has a control character")]
    Control,
}

impl Selector {
    /// Selects the client of this name; `anonymous` is who sends no credentials.
    ///
    /// # Errors
    /// For a name that is empty, too long, or has control characters.
    pub fn client(name: &str) -> Result<Self, SelectorError> {
        Ok(Self(Selects::Client(check(name)?)))
    }

    /// Selects whoever comes from the workload of this name, whatever else proves who asks.
    ///
    /// # Errors
    /// For a name that is empty, too long, or has control characters.
    pub fn workload(name: &str) -> Result<Self, SelectorError> {
        Ok(Self(Selects::Workload(check(name)?)))
    }

    /// Selects every principal with this label.
    ///
    /// # Errors
    /// For a value that is empty, too long, or has control characters.
    pub fn label(label: Label, value: &str) -> Result<Self, SelectorError> {
        Ok(Self(Selects::Label(label, check(value)?)))
    }

    /// Returns whether `principal`, who is at `peer`, is meant.
    #[must_use]
    pub fn selects(&self, principal: &Principal, peer: &Peer<'_>) -> bool {
        match &self.0 {
            Selects::Client(name) => principal.name == *name,
            Selects::Workload(name) => {
                peer.workload().is_some_and(|workload| workload.principal().name == *name)
            }
            Selects::Label(label, value) => principal.labels.get(*label) == Some(value),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Selects::Client(name) => write!(f, "client {name}"),
            Selects::Workload(name) => write!(f, "workload {name}"),
            Selects::Label(label, value) => write!(f, "label {label}={value}"),
        }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        match text.split_once(' ') {
            Some(("client", name)) => Self::client(name),
            Some(("workload", name)) => Self::workload(name),
            Some(("label", pair)) => {
                let (key, value) = pair.split_once('=').ok_or(SelectorError::Form)?;
                Self::label(Label::parse(key).ok_or(SelectorError::Label)?, value)
            }
            Some(_) | None => Err(SelectorError::Form),
        }
    }
}

fn check(text: &str) -> Result<Arc<str>, SelectorError> {
    match text.len() {
        0 => Err(SelectorError::Empty),
        1..=VALUE_BYTES_MAX if text.chars().any(char::is_control) => Err(SelectorError::Control),
        1..=VALUE_BYTES_MAX => Ok(text.into()),
        _ => Err(SelectorError::TooLong),
    }
}

#[cfg(test)]
mod tests {
    use exeat_identity::Proof;
    use exeat_policy::{Bound, Labels};

    use super::*;

    #[test]
    fn selectors_are_written_as_they_are_read() {
        let long = "x".repeat(VALUE_BYTES_MAX + 1);
        for (text, want) in [
            ("client app", Ok(())),
            ("client a name with spaces", Ok(())),
            ("workload batch", Ok(())),
            ("workload ", Err(SelectorError::Empty)),
            ("label space=prod", Ok(())),
            ("label space=a=b", Ok(())),
            ("client ", Err(SelectorError::Empty)),
            ("client", Err(SelectorError::Form)),
            ("app", Err(SelectorError::Form)),
            ("", Err(SelectorError::Form)),
            ("label space", Err(SelectorError::Form)),
            ("label space=", Err(SelectorError::Empty)),
            ("label Space=prod", Err(SelectorError::Label)),
            ("client a\nclient b", Err(SelectorError::Control)),
            (&format!("client {long}"), Err(SelectorError::TooLong)),
        ] {
            let parsed = text.parse::<Selector>();
            assert_eq!(parsed.clone().map(drop), want, "{text}");
            if let Ok(selector) = parsed {
                assert_eq!(selector.to_string(), text);
            }
        }
    }

    #[test]
    fn a_selector_means_those_with_the_name_or_the_label() {
        let principal = Principal {
            name: "app".into(),
            proof: Proof::Password,
            labels: [(Label::Space, "prod")].into_iter().collect::<Labels>(),
            bound: Bound::default(),
            token: None,
        };
        for (text, want) in [
            ("client app", true),
            ("client ap", false),
            ("client App", false),
            ("label space=prod", true),
            ("label space=prod2", false),
            ("label app=prod", false),
        ] {
            assert_eq!(
                text.parse::<Selector>().unwrap().selects(&principal, &Peer::default()),
                want,
                "{text}"
            );
        }
    }
}
