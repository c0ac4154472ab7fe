//! The names that a rule covers.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::name::{DnsName, NameError};

/// The names that a rule covers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamePattern {
    /// `example.com`: that name alone.
    Exact(DnsName),
    /// `*.example.com`: every name below it, at any depth, and not `example.com` itself.
    Subdomains(DnsName),
    /// `*`: every name.
    Any,
}

/// Why a text is not a name pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// The name, without its wildcard, is malformed.
    #[error("not a name")]
    Name(#[source] NameError),
    /// A `*` that is not the whole first label.
    #[error("'*' can only be the whole first label, as in *.example.com")]
    Wildcard,
    /// An address, a network, or text that some resolvers read as an IPv4 address.
    #[error("an address, not a name")]
    LooksLikeAddress,
    /// A URL, or a name followed by a path.
    #[error("a URL, not a name: write {host}")]
    LooksLikeUrl {
        /// The part of the text where a URL has its host.
        host: String,
    },
}

impl NamePattern {
    /// Returns the pattern that `text` writes: `example.com`, `*.example.com` or `*`.
    ///
    /// Whether a rule may use `*`, or a wildcard on a public suffix, is for the rule to say.
    ///
    /// # Errors
    /// What `text` seems to be instead.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if looks_like_address(text) {
            return Err(PatternError::LooksLikeAddress);
        }
        if text.contains('/') {
            return Err(PatternError::LooksLikeUrl { host: url_host(text).to_owned() });
        }
        let below = text.strip_prefix("*.");
        let name = below.unwrap_or(text);
        if name.contains('*') {
            return Err(PatternError::Wildcard);
        }
        let name = DnsName::parse(name).map_err(|error| match error {
            NameError::NumericLastLabel => PatternError::LooksLikeAddress,
            NameError::Empty
            | NameError::TooLong { .. }
            | NameError::EmptyLabel
            | NameError::LabelTooLong { .. }
            | NameError::NotAscii
            | NameError::Character { .. }
            | NameError::Hyphen => PatternError::Name(error),
        })?;
        Ok(if below.is_some() { Self::Subdomains(name) } else { Self::Exact(name) })
    }

    /// Returns whether the pattern covers `name`.
    #[must_use]
    pub fn matches(&self, name: &DnsName) -> bool {
        match self {
            Self::Exact(exact) => name == exact,
            Self::Subdomains(parent) => name.is_below(parent),
            Self::Any => true,
        }
    }
}

/// An address with or without brackets, or the network that starts with one.
fn looks_like_address(text: &str) -> bool {
    let first = text.split_once('/').map_or(text, |(address, _)| address);
    let bare = first.strip_prefix('[').map_or(first, |rest| rest.strip_suffix(']').unwrap_or(rest));
    bare.parse::<IpAddr>().is_ok()
}

/// The host part of a URL's text, or what stands where it would be.
fn url_host(text: &str) -> &str {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest).trim_start_matches('/');
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let host_port = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host_port.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        Some(_) | None => host_port,
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => name.fmt(f),
            Self::Subdomains(parent) => write!(f, "*.{parent}"),
            Self::Any => f.write_str("*"),
        }
    }
}

impl FromStr for NamePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests;
