//! What lines of audit logs and summaries tell of what was reached and refused.

use std::collections::{BTreeMap, BTreeSet};

use exeat_model::{Authority, Host, Port};
use exeat_policy::Reason;
use serde::Deserialize;

use crate::commands::run::{is_reverse, target_of_summary};

/// Everything that was seen, by where it went.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) reached: BTreeMap<Target, Evidence>,
    /// What was refused, and how often.
    pub(super) refused: BTreeMap<(Refusal, &'static str), u64>,
}

/// A host, and a port; without one, it was looked up and nobody knows what for.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Refusal {
    pub(super) host: String,
    pub(super) port: Option<u16>,
}

/// A host, in canonical form, and a port.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) is_name: bool,
    pub(super) port: u16,
}

/// Why an entry is suggested.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Evidence {
    /// Connections and requests.
    pub(super) count: u64,
    /// The files in which they are.
    pub(super) runs: BTreeSet<usize>,
    /// Whether what opened a connection is not what its port calls for.
    pub(super) is_anything: bool,
}

/// The fields of a record that matter here.
#[derive(Deserialize)]
struct Record {
    event: String,
    verdict: String,
    target: String,
    name: Option<String>,
    port: Option<u16>,
    reason: Option<String>,
    would_deny: Option<String>,
}

/// The summary of a run.
#[derive(Deserialize)]
struct Summary {
    allowed: Vec<Allowed>,
    refused: Vec<Refused>,
}

#[derive(Deserialize)]
struct Allowed {
    target: String,
    requests: u64,
}

#[derive(Deserialize)]
struct Refused {
    target: String,
    reason: String,
    count: u64,
}

impl Seen {
    /// Adds a line of the file with this number, and returns whether it was one of a kind that is known.
    pub(super) fn add(&mut self, run: usize, line: &[u8]) -> bool {
        if let Ok(record) = serde_json::from_slice::<Record>(line) {
            self.add_record(run, &record);
            return true;
        }
        let Ok(summary) = serde_json::from_slice::<Summary>(line) else { return false };
        for Allowed { target, requests } in summary.allowed {
            if let Some(target) = Target::parse(&target) {
                self.reach(target, run, requests, false);
            }
        }
        for Refused { target, reason, count } in summary.refused {
            self.refuse(Refusal::parse(&target), &reason, count);
        }
        true
    }

    fn add_record(&mut self, run: usize, record: &Record) {
        if record.event == "dns" && record.verdict != "allow" {
            // The name of an address that is asked for backwards is no place to go to.
            let name = record.name.as_deref().filter(|name| !is_reverse(name));
            let looked_up = name.map(|name| Refusal { host: name.to_owned(), port: None });
            return self.refuse(looked_up, record.reason.as_deref().unwrap_or_default(), 1);
        }
        // The end of a connection was counted with its beginning. A question that is answered reaches nobody.
        if record.event != "decision" && record.event != "request" {
            return;
        }
        let named = record.name.as_ref().zip(record.port).map(|(name, port)| format!("{name}:{port}"));
        let target = Target::parse(named.as_deref().unwrap_or(&record.target));
        if record.verdict != "allow" {
            let target = target.map(|Target { host, port, .. }| Refusal { host, port: Some(port) });
            return self.refuse(target, record.reason.as_deref().unwrap_or_default(), 1);
        }
        let would_deny = record.would_deny.as_deref().and_then(reason);
        let is_anything = would_deny.is_some_and(|reason| {
            matches!(reason, Reason::TlsRequired | Reason::SniMissing | Reason::HttpRequired)
        });
        if let Some(target) = target {
            self.reach(target, run, 1, is_anything);
        }
    }

    fn reach(&mut self, target: Target, run: usize, count: u64, is_anything: bool) {
        let evidence = self.reached.entry(target).or_default();
        evidence.count = evidence.count.saturating_add(count);
        evidence.runs.insert(run);
        evidence.is_anything |= is_anything;
    }

    fn refuse(&mut self, target: Option<Refusal>, token: &str, count: u64) {
        if let (Some(target), Some(reason)) = (target, reason(token)) {
            let sum = self.refused.entry((target, reason.token())).or_default();
            *sum = sum.saturating_add(count);
        }
    }
}

fn reason(token: &str) -> Option<Reason> {
    Reason::ALL.iter().copied().find(|reason| reason.token() == token)
}

impl Refusal {
    /// Parses a host with a port, or a name alone, which was looked up.
    fn parse(text: &str) -> Option<Self> {
        let Target { host, port, .. } = Target::parse(text)?;
        if is_reverse(&host) {
            return None;
        }
        Some(Self { host, port: Authority::parse(target_of_summary(text), None).ok().map(|_| port) })
    }
}

impl Target {
    /// Parses a host with a port; where there is none, the one that is most usual.
    fn parse(text: &str) -> Option<Self> {
        let authority = Authority::parse(target_of_summary(text), Some(Port::HTTPS)).ok()?;
        let (host, is_name) = match &authority.host {
            Host::Name(name) => (name.to_string(), true),
            Host::Address(ip) => (ip.to_string(), false),
        };
        Some(Self { host, is_name, port: authority.port.get() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_line_counts_once() {
        let mut seen = Seen::default();
        for (line, is_known) in [
            (
                r#"{"v":1,"event":"decision","verdict":"allow","target":"Example.com:443","name":"example.com","port":443}"#,
                true,
            ),
            (
                r#"{"v":1,"event":"end","verdict":"allow","target":"example.com:443","name":"example.com","port":443}"#,
                true,
            ),
            (r#"{"event":"request","verdict":"allow","target":"http://[2606:2800::1]:80","port":80}"#, true),
            (
                r#"{"event":"request","verdict":"deny","method":"GET","target":"http://93.184.216.36:80","port":80,"reason":"ip_literal_not_allowed"}"#,
                true,
            ),
            (r#"{"event":"dns","verdict":"allow","target":"asked.test.","name":"asked.test"}"#, true),
            (
                r#"{"event":"decision","verdict":"deny","target":"evil.test:443","reason":"host_not_allowed"}"#,
                true,
            ),
            (r#"{"event":"decision","verdict":"deny","target":"bad\"\n:443","reason":"host_invalid"}"#, true),
            (
                r#"{"allowed":[{"target":"example.com:443","requests":2}],"refused":[{"target":"evil.test:443","reason":"host_not_allowed","count":3}]}"#,
                true,
            ),
            (
                r#"{"event":"dns","verdict":"deny","method":"A","target":"asked.test.","name":"asked.test","reason":"host_not_allowed"}"#,
                true,
            ),
            (
                r#"{"event":"dns","verdict":"deny","method":"PTR","target":"34.216.184.93.in-addr.arpa.","name":"34.216.184.93.in-addr.arpa","reason":"host_not_allowed"}"#,
                true,
            ),
            (
                r#"{"event":"decision","verdict":"deny","method":"REDIRECT","target":"93.184.216.35:80","port":80,"reason":"ip_literal_not_allowed"}"#,
                true,
            ),
            (
                r#"{"allowed":[],"refused":[{"target":"asked.test","reason":"host_not_allowed","count":2}]}"#,
                true,
            ),
            ("hello", false),
            ("{}", false),
        ] {
            assert_eq!(seen.add(0, line.as_bytes()), is_known, "{line}");
        }
        let reached: Vec<_> = seen.reached.iter().map(|(t, e)| (&*t.host, t.port, e.count)).collect();
        assert_eq!(reached, [("2606:2800::1", 80, 1), ("example.com", 443, 3)]);
        let refused: Vec<_> =
            seen.refused.iter().map(|((t, reason), n)| (&*t.host, t.port, *reason, *n)).collect();
        assert_eq!(
            refused,
            [
                ("93.184.216.35", Some(80), "ip_literal_not_allowed", 1),
                ("93.184.216.36", Some(80), "ip_literal_not_allowed", 1),
                ("asked.test", None, "host_not_allowed", 3),
                ("evil.test", Some(443), "host_not_allowed", 4),
            ]
        );
        // What is said of it is the command's to say, and there is no more than all.
        let all = r#"{"allowed":[{"target":"example.com:443","requests":18446744073709551615}],"refused":[{"target":"evil.test:443","reason":"host_not_allowed","count":18446744073709551615}]}"#;
        assert!(seen.add(1, all.as_bytes()));
        assert!(seen.reached.values().any(|evidence| evidence.count == u64::MAX));
        assert!(seen.refused.values().any(|count| *count == u64::MAX));
    }
}
