//! `diff`: what two configurations allow differently, client by client.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use exeat_identity::Principal;
use exeat_policy::{Bound, Change, Hosts, PolicySet, Revision, View, diff};
use exeat_store::{Loaded, Options};
use serde_json::{Value, json};

use crate::args::{DiffArgs, Format};
use crate::output::{Exit, print_report, to_stdout};

/// Compares two configuration files.
pub(crate) fn run(args: &DiffArgs) -> anyhow::Result<Exit> {
    let (Some(old), Some(new)) = (load(&args.old), load(&args.new)) else { return Ok(Exit::Config) };
    let differences = differences(&old, &new);
    match args.format {
        Format::Text => to_stdout(text(&differences))?,
        Format::Json => to_stdout(json_lines(&differences))?,
    }
    Ok(if differences.is_empty() { Exit::Success } else { Exit::Different })
}

/// Reads one configuration, or prints why it cannot be used. Warnings are `check`'s matter.
fn load(path: &Path) -> Option<Loaded> {
    exeat_store::load(path, &Options::new(Revision(1))).inspect_err(print_report).ok()
}

/// Whether a client is on both sides.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Presence {
    Both,
    Added,
    Removed,
}

/// What differs for one client.
struct Difference {
    client: String,
    presence: Presence,
    /// Many clients share their policies, and then what changed.
    changes: Arc<[Change]>,
}

/// Who there is, by name; the one without credentials comes first and cannot be mistaken for a
/// client of the same name.
fn principals(loaded: &Loaded) -> BTreeMap<(bool, &str), &Principal> {
    let clients = loaded.clients.principals().map(|p| ((true, &*p.name), &**p));
    clients.chain(loaded.anonymous.iter().map(|p| ((false, &*p.name), &**p))).collect()
}

/// Clients that differ, the one without credentials first, then by name.
fn differences(old: &Loaded, new: &Loaded) -> Vec<Difference> {
    let nothing = Bound::default();
    let (before, after) = (principals(old), principals(new));
    let mut everyone: Vec<_> = before.keys().chain(after.keys()).copied().collect();
    everyone.sort_unstable();
    everyone.dedup();
    let mut known: HashMap<(&Bound, &Bound), Arc<[Change]>> = HashMap::new();
    let mut differences = Vec::new();
    for who in everyone {
        let (was, is) = (before.get(&who), after.get(&who));
        let presence = match (was, is) {
            (Some(_), Some(_)) => Presence::Both,
            (None, _) => Presence::Added,
            (Some(_), None) => Presence::Removed,
        };
        let bounds = (was.map_or(&nothing, |p| &p.bound), is.map_or(&nothing, |p| &p.bound));
        let compare = || compare(&old.policy, &new.policy, bounds).into();
        let changes = Arc::clone(known.entry(bounds).or_insert_with(compare));
        if presence != Presence::Both || !changes.is_empty() {
            differences.push(Difference { client: title(who), presence, changes });
        }
    }
    differences
}

fn compare(old: &PolicySet, new: &PolicySet, (was, is): (&Bound, &Bound)) -> Vec<Change> {
    diff(View { set: old, bound: was }, View { set: new, bound: is })
}

fn title((client, name): (bool, &str)) -> String {
    if client { name.to_owned() } else { "(without credentials)".to_owned() }
}

impl Presence {
    const fn remark(self) -> &'static str {
        match self {
            Self::Both => "",
            Self::Added => "  (only in the new configuration)",
            Self::Removed => "  (only in the old configuration)",
        }
    }
}

/// Groups of lines, one group a client, with places in a column of their own.
fn text(differences: &[Difference]) -> String {
    let mut text = String::new();
    for difference in differences {
        if !text.is_empty() {
            text.push('\n');
        }
        let _infallible = writeln!(text, "{}{}", difference.client, difference.presence.remark());
        let lines: Vec<(String, String)> = difference.changes.iter().map(line).collect();
        let width = lines.iter().map(|(what, _)| what.len().min(WIDTH_MAX)).max().unwrap_or_default();
        for (what, place) in lines {
            let _infallible = writeln!(text, "  {what:<width$}  {place}");
        }
    }
    text
}

/// Where the column of places begins at most; longer lines push it out.
const WIDTH_MAX: usize = 60;

/// What changed, and the rules that say so.
fn line(change: &Change) -> (String, String) {
    let what = format!("{} {}:{} {}", change.direction.sign(), change.hosts, change.ports, change.what);
    let refused_by = change.refused_by.as_ref().filter(|rule| rule.place != change.rule.place);
    let place = match (&change.hosts, refused_by) {
        // Any of the allowed names would do, so the deny is what matters.
        (Hosts::AllowedNames, Some(rule)) => rule.place.to_string(),
        (_, Some(rule)) => {
            format!("{}  ({}: {} at {})", change.rule.place, change.reason, rule.text, rule.place)
        }
        (_, None) => change.rule.place.to_string(),
    };
    (what.trim_end().to_owned(), place)
}

/// One object a line: first the client's own if it came or went, then one for each change.
fn json_lines(differences: &[Difference]) -> String {
    let mut text = String::new();
    for difference in differences {
        let client = &difference.client;
        match difference.presence {
            Presence::Both => {}
            Presence::Added => push(&mut text, &json!({ "client": client, "change": "client_added" })),
            Presence::Removed => push(&mut text, &json!({ "client": client, "change": "client_removed" })),
        }
        difference.changes.iter().for_each(|change| push(&mut text, &object(client, change)));
    }
    text
}

fn push(text: &mut String, value: &Value) {
    let _infallible = writeln!(text, "{value}");
}

fn object(client: &str, change: &Change) -> Value {
    let rule = |rule: &exeat_policy::RuleView| json!({ "policy": rule.policy, "text": rule.text, "place": rule.place.to_string() });
    let witness = &change.witness;
    json!({
        "client": client,
        "change": change.direction.word(),
        "hosts": change.hosts.to_string(),
        "ports": change.ports.to_string(),
        "what": Some(change.what.to_string()).filter(|what| !what.is_empty()),
        "allowed_by": rule(&change.rule),
        "reason": change.reason.token(),
        "refused_by": change.refused_by.as_ref().map(rule),
        "witness": {
            "target": witness.target.to_string(),
            "addresses": witness.addrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "opening": witness.opening.as_ref().map(ToString::to_string),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(file: &str, text: &str) -> Loaded {
        exeat_store::load_text(file, text, Path::new(""), &Options::new(Revision(1))).unwrap()
    }

    const OLD: &str = r#"
[proxy]
anonymous = "base"

[policy.base]
allow = ["example.com", "*.example.org"]

[policy.work]
allow = ["git.example.com:22"]

[client.gone]
policies = ["work"]
passwords = []

[client.same]
policies = ["work"]
passwords = []
"#;

    const NEW: &str = r#"
[proxy]
anonymous = "base"

[policy.base]
allow = ["example.com:443", "*.example.org"]
deny = ["bad.example.org"]

[policy.work]
allow = ["git.example.com:22"]

[client.here]
policies = ["base"]
passwords = []

[client.same]
policies = ["work"]
passwords = []
"#;

    #[test]
    fn text_names_clients_changes_and_places() {
        let got = text(&differences(&loaded("old.toml", OLD), &loaded("new.toml", NEW)));
        let want = "\
(without credentials)
  - example.com:80          old.toml:6:10  (port_not_allowed: example.com:443 at new.toml:6:10)
  - bad.example.org:80,443  old.toml:6:25  (host_denied: bad.example.org at new.toml:7:9)

gone  (only in the old configuration)
  - git.example.com:22  old.toml:9:10

here  (only in the new configuration)
  + example.com:443       new.toml:6:10
  + *.example.org:80,443  new.toml:6:29
";
        assert_eq!(got, want);
    }

    #[test]
    fn a_configuration_is_the_same_as_itself() {
        for text in [OLD, NEW] {
            assert!(differences(&loaded("a.toml", text), &loaded("b.toml", text)).is_empty());
        }
    }

    #[test]
    fn json_carries_the_witness() {
        let got = json_lines(&differences(&loaded("old.toml", OLD), &loaded("new.toml", NEW)));
        let objects: Vec<Value> = got.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(objects.len(), 7);
        let denied = objects.iter().find(|o| o["reason"] == "host_denied").unwrap();
        assert_eq!(denied["change"], "lost");
        assert_eq!(denied["witness"]["target"], "bad.example.org:443");
        assert_eq!(denied["refused_by"]["place"], "new.toml:7:9");
        assert!(objects.iter().any(|o| o["client"] == "gone" && o["change"] == "client_removed"));
    }
}
