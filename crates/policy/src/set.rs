//! The immutable policy snapshot, and how it is put together.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use exeat_model::{Authority, CanonicalIp, Transport};

use crate::caps::Caps;
use crate::entry::{Defaults, Expect, Side};
use crate::floor::Floor;
use crate::hop::{HopSpec, NextHop, Way};
use crate::labels::Labels;
use crate::list::{EntryProblem, List};
use crate::narrowing::Narrowed;
use crate::place::{Place, Revision};
use crate::rule::{At, ListSide, RuleId, RuleView, Terms};

/// Whether a policy's refusals are carried out.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// What the policy does not allow is refused.
    #[default]
    Enforce,
    /// What the policy does not allow is let through to public addresses and recorded.
    Report,
}

impl Mode {
    /// The word used in configuration and audit records.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Report => "report",
        }
    }

    /// Returns the value written as `word`, or `None`.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Enforce, Self::Report].into_iter().find(|m| m.word() == word)
    }
}

/// A named policy, as read from configuration.
#[derive(Debug)]
pub struct PolicySpec {
    /// The name that clients and records use.
    pub name: String,
    /// Where it was written.
    pub place: Place,
    /// What it allows. Group references name groups given to [`Builder::group`].
    pub allow: List,
    /// What it denies.
    pub deny: List,
    /// Settings for allow entries and groups that do not carry their own. They do not touch the
    /// deny side: a deny without ports means every port, and a default must not open one.
    pub defaults: Defaults,
    /// Whether its refusals are carried out.
    pub mode: Mode,
    /// Binds the policy to principals that carry these labels.
    pub bind: Option<Labels>,
    /// Cloud metadata addresses that it opens.
    pub metadata: Vec<(CanonicalIp, Place)>,
    /// The way out for what it allows; `None` is straight from here.
    pub next_hop: Option<NextHop>,
}

/// A policy that nothing below can exceed, as read from configuration.
#[derive(Debug)]
pub struct CeilingSpec {
    /// The name that records use.
    pub name: String,
    /// Where it was written.
    pub place: Place,
    /// What may be allowed at most.
    pub allow: List,
    /// What is denied.
    pub deny: List,
    /// Settings for allow entries and groups that do not carry their own. They do not touch the
    /// deny side: a deny without ports means every port, and a default must not open one.
    pub defaults: Defaults,
    /// The principals it holds for.
    pub bind: Labels,
    /// Cloud metadata addresses that policies below may open.
    pub metadata: Vec<(CanonicalIp, Place)>,
}

/// How deeply groups may nest: deeper is a mistake, and each level is a level of recursion.
const GROUP_DEPTH_MAX: usize = 16;

/// Why a snapshot could not be built.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BuildError {
    /// A list refers to a group that does not exist.
    #[error("there is no group `{group}`")]
    UnknownGroup {
        /// The name.
        group: String,
        /// Where the reference stands.
        place: Place,
    },
    /// A group contains itself.
    #[error("group `{group}` contains itself")]
    GroupCycle {
        /// The name.
        group: String,
        /// Where the reference that closes the cycle stands.
        place: Place,
    },
    /// Groups are nested too deeply.
    #[error("group `{group}` is nested more than {GROUP_DEPTH_MAX} groups deep")]
    GroupDepth {
        /// The name.
        group: String,
        /// Where the reference that is too deep stands.
        place: Place,
    },
    /// A policy refers to a next hop that does not exist.
    #[error("there is no next hop `{hop}`")]
    UnknownHop {
        /// The name.
        hop: String,
        /// Where the policy stands.
        place: Place,
    },
    /// Two policies, ceilings, groups or next hops have the same name.
    #[error("`{name}` is defined twice")]
    Duplicate {
        /// The name.
        name: String,
        /// Where the second one stands.
        place: Place,
    },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Role {
    Policy,
    Ceiling,
}

/// A list as one owner uses it.
#[derive(Debug)]
pub(crate) struct ListRef {
    list: Arc<List>,
    /// The group's settings over the policy's.
    outer: Defaults,
}

impl ListRef {
    pub(crate) fn list(&self) -> &List {
        &self.list
    }

    /// The group's settings over the policy's, for entries without their own.
    pub(crate) fn outer(&self) -> &Defaults {
        &self.outer
    }

    pub(crate) fn terms(&self, entry: u32) -> Terms<'_> {
        Terms::new(self.list.settings(entry), &self.outer)
    }

    /// Whether an entry may carry UDP.
    pub(crate) fn has_udp(&self) -> bool {
        let is_udp = |settings: &Defaults| settings.transport.is_some_and(|t| t.contains(Transport::Udp));
        is_udp(&self.outer) || self.list.all_settings().iter().any(|settings| is_udp(&settings.own))
    }
}

/// A policy or a ceiling in compiled form.
#[derive(Debug)]
pub(crate) struct Owner {
    role: Role,
    name: Box<str>,
    place: Place,
    pub(crate) mode: Mode,
    allow: Vec<ListRef>,
    deny: Vec<ListRef>,
    bind: Option<Labels>,
    pub(crate) metadata: Vec<(CanonicalIp, Place)>,
    /// What `metadata` and report mode inherit: the policy's ports.
    pub(crate) defaults: Defaults,
    report_terms: Defaults,
    /// The way out for what its rules allow. Ceilings have none.
    pub(crate) way: Option<Way>,
}

impl Owner {
    pub(crate) fn lists(&self, side: ListSide) -> &[ListRef] {
        match side {
            ListSide::Allow => &self.allow,
            ListSide::Deny => &self.deny,
        }
    }

    /// Whether it gives something, which a ceiling does not.
    pub(crate) fn is_policy(&self) -> bool {
        self.role == Role::Policy
    }

    fn title(&self) -> String {
        match self.role {
            Role::Policy => self.name.to_string(),
            Role::Ceiling => format!("ceiling {}", self.name),
        }
    }
}

/// The policies and ceilings that hold for one principal, by position in their snapshot, and what
/// each of its flows may come to.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Bound {
    pub(crate) policies: Box<[u32]>,
    pub(crate) ceilings: Box<[u32]>,
    pub(crate) caps: Caps,
    /// What a token takes from all that.
    pub(crate) narrowing: Option<Narrowed>,
}

impl Bound {
    /// Returns the same for a principal whose flows may come to `caps` at most, whatever rules say.
    #[must_use]
    pub fn within(self, caps: Caps) -> Self {
        Self { caps, ..self }
    }

    /// Every policy and ceiling, by number.
    pub(crate) fn owners(&self) -> impl Iterator<Item = u32> {
        let limits = self.narrowing.iter().flat_map(|narrowing| narrowing.limits()).flatten();
        self.policies.iter().chain(limits).chain(&self.ceilings).copied()
    }
}

/// A policy or ceiling of a snapshot, as it is shown to people.
#[derive(Clone, Copy, Debug)]
pub struct OwnerView<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether it is a ceiling.
    pub is_ceiling: bool,
    /// Where it stands.
    pub place: &'a Place,
    /// Whether its refusals are carried out.
    pub mode: Mode,
}

/// An immutable policy snapshot: what every decision of one revision is made from.
#[derive(Debug)]
pub struct PolicySet {
    revision: Revision,
    owners: Vec<Owner>,
    policies: HashMap<Box<str>, u32>,
    pub(crate) floor: Floor,
    /// Where the configuration has the keys of issuers fetched from.
    pub(crate) key_servers: Vec<Authority>,
}

impl PolicySet {
    /// Returns the number of this snapshot.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Gives this snapshot another number, before it decides.
    pub fn renumber(&mut self, revision: Revision) {
        self.revision = revision;
    }

    /// Returns the addresses that none of its policies can open.
    #[must_use]
    pub fn floor(&self) -> &Floor {
        &self.floor
    }

    /// Returns every policy and ceiling, in the order of the configuration, policies first.
    pub fn owners(&self) -> impl Iterator<Item = OwnerView<'_>> {
        self.owners.iter().map(|owner| OwnerView {
            name: &owner.name,
            is_ceiling: match owner.role {
                Role::Policy => false,
                Role::Ceiling => true,
            },
            place: &owner.place,
            mode: owner.mode,
        })
    }

    /// Returns whether a policy of this name exists.
    #[must_use]
    pub fn has_policy(&self, name: &str) -> bool {
        self.policies.contains_key(name)
    }

    /// Iterates over the names of the policies, in no particular order.
    pub fn policy_names(&self) -> impl Iterator<Item = &str> {
        self.policies.keys().map(AsRef::as_ref)
    }

    /// Returns the policies and ceilings that hold for a principal: policies by name and by
    /// labels, ceilings by labels. A name without a policy adds nothing, so it allows nothing.
    pub fn bind(&self, names: &[impl AsRef<str>], labels: &Labels) -> Bound {
        let mut policies: Vec<u32> =
            names.iter().filter_map(|name| self.policies.get(name.as_ref()).copied()).collect();
        let mut ceilings = Vec::new();
        for (number, owner) in (0u32..).zip(&self.owners) {
            if owner.bind.as_ref().is_some_and(|bind| bind.selects(labels)) {
                match owner.role {
                    Role::Policy => policies.push(number),
                    Role::Ceiling => ceilings.push(number),
                }
            }
        }
        policies.sort_unstable();
        policies.dedup();
        Bound { policies: policies.into(), ceilings: ceilings.into(), caps: Caps::default(), narrowing: None }
    }

    /// Returns the names of the policies and ceilings of `bound`, policies first.
    #[must_use]
    pub fn names(&self, bound: &Bound) -> Vec<String> {
        bound.owners().filter_map(|number| Some(self.owner(number)?.title())).collect()
    }

    /// Returns whether refusals of `bound` are carried out: not all, if one of its policies is in report mode.
    #[must_use]
    pub fn mode(&self, bound: &Bound) -> Mode {
        let reports = bound.policies.iter().any(|&n| self.owner(n).is_some_and(|o| o.mode == Mode::Report));
        if reports { Mode::Report } else { Mode::Enforce }
    }

    /// Returns a rule as it was written. `None` for a rule of another snapshot.
    #[must_use]
    pub fn rule(&self, rule: RuleId) -> Option<RuleView> {
        let owner = self.owner(rule.owner)?;
        let (place, text) = match rule.at {
            At::Entry { side, list, entry } => {
                let list = owner.lists(side).get(list as usize)?.list();
                (list.place(entry)?, list.entry(entry)?.to_string())
            }
            At::Metadata(index) => {
                let (address, place) = owner.metadata.get(index as usize)?;
                (place.clone(), format!("metadata = [\"{address}\"]"))
            }
            At::Report => (owner.place.clone(), "mode = \"report\"".to_owned()),
        };
        Some(RuleView { policy: owner.title(), place, text })
    }

    /// The name of a policy, or `ceiling NAME`.
    pub(crate) fn title(&self, number: u32) -> Option<String> {
        self.owner(number).map(Owner::title)
    }

    /// Every policy and ceiling.
    pub(crate) fn all_owners(&self) -> &[Owner] {
        &self.owners
    }

    pub(crate) fn owner(&self, number: u32) -> Option<&Owner> {
        self.owners.get(number as usize)
    }

    pub(crate) fn terms(&self, rule: RuleId) -> Option<Terms<'_>> {
        let owner = self.owner(rule.owner)?;
        match rule.at {
            At::Entry { side, list, entry } => Some(owner.lists(side).get(list as usize)?.terms(entry)),
            At::Metadata(_) => Some(Terms::new(None, &owner.defaults)),
            At::Report => Some(Terms::new(None, &owner.report_terms)),
        }
    }
}

/// Puts a [`PolicySet`] together. Groups first, then what refers to them.
#[derive(Debug, Default)]
pub struct Builder {
    hops: HashMap<String, Arc<HopSpec>>,
    groups: HashMap<String, (Arc<List>, Place)>,
    owners: Vec<Owner>,
    policies: HashMap<Box<str>, u32>,
    ceilings: HashMap<Box<str>, u32>,
    floor: Floor,
    key_servers: Vec<Authority>,
    problems: Vec<EntryProblem>,
    /// Lists whose entries were already looked at for the allow side, by address.
    looked_at: HashSet<*const List>,
    errors: Vec<BuildError>,
}

impl Builder {
    /// Starts an empty snapshot: it allows nothing to anyone.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a group. Every group must be added before the first policy or ceiling.
    pub fn group(&mut self, name: &str, place: Place, list: List) {
        if self.groups.contains_key(name) {
            self.errors.push(BuildError::Duplicate { name: name.to_owned(), place });
        } else {
            self.groups.insert(name.to_owned(), (Arc::new(list), place));
        }
    }

    /// Adds a next hop. Every one must be added before the first policy.
    pub fn hop(&mut self, spec: HopSpec) {
        let name = spec.name.to_string();
        let place = spec.place.clone();
        if self.hops.insert(name.clone(), Arc::new(spec)).is_some() {
            self.errors.push(BuildError::Duplicate { name, place });
        }
    }

    /// Adds a server that the keys of an issuer are fetched from, as infrastructure.
    pub fn key_server(&mut self, endpoint: Authority) {
        self.key_servers.push(endpoint);
    }

    /// Adds a policy.
    pub fn policy(&mut self, spec: PolicySpec) {
        let way = spec.next_hop.as_ref().and_then(|next| self.way(next, &spec.place));
        let owner = Owner {
            role: Role::Policy,
            allow: self.lists(spec.allow, &spec.defaults, Side::Allow),
            deny: self.lists(spec.deny, &Defaults::default(), Side::Deny),
            name: spec.name.into(),
            place: spec.place,
            mode: spec.mode,
            bind: spec.bind,
            metadata: spec.metadata,
            defaults: spec.defaults,
            report_terms: report_terms(),
            way,
        };
        self.add(owner);
    }

    /// Adds a ceiling.
    pub fn ceiling(&mut self, spec: CeilingSpec) {
        let owner = Owner {
            role: Role::Ceiling,
            allow: self.lists(spec.allow, &spec.defaults, Side::Allow),
            deny: self.lists(spec.deny, &Defaults::default(), Side::Deny),
            name: spec.name.into(),
            place: spec.place,
            mode: Mode::Enforce,
            bind: Some(spec.bind),
            metadata: spec.metadata,
            defaults: spec.defaults,
            report_terms: report_terms(),
            way: None,
        };
        self.add(owner);
    }

    /// Sets the addresses that no policy can open.
    pub fn floor(&mut self, floor: Floor) {
        self.floor = floor;
    }

    /// Returns what there is to say about entries, given the sides their lists are used on.
    #[must_use]
    pub fn problems(&self) -> &[EntryProblem] {
        &self.problems
    }

    /// Returns the snapshot.
    ///
    /// # Errors
    /// Every dangling reference, cycle and duplicate. Errors among [`Builder::problems`] are the
    /// caller's to look at first; they do not stop the build.
    pub fn finish(self, revision: Revision) -> Result<PolicySet, Vec<BuildError>> {
        if self.errors.is_empty() {
            let Self { owners, policies, floor, key_servers, .. } = self;
            Ok(PolicySet { revision, owners, policies, floor, key_servers })
        } else {
            Err(self.errors)
        }
    }

    fn way(&mut self, next: &NextHop, place: &Place) -> Option<Way> {
        let hop = self.hops.get(&next.name).map(Arc::clone);
        if hop.is_none() {
            let (hop, place) = (next.name.clone(), place.clone());
            self.errors.push(BuildError::UnknownHop { hop, place });
        }
        Some(Way { hop: hop?, resolve: next.resolve })
    }

    fn add(&mut self, owner: Owner) {
        let number = u32::try_from(self.owners.len()).unwrap_or(u32::MAX);
        let names = match owner.role {
            Role::Policy => &mut self.policies,
            Role::Ceiling => &mut self.ceilings,
        };
        if names.insert(owner.name.clone(), number).is_some() {
            let error = BuildError::Duplicate { name: owner.name.to_string(), place: owner.place.clone() };
            self.errors.push(error);
        }
        self.owners.push(owner);
    }

    /// Returns the owner's own list and every list that it reaches through groups.
    fn lists(&mut self, list: List, outer: &Defaults, side: Side) -> Vec<ListRef> {
        let mut found = Vec::new();
        self.collect(&Arc::new(list), outer, side, &mut Vec::new(), &mut found);
        found
    }

    fn collect(
        &mut self,
        list: &Arc<List>,
        outer: &Defaults,
        side: Side,
        path: &mut Vec<String>,
        found: &mut Vec<ListRef>,
    ) {
        let outer = list.defaults().or(outer);
        if found.iter().any(|f: &ListRef| Arc::ptr_eq(&f.list, list) && f.outer == outer) {
            return;
        }
        if side == Side::Allow && self.looked_at.insert(Arc::as_ptr(list)) {
            self.problems.extend(list.problems(side));
        }
        for (group, place) in list.groups() {
            let (group, place) = (group.clone(), place.clone());
            if path.len() >= GROUP_DEPTH_MAX {
                self.error_once(BuildError::GroupDepth { group, place });
                continue;
            }
            if path.contains(&group) {
                self.error_once(BuildError::GroupCycle { group, place });
                continue;
            }
            let Some((inner, _)) = self.groups.get(&group) else {
                self.error_once(BuildError::UnknownGroup { group, place });
                continue;
            };
            let inner = Arc::clone(inner);
            path.push(group);
            self.collect(&inner, &outer, side, path, found);
            path.pop();
        }
        found.push(ListRef { list: Arc::clone(list), outer });
    }

    fn error_once(&mut self, error: BuildError) {
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }
}

/// Report mode must not stop what it watches, so it looks at no port and no opening.
fn report_terms() -> Defaults {
    Defaults { expect: Some(Expect::Any), ..Defaults::default() }
}

impl BuildError {
    /// Where the problem stands.
    #[must_use]
    pub fn place(&self) -> &Place {
        match self {
            Self::UnknownGroup { place, .. }
            | Self::GroupCycle { place, .. }
            | Self::GroupDepth { place, .. }
            | Self::UnknownHop { place, .. }
            | Self::Duplicate { place, .. } => place,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
