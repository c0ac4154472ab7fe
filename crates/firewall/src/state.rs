//! What was opened by name: for whom, until when, and what the kernel was told. The kernel forgets by itself; this says why
//! something is open, what a new policy takes away, and which name a packet that came too late was meant for.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use exeat_identity::Place;
use exeat_model::DnsName;

use crate::element::Element;

/// The share of all entries that one client can have: one in so many. A client that opens more waits for its own to end.
const SHARE_OF_A_CLIENT: usize = 4;

/// What one name opened of one address for one client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Entry {
    /// What the kernel was told.
    pub(crate) elements: Vec<Element>,
    /// Until when it is open at least. New connections renew it in the kernel, of which this knows nothing.
    pub(crate) until: Instant,
}

/// What one name opened for one client.
#[derive(Clone, Debug)]
struct Named {
    place: Place,
    addresses: HashMap<IpAddr, Entry>,
}

/// Everything that was opened by name.
#[derive(Debug)]
pub(crate) struct State {
    clients: HashMap<IpAddr, HashMap<DnsName, Named>>,
    entries: usize,
    entries_max: usize,
}

/// What somebody opened.
#[derive(Clone, Debug)]
pub(crate) struct View<'a> {
    pub(crate) client: IpAddr,
    pub(crate) name: &'a DnsName,
    pub(crate) place: &'a Place,
    pub(crate) address: IpAddr,
    pub(crate) entry: &'a Entry,
}

/// There is room for nothing more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Full;

impl State {
    /// Returns an empty state with room for so many entries.
    pub(crate) fn new(entries_max: usize) -> Self {
        Self { clients: HashMap::new(), entries: 0, entries_max }
    }

    /// Makes room for what `name` opens of `addresses` for `client`, of which it may have some. What has ended goes, and
    /// nothing that is still open.
    pub(crate) fn make_room(
        &mut self,
        client: IpAddr,
        name: &DnsName,
        addresses: &[IpAddr],
        now: Instant,
    ) -> Result<(), Full> {
        let known = self.clients.get(&client).and_then(|names| names.get(name)).map(|named| &named.addresses);
        let is_new = |address: &&IpAddr| known.is_none_or(|known| !known.contains_key(*address));
        let more = addresses.iter().filter(is_new).count();
        if more == 0 {
            return Ok(());
        }
        let of_client = |state: &Self| -> usize {
            state
                .clients
                .get(&client)
                .map_or(0, |names| names.values().map(|named| named.addresses.len()).sum())
        };
        let share = (self.entries_max / SHARE_OF_A_CLIENT).max(1);
        let fits =
            |state: &Self| state.entries + more <= state.entries_max && of_client(state) + more <= share;
        if fits(self) {
            return Ok(());
        }
        self.forget_ended(now);
        if fits(self) { Ok(()) } else { Err(Full) }
    }

    /// Forgets what has ended. Takes time in proportion to all entries, and makes room for as many as have ended since.
    fn forget_ended(&mut self, now: Instant) {
        for names in self.clients.values_mut() {
            for named in names.values_mut() {
                named.addresses.retain(|_, entry| entry.until > now);
            }
            names.retain(|_, named| !named.addresses.is_empty());
        }
        self.clients.retain(|_, names| !names.is_empty());
        self.entries = self.views().count();
    }

    /// Notes what was opened. It takes the place of what the same name opened of the same address for the same client.
    pub(crate) fn note(
        &mut self,
        client: IpAddr,
        name: &DnsName,
        place: &Place,
        opened: impl IntoIterator<Item = (IpAddr, Entry)>,
    ) {
        let names = self.clients.entry(client).or_default();
        let named = names
            .entry(name.clone())
            .or_insert_with(|| Named { place: place.clone(), addresses: HashMap::new() });
        named.place = place.clone();
        for (address, entry) in opened {
            if named.addresses.insert(address, entry).is_none() {
                self.entries += 1;
            }
        }
    }

    /// Everything, in no order.
    pub(crate) fn views(&self) -> impl Iterator<Item = View<'_>> {
        self.clients.iter().flat_map(|(&client, names)| {
            names.iter().flat_map(move |(name, named)| {
                named.addresses.iter().map(move |(&address, entry)| View {
                    client,
                    name,
                    place: &named.place,
                    address,
                    entry,
                })
            })
        })
    }

    /// What one client opened.
    pub(crate) fn of_client(&self, client: IpAddr) -> impl Iterator<Item = View<'_>> {
        self.clients.get(&client).into_iter().flat_map(move |names| {
            names.iter().flat_map(move |(name, named)| {
                let view =
                    move |(&address, entry)| View { client, name, place: &named.place, address, entry };
                named.addresses.iter().map(view)
            })
        })
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.entries
    }

    /// Asks `again` what each entry opens from now on, with an empty list for nothing. Returns the elements that nothing
    /// opens any more, and those that are new, each with the longest time that it is still open for.
    pub(crate) fn decide_again(
        &mut self,
        now: Instant,
        mut again: impl FnMut(&View<'_>) -> Vec<Element>,
    ) -> (Vec<Element>, HashMap<Element, Duration>) {
        let before: HashSet<Element> = self.views().flat_map(|view| view.entry.elements.clone()).collect();
        let mut after: HashMap<Element, Duration> = HashMap::new();
        for (&client, names) in &mut self.clients {
            for (name, named) in names.iter_mut() {
                let place = named.place.clone();
                named.addresses.retain(|&address, entry| {
                    let elements = again(&View { client, name, place: &place, address, entry });
                    let left = entry.until.saturating_duration_since(now);
                    for element in &elements {
                        let longest = after.entry(*element).or_default();
                        *longest = left.max(*longest);
                    }
                    entry.elements = elements;
                    !entry.elements.is_empty()
                });
            }
            names.retain(|_, named| !named.addresses.is_empty());
        }
        self.clients.retain(|_, names| !names.is_empty());
        self.entries = self.views().count();
        let gone = before.iter().filter(|element| !after.contains_key(element)).copied().collect();
        after.retain(|element, left| !before.contains(element) && !left.is_zero());
        (gone, after)
    }
}
