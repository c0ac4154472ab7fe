//! Every section: its targets side by side, and its rounds.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::record::Record;
use crate::report::number;
use crate::report::series::Series;

/// A section of the results.
struct Section {
    name: &'static str,
    title: &'static str,
    /// What one unit of work is called.
    unit: &'static str,
    /// The figures to show of each target, in this order, and what stands above them.
    columns: &'static [(&'static str, &'static str)],
    /// The figure that the rounds show.
    headline: &'static str,
}

const LOAD: &[(&str, &str)] = &[
    ("cpu_us", "CPU µs"),
    ("system_share", "in the kernel"),
    ("rate", "per second"),
    ("p50_us", "p50 µs"),
    ("p99_us", "p99 µs"),
];
const BULK: &[(&str, &str)] =
    &[("cpu_us", "CPU µs"), ("system_share", "in the kernel"), ("rate", "per second")];
const IDLE: &[(&str, &str)] = &[
    ("process_mib", "MiB before"),
    ("idle_kib", "KiB a tunnel"),
    ("touched_kib", "KiB after use"),
    ("kept_mib", "MiB after all closed"),
    ("idle_cpu_ms_per_s", "idle CPU ms/s"),
];
const START: &[(&str, &str)] = &[
    ("ready_s", "ready after s"),
    ("ready_cpu_s", "CPU s"),
    ("memory_mib", "MiB"),
    ("reload_s", "reload s"),
    ("reloaded_memory_mib", "MiB after reloads"),
    ("slowest_us", "slowest connection µs"),
];

const fn load(name: &'static str, title: &'static str, unit: &'static str) -> Section {
    Section { name, title, unit, columns: LOAD, headline: "cpu_us" }
}

const fn bulk(name: &'static str, title: &'static str) -> Section {
    Section { name, title, unit: "MB", columns: BULK, headline: "cpu_us" }
}

const ALL: &[Section] = &[
    load("connect", "CONNECT, a request of 100 bytes, the end; 64 clients", "connection"),
    load("refused", "Refused CONNECT; 64 clients", "connection"),
    load("forward", "Absolute-form GET of 1 KiB with keep-alive; 64 clients", "request"),
    bulk("download", "Bulk from the origin; 16 tunnels"),
    bulk("upload", "Bulk to the origin; 16 tunnels"),
    load("ping", "100 bytes there and back; 256 tunnels", "round trip"),
    load(
        "tokens",
        "CONNECT with a password and with a token of ten hosts, of one process; 64 clients",
        "connection",
    ),
    Section {
        name: "idle",
        title: "Idle tunnels: opened, 16 KiB through each, closed; a new process each round",
        unit: "tunnel",
        columns: IDLE,
        headline: "idle_kib",
    },
    Section {
        name: "rules",
        title: "1,000,000 rules from a group file: start, then reloads under load; a new process each round",
        unit: "connection",
        columns: START,
        headline: "ready_s",
    },
    Section {
        name: "principals",
        title: "100,000 clients with a password each, which share 100 policies; a new process each round",
        unit: "connection",
        columns: START,
        headline: "ready_s",
    },
    load("connect-tls", "TLS between client and origin inside the tunnel; 16 clients", "connection"),
    load("socks5", "SOCKS5, a request of 100 bytes, the end; 64 clients", "connection"),
    load("https", "CONNECT through TLS to the proxy; 16 clients", "connection"),
    bulk("https-download", "Bulk from the origin through TLS to the proxy; 16 tunnels"),
    bulk("https-upload", "Bulk to the origin through TLS to the proxy; 16 tunnels"),
    load("http2", "CONNECT as streams of four HTTP/2 connections through TLS; 64 clients", "stream"),
    bulk("http2-download", "Bulk from the origin; 16 streams of four HTTP/2 connections"),
    bulk(
        "virtual-download",
        "Bulk from the origin by CONNECT, and to virtual addresses; 16 tunnels of one process",
    ),
    Section {
        name: "virtual-names",
        title: "Virtual addresses: 100 clients with 100,000 names each; a new process each round",
        unit: "name",
        columns: &[("memory_mib", "MiB"), ("assign_ns", "ns")],
        headline: "memory_mib",
    },
    load("dns", "Questions for names, one after the other; `servers` are those that Exeat asks", "question"),
    load("dns-load", "Questions for names, 64 at a time; the name server runs on one core", "question"),
    load(
        "kernel-lookups",
        "Questions for names that the firewall is opened for, one after the other",
        "question",
    ),
    load("kernel-load", "The same, 64 at a time; the name server runs on one core", "question"),
    Section {
        name: "kernel-connects",
        title: "A question for a name, and a connection to it at once; 10,000 names",
        unit: "connection",
        columns: &[
            ("refused", "refused"),
            ("rate", "per second"),
            ("p50_us", "p50 µs"),
            ("p99_us", "p99 µs"),
        ],
        headline: "p50_us",
    },
    Section {
        name: "kernel",
        title: "Opening one address in the kernel, beside so many that are open, and a packet that is let through then",
        unit: "opening",
        columns: &[("p50_us", "p50 µs"), ("p99_us", "p99 µs"), ("packet_ns", "packet ns")],
        headline: "p50_us",
    },
    Section {
        name: "run",
        title: "A command by itself and under `exeat run`, ten times each round, with one request",
        unit: "run",
        columns: &[
            ("ready_ms", "ready after ms"),
            ("run_cpu_ms", "CPU ms"),
            ("own_mib", "MiB of Exeat"),
            ("quiet_mib", "MiB when quiet"),
        ],
        headline: "ready_ms",
    },
    Section {
        name: "calls",
        title: "System calls of one CONNECT connection, counted by strace; 4 clients",
        unit: "connection",
        columns: &[("calls", "calls")],
        headline: "calls",
    },
    Section {
        name: "micro",
        title: "Single steps, measured by criterion",
        unit: "step",
        columns: &[("ns", "ns")],
        headline: "ns",
    },
];

/// Every section that was measured.
pub(crate) fn all(records: &[Record]) -> String {
    ALL.iter().map(|section| section.show(records)).collect()
}

impl Section {
    fn show(&self, records: &[Record]) -> String {
        let records: Vec<Record> = records.iter().filter(|r| r.section == self.name).cloned().collect();
        if records.is_empty() {
            return String::new();
        }
        let mut text = format!("\n## {}\n\n", self.title);
        self.targets(&records, &mut text);
        if self.name == "calls" {
            calls(&records, &mut text);
        }
        if records.iter().any(|record| record.round > 1) {
            self.rounds(&records, &mut text);
        } else if let Some(record) = records.first() {
            let _ = writeln!(text, "\nMeasured at commit {}, {} UTC.", record.commit, record.time);
        }
        text
    }

    /// A row for each target, with the medians of its figures.
    fn targets(&self, records: &[Record], text: &mut String) {
        let targets = names(records);
        let base = targets.contains(&"floor") && self.headline == "cpu_us";
        let _ = write!(text, "| per {} |", self.unit);
        if base {
            text.push_str(" × floor |");
        }
        for (_, title) in self.columns {
            let _ = write!(text, " {title} |");
        }
        text.push_str(" errors |\n|---|");
        text.push_str(&"--:|".repeat(self.columns.len() + 1 + usize::from(base)));
        text.push('\n');
        for target in targets {
            let _ = write!(text, "| {target} |");
            if base {
                let ratio = Series::ratio(records, self.name, target, "floor", self.headline);
                let _ = write!(text, " {} |", ratio.show());
            }
            for (figure, _) in self.columns {
                let series = Series::of(records, self.name, target, figure);
                // The headline has its range; of the rest the median says enough.
                let median = || series.median().map(number).unwrap_or_default();
                let shown = if *figure == self.headline { series.show() } else { median() };
                let _ = write!(text, " {shown} |");
            }
            let of_target = records.iter().filter(|r| r.target == target);
            let errors: u64 = of_target.map(|record| record.figures.error_count()).sum();
            let _ = writeln!(text, " {errors} |");
        }
    }

    /// A row for each round, with the headline of every target.
    fn rounds(&self, records: &[Record], text: &mut String) {
        let targets = names(records);
        let headline = self.columns.iter().find(|(figure, _)| *figure == self.headline);
        let _ = writeln!(
            text,
            "\n| round, {} | {} | commit | UTC |",
            headline.map_or("", |h| h.1),
            targets.join(" | ")
        );
        let _ = writeln!(text, "|---|{}---|---|", "--:|".repeat(targets.len()));
        let rounds: BTreeSet<u32> = records.iter().map(|record| record.round).collect();
        for round in rounds {
            let _ = write!(text, "| {round} |");
            for target in &targets {
                let record = records.iter().find(|r| r.round == round && r.target == *target);
                let value = record.and_then(|record| record.figures.values.get(self.headline));
                let errors = record.map_or(0, |record| record.figures.error_count());
                let errors = if errors > 0 { format!(", {errors} errors") } else { String::new() };
                let _ = write!(text, " {}{errors} |", value.map(|value| number(*value)).unwrap_or_default());
            }
            let first = records.iter().find(|record| record.round == round);
            let (commit, time) = first.map_or(("", ""), |first| (&first.commit, &first.time));
            let _ = writeln!(text, " {commit} | {time} |");
        }
    }
}

/// The targets in the order in which they were measured first.
fn names(records: &[Record]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for record in records {
        if !names.contains(&record.target.as_str()) {
            names.push(&record.target);
        }
    }
    names
}

/// Which calls they are.
fn calls(records: &[Record], text: &mut String) {
    /// Calls that happen less often than this are about something else.
    const SHOWN_MIN: f64 = 0.05;

    for record in records {
        let mut calls: Vec<(&str, f64)> = record.figures.values.iter().filter_map(call).collect();
        calls.retain(|(_, count)| *count >= SHOWN_MIN);
        calls.sort_by(|a, b| b.1.total_cmp(&a.1));
        let shown: Vec<String> =
            calls.iter().map(|(name, count)| format!("{name} {}", number(*count))).collect();
        let _ = writeln!(text, "\n{}: {}.", record.target, shown.join(", "));
    }
}

fn call<'a>((name, count): (&'a String, &f64)) -> Option<(&'a str, f64)> {
    Some((name.strip_prefix("call ")?, *count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Figures;

    #[test]
    fn a_section_shows_every_round_of_every_target_with_its_errors() {
        let record = |target: &str, round, cpu, errors: u64| {
            let mut figures = Figures::default();
            figures.set("cpu_us", cpu);
            if errors > 0 {
                figures.errors.insert("refused".to_owned(), errors);
            }
            let (section, target) = ("connect".to_owned(), target.to_owned());
            let (commit, time) = ("abc".to_owned(), "2026-01-01 00:00:00".to_owned());
            Record { section, target, round, commit, time, figures }
        };
        let records = [
            record("floor", 1, 100.0, 0),
            record("exeat", 1, 120.0, 0),
            record("exeat", 2, 150.0, 7),
            record("floor", 2, 100.0, 0),
        ];
        let text = all(&records);
        for line in [
            "| floor | 1.00 (1.00–1.00) | 100 (100–100) |  |  |  |  | 0 |",
            "| exeat | 1.35 (1.20–1.50) | 135 (120–150) |  |  |  |  | 7 |",
            "| round, CPU µs | floor | exeat | commit | UTC |",
            "| 1 | 100 | 120 | abc | 2026-01-01 00:00:00 |",
            "| 2 | 100 | 150, 7 errors | abc | 2026-01-01 00:00:00 |",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
