//! The firewall as the rest of the program sees it: it is started, opens what answers need, takes a new policy, and leaves
//! the kernel closed when it ends.

mod config;
mod explain;
mod follow;
mod hold;
mod open;
mod opened;
mod rules;

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use exeat_dns::{Gate, GateError, Opened, Opening};
use exeat_policy::Revision;
use tokio::time::timeout;

use crate::{
    counts::Counts,
    element::{Element, Kind},
    group::Located,
    kernel::{Fingerprint, Kernel},
    neighbours::Neighbours,
    nft::{self, NftError},
    plan::{Deciding, Plan},
    refused::Log,
    script::{self, LOG_GROUP},
    state::State,
    watch::Watch,
};

pub use config::{Attached, Config};
pub use opened::OpenedView;

/// The least time that something is open for after it was asked for or used.
pub use exeat_dns::LIFETIME_MIN;

/// Why the firewall cannot be had, or a policy is not in force.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// The rules could not be set.
    #[error("the rules of the firewall could not be set")]
    Rules(#[from] NftError),
    /// The kernel could not be asked.
    #[error("the kernel could not be asked for its firewall")]
    Kernel(#[from] io::Error),
    /// Another process has it already. Both would set their rules again and again, and nobody would be held meanwhile.
    #[error(
        "another process holds the firewall of this network (or listens to group {LOG_GROUP} of the kernel's log): name all devices and control groups in one `exeat firewall attach` or one configuration, or end that one"
    )]
    Held,
    /// Somebody else changed rules while ours were set, so that it is not known what is in force.
    #[error("somebody else changes the kernel's firewall at the same time")]
    Interrupted,
}

/// The firewall. The rules stay when it is dropped, so that the kernel opens nothing more; [`remove`] takes them away.
pub struct Firewall {
    inner: Arc<Inner>,
    /// Until somebody reads it.
    log: Mutex<Option<io::Result<Log>>>,
    _watch: Watch,
}

/// How long a name waits to be opened, while the kernel is told of something else. It is a transaction at most, and its
/// rules where those have changed; a client asks again after some seconds.
const TURN_MAX: Duration = Duration::from_secs(2);

pub(crate) struct Inner {
    config: Config,
    counts: Arc<Counts>,
    /// Who waits for it comes in turn, so that a change of many steps lets everybody in between two of them.
    working: tokio::sync::Mutex<Working>,
    /// One change at a time.
    changing: Mutex<()>,
}

struct Working {
    kernel: Kernel,
    neighbours: Neighbours,
    deciding: Arc<dyn Deciding>,
    plan: Plan,
    state: State,
    /// What is to be taken out of the kernel, and may be there yet.
    leaving: HashSet<Element>,
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
        // One process of a network can have it, and has it for as long as it is there: no other holds the network. Those who
        // may not change the network have not come this far.
        let log = Log::open();
        if log.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
            return Err(FirewallError::Held);
        }
        let plan = config.plan(&*deciding);
        let mut working = Working {
            kernel,
            neighbours: Neighbours::connect()?,
            plan,
            state: State::new(config.size as usize),
            leaving: HashSet::new(),
            revision: deciding.policy().revision(),
            deciding,
            serial: 0,
            in_force: None,
            counts: Arc::clone(&counts),
            groups: config.locate()?,
        };
        working.adopt(&config, &found);
        working.apply(&config)?;
        let new = working.decide_again(&config, &found.iter().map(|held| held.element).collect::<Vec<_>>());
        for (attached, located) in config.groups.iter().zip(&working.groups) {
            if located.is_none() {
                tracing::warn!(group = %attached.group.path(), "there is no such control group: it is held once there is");
            }
        }
        let adopted = working.state.len();
        let working = tokio::sync::Mutex::new(working);
        let inner = Arc::new(Inner { config, counts, working, changing: Mutex::default() });
        let swept = inner.follow(&new)?;
        tracing::info!(adopted, cut = swept.cut, kept = swept.kept, "the firewall is in force");
        let watch = Watch::start(Arc::clone(&inner))?;
        Ok(Self { inner, log: Mutex::new(Some(log)), _watch: watch })
    }

    /// Decides by `deciding` from now on, on packets and on open flows. Those that are no longer allowed are cut, the
    /// others never notice. Takes milliseconds, and longer for many: call it where that may be.
    ///
    /// # Errors
    /// If the kernel could not be told all of it. Then what names have opened is held to the new policy all the same where
    /// that can be, new names are refused, and it is tried again until it works.
    pub fn replace(&self, deciding: Arc<dyn Deciding>) -> Result<Swept, FirewallError> {
        let inner = &self.inner;
        inner.counts.change_begins();
        let _one = inner.changing();
        let plan = inner.config.plan(&*deciding);
        let (applied, new) = {
            let mut working = inner.working();
            working.revision = deciding.policy().revision();
            working.deciding = deciding;
            working.plan = plan;
            working.not_in_force();
            (working.apply(&inner.config), working.decide_again(&inner.config, &[]))
        };
        let swept = inner.follow(&new)?;
        applied?;
        inner.counts.change_ends();
        Ok(swept)
    }

    /// What it has done so far.
    #[must_use]
    pub fn counts(&self) -> &Arc<Counts> {
        &self.inner.counts
    }

    /// Returns the kernel's log of what is refused, or why there is none. The second who asks gets nothing.
    pub(crate) fn take_log(&self) -> io::Result<Log> {
        let taken = self.log.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.unwrap_or_else(|| Err(io::ErrorKind::ResourceBusy.into()))
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

    /// Where clients of devices are led with what they ask for names, and whether that is ours.
    pub fn name_servers(&self) -> impl Iterator<Item = (SocketAddr, bool)> {
        let Config { dns, dns_elsewhere, .. } = &self.inner.config;
        // Nobody is led from elsewhere to an address that this host has for itself.
        let led_to = dns.iter().filter(|server| !server.ip().is_loopback());
        led_to.map(|server| (*server, !dns_elsewhere.contains(server)))
    }

    /// Whether the rules of what decides now are in force.
    #[must_use]
    pub fn is_in_force(&self) -> bool {
        self.inner.working().in_force.is_some()
    }
}

/// Takes away every trace of a firewall in this network namespace. Flows that it let through go on.
///
/// # Errors
/// If `nft` is missing or refuses.
pub fn remove() -> Result<(), FirewallError> {
    nft::version()?;
    Ok(nft::run(&script::removal())?)
}

impl Gate for Firewall {
    fn open(&self, opening: Opening) -> Opened<'_> {
        // The kernel answers within the call, in microseconds: nothing is waited for but one's turn, and mostly not for that.
        Box::pin(async move {
            if let Ok(mut working) = self.inner.working.try_lock() {
                return working.open(&self.inner.config, &opening);
            }
            let turn = timeout(TURN_MAX, self.inner.working.lock()).await;
            let mut working = turn.map_err(|_| GateError::Kernel(io::ErrorKind::TimedOut.into()))?;
            working.open(&self.inner.config, &opening)
        })
    }
}

impl Inner {
    /// Waits for its turn. Call it where a thread may be kept waiting, and never on a thread that runs tasks.
    fn working(&self) -> tokio::sync::MutexGuard<'_, Working> {
        self.working.blocking_lock()
    }

    fn changing(&self) -> std::sync::MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
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
        if now == self.working().groups {
            return Ok(false);
        }
        let _one = self.changing();
        let new = {
            let mut working = self.working();
            working.not_in_force();
            working.apply(&self.config)?;
            working.decide_again(&self.config, &[])
        };
        self.follow(&new)?;
        Ok(true)
    }

    /// Puts the rules in force again if `seen` is not what they should look like. Returns whether they were not.
    ///
    /// # Errors
    /// If that does not work.
    pub(crate) fn mend(&self, seen: Option<Fingerprint>) -> Result<bool, FirewallError> {
        let _one = self.changing();
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
        drop(working);
        self.sweep()?;
        Ok(true)
    }
}
