//! Whatever the text, a report or a configuration comes of it, and both hold together.

use std::path::Path;

use exeat_policy::{Labels, Revision};
use exeat_store::{Colour, Existing, NewClient, Options, add_client, load_text};
use proptest::prelude::*;

/// Pieces of configurations, to be put together at random.
const PIECES: [&str; 44] = [
    "[proxy]\n",
    "[groups.g]\n",
    "[groups.h]\n",
    "[policy.p]\n",
    "[policy.\"a b\"]\n",
    "[ceiling.c]\n",
    "[client.c]\n",
    "[[client]]\n",
    "listen = ",
    "anonymous = ",
    "entries = ",
    "file = ",
    "allow = ",
    "deny = ",
    "bind = ",
    "labels = ",
    "passwords = ",
    "policies = ",
    "ports = ",
    "mode = ",
    "metadata = ",
    "timeout = ",
    "[",
    "]",
    "{ ",
    " }",
    ", ",
    "host = ",
    "= ",
    "\n",
    "\"",
    "'''",
    "#",
    "\\",
    "\"@g\"",
    "\"@h\"",
    "\"p\"",
    "\"*.com\"",
    "\"a.example.com:80\"",
    "\"é.example\"",
    "443",
    "true",
    "\u{feff}",
    "\u{202e}",
];

fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => proptest::sample::select(PIECES.to_vec()).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    prop_oneof![any::<String>(), proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())]
}

#[test]
fn one_byte_order_mark_is_taken_and_a_second_is_an_error() {
    for (marks, want) in [(0, true), (1, true), (2, false), (3, false)] {
        let text = format!("{}[proxy]\n", "\u{feff}".repeat(marks));
        let loaded = load_text("t.toml", &text, Path::new("/nonexistent"), &Options::new(Revision(1)));
        assert_eq!(loaded.is_ok(), want, "{marks}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_gives_a_report_whose_places_lie_in_it(text in text()) {
        let options = Options::new(Revision(1));
        let (report, loaded) = match load_text("t.toml", &text, Path::new("/nonexistent"), &options) {
            Ok(loaded) => (loaded.warnings, true),
            Err(report) => (report, false),
        };
        prop_assert_eq!(report.has_errors(), !loaded);
        let lines: Vec<&str> = text.split('\n').collect();
        for problem in report.problems() {
            if let Some(place) = problem.location() {
                let line = lines.get(place.line as usize - 1).copied();
                prop_assert!(line.is_some(), "line {} of {}", place.line, lines.len());
                prop_assert!(place.column as usize <= line.unwrap_or_default().chars().count() + 1);
                prop_assert!(place.column < place.end_column);
            }
            prop_assert!(!problem.message().contains('\n'));
        }
        for shown in [report.render(Colour::Plain), report.to_json_lines()] {
            let unprintable = shown.contains(['\u{202e}', '\u{1b}']);
            prop_assert!(!unprintable);
        }
    }

    #[test]
    fn adding_a_client_to_what_loads_gives_what_loads(text in text()) {
        let options = Options::new(Revision(1));
        let load = |text: &str| load_text("t.toml", text, Path::new("/nonexistent"), &options);
        if let Ok(before) = load(&text) {
            let hash = exeat_identity::hash_generated(b"password");
            let client = NewClient { name: "new", password_hash: &hash, policies: &[], labels: &Labels::default() };
            let added = add_client(&text, &client, Existing::Refuse).unwrap();
            let after = load(&added).unwrap();
            prop_assert_eq!(after.clients.len(), before.clients.len() + 1);
        }
    }
}
