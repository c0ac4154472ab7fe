//! What was opened by name: for whom, until when, and what the kernel was told. The kernel forgets by itself; this says why
//! something is open, what a new policy takes away, and which name a packet that came too late was meant for.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use exeat_identity::Place;
use exeat_model::DnsName;

use crate::{
    element::{Element, Sender, Station},
    refused::NAMES_MAX,
};

/// The share of all entries that one client can have: one in so many. A client that opens more waits for its own to end.
const SHARE_OF_A_CLIENT: usize = 4;

/// How often what has ended is looked for at most: that takes time in proportion to all entries, and a client whose share is
/// full could ask for it with every question.
const FORGETTING_INTERVAL: Duration = Duration::from_secs(1);

/// For whom something is open.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Client {
    /// Whoever has this address, behind a device.
    Address(IpAddr),
    /// The processes of a control group of this host.
    Group(Arc<str>),
}

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        Self::Address(address)
    }
}

impl fmt::Display for Client {
    /// An address, or `cgroup:/system.slice/ci.service`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Group(path) => write!(f, "cgroup:{path}"),
        }
    }
}

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
    clients: HashMap<Client, HashMap<DnsName, Named>>,
    /// The names that last opened each address, whoever asked; at most [`NAMES_MAX`]. A refused packet is told of by them,
    /// and there may be many of those: looking through all clients for each would keep lookups waiting.
    names: HashMap<IpAddr, Vec<DnsName>>,
    /// The client that asks from each station, for packets that it sends in the other family.
    stations: HashMap<Station, Client>,
    entries: usize,
    entries_max: usize,
    /// When what has ended was last forgotten to make room.
    forgot: Option<Instant>,
}

/// What somebody opened.
#[derive(Clone, Debug)]
pub(crate) struct View<'a> {
    pub(crate) client: &'a Client,
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
        let (clients, names, stations) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { clients, names, stations, entries: 0, entries_max, forgot: None }
    }

    /// Makes room for what `name` opens of `addresses` for `client`, of which it may have some. What has ended goes, and
    /// nothing that is still open.
    pub(crate) fn make_room(
        &mut self,
        client: &Client,
        name: &DnsName,
        addresses: &[IpAddr],
        now: Instant,
    ) -> Result<(), Full> {
        let known = self.clients.get(client).and_then(|names| names.get(name)).map(|named| &named.addresses);
        let is_new = |address: &&IpAddr| known.is_none_or(|known| !known.contains_key(*address));
        let more = addresses.iter().filter(is_new).count();
        if more == 0 {
            return Ok(());
        }
        let of_client = |state: &Self| -> usize {
            state
                .clients
                .get(client)
                .map_or(0, |names| names.values().map(|named| named.addresses.len()).sum())
        };
        let share = (self.entries_max / SHARE_OF_A_CLIENT).max(1);
        let fits =
            |state: &Self| state.entries + more <= state.entries_max && of_client(state) + more <= share;
        if fits(self) {
            return Ok(());
        }
        if self.forgot.is_some_and(|forgot| now.saturating_duration_since(forgot) < FORGETTING_INTERVAL) {
            return Err(Full);
        }
        self.forgot = Some(now);
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
        self.count();
    }

    /// Counts again after entries have gone.
    fn count(&mut self) {
        self.clients.retain(|_, names| !names.is_empty());
        self.entries = self.views().count();
        let open: HashSet<IpAddr> = self.views().map(|view| view.address).collect();
        self.names.retain(|address, _| open.contains(address));
        self.stations.retain(|_, client| self.clients.contains_key(client));
    }

    /// Notes what was opened. It takes the place of what the same name opened of the same address for the same client.
    pub(crate) fn note(
        &mut self,
        client: &Client,
        name: &DnsName,
        place: &Place,
        opened: impl IntoIterator<Item = (IpAddr, Entry)>,
    ) {
        let names = self.clients.entry(client.clone()).or_default();
        let named = names
            .entry(name.clone())
            .or_insert_with(|| Named { place: place.clone(), addresses: HashMap::new() });
        named.place = place.clone();
        for (address, entry) in opened {
            for element in &entry.elements {
                if let Sender::Station(station) = element.sender {
                    self.stations.insert(station, client.clone());
                }
            }
            if named.addresses.insert(address, entry).is_none() {
                self.entries += 1;
            }
            let last = self.names.entry(address).or_default();
            if last.contains(name) {
                continue;
            }
            if last.len() == NAMES_MAX {
                last.remove(0);
            }
            last.push(name.clone());
        }
    }

    /// Everything, in no order.
    pub(crate) fn views(&self) -> impl Iterator<Item = View<'_>> {
        self.clients.iter().flat_map(|(client, names)| {
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

    /// Every element that something opens.
    pub(crate) fn open(&self) -> HashSet<Element> {
        self.views().flat_map(|view| view.entry.elements.iter().copied()).collect()
    }

    /// What one client opened, in no order.
    pub(crate) fn of_client<'a>(&'a self, client: &'a Client) -> impl Iterator<Item = View<'a>> {
        let names = self.clients.get(client).into_iter().flatten();
        names.flat_map(move |(name, named)| {
            let place = &named.place;
            named.addresses.iter().map(move |(&address, entry)| View { client, name, place, address, entry })
        })
    }

    /// Everything that is open of these addresses for one client, by any name.
    pub(crate) fn elements_of(&self, client: &Client, addresses: &[IpAddr]) -> HashSet<Element> {
        let names = self.clients.get(client).into_iter().flatten();
        let entries = names.flat_map(|(_, named)| addresses.iter().filter_map(|at| named.addresses.get(at)));
        entries.flat_map(|entry| entry.elements.iter().copied()).collect()
    }

    /// The names that last opened each address.
    pub(crate) fn known(&self) -> HashMap<IpAddr, Vec<DnsName>> {
        self.names.clone()
    }

    /// Whether another name than `name` is known to have opened the address, for anybody.
    pub(crate) fn is_shared(&self, address: IpAddr, name: &DnsName) -> bool {
        self.names_of(address).iter().any(|known| known != name)
    }

    /// What one name opened of one address for one client.
    pub(crate) fn entry(&self, client: &Client, name: &DnsName, address: IpAddr) -> Option<&Entry> {
        self.clients.get(client)?.get(name)?.addresses.get(&address)
    }

    /// What one client opened of one address.
    pub(crate) fn of_client_at(
        &self,
        client: &Client,
        address: IpAddr,
    ) -> impl Iterator<Item = (&DnsName, &Entry)> {
        let names = self.clients.get(client).into_iter().flatten();
        names.filter_map(move |(name, named)| Some((name, named.addresses.get(&address)?)))
    }

    /// The client that has asked from this station, which it also sends from in the other family.
    pub(crate) fn client_at(&self, station: Station) -> Option<&Client> {
        self.stations.get(&station)
    }

    /// The names that last opened the address for anybody, at most [`NAMES_MAX`].
    pub(crate) fn names_of(&self, address: IpAddr) -> &[DnsName] {
        self.names.get(&address).map(Vec::as_slice).unwrap_or_default()
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
        let before = self.open();
        let mut after: HashMap<Element, Duration> = HashMap::new();
        for (client, names) in &mut self.clients {
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
        self.count();
        let gone = before.iter().filter(|element| !after.contains_key(element)).copied().collect();
        after.retain(|element, left| !before.contains(element) && !left.is_zero());
        (gone, after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u16) -> IpAddr {
        let [high, low] = last.to_be_bytes();
        IpAddr::from([93, 184, high, low])
    }

    fn name(text: &str) -> DnsName {
        DnsName::parse(text).unwrap()
    }

    fn open(state: &mut State, client: u16, host: &str, address: u16, now: Instant) -> Result<(), Full> {
        let client = Client::from(ip(client));
        state.make_room(&client, &name(host), &[ip(address)], now)?;
        let entry = Entry { elements: Vec::new(), until: now + Duration::from_secs(600) };
        state.note(&client, &name(host), &Place::default(), [(ip(address), entry)]);
        Ok(())
    }

    #[test]
    fn what_is_open_is_never_forgotten_to_make_room() {
        let start = Instant::now();
        let mut state = State::new(8);
        for client in 0..4 {
            for address in 0..2 {
                assert_eq!(open(&mut state, client, &format!("n{address}.example"), address, start), Ok(()));
            }
        }
        assert_eq!(open(&mut state, 0, "more.example", 9, start), Err(Full), "its share");
        assert_eq!(open(&mut state, 9, "more.example", 9, start), Err(Full), "all of it");
        assert_eq!(open(&mut state, 0, "n0.example", 0, start), Ok(()), "it has that already");
        let ended = start + Duration::from_secs(601);
        assert_eq!(open(&mut state, 9, "more.example", 9, ended), Ok(()));
        assert_eq!(
            (state.len(), state.names_of(ip(0)), state.names_of(ip(9))),
            (1, &[][..], &[name("more.example")][..])
        );
    }

    #[test]
    fn what_has_ended_is_looked_for_once_a_second() {
        let start = Instant::now();
        let mut state = State::new(4);
        assert_eq!(open(&mut state, 1, "a.example", 1, start), Ok(()));
        let nearly = start + Duration::from_millis(599_500);
        assert_eq!(open(&mut state, 1, "b.example", 2, nearly), Err(Full));
        assert_eq!(
            open(&mut state, 1, "b.example", 2, nearly + Duration::from_millis(900)),
            Err(Full),
            "not yet"
        );
        assert_eq!(open(&mut state, 1, "b.example", 2, nearly + Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn an_address_is_told_of_by_its_last_names() {
        let start = Instant::now();
        let mut state = State::new(1000);
        for number in 0..20 {
            assert_eq!(open(&mut state, number, &format!("n{number}.example"), 7, start), Ok(()));
        }
        let last: Vec<DnsName> = (12..20).map(|number| name(&format!("n{number}.example"))).collect();
        assert_eq!(state.names_of(ip(7)), last);
        let of_client: Vec<_> =
            state.of_client_at(&ip(3).into(), ip(7)).map(|(name, _)| name.as_str()).collect();
        assert_eq!(of_client, ["n3.example"], "its own is found however many there are");
        assert_eq!(state.of_client_at(&ip(3).into(), ip(8)).count(), 0);
    }

    #[test]
    fn a_client_is_found_by_its_station() {
        let start = Instant::now();
        let mut state = State::new(1000);
        let station = |device| Station { device, hardware: [2, 0, 0, 0, 0, 1] };
        let element = Element {
            sender: Sender::Station(station(1)),
            address: ip(7),
            transport: exeat_model::Transport::Tcp,
            ports: exeat_model::Port::HTTP.into(),
            is_relayed: false,
        };
        let entry = Entry { elements: vec![element], until: start + Duration::from_secs(600) };
        let client = Client::from(ip(3));
        state.note(&client, &name("a.example"), &Place::default(), [(ip(7), entry)]);
        assert_eq!((state.client_at(station(1)), state.client_at(station(2))), (Some(&client), None));
        state.forget_ended(start + Duration::from_secs(601));
        assert_eq!(state.client_at(station(1)), None, "what has ended says nothing of anybody");
    }
}
