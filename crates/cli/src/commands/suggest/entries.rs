//! Entries for what was seen: no wider than it, but where several names share a domain that somebody holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use exeat_model::{DnsName, SuffixKind, suffix_kind};

use super::seen::{Evidence, Refusal, Seen};

/// How many names below one domain are several: their next one is likely to lie there, too.
const SEVERAL: usize = 3;

/// The ports that an entry without any means.
const USUAL_PORTS: [u16; 2] = [80, 443];

/// Names that are told of a wildcard, and refusals that are told at all.
const TOLD_MAX: usize = 20;

/// One entry to be, and what it is for.
#[derive(Debug, Default)]
struct Entry {
    ports: BTreeSet<u16>,
    evidence: Evidence,
    /// The names that a wildcard stands for.
    names: BTreeSet<String>,
}

impl Entry {
    fn add(&mut self, port: u16, evidence: &Evidence) {
        self.ports.insert(port);
        self.evidence.count = self.evidence.count.saturating_add(evidence.count);
        self.evidence.runs.extend(&evidence.runs);
        self.evidence.is_anything |= evidence.is_anything;
    }
}

/// Returns a configuration that allows what was seen in this many files.
pub(super) fn policy(seen: &Seen, runs: usize) -> String {
    let mut text = format!(
        "# What was seen in {runs} file{}, and nothing else. Read it before you use it: whatever ran could have reached anything.\n\
         [proxy]\nanonymous = \"suggested\"\n\n[policy.suggested]\nallow = [\n",
        if runs == 1 { "" } else { "s" }
    );
    for (pattern, entry) in entries(seen) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "    {}, # {}", written(&pattern, &entry), because(&entry));
    }
    text.push_str("]\n");
    let refused: Vec<_> = seen.refused.iter().collect();
    for ((Refusal { host, port }, reason), count) in refused.iter().take(TOLD_MAX) {
        let place = port.map_or_else(|| "looked up".to_owned(), |port| format!("port {port}"));
        let _ = writeln!(text, "# refused: {host} {place}, {count}×, {reason}");
    }
    if refused.len() > TOLD_MAX {
        let _ = writeln!(text, "# refused: {} more", refused.len() - TOLD_MAX);
    }
    text
}

/// One entry for each host, or for the domain that several share.
fn entries(seen: &Seen) -> BTreeMap<String, Entry> {
    let wildcards = wildcards(seen);
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    for (target, evidence) in &seen.reached {
        let below = target.is_name.then(|| wildcards.iter().find(|parent| is_below(&target.host, parent)));
        let pattern = match below.flatten() {
            Some(parent) => format!("*.{parent}"),
            None => target.host.clone(),
        };
        let entry = entries.entry(pattern).or_default();
        entry.add(target.port, evidence);
        if below.flatten().is_some() {
            entry.names.insert(target.host.clone());
        }
    }
    entries
}

fn is_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).is_some_and(|below| below.ends_with('.'))
}

/// The domains that several of the names seen lie below: each as deep as it can be, and somebody's.
fn wildcards(seen: &Seen) -> Vec<String> {
    let mut by_holder: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for target in seen.reached.keys().filter(|target| target.is_name) {
        if let Some(holder) = registrable(&target.host) {
            by_holder.entry(holder).or_default().insert(&target.host);
        }
    }
    by_holder
        .into_iter()
        .filter_map(|(holder, names)| {
            let below: Vec<&str> = names.into_iter().filter(|name| is_below(name, &holder)).collect();
            (below.len() >= SEVERAL).then(|| common_parent(&below, holder))
        })
        .collect()
}

/// The deepest domain that all names lie below; at the least the one that is given.
fn common_parent(names: &[&str], holder: String) -> String {
    let Some((first, others)) = names.split_first() else { return holder };
    let parents = first.match_indices('.').filter_map(|(at, _)| first.get(at + 1..));
    let mut deeper = parents.take_while(|parent| parent.len() > holder.len());
    let shared = deeper.find(|parent| others.iter().all(|name| is_below(name, parent)));
    shared.map_or(holder, str::to_owned)
}

/// The domain above or at a name that one holder has registered: what lies right below a public suffix.
fn registrable(name: &str) -> Option<String> {
    let name = DnsName::parse(name).ok()?;
    let all: Vec<&str> = std::iter::once(name.as_str()).chain(name.parents()).collect();
    let is_suffix = |name: &str| {
        DnsName::parse(name).is_ok_and(|name| match suffix_kind(&name) {
            SuffixKind::Icann | SuffixKind::Private => true,
            SuffixKind::NotASuffix => false,
        })
    };
    all.windows(2).find_map(|pair| match pair {
        [name, parent] if !is_suffix(name) && is_suffix(parent) => Some((*name).to_owned()),
        _ => None,
    })
}

fn written(pattern: &str, entry: &Entry) -> String {
    let ports: Vec<String> = entry.ports.iter().map(u16::to_string).collect();
    let ports = ports.join(", ");
    let is_usual = entry.ports.iter().eq(USUAL_PORTS.iter());
    let ports_only = if is_usual { String::new() } else { format!(":{}", ports.replace(' ', "")) };
    if entry.evidence.is_anything {
        return format!("{{ host = \"{pattern}\", ports = [{ports}], expect = \"any\" }}");
    }
    // Of an address of IPv6 the port is told by brackets.
    if pattern.contains(':') {
        format!("\"[{pattern}]{ports_only}\"")
    } else {
        format!("\"{pattern}{ports_only}\"")
    }
}

fn because(entry: &Entry) -> String {
    let Evidence { count, runs, .. } = &entry.evidence;
    let mut text = format!("{count}× in {} file{}", runs.len(), if runs.len() == 1 { "" } else { "s" });
    if !entry.names.is_empty() {
        let told: Vec<&str> = entry.names.iter().take(TOLD_MAX).map(String::as_str).collect();
        let _ = write!(text, ": {}", told.join(", "));
        if entry.names.len() > TOLD_MAX {
            let _ = write!(text, " and {} more", entry.names.len() - TOLD_MAX);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(targets: &[(&str, u16)]) -> Seen {
        let mut seen = Seen::default();
        for (host, port) in targets {
            let line = format!(
                r#"{{"event":"decision","verdict":"allow","target":"{host}:{port}","would_deny":"host_not_allowed"}}"#
            );
            assert!(seen.add(0, line.as_bytes()));
        }
        seen
    }

    #[test]
    fn entries_are_as_narrow_as_what_was_seen() {
        for (name, targets, want) in [
            ("one port", &[("example.com", 443)][..], &["\"example.com:443\""][..]),
            ("both usual ports", &[("example.com", 443), ("example.com", 80)], &["\"example.com\""]),
            ("other ports", &[("example.com", 25), ("example.com", 80)], &["\"example.com:25,80\""]),
            (
                "two names are not several",
                &[("a.example.com", 443), ("b.example.com", 443)],
                &["\"a.example.com:443\"", "\"b.example.com:443\""],
            ),
            (
                "three are, and the apex is not below",
                &[
                    ("a.example.com", 443),
                    ("b.example.com", 443),
                    ("c.d.example.com", 80),
                    ("example.com", 443),
                ],
                &["\"*.example.com\"", "\"example.com:443\""],
            ),
            (
                "as deep as it can be",
                &[("a.cdn.example.com", 443), ("b.cdn.example.com", 443), ("x.c.cdn.example.com", 443)],
                &["\"*.cdn.example.com:443\""],
            ),
            (
                "a shared parent that was seen itself is not below it",
                &[("cdn.example.com", 443), ("b.cdn.example.com", 443), ("x.c.cdn.example.com", 443)],
                &["\"*.example.com:443\""],
            ),
            (
                "others can register below a private suffix",
                &[("a.github.io", 443), ("b.github.io", 443), ("c.github.io", 443)],
                &["\"a.github.io:443\"", "\"b.github.io:443\"", "\"c.github.io:443\""],
            ),
            (
                "addresses",
                &[("93.184.216.34", 443), ("[2606:2800::1]", 25)],
                &["\"93.184.216.34:443\"", "\"[2606:2800::1]:25\""],
            ),
        ] {
            let seen = seen(targets);
            let entries: BTreeSet<String> =
                entries(&seen).iter().map(|(pattern, entry)| written(pattern, entry)).collect();
            let want: BTreeSet<String> = want.iter().map(|entry| (*entry).to_owned()).collect();
            assert_eq!(entries, want, "{name}");
        }
    }

    #[test]
    fn what_is_printed_is_a_configuration() {
        let mut seen = seen(&[("example.com", 443), ("a.example.org", 80), ("2606:2800::1", 1)]);
        assert!(seen.add(1, br#"{"event":"decision","verdict":"allow","target":"odd.example.com:443","would_deny":"tls_required"}"#));
        assert!(seen.add(
            1,
            br#"{"event":"decision","verdict":"deny","target":"evil.test:443","reason":"host_denied"}"#
        ));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exeat.toml");
        let text = policy(&seen, 2);
        std::fs::write(&path, &text).unwrap();
        let loaded = exeat_store::load(&path, &exeat_store::Options::new(exeat_policy::Revision(1)));
        assert!(loaded.is_ok(), "{text}\n{loaded:?}");
        assert!(text.contains("expect = \"any\""), "{text}");
        assert!(text.contains("# refused: evil.test port 443, 1×, host_denied"), "{text}");
    }
}
