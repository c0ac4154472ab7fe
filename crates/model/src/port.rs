//! Ports, ranges of ports and sets of ranges.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

/// A TCP or UDP port, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(NonZeroU16);

/// Why a text is not a port, a range or a set of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Nothing is there.
    #[error("the port is empty")]
    Empty,
    /// Something other than the digits 0 to 9: a sign, a space, another base.
    #[error("a port is written in decimal digits only")]
    NotDigits,
    /// A zero before other digits, which some parsers read as octal.
    #[error("a port has no leading zero")]
    LeadingZero,
    /// Port 0.
    #[error("0 is not a port")]
    Zero,
    /// Above 65535.
    #[error("a port is at most 65535")]
    TooLarge,
    /// A range whose end lies before its start.
    #[error("the range runs backwards: write {last}-{first}")]
    Reversed {
        /// The start as written.
        first: Port,
        /// The end as written.
        last: Port,
    },
}

impl Port {
    /// The default port of `http` (RFC 9110 §4.2.1).
    pub const HTTP: Self = Self::constant(80);
    /// The default port of `https` (RFC 9110 §4.2.2).
    pub const HTTPS: Self = Self::constant(443);

    const fn constant(number: u16) -> Self {
        match NonZeroU16::new(number) {
            Some(number) => Self(number),
            None => panic!("a constant port is not zero"),
        }
    }

    /// Returns the port with that number, or `None` for 0.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        NonZeroU16::new(number).map(Self)
    }

    /// Returns the number, 1 to 65535.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }

    /// Returns the port that `text` writes in decimal digits, with no sign, space or leading zero:
    /// each port has one spelling.
    ///
    /// # Errors
    /// The rule that `text` breaks.
    pub fn parse(text: &str) -> Result<Self, PortError> {
        if text.is_empty() {
            return Err(PortError::Empty);
        }
        if !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(PortError::NotDigits);
        }
        if text == "0" {
            return Err(PortError::Zero);
        }
        if text.starts_with('0') {
            return Err(PortError::LeadingZero);
        }
        // Only digits are left, so the one thing that can go wrong is the size.
        text.parse().map(Self).map_err(|_| PortError::TooLarge)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Port {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        Self::parse(text)
    }
}

/// The ports from one to another, both included. `first <= last` always holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: Port,
    last: Port,
}

impl PortRange {
    /// Every port, 1 to 65535.
    pub const ALL: Self = Self { first: Port::constant(1), last: Port::constant(u16::MAX) };

    /// Returns the range from `first` to `last`, both included, or `None` if it runs backwards.
    #[must_use]
    pub fn new(first: Port, last: Port) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// Returns the range that `text` writes: `8000-8010` or `443`.
    ///
    /// # Errors
    /// The rule that `text` breaks.
    pub fn parse(text: &str) -> Result<Self, PortError> {
        match text.split_once('-') {
            None => Port::parse(text).map(Self::from),
            Some((first, last)) => {
                let (first, last) = (Port::parse(first)?, Port::parse(last)?);
                Self::new(first, last).ok_or(PortError::Reversed { first, last })
            }
        }
    }

    /// Returns the lowest port.
    #[must_use]
    pub const fn first(self) -> Port {
        self.first
    }

    /// Returns the highest port.
    #[must_use]
    pub const fn last(self) -> Port {
        self.last
    }

    /// Returns whether `port` lies in the range.
    #[must_use]
    pub fn contains(self, port: Port) -> bool {
        self.first <= port && port <= self.last
    }
}

impl From<Port> for PortRange {
    fn from(port: Port) -> Self {
        Self { first: port, last: port }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl FromStr for PortRange {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        Self::parse(text)
    }
}

/// A set of ports as sorted ranges that neither overlap nor touch, so that equal sets are equal
/// values. The empty set contains nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortSet(Box<[PortRange]>);

impl PortSet {
    /// Returns the union of `ranges`, given in any order.
    pub fn from_ranges(ranges: impl IntoIterator<Item = PortRange>) -> Self {
        let mut ranges: Vec<PortRange> = ranges.into_iter().collect();
        ranges.sort_unstable();
        let mut merged: Vec<PortRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(before) if range.first.get() <= before.last.get().saturating_add(1) => {
                    before.last = before.last.max(range.last);
                }
                Some(_) | None => merged.push(range),
            }
        }
        Self(merged.into_boxed_slice())
    }

    /// Returns the set that `text` writes as ranges joined by commas, without spaces:
    /// `80,443,8000-8010`.
    ///
    /// # Errors
    /// The rule that the first wrong range breaks.
    pub fn parse(text: &str) -> Result<Self, PortError> {
        let ranges: Vec<PortRange> = text.split(',').map(PortRange::parse).collect::<Result<_, _>>()?;
        Ok(Self::from_ranges(ranges))
    }

    /// Returns whether `port` is in the set.
    #[must_use]
    pub fn contains(&self, port: Port) -> bool {
        let after = self.0.partition_point(|range| range.first <= port);
        after.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|range| range.contains(port))
    }

    /// Returns the ranges in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = PortRange> {
        self.0.iter().copied()
    }

    /// Returns whether the set contains no port.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            range.fmt(f)?;
        }
        Ok(())
    }
}

impl FromStr for PortSet {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests;
