//! What one flow may come to: how long it may be idle, how old it may become, how much it may move.

use std::fmt;
use std::time::Duration;

use exeat_model::duration_text;

use crate::reason::Reason;

/// What one flow, a tunnel or a forwarded request with its response, may come to at most. What is not set has no bound
/// here.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Caps {
    /// How long it may be without a byte in either direction.
    pub idle_timeout: Option<Duration>,
    /// How old it may become.
    pub max_age: Option<Duration>,
    /// Bytes that it may send upstream: those of a tunnel, or of a request's body.
    pub max_bytes_up: Option<u64>,
    /// Bytes that it may bring back: those of a tunnel, or of a response's body.
    pub max_bytes_down: Option<u64>,
}

/// One bound with its value.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Cap {
    /// [`Caps::idle_timeout`].
    IdleTimeout(Duration),
    /// [`Caps::max_age`].
    MaxAge(Duration),
    /// [`Caps::max_bytes_up`].
    MaxBytesUp(u64),
    /// [`Caps::max_bytes_down`].
    MaxBytesDown(u64),
}

impl Caps {
    /// Returns these bounds, with what is not set taken from `outer`.
    #[must_use]
    pub fn or(self, outer: Self) -> Self {
        Self {
            idle_timeout: self.idle_timeout.or(outer.idle_timeout),
            max_age: self.max_age.or(outer.max_age),
            max_bytes_up: self.max_bytes_up.or(outer.max_bytes_up),
            max_bytes_down: self.max_bytes_down.or(outer.max_bytes_down),
        }
    }

    /// Returns the bounds of a flow for which both hold: of each kind the lower one.
    #[must_use]
    pub fn strictest(self, other: Self) -> Self {
        Self {
            idle_timeout: lower(self.idle_timeout, other.idle_timeout),
            max_age: lower(self.max_age, other.max_age),
            max_bytes_up: lower(self.max_bytes_up, other.max_bytes_up),
            max_bytes_down: lower(self.max_bytes_down, other.max_bytes_down),
        }
    }

    /// Returns the bounds that are set.
    pub fn iter(&self) -> impl Iterator<Item = Cap> + use<> {
        let caps = [
            self.idle_timeout.map(Cap::IdleTimeout),
            self.max_age.map(Cap::MaxAge),
            self.max_bytes_up.map(Cap::MaxBytesUp),
            self.max_bytes_down.map(Cap::MaxBytesDown),
        ];
        caps.into_iter().flatten()
    }

    /// Returns whether these bounds end a flow that goes beyond `cap`.
    #[must_use]
    pub fn end_beyond(&self, cap: Cap) -> bool {
        match cap {
            Cap::IdleTimeout(than) => self.idle_timeout.is_some_and(|own| own <= than),
            Cap::MaxAge(than) => self.max_age.is_some_and(|own| own <= than),
            Cap::MaxBytesUp(than) => self.max_bytes_up.is_some_and(|own| own <= than),
            Cap::MaxBytesDown(than) => self.max_bytes_down.is_some_and(|own| own <= than),
        }
    }

    /// The order in which rules that say the same otherwise are tried: the laxer first.
    pub(crate) fn strictness(&self) -> impl Ord + use<> {
        let of_time = |time: Option<Duration>| time.map(std::cmp::Reverse);
        let of_bytes = |bytes: Option<u64>| bytes.map(std::cmp::Reverse);
        (
            of_time(self.max_age),
            of_bytes(self.max_bytes_up),
            of_bytes(self.max_bytes_down),
            of_time(self.idle_timeout),
        )
    }
}

/// The lower of two bounds; one that is not set bounds nothing.
fn lower<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

impl Cap {
    /// Returns the key used in configuration.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::IdleTimeout(_) => "idle_timeout",
            Self::MaxAge(_) => "max_age",
            Self::MaxBytesUp(_) => "max_bytes_up",
            Self::MaxBytesDown(_) => "max_bytes_down",
        }
    }

    /// Returns why a flow ends that goes beyond the bound.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::IdleTimeout(_) => Reason::IdleTimeout,
            Self::MaxAge(_) => Reason::MaxAge,
            Self::MaxBytesUp(_) | Self::MaxBytesDown(_) => Reason::MaxBytes,
        }
    }
}

/// As it is written in configuration: `max_age = "1h"`.
impl fmt::Display for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IdleTimeout(time) | Self::MaxAge(time) => {
                write!(f, "{} = \"{}\"", self.key(), duration_text(*time))
            }
            Self::MaxBytesUp(bytes) | Self::MaxBytesDown(bytes) => write!(f, "{} = {bytes}", self.key()),
        }
    }
}

/// The bounds that are set, separated by commas, as they are written in configuration.
impl fmt::Display for Caps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, cap) in self.iter().enumerate() {
            write!(f, "{}{cap}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(count: u64) -> Option<Duration> {
        Some(Duration::from_secs(count))
    }

    fn some() -> Caps {
        Caps { max_age: seconds(60), max_bytes_up: Some(1024), ..Caps::default() }
    }

    #[test]
    fn own_bounds_replace_outer_ones_and_of_two_that_hold_the_lower_counts() {
        let other = Caps {
            max_age: seconds(3600),
            max_bytes_up: Some(10),
            max_bytes_down: Some(7),
            idle_timeout: seconds(5),
        };
        assert_eq!(some().or(other), Caps { max_age: seconds(60), max_bytes_up: Some(1024), ..other });
        let both = Caps { max_age: seconds(60), ..other };
        assert_eq!((some().strictest(other), other.strictest(some())), (both, both));
        assert_eq!(some().strictest(Caps::default()), some());
    }

    #[test]
    fn a_flow_at_its_bound_goes_on_and_one_beyond_it_does_not() {
        for (cap, want) in [
            (Cap::MaxBytesUp(1023), false),
            (Cap::MaxBytesUp(1024), true),
            (Cap::MaxBytesUp(1025), true),
            (Cap::MaxBytesDown(1024), false),
            (Cap::MaxAge(Duration::from_secs(59)), false),
            (Cap::MaxAge(Duration::from_secs(60)), true),
            (Cap::IdleTimeout(Duration::from_secs(60)), false),
        ] {
            assert_eq!(some().end_beyond(cap), want, "{cap}");
        }
    }

    #[test]
    fn the_laxer_comes_first() {
        let lax = Caps { max_age: seconds(61), ..some() };
        let laxer = Caps { max_age: None, ..some() };
        assert!(laxer.strictness() < lax.strictness() && lax.strictness() < some().strictness());
    }

    #[test]
    fn bounds_are_shown_as_they_are_written() {
        assert_eq!(some().to_string(), "max_age = \"1m\", max_bytes_up = 1024");
        assert_eq!(Caps::default().to_string(), "");
    }
}
