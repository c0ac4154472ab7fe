//! The firewall as the rest of the program sees it: it is started, opens what answers need, takes a new policy, and leaves
//! the kernel closed when it ends.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use exeat_dns::{Gate, GateError, Opened, Opening};
use exeat_identity::{Part, Place};
use exeat_model::{DnsName, Port, Transport};
use exeat_policy::{Reach, Reason, Relayed, Revision, literal, reach, reach_relayed};
use ipnet::IpNet;
use nix::errno::Errno;

use crate::{
    conntrack::{self, Flow},
    counts::Counts,
    element::{Element, Kind, Sender, Station},
    group::{self, Group, Located},
    kernel::{ELEMENTS_PER_BATCH, Fingerprint, Kernel},
    neighbours::Neighbours,
    nft::{self, NftError},
    packet_count::Count,
    plan::{Deciding, Device, Plan, place_of},
    refused::{Fate, Headers, NAMES_MAX, Packet},
    script::{self, Frame, GROUP_LABELS, kept_sets},
    state::{Client, Entry, State, View},
    watch::Watch,
    wire::{Batch, Held, Put},
};

/// The least time that something is open for after it was asked for or used.
pub use exeat_dns::LIFETIME_MIN;

/// What a firewall is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// The devices whose clients are held to the policy.
    pub devices: Vec<Device>,
    /// The control groups of this host whose processes are; at most [`GROUPS_MAX`](crate::GROUPS_MAX).
    pub groups: Vec<Attached>,
    /// Our listeners that processes of those may not connect to.
    pub closed: Vec<SocketAddr>,
    /// How long something opened by name is open after the last packet to it; at least [`LIFETIME_MIN`].
    pub lifetime: Duration,
    /// Elements that each set of the kernel holds at most, and entries of our own.
    pub size: u32,
    /// Whether the packets that a name lets through are counted, for [`Firewall::count`].
    pub is_counted: bool,
    /// Where our name server listens, or the one that we hear of, for what is asked on port 53.
    pub dns: Vec<SocketAddr>,
    /// Our other listeners that clients may connect to.
    pub doors: Vec<SocketAddr>,
    /// Those of them that take redirected connections: what opens a connection is looked at there, where that is needed.
    pub relay: Vec<SocketAddr>,
    /// Networks whose addresses stand for names: all connections to them are redirected.
    pub stand_ins: Vec<IpNet>,
}

/// A control group that is held to the policy.
#[derive(Clone, Debug)]
pub struct Attached {
    /// The group.
    pub group: Group,
    /// Where its processes are led with what they ask for names: loopback addresses that are its own.
    pub dns: Vec<SocketAddr>,
}

/// Why the firewall cannot be had, or a policy is not in force.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// The rules could not be set.
    #[error("the rules of the firewall could not be set")]
    Rules(#[from] NftError),
    /// The kernel could not be asked.
    #[error("the kernel could not be asked for its firewall")]
    Kernel(#[from] io::Error),
    /// Somebody else changed rules while ours were set, so that it is not known what is in force.
    #[error("somebody else changes the kernel's firewall at the same time")]
    Interrupted,
}

/// Times that the rules are set before it is given up for now, because somebody else changes theirs at the same time. It
/// takes some 10 ms each time.
const ATTEMPTS: usize = 5;

/// The firewall. The rules stay when it is dropped, so that the kernel opens nothing more; [`remove`] takes them away.
pub struct Firewall {
    inner: Arc<Inner>,
    _watch: Watch,
}

pub(crate) struct Inner {
    config: Config,
    counts: Arc<Counts>,
    working: Mutex<Working>,
}

struct Working {
    kernel: Kernel,
    neighbours: Neighbours,
    deciding: Arc<dyn Deciding>,
    plan: Plan,
    state: State,
    revision: Revision,
    serial: u64,
    /// `None` if the rules of the plan are not in force.
    in_force: Option<Fingerprint>,
    counts: Arc<Counts>,
    /// The groups as the rules know them, in the order of the configuration; `None` is not there.
    groups: Vec<Option<Located>>,
}

/// What a change of policy came to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Swept {
    /// Flows that were cut.
    pub cut: usize,
    /// Flows that go on.
    pub kept: usize,
}

impl Firewall {
    /// Puts the rules in force, and takes over what a firewall before this one has opened, as far as the policy still
    /// allows it. It is called before anybody is answered.
    ///
    /// # Errors
    /// If `nft` is missing, or the kernel refuses. Then nothing has changed.
    pub fn start(config: Config, deciding: Arc<dyn Deciding>) -> Result<Self, FirewallError> {
        nft::version()?;
        let counts = Arc::new(Counts::default());
        let mut kernel = Kernel::counting(Arc::clone(&counts))?;
        let found = match kernel.contents()? {
            Some(contents) => {
                let sets = contents.sets.iter().filter(|set| Kind::is_of(set));
                let mut found = Vec::new();
                for set in sets {
                    found.extend(kernel.list(set)?);
                }
                found
            }
            None => Vec::new(),
        };
        let plan = config.plan(&*deciding);
        let mut working = Working {
            kernel,
            neighbours: Neighbours::connect()?,
            plan,
            state: State::new(config.size as usize),
            revision: deciding.policy().revision(),
            deciding,
            serial: 0,
            in_force: None,
            counts: Arc::clone(&counts),
            groups: config.locate()?,
        };
        working.adopt(&config, &found);
        working.apply(&config)?;
        working.decide_again(&config, &found.iter().map(|held| held.element).collect::<Vec<_>>())?;
        let swept = working.sweep(&config)?;
        tracing::info!(
            adopted = working.state.len(),
            cut = swept.cut,
            kept = swept.kept,
            "the firewall is in force"
        );
        for (attached, located) in config.groups.iter().zip(&working.groups) {
            if located.is_none() {
                tracing::warn!(group = %attached.group.path(), "there is no such control group: it is held once there is");
            }
        }
        let inner = Arc::new(Inner { config, counts, working: Mutex::new(working) });
        let watch = Watch::start(Arc::clone(&inner))?;
        Ok(Self { inner, _watch: watch })
    }

    /// Decides by `deciding` from now on, on packets and on open flows. Those that are no longer allowed are cut, the
    /// others never notice. Takes milliseconds: call it where that may be.
    ///
    /// # Errors
    /// If the kernel could not be told all of it. Then what names have opened is held to the new policy all the same where
    /// that can be, new names are refused, and it is tried again until it works.
    pub fn replace(&self, deciding: Arc<dyn Deciding>) -> Result<Swept, FirewallError> {
        let plan = self.inner.config.plan(&*deciding);
        let mut working = self.inner.working();
        working.revision = deciding.policy().revision();
        working.deciding = deciding;
        working.plan = plan;
        working.not_in_force();
        let applied = working.apply(&self.inner.config);
        working.decide_again(&self.inner.config, &[])?;
        let swept = working.sweep(&self.inner.config)?;
        applied.map(|()| swept)
    }

    /// What it has done so far.
    #[must_use]
    pub fn counts(&self) -> &Arc<Counts> {
        &self.inner.counts
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// The names of the devices whose clients are held to the policy.
    pub fn devices(&self) -> impl Iterator<Item = &str> {
        self.inner.config.devices.iter().map(|device| &**device.name())
    }

    /// The control groups of this host whose processes are.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.inner.config.groups.iter().map(|attached| &**attached.group.path())
    }

    /// Whether the rules of what decides now are in force.
    #[must_use]
    pub fn is_in_force(&self) -> bool {
        self.inner.working().in_force.is_some()
    }

    /// Returns what was opened by name, in no order.
    #[must_use]
    pub fn opened(&self) -> Vec<OpenedView> {
        let working = self.inner.working();
        let now = Instant::now();
        working.state.views().map(|view| OpenedView::of(&view, now)).collect()
    }
}

impl Firewall {
    /// Returns what was opened by name of `address`, or for it.
    #[must_use]
    pub fn opened_at(&self, address: IpAddr) -> Vec<OpenedView> {
        let working = self.inner.working();
        let now = Instant::now();
        let client = Client::from(address);
        let views = working.state.views().filter(|view| view.address == address || *view.client == client);
        views.map(|view| OpenedView::of(&view, now)).collect()
    }

    /// Asks the kernel what is left of each of these, and what it has counted of them. It takes some microseconds for each,
    /// between which names are opened.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn count(&self, views: &mut [OpenedView]) -> Result<(), FirewallError> {
        for view in views {
            let mut working = self.inner.working();
            view.remaining = Duration::ZERO;
            view.count = self.inner.config.is_counted.then_some(Count::default());
            for element in &view.elements {
                let Some((held, count)) = working.kernel.get_counted(element)? else { continue };
                view.remaining = held.remaining.max(view.remaining);
                if let (Some(sum), Some(count)) = (&mut view.count, count) {
                    *sum += count;
                }
            }
        }
        Ok(())
    }

    /// Returns what the rules have counted: the flows that they have let through, by their first packets, and the packets that
    /// they have refused, or dropped for a source that is not the sender's own.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn counters(&self) -> Result<Vec<(String, Count)>, FirewallError> {
        let mut counters = self.inner.working().kernel.counters()?;
        counters.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(counters)
    }
}

/// Returns the addresses of devices that clients can send to: none that holds for one link alone.
///
/// # Errors
/// If there is no such device.
pub fn addresses<'a>(devices: impl Iterator<Item = &'a String> + Clone) -> io::Result<Vec<IpAddr>> {
    for device in devices.clone() {
        if number(device).is_none() {
            let message = format!("there is no network device `{device}`");
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
    }
    let is_named = |name: &str| devices.clone().any(|device| device == name);
    let found = nix::ifaddrs::getifaddrs()?;
    let found = found.filter(|found| is_named(&found.interface_name)).filter_map(|found| ip(found.address?));
    let is_of_link = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    Ok(found.filter(|address| !is_of_link(address)).collect())
}

/// Takes away every trace of a firewall in this network namespace. Flows that it let through go on.
///
/// # Errors
/// If `nft` is missing or refuses.
pub fn remove() -> Result<(), FirewallError> {
    nft::version()?;
    Ok(nft::run(&script::removal())?)
}

/// Something that a name opened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OpenedView {
    /// For whom.
    pub client: Client,
    /// The name.
    pub name: DnsName,
    /// An address of it.
    pub address: IpAddr,
    /// Transports and ports.
    pub ports: Vec<(Transport, exeat_model::PortRange)>,
    /// Those of them whose connections are redirected to the proxy, which looks at what opens them.
    pub relayed: Vec<(Transport, exeat_model::PortRange)>,
    /// How long it was still open at least, by what was asked; new connections make that longer. Zero if it has ended.
    pub remaining: Duration,
    /// What was counted of it, if that was asked for and is done.
    pub count: Option<Count>,
    elements: Vec<Element>,
}

impl OpenedView {
    fn of(view: &View<'_>, now: Instant) -> Self {
        let ports = |is_meant: &dyn Fn(&&Element) -> bool| {
            let elements = view.entry.elements.iter().filter(is_meant);
            let mut ports: Vec<_> = elements.map(|element| (element.transport, element.ports)).collect();
            ports.sort_unstable();
            ports.dedup();
            ports
        };
        Self {
            client: view.client.clone(),
            name: view.name.clone(),
            address: view.address,
            ports: ports(&|_| true),
            relayed: ports(&|element| element.is_relayed),
            remaining: view.entry.until.saturating_duration_since(now),
            count: None,
            elements: view.entry.elements.clone(),
        }
    }
}

impl Gate for Firewall {
    fn open(&self, opening: Opening) -> Opened<'_> {
        // The kernel answers within the call, in microseconds: nothing is waited for.
        Box::pin(std::future::ready(self.inner.working().open(&self.inner.config, &opening)))
    }
}

impl Inner {
    fn working(&self) -> MutexGuard<'_, Working> {
        self.working.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whose a logged packet was, and why it may not pass.
    pub(crate) fn explain(&self, fate: Fate, slot: Option<u32>, headers: &Headers) -> Packet {
        let Headers { source, target, transport } = *headers;
        let working = self.working();
        let now = Instant::now();
        let group = slot.and_then(|slot| self.config.of_slot(slot)).map(|(_, group)| group);
        let (client, place) = match group {
            Some(group) => (Client::Group(Arc::clone(group.path())), place_of(group)),
            None => {
                let interface = self.config.devices.first().map(|device| Arc::clone(device.name()));
                let interface = interface.map_or(Part::Nothing, Part::Known);
                let place = Place { address: Some(source.ip()), interface, ..Place::default() };
                (Client::Address(source.ip()), place)
            }
        };
        let principal = working.deciding.asker(&place).filter(|_| fate != Fate::Spoofed);
        let policy = working.deciding.policy();
        let (mut names, mut is_late, mut is_known) = (Vec::new(), false, false);
        // In the family that it does not ask for names in, it is known by its station.
        let is_direct = working.state.of_client_at(&client, target.ip()).next().is_some();
        let station =
            if is_direct || group.is_some() { None } else { working.station(&self.config, source.ip()) };
        let client = station.and_then(|station| working.state.client_at(station)).unwrap_or(&client);
        for (name, entry) in working.state.of_client_at(client, target.ip()) {
            is_known = true;
            is_late |= entry.until <= now;
            names.push(name.clone());
        }
        if names.is_empty() {
            names.extend_from_slice(working.state.names_of(target.ip()));
        }
        names.sort_unstable();
        names.dedup();
        names.truncate(NAMES_MAX);
        let reason = match (fate, &principal, transport, Port::new(target.port())) {
            (Fate::Spoofed, ..) => Reason::ContainerMismatch,
            (Fate::Refused | Fate::Watched, None, ..) => Reason::AuthRequired,
            (Fate::Refused, Some(_), Some(_), Some(_)) if is_known && !is_late => Reason::PortNotAllowed,
            (Fate::Refused | Fate::Watched, Some(principal), Some(transport), Some(port)) => {
                match literal(policy, &principal.bound, target.ip(), port, transport) {
                    Err(denial) => denial.reason,
                    // It is allowed by now, or only where a flow begins.
                    Ok(would_deny) => would_deny.map_or(Reason::PolicyChanged, |denial| denial.reason),
                }
            }
            (Fate::Refused | Fate::Watched, Some(_), _, _) => Reason::IpLiteralNotAllowed,
        };
        self.counts.packet(fate, is_late);
        Packet {
            fate,
            source,
            target,
            transport,
            principal,
            reason,
            revision: policy.revision(),
            names,
            is_late,
        }
    }

    /// Puts the rules in force again if a control group is not the one that they name. Returns whether that was so.
    ///
    /// # Errors
    /// If that does not work.
    pub(crate) fn regroup(&self) -> Result<bool, FirewallError> {
        if self.config.groups.is_empty() {
            return Ok(false);
        }
        let now = self.config.locate()?;
        let mut working = self.working();
        if now == working.groups {
            return Ok(false);
        }
        working.not_in_force();
        working.apply(&self.config)?;
        working.decide_again(&self.config, &[])?;
        Ok(true)
    }

    /// Puts the rules in force again if `seen` is not what they should look like. Returns whether they were not.
    ///
    /// # Errors
    /// If that does not work.
    pub(crate) fn mend(&self, seen: Option<Fingerprint>) -> Result<bool, FirewallError> {
        let mut working = self.working();
        if working.in_force.is_some() && seen == working.in_force {
            return Ok(false);
        }
        // It may have been ours, between the two looks.
        let now = working.kernel.fingerprint()?;
        if working.in_force.is_some() && now == working.in_force {
            return Ok(false);
        }
        working.not_in_force();
        working.apply(&self.config)?;
        self.counts.reinstalled();
        working.sweep(&self.config)?;
        Ok(true)
    }
}

impl Working {
    /// Sets the rules of the plan. What has been opened by name stays open throughout, if it was.
    fn apply(&mut self, config: &Config) -> Result<(), FirewallError> {
        // Somebody may change them between our look at what is there and what we make of it.
        let mut result = self.try_apply(config);
        for _ in 1..ATTEMPTS {
            if result.is_ok() {
                break;
            }
            result = self.try_apply(config);
        }
        result
    }

    fn try_apply(&mut self, config: &Config) -> Result<(), FirewallError> {
        self.groups = config.locate()?;
        let frame = config.frame(&self.groups);
        let old = self.kernel.contents()?;
        self.serial += 1;
        while old.as_ref().is_some_and(|old| old.has_serial(self.serial)) {
            self.serial += 1;
        }
        let mut is_new = old.is_none();
        let mut before = self.kernel.generation()?;
        let result = nft::run(&script::script(&self.plan, &frame, old.as_ref(), self.serial));
        match (result, &old) {
            (Err(NftError::Refused { complaint }), Some(_)) => {
                tracing::warn!(%complaint, "the table of the firewall is made anew");
                is_new = true;
                let fresh = script::script(&self.plan, &frame, None, self.serial);
                before = self.kernel.generation()?;
                nft::run(&(script::removal() + &fresh))?;
            }
            (result, _) => result?,
        }
        let fingerprint = self.kernel.fingerprint()?;
        // What was taken is what we have set only if nothing else has changed meanwhile.
        if self.kernel.generation()? != before.wrapping_add(1) {
            return Err(FirewallError::Interrupted);
        }
        if is_new {
            self.put_all(config)?;
        }
        self.in_force = fingerprint;
        self.counts.in_force(fingerprint.is_some());
        Ok(())
    }

    fn not_in_force(&mut self) {
        self.in_force = None;
        self.counts.in_force(false);
    }

    /// Tells the kernel everything again that is open.
    fn put_all(&mut self, config: &Config) -> io::Result<()> {
        let now = Instant::now();
        let known: HashSet<String> = kept_sets(&self.plan).into_iter().map(|(name, _)| name).collect();
        let mut puts = Vec::new();
        for view in self.state.views() {
            let lifetime = view.entry.until.saturating_duration_since(now).min(config.lifetime);
            let elements = view.entry.elements.iter().filter(|element| known.contains(&element.set()));
            if !lifetime.is_zero() {
                puts.extend(elements.map(|element| put(*element, lifetime, view.name)));
            }
        }
        self.put(&puts)
    }

    fn put(&mut self, puts: &[Put]) -> io::Result<()> {
        for puts in puts.chunks(ELEMENTS_PER_BATCH) {
            let mut batch = Batch::default();
            batch.put(puts, self.kernel.renews_in_place());
            self.kernel.commit(batch)?;
        }
        Ok(())
    }

    /// Opens what an answer needs.
    fn open(&mut self, config: &Config, opening: &Opening) -> Result<(), GateError> {
        if opening.revision < self.revision {
            return Err(GateError::Outdated);
        }
        if self.in_force.is_none() {
            self.apply(config).map_err(|error| GateError::Kernel(io::Error::other(error)))?;
        }
        let lifetime = opening.lifetime.max(config.lifetime);
        let now = Instant::now();
        let client = match opening.place.cgroup.known() {
            Some(path) => Client::Group(Arc::clone(path)),
            None => Client::Address(opening.client),
        };
        let mut entries: Vec<(IpAddr, Entry)> = Vec::new();
        for reached in &opening.reach {
            for &address in &reached.addrs {
                let is_shared = self.state.is_shared(address, &opening.name);
                let elements = self.elements(config, &client, address, reached, is_shared);
                let elements = elements.ok_or_else(|| {
                    GateError::Kernel(io::Error::other("ports that the rules of the firewall do not know"))
                })?;
                match entries.iter_mut().find(|(other, _)| *other == address) {
                    Some((_, entry)) => entry.elements.extend(elements),
                    None => entries.push((address, Entry { elements, until: now + lifetime })),
                }
            }
        }
        let addresses: Vec<IpAddr> = entries.iter().map(|(address, _)| *address).collect();
        self.state.make_room(&client, &opening.name, &addresses, now).map_err(|_| {
            self.counts.full();
            GateError::Full
        })?;
        let elements = entries.iter().flat_map(|(_, entry)| &entry.elements);
        let puts: Vec<Put> = elements.map(|element| put(*element, lifetime, &opening.name)).collect();
        self.put(&puts).or_else(|error| self.put_after(config, error, &puts)).map_err(|error| {
            if error.raw_os_error() == Some(Errno::ENFILE as i32) {
                self.counts.full();
                GateError::Full
            } else {
                GateError::Kernel(error)
            }
        })?;
        if !config.relays(&client) {
            self.state.note(&client, &opening.name, &opening.place, entries);
            self.counts.open(self.state.len());
            return Ok(());
        }
        let becomes_shared = addresses.iter().copied().filter(|address| {
            let known = self.state.names_of(*address);
            known.len() == 1 && !known.contains(&opening.name)
        });
        let becomes_shared: Vec<IpAddr> = becomes_shared.collect();
        let before = self.state.elements_of(&client, &addresses);
        self.state.note(&client, &opening.name, &opening.place, entries);
        self.counts.open(self.state.len());
        self.turn(config, &client, &becomes_shared).map_err(GateError::Kernel)?;
        let after = self.state.elements_of(&client, &addresses);
        let gone: Vec<Element> = before.difference(&after).copied().collect();
        self.delete(&gone).map_err(GateError::Kernel)
    }

    /// Has what the other names of a client have opened of these addresses, of which another name is known from now on, go
    /// through the relay where that is to look at it. Other clients' turn comes when they ask again.
    fn turn(&mut self, config: &Config, client: &Client, addresses: &[IpAddr]) -> io::Result<()> {
        let now = Instant::now();
        let mut turned = Vec::new();
        for view in self.state.of_client(client).filter(|view| addresses.contains(&view.address)) {
            let elements = self.again(config, &view, self.state.is_shared(view.address, view.name));
            if elements != view.entry.elements {
                let until = view.entry.until;
                turned.push((view.name.clone(), view.place.clone(), view.address, Entry { elements, until }));
            }
        }
        for (name, place, address, entry) in turned {
            let lifetime = entry.until.saturating_duration_since(now);
            if !lifetime.is_zero() {
                let puts = entry.elements.iter().map(|element| put(*element, lifetime, &name));
                self.put(&puts.collect::<Vec<_>>())?;
            }
            self.state.note(client, &name, &place, [(address, entry)]);
        }
        Ok(())
    }

    /// Tries once more where the sets were gone, because somebody has flushed our table.
    fn put_after(&mut self, config: &Config, error: io::Error, puts: &[Put]) -> io::Result<()> {
        if error.kind() != io::ErrorKind::NotFound {
            return Err(error);
        }
        tracing::error!("somebody has removed the rules of the firewall: they are set again");
        self.not_in_force();
        self.apply(config).map_err(io::Error::other)?;
        self.counts.reinstalled();
        self.put(puts)
    }

    /// What the kernel has to be told so that `client` reaches one address. `None` if the rules have no such ports. Empty
    /// if the client is not known in the family of the address: it may have none of that.
    fn elements(
        &self,
        config: &Config,
        client: &Client,
        address: IpAddr,
        reached: &Reach,
        is_shared: bool,
    ) -> Option<Vec<Element>> {
        let sender = match client {
            Client::Address(client) if client.is_ipv4() == address.is_ipv4() => {
                Some(Sender::Address(*client))
            }
            Client::Address(client) => self.station(config, *client).map(Sender::Station),
            Client::Group(path) => self.group(config, path).map(|group| Sender::Group(group.id)),
        };
        let Some(sender) = sender else { return Some(Vec::new()) };
        let is_relayed = match reached.relayed {
            Relayed::Never => false,
            Relayed::IfShared => is_shared && config.relays(client),
            // Nobody would look at it.
            Relayed::Always if !config.relays(client) => return Some(Vec::new()),
            Relayed::Always => true,
        };
        let parts = self.plan.split(reached.ports)?;
        let transport = reached.transport;
        let element = |ports| Element { sender, address, transport, ports, is_relayed };
        Some(parts.into_iter().map(element).collect())
    }

    /// A group as the rules know it.
    fn group(&self, config: &Config, path: &str) -> Option<&Located> {
        let mut known = config.groups.iter().zip(&self.groups);
        known.find(|(attached, _)| **attached.group.path() == *path)?.1.as_ref()
    }

    /// Who a client is on the enforced device that it is a neighbour on.
    fn station(&self, config: &Config, client: IpAddr) -> Option<Station> {
        let mut numbers = config.devices.iter().filter_map(|device| number(device.name()));
        numbers.find_map(|device| self.neighbours.get(device, client).ok().flatten())
    }

    /// Takes over what is in the kernel already, as far as it says what it was opened for. It is decided on again before it
    /// counts.
    fn adopt(&mut self, config: &Config, found: &[Held]) {
        let now = Instant::now();
        let neighbours = self.neighbours.all().unwrap_or_default();
        for held in found {
            let Some(name) = held.name.as_deref().and_then(|name| DnsName::parse(name).ok()) else {
                continue;
            };
            let element = held.element;
            let address = match element.sender {
                Sender::Address(client) => Some(client),
                Sender::Station(station) => neighbours
                    .iter()
                    .find(|(ip, at)| *at == station && ip.is_ipv4() != element.address.is_ipv4())
                    .map(|(ip, _)| *ip),
                Sender::Group(_) => None,
            };
            let (client, place) = match (element.sender, address) {
                (Sender::Group(id), _) => {
                    let is_it = |group: &Option<Located>| group.as_ref().is_some_and(|group| group.id == id);
                    let mut known = config.groups.iter().zip(&self.groups);
                    let Some((attached, _)) = known.find(|(_, group)| is_it(group)) else { continue };
                    (Client::Group(Arc::clone(attached.group.path())), place_of(&attached.group))
                }
                (Sender::Address(_) | Sender::Station(_), None) => continue,
                (Sender::Address(_) | Sender::Station(_), Some(client)) => {
                    let interface = self.interface(config, client, &neighbours);
                    let place = Place {
                        address: Some(client),
                        interface: interface.map_or(Part::Nothing, Part::Known),
                        ..Place::default()
                    };
                    (Client::Address(client), place)
                }
            };
            let until = now + held.remaining;
            let entry = Entry { elements: vec![element], until };
            if self.state.make_room(&client, &name, &[element.address], now).is_ok() {
                self.state.note(&client, &name, &place, [(element.address, entry)]);
            }
        }
    }

    /// The enforced device that a client is on.
    fn interface(
        &self,
        config: &Config,
        client: IpAddr,
        neighbours: &[(IpAddr, Station)],
    ) -> Option<Arc<str>> {
        let devices = neighbours.iter().filter(|(ip, _)| *ip == client).map(|(_, station)| station.device);
        let devices: Vec<u32> = devices.collect();
        let is_there =
            |device: &&Device| number(device.name()).is_some_and(|number| devices.contains(&number));
        let found = config.devices.iter().find(is_there).or(config.devices.first());
        found.map(|device| Arc::clone(device.name()))
    }

    /// Holds what was opened by name to what decides now. `found` may be in the kernel besides what we know of.
    fn decide_again(&mut self, config: &Config, found: &[Element]) -> io::Result<()> {
        let now = Instant::now();
        let known = self.state.known();
        let mut state = std::mem::replace(&mut self.state, State::new(0));
        let (mut gone, new) = state.decide_again(now, |view| {
            let names = known.get(&view.address).into_iter().flatten();
            self.again(config, view, names.into_iter().any(|name| name != view.name))
        });
        self.state = state;
        self.counts.open(self.state.len());
        let open: HashSet<Element> =
            self.state.views().flat_map(|view| view.entry.elements.clone()).collect();
        gone.extend(found.iter().filter(|element| !open.contains(element)));
        let known: HashSet<String> = kept_sets(&self.plan).into_iter().map(|(name, _)| name).collect();
        gone.retain(|element| known.contains(&element.set()));
        self.delete(&gone)?;
        let names: Vec<(Element, DnsName)> = self
            .state
            .views()
            .flat_map(|view| view.entry.elements.iter().map(|element| (*element, view.name.clone())))
            .filter(|(element, _)| new.contains_key(element))
            .collect();
        let puts = names.iter().filter_map(|(element, name)| Some(put(*element, *new.get(element)?, name)));
        let puts: Vec<Put> = puts.collect();
        self.put(&puts)?;
        // A packet that was under way may have renewed what was being deleted.
        self.delete(&gone)
    }

    /// What a name opens now of what it has opened.
    fn again(&self, config: &Config, view: &View<'_>, is_shared: bool) -> Vec<Element> {
        let Some(asker) = self.deciding.asker(view.place) else { return Vec::new() };
        let reach = if config.relays(view.client) { reach_relayed } else { reach };
        let Ok(reached) = reach(self.deciding.policy(), &asker.bound, view.name, &[view.address]) else {
            return Vec::new();
        };
        let elements = reached
            .iter()
            .filter_map(|reached| self.elements(config, view.client, view.address, reached, is_shared));
        elements.flatten().collect()
    }

    /// Deletes elements, each of which may have ended by itself.
    fn delete(&mut self, gone: &[Element]) -> io::Result<()> {
        for gone in gone.chunks(ELEMENTS_PER_BATCH) {
            let mut batch = Batch::default();
            batch.delete(gone);
            match self.kernel.commit(batch) {
                Ok(()) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            for element in gone {
                let mut batch = Batch::default();
                batch.delete(&[*element]);
                match self.kernel.commit(batch) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Cuts the flows that are open and not allowed.
    fn sweep(&mut self, config: &Config) -> io::Result<Swept> {
        let flows = conntrack::flows()?;
        if flows.is_empty() {
            return Ok(Swept::default());
        }
        let neighbours = self.neighbours.all()?;
        let open: HashSet<Element> =
            self.state.views().flat_map(|view| view.entry.elements.clone()).collect();
        let (kept, cut): (Vec<Flow>, Vec<Flow>) =
            flows.into_iter().partition(|flow| self.is_allowed(config, flow, &open, &neighbours));
        self.keep_apart(&cut)?;
        conntrack::cut(&cut)?;
        self.counts.cut(cut.len());
        Ok(Swept { cut: cut.len(), kept: kept.len() })
    }

    fn is_allowed(
        &self,
        config: &Config,
        flow: &Flow,
        open: &HashSet<Element>,
        neighbours: &[(IpAddr, Station)],
    ) -> bool {
        let Flow { client, address, port, transport, slot, .. } = *flow;
        let ranges = self.plan.ranges.iter().copied().filter(|range| range.contains(port));
        let ports: Vec<_> = std::iter::once(port.into()).chain(ranges).collect();
        // One that passed before its address was known to be shared goes on.
        let element = |sender, is_relayed, ports| Element { sender, address, transport, ports, is_relayed };
        let is_open = |sender| {
            ports
                .iter()
                .any(|&ports| [false, true].iter().any(|way| open.contains(&element(sender, *way, ports))))
        };
        if let Some(slot) = slot {
            let Some((number, _)) = config.of_slot(slot) else { return false };
            let group = self.groups.get(number).and_then(Option::as_ref);
            return group.is_some_and(|group| is_open(Sender::Group(group.id)))
                || self.plan.allows_local(number, address, transport, port);
        }
        let stations = neighbours.iter().filter(|(ip, _)| *ip == client).map(|(_, at)| Sender::Station(*at));
        let mut senders = std::iter::once(Sender::Address(client)).chain(stations);
        senders.any(is_open)
            || self
                .plan
                .behind
                .iter()
                .any(|behind| self.plan.allows(behind.device.name(), client, address, transport, port))
    }

    /// Lets the datagrams of flows that are cut not begin them again from the other side.
    fn keep_apart(&mut self, cut: &[Flow]) -> io::Result<()> {
        let datagrams = cut.iter().filter(|flow| flow.transport == Transport::Udp);
        for flow in datagrams {
            let mut batch = Batch::default();
            batch.keep_apart((flow.client, flow.client_port), (flow.address, flow.port.get()));
            self.kernel.commit(batch)?;
        }
        Ok(())
    }
}

impl Config {
    fn has_relay(&self) -> bool {
        !self.relay.is_empty()
    }

    /// Whether connections of a client can go through the relay. Those of processes of this host are not redirected: what
    /// only a relay could judge stays closed to them.
    fn relays(&self, client: &Client) -> bool {
        match client {
            Client::Address(_) => self.has_relay(),
            Client::Group(_) => false,
        }
    }

    fn plan(&self, deciding: &dyn Deciding) -> Plan {
        let groups: Vec<Group> = self.groups.iter().map(|attached| attached.group.clone()).collect();
        Plan::new(deciding, &self.devices, &groups).with_relay(self.has_relay())
    }

    /// The bit of each group in labels of connections. It comes from the path, so that it is the same after a start with
    /// other groups, but where two would have the same.
    fn slots(&self) -> Vec<u32> {
        let mut slots: Vec<u32> = Vec::new();
        for attached in &self.groups {
            // FNV-1a, which is the same in every version of this program.
            let bytes = attached.group.path().bytes();
            let hash =
                bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
            let count = GROUP_LABELS.end - GROUP_LABELS.start;
            let tried = (0..count).map(|step| GROUP_LABELS.start + hash.wrapping_add(step) % count);
            slots.push(tried.into_iter().find(|slot| !slots.contains(slot)).unwrap_or(GROUP_LABELS.start));
        }
        slots
    }

    /// The group whose bit this is, and its number.
    fn of_slot(&self, slot: u32) -> Option<(usize, &Group)> {
        let number = self.slots().iter().position(|other| *other == slot)?;
        Some((number, &self.groups.get(number)?.group))
    }

    /// Looks for the groups.
    fn locate(&self) -> io::Result<Vec<Option<Located>>> {
        self.groups.iter().map(|attached| group::locate(&attached.group)).collect()
    }

    fn frame(&self, located: &[Option<Located>]) -> Frame {
        let mut groups: Vec<script::Held> = Vec::new();
        for (number, ((attached, located), slot)) in
            self.groups.iter().zip(located).zip(self.slots()).enumerate()
        {
            let Some(located) = located else { continue };
            let (nft, level, dns) = (located.nft.clone(), attached.group.level(), attached.dns.clone());
            groups.push(script::Held { number, nft, level, slot, dns });
        }
        groups.sort_by_key(|held| std::cmp::Reverse(held.level));
        let is_ours = |name: &str| self.devices.iter().any(|device| **device.name() == *name);
        let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(|address| {
            let ip = ip(address.address?)?;
            is_ours(&address.interface_name).then_some((address.interface_name, ip))
        });
        Frame {
            dns: self.dns.clone(),
            doors: self.doors.clone(),
            relay: self.relay.clone(),
            stand_ins: self.stand_ins.clone(),
            addresses: addresses.collect(),
            lifetime: self.lifetime.max(LIFETIME_MIN),
            size: self.size,
            is_counted: self.is_counted,
            groups,
            is_marked: self.is_own(),
            closed: self.closed.clone(),
        }
    }

    /// Whether this process is itself in a group that is held, so that its own sockets have to be told from those of others.
    fn is_own(&self) -> bool {
        // Whoever is not sure is held as well: that shows, and a mark that lets others through would not.
        self.groups.iter().any(|attached| attached.group.is_ours().unwrap_or(false))
    }
}

fn ip(address: nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

fn number(device: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(device).ok()
}

fn put(element: Element, lifetime: Duration, name: &DnsName) -> Put {
    Put { element, lifetime, comment: name.as_str().to_owned() }
}
