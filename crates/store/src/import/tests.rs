use std::path::Path;

use super::*;

/// The configuration, and each finding as `line:column severity message | help`.
fn imported(text: &str) -> (Option<String>, Vec<String>) {
    let got = import("hosts.yaml".into(), text);
    if let Some(text) = &got.text {
        assert!(load_text("", text, Path::new(""), &Options::new(Revision(1))).is_ok(), "{text}");
    }
    let told = got.report.problems().iter().map(|problem| {
        let place = problem.location().map(|place| format!("{}:{} ", place.line, place.column));
        let help = problem.help().unwrap_or_default();
        let severity = problem.severity().name();
        format!("{}{severity} {} | {help}", place.unwrap_or_default(), problem.message())
    });
    let told = told.collect();
    (got.text, told)
}

const FILE: &str = r#"# Who may be reached
package_managers:
  - pypi.example.org
  - "*.files.example.org"   # quoted
  - 'registry.example.com:8443'
api_access: [api.example.com, 192.0.2.0/24]
blocked: ['*', uploads.files.example.org]
"#;

const CONFIGURATION: &str = r#"# Made by `exeat import hosts-yaml`. It holds for nobody yet: `exeat client add NAME --policy imported`.
[groups.package_managers]
entries = [
  "pypi.example.org",
  "*.files.example.org",
  "registry.example.com:8443",
]

[groups.api_access]
entries = [
  "api.example.com",
  "192.0.2.0/24",
]

[policy.imported]
allow = [
  "@package_managers",
  "@api_access",
]
deny = [
  "uploads.files.example.org",
]
"#;

#[test]
fn groups_become_groups_of_a_policy() {
    assert_eq!(imported(FILE), (Some(CONFIGURATION.to_owned()), Vec::new()));
    let marked = format!("\u{feff}---\n{}", FILE.replace('\n', "\r\n"));
    assert_eq!(imported(&marked).0.as_deref(), Some(CONFIGURATION));
}

#[test]
fn what_is_not_carried_over_is_told_with_its_place_and_the_correction() {
    let list = "write a list of hosts:\n  name:\n    - \"api.example.com\"";
    let cases: [(&str, &str, &[&str]); 12] = [
        ("a URL", "a: [example.com, 'https://example.org/x']", &["1:18 error"]),
        ("everything", "a: [example.com, '*']", &["1:18 error"]),
        (
            "a public suffix",
            "a:\n- '*.com'\n- example.com",
            &["2:3 error `*.com` covers a whole public suffix"],
        ),
        ("a suffix where others register", "a: [example.com, '*.github.io']", &["1:18 warning"]),
        ("a group", "a: [example.com, '@any-public']", &["1:18 error a list of hosts refers to no groups"]),
        ("a number", "a: [example.com, 443]", &["1:18 error"]),
        ("nothing", "a: [example.com, ~]", &["1:18 error"]),
        (
            "a list in a list",
            "a: [example.com, [b.example.com, [c]]]",
            &[&format!("1:18 error a list of hosts holds no other list | {list}")],
        ),
        (
            "a mapping in a list",
            "a: [example.com, {b: [c]}]",
            &[&format!("1:18 error a mapping is no list of hosts | {list}")],
        ),
        (
            "a tag",
            "a: [example.com, !!binary Zm9v]",
            &["1:27 error a tag says that this is no plain text | write the host without a tag"],
        ),
        (
            "an alias",
            "a: [&x example.com, *x]",
            &[
                "1:21 error this refers to another part of the file | write the hosts out: references are not followed",
            ],
        ),
        (
            "an asterisk without quotes",
            "a:\n  - example.com\n  - *.example.org",
            &[
                "3:5 error this refers to a part of the file that is not there | `*` at the beginning means something else in YAML: write \"*.example.org\"",
            ],
        ),
    ];
    for (name, text, want) in cases {
        let (text, told) = imported(text);
        assert!(
            text.as_deref().is_some_and(|text| text.contains("\n  \"example.com\",\n")),
            "{name}: {text:?}"
        );
        assert_eq!(told.len(), want.len(), "{name}: {told:?}");
        for (told, want) in told.iter().zip(want) {
            assert!(told.starts_with(want), "{name}: {told}");
        }
        let left_out = ["org", "any-public", "443", "b.example", "c]", "*.com", "Zm9v"];
        assert!(left_out.iter().all(|part| !text.as_deref().unwrap().contains(part)), "{name}: {text:?}");
    }
}

#[test]
fn groups_that_cannot_be_carried_over_are_told() {
    let cases = [
        ("a name", "'a b': [example.org]\nb: [example.com]", "1:1 error `a b` is not a usable name"),
        (
            "the name of another",
            "any-public: [example.org]\nb: [example.com]",
            "1:1 error a group cannot be named `any-public`",
        ),
        (
            "twice",
            "b: [example.com]\nb: [example.org]",
            "2:1 error `b` is there twice | put both lists together",
        ),
        ("one host", "a: example.org\nb: [example.com]", "1:4 error a group is a list of hosts"),
        ("nested", "a: {c: [example.org]}\nb: [example.com]", "1:4 error a mapping is no list of hosts"),
        ("not all blocked", "blocked: [x.example.com]\nb: [example.com]", "1:1 warning without `*`"),
    ];
    for (name, text, want) in cases {
        let (text, told) = imported(text);
        let text = text.unwrap();
        assert!(text.contains("[groups.b]") && !text.contains("example.org"), "{name}: {text}");
        assert!(told.len() == 1 && told[0].starts_with(want), "{name}: {told:?}");
    }
}

#[test]
fn what_refuses_is_carried_over_whole_or_nothing_is() {
    for blocked in [
        "['*', 'https://example.org']",
        "['*', *x]",
        "['*', [x.example.org]]",
        "'*'",
        "{a: b}",
        "['*', '@any-public']",
        "['*']\nblocked: ['*']",
    ] {
        let (text, told) = imported(&format!("a: [example.com]\nblocked: {blocked}\n"));
        assert!(text.is_none() && told.len() == 1, "{blocked}: {text:?} {told:?}");
    }
    let wide = imported("a: [example.com]\nblocked: ['*', '*.com']\n");
    assert!(wide.0.unwrap().contains("deny = [\n  \"*.com\",\n]"), "{:?}", wide.1);
}

/// In other formats these lists are what is refused: as groups here, they would be allowed.
#[test]
fn lists_whose_names_refuse_are_no_groups() {
    for name in [
        "deny",
        "denied-hosts",
        "blocklist",
        "Blocked",
        "blockedHosts",
        "global_deny_list",
        "FORBIDDEN",
        "blacklist",
        "disallowed",
    ] {
        let (text, told) = imported(&format!("a: [example.com]\n{name}: [evil.example.com]\n"));
        assert!(text.is_none() && told.len() == 1, "{name}: {text:?} {told:?}");
        let want = format!("2:1 error `{name}` says that its hosts are refused");
        assert!(told[0].starts_with(&want), "{told:?}");
    }
    let (text, told) = imported("a: [example.com]\ndeniz: [x.example.com]\nservices: [y.example.com]\n");
    assert!(text.is_some_and(|text| text.contains("@deniz") && text.contains("@services")), "{told:?}");
}

#[test]
fn access_lists_of_smokescreen_give_nothing() {
    let services =
        "services:\n- name: app\n  project: x\n  action: enforce\n  allowed_domains: [example.com]\n";
    for (text, place) in [
        (format!("version: v1\n{services}global_deny_list: [evil.example.com]\n"), "1:1"),
        (format!("{services}global_allow_list: [example.com]\n"), "1:1"),
        (format!("global_allow_list: [example.com]\n{services}"), "2:1"),
        ("a: [example.com]\napiVersion: v1\n".to_owned(), "2:1"),
    ] {
        let (written, told) = imported(&text);
        assert!(written.is_none() && told.len() == 1, "{text}: {written:?} {told:?}");
        assert!(told[0].starts_with(&format!("{place} error ")), "{told:?}");
        assert!(told[0].contains("is no list of hosts: this file is of another format"), "{told:?}");
    }
}

#[test]
fn files_that_are_something_else_give_nothing() {
    let deep = format!("a: {}{}", "[".repeat(100), "]".repeat(100));
    let cases = [
        ("empty", "", "error there is no list"),
        ("a list", "- example.com\n", "1:1 error the file is no mapping of names to lists"),
        ("a word", "example.com\n", "1:1 error the file is no mapping"),
        (
            "two documents",
            "a: [example.com]\n---\nb: [example.com]\n",
            "2:1 error the file has more than one document",
        ),
        ("no YAML", "a: [example.com\nb: x\n", "2:"),
        ("a lone asterisk", "a:\n- *\n", "2:3 error "),
        ("deep", &deep, "1:"),
        ("names that are lists", "[a]: [example.com]\n", "1:"),
    ];
    for (name, text, want) in cases {
        let (text, told) = imported(text);
        assert!(text.is_none(), "{name}: {text:?}");
        assert!(told.len() == 1 && told[0].starts_with(want), "{name}: {told:?}");
    }
}

/// References that would multiply to 10⁹ hosts are not followed, so there is nothing to multiply.
#[test]
fn references_do_not_multiply() {
    let mut bomb = "a0: &a0 [example.com]\n".to_owned();
    for level in 1..=9 {
        let items = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{items}]\n"));
    }
    let (text, told) = imported(&bomb);
    assert_eq!(told.len(), 90);
    assert_eq!(text.unwrap().matches("example.com").count(), 1);
}

/// Each name is looked for among the others: this takes minutes if they are gone through.
#[test]
fn a_file_with_many_names_is_read() {
    let names: String = (0..100_000).map(|number| format!("n{number}: []\n")).collect();
    let mut notes = Notes::default();
    let lists = yaml::read(&format!("{names}n7: []\n"), &mut notes).unwrap();
    assert_eq!(lists.len(), 100_000);
    let twice: Vec<&str> = lists.iter().filter(|list| !list.is_whole).map(|list| &*list.name.text).collect();
    assert_eq!(twice, ["n7"]);
}

#[test]
fn thousands_of_slips_come_to_an_end() {
    let slips: String = (0..5000).map(|_| "- '*.com'\n").collect();
    let (text, told) = imported(&format!("a:\n{slips}"));
    assert!(text.is_none());
    assert!(told.last().unwrap().contains("more"), "{:?}", told.last());
}

#[test]
fn a_file_is_read_and_a_missing_one_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hosts.yaml");
    let missing = import_hosts_yaml(&path);
    assert!(missing.text.is_none() && missing.report.has_errors());
    std::fs::write(&path, FILE).unwrap();
    assert_eq!(import_hosts_yaml(&path).text.as_deref(), Some(CONFIGURATION));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn whatever_the_text_what_comes_of_it_loads(pieces in proptest::collection::vec(proptest::sample::select(PIECES.to_vec()), 0..40)) {
        // `imported` loads it.
        imported(&pieces.concat());
    }
}

const PIECES: [&str; 26] = [
    "a",
    "b",
    "blocked",
    ": ",
    ":\n",
    "\n",
    "\n- ",
    "  - ",
    "[",
    "]",
    ", ",
    "{",
    "}",
    "'",
    "\"",
    "*",
    "&x ",
    "*x",
    "!!str ",
    "---\n",
    "# ",
    "é",
    "example.com",
    "*.com",
    "\t",
    "\u{feff}",
];
