//! What each flow of a rule or of a client may come to: what is accepted, what it means, what is said of mistakes.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;
use std::path::Path;

use exeat_model::{Authority, Transport};
use exeat_policy::{EgressRequest, Revision, Verdict, decide, permit};
use exeat_store::{Loaded, Options, Problem, Report, load_text};

const CLIENT: &str = "[client.c]\npasswords = [\"sha256:0000000000000000000000000000000000000000000000000000000000000000\"]\npolicies = [\"p\"]\n";

fn load(text: &str) -> Result<Loaded, Report> {
    load_text("t.toml", text, Path::new("/nonexistent"), &Options::new(Revision(1)))
}

/// `severity line:column message | help` of every problem.
fn problems(text: &str) -> Vec<String> {
    let report = load(text).map_or_else(|report| report, |loaded| loaded.warnings);
    let line = |problem: &Problem| {
        let place = problem.location().map_or("-".to_owned(), |at| format!("{}:{}", at.line, at.column));
        let help = problem.help().unwrap_or_default();
        format!("{} {place} {} | {help}", &problem.severity().name()[..1], problem.message())
    };
    report.problems().iter().map(line).collect()
}

/// What the flows of `c` to a host may come to.
fn caps(text: &str, host: &str) -> String {
    let loaded = load(text).unwrap();
    let principal = loaded.clients.principal("c").unwrap();
    let target = Authority::parse(host, None).unwrap();
    let request = EgressRequest { bound: &principal.bound, target: &target, transport: Transport::Tcp };
    let Verdict::Allow(allowed) = decide(&loaded.policy, &request) else { panic!("{host} is denied") };
    let address: IpAddr = [93, 184, 216, 34].into();
    permit(&loaded.policy, &request, &allowed, &[address]).unwrap().caps().to_string()
}

#[test]
fn bounds_come_from_the_entry_its_group_its_policy_and_the_client() {
    let text = format!(
        r#"
[limits]
idle_timeout = "10m"
[groups.g]
max_bytes_down = 4096
entries = ["g.example.com"]
[policy.p]
max_age = "1h"
allow = ["a.example.com", {{ host = "b.example.com", max_age = "2h", idle_timeout = "30s" }}, "@g"]
{CLIENT}max_bytes_up = 2048
"#
    );
    assert_eq!(problems(&text), [""; 0]);
    for (host, want) in [
        ("a.example.com:443", "max_age = \"1h\", max_bytes_up = 2048"),
        ("b.example.com:443", "idle_timeout = \"30s\", max_age = \"2h\", max_bytes_up = 2048"),
        ("g.example.com:443", "max_age = \"1h\", max_bytes_up = 2048, max_bytes_down = 4096"),
    ] {
        assert_eq!(caps(&text, host), want, "{host}");
    }
}

#[test]
fn mistakes() {
    let cases: [(&str, &str, &[&str]); 9] = [
        (
            "a number for a time",
            "[policy.p]\nallow = [\"a.example.com\"]\nmax_age = 60",
            &[
                "e 3:11 `max_age` must be a duration such as \"10s\", not an integer | write max_age = \"60s\"",
            ],
        ),
        (
            "a size with a unit",
            "[policy.p]\nallow = [{ host = \"a.example.com\", max_bytes_up = \"1M\" }]",
            &["e 2:51 `max_bytes_up` must be an integer, not a string | "],
        ),
        (
            "too small to be meant",
            "[policy.p]\nallow = [\"a.example.com\"]\nmax_bytes_down = 1",
            &["e 3:18 `max_bytes_down` is out of range | write a number from 1024 to 1152921504606846976"],
        ),
        (
            "the name of the limit of all flows",
            "[policy.p]\nallow = [\"a.example.com\"]\nflow_age = \"1h\"",
            &[
                "e 3:1 unknown key `flow_age` in [policy.p] | `flow_age` belongs in [limits]; [policy.p] takes `allow`, `deny`, `mode`, `bind`, `ports`, `transport`, `addresses`, `expect`, `answers`, `proxy_protocol`, `verify`, `class`, `idle_timeout`, `max_age`, `max_bytes_up`, `max_bytes_down`, `metadata`, `next_hop` and `resolve`",
            ],
        ),
        (
            "on a deny",
            "[policy.p]\nallow = [\"a.example.com\"]\ndeny = [{ host = \"b.example.com\", max_age = \"1h\" }]",
            &["e 3:35 `max_age` has no meaning in a deny list | remove it: what is denied has no flows"],
        ),
        (
            "on a group's name",
            "[groups.g]\nentries = [\"a.example.com\"]\n[policy.p]\nallow = [{ host = \"@g\", max_age = \"1h\" }]",
            &[
                "e 4:25 `max_age` has no meaning for `@g` | remove it: a group carries its own settings: set them in [groups.NAME] or on its entries",
            ],
        ),
        (
            "more than all flows may",
            "[policy.p]\nallow = [{ host = \"a.example.com\", idle_timeout = \"1h\" }]",
            &[
                "w 2:10 `idle_timeout = \"1h\"` has no effect | the strictest bound holds, and `limits.idle_timeout` is lower: raise that one",
            ],
        ),
        ("as much as all flows may", "[policy.p]\nidle_timeout = \"5m\"\nallow = [\"a.example.com\"]", &[]),
        (
            "more, by default",
            "[limits]\nflow_bytes_up = 1024\n[policy.p]\nmax_bytes_up = 1025\nallow = [\"a.example.com\"]",
            &[
                "w 3:9 `max_bytes_up = 1025` has no effect | the strictest bound holds, and `limits.flow_bytes_up` is lower: raise that one",
            ],
        ),
    ];
    for (name, text, want) in cases {
        assert_eq!(problems(&format!("{text}\n{CLIENT}")), *want, "{name}");
    }
    let own = "[policy.p]\nallow = [\"a.example.com\"]\n".to_owned() + CLIENT + "max_age = \"9d\"\n";
    let want = ["e 6:11 `max_age` is out of range | write a duration from \"10ms\" to \"7d\""];
    assert_eq!(problems(&own), want);
}
