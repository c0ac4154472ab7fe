//! Host lists of others: `hosts-yaml` maps the names of groups to lists of hosts, and `blocked` to what is refused.
//!
//! Nothing is carried over that means something else here. What is written is loaded as any configuration, and what that
//! finds is told at the place in the YAML file that it comes from.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use exeat_policy::{Destination, Entry, Revision};

use crate::entry;
use crate::load::{CONFIGURATION_PROBLEMS_MAX, Options, load_text, read_text};
use crate::names;
use crate::notes::Notes;
use crate::problem::{Code, Finding, Problem, Severity, shown};
use crate::report::Report;
use crate::source::Source;

mod yaml;

/// The policy that is written.
const POLICY: &str = "imported";

/// The group whose hosts are refused.
const BLOCKED: &str = "blocked";

/// Parts of names of lists that elsewhere are what is refused. Here any other list than [`BLOCKED`] is what may be reached, so none
/// is taken to be that which says otherwise of itself.
const REFUSING: [&str; 11] = [
    "deny",
    "denied",
    "denies",
    "block",
    "blacklist",
    "forbid",
    "reject",
    "disallow",
    "exclude",
    "prohibit",
    "banned",
];

/// Loads of what is written: each tells a hundred problems, and beyond that the file is something else.
const LOADS_MAX: usize = 8;

/// A host list as a configuration.
#[derive(Debug)]
pub struct Imported {
    /// The configuration, which loads. `None` if what it would leave out could be what refuses something.
    pub text: Option<String>,
    /// What is not carried over (errors), and what should be looked at (warnings).
    pub report: Report,
}

/// Reads a YAML file of host lists.
#[must_use]
pub fn import_hosts_yaml(path: &Path) -> Imported {
    let name: Arc<str> = path.to_string_lossy().into();
    match read_text(path) {
        Ok((text, _)) => import(name, &text),
        Err(finding) => Imported { text: None, report: Report::new(vec![Problem::of_file(&name, finding)]) },
    }
}

fn import(name: Arc<str>, text: &str) -> Imported {
    let source = Source::new(name, text.strip_prefix('\u{feff}').unwrap_or(text));
    let mut notes = Notes::default();
    let read = yaml::read(source.text(), &mut notes);
    let text = read.and_then(|lists| convert(lists, &mut notes));
    Imported { text, report: Report::new(notes.finish(&source, CONFIGURATION_PROBLEMS_MAX)) }
}

/// A string of the file and its place.
#[derive(Clone, Debug)]
struct Placed {
    text: String,
    span: Range<usize>,
}

/// A group of the file.
#[derive(Clone, Debug)]
struct HostList {
    name: Placed,
    hosts: Vec<Placed>,
    /// Whether all of its hosts could be read.
    is_whole: bool,
}

/// Makes a configuration of what can be one.
fn convert(lists: Vec<HostList>, notes: &mut Notes) -> Option<String> {
    if is_something_else(&lists, notes) {
        return None;
    }
    let (blocked, groups): (Vec<_>, Vec<_>) = lists.into_iter().partition(|list| list.name.text == BLOCKED);
    let denied = read_blocked(blocked, notes)?;
    let mut groups = read_groups(groups, notes);
    for _ in 0..LOADS_MAX {
        let written = write(&groups, &denied);
        let report = match load_text("", &written.text, Path::new(""), &Options::new(Revision(1))) {
            Ok(loaded) => {
                tell(&loaded.warnings, &written, notes);
                return Some(written.text);
            }
            Err(report) => report,
        };
        let told = tell(&report, &written, notes);
        if told.is_empty() || denied.iter().any(|host| told.contains(&host.span)) {
            return None;
        }
        groups.retain(|group| !told.contains(&group.name.span));
        groups.iter_mut().for_each(|group| group.hosts.retain(|host| !told.contains(&host.span)));
    }
    notes.push_whole(
        Finding::error(Code::TooLarge, "there is more that cannot be carried over")
            .help("correct these first"),
    );
    None
}

/// Tells whether keys of the file show that its lists mean something else than here, and says so.
fn is_something_else(lists: &[HostList], notes: &mut Notes) -> bool {
    let is_version = |list: &&HostList| matches!(list.name.text.as_str(), "version" | "apiVersion");
    let is_services = |list: &&HostList| list.name.text == "services" && !list.is_whole;
    if let Some(list) = lists.iter().find(|list| is_version(list) || is_services(list)) {
        // What has been told of the lists would be about this format.
        notes.retain(|_| false);
        let message = format!("`{}` is no list of hosts: this file is of another format", list.name.text);
        let help = "write the policy by hand; of an access list of Smokescreen, each service is a client with a policy";
        notes.push(list.name.span.clone(), Finding::error(Code::Syntax, message).help(help));
        return true;
    }
    let mut found = false;
    for list in lists.iter().filter(|list| list.name.text != BLOCKED) {
        let name = list.name.text.to_lowercase();
        if REFUSING.iter().any(|part| name.contains(part)) {
            found = true;
            let name = shown(&list.name.text);
            let message =
                format!("`{name}` says that its hosts are refused, and a group is what may be reached");
            let help = "call it `blocked` if they are, else give it another name";
            notes.push(list.name.span.clone(), Finding::error(Code::Suspicious, message).help(help));
        }
    }
    found
}

/// What is refused, without the `*` that says what holds here anyway. `None` if that cannot be said in full.
fn read_blocked(blocked: Vec<HostList>, notes: &mut Notes) -> Option<Vec<Placed>> {
    let (mut denied, mut is_whole) = (Vec::new(), true);
    for list in blocked {
        let count = list.hosts.len();
        let rest: Vec<Placed> = list.hosts.into_iter().filter(|host| host.text != "*").collect();
        if !list.is_whole {
            is_whole = false;
        } else if rest.len() == count {
            let message =
                "without `*`, this blocks some hosts and not all others; here, what no group has is refused";
            let finding = Finding::warning(Code::Suspicious, message);
            notes.push(list.name.span, finding.help("add \"*\" to `blocked`"));
        }
        denied.extend(rest);
    }
    let count = denied.len();
    denied.retain(|host| is_host(host, notes));
    (is_whole && denied.len() == count).then_some(denied)
}

/// The groups that have a usable name of their own, with the hosts that can be entries.
fn read_groups(lists: Vec<HostList>, notes: &mut Notes) -> Vec<HostList> {
    let mut groups: Vec<HostList> = Vec::new();
    for mut list in lists {
        match names::check(&list.name.text) {
            Ok(()) => {
                list.hosts.retain(|host| is_host(host, notes));
                groups.push(list);
            }
            Err(finding) => notes.push(list.name.span, finding),
        }
    }
    groups
}

fn is_host(host: &Placed, notes: &mut Notes) -> bool {
    match Entry::parse(&host.text).map(|entry| entry.destination) {
        Ok(Destination::Name(_) | Destination::Network(_)) => return true,
        Ok(Destination::Group(_) | Destination::AnyPublic) => {
            let finding = Finding::error(Code::InvalidEntry, "a list of hosts refers to no groups");
            notes.push(host.span.clone(), finding.help("list the hosts, or write the policy by hand"));
        }
        Err(error) => notes.push(host.span.clone(), entry::finding(&host.text, &error)),
    }
    false
}

/// A configuration, and which place of the YAML file each of its lines comes from.
struct Written {
    text: String,
    places: BTreeMap<u32, Range<usize>>,
    lines: u32,
}

impl Written {
    fn line(&mut self, line: &str, place: Option<&Range<usize>>) {
        let _infallible = writeln!(self.text, "{line}");
        self.lines += 1;
        if let Some(place) = place {
            self.places.insert(self.lines, place.clone());
        }
    }

    /// A list of strings, each on a line of its own.
    fn list(&mut self, key: &str, strings: &[Placed]) {
        self.line(&format!("{key} = ["), None);
        for string in strings {
            self.line(&format!("  {},", toml_edit::Value::from(&string.text)), Some(&string.span));
        }
        self.line("]", None);
    }
}

fn write(groups: &[HostList], denied: &[Placed]) -> Written {
    let mut written = Written { text: String::new(), places: BTreeMap::new(), lines: 0 };
    written.line("# Made by `exeat import hosts-yaml`. It holds for nobody yet: `exeat client add NAME --policy imported`.", None);
    for group in groups {
        let name = toml_edit::Key::new(&group.name.text);
        written.line(&format!("[groups.{name}]"), Some(&group.name.span));
        written.list("entries", &group.hosts);
        written.line("", None);
    }
    written.line(&format!("[policy.{POLICY}]"), None);
    let names = |group: &HostList| Placed { text: format!("@{}", group.name.text), ..group.name.clone() };
    written.list("allow", &groups.iter().map(names).collect::<Vec<_>>());
    if !denied.is_empty() {
        written.list("deny", denied);
    }
    written
}

/// Tells what was found in what is written at the places that it comes from, and returns the places of errors.
fn tell(report: &Report, written: &Written, notes: &mut Notes) -> Vec<Range<usize>> {
    let mut told = Vec::new();
    for problem in report.problems() {
        let Some(place) = problem.location().and_then(|location| written.places.get(&location.line)) else {
            continue;
        };
        notes.push(place.clone(), problem.finding.clone());
        if problem.severity() == Severity::Error {
            told.push(place.clone());
        }
    }
    told
}

#[cfg(test)]
mod tests;
