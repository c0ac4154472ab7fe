//! Mistakes in entries.

use super::*;

#[test]
fn entries() {
    let wide = "name a registered domain, or write { suffix = \"com\" } if you mean all of it";
    let cases: [(&str, &str, &[&str]); 35] = [
        (
            "a name, a wildcard, ports",
            r#""a.example.com", "*.example.com:8443", "b.example.com:80,8000-8010""#,
            &[],
        ),
        (
            "addresses",
            r#""192.0.2.7", "10.0.0.0/8:5432", "[2001:db8::/32]:443", "2001:db8::1", "10.0.0.1-10.0.0.9""#,
            &[],
        ),
        (
            "tables",
            r#"{ host = "*.example.com", ports = [1, "2-3"], addresses = ["10.0.0.0/8"], expect = "any", sni = ["b.example.com"], answers = "filter" }, { suffix = "gov" }, { network = "10.0.0.0/8", ports = [5432] }, { host = "@any-public", ports = [22] }"#,
            &[],
        ),
        (
            "a URL",
            r#""https://api.example.com/v1""#,
            &[
                "e 2:10 `https://api.example.com/v1` is a URL, not a host | write the host only: \"api.example.com\" (add :port if it is not 80 or 443)",
            ],
        ),
        (
            "a URL with a password",
            r#""https://me:hunter2@api.example.com/v1""#,
            &[
                "e 2:10 `https://api.example.com/v1` is a URL, not a host | write the host only: \"api.example.com\" (add :port if it is not 80 or 443)",
            ],
        ),
        (
            "a path",
            r#""api.example.com/v1""#,
            &[
                "e 2:10 `api.example.com/v1` is a URL, not a host | write the host only: \"api.example.com\" (add :port if it is not 80 or 443)",
            ],
        ),
        (
            "an ICANN suffix",
            r#""*.com""#,
            &[&format!("e 2:10 `*.com` covers a whole public suffix | {wide}")],
        ),
        (
            "a private suffix",
            r#""*.github.io""#,
            &["w 2:10 anyone can register a name below `github.io` | name the hosts you need"],
        ),
        ("its twin below", r#""*.me.github.io""#, &[]),
        (
            "everything",
            r#""*""#,
            &[
                "e 2:10 `*` is too wide to allow | write \"@any-public\" for everything that is globally reachable",
            ],
        ),
        (
            "a star inside",
            r#""foo*.com""#,
            &[
                "e 2:10 `foo*.com` is not a host pattern | write \"*.\" before a whole name, such as \"*.example.com\"; it covers every name below it",
            ],
        ),
        (
            "a leading dot",
            r#"".example.com""#,
            &[
                "e 2:10 `.example.com` is not a host pattern | write \"*.example.com\" for every name below it, and \"example.com\" beside it if it is meant, too",
            ],
        ),
        (
            "a leading dot before a suffix",
            r#"".co.uk:443""#,
            &[
                "e 2:10 `.co.uk:443` is not a host pattern | name a registered domain, or write { suffix = \"co.uk\" } if you mean all of it",
            ],
        ),
        (
            "this host",
            r#""localhost:8080""#,
            &[
                "e 2:10 `localhost` has one label, which only a local zone can answer | write { host = \"localhost\", ports = [8080], addresses = [\"127.0.0.0/8\", \"::1\"] } with the network it lies in",
            ],
        ),
        (
            "almost an address",
            r#""10.0.0.1.5""#,
            &[
                "e 2:10 `10.0.0.1.5` is not a host pattern | write an address in its standard spelling, such as \"192.0.2.7\" or \"10.0.0.0/8\"",
            ],
        ),
        (
            "an accent",
            r#""éxample.com""#,
            &["e 2:10 `éxample.com` is not a host pattern | write its ASCII form: \"xn--xample-9ua.com\""],
        ),
        (
            "an accent below a star",
            r#""*.éxample.com:8443""#,
            &[
                "e 2:10 `*.éxample.com:8443` is not a host pattern | write its ASCII form: \"*.xn--xample-9ua.com:8443\"",
            ],
        ),
        (
            "one label",
            r#""intranet""#,
            &[
                "e 2:10 `intranet` has one label, which only a local zone can answer | write { host = \"intranet\", addresses = [\"10.0.0.0/8\"] } with the network it lies in",
            ],
        ),
        ("one label with its network", r#"{ host = "intranet", addresses = ["10.0.0.0/8"] }"#, &[]),
        (
            "a hosts file's line",
            r#""0.0.0.0 ads.example.com""#,
            &[
                "e 2:10 `0.0.0.0 ads.example.com` is not a host pattern | write the name alone: \"ads.example.com\"",
            ],
        ),
        (
            "spaces",
            r#"" a.example.com ""#,
            &[
                "e 2:10 ` a.example.com ` is not a host pattern | remove the spaces around it: \"a.example.com\"",
            ],
        ),
        (
            "host bits",
            r#""10.0.0.1/8:5432""#,
            &["e 2:10 `10.0.0.1/8:5432` is not a network | write \"10.0.0.0/8:5432\""],
        ),
        (
            "a port by name",
            r#""a.example.com:https""#,
            &[
                "e 2:10 `https` is not a list of ports | a port is written in decimal digits only; write ports as \"host:8443\" or \"host:80,8000-8010\"",
            ],
        ),
        (
            "a group with ports",
            r#""@g:80""#,
            &["e 2:10 a group reference takes no ports | write \"@g\" and set `ports` in [groups.g]"],
        ),
        (
            "an unknown group",
            r#""@payment""#,
            &["e 2:10 there is no group `payment` | define [groups.payment]"],
        ),
        (
            "empty",
            r#""""#,
            &[
                "e 2:10 an entry must not be empty | write a host such as \"api.example.com\", or remove the entry",
            ],
        ),
        (
            "a number",
            "8080",
            &[
                "e 2:10 an entry of `allow` must be a string or a table, not an integer | write a host such as \"api.example.com\", or { host = \"…\", ports = [443] }",
            ],
        ),
        (
            "no destination",
            "{ ports = [443] }",
            &[
                "e 2:10 an entry needs `host`, `suffix` or `network` | write { host = \"api.example.com\", ports = [443] }",
            ],
        ),
        (
            "two destinations",
            r#"{ host = "a.example.com", network = "10.0.0.0/8" }"#,
            &["e 2:36 an entry has `host` or `network`, not both | write an entry for each"],
        ),
        (
            "ports twice",
            r#"{ host = "a.example.com:1", ports = [2] }"#,
            &["e 2:38 ports are given twice | leave them out of the host, or remove `ports`"],
        ),
        (
            "ports that are none",
            r#"{ host = "a.example.com", ports = [0, 65536, "9-1", "x"] }"#,
            &[
                "e 2:45 a port is out of range | write a number from 1 to 65535",
                "e 2:48 a port is out of range | write a number from 1 to 65535",
                "e 2:55 `9-1` is not a port or a range | the range runs backwards: write 1-9",
                "e 2:62 `x` is not a port or a range | a port is written in decimal digits only; write 443 or \"8000-8010\"",
            ],
        ),
        (
            "settings that cover nothing",
            r#"{ host = "a.example.com", ports = [], addresses = [] }"#,
            &[
                "e 2:36 an empty `ports` covers no port | list what is meant, or remove `ports`",
                "e 2:48 an empty `addresses` covers no address | list what is meant, or remove `addresses`",
            ],
        ),
        (
            "settings of a network",
            r#"{ network = "10.0.0.0/8", sni = ["a.example.com"], answers = "filter", verify = true }"#,
            &[
                "e 2:36 `sni` has no meaning for `10.0.0.0/8` | remove it: a network matches targets given as addresses",
                "e 2:61 `answers` has no meaning for `10.0.0.0/8` | remove it: a network matches targets given as addresses",
                "e 2:81 `verify` has no meaning for `10.0.0.0/8` | remove it: a network matches targets given as addresses",
            ],
        ),
        (
            "server names that are none",
            r#"{ host = "a.example.com", sni = ["*.example.com", "éxample.com"] }"#,
            &[
                "e 2:43 `*.example.com` is not a host name | the character '*' cannot be part of a name in `*.example.com`",
                "e 2:60 `éxample.com` is not a host name | write its ASCII form: \"xn--xample-9ua.com\"",
            ],
        ),
        (
            "words that are none",
            r#"{ host = "a.example.com", expect = "tsl", answers = "drop" }"#,
            &[
                "e 2:45 `tsl` is not a value of `expect` | did you mean \"tls\"? write \"tls\" or \"http\" or \"any\"",
                "e 2:62 `drop` is not a value of `answers` | write \"refuse\" or \"filter\"",
            ],
        ),
    ];
    for (name, entries, want) in cases {
        check(&[(name, &format!("[policy.p]\nallow = [{entries}]"), want)]);
    }
}
