//! A compiled list of entries: what a name or an address matches, at a cost that does not
//! depend on how many entries there are.
//!
//! Names lie in one arena; a hash table of entry numbers finds them, once for the whole name
//! and once for each parent. Networks lie in two prefix tries. Entries of the same name hang
//! on a chain.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use exeat_model::{AddressClass, CanonicalIp, DnsName, IpBlock, NamePattern, in_closed_zone};
use hashbrown::{DefaultHashBuilder, HashMap, HashTable, hash_table};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;
use smallvec::SmallVec;

use crate::entry::{Defaults, Destination, Entry, EntryError, Side, Width, width};
use crate::place::Place;
use crate::slot::{Kind, NONE, Slot, Slots};

/// Entries one list can hold: numbers are 32 bits wide with one value kept for [`NONE`].
const ENTRIES_MAX: usize = u32::MAX as usize - 1;

/// The parts of an entry that most entries do not have.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Settings {
    pub(crate) own: Defaults,
    pub(crate) sni: Box<[DnsName]>,
}

/// How serious a remark on an entry is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Severity {
    /// The configuration must not be used.
    Error,
    /// It may be used, but somebody should look.
    Warning,
}

/// A remark on one entry, which depends on the side the list is used on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EntryProblem {
    /// How serious it is.
    pub severity: Severity,
    /// Where the entry stands.
    pub place: Place,
    /// What is wrong, lower-case, without a full stop.
    pub message: String,
    /// What to write instead.
    pub correction: String,
}

/// A compiled list of entries. Built by [`ListBuilder`].
#[derive(Debug)]
pub struct List {
    file: Arc<str>,
    defaults: Defaults,
    arena: String,
    slots: Slots,
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
    blocks: Vec<IpBlock>,
    v4: PrefixMap<Ipv4Net, SmallVec<[u32; 2]>>,
    v6: PrefixMap<Ipv6Net, SmallVec<[u32; 2]>>,
    settings: Vec<Settings>,
    any_public: Vec<u32>,
    any_name: Vec<u32>,
    groups: Vec<(String, Place)>,
    /// Entries to be looked at when the list is used to allow.
    remarkable: Vec<u32>,
    subdomains: bool,
    /// Hashes of the names above those that entries speak of; made when they are first asked for, which only a name
    /// server does.
    above: OnceLock<HashTable<u64>>,
}

impl List {
    /// Returns the number of entries, group references included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() + self.groups.len()
    }

    /// Returns whether the list has no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of entries that are no references to groups; they are numbered from 0.
    pub(crate) fn own_len(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(NONE)
    }

    /// Whether the entry is a network.
    pub(crate) fn is_network(&self, number: u32) -> bool {
        self.slots.get(number).is_some_and(|slot| slot.kind == Kind::Network)
    }

    /// Returns the groups that the list refers to, with the place of each reference.
    #[must_use]
    pub fn groups(&self) -> &[(String, Place)] {
        &self.groups
    }

    /// Returns what is to be said of entries when the list is used on this side: errors for
    /// patterns that are too wide to allow, warnings for those below which anyone can register.
    pub fn problems(&self, side: Side) -> impl Iterator<Item = EntryProblem> {
        let remarkable = match side {
            Side::Allow => self.remarkable.as_slice(),
            Side::Deny => &[],
        };
        remarkable.iter().filter_map(|&number| self.problem(number))
    }

    fn problem(&self, number: u32) -> Option<EntryProblem> {
        let entry = self.entry(number)?;
        let text = entry.destination.to_string();
        let parent = text.strip_prefix("*.").unwrap_or(&text);
        let (severity, message, correction) = match width(&entry) {
            Width::Narrow => return None,
            Width::TooWide if text == "*" => (
                Severity::Error,
                "`*` is too wide to allow".to_owned(),
                "write \"@any-public\" for everything that is globally reachable".to_owned(),
            ),
            Width::TooWide => (
                Severity::Error,
                format!("`{text}` covers a whole public suffix"),
                format!(
                    "name a registered domain, or write {{ suffix = \"{parent}\" }} if you mean all of it"
                ),
            ),
            Width::Registrable => (
                Severity::Warning,
                format!("anyone can register a name below `{parent}`"),
                "name the hosts you need".to_owned(),
            ),
            Width::SingleLabel => (
                Severity::Error,
                format!("`{text}` has one label, which only a local zone can answer"),
                format!("write {} with the network it lies in", in_its_network(&entry)),
            ),
        };
        Some(EntryProblem { severity, place: self.place(number)?, message, correction })
    }

    /// Iterates over the entries with their places, group references last.
    pub fn entries(&self) -> impl Iterator<Item = (Entry, Place)> {
        let own = (0u32..).map_while(|number| Some((self.entry(number)?, self.place(number)?)));
        let group =
            |(name, place): &(String, Place)| (Entry::new(Destination::Group(name.clone())), place.clone());
        own.chain(self.groups.iter().map(group))
    }

    /// Returns whether an entry carries settings of its own.
    #[must_use]
    pub fn has_settings(&self) -> bool {
        !self.settings.is_empty()
    }

    /// The settings that the list sets for its entries.
    #[must_use]
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// Where an entry was written.
    pub(crate) fn place(&self, number: u32) -> Option<Place> {
        let slot = self.slots.get(number)?;
        Some(Place { file: Arc::clone(&self.file), line: slot.line, column: u32::from(slot.column) })
    }

    /// The entry as it was written, rebuilt from the arena.
    pub(crate) fn entry(&self, number: u32) -> Option<Entry> {
        let slot = self.slots.get(number)?;
        let destination = match slot.kind {
            Kind::Exact => Destination::Name(NamePattern::Exact(self.name(slot)?)),
            Kind::Subdomains => Destination::Name(NamePattern::Subdomains(self.name(slot)?)),
            Kind::AnyName => Destination::Name(NamePattern::Any),
            Kind::Network => Destination::Network(*self.blocks.get(slot.at as usize)?),
            Kind::AnyPublic => Destination::AnyPublic,
        };
        let mut entry = Entry::new(destination);
        entry.suffix = slot.suffix;
        if let Some(settings) = self.settings(number) {
            entry.settings = settings.own.clone();
            entry.sni = settings.sni.to_vec();
        }
        Some(entry)
    }

    /// The settings that the entry itself carries.
    pub(crate) fn settings(&self, number: u32) -> Option<&Settings> {
        self.settings.get(self.slots.get(number)?.settings as usize)
    }

    /// Which settings the entry carries: entries with the same number carry the same ones.
    pub(crate) fn settings_number(&self, number: u32) -> u32 {
        self.slots.get(number).map_or(NONE, |slot| slot.settings)
    }

    /// Every distinct settings that an entry of the list carries.
    pub(crate) fn all_settings(&self) -> &[Settings] {
        &self.settings
    }

    /// The names that the entries speak of, each with whether those below it are meant.
    pub(crate) fn names(&self) -> impl Iterator<Item = (&str, bool)> {
        self.slots.iter().filter_map(|slot| match slot.kind {
            Kind::Exact => Some((slot_text(&self.arena, slot), false)),
            Kind::Subdomains => Some((slot_text(&self.arena, slot), true)),
            Kind::AnyName | Kind::Network | Kind::AnyPublic => None,
        })
    }

    /// Whether an entry speaks of a name below this one. Rarely, by chance, it says so of a name that has none.
    pub(crate) fn has_below(&self, name: &DnsName) -> bool {
        let above = self.above.get_or_init(|| self.names_above());
        let hash = self.hasher.hash_one(name.as_str());
        above.find(hash, |&other| other == hash).is_some()
    }

    fn names_above(&self) -> HashTable<u64> {
        let mut above = HashTable::new();
        for (name, with_below) in self.names() {
            let mut next = if with_below { Some(name) } else { parent(name) };
            while let Some(name) = next {
                let hash = self.hasher.hash_one(name);
                // Whoever put it there has put those above it there, too.
                match above.entry(hash, |&other| other == hash, |&hash| hash) {
                    hash_table::Entry::Occupied(_) => break,
                    hash_table::Entry::Vacant(free) => free.insert(hash),
                };
                next = parent(name);
            }
        }
        above
    }

    /// The networks that the entries speak of.
    pub(crate) fn blocks(&self) -> &[IpBlock] {
        &self.blocks
    }

    /// The IPv4 networks of entries that lie within the block, of a block of several networks each of them.
    pub(crate) fn networks_within(&self, block: IpBlock) -> impl Iterator<Item = IpBlock> + use<'_> {
        let nets = block.networks().into_iter().filter_map(|net| match net {
            IpNet::V4(net) => Some(net),
            IpNet::V6(_) => None,
        });
        let within = nets.flat_map(|net| self.v4.children(&net).map(|(inner, _)| inner));
        within.filter_map(|net| IpBlock::between(net.network().into(), net.broadcast().into()))
    }

    /// How narrow an entry is: the narrower match is cited first. Exact names and single
    /// addresses rank highest, `@any-public` lowest.
    pub(crate) fn specificity(&self, number: u32) -> u32 {
        const EXACT: u32 = 1000;
        match self.slots.get(number) {
            None => 0,
            Some(slot) => match slot.kind {
                Kind::Exact => EXACT,
                Kind::Subdomains => 1 + u32::from(slot.len),
                Kind::Network => self.blocks.get(slot.at as usize).map_or(0, prefix_bits),
                Kind::AnyName | Kind::AnyPublic => 0,
            },
        }
    }

    /// Whether an entry opens the address because it is a network around it.
    pub(crate) fn network_contains(&self, number: u32, ip: CanonicalIp) -> bool {
        self.slots.get(number).is_some_and(|slot| {
            slot.kind == Kind::Network
                && self.blocks.get(slot.at as usize).is_some_and(|block| block.contains(ip))
        })
    }

    /// Calls `found` with each entry that matches the name.
    pub(crate) fn match_name(&self, name: &DnsName, mut found: impl FnMut(u32)) {
        self.chain(Kind::Exact, name.as_str(), &mut found);
        if self.subdomains {
            for parent in name.parents() {
                self.chain(Kind::Subdomains, parent, &mut found);
            }
        }
        self.any_name.iter().copied().for_each(&mut found);
        if !self.any_public.is_empty() && !in_closed_zone(name) {
            self.any_public.iter().copied().for_each(found);
        }
    }

    /// Calls `found` with each entry that matches the address as a target.
    pub(crate) fn match_address(&self, ip: CanonicalIp, mut found: impl FnMut(u32)) {
        self.match_network(ip, &mut found);
        self.any_name.iter().copied().for_each(&mut found);
        if ip.class() == AddressClass::Global {
            self.any_public.iter().copied().for_each(found);
        }
    }

    /// Calls `found` with each network that contains the address.
    pub(crate) fn match_network(&self, ip: CanonicalIp, mut found: impl FnMut(u32)) {
        match ip.get() {
            IpAddr::V4(ip) => {
                for (_, numbers) in self.v4.cover(&Ipv4Net::from(ip)) {
                    numbers.iter().copied().for_each(&mut found);
                }
            }
            IpAddr::V6(ip) => {
                for (_, numbers) in self.v6.cover(&Ipv6Net::from(ip)) {
                    numbers.iter().copied().for_each(&mut found);
                }
            }
        }
    }

    /// Whether the list speaks of addresses at all, as networks or as `@any-public`.
    pub(crate) fn opens_addresses(&self) -> bool {
        !self.any_public.is_empty() || !self.any_name.is_empty()
    }

    fn chain(&self, kind: Kind, text: &str, found: &mut impl FnMut(u32)) {
        let hash = hash_key(&self.hasher, kind, text);
        let head = self.table.find(hash, |&number| slot_is(&self.slots, &self.arena, number, kind, text));
        let mut number = head.copied().unwrap_or(NONE);
        while let Some(slot) = self.slots.get(number) {
            found(number);
            number = slot.next;
        }
    }

    fn name(&self, slot: Slot) -> Option<DnsName> {
        DnsName::parse(slot_text(&self.arena, slot)).ok()
    }
}

fn parent(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, parent)| parent)
}

fn hash_key(hasher: &DefaultHashBuilder, kind: Kind, text: &str) -> u64 {
    hasher.hash_one((kind == Kind::Subdomains, text))
}

/// The prefix length of the widest network of a block, on the IPv6 scale for both families.
fn prefix_bits(block: &IpBlock) -> u32 {
    let networks = block.networks();
    let lengths = networks.iter().map(|net| match net {
        IpNet::V4(net) => u32::from(net.prefix_len()) + 96,
        IpNet::V6(net) => u32::from(net.prefix_len()),
    });
    1 + lengths.min().unwrap_or(0)
}

/// Builds a [`List`], entry by entry.
#[derive(Debug)]
pub struct ListBuilder {
    list: List,
    interned: HashMap<Settings, u32>,
    /// Entries that go into the table.
    names: usize,
}

impl ListBuilder {
    /// Starts a list whose entries stand in `file` and inherit `defaults`.
    #[must_use]
    pub fn new(file: impl Into<Arc<str>>, defaults: Defaults) -> Self {
        let list = List {
            file: file.into(),
            defaults,
            arena: String::new(),
            slots: Slots::default(),
            table: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            blocks: Vec::new(),
            v4: PrefixMap::new(),
            v6: PrefixMap::new(),
            settings: Vec::new(),
            any_public: Vec::new(),
            any_name: Vec::new(),
            groups: Vec::new(),
            remarkable: Vec::new(),
            subdomains: false,
            above: OnceLock::new(),
        };
        Self { list, interned: HashMap::new(), names: 0 }
    }

    /// Adds an entry that stands at `line` and `column` (both from 1; column 0 means the whole
    /// line; columns above 65,535 are shown as that).
    pub fn push(&mut self, entry: Entry, line: u32, column: u32) {
        if let Destination::Group(group) = entry.destination {
            let place = Place { file: Arc::clone(&self.list.file), line, column };
            self.list.groups.push((group, place));
            return;
        }
        if self.list.slots.len() >= ENTRIES_MAX {
            return;
        }
        let number = u32::try_from(self.list.slots.len()).unwrap_or(NONE);
        if self.is_remarkable(&entry) {
            self.list.remarkable.push(number);
        }
        let mut slot = Slot {
            line,
            column: u16::try_from(column).unwrap_or(u16::MAX),
            kind: Kind::AnyPublic,
            suffix: entry.suffix,
            settings: self.intern(entry.settings, entry.sni),
            next: NONE,
            at: 0,
            len: 0,
        };
        match &entry.destination {
            Destination::Name(NamePattern::Exact(name)) => {
                self.add_name(&mut slot, Kind::Exact, name);
            }
            Destination::Name(NamePattern::Subdomains(name)) => {
                self.list.subdomains = true;
                self.add_name(&mut slot, Kind::Subdomains, name);
            }
            Destination::Name(NamePattern::Any) => {
                slot.kind = Kind::AnyName;
                self.list.any_name.push(number);
            }
            Destination::Network(block) => self.add_block(&mut slot, block, number),
            Destination::AnyPublic => self.list.any_public.push(number),
            Destination::Group(_) => return,
        }
        self.list.slots.push(slot);
    }

    /// Parses a text entry and adds it.
    ///
    /// # Errors
    /// As [`Entry::parse`].
    pub fn push_text(&mut self, text: &str, line: u32, column: u32) -> Result<(), EntryError> {
        self.push(Entry::parse(text)?, line, column);
        Ok(())
    }

    /// Returns the compiled list.
    #[must_use]
    pub fn finish(mut self) -> List {
        self.index_names();
        self.list.arena.shrink_to_fit();
        self.list.slots.shrink_to_fit();
        self.list
    }

    /// A name of one label is fine when the entry, or the list, says where it lies.
    fn is_remarkable(&self, entry: &Entry) -> bool {
        match width(entry) {
            Width::Narrow => false,
            Width::TooWide | Width::Registrable => true,
            Width::SingleLabel => {
                entry.settings.addresses.is_none() && self.list.defaults.addresses.is_none()
            }
        }
    }

    fn intern(&mut self, own: Defaults, sni: Vec<DnsName>) -> u32 {
        if own == Defaults::default() && sni.is_empty() {
            return NONE;
        }
        let settings = Settings { own, sni: sni.into_boxed_slice() };
        let next = u32::try_from(self.list.settings.len()).unwrap_or(NONE);
        let number = *self.interned.entry(settings.clone()).or_insert(next);
        if number == next {
            self.list.settings.push(settings);
        }
        number
    }

    fn add_name(&mut self, slot: &mut Slot, kind: Kind, name: &DnsName) {
        let text = name.as_str();
        slot.kind = kind;
        slot.at = u32::try_from(self.list.arena.len()).unwrap_or(NONE);
        slot.len = u8::try_from(text.len()).unwrap_or(u8::MAX);
        self.list.arena.push_str(text);
        self.names += 1;
    }

    /// Makes the table of the names, which is large enough from the start: one that grows with the list would have
    /// to look at every name again each time.
    fn index_names(&mut self) {
        let list = &mut self.list;
        list.table = HashTable::with_capacity(self.names);
        for number in 0..u32::try_from(list.slots.len()).unwrap_or(NONE) {
            let Some(slot) = list.slots.get(number) else { continue };
            match slot.kind {
                Kind::Exact | Kind::Subdomains => {}
                Kind::AnyName | Kind::Network | Kind::AnyPublic => continue,
            }
            let (slots, arena, hasher) = (&list.slots, &list.arena, &list.hasher);
            let text = slot_text(arena, slot);
            let hash = hash_key(hasher, slot.kind, text);
            let same = |&other: &u32| slot_is(slots, arena, other, slot.kind, text);
            if let Some(head) = list.table.find_mut(hash, same) {
                // The newest entry becomes the head of the chain.
                let older = std::mem::replace(head, number);
                list.slots.set_next(number, older);
            } else {
                let rehash =
                    |&other: &u32| slots.get(other).map_or(hash, |slot| slot_hash(hasher, arena, slot));
                list.table.insert_unique(hash, number, rehash);
            }
        }
    }

    fn add_block(&mut self, slot: &mut Slot, block: &IpBlock, number: u32) {
        slot.kind = Kind::Network;
        slot.at = u32::try_from(self.list.blocks.len()).unwrap_or(NONE);
        for net in block.networks() {
            match net {
                IpNet::V4(net) => self.list.v4.entry(net).or_default().push(number),
                IpNet::V6(net) => self.list.v6.entry(net).or_default().push(number),
            }
        }
        self.list.blocks.push(*block);
    }
}

fn slot_text(arena: &str, slot: Slot) -> &str {
    let start = slot.at as usize;
    arena.get(start..start + usize::from(slot.len)).unwrap_or_default()
}

fn slot_is(slots: &Slots, arena: &str, number: u32, kind: Kind, text: &str) -> bool {
    slots.get(number).is_some_and(|s| s.kind == kind && slot_text(arena, s) == text)
}

fn slot_hash(hasher: &DefaultHashBuilder, arena: &str, slot: Slot) -> u64 {
    hash_key(hasher, slot.kind, slot_text(arena, slot))
}

/// The entry of a name of one label with a network, for its author to correct.
fn in_its_network(entry: &Entry) -> Entry {
    let is_this_host = entry.destination.to_string() == "localhost";
    let networks: &[&str] = if is_this_host { &["127.0.0.0/8", "::1"] } else { &["10.0.0.0/8"] };
    let addresses = networks.iter().filter_map(|network| IpBlock::parse(network).ok()).collect();
    let settings = Defaults { addresses: Some(addresses), ..entry.settings.clone() };
    Entry { settings, ..entry.clone() }
}
