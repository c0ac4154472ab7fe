//! References between the parts of a configuration: groups, policies, and who is bound to what.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use exeat_policy::{
    Destination, EntryProblem, Labels, List, Place, PolicySet, Resolve, Severity as EntrySeverity, Side,
};

use crate::caps;
use crate::certificates::{self, Certificate};
use crate::clients::Client;
use crate::document::Document;
use crate::files::Files;
use crate::groups::Group;
use crate::issuers;
use crate::load::Purpose;
use crate::next_hops;
use crate::notes::Notes;
use crate::policies::{self, Policy};
use crate::problem::{Code, Finding, shown};
use crate::source::Source;
use crate::suggest::closest;
use crate::workloads::{self, Workload};

/// How deep groups may hold groups: each level is a step of recursion when a policy is compiled.
const NESTING_MAX: usize = 16;

/// Lists that one policy's allows or denies may reach through groups, each time a group is reached counted: each
/// costs a lookup in every decision.
const REACHED_MAX: usize = 1000;

/// Where findings about references go.
pub(crate) struct Places<'p, 't> {
    pub(crate) source: &'p Source<'t>,
    pub(crate) notes: &'p mut Notes,
    pub(crate) files: &'p mut Files,
}

impl Places<'_, '_> {
    pub(crate) fn push(&mut self, place: &Place, finding: Finding) {
        if &place.file == self.source.name() {
            self.notes.push(self.source.value_at(place.line, place.column), finding);
        } else {
            self.files.push(&place.file, place.line, finding);
        }
    }

    fn push_entry(&mut self, problem: EntryProblem) {
        let EntryProblem { severity, place, message, correction } = problem;
        let finding = match severity {
            EntrySeverity::Error => Finding::error(Code::InvalidEntry, message),
            EntrySeverity::Warning => Finding::warning(Code::Suspicious, message),
        };
        self.push(&place, finding.help(correction));
    }
}

/// Checks every reference of a document.
pub(crate) fn check(document: &Document, purpose: Purpose, places: &mut Places<'_, '_>) {
    let graph = Graph::new(&document.groups);
    let owners = || document.policies.iter().chain(&document.ceilings);
    let lists = owners().flat_map(|owner| [&owner.allow, &owner.deny]);
    for list in lists.chain(document.groups.iter().map(|group| &group.list)) {
        graph.check_known(list, places);
    }
    let costs = graph.check_nesting(places);
    let mut used = Used::default();
    for owner in owners() {
        for (list, side) in [(&owner.allow, Side::Allow), (&owner.deny, Side::Deny)] {
            check_entries(list, side, places);
            graph.check_cost(owner, list, &costs, places.notes);
            graph.reach(list, side, &mut used);
        }
    }
    for group in document.groups.iter().filter(|group| used.allow.contains(group.name.as_str())) {
        check_entries(&group.list, Side::Allow, places);
    }
    check_policies(document, places.notes);
    workloads::check(document, places.notes);
    certificates::check(document, places.notes);
    issuers::check(document, places.notes);
    for policy in &document.policies {
        graph.check_unresolved(policy, places);
    }
    let is_for_proxy = is_for_proxy(document, purpose);
    if is_for_proxy {
        policies::warn_said_empty(&document.policies, places.notes);
    }
    // Where something is wrong, what seems to be unused may be what was meant.
    if !places.notes.has_errors() && !places.files.has_errors() {
        caps::check(document, places);
        warn_unused_groups(document, &used, places.notes);
        next_hops::warn_unused(document, places.notes);
        if is_for_proxy {
            warn_unused_policies(document, places.notes);
            warn_powerless(document, places.notes);
        }
    }
}

/// Whether clients of a proxy are to use this.
fn is_for_proxy(document: &Document, purpose: Purpose) -> bool {
    match purpose {
        Purpose::Serve => true,
        Purpose::Run => false,
        Purpose::AsWritten => document.is_for_proxy,
    }
}

fn warn_unused_groups(document: &Document, used: &Used<'_>, notes: &mut Notes) {
    for group in &document.groups {
        if !used.allow.contains(group.name.as_str()) && !used.deny.contains(group.name.as_str()) {
            let finding =
                Finding::warning(Code::Unused, format!("group `{}` is not used", shown(&group.name)));
            let help = format!("write \"@{}\" in a list, or remove the group", shown(&group.name));
            notes.push(group.span.clone(), finding.help(help));
        }
    }
}

/// Tells what there is to say about entries on this side.
fn check_entries(list: &List, side: Side, places: &mut Places<'_, '_>) {
    list.problems(side).for_each(|problem| places.push_entry(problem));
}

/// Tells what there is to say about entries that only all rules together show.
pub(crate) fn lint(policy: &PolicySet, places: &mut Places<'_, '_>) {
    exeat_policy::lint(policy).into_iter().for_each(|problem| places.push_entry(problem));
}

/// Groups that are reached from lists of one side or the other.
#[derive(Default)]
struct Used<'d> {
    allow: HashSet<&'d str>,
    deny: HashSet<&'d str>,
}

/// Groups by name.
struct Graph<'d> {
    groups: HashMap<&'d str, &'d Group>,
}

/// What a group takes to compile: lists reached, itself included.
type Costs<'d> = HashMap<&'d str, usize>;

/// How deep a group reaches, and how many lists.
struct Measure {
    depth: usize,
    cost: usize,
}

impl Measure {
    /// Measures a group whose inner groups have been measured, and reports it if it is the first that is too deep.
    fn of(group: &Group, measured: &HashMap<&str, Self>, notes: &mut Notes) -> Self {
        let children = || group.list.groups().iter().filter_map(|(child, _)| measured.get(child.as_str()));
        let depth = 1 + children().map(|child| child.depth).max().unwrap_or(0);
        if depth == NESTING_MAX + 1 {
            let message = format!("group `{}` holds groups more than {NESTING_MAX} deep", shown(&group.name));
            let finding = Finding::error(Code::TooLarge, message);
            notes.push(group.span.clone(), finding.help("list the inner groups directly"));
        }
        Self { depth, cost: children().fold(1, |sum: usize, child| sum.saturating_add(child.cost)) }
    }
}

impl<'d> Graph<'d> {
    fn new(groups: &'d [Group]) -> Self {
        Self { groups: groups.iter().map(|group| (group.name.as_str(), group)).collect() }
    }

    fn check_known(&self, list: &List, places: &mut Places<'_, '_>) {
        for (name, place) in list.groups() {
            if !self.groups.contains_key(name.as_str()) {
                let finding =
                    Finding::error(Code::UnknownReference, format!("there is no group `{}`", shown(name)));
                let is_full = places.notes.is_full() || places.files.is_full(&place.file);
                let guess = if is_full { None } else { closest(name, self.groups.keys().copied()) };
                let define = format!("define [groups.{}]", shown(name));
                let help = guess.map_or(define, |guess| format!("did you mean \"@{guess}\"?"));
                places.push(place, finding.help(help));
            }
        }
    }

    /// Reports groups that contain themselves or are nested too deep, and returns what the others cost. Keeps
    /// a stack of its own: a chain of groups may be as long as the file.
    fn check_nesting(&self, places: &mut Places<'_, '_>) -> Costs<'d> {
        let mut measured: HashMap<&'d str, Measure> = HashMap::new();
        let mut open: HashSet<&'d str> = HashSet::new();
        let mut roots: Vec<&'d Group> = self.groups.values().copied().collect();
        roots.sort_unstable_by(|one, other| other.name.cmp(&one.name));
        let mut stack: Vec<(&'d Group, usize)> = roots.into_iter().map(|root| (root, 0)).collect();
        while let Some((group, next)) = stack.pop() {
            let name = group.name.as_str();
            if measured.contains_key(name) {
                continue;
            }
            open.insert(name);
            let Some((child, place)) = group.list.groups().get(next) else {
                open.remove(name);
                measured.insert(name, Measure::of(group, &measured, places.notes));
                continue;
            };
            stack.push((group, next + 1));
            match self.groups.get(child.as_str()) {
                Some(child) if open.contains(child.name.as_str()) => {
                    let message = format!("group `{}` contains itself", shown(&child.name));
                    let finding = Finding::error(Code::InvalidEntry, message).label("leads back to it");
                    places.push(place, finding.help("remove this entry"));
                }
                Some(child) => stack.push((child, 0)),
                None => {}
            }
        }
        measured.into_iter().map(|(name, measure)| (name, measure.cost)).collect()
    }

    /// Reports rules about addresses in a policy whose names only its next hop resolves: they could never allow.
    fn check_unresolved(&self, owner: &'d Policy, places: &mut Places<'_, '_>) {
        if !owner.next_hop.as_ref().is_some_and(|(next, _)| next.resolve == Resolve::NextHop) {
            return;
        }
        let help = "add resolve = \"local\" to the policy, or remove `addresses`";
        let finding = || {
            let message = format!(
                "`addresses` cannot be checked: policy `{}` leaves names to its next hop",
                shown(&owner.name)
            );
            Finding::error(Code::Conflict, message).help(help)
        };
        if owner.defaults.addresses.is_some() {
            places.notes.push(owner.span.clone(), finding());
            return;
        }
        let mut used = Used::default();
        self.reach(&owner.allow, Side::Allow, &mut used);
        let groups = used.allow.iter().filter_map(|name| self.groups.get(name));
        for list in groups.map(|group| &group.list).chain([&owner.allow]) {
            let by_default = list.defaults().addresses.is_some();
            for (entry, place) in list.entries() {
                let is_literal = matches!(entry.destination, Destination::Network(_));
                if (by_default && !is_literal) || entry.settings.addresses.is_some() {
                    places.push(&place, finding());
                }
            }
        }
    }

    fn check_cost(&self, owner: &Policy, list: &List, costs: &Costs<'_>, notes: &mut Notes) {
        let reached = list.groups().iter().filter_map(|(group, _)| costs.get(group.as_str()));
        let reached = reached.fold(0, |sum: usize, cost| sum.saturating_add(*cost));
        if reached > REACHED_MAX {
            let message = format!("`{}` reaches {reached} lists through groups", shown(&owner.name));
            let finding = Finding::error(Code::TooLarge, message);
            notes.push(
                owner.span.clone(),
                finding.help(format!("merge groups: at most {REACHED_MAX} lists are searched")),
            );
        }
    }

    fn reach(&self, list: &'d List, side: Side, used: &mut Used<'d>) {
        let reached = match side {
            Side::Allow => &mut used.allow,
            Side::Deny => &mut used.deny,
        };
        let mut waiting = vec![list];
        while let Some(list) = waiting.pop() {
            for (name, _) in list.groups() {
                if let Some(group) = self.groups.get(name.as_str()).filter(|_| reached.insert(name.as_str()))
                {
                    waiting.push(&group.list);
                }
            }
        }
    }
}

/// Names of policies where they are used: by clients, workloads, holders of certificates, issuers, and `anonymous`.
fn policy_uses(document: &Document) -> impl Iterator<Item = (&str, &Range<usize>)> {
    let anonymous = document.proxy.anonymous.as_deref().map(|name| (name, &document.anonymous_span));
    let by_clients = document.clients.iter().flat_map(|client| &client.policies);
    let by_workloads = document.workloads.iter().flat_map(|workload| &workload.policies);
    let by_holders = document.certificates.iter().flat_map(|holder| &holder.policies);
    let by_issuers = issuers::policy_uses(&document.issuers);
    let named = by_clients.chain(by_workloads).chain(by_holders).map(|(name, span)| (name.as_str(), span));
    named.chain(by_issuers).chain(anonymous)
}

fn check_policies(document: &Document, notes: &mut Notes) {
    let known = || document.policies.iter().map(|policy| policy.name.as_str());
    let names: HashSet<&str> = known().collect();
    for (name, span) in policy_uses(document).filter(|(name, _)| !names.contains(name)) {
        let guess = if notes.is_full() { None } else { closest(name, known()) };
        let help = match guess {
            Some(guess) => format!("did you mean \"{guess}\"?"),
            None => format!("define [policy.{}]", shown(name)),
        };
        let finding = Finding::error(Code::UnknownReference, format!("there is no policy `{}`", shown(name)));
        notes.push(span.clone(), finding.help(help));
    }
}

fn warn_unused_policies(document: &Document, notes: &mut Notes) {
    // A token may name any policy, and has labels that are not known here.
    if !document.issuers.is_empty() {
        return;
    }
    let used: HashSet<&str> = policy_uses(document).map(|(name, _)| name).collect();
    let of_workloads = || document.workloads.iter().map(|workload| &workload.labels);
    let of_holders = || document.certificates.iter().map(|holder| &holder.labels);
    let labels =
        || document.clients.iter().map(|client| &client.labels).chain(of_workloads()).chain(of_holders());
    let brings_labels = document.certificates.iter().any(Certificate::brings_labels);
    for policy in document.policies.iter().filter(|policy| !used.contains(policy.name.as_str())) {
        let (message, help) = match &policy.bind {
            None => ("is not used", "name it in `policies` of a client, bind it to labels, or remove it"),
            Some(bind) if !brings_labels && !labels().any(|labels| bind.selects(labels)) => {
                ("binds nobody", "no client and no workload has the labels of `bind`")
            }
            Some(_) => continue,
        };
        let finding = Finding::warning(Code::Unused, format!("policy `{}` {message}", shown(&policy.name)));
        notes.push(policy.span.clone(), finding.help(help));
    }
}

/// Warns of clients that can reach nothing, and of a proxy that nobody can use.
fn warn_powerless(document: &Document, notes: &mut Notes) {
    let binds: Vec<&Labels> = document.policies.iter().filter_map(|policy| policy.bind.as_ref()).collect();
    let idle = |client: &&Client| {
        client.policies.is_empty() && !binds.iter().any(|bind| bind.selects(&client.labels))
    };
    for client in document.clients.iter().filter(idle) {
        let finding =
            Finding::warning(Code::Suspicious, format!("client `{}` can reach nothing", shown(&client.name)));
        let help = "name a policy, such as policies = [\"…\"], or give it labels that a policy binds";
        notes.push(client.span.clone(), finding.help(help));
    }
    for workload in document.workloads.iter().filter(|workload| workload.alone) {
        if workload.policies.is_empty() && !binds.iter().any(|bind| bind.selects(&workload.labels)) {
            let message = format!("workload `{}` can reach nothing", shown(&workload.name));
            let help =
                "name a policy, such as policies = [\"…\"]; alone = false if it only makes credentials count";
            notes.push(workload.span.clone(), Finding::warning(Code::Suspicious, message).help(help));
        }
    }
    let is_alone = |workload: &Workload| workload.alone;
    if document.clients.is_empty()
        && document.issuers.is_empty()
        && !document.workloads.iter().any(is_alone)
        && document.certificates.is_empty()
        && document.proxy.anonymous.is_none()
    {
        let message = "nobody can use this proxy: there is no client, and `anonymous` is \"none\"";
        notes.push_whole(Finding::warning(Code::Suspicious, message).help("run `exeat client add`"));
    }
}
