//! Mistakes in policies, groups and ceilings.

use super::*;

#[test]
fn policies_groups_and_ceilings() {
    check(&[
        (
            "a deny may be wide",
            "[policy.p]\nallow = [\"@any-public\"]\ndeny = [\"*\", \"*.com\", \"intranet\"]",
            &["w 2:10 `@any-public` opens nothing: `*` at t.toml:3:9 denies it | remove one of the two"],
        ),
        (
            "a deny has no conditions",
            "[policy.p]\nallow = [\"@any-public\"]\ndeny = [{ host = \"a.example.com\", expect = \"tls\" }]",
            &[
                "e 3:35 `expect` has no meaning in a deny list | remove it: a deny holds whatever opens the connection",
            ],
        ),
        (
            "what an upstream is told",
            "[policy.p]\nproxy_protocol = \"v1\"\nallow = [\"a.example.com\", { host = \"@g\", proxy_protocol = \"v2\" }]\n\
             deny = [{ host = \"b.example.com\", proxy_protocol = \"off\" }]\n[groups.g]\nentries = [\"c.example.com\"]\n\
             [ceiling.c]\nbind = { app = \"a\" }\nallow = [\"@any-public\"]\nproxy_protocol = \"v2\"",
            &[
                "e 2:18 `v1` is not a value of `proxy_protocol` | did you mean \"v2\"? write \"off\" or \"v2\" or \"v2-principal\"",
                "e 3:42 `proxy_protocol` has no meaning for `@g` | remove it: a group carries its own settings: set them in [groups.NAME] or on its entries",
                "e 4:35 `proxy_protocol` has no meaning in a deny list | remove it: a deny holds whatever opens the connection",
                "e 10:1 unknown key `proxy_protocol` in [ceiling.c] | `proxy_protocol` belongs in [groups.NAME] or [policy.NAME] or [next_hop.NAME]; [ceiling.c] takes `bind`, `allow`, `deny`, `ports`, `transport`, `addresses`, `expect`, `answers`, `verify`, `idle_timeout`, `max_age`, `max_bytes_up`, `max_bytes_down` and `metadata`",
            ],
        ),
        (
            "what carries connections",
            "[policy.p]\ntransport = \"quic\"\nallow = [{ host = \"a.example.com\", transport = \"udp\", expect = \"any\" }]\n\
             deny = [{ host = \"b.example.com\", transport = \"udp\" }]",
            &[
                "e 2:13 `quic` is not a value of `transport` | write \"tcp\" or \"udp\" or \"any\"",
                "e 3:55 `expect` has no meaning for UDP | remove it: datagrams have no first bytes that could be looked at",
            ],
        ),
        (
            "report mode",
            "[policy.p]\nallow = []\nmode = \"report\"",
            &["w 3:8 policy `p` does not enforce | write mode = \"enforce\" once the records look right"],
        ),
        (
            "nothing allowed",
            "[policy.p]\nallow = []",
            &["w 2:9 [policy.p] allows nothing | list what it allows, such as allow = [\"api.example.com\"]"],
        ),
        (
            "nothing at all",
            "[policy.p]",
            &["w 1:9 [policy.p] allows nothing | list what it allows, such as allow = [\"api.example.com\"]"],
        ),
        (
            "metadata",
            "[policy.p]\nmetadata = [\"169.254.169.254\", \"8.8.8.8\"]",
            &[
                "w 2:13 [policy.p] opens the metadata service at 169.254.169.254 | remove it unless the workload needs these credentials",
                "e 2:32 `8.8.8.8` is not a metadata address | `metadata` is for the services of clouds, such as \"169.254.169.254\"; others go to `allow`",
            ],
        ),
        (
            "labels",
            "[policy.p]\nallow = [\"a.example.com\"]\nbind = { spcae = \"x\", app = \"\", class = 1 }",
            &[
                "e 3:10 unknown label `spcae` | did you mean `space`? the labels are `organization`, `space`, `app`, `instance`, `class` and `lifecycle`",
                "e 3:29 a value of `app` has 1 to 256 bytes, not 0 | write a name, or remove the label",
                "e 3:41 `class` must be a string, not an integer | write class = \"1\"",
            ],
        ),
        (
            "a selector of nothing",
            "[policy.p]\nallow = [\"a.example.com\"]\nbind = {}",
            &["e 3:8 an empty `bind` binds nobody | name a label, such as { space = \"payments-prod\" }"],
        ),
        (
            "unused",
            "[policy.p]\nallow = [\"a.example.com\"]\n[policy.q]\nallow = [\"b.example.com\"]\n[policy.r]\nallow = [\"b.example.com\"]\nbind = { app = \"x\" }\n[groups.g]\nentries = [\"c.example.com\"]",
            &[
                "w 3:9 policy `q` is not used | name it in `policies` of a client, bind it to labels, or remove it",
                "w 5:9 policy `r` binds nobody | no client and no workload has the labels of `bind`",
                "w 8:9 group `g` is not used | write \"@g\" in a list, or remove the group",
            ],
        ),
        (
            "a wide group is fine to deny",
            "[groups.g]\nentries = [\"*.com\"]\n[policy.p]\nallow = [\"a.example.org\"]\ndeny = [\"@g\"]",
            &[],
        ),
        (
            "and not to allow, through another group too",
            "[groups.g]\nentries = [\"*.com\"]\n[groups.h]\nentries = [\"@g\"]\n[policy.p]\nallow = [\"@h\"]\ndeny = [\"@g\"]",
            &[
                "e 2:12 `*.com` covers a whole public suffix | name a registered domain, or write { suffix = \"com\" } if you mean all of it",
            ],
        ),
        (
            "a policy's addresses serve its names of one label",
            "[policy.p]\nallow = [\"intranet\"]\naddresses = [\"10.0.0.0/8\"]",
            &[],
        ),
        (
            "groups",
            "[groups.a]\n[groups.b]\nentries = []\nfile = \"x\"\n[groups.c]\nentries = [\"@d\"]\n[groups.d]\nentries = [\"@c\", \"@cc\"]\n[groups.e]\nfile = \"none.txt\"\n[policy.p]\nallow = [\"@c\"]",
            &[
                "e 1:9 [groups.a] needs `entries` or `file` | write entries = [\"api.example.com\"]",
                "e 4:8 a group has `entries` or `file`, not both | make two groups, and a third that lists both as \"@name\"",
                "e 8:12 group `c` contains itself | remove this entry",
                "e 8:18 there is no group `cc` | did you mean \"@c\"?",
                "e 10:8 cannot read `/nonexistent/none.txt`: no such file or directory | a relative path starts from the folder of the configuration file",
            ],
        ),
        (
            "ceilings",
            "[ceiling.a]\ndeny = [\"a.example.com\"]\n[ceiling.b]\nallow = []\nbind = { app = \"x\" }\nmode = \"report\"\n[policy.p]\nallow = [\"a.example.com\"]",
            &[
                "e 1:10 [ceiling.a] needs `bind` | write bind = { organization = \"…\" } for those it holds for",
                "e 1:10 [ceiling.a] needs `allow` | write allow = [\"@any-public\"] if it only denies; without, nothing is allowed",
                "w 4:9 [ceiling.b] allows nothing | list what it allows, such as allow = [\"api.example.com\"]",
                "e 6:1 unknown key `mode` in [ceiling.b] | `mode` belongs in [dns] or [policy.NAME]; [ceiling.b] takes `bind`, `allow`, `deny`, `ports`, `transport`, `addresses`, `expect`, `answers`, `verify`, `idle_timeout`, `max_age`, `max_bytes_up`, `max_bytes_down` and `metadata`",
            ],
        ),
    ]);
}

#[test]
fn deep_and_wide_groups_are_refused_before_they_cost_anything() {
    let mut deep = String::from("[policy.p]\nallow = [\"@g0\"]\n");
    for level in 0..5000 {
        deep.push_str(&format!("[groups.g{level}]\nentries = [\"@g{}\"]\n", level + 1));
    }
    deep.push_str("[groups.g5000]\nentries = [\"a.example.com\"]\n");
    let got = problems(&(deep + REST));
    assert!(
        got.iter()
            .any(|problem| problem
                .ends_with("holds groups more than 16 deep | list the inner groups directly")),
        "{got:?}"
    );

    let mut wide = String::from("[policy.p]\nallow = [\"@g0\"]\n");
    for level in 0..15 {
        let next = level + 1;
        wide.push_str(&format!(
            "[groups.g{level}]\nentries = [\"@g{next}\", \"@g{next}\", \"@g{next}\", \"@g{next}\"]\n"
        ));
    }
    wide.push_str("[groups.g15]\nentries = [\"a.example.com\"]\n");
    let got = problems(&(wide + REST));
    assert_eq!(
        got,
        ["e 1:9 `p` reaches 1431655765 lists through groups | merge groups: at most 1000 lists are searched"]
    );
}
