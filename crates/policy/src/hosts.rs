//! The list of hosts that a token carries. It opens nothing: it takes from what its issuer's ceiling allows.

use std::sync::Arc;

use exeat_model::{DnsName, Host, NamePattern, PortSet};

use crate::decide::{Denial, EgressRequest, allows_port, no_match};
use crate::entry::{Defaults, Destination, Entry, EntryError, Width, width};
use crate::list::{List, ListBuilder};
use crate::rule::Terms;

/// Items of one list. Each costs some 60 bytes for as long as the token is remembered; whoever needs more names a
/// policy instead.
pub const HOST_ITEMS_MAX: usize = 500;

/// What a token's list is called where rules say where they stand.
const FILE: &str = "token";

/// A token's hosts: names, `*.suffix`, each with its ports if it has some. Empty means nothing.
#[derive(Clone, Debug)]
pub struct HostList {
    list: Arc<List>,
}

/// Why a list of hosts is not one. A list is taken as a whole or not at all.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HostListError {
    /// An item is not an entry.
    #[error("item {position} is not a host")]
    Item {
        /// Its position among those that are not blank, from 1.
        position: usize,
        /// Why.
        #[source]
        source: EntryError,
    },
    /// An item is a network, an address, a group, or everything.
    #[error("item {position} is not a name")]
    NotAName {
        /// As above.
        position: usize,
    },
    /// An item covers a whole public suffix.
    #[error("item {position} covers a whole public suffix")]
    TooWide {
        /// As above.
        position: usize,
    },
    /// There are too many.
    #[error("there are more than {HOST_ITEMS_MAX} items")]
    TooMany,
}

impl HostList {
    /// Reads a list. Spaces around an item do not count, and neither does a blank one.
    ///
    /// # Errors
    /// For the first item that is not a name, `*.suffix` or one of the two with ports, and for too many items.
    pub fn parse<'t>(items: impl IntoIterator<Item = &'t str>) -> Result<Self, HostListError> {
        let mut list = ListBuilder::new(FILE, Defaults::default());
        let items = items.into_iter().map(str::trim).filter(|item| !item.is_empty());
        for (position, item) in (1..).zip(items) {
            if position > HOST_ITEMS_MAX {
                return Err(HostListError::TooMany);
            }
            let entry = Entry::parse(item).map_err(|source| HostListError::Item { position, source })?;
            check(&entry, position)?;
            list.push(entry, u32::try_from(position).unwrap_or(u32::MAX), 0);
        }
        Ok(Self { list: Arc::new(list.finish()) })
    }

    /// Returns how many items there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Returns whether there is none, so that nothing can be reached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Returns the items, in the form of a configuration's entries.
    pub fn items(&self) -> impl Iterator<Item = String> {
        self.list.entries().map(|(entry, _)| entry.to_string())
    }

    /// Calls `found` with the ports of each item that speaks of the name.
    pub(crate) fn each_ports(&self, name: &DnsName, mut found: impl FnMut(Option<&PortSet>)) {
        self.list.match_name(name, |item| {
            found(Terms::new(self.list.settings(item), self.list.defaults()).ports);
        });
    }

    /// Returns the number of the first item that is for the target; an item without ports is for 80 and 443, like
    /// every allow, and every item for TCP alone.
    ///
    /// # Errors
    /// The reason, if there is none.
    pub(crate) fn item_for(&self, request: &EgressRequest<'_>) -> Result<u32, Denial> {
        let target = request.target;
        let (mut found, mut is_wrong_port) = (None, false);
        match &target.host {
            Host::Name(name) => self.list.match_name(name, |item| {
                let terms = Terms::new(self.list.settings(item), self.list.defaults());
                match allows_port(&terms, request) {
                    true => found = found.or(Some(item)),
                    false => is_wrong_port = true,
                }
            }),
            // Items are names.
            Host::Address(_) => {}
        }
        found.ok_or_else(|| no_match(&target.host, is_wrong_port, None, false))
    }

    /// Returns an item by its number.
    pub(crate) fn item(&self, number: u32) -> Option<Entry> {
        self.list.entry(number)
    }
}

/// A name of one label is for the ceiling to judge: it says where such a name lies.
fn check(entry: &Entry, position: usize) -> Result<(), HostListError> {
    match (&entry.destination, width(entry)) {
        (Destination::Name(NamePattern::Any), _) | (_, Width::TooWide) => {
            Err(HostListError::TooWide { position })
        }
        (Destination::Name(NamePattern::Exact(_) | NamePattern::Subdomains(_)), _) => Ok(()),
        (Destination::Network(_) | Destination::AnyPublic | Destination::Group(_), _) => {
            Err(HostListError::NotAName { position })
        }
    }
}

#[cfg(test)]
mod tests {
    use exeat_model::{Authority, Port, Transport};

    use super::*;
    use crate::reason::Reason;
    use crate::set::Bound;

    #[test]
    fn a_list_has_names_alone() {
        let not_a_name = |position| Err(HostListError::NotAName { position });
        let too_wide = |position| Err(HostListError::TooWide { position });
        let cases: &[(&str, Result<usize, HostListError>)] = &[
            ("", Ok(0)),
            (" , ,", Ok(0)),
            ("example.com", Ok(1)),
            (" example.com , *.example.org,cdn.example.net:8443,", Ok(3)),
            ("EXAMPLE.com.", Ok(1)),
            ("db", Ok(1)),
            ("example.com:80-90", Ok(1)),
            ("*", too_wide(1)),
            ("example.com,*.com", too_wide(2)),
            ("*.co.uk", too_wide(1)),
            ("10.0.0.0/8", not_a_name(1)),
            ("93.184.216.34", not_a_name(1)),
            ("[2606:2800:220::1]:443", not_a_name(1)),
            ("@any-public", not_a_name(1)),
            ("@group", not_a_name(1)),
        ];
        for (text, want) in cases {
            let got = HostList::parse(text.split(',')).map(|list| list.len());
            assert_eq!(got, *want, "{text:?}");
        }
        for text in ["example.*", "ex*ample.com", "*example.com", "éxample.com", "http://example.com/", "a b"]
        {
            let got = HostList::parse(["example.org", text]).map(|list| list.len());
            assert!(matches!(got, Err(HostListError::Item { position: 2, .. })), "{text:?}: {got:?}");
        }
        let many = vec!["example.com"; HOST_ITEMS_MAX];
        assert_eq!(HostList::parse(many.iter().copied()).map(|list| list.len()), Ok(HOST_ITEMS_MAX));
        let more = many.into_iter().chain(["example.org"]);
        assert_eq!(HostList::parse(more).map(|list| list.len()), Err(HostListError::TooMany));
    }

    #[test]
    fn an_item_is_for_its_names_and_ports() {
        let list = HostList::parse(["example.com", "*.example.org", "cdn.example.net:8443"]).unwrap();
        for (target, want) in [
            ("example.com:443", Ok("example.com")),
            ("example.com:80", Ok("example.com")),
            ("example.com:8443", Err(Reason::PortNotAllowed)),
            ("www.example.com:443", Err(Reason::HostNotAllowed)),
            ("a.b.example.org:443", Ok("*.example.org")),
            ("example.org:443", Err(Reason::HostNotAllowed)),
            ("cdn.example.net:8443", Ok("cdn.example.net:8443")),
            ("cdn.example.net:443", Err(Reason::PortNotAllowed)),
            ("93.184.216.34:443", Err(Reason::IpLiteralNotAllowed)),
        ] {
            let target = &Authority::parse(target, Port::new(443)).unwrap();
            let bound = &Bound::default();
            let found = |transport| list.item_for(&EgressRequest { bound, target, transport });
            assert!(found(Transport::Udp).is_err(), "{target}");
            let text = |number| list.item(number).unwrap().to_string();
            let got = found(Transport::Tcp).map(text).map_err(|denial| denial.reason);
            assert_eq!(got, want.map(str::to_owned), "{target}");
        }
    }
}
