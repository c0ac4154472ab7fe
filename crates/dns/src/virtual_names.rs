//! Addresses that stand for names: each client gets one of its own for every name that it asks for, so that a connection
//! to it says for which name it is, whatever it speaks. A shared, a stale or a guessed address says nothing.
//!
//! Time is an argument here.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use exeat_model::{CanonicalIp, DnsName};
use hashbrown::{DefaultHashBuilder, HashTable};
use ipnet::{Ipv4Net, Ipv6Net};

/// How long a name keeps its address after it was last asked for or connected to, once there are no unused ones: clients
/// that resolve once when they start go on with what they got.
pub const HOLD: Duration = Duration::from_secs(24 * 60 * 60);

/// Names of all clients together that have an address, so that their number cannot grow with what clients ask for. Each
/// takes some 18 bytes, and this many less than 250 MB.
pub const ASSIGNED_MAX: usize = 12_000_000;

/// Addresses that are looked at for one that has not been used for [`HOLD`], before there is none: the time that an
/// answer takes must not grow with what is assigned.
const REUSE_TRIES: usize = 64;

/// The smallest IPv4 network whose addresses are worth handing out.
const PREFIX_MAX: u8 = 28;

/// The networks that addresses come from. Both have an address for each name, at the same place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ranges {
    v4: Ipv4Net,
    v6: Ipv6Net,
}

/// Why networks cannot be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RangesError {
    /// The IPv4 network has hardly any addresses.
    #[error("the IPv4 network is smaller than a /{PREFIX_MAX}")]
    Small,
    /// The IPv6 network has fewer addresses than the IPv4 network.
    #[error("the IPv6 network is smaller than the IPv4 network")]
    Narrow,
}

impl Ranges {
    /// Returns these networks as ranges.
    ///
    /// # Errors
    /// See [`RangesError`].
    pub fn new(v4: Ipv4Net, v6: Ipv6Net) -> Result<Self, RangesError> {
        if v4.prefix_len() > PREFIX_MAX {
            return Err(RangesError::Small);
        }
        if v6.max_prefix_len() - v6.prefix_len() < v4.max_prefix_len() - v4.prefix_len() {
            return Err(RangesError::Narrow);
        }
        Ok(Self { v4: v4.trunc(), v6: v6.trunc() })
    }

    /// The IPv4 network.
    #[must_use]
    pub const fn v4(&self) -> Ipv4Net {
        self.v4
    }

    /// The IPv6 network.
    #[must_use]
    pub const fn v6(&self) -> Ipv6Net {
        self.v6
    }

    /// Names that one client can have: all but the first and the last address, which are those of the network itself and
    /// of broadcasts.
    #[must_use]
    pub fn names_per_client(&self) -> usize {
        (1usize << (self.v4.max_prefix_len() - self.v4.prefix_len())) - 2
    }

    /// Whether the address is in one of the networks.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match CanonicalIp::new(ip).get() {
            IpAddr::V4(ip) => self.v4.contains(&ip),
            IpAddr::V6(ip) => self.v6.contains(&ip),
        }
    }

    fn at(&self, place: u32) -> Addresses {
        let host = place + 1;
        Addresses {
            v4: Ipv4Addr::from_bits(self.v4.network().to_bits() | host),
            v6: Ipv6Addr::from_bits(self.v6.network().to_bits() | u128::from(host)),
        }
    }

    fn place_of(&self, ip: IpAddr) -> Option<u32> {
        if !self.contains(ip) {
            return None;
        }
        let host = match CanonicalIp::new(ip).get() {
            IpAddr::V4(ip) => ip.to_bits() & !self.v4.netmask().to_bits(),
            IpAddr::V6(ip) => u32::try_from(ip.to_bits() & !self.v6.netmask().to_bits()).ok()?,
        };
        host.checked_sub(1)
    }
}

impl Default for Ranges {
    /// 198.18.0.0/15, which is for measurements within a site (RFC 2544) and 131,070 names long, and as many addresses of
    /// a private IPv6 network.
    fn default() -> Self {
        let v4 = Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15);
        let v6 = Ipv6Net::new_assert(Ipv6Addr::new(0xfd65, 0x7865, 0x6174, 0, 0, 0, 0, 0), 96);
        Self { v4, v6 }
    }
}

/// The addresses of one name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Addresses {
    /// Of IPv4.
    pub v4: Ipv4Addr,
    /// Of IPv6.
    pub v6: Ipv6Addr,
}

/// What an address stands for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Meaning {
    /// This name.
    Name(DnsName),
    /// Nothing that this client was told: it was never told, or too long ago.
    Unknown,
    /// It is an ordinary address.
    Ordinary,
}

/// There is no address for a further name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("all addresses are taken")]
pub struct Exhausted;

/// Which address stands for which name, to whom.
pub struct VirtualNames {
    ranges: Ranges,
    began: Instant,
    hold: Duration,
    assigned_max: usize,
    names: Mutex<Names>,
    clients: RwLock<HashMap<Arc<str>, Arc<Mutex<Client>>>>,
    assigned: AtomicUsize,
}

/// Every name that has an address, by number: most clients ask for the same.
#[derive(Default)]
struct Names {
    /// Each with how many clients have an address for it.
    all: Vec<Option<(DnsName, u32)>>,
    free: Vec<u32>,
    numbers: HashMap<DnsName, u32>,
}

/// The addresses of one client.
#[derive(Default)]
struct Client {
    taken: Vec<Taken>,
    /// Places by the number of their name.
    places: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// Where to look next for an address that is not used any more.
    hand: usize,
}

#[derive(Clone, Copy)]
struct Taken {
    /// The number of the name.
    name: u32,
    /// When it was last asked for or connected to, in seconds after the beginning.
    used: u32,
}

impl VirtualNames {
    /// Returns a table without names. Times that it is given later are at or after `now`.
    #[must_use]
    pub fn new(ranges: Ranges, now: Instant) -> Self {
        Self {
            ranges,
            began: now,
            hold: HOLD,
            assigned_max: ASSIGNED_MAX,
            names: Mutex::default(),
            clients: RwLock::default(),
            assigned: AtomicUsize::new(0),
        }
    }

    /// The networks that addresses come from.
    #[must_use]
    pub const fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// How many names have an address, those of each client counted apart.
    #[must_use]
    pub fn assigned(&self) -> usize {
        self.assigned.load(Ordering::Relaxed)
    }

    /// Returns the addresses that stand for `name` to the client `whose`; the same for as long as it uses them.
    ///
    /// # Errors
    /// If all are taken, and none has been unused for [`HOLD`].
    pub fn assign(&self, whose: &str, name: &DnsName, now: Instant) -> Result<Addresses, Exhausted> {
        let now = self.seconds(now);
        let client = self.client(whose);
        let mut client = lock(&client);
        // Whoever holds a client may ask for names, never the other way round.
        let known = lock(&self.names).numbers.get(name).copied();
        if let Some(place) = known.and_then(|number| client.place_of(number)) {
            client.touch(place, now);
            return Ok(self.ranges.at(place));
        }
        let room = client.taken.len() < self.ranges.names_per_client()
            && self.assigned.load(Ordering::Relaxed) < self.assigned_max;
        let unused = if room { None } else { Some(client.unused(now, self.hold).ok_or(Exhausted)?) };
        let taken = Taken { name: lock(&self.names).hold(name), used: now };
        let place = if let Some(place) = unused {
            if let Some(old) = client.replace(place, taken) {
                lock(&self.names).release(old.name);
            }
            place
        } else {
            self.assigned.fetch_add(1, Ordering::Relaxed);
            client.take_new(taken)
        };
        Ok(self.ranges.at(place))
    }

    /// Returns what `ip` stands for to the client `whose`, who connects to it.
    #[must_use]
    pub fn meaning(&self, whose: &str, ip: IpAddr, now: Instant) -> Meaning {
        if !self.ranges.contains(ip) {
            return Meaning::Ordinary;
        }
        let client = self.clients.read().unwrap_or_else(PoisonError::into_inner).get(whose).cloned();
        let (Some(client), Some(place)) = (client, self.ranges.place_of(ip)) else {
            return Meaning::Unknown;
        };
        let now = self.seconds(now);
        let mut client = lock(&client);
        let name = client.touch(place, now).and_then(|number| lock(&self.names).get(number));
        name.map_or(Meaning::Unknown, Meaning::Name)
    }

    fn client(&self, whose: &str) -> Arc<Mutex<Client>> {
        if let Some(client) = self.clients.read().unwrap_or_else(PoisonError::into_inner).get(whose) {
            return Arc::clone(client);
        }
        let mut clients = self.clients.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(clients.entry(whose.into()).or_default())
    }

    fn seconds(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.began).as_secs()).unwrap_or(u32::MAX)
    }
}

impl Names {
    fn get(&self, number: u32) -> Option<DnsName> {
        self.all.get(number as usize)?.as_ref().map(|(name, _)| name.clone())
    }

    /// Returns the number of the name, which keeps it until it is released as often.
    fn hold(&mut self, name: &DnsName) -> u32 {
        if let Some(&number) = self.numbers.get(name) {
            if let Some(Some((_, holders))) = self.all.get_mut(number as usize) {
                *holders += 1;
            }
            return number;
        }
        let kept = Some((name.clone(), 1));
        let number = match self.free.pop() {
            Some(number) => {
                if let Some(free) = self.all.get_mut(number as usize) {
                    *free = kept;
                }
                number
            }
            None => {
                self.all.push(kept);
                u32::try_from(self.all.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.numbers.insert(name.clone(), number);
        number
    }

    fn release(&mut self, number: u32) {
        let Some(held) = self.all.get_mut(number as usize) else { return };
        let Some((name, holders)) = held else { return };
        *holders -= 1;
        if *holders == 0 {
            self.numbers.remove(name);
            *held = None;
            self.free.push(number);
        }
    }
}

impl Client {
    fn place_of(&self, name: u32) -> Option<u32> {
        let hash = self.hasher_of()(&name);
        self.places.find(hash, |&place| self.is_at(place, name)).copied()
    }

    /// Notes that the place is used, and returns the number of its name.
    fn touch(&mut self, place: u32, now: u32) -> Option<u32> {
        let taken = self.taken.get_mut(place as usize)?;
        taken.used = now;
        Some(taken.name)
    }

    fn take_new(&mut self, taken: Taken) -> u32 {
        let place = u32::try_from(self.taken.len()).unwrap_or(u32::MAX);
        self.taken.push(taken);
        self.index(place, taken.name);
        place
    }

    /// Returns a place that has not been used for `hold`, of the next few.
    fn unused(&mut self, now: u32, hold: Duration) -> Option<u32> {
        let is_unused = |taken: &Taken| u64::from(now.saturating_sub(taken.used)) >= hold.as_secs();
        for _ in 0..REUSE_TRIES.min(self.taken.len()) {
            let place = self.hand % self.taken.len();
            self.hand = place + 1;
            if self.taken.get(place).is_some_and(is_unused) {
                return u32::try_from(place).ok();
            }
        }
        None
    }

    /// Gives a place to another name, and returns what it was for.
    fn replace(&mut self, place: u32, new: Taken) -> Option<Taken> {
        let old = std::mem::replace(self.taken.get_mut(place as usize)?, new);
        let hash = self.hasher_of()(&old.name);
        if let Ok(entry) = self.places.find_entry(hash, |&at| at == place) {
            entry.remove();
        }
        self.index(place, new.name);
        Some(old)
    }

    fn index(&mut self, place: u32, name: u32) {
        let Self { taken, places, hasher, .. } = self;
        let name_at = |at: &u32| taken.get(*at as usize).map_or(0, |taken| taken.name);
        let hash = |at: &u32| std::hash::BuildHasher::hash_one(hasher, name_at(at));
        places.insert_unique(std::hash::BuildHasher::hash_one(hasher, name), place, hash);
    }

    fn is_at(&self, place: u32, name: u32) -> bool {
        self.taken.get(place as usize).is_some_and(|taken| taken.name == name)
    }

    fn hasher_of(&self) -> impl Fn(&u32) -> u64 + '_ {
        |name| std::hash::BuildHasher::hash_one(&self.hasher, name)
    }
}

impl fmt::Debug for VirtualNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtualNames")
            .field("ranges", &self.ranges)
            .field("assigned", &self.assigned())
            .finish_non_exhaustive()
    }
}

/// A panic elsewhere leaves nothing half done here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
