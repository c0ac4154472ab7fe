//! A file with every kind of mistake, as a terminal and an editor see it.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;

use exeat_policy::Revision;
use exeat_store::{Colour, Options, Report, Severity, load_text};

const BAD: &str = include_str!("data/bad.toml");

fn bad() -> Report {
    load_text("bad.toml", BAD, Path::new(""), &Options::new(Revision(1))).unwrap_err()
}

/// Compares with a file of `tests/data`, which `UPDATE_SNAPSHOTS=1` writes.
fn compare(got: &str, name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(&path, got).unwrap();
    }
    let want = fs::read_to_string(&path).unwrap_or_default();
    assert!(got == want, "not as in {name}; run with UPDATE_SNAPSHOTS=1 and look at the difference\n{got}");
}

#[test]
fn the_report_for_a_terminal() {
    compare(&bad().render(Colour::Plain), "bad.txt");
    assert_eq!(bad().to_string(), bad().render(Colour::Plain));
}

#[test]
fn the_report_for_editors() {
    let lines = bad().to_json_lines();
    for line in lines.lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(
            object["line"].as_u64() > Some(0) && object["column"].as_u64() < object["end_column"].as_u64(),
            "{line}"
        );
    }
    compare(&lines, "bad.jsonl");
}

#[test]
fn colour_is_there_when_asked_for_and_changes_nothing_else() {
    let coloured = bad().render(Colour::Ansi);
    let mut plain = String::new();
    for part in coloured.split("\u{1b}[") {
        let text = if plain.is_empty() { part } else { part.split_once('m').map_or(part, |(_, text)| text) };
        plain.push_str(text);
    }
    assert!(coloured.contains('\u{1b}'));
    assert_eq!(plain, bad().render(Colour::Plain));
}

#[test]
fn the_summary_counts() {
    let report = bad();
    assert!(report.has_errors() && !report.is_empty());
    let (errors, warnings) = (report.count(Severity::Error), report.count(Severity::Warning));
    assert_eq!(errors + warnings, report.problems().len());
    assert!(report.to_string().ends_with(&format!("\n{errors} errors, {warnings} warning\n")));
    assert_eq!(Report::default().to_string(), "");
    assert_eq!(Report::default().to_json_lines(), "");
}
