//! One line of a policy: a destination, and what else must hold.

use std::fmt;
use std::net::IpAddr;

use exeat_model::{
    BlockError, DnsName, IpBlock, NamePattern, PatternError, PortError, PortRange, PortSet, SuffixKind,
    suffix_kind,
};

use crate::announce::Announce;
use crate::caps::Caps;
use crate::class::Class;
use crate::transports::Transports;

/// What an entry speaks of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Destination {
    /// Names that match a pattern.
    Name(NamePattern),
    /// Targets given as addresses; on a deny list also what names resolve to.
    Network(IpBlock),
    /// Any name or address that is globally reachable.
    AnyPublic,
    /// Every entry of a named group.
    Group(String),
}

/// What must open a connection before a byte of it goes upstream.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Expect {
    /// TLS, with a server name equal to the asked name.
    Tls,
    /// HTTP/1, with a Host equal to the asked name.
    Http,
    /// Anything; the server may speak first.
    Any,
}

impl Expect {
    /// The word used in configuration.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Any => "any",
        }
    }

    /// Returns the value written as `word`, or `None`.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Tls, Self::Http, Self::Any].into_iter().find(|e| e.word() == word)
    }
}

/// What to do with an answer that mixes allowed and forbidden addresses.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Answers {
    /// Refuse the whole answer.
    #[default]
    Refuse,
    /// Drop the forbidden addresses and use the rest.
    Filter,
}

impl Answers {
    /// The word used in configuration.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Filter => "filter",
        }
    }

    /// Returns the value written as `word`, or `None`.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Refuse, Self::Filter].into_iter().find(|a| a.word() == word)
    }
}

/// The settings that an entry may carry and that a group or a policy may set for its entries.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Defaults {
    /// The ports; an allow without means 80 and 443, a deny without means every port.
    pub ports: Option<PortSet>,
    /// The transports; an allow without means TCP, a deny without means every one.
    pub transport: Option<Transports>,
    /// Where the name's addresses must lie. Without it they must be globally reachable.
    pub addresses: Option<Vec<IpBlock>>,
    /// What must open the connection; without it the port decides (443 TLS, 80 HTTP, else any).
    pub expect: Option<Expect>,
    /// What to do with mixed answers.
    pub answers: Option<Answers>,
    /// What the upstream is told of the client, where it is dialled from here.
    pub announce: Option<Announce>,
    /// Whether flows that a kernel could let through are left to a relay that looks at what opens them; without, those are
    /// that tell by it which of several names of one address they are for.
    pub verify: Option<bool>,
    /// The class of data that it is for, besides all other use.
    pub class: Option<Class>,
    /// What each flow may come to.
    pub caps: Caps,
}

impl Defaults {
    /// Returns these settings, with what is not set taken from `outer`.
    #[must_use]
    pub fn or(&self, outer: &Self) -> Self {
        Self {
            ports: self.ports.clone().or_else(|| outer.ports.clone()),
            transport: self.transport.or(outer.transport),
            addresses: self.addresses.clone().or_else(|| outer.addresses.clone()),
            expect: self.expect.or(outer.expect),
            answers: self.answers.or(outer.answers),
            announce: self.announce.or(outer.announce),
            verify: self.verify.or(outer.verify),
            class: self.class.or(outer.class),
            caps: self.caps.or(outer.caps),
        }
    }
}

/// Which list an entry stands on; the two sides accept different patterns.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// What it matches may be reached.
    Allow,
    /// What it matches may not be reached, whatever else allows it.
    Deny,
}

/// One entry of a list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// What it speaks of.
    pub destination: Destination,
    /// The entry's own settings.
    pub settings: Defaults,
    /// Further server names that may open the connection besides the asked one.
    pub sni: Vec<DnsName>,
    /// Written as `{ suffix = "…" }`: the author knows that this is a whole public suffix.
    pub suffix: bool,
}

/// Why a text is not an entry.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EntryError {
    /// Nothing was written.
    #[error("an entry must not be empty")]
    Empty,
    /// The host is not a pattern.
    #[error("`{text}` is not a host pattern")]
    Pattern {
        /// What was written.
        text: String,
        /// Why.
        #[source]
        source: PatternError,
    },
    /// A URL was written where a host is meant.
    #[error("`{text}` is a URL, not a host")]
    Url {
        /// What was written.
        text: String,
        /// The host inside, where one can be told.
        host: String,
    },
    /// The network is not a block of addresses.
    #[error("`{text}` is not a network")]
    Network {
        /// What was written.
        text: String,
        /// Why.
        #[source]
        source: BlockError,
    },
    /// The ports are not a list of ports and ranges.
    #[error("`{text}` is not a list of ports")]
    Ports {
        /// What was written.
        text: String,
        /// Why.
        #[source]
        source: PortError,
    },
    /// A group reference carries ports.
    #[error("a group reference takes no ports")]
    GroupPorts {
        /// The reference without them.
        group: String,
    },
}

impl EntryError {
    /// Returns what to write instead, where that can be told.
    #[must_use]
    pub fn correction(&self) -> Option<String> {
        match self {
            Self::Empty => Some("write a host such as \"api.example.com\", or remove the entry".into()),
            Self::Pattern { text, source } => Some(pattern_correction(text, source)),
            Self::Url { host, .. } => {
                Some(format!("write the host only: \"{host}\" (add :port if it is not 80 or 443)"))
            }
            Self::Network { source, .. } => Some(source.to_string()),
            Self::Ports { source, .. } => {
                Some(format!("{source}; write ports as \"host:8443\" or \"host:80,8000-8010\""))
            }
            Self::GroupPorts { group } => {
                Some(format!("write \"@{group}\" and set `ports` in [groups.{group}]"))
            }
        }
    }
}

fn pattern_correction(text: &str, source: &PatternError) -> String {
    match source {
        PatternError::Wildcard => {
            "write \"*.\" before a whole name, such as \"*.example.com\"; it covers every name below it"
                .into()
        }
        PatternError::LooksLikeAddress => {
            "write an address in its standard spelling, such as \"192.0.2.7\" or \"10.0.0.0/8\"".into()
        }
        PatternError::LooksLikeUrl { host } => format!("write the host only: \"{host}\""),
        PatternError::Name(name) => format!("{name} in `{text}`"),
    }
}

impl Entry {
    /// An entry with no settings of its own.
    #[must_use]
    pub fn new(destination: Destination) -> Self {
        Self { destination, settings: Defaults::default(), sni: Vec::new(), suffix: false }
    }

    /// Parses the text form of an entry.
    ///
    /// `name`, `*.name`, `*`, an address, `a.b.c.d/n`, `first-last`, `[v6 or v6 block]`,
    /// `@group` or `@any-public`; each but a group may be followed by `:ports`, where ports are
    /// separated by commas and may be ranges (`80,8000-8010`).
    ///
    /// # Errors
    /// [`EntryError`] says what is wrong and what to write instead. Whether the pattern is too
    /// wide for an allow list is told by [`crate::List::problems`], since a group does not know
    /// which side it will be used on.
    pub fn parse(text: &str) -> Result<Self, EntryError> {
        if text.trim().is_empty() {
            return Err(EntryError::Empty);
        }
        if let Some((_, rest)) = text.split_once("://") {
            return Err(url_error(text, rest));
        }
        let (host, ports) = split_ports(text);
        let mut entry = Self::new(parse_destination(text, host, ports.is_some())?);
        entry.settings.ports = ports.map(parse_ports).transpose()?;
        Ok(entry)
    }
}

/// Splits `host:ports`. A bare IPv6 address or block, which has two colons or more, has no ports.
fn split_ports(text: &str) -> (&str, Option<&str>) {
    if let Some(inner) = text.strip_prefix('[') {
        return match inner.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, rest)) => match rest.strip_prefix(':') {
                Some(ports) => (host, Some(ports)),
                None => (text, None),
            },
            None => (text, None),
        };
    }
    match text.split_once(':') {
        Some((host, ports)) if !ports.contains(':') => (host, Some(ports)),
        _ => (text, None),
    }
}

fn parse_destination(text: &str, host: &str, has_ports: bool) -> Result<Destination, EntryError> {
    if let Some(group) = host.strip_prefix('@') {
        return match (group, has_ports) {
            ("any-public", _) => Ok(Destination::AnyPublic),
            ("", _) => Err(EntryError::Empty),
            (group, true) => Err(EntryError::GroupPorts { group: group.to_owned() }),
            (group, false) => Ok(Destination::Group(group.to_owned())),
        };
    }
    if text.starts_with('[') || looks_like_network(host) {
        let block =
            IpBlock::parse(host).map_err(|source| EntryError::Network { text: text.to_owned(), source })?;
        return Ok(Destination::Network(block));
    }
    if let Some((before, _)) = host.split_once('/') {
        return Err(url_error(text, before));
    }
    let pattern =
        NamePattern::parse(host).map_err(|source| EntryError::Pattern { text: text.to_owned(), source })?;
    Ok(Destination::Name(pattern))
}

/// An address, a block, or a range of addresses; the part before `/` or `-` tells.
fn looks_like_network(host: &str) -> bool {
    let first = host.split(['/', '-']).next().unwrap_or(host);
    first.parse::<IpAddr>().is_ok() || host.contains(':')
}

fn url_error(text: &str, after_scheme: &str) -> EntryError {
    let authority = after_scheme.split(['/', '?', '#']).next().unwrap_or(after_scheme);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    EntryError::Url { text: text.to_owned(), host: host.to_owned() }
}

/// Parses a list of ports and ranges separated by commas.
fn parse_ports(text: &str) -> Result<PortSet, EntryError> {
    PortSet::parse(text).map_err(|source| EntryError::Ports { text: text.to_owned(), source })
}

/// How wide a pattern is, for the checks that depend on the side.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Width {
    /// Nothing to remark.
    Narrow,
    /// `*` or a wildcard on an ICANN suffix: only for deny lists, or written as a suffix.
    TooWide,
    /// A wildcard on a suffix below which anyone may register: a warning.
    Registrable,
    /// A name of one label, which only a local zone can answer.
    SingleLabel,
}

/// Returns how wide the destination of `entry` is.
pub(crate) fn width(entry: &Entry) -> Width {
    match &entry.destination {
        Destination::Name(NamePattern::Any) => Width::TooWide,
        Destination::Name(NamePattern::Exact(name)) if name.is_single_label() => Width::SingleLabel,
        Destination::Name(NamePattern::Subdomains(parent)) if !entry.suffix => match suffix_kind(parent) {
            SuffixKind::Icann => Width::TooWide,
            SuffixKind::Private => Width::Registrable,
            SuffixKind::NotASuffix => Width::Narrow,
        },
        Destination::Name(_) | Destination::Network(_) | Destination::AnyPublic | Destination::Group(_) => {
            Width::Narrow
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(pattern) => write!(f, "{pattern}"),
            Self::Network(block) => write!(f, "{block}"),
            Self::AnyPublic => f.write_str("@any-public"),
            Self::Group(group) => write!(f, "@{group}"),
        }
    }
}

/// Writes the entry as it would be written in configuration, without the outer quotes in the
/// short form: `name:ports`, or `{ host = "…", … }` when it carries more than ports.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = &self.settings;
        let short = s.transport.is_none()
            && s.addresses.is_none()
            && s.expect.is_none()
            && s.answers.is_none()
            && s.announce.is_none()
            && s.verify.is_none()
            && s.class.is_none()
            && s.caps == Caps::default();
        if short && self.sni.is_empty() && !self.suffix {
            return self.fmt_short(f);
        }
        self.fmt_table(f)
    }
}

impl Entry {
    fn fmt_short(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let destination = self.destination.to_string();
        match &self.settings.ports {
            None => f.write_str(&destination),
            Some(ports) if destination.contains(':') => write!(f, "[{destination}]:{ports}"),
            Some(ports) => write!(f, "{destination}:{ports}"),
        }
    }

    fn fmt_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.destination {
            Destination::Name(NamePattern::Subdomains(parent)) if self.suffix => {
                write!(f, "{{ suffix = \"{parent}\"")?;
            }
            Destination::Network(block) => write!(f, "{{ network = \"{block}\"")?,
            Destination::Name(_) | Destination::AnyPublic | Destination::Group(_) => {
                write!(f, "{{ host = \"{}\"", self.destination)?;
            }
        }
        let s = &self.settings;
        if let Some(ports) = &s.ports {
            let ports: Vec<String> = ports.iter().map(port_toml).collect();
            write!(f, ", ports = [{}]", ports.join(", "))?;
        }
        if let Some(transport) = s.transport {
            write!(f, ", transport = \"{}\"", transport.word())?;
        }
        if let Some(blocks) = &s.addresses {
            let blocks: Vec<String> = blocks.iter().map(|b| format!("\"{b}\"")).collect();
            write!(f, ", addresses = [{}]", blocks.join(", "))?;
        }
        if let Some(expect) = s.expect {
            write!(f, ", expect = \"{}\"", expect.word())?;
        }
        if let Some(answers) = s.answers {
            write!(f, ", answers = \"{}\"", answers.word())?;
        }
        if let Some(announce) = s.announce {
            write!(f, ", proxy_protocol = \"{}\"", announce.word())?;
        }
        if let Some(verify) = s.verify {
            write!(f, ", verify = {verify}")?;
        }
        if let Some(class) = s.class {
            write!(f, ", class = \"{}\"", class.word())?;
        }
        for cap in s.caps.iter() {
            write!(f, ", {cap}")?;
        }
        if !self.sni.is_empty() {
            let names: Vec<String> = self.sni.iter().map(|n| format!("\"{n}\"")).collect();
            write!(f, ", sni = [{}]", names.join(", "))?;
        }
        f.write_str(" }")
    }
}

/// A single port is a number in TOML, a range is a string.
fn port_toml(range: PortRange) -> String {
    if range.first() == range.last() { range.first().to_string() } else { format!("\"{range}\"") }
}
