use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use super::*;

fn docs(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name)).unwrap()
}

#[test]
fn the_page_shows_the_table() {
    let page = docs("metrics.md");
    let got: String =
        page.lines().filter(|line| line.starts_with("| `exeat_")).map(|line| format!("{line}\n")).collect();
    let mut want = String::new();
    for family in families() {
        let _ = writeln!(
            want,
            "| `{}` | {} | {} | {} |",
            family.name(),
            family.kind(),
            family.labels,
            family.help
        );
    }
    assert!(got == want, "docs/metrics.md should have these rows:\n{want}");
}

/// A panel or an alert over a metric that does not exist would be silent for ever.
#[test]
fn the_dashboard_and_the_alerts_name_what_there_is() {
    let names: BTreeSet<String> = families()
        .iter()
        .flat_map(|family| match family.kind {
            Kind::Histogram => ["_bucket", "_sum", "_count"].map(|s| family.name() + s).to_vec(),
            Kind::Counter | Kind::Gauge | Kind::Info => vec![family.name()],
        })
        .collect();
    let mut shown = BTreeSet::new();
    for file in ["../deploy/grafana/exeat.json", "../deploy/prometheus/exeat.rules.yml"] {
        let text = docs(file);
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named: BTreeSet<String> =
            words.filter(|word| word.starts_with("exeat_")).map(str::to_owned).collect();
        assert!(!named.is_empty(), "{file}");
        for name in &named {
            assert!(names.contains(name), "{file} names {name}");
        }
        shown.extend(named);
    }
    let dashboard: serde_json::Value = serde_json::from_str(&docs("../deploy/grafana/exeat.json")).unwrap();
    assert_eq!(dashboard["title"], "Exeat");
    for family in families().iter().filter(|family| !family.name.ends_with("_timestamp_seconds")) {
        let name = family.name();
        assert!(shown.iter().any(|shown| shown.starts_with(&name)), "{name} is shown nowhere");
    }
}

#[test]
fn names_are_unique_and_in_base_units() {
    let names: BTreeSet<String> = families().iter().map(Family::name).collect();
    assert_eq!(names.len(), families().len());
    for name in names {
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        assert!(!["_ms", "_millis", "_kb", "_percent"].iter().any(|unit| name.contains(unit)), "{name}");
    }
}

#[test]
fn limits_are_keys_of_the_configuration() {
    let schema = docs("exeat.schema.json");
    for limit in exeat_proxy::metrics::LimitHit::ALL {
        assert!(schema.contains(&format!("\"{}", limit.label())), "{}", limit.label());
    }
}
