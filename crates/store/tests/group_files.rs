//! Groups in files of their own.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use exeat_model::{Authority, Transport};
use exeat_policy::{EgressRequest, Labels, Revision, Verdict, decide};
use exeat_store::{GROUP_FILE_BYTES_MAX, Loaded, Options, Report, load};

/// Loads a configuration whose policy allows everything but the group in `hosts.txt`.
fn load_with(folder: &Path, side: &str) -> Result<Loaded, Report> {
    let rest = if side == "deny" { "allow = [\"@any-public\"]\n" } else { "" };
    let toml = format!(
        "[proxy]\nanonymous = \"p\"\n[groups.hosts]\nfile = \"hosts.txt\"\n[policy.p]\n{side} = [\"@hosts\"]\n{rest}"
    );
    let path = folder.join("exeat.toml");
    fs::write(&path, toml).unwrap();
    load(&path, &Options::new(Revision(1)))
}

/// `file:line:column message | help`, with the folder's path left out.
fn problems(report: &Report, folder: &Path) -> Vec<String> {
    let folder = format!("{}/", folder.display());
    let one = |problem: &exeat_store::Problem| {
        let place =
            problem.location().map_or(String::new(), |place| format!(":{}:{}", place.line, place.column));
        let help = problem.help().map(|help| format!(" | {help}")).unwrap_or_default();
        format!("{}{place} {}{help}", problem.file(), problem.message()).replace(&folder, "")
    };
    report.problems().iter().map(one).collect()
}

fn check(name: &str, side: &str, content: &[u8], want: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("hosts.txt"), content).unwrap();
    let report = load_with(folder.path(), side).map_or_else(|report| report, |loaded| loaded.warnings);
    assert_eq!(problems(&report, folder.path()), want, "{name}");
}

#[test]
fn problems_have_the_line_of_the_file() {
    let long = format!("a.example.com\n{}\nb.example.com\n# {}\n", "x".repeat(5000), "y".repeat(5000));
    let cases: [(&str, &str, &[u8], &[&str]); 15] = [
        ("clean", "deny", b"a.example.com\n*.b.example.com:8443\n10.0.0.0/8\n@any-public:8443\n", &[]),
        (
            "nothing left",
            "deny",
            b"a.example.com\n@any-public\n",
            &[
                "exeat.toml:7:10 `@any-public` opens nothing: `@any-public` at hosts.txt:2 denies it | remove one of the two",
            ],
        ),
        (
            "never reachable",
            "allow",
            b"a.example.com\n224.0.0.1\n",
            &[
                "hosts.txt:2:1 `224.0.0.1` opens nothing: addresses that are multicast are never reachable | remove the entry",
            ],
        ),
        ("empty", "deny", b"", &[]),
        (
            "comments, blank lines, CRLF, byte order mark",
            "deny",
            b"\xef\xbb\xbf# x\r\n\r\n a.example.com\t# why\r\n",
            &[],
        ),
        ("no line end", "deny", b"a.example.com", &[]),
        (
            "the third line",
            "deny",
            b"a.example.com\n# fine\n  foo*.com # bad\nb.example.com\n",
            &[
                "hosts.txt:3:3 `foo*.com` is not a host pattern | write \"*.\" before a whole name, such as \"*.example.com\"; it covers every name below it",
            ],
        ),
        (
            "a hosts file",
            "deny",
            b"0.0.0.0 ads.example.com\n",
            &[
                "hosts.txt:1:1 `0.0.0.0 ads.example.com` is not a host pattern | write the name alone: \"ads.example.com\"",
            ],
        ),
        ("wide to deny", "deny", b"*.com\n", &[]),
        (
            "wide to allow",
            "allow",
            b"a.example.com\n*.com\n*.github.io\n",
            &[
                "hosts.txt:2:1 `*.com` covers a whole public suffix | name a registered domain, or write { suffix = \"com\" } if you mean all of it",
                "hosts.txt:3:1 anyone can register a name below `github.io` | name the hosts you need",
            ],
        ),
        (
            "unknown group",
            "deny",
            b"@other\n",
            &["hosts.txt:1:1 there is no group `other` | define [groups.other]"],
        ),
        (
            "itself",
            "deny",
            b"a.example.com\n@hosts\n",
            &["hosts.txt:2:1 group `hosts` contains itself | remove this entry"],
        ),
        (
            "not UTF-8",
            "deny",
            b"a.example.com\nb\xff.example.com\n",
            &[
                "hosts.txt:2:1 the line is not UTF-8 text | save the file as UTF-8; names outside ASCII are written as \"xn--\u{2026}\"",
            ],
        ),
        (
            "long lines",
            "deny",
            long.as_bytes(),
            &[
                "hosts.txt:2:1 the line is longer than 1024 bytes | write one entry a line",
                "hosts.txt:4:1 the line is longer than 1024 bytes | write one entry a line",
            ],
        ),
        (
            "a colour code",
            "deny",
            b"\x1b[31m\n",
            &[
                "hosts.txt:1:1 `\\u{1b}[31m` is not a host pattern | the character '\\u{1b}' cannot be part of a name in `[31m`",
            ],
        ),
    ];
    for (name, side, content, want) in cases {
        check(name, side, content, want);
    }
}

#[test]
fn the_line_is_shown_with_the_problem() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("hosts.txt"), "a.example.com\n\nfoo*.com # bad\n").unwrap();
    let report = load_with(folder.path(), "deny").unwrap_err().to_string();
    let report = report.replace(&format!("{}/", folder.path().display()), "");
    let want = "  × `foo*.com` is not a host pattern\n   ╭─[hosts.txt:3:1]\n 3 │ foo*.com # bad\n   · ────────\n   ╰────\n  \
                help: write \"*.\" before a whole name, such as \"*.example.com\"; it covers every name below it\n\n1 error\n";
    assert_eq!(report, want);
}

#[test]
fn a_file_in_another_format_is_told_of_twenty_times() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("hosts.txt"), "not a host\n".repeat(1000)).unwrap();
    let report = load_with(folder.path(), "deny").unwrap_err();
    let got = problems(&report, folder.path());
    assert_eq!(got.len(), 21);
    assert_eq!(got.last().unwrap(), "hosts.txt and 980 more");
}

#[test]
fn a_file_that_is_too_large_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = fs::File::create(folder.path().join("hosts.txt")).unwrap();
    file.set_len(GROUP_FILE_BYTES_MAX + 1).unwrap();
    let report = load_with(folder.path(), "deny").unwrap_err();
    let got = problems(&report, folder.path());
    assert_eq!(got, ["exeat.toml:4:8 `hosts.txt` is larger than 256 MiB | split it into several groups"]);
}

#[test]
fn a_million_lines_load_and_each_is_found_by_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = BufWriter::new(fs::File::create(folder.path().join("hosts.txt")).unwrap());
    for line in 1..=1_000_000 {
        writeln!(file, "host-{line}.ads.example").unwrap();
    }
    file.flush().unwrap();
    let loaded = load_with(folder.path(), "deny").unwrap();
    let bound = loaded.policy.bind(&["p"], &Labels::default());
    for line in [1, 499_999, 1_000_000] {
        let target = Authority::parse(&format!("host-{line}.ads.example:443"), None).unwrap();
        let Verdict::Deny(denial) = decide(
            &loaded.policy,
            &EgressRequest { bound: &bound, target: &target, transport: Transport::Tcp },
        ) else {
            panic!("line {line} does not deny")
        };
        let rule = loaded.policy.rule(denial.rule.unwrap()).unwrap();
        assert_eq!((rule.place.line, rule.text), (line, format!("host-{line}.ads.example")));
    }
    let other = Authority::parse("host-0.ads.example:443", None).unwrap();
    assert!(matches!(
        decide(&loaded.policy, &EgressRequest { bound: &bound, target: &other, transport: Transport::Tcp }),
        Verdict::Allow(_)
    ));
}
