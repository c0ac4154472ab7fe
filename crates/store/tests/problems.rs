//! What is said of each mistake, and where.

#[path = "problems/certificates.rs"]
mod certificates;
#[path = "problems/entries.rs"]
mod entries;
#[path = "problems/lint.rs"]
mod lint;
#[path = "problems/policies.rs"]
mod policies;
#[path = "problems/workloads.rs"]
mod workloads;

use std::path::Path;

use exeat_policy::Revision;
use exeat_store::{Options, Problem, load_text};

/// A client that makes the policy `p` used, so that a case says only what it is about.
const REST: &str = "\n[client.c]\npasswords = [\"sha256:0000000000000000000000000000000000000000000000000000000000000000\"]\npolicies = [\"p\"]\n";

/// `line:column message | help` of every problem.
fn problems(text: &str) -> Vec<String> {
    let report = match load_text("t.toml", text, Path::new("/nonexistent"), &Options::new(Revision(1))) {
        Ok(loaded) => {
            assert!(!loaded.warnings.has_errors());
            loaded.warnings
        }
        Err(report) => {
            assert!(report.has_errors());
            report
        }
    };
    report.problems().iter().map(line).collect()
}

fn line(problem: &Problem) -> String {
    let place = problem.location().map_or("-".to_owned(), |place| format!("{}:{}", place.line, place.column));
    let help = problem.help().map(|help| format!(" | {help}")).unwrap_or_default();
    format!("{} {place} {}{help}", &problem.severity().name()[..1], problem.message())
}

/// Checks cases whose text lacks a client.
fn check(cases: &[(&str, &str, &[&str])]) {
    for (name, text, want) in cases {
        let text = format!("{text}{REST}");
        assert_eq!(problems(&text), *want, "{name}:\n{text}");
    }
}

#[test]
fn sections_and_keys() {
    check(&[
        ("clean", "[policy.p]\nallow = [\"a.example.com\"]", &[]),
        (
            "section misspelled",
            "[prxoy]\n[policy.p]\nallow = [\"a.example.com\"]",
            &[
                "e 1:2 unknown section `prxoy` | did you mean `proxy`? the sections are `proxy`, `resolver`, `dns`, `firewall`, `limits`, `audit`, `state`, `api`, `groups`, `policy`, `ceiling`, `next_hop`, `client`, `workload`, `certificate` and `issuer`",
            ],
        ),
        (
            "section of another version",
            "[tenant.x]\n[policy.p]\nallow = [\"a.example.com\"]",
            &[
                "e 1:2 unknown section `tenant` | the sections are `proxy`, `resolver`, `dns`, `firewall`, `limits`, `audit`, `state`, `api`, `groups`, `policy`, `ceiling`, `next_hop`, `client`, `workload`, `certificate` and `issuer`",
            ],
        ),
        (
            "key outside its section",
            "listen = [\"127.0.0.1:1\"]\n[policy.p]\nallow = [\"a.example.com\"]",
            &["e 1:1 unknown section `listen` | `listen` belongs in [proxy] or [dns] or [api]"],
        ),
        (
            "key in another section",
            "[audit]\ndisclose = true\n[policy.p]\nallow = [\"a.example.com\"]",
            &[
                "e 2:1 unknown key `disclose` in [audit] | `disclose` belongs in [proxy]; [audit] takes `file`, `stdout` and `required`",
            ],
        ),
        (
            "key of a policy misspelled",
            "[policy.p]\nalow = [\"a.example.com\"]\nallow = [\"b.example.com\"]",
            &[
                "e 2:1 unknown key `alow` in [policy.p] | did you mean `allow`? [policy.p] takes `allow`, `deny`, `mode`, `bind`, `ports`, `transport`, `addresses`, `expect`, `answers`, `proxy_protocol`, `verify`, `class`, `idle_timeout`, `max_age`, `max_bytes_up`, `max_bytes_down`, `metadata`, `next_hop` and `resolve`",
            ],
        ),
        (
            "key of an entry misspelled",
            "[policy.p]\nallow = [{ host = \"a.example.com\", port = [1] }]",
            &[
                "e 2:36 unknown key `port` in an entry | did you mean `ports`? an entry takes `host`, `suffix`, `network`, `ports`, `transport`, `addresses`, `expect`, `sni`, `answers`, `proxy_protocol`, `verify`, `class`, `idle_timeout`, `max_age`, `max_bytes_up` and `max_bytes_down`",
            ],
        ),
        (
            "section that is not a table",
            "proxy = 1\n[policy.p]\nallow = [\"a.example.com\"]",
            &["e 1:9 `proxy` must be a table, not an integer | write [proxy] on a line of its own"],
        ),
        (
            "policy that is not a table",
            "[policy]\np = [\"a.example.com\"]",
            &[
                "e 2:5 `policy.p` must be a table, not a list | write [policy.NAME] on a line of its own",
                "e 5:13 there is no policy `p` | define [policy.p]",
            ],
        ),
        (
            "list of tables",
            "[[policy.p]]\nallow = [\"a.example.com\"]",
            &[
                "e 1:1 `policy.p` must be a table, not a list | write [policy.NAME] on a line of its own",
                "e 5:13 there is no policy `p` | define [policy.p]",
            ],
        ),
        (
            "key and table set twice",
            "[policy.p]\nallow = [\"a.example.com\"]\nallow = []\n[policy.p]\ndeny = [\"b.example.com\"]",
            &[
                "e 3:1 this key is set twice | keep one of the two",
                "e 4:9 this key is set twice | keep one of the two",
            ],
        ),
        (
            "names",
            "[policy.\"a b\"]\nallow = [\"a.example.com\"]\n[policy.none]\nallow = [\"a.example.com\"]\n[groups.any-public]\nentries = []\n[policy.p]\nallow = [\"a.example.com\"]\n[client.\"a:b\"]\npasswords = []\n[client.anonymous]\npasswords = []",
            &[
                "e 1:9 `a b` is not a usable name | a name has letters, digits, `-`, `_` and `.` only",
                "e 3:9 a policy cannot be named `none` | `anonymous = \"none\"` means that there is no such policy",
                "e 5:9 a group cannot be named `any-public` | `@any-public` is everything that is globally reachable",
                "e 9:9 `a:b` is not a usable name | the user name of Basic credentials has no colon and no control character",
                "w 10:1 a client without passwords cannot authenticate | run `exeat client hash` and paste what it prints",
                "e 11:9 a client cannot be named `anonymous` | that is the name of clients without credentials in records: choose another",
                "w 12:1 a client without passwords cannot authenticate | run `exeat client hash` and paste what it prints",
            ],
        ),
    ]);
}

#[test]
fn syntax_errors_are_told_with_everything_else() {
    check(&[
        (
            "several",
            "[proxy]\nlisten = [\"127.0.0.1:1\"\ndisclose = yes\nanonymus = \"none\"\n[policy.p]\nallow = [a.example.com]",
            &[
                "e 2:24 unclosed array | expected `]`",
                "e 3:12 string values must be quoted | put the text in double quotes",
                "e 4:1 unknown key `anonymus` in [proxy] | did you mean `anonymous`? [proxy] takes `listen`, `http2`, `anonymous`, `disclose`, `pac`, `proxy_protocol_from` and `central`",
                "e 6:10 string values must be quoted | put the text in double quotes",
            ],
        ),
        ("a key without a value", "[policy.p]\nallow\n", &["e 2:6 key with no value | expected `=`"]),
        (
            "what depends on a broken line is not told",
            "[policy.p\nallow = [\"@nowhere\"]\n[groups.g]\nentries = [\n",
            &["e 1:10 unclosed table | expected `]`", "e 4:12 unclosed array | expected `]`"],
        ),
    ]);
}

#[test]
fn the_proxy_section() {
    const P: &str = "\n[policy.p]\nallow = [\"a.example.com\"]";
    let cases: [(&str, &str, &[&str]); 14] = [
        (
            "everything",
            "[proxy]\nlisten = [\"127.0.0.1:3128\", \"[::1]:3128\"]\nanonymous = \"p\"\ndisclose = false",
            &[],
        ),
        ("none", "[proxy]\nanonymous = \"none\"", &[]),
        (
            "no port",
            "[proxy]\nlisten = [\"127.0.0.1\"]",
            &["e 2:11 `127.0.0.1` is not an address and a port | add the port: \"127.0.0.1:3128\""],
        ),
        (
            "a name",
            "[proxy]\nlisten = [\"localhost:80\"]",
            &["e 2:11 `localhost:80` is not an address and a port | write \"127.0.0.1:80\" or \"[::1]:80\""],
        ),
        (
            "every address",
            "[proxy]\nlisten = [\":80\"]",
            &[
                "e 2:11 `:80` is not an address and a port | write \"0.0.0.0:80\" or \"[::]:80\" to listen on every address",
            ],
        ),
        ("a table without TLS", "[proxy]\nlisten = [{ address = \"127.0.0.1:80\" }]", &[]),
        (
            "a table without an address",
            "[proxy]\nlisten = [{ adress = \"127.0.0.1:80\" }]",
            &[
                "e 2:11 a listener needs `address` | write { address = \"0.0.0.0:3129\", tls = { cert = \"proxy.pem\", key = \"proxy.key\" } }",
                "e 2:13 unknown key `adress` in a listener | did you mean `address`? a listener takes `address`, `tls`, `interface`, `demand`, `redirected`, `mode`, `owner` and `group`",
            ],
        ),
        (
            "the same address with and without TLS",
            "[proxy]\nlisten = [\"[::1]:1\", { address = \"[::1]:1\" }]",
            &["e 2:22 `[::1]:1` is listed twice | remove one"],
        ),
        (
            "a string",
            "[proxy]\nlisten = \"127.0.0.1:80\"",
            &[
                "e 2:10 `listen` must be a list of addresses, not a string | write listen = [\"127.0.0.1:80\"]",
            ],
        ),
        (
            "empty",
            "[proxy]\nlisten = []",
            &["e 2:10 `listen` is empty | write listen = [\"127.0.0.1:3128\"]"],
        ),
        (
            "twice",
            "[proxy]\nlisten = [\"[::1]:1\", \"[0::1]:1\"]",
            &["e 2:22 `[::1]:1` is listed twice | remove one"],
        ),
        (
            "a number",
            "[proxy]\nlisten = [3128]",
            &["e 2:11 an address of `listen` must be a string, not an integer | write \"3128\""],
        ),
        (
            "unknown policy",
            "[proxy]\nanonymous = \"q\"",
            &["e 2:13 there is no policy `q` | did you mean \"p\"?"],
        ),
        (
            "quoted boolean",
            "[proxy]\ndisclose = \"false\"",
            &["e 2:12 `disclose` must be `true` or `false`, not a string | write disclose = false"],
        ),
    ];
    for (name, text, want) in cases {
        check(&[(name, &format!("{text}{P}"), want)]);
    }
}

#[test]
fn the_resolver_the_limits_and_the_audit() {
    const P: &str = "\n[policy.p]\nallow = [\"a.example.com\"]";
    let cases: [(&str, &str, &[&str]); 20] = [
        (
            "servers",
            "[resolver]\nservers = [\"system\", \"192.0.2.1\", \"192.0.2.1:54\", \"2001:db8::1\", \"[2001:db8::1]:54\"]\ntimeout = \"500ms\"\nattempts = 3\nhosts_file = true\ncache_entries = 0",
            &[],
        ),
        (
            "no server",
            "[resolver]\nservers = []",
            &["e 2:11 `servers` is empty | write servers = [\"system\"]"],
        ),
        (
            "server by name",
            "[resolver]\nservers = [\"dns.example.com\"]",
            &[
                "e 2:12 `dns.example.com` is not a DNS server | write \"system\", an address such as \"192.0.2.53\", or \"192.0.2.53:5353\"",
            ],
        ),
        (
            "timeout without unit",
            "[resolver]\ntimeout = 5",
            &["e 2:11 `timeout` must be a duration such as \"10s\", not an integer | write timeout = \"5s\""],
        ),
        (
            "timeout in words",
            "[resolver]\ntimeout = \"soon\"",
            &[
                "e 2:11 `soon` is not a duration | write a whole number and a unit (ms, s, m, h or d), such as \"10s\" or \"5m\"",
            ],
        ),
        (
            "timeout too long",
            "[resolver]\ntimeout = \"2h\"",
            &["e 2:11 `timeout` is out of range | write a duration from \"10ms\" to \"1m\""],
        ),
        (
            "timeout of another type",
            "[resolver]\ntimeout = 1.5",
            &["e 2:11 `timeout` must be a duration such as \"10s\", not a decimal number"],
        ),
        ("limits", "[limits]\nconnections = 1_000\nhead_bytes = 0x4000\nidle_timeout = \"1h\"", &[]),
        (
            "limit of nothing",
            "[limits]\nconnections = 0",
            &["e 2:15 `connections` is out of range | write a number from 1 to 10000000"],
        ),
        (
            "negative limit",
            "[limits]\nconnections = -1",
            &["e 2:15 `connections` is out of range | write a number from 1 to 10000000"],
        ),
        (
            "huge limit",
            "[limits]\nconnections = 99999999999999999999999",
            &["e 2:15 `connections` is out of range | write a number from 1 to 10000000"],
        ),
        (
            "limits at odds",
            "[limits]\nhead_bytes = 1024\nuri_bytes = 2048",
            &[
                "e 3:13 `uri_bytes` (2048) is more than `head_bytes` (1024) | the request line is part of the head: lower `uri_bytes` or raise `head_bytes`",
            ],
        ),
        (
            "audit to two places",
            "[audit]\nfile = \"a\"\nstdout = true",
            &["e 2:8 records go to a file or to standard output, not both | remove `file` or `stdout`"],
        ),
        (
            "audit to no place",
            "[audit]\nstdout = false\nrequired = true",
            &["e 2:1 records must go somewhere | write file = \"audit.jsonl\", or stdout = true"],
        ),
        (
            "audit file empty",
            "[audit]\nfile = \"\"",
            &["e 2:8 `file` is empty | write file = \"audit.jsonl\""],
        ),
        (
            "audit file in no folder",
            "[audit]\nfile = \"logs/a\"",
            &[
                "w 2:8 the folder of the audit log, `/nonexistent/logs`, is not there | without it the proxy does not start: install -d -m 700 -o USER /nonexistent/logs, for the USER it runs as",
            ],
        ),
        ("audit file in a folder", "[audit]\nfile = \"/dev/null\"", &[]),
        (
            "no directory of the state",
            "[state]\ndirectory = \"state\"",
            &[
                "w 2:13 the directory of the state, `/nonexistent/state`, is not there | without it revisions, quarantines and revocations end with the process: install -d -m 700 -o USER /nonexistent/state, for the USER it runs as",
            ],
        ),
        ("a directory of the state", "[state]\ndirectory = \"/\"", &[]),
        (
            "a boolean for the policy of strangers",
            "[proxy]\nanonymous = true",
            &[
                "e 2:13 `anonymous` must be a string, not a boolean | write the name of the policy for clients without credentials, or \"none\"",
            ],
        ),
    ];
    for (name, text, want) in cases {
        check(&[(name, &format!("{text}{P}"), want)]);
    }
}

#[test]
fn clients() {
    const P: &str = "[policy.p]\nallow = [\"a.example.com\"]\n[client.c]\n";
    let hash = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    let help = "run `exeat client hash` and paste what it prints";
    let cases = [
        ("no password", "policies = [\"p\"]".to_owned(), vec![format!("e 3:9 [client.c] needs `passwords` | {help}")]),
        ("an empty list", "passwords = []\npolicies = [\"p\"]".to_owned(), vec![format!("w 4:1 a client without passwords cannot authenticate | {help}")]),
        ("two passwords", format!("passwords = [\"{hash}\", \"{hash}\"]\npolicies = [\"p\"]"), vec![]),
        ("three passwords", format!("passwords = [\"{hash}\", \"{hash}\", \"{hash}\"]\npolicies = [\"p\"]"), vec!["e 4:1 a client has at most 2 passwords | keep the current one and, while it is being replaced, the new one".to_owned()]),
        ("in clear", "passwords = [\"hunter2\"]\npolicies = [\"p\"]".to_owned(), vec![format!("e 4:14 this is not a password hash | {help}; if this is a password, replace it: it has been on disk")]),
        ("in clear, not in a list", "passwords = \"hunter2\"\npolicies = [\"p\"]".to_owned(), vec![
            "e 4:13 `passwords` must be a list of password hashes, not a string | put it in brackets: passwords = [\"…\"]".to_owned(),
            format!("e 4:13 this is not a password hash | {help}; if this is a password, replace it: it has been on disk"),
        ]),
        ("a number", "passwords = [1234]\npolicies = [\"p\"]".to_owned(), vec![format!("e 4:14 a password is written as the hash that `exeat client hash` prints | {help}")]),
        ("a short hash", "passwords = [\"sha256:00\"]\npolicies = [\"p\"]".to_owned(), vec![format!("e 4:14 `sha256:` must be followed by 64 hexadecimal digits | {help}")]),
        ("an unknown policy", format!("passwords = [\"{hash}\"]\npolicies = [\"p\", \"qq\"]"), vec!["e 5:18 there is no policy `qq` | define [policy.qq]".to_owned()]),
        ("no policy", format!("passwords = [\"{hash}\"]\npolicies = [\"p\"]\n[client.d]\npasswords = [\"{hash}\"]\nlabels = {{ app = \"x\" }}"), vec!["w 6:9 client `d` can reach nothing | name a policy, such as policies = [\"…\"], or give it labels that a policy binds".to_owned()]),
    ];
    for (name, client, want) in cases {
        assert_eq!(problems(&format!("{P}{client}")), want, "{name}");
    }
}

#[test]
fn an_empty_file_is_valid_and_useless() {
    let want = [
        "w - nobody can use this proxy: there is no client, and `anonymous` is \"none\" | run `exeat client add`",
    ];
    for text in ["", "\u{feff}", "# nothing\n", "\r\n"] {
        assert_eq!(problems(text), want);
    }
}

#[test]
fn no_output_ever_shows_a_password() {
    let texts = [
        "[client.a]\npasswords = [\"hunter2\"]\nx = 1",
        "[client.a]\npasswords = [\"hunter2\"",
        "[client.a]\npasswords = [\"hunter2\n",
        "[client.a]\npassword = \"hunter2\"",
        "[client.a]\npasswords = \"x\"\npasswords = \"hunter2\"",
        "[cleint.a]\npasswords = [\"hunter2\"]",
        "[client]\na = \"hunter2\"",
        "client = [{ name = \"a\", passwords = [\"hunter2\"] }]",
        "client = \"hunter2\"",
        "[policy.a]\nallow = [\"http://u:hunter2@a.example.com/\"]",
        "[client.a]\npasswords = [\"\"\"\nhunter2\"\"\"]",
        "[client.a]\npolicies = 1 # passwords = [\"hunter2\"]\n= hunter2",
    ];
    for text in texts {
        let Err(report) = load_text("t.toml", text, Path::new(""), &Options::new(Revision(1))) else {
            panic!("{text} loads")
        };
        let shown = format!("{report}{}{report:?}", report.to_json_lines());
        assert!(!shown.contains("hunter"), "{text}\n{shown}");
    }
}

#[test]
fn only_so_many_problems_are_told() {
    let mut text = String::from("[proxy]\n");
    (0..10_000).for_each(|key| text.push_str(&format!("k{key:05} = 1\n")));
    let got = problems(&text);
    assert_eq!(got.len(), 101);
    assert_eq!(got.first().unwrap().split(" | ").next(), Some("e 2:1 unknown key `k00000` in [proxy]"));
    assert_eq!(got.last().unwrap(), "e - and 9900 more");
}
