//! The names that each client was told an address for: what a connection to an address can be meant for, where a kernel
//! redirects it to the proxy. It is filled before an answer is given, as part of its [`Gate`].
//!
//! Time is an argument here, but for that gate.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use exeat_model::DnsName;

use crate::gate::{Gate, GateError, Opened, Opening};

/// Pairs of an address and a name of all clients together; each takes some 150 bytes, and this many less than 40 MB.
const PAIRS_MAX: usize = 262_144;

/// The same of one client: a sixteenth, so that one that asks for names all day leaves others room.
const PAIRS_PER_CLIENT: usize = 16_384;

/// Names of one address that one client is remembered to have asked for. Each of them is decided on when it connects, so
/// this bounds the time that takes; the one that was last asked for or used longest ago makes room for the next.
const NAMES_PER_ADDRESS: usize = 64;

/// How often what has ended is looked for at most: that takes time in proportion to all pairs.
const FORGETTING_INTERVAL: Duration = Duration::from_secs(1);

/// Whose an answer is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Whose {
    /// The client with this address, who asked.
    Client(IpAddr),
    /// The principal, for addresses of the other family than its question came by: it connects from another address then,
    /// of which nothing is known but whose it is.
    Principal(Arc<str>),
}

/// Who asks, or connects.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// Its address; never an IPv4-mapped one.
    pub address: IpAddr,
    /// The name of its principal.
    pub principal: &'a Arc<str>,
}

impl Asker<'_> {
    /// Whose an answer with `address` is, if the question came from here.
    fn whose(&self, address: IpAddr) -> Whose {
        if self.address.is_ipv4() == address.is_ipv4() {
            Whose::Client(self.address)
        } else {
            Whose::Principal(Arc::clone(self.principal))
        }
    }
}

/// There is room for no more.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("too many answers are remembered")]
pub struct Full;

/// What clients were told.
pub struct Answers {
    hold: Duration,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    whose: HashMap<Whose, Told>,
    pairs: usize,
    forgot: Option<Instant>,
}

#[derive(Default)]
struct Told {
    addresses: HashMap<IpAddr, Vec<Named>>,
    pairs: usize,
}

struct Named {
    name: DnsName,
    until: Instant,
}

impl Answers {
    /// Returns an empty table, in which what was told counts for `hold` after it was last asked for or used, and no less
    /// than the [lifetime](Opening::lifetime) of the answer.
    #[must_use]
    pub fn new(hold: Duration) -> Self {
        Self { hold, table: Mutex::default() }
    }

    /// Returns the gate that remembers what it is told, and then opens `next`.
    #[must_use]
    pub fn before(self: &Arc<Self>, next: Arc<dyn Gate>) -> Arc<dyn Gate> {
        Arc::new(Remembering { answers: Arc::clone(self), next })
    }

    /// Remembers that `asker` is told these addresses of `name`.
    ///
    /// # Errors
    /// If there is no room for all of them, also once those have been forgotten whose time is over. Then none is remembered.
    pub fn note(
        &self,
        asker: Asker<'_>,
        name: &DnsName,
        addresses: &[IpAddr],
        lifetime: Duration,
        now: Instant,
    ) -> Result<(), Full> {
        let until = now + lifetime.max(self.hold);
        let mut table = self.table();
        for is_same_family in [true, false] {
            let of_one = |ip: &&IpAddr| (ip.is_ipv4() == asker.address.is_ipv4()) == is_same_family;
            let addresses: Vec<IpAddr> = addresses.iter().filter(of_one).copied().collect();
            if let Some(first) = addresses.first() {
                table.note(asker.whose(*first), name, &addresses, until, now)?;
            }
        }
        Ok(())
    }

    /// Returns the names that `asker`, who connects to `address`, was told it for, the last first. None of them is
    /// forgotten for a while from now on.
    #[must_use]
    pub fn names(&self, asker: Asker<'_>, address: IpAddr, now: Instant) -> Vec<DnsName> {
        let mut found: Vec<DnsName> = Vec::new();
        // It asked from this address, or by the other family.
        for whose in [Whose::Client(asker.address), Whose::Principal(Arc::clone(asker.principal))] {
            let mut table = self.table();
            let Some(names) = table.whose.get_mut(&whose).and_then(|told| told.addresses.get_mut(&address))
            else {
                continue;
            };
            for named in names.iter_mut().rev().filter(|named| named.until > now) {
                named.until = named.until.max(now + self.hold);
                if !found.contains(&named.name) {
                    found.push(named.name.clone());
                }
            }
        }
        found
    }

    /// Pairs of an address and a name that are remembered, those of each client counted apart.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table().pairs
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A panic elsewhere leaves nothing half done here.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn note(
        &mut self,
        whose: Whose,
        name: &DnsName,
        addresses: &[IpAddr],
        until: Instant,
        now: Instant,
    ) -> Result<(), Full> {
        if !self.has_room(&whose, addresses.len()) {
            self.forget_ended(now);
            if !self.has_room(&whose, addresses.len()) {
                return Err(Full);
            }
        }
        let told = self.whose.entry(whose).or_default();
        for address in addresses {
            let names = told.addresses.entry(*address).or_default();
            let before = names.len();
            // The last is at the end; its time is never shorter than it was.
            let old = names.iter().position(|named| named.name == *name).map(|at| names.remove(at));
            if names.len() == NAMES_PER_ADDRESS {
                names.remove(0);
            }
            let until = old.map_or(until, |old| old.until.max(until));
            names.push(Named { name: name.clone(), until });
            let more = names.len() - before;
            told.pairs += more;
            self.pairs += more;
        }
        Ok(())
    }

    /// Whether there is room, if all of it is new.
    fn has_room(&self, whose: &Whose, more: usize) -> bool {
        let own = self.whose.get(whose).map_or(0, |told| told.pairs);
        own + more <= PAIRS_PER_CLIENT && self.pairs + more <= PAIRS_MAX
    }

    fn forget_ended(&mut self, now: Instant) {
        if self.forgot.is_some_and(|forgot| now.saturating_duration_since(forgot) < FORGETTING_INTERVAL) {
            return;
        }
        self.forgot = Some(now);
        self.whose.retain(|_, told| {
            told.addresses.retain(|_, names| {
                names.retain(|named| named.until > now);
                !names.is_empty()
            });
            told.pairs = told.addresses.values().map(Vec::len).sum();
            told.pairs > 0
        });
        self.pairs = self.whose.values().map(|told| told.pairs).sum();
    }
}

struct Remembering {
    answers: Arc<Answers>,
    next: Arc<dyn Gate>,
}

impl Gate for Remembering {
    fn open(&self, opening: Opening) -> Opened<'_> {
        // No connection of a control group comes here, and the address that its questions come from is not its own.
        if opening.place.cgroup.known().is_some() {
            return self.next.open(opening);
        }
        let mut addresses: Vec<IpAddr> = opening.reach.iter().flat_map(|reach| reach.addrs.clone()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let asker = Asker { address: opening.client, principal: &opening.principal.name };
        match self.answers.note(asker, &opening.name, &addresses, opening.lifetime, Instant::now()) {
            // First what a packet that the next one lets through is asked about.
            Ok(()) => self.next.open(opening),
            Err(Full) => Box::pin(std::future::ready(Err(GateError::Full))),
        }
    }

    fn relays(&self) -> bool {
        true
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers")
            .field("hold", &self.hold)
            .field("pairs", &self.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
