//! What a run reached and what it was refused, in words and as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use exeat_model::{Authority, Host, Port, Transport};
use exeat_policy::{EgressRequest, Reason, smallest_entry};
use exeat_proxy::{Proxy, RefusedView, Snapshot};
use exeat_sandbox::{Exceeded, NAMES, Outcome, PROXY, Packets, REDIRECTED};
use serde_json::{Value, json};

use crate::output::number_of;

/// Rows of each kind that are printed; the audit log has all.
const ROWS_MAX: usize = 20;

/// What a run did.
#[derive(Debug, Default)]
pub struct Summary {
    allowed: Vec<Allowed>,
    /// By target and reason, in their order.
    refused: Vec<Refused>,
    /// The limits that the command ran into.
    limits: Vec<Exceeded>,
    /// What the kernel refused that was no connection; `None` if that is not known.
    packets: Option<Packets>,
}

#[derive(Debug)]
struct Allowed {
    target: String,
    /// What the processes call themselves that asked for it, as far as that is known.
    processes: Vec<String>,
    requests: u64,
    bytes_up: u64,
    bytes_down: u64,
}

#[derive(Debug)]
struct Refused {
    target: String,
    processes: Vec<String>,
    reason: Reason,
    count: u64,
    /// Whether it may have been more often: there is room for some hundred targets.
    is_at_least: bool,
    /// What would allow it, where an entry can.
    entry: Option<String>,
}

impl Summary {
    /// Returns what the proxy of a run has seen so far.
    #[must_use]
    pub fn of(proxy: &Proxy) -> Self {
        let pairs = proxy.traffic().pairs.into_iter();
        let mut allowed: Vec<Allowed> = pairs
            .map(|pair| Allowed {
                target: pair.target.to_string(),
                processes: Vec::new(),
                requests: pair.requests,
                bytes_up: pair.bytes_up,
                bytes_down: pair.bytes_down,
            })
            .collect();
        allowed.sort_by(|one, other| one.target.cmp(&other.target));
        let counts = counted(proxy.refusals());
        let snapshot = proxy.snapshot();
        let refused = counts.into_iter().map(|((target, _), (reason, count, is_at_least))| {
            let entry = entry(&snapshot, &target, reason);
            Refused { target, processes: Vec::new(), reason, count, is_at_least, entry }
        });
        Self { allowed, refused: refused.collect(), limits: Vec::new(), packets: None }
    }

    /// The same with the names of the processes that asked for each target.
    #[must_use]
    pub fn with_processes(mut self, seen: &BTreeMap<String, BTreeSet<Arc<str>>>) -> Self {
        let of = |target: &str| seen.get(target).into_iter().flatten().map(ToString::to_string).collect();
        self.allowed.iter_mut().for_each(|row| row.processes = of(target_of_summary(&row.target)));
        self.refused.iter_mut().for_each(|row| row.processes = of(&row.target));
        self
    }

    /// The same with what the sandbox tells: the limits that the command ran into, and packets that were refused.
    #[must_use]
    pub fn with_outcome(self, outcome: &Outcome) -> Self {
        Self { limits: outcome.exceeded.clone(), packets: outcome.packets, ..self }
    }

    /// Whether something was refused. What is not known may have been.
    #[must_use]
    pub fn has_refusals(&self) -> bool {
        self.refused.iter().any(Refused::is_by_policy) || self.packets != Some(Packets::default())
    }

    /// Returns it in words; nothing if nothing was asked for.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        for Allowed { target, processes, requests, bytes_up, bytes_down } in
            self.allowed.iter().take(ROWS_MAX)
        {
            let by = by(processes);
            let _ = writeln!(
                text,
                "  reached  {target}  {requests}×{by}, {bytes_up} bytes up, {bytes_down} down"
            );
        }
        for Refused { target, processes, reason, count, is_at_least, entry } in
            self.refused.iter().take(ROWS_MAX)
        {
            let at_least = if *is_at_least { "at least " } else { "" };
            let by = by(processes);
            let entry = entry.as_ref().map(|entry| format!("; --allow '{entry}'")).unwrap_or_default();
            let word = if reason.http_status() == STATUS_POLICY { "refused" } else { "failed " };
            let _ = writeln!(text, "  {word}  {target}  {at_least}{count}×{by}, {reason}{entry}");
        }
        let Packets { datagrams, others } = self.packets.unwrap_or_default();
        if datagrams > 0 {
            let _ = writeln!(
                text,
                "  refused  UDP  {}; there is no way out for it, nor for QUIC",
                number_of(datagrams, "datagram")
            );
        }
        if others > 0 {
            let _ = writeln!(
                text,
                "  refused  other protocols than TCP and UDP  {}",
                number_of(others, "packet")
            );
        }
        let rows = |count: usize| count.saturating_sub(ROWS_MAX);
        let more = rows(self.allowed.len()) + rows(self.refused.len());
        if more > 0 {
            let _ = writeln!(text, "  and {more} more: see --audit");
        }
        if !text.is_empty() {
            text = format!("exeat: what left the sandbox\n{text}");
        }
        if self.packets.is_none() {
            text += "exeat: packets that are no TCP could not be counted\n";
        }
        for exceeded in &self.limits {
            let _ = writeln!(text, "exeat: {exceeded}");
        }
        text
    }

    /// Returns it as one JSON object.
    #[must_use]
    pub fn json(&self) -> Value {
        self.json_within(usize::MAX)
    }

    /// Returns it as one JSON object whose rows take `bytes` at the most, half of that for each kind. How many rows there was no
    /// room for stands in `left_out`, if there were any.
    #[must_use]
    pub fn json_within(&self, bytes: usize) -> Value {
        let allowed = |Allowed { target, processes, requests, bytes_up, bytes_down }: &Allowed| json!({ "target": target, "processes": processes, "requests": requests, "bytes_up": bytes_up, "bytes_down": bytes_down });
        let refused = |Refused { target, processes, reason, count, is_at_least: _, entry }: &Refused| json!({ "target": target, "processes": processes, "reason": reason.token(), "count": count, "allow": entry });
        let (allowed, allowed_left_out) = rows_within(self.allowed.iter().map(allowed), bytes / 2);
        let (refused, refused_left_out) = rows_within(self.refused.iter().map(refused), bytes / 2);
        let mut summary = json!({
            "allowed": allowed,
            "refused": refused,
            "packets": self.packets.map(|Packets { datagrams, others }| json!({ "udp": datagrams, "other": others })),
            "limits": self.limits.iter().map(|exceeded| exceeded.word()).collect::<Vec<_>>(),
        });
        if let Value::Object(members) = &mut summary
            && allowed_left_out + refused_left_out > 0
        {
            let left_out = json!({ "allowed": allowed_left_out, "refused": refused_left_out });
            members.insert("left_out".to_owned(), left_out);
        }
        summary
    }
}

/// The first of the rows, as many as `bytes` hold, and how many are left out.
fn rows_within(rows: impl Iterator<Item = Value>, bytes: usize) -> (Vec<Value>, usize) {
    let (mut kept, mut left_out, mut room) = (Vec::new(), 0, Some(bytes));
    for row in rows {
        room = room.and_then(|room| room.checked_sub(row.to_string().len() + 1));
        if room.is_some() {
            kept.push(row);
        } else {
            left_out += 1;
        }
    }
    (kept, left_out)
}

/// A target of an audit record as it stands in the summary: what is behind the host of a URL was not what was decided on, and a
/// question for a name spells it to the end.
#[must_use]
pub fn target_of_summary(target: &str) -> &str {
    let target = target.split_once("://").map_or(target, |(_, rest)| rest);
    let target = target.split('/').next().unwrap_or_default();
    target.strip_suffix('.').unwrap_or(target)
}

/// The rows of each target and reason together: the reason, how often it was, and whether it may have been more often.
fn counted(rows: Vec<RefusedView>) -> BTreeMap<(String, &'static str), (Reason, u64, bool)> {
    let mut counts: BTreeMap<_, (Reason, u64, bool)> = BTreeMap::new();
    for row in rows {
        let target = target_of_summary(&row.target).to_owned();
        let sum = counts.entry((target, row.reason.token())).or_insert((row.reason, 0, false));
        // What a row took over from another is not its own.
        sum.1 += row.count.saturating_sub(row.error);
        sum.2 |= row.error > 0;
    }
    counts
}

/// Who it was, in words.
fn by(processes: &[String]) -> String {
    if processes.is_empty() { String::new() } else { format!(" by {}", processes.join(", ")) }
}

/// The status of what a policy refuses, as opposed to what could not be done.
const STATUS_POLICY: u16 = 403;

impl Refused {
    fn is_by_policy(&self) -> bool {
        self.reason.http_status() == STATUS_POLICY
    }
}

/// Returns the smallest entry that would allow a target, as `--allow` takes it.
fn entry(snapshot: &Snapshot, target: &str, reason: Reason) -> Option<String> {
    // Which addresses a name had is not known here, and they are what was wrong.
    if reason == Reason::AddressNotAllowed {
        return None;
    }
    // A question for a name has no port: whoever asked meant some.
    let authority = Authority::parse(target, Some(Port::HTTPS)).ok()?;
    if is_of_sandbox(&authority) {
        return None;
    }
    let bound = &snapshot.anonymous.as_ref()?.bound;
    let request = EgressRequest { bound, target: &authority, transport: Transport::Tcp };
    let mut entry = smallest_entry(&request, reason, &[])?;
    if !has_port(target) {
        entry.settings.ports = None;
    }
    let text = entry.to_string();
    // What takes more than a line of text cannot be said by a flag.
    (!text.contains(['{', '\''])).then_some(text)
}

fn has_port(target: &str) -> bool {
    Authority::parse(target, None).is_ok()
}

/// Whether a name stands for an address that was asked for backwards (RFC 1035 §3.5, RFC 3596 §2.5): no place to connect to.
pub(crate) fn is_reverse(name: &str) -> bool {
    ["in-addr.arpa", "ip6.arpa"]
        .iter()
        .any(|zone| name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// Whether a target is the sandbox's own business, which no entry changes: a listener of the proxy inside, which leads back to the proxy,
/// or the name of an address.
fn is_of_sandbox(target: &Authority) -> bool {
    match &target.host {
        Host::Address(ip) => {
            let listeners = [PROXY].into_iter().chain(REDIRECTED).chain(NAMES);
            let at = SocketAddr::new(ip.get(), target.port.get());
            listeners.into_iter().any(|listener| listener == at)
        }
        Host::Name(name) => is_reverse(name.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn what_a_row_took_over_from_another_is_not_counted() {
        let row = |target: &str, count, error| RefusedView {
            principal: None,
            target: target.into(),
            reason: Reason::HostNotAllowed,
            count,
            error,
            last: SystemTime::UNIX_EPOCH,
        };
        let counts = counted(vec![
            row("a.test:443", 3, 0),
            row("https://a.test:443/x", 2, 0),
            row("b.test:443", 41, 40),
            row("b.test:443/y", 2, 0),
        ]);
        let told: Vec<_> = counts
            .iter()
            .map(|((target, _), (_, count, is_at_least))| (target.as_str(), *count, *is_at_least))
            .collect();
        assert_eq!(told, [("a.test:443", 5, false), ("b.test:443", 3, true)]);
    }

    #[test]
    fn rows_that_there_is_no_room_for_are_counted() {
        let rows = || (0..4).map(|number| json!({ "n": number }));
        for (bytes, kept, left_out) in
            [(usize::MAX, 4, 0), (32, 4, 0), (31, 3, 1), (8, 1, 3), (7, 0, 4), (0, 0, 4)]
        {
            let (got, missing) = rows_within(rows(), bytes);
            assert_eq!((got.len(), missing), (kept, left_out), "{bytes}");
            assert!(got.into_iter().eq(rows().take(kept)), "{bytes}: the first ones");
        }
    }

    #[test]
    fn what_no_entry_changes_is_not_suggested() {
        for (target, want) in [
            ("127.0.0.1:3128", true),
            ("127.0.0.1:3129", true),
            ("[::1]:3129", true),
            ("127.0.0.1:53", true),
            ("127.0.0.1:8080", false),
            ("[::1]:3128", false),
            ("93.184.216.34:3129", false),
            ("34.216.184.93.in-addr.arpa", true),
            ("4.3.0.0.ip6.arpa", true),
            ("in-addr.arpa", true),
            ("not-in-addr.arpa", false),
            ("example.com:443", false),
        ] {
            let authority = Authority::parse(target, Some(Port::HTTPS)).unwrap();
            assert_eq!(is_of_sandbox(&authority), want, "{target}");
        }
    }
}
