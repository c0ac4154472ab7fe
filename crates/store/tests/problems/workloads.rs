//! Mistakes about where workloads are.

use super::*;

/// Two listeners beside the usual one, and the policy that [`REST`] uses.
const BASE: &str = "[proxy]\nlisten = [\"unix:/run/s\", { address = \"10.0.0.1:1\", interface = \"veth1\" }]\n[policy.p]\nallow = [\"a.example.com\"]\n";

#[test]
fn workloads() {
    let origin_help =
        "write addresses = [\"…\"], interface = \"…\", uid = …, socket = \"…\" or cgroup = \"…\"";
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "networks",
            "addresses = [\"10.0.0.0/8\", \"2001:db8::1\", \"192.0.2.1-192.0.2.6\"]\npolicies = [\"p\"]",
            &[],
        ),
        (
            "a device and a network",
            "interface = \"veth1\"\naddresses = [\"10.0.0.2\"]\npolicies = [\"p\"]",
            &[],
        ),
        ("a user", "uid = 1000\npolicies = [\"p\"]", &[]),
        ("a user by name", "uid = \"root\"\npolicies = [\"p\"]", &[]),
        ("a socket", "socket = \"/run/s\"\npolicies = [\"p\"]", &[]),
        ("a control group", "cgroup = \"/system.slice/ci.service\"\npolicies = [\"p\"]", &[]),
        ("only a second factor", "addresses = [\"10.0.0.0/8\"]\nalone = false", &[]),
        (
            "nowhere",
            "policies = [\"p\"]",
            &[&format!("e 5:11 [workload.w] does not say where it is | {origin_help}")],
        ),
        (
            "no network",
            "addresses = []\npolicies = [\"p\"]",
            &["e 6:1 an empty `addresses` is no place | write a network, such as \"10.99.0.0/24\""],
        ),
        (
            "host bits",
            "addresses = [\"10.0.0.1/8\"]\npolicies = [\"p\"]",
            &["e 6:14 `10.0.0.1/8` is not a network | write \"10.0.0.0/8\""],
        ),
        (
            "a socket that nobody listens on",
            "socket = \"/run/t\"\npolicies = [\"p\"]",
            &["e 6:10 nothing listens on the unix socket `/run/t` | add \"unix:/run/t\" to proxy.listen"],
        ),
        (
            "a device that no listener is for",
            "interface = \"veth2\"\npolicies = [\"p\"]",
            &[
                "e 6:13 no listener takes the connections of `veth2` alone | write listen = [{ address = \"…\", interface = \"veth2\" }]",
            ],
        ),
        (
            "a user that is none",
            "uid = \"no-such-user\"\npolicies = [\"p\"]",
            &[
                "e 6:7 there is no user `no-such-user` on this host | write the number of the user, or a name that `getent passwd` knows",
            ],
        ),
        (
            "the user of nobody in particular",
            "uid = 65534\npolicies = [\"p\"]",
            &[
                "e 6:7 65534 is the number that the kernel shows for every user without one here | give the workload a user of its own",
            ],
        ),
        (
            "a control group with no path",
            "cgroup = \"ci.service\"\npolicies = [\"p\"]",
            &[
                "e 6:10 `ci.service` is not a control group | write its path below /sys/fs/cgroup, such as \"/system.slice/ci.service\"",
            ],
        ),
        (
            "every control group",
            "cgroup = \"/\"\npolicies = [\"p\"]",
            &[
                "e 6:10 `/` is not a control group | write its path below /sys/fs/cgroup, such as \"/system.slice/ci.service\"",
            ],
        ),
        (
            "no container",
            "uid = 1\ncontainer = \"\"\npolicies = [\"p\"]",
            &[
                "e 7:13 the id of a container has 1 to 256 bytes, and no control character | write the id that its tokens carry",
            ],
        ),
        (
            "no policy",
            "uid = 1",
            &[
                "w 5:11 workload `w` can reach nothing | name a policy, such as policies = [\"…\"]; alone = false if it only makes credentials count",
            ],
        ),
        (
            "an unknown policy",
            "uid = 1\npolicies = [\"pp\"]",
            &["e 7:13 there is no policy `pp` | did you mean \"p\"?"],
        ),
        (
            "twice in one place",
            "addresses = [\"10.0.0.0/8\"]\npolicies = [\"p\"]\n[workload.x]\naddresses = [\"10.0.0.0/8\"]\npolicies = [\"p\"]",
            &[
                "e 9:14 workload `w` is at this place, too | one place is one workload: remove it from one of them",
            ],
        ),
        (
            "one network within another",
            "addresses = [\"10.0.0.0/8\"]\npolicies = [\"p\"]\n[workload.x]\naddresses = [\"10.0.0.0/9\"]\npolicies = [\"p\"]",
            &[],
        ),
        (
            "the same network by another device",
            "addresses = [\"10.0.0.0/8\"]\npolicies = [\"p\"]\n[workload.x]\ninterface = \"veth1\"\naddresses = [\"10.0.0.0/8\"]\npolicies = [\"p\"]",
            &[],
        ),
        (
            "the name of a client",
            "uid = 1\npolicies = [\"p\"]\n[workload.c]\nuid = 2\npolicies = [\"p\"]",
            &["e 8:11 there is a client `c`, too | records tell them by their names: rename one"],
        ),
        (
            "the name of those without credentials",
            "uid = 1\npolicies = [\"p\"]\n[workload.anonymous]\nuid = 2\npolicies = [\"p\"]",
            &[
                "e 8:11 a workload cannot be named `anonymous` | that is the name of clients without credentials in records: choose another",
            ],
        ),
    ];
    for (name, workload, want) in cases {
        let text = format!("{BASE}[workload.w]\n{workload}{REST}");
        assert_eq!(problems(&text), *want, "{name}:\n{text}");
    }
}

#[test]
fn origins_of_clients() {
    for (name, origin, want) in [
        ("a workload", "origin = [\"w\"]", vec![]),
        (
            "an unknown one",
            "origin = [\"ww\"]",
            vec!["e 11:11 there is no workload `ww` | did you mean \"w\"?"],
        ),
        (
            "none",
            "origin = []",
            vec![
                "w 11:1 a client with an empty `origin` counts from nowhere | name a workload, or remove `origin`",
            ],
        ),
        (
            "no list",
            "origin = \"w\"",
            vec!["e 11:10 `origin` must be a list of workload names, not a string | write origin = [\"w\"]"],
        ),
    ] {
        let text = format!("{BASE}[workload.w]\nuid = 1\nalone = false{REST}{origin}");
        assert_eq!(problems(&text), want, "{name}:\n{text}");
    }
}

#[test]
fn listeners_that_tell_places() {
    for (name, listen, want) in [
        ("a socket", "\"unix:/run/s\"", vec![]),
        (
            "a socket with all it may have",
            "{ address = \"unix:/run/s\", mode = \"0666\", owner = \"root\", group = 0, demand = [\"password\"] }",
            vec![],
        ),
        (
            "one address for two devices",
            "{ address = \"0.0.0.0:1\", interface = \"a\" }, { address = \"0.0.0.0:1\", interface = \"b\" }",
            vec![],
        ),
        (
            "one address for a device and for all",
            "{ address = \"0.0.0.0:1\", interface = \"a\" }, \"0.0.0.0:1\"",
            vec!["e 2:55 `0.0.0.0:1` is listed twice | remove one"],
        ),
        (
            "a socket twice",
            "\"unix:/run/s\", \"unix:/run/s\"",
            vec!["e 2:26 `/run/s` is listed twice | remove one"],
        ),
        (
            "no path",
            "\"unix:\"",
            vec![
                "e 2:11 `unix:` is not the path of a unix socket | write { address = \"unix:/run/exeat/proxy.sock\", mode = \"0660\", group = \"ci\" }; the path has at most 107 bytes",
            ],
        ),
        (
            "a mode that is none",
            "{ address = \"unix:/run/s\", mode = \"rw\" }",
            vec!["e 2:45 `rw` is not a file mode | write three octal digits, such as \"0660\""],
        ),
        (
            "a mode of an address",
            "{ address = \"0.0.0.0:1\", mode = \"0660\" }",
            vec!["e 2:36 `mode` is for unix sockets alone | remove it"],
        ),
        (
            "a device of a socket",
            "{ address = \"unix:/run/s\", interface = \"a\" }",
            vec!["e 2:38 `interface` is not for unix sockets | remove it"],
        ),
        (
            "redirected connections",
            "{ address = \"0.0.0.0:1\", redirected = true, demand = [\"origin\"] }",
            vec![],
        ),
        (
            "redirected to a socket",
            "{ address = \"unix:/run/s\", redirected = true }",
            vec!["e 2:38 `redirected` is not for unix sockets | remove it"],
        ),
        (
            "credentials of redirected clients",
            "{ address = \"0.0.0.0:1\", redirected = true, demand = [\"password\"] }",
            vec!["e 2:55 `demand` asks for credentials, and redirected clients have none | remove it"],
        ),
        (
            "a device that is none",
            "{ address = \"0.0.0.0:1\", interface = \"a b\" }",
            vec![
                "e 2:48 `a b` is not a network device | write a name that `ip link` shows, such as \"veth1\"",
            ],
        ),
        (
            "a group that is none",
            "{ address = \"unix:/run/s\", group = \"no-such-group\" }",
            vec![
                "e 2:46 there is no group `no-such-group` on this host | write the number of the group, or a name that `getent group` knows",
            ],
        ),
        (
            "a certificate that nobody asks for",
            "{ address = \"0.0.0.0:1\", demand = [\"certificate\"] }",
            vec![
                "e 2:45 a certificate is demanded, and none is asked for | add client_ca = \"ca.pem\" to `tls`, or demand something else",
            ],
        ),
        (
            "a proof that is none",
            "{ address = \"0.0.0.0:1\", demand = [\"pasword\"] }",
            vec![
                "e 2:46 `pasword` is not a proof | did you mean \"password\"? the proofs are `password`, `token`, `origin` and `certificate`",
            ],
        ),
    ] {
        let text = format!("[proxy]\nlisten = [{listen}]\n[policy.p]\nallow = [\"a.example.com\"]{REST}");
        assert_eq!(problems(&text), want, "{name}:\n{text}");
    }
}
