//! What holds for the reader of configuration files, whatever the text is.

use std::path::Path;

use exeat_policy::Revision;
use exeat_store::{Colour, Options, load_text};

/// Reads `bytes` as a configuration, and checks that what comes of it holds together.
pub(crate) fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // Group files would depend on the machine: this folder has none.
    let report = match load_text("t.toml", text, Path::new("/nonexistent"), &Options::new(Revision(1))) {
        Ok(loaded) => {
            assert!(!loaded.warnings.has_errors(), "{}", loaded.warnings);
            loaded.warnings
        }
        Err(report) => {
            assert!(report.has_errors(), "refused without an error");
            report
        }
    };
    let lines: Vec<&str> = text.split('\n').collect();
    for problem in report.problems() {
        let Some(place) = problem.location() else { continue };
        let line = lines.get(place.line as usize - 1).copied().unwrap_or_default();
        assert!((1..=lines.len()).contains(&(place.line as usize)), "{problem:?}");
        assert!((1..=line.chars().count() + 1).contains(&(place.column as usize)), "{problem:?}");
        assert!(place.column < place.end_column, "{problem:?}");
    }
    let shown = report.render(Colour::Plain) + &report.to_json_lines();
    let unprintable = |c: char| c.is_control() && c != '\n';
    assert!(!shown.contains(unprintable), "{shown:?}");
}
