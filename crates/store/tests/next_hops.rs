//! `[next_hop.NAME]`: what is accepted, what is said of mistakes, and that no message repeats a secret.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use exeat_policy::Revision;
use exeat_store::{Colour, Options, load_text};

const CLIENT: &str = "[client.c]\npasswords = [\"sha256:0000000000000000000000000000000000000000000000000000000000000000\"]\npolicies = [\"p\"]\n";
const POLICY: &str = "[policy.p]\nnext_hop = \"corp\"\nallow = [\"a.example.com\"]\n";

/// `line:column message` of every problem, and the whole report as people see it.
fn problems(text: &str, directory: &Path) -> (Vec<String>, String) {
    let report = match load_text("t.toml", text, directory, &Options::new(Revision(1))) {
        Ok(loaded) => loaded.warnings,
        Err(report) => report,
    };
    let line = |problem: &exeat_store::Problem| {
        let place = problem.location().map_or("-".to_owned(), |at| format!("{}:{}", at.line, at.column));
        format!("{place} {}", problem.message())
    };
    (report.problems().iter().map(line).collect(), report.render(Colour::Plain))
}

#[test]
fn what_a_next_hop_may_say() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, mode: u32| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    write("password", "tiger\n", 0o600);
    write("open", "tiger\n", 0o644);
    write("long", &"tiger".repeat(100), 0o600);
    write("control", "ti\x07ger\n", 0o600);
    let cases: &[(&str, &str, &[&str])] = &[
        ("an address", "url = \"http://192.0.2.1:3128\"", &[]),
        ("an IPv6 address", "url = \"http://[2001:db8::1]:3128/\"", &[]),
        ("a name", "url = \"socks5://proxy.example:1080\"", &[]),
        ("credentials", "url = \"socks5h://scott:ti%3Ager@proxy.example:1080\"", &[]),
        (
            "a file",
            "url = \"http://proxy.example:3128\"\nusername = \"scott\"\npassword_file = \"password\"",
            &[],
        ),
        (
            "a file that all can read",
            "url = \"http://proxy.example:3128\"\nusername = \"scott\"\npassword_file = \"open\"",
            &["7:17 every user of this machine can read this password"],
        ),
        ("no URL", "", &["4:11 [next_hop.corp] needs `url`"]),
        ("no scheme", "url = \"proxy.example:3128\"", &["5:7 this is not the URL of a proxy"]),
        ("told of the client", "url = \"http://proxy.example:3128\"\nproxy_protocol = \"v2-principal\"", &[]),
        (
            "told in a way that there is not",
            "url = \"http://proxy.example:3128\"\nproxy_protocol = \"v1\"",
            &["6:18 `v1` is not a value of `proxy_protocol`"],
        ),
        ("SOCKS4", "url = \"socks4://proxy.example:1080\"", &["5:7 this version of SOCKS is not supported"]),
        ("another scheme", "url = \"ftp://proxy.example:21\"", &["5:7 this scheme is not supported"]),
        ("no port", "url = \"http://scott:tiger@proxy.example\"", &["5:7 the port is missing"]),
        ("a path", "url = \"http://proxy.example:3128/tiger\"", &["5:7 the URL of a proxy has no path"]),
        (
            "a slash in a password",
            "url = \"http://scott:tiger/@proxy.example\"",
            &["5:7 the port is missing"],
        ),
        (
            "a host that is none",
            "url = \"http://scott:tiger@proxy_!:3128\"",
            &["5:7 this URL has no usable host and port: malformed host name"],
        ),
        (
            "credentials twice",
            "url = \"http://scott:tiger@proxy.example:3128\"\nusername = \"scott\"\npassword_file = \"password\"",
            &["5:7 credentials stand in the URL and beside it"],
        ),
        (
            "half of them",
            "url = \"http://proxy.example:3128\"\nusername = \"scott\"",
            &["6:12 `username` needs `password_file`"],
        ),
        (
            "no such file",
            "url = \"http://proxy.example:3128\"\nusername = \"scott\"\npassword_file = \"missing\"",
            &["7:17 the password file"],
        ),
        (
            "a file that is something else",
            "url = \"http://proxy.example:3128\"\nusername = \"scott\"\npassword_file = \"long\"",
            &["7:17 the password file"],
        ),
        (
            "a password that no protocol carries",
            "url = \"http://proxy.example:3128\"\nusername = \"scott\"\npassword_file = \"control\"",
            &["6:12 a user and a password have up to 255 bytes"],
        ),
        (
            "a password in the file",
            "url = \"http://proxy.example:3128\"\npassword = \"tiger\"",
            &["6:1 unknown key `password` in [next_hop.corp]"],
        ),
        ("ourselves", "url = \"http://127.0.0.1:3128\"", &["5:7 this next hop is this proxy itself"]),
        ("ourselves by name", "url = \"http://localhost:3128\"", &["5:7 this next hop is this proxy itself"]),
        (
            "ourselves by no address",
            "url = \"http://0.0.0.0:3128\"",
            &["5:7 this next hop is this proxy itself"],
        ),
        ("a neighbour", "url = \"http://127.0.0.1:3129\"", &[]),
    ];
    for (case, hop, want) in cases {
        let text = format!("{POLICY}[next_hop.corp]\n{hop}\n{CLIENT}");
        let (found, shown) = problems(&text, directory.path());
        assert_eq!(found.len(), want.len(), "{case}: {found:?}");
        for (found, want) in found.iter().zip(*want) {
            assert!(found.starts_with(want.split(" file").next().unwrap()), "{case}: {found}");
        }
        // The one secret that stands in a place where nobody could know it.
        assert!(*case == "a path" || !shown.contains("tiger"), "{case}: {shown}");
    }
}

/// Writes a certificate that stands for an authority and for itself, and its key.
fn write_pair(directory: &Path, name: &str, mode: u32) {
    let issued = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    fs::write(directory.join(format!("{name}.pem")), issued.cert.pem()).unwrap();
    let key = directory.join(format!("{name}.key"));
    fs::write(&key, issued.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_a_next_hop_may_say_of_tls() {
    let directory = tempfile::tempdir().unwrap();
    write_pair(directory.path(), "one", 0o600);
    write_pair(directory.path(), "two", 0o600);
    write_pair(directory.path(), "open", 0o644);
    fs::write(directory.path().join("empty.pem"), "").unwrap();
    let https = "url = \"https://proxy.example:3129\"\nca = \"one.pem\"\n";
    let cases: &[(&str, String, &[&str])] = &[
        ("an authority", https.to_owned(), &[]),
        ("an address", https.replace("proxy.example", "[2001:db8::1]"), &[]),
        ("another name", format!("{https}server_name = \"other.example\""), &[]),
        ("an address as the name", format!("{https}server_name = \"192.0.2.1\""), &[]),
        (
            "a name that is none",
            format!("{https}server_name = \"https://a\""),
            &["7:15 `https://a` is not a host name"],
        ),
        ("a certificate of our own", format!("{https}cert = \"two.pem\"\nkey = \"two.key\""), &[]),
        (
            "a key that all can read",
            format!("{https}cert = \"open.pem\"\nkey = \"open.key\""),
            &["8:7 every user of this machine can read the key"],
        ),
        (
            "the key of another",
            format!("{https}cert = \"two.pem\"\nkey = \"one.key\""),
            &["8:7 the key is not that of the certificate"],
        ),
        ("no key", format!("{https}cert = \"two.pem\""), &["7:8 `cert` needs `key`"]),
        ("no certificate", format!("{https}key = \"two.key\""), &["7:7 `key` needs `cert`"]),
        ("no such file", https.replace("one.pem", "missing.pem"), &["6:6 `"]),
        ("no authority in it", https.replace("one.pem", "empty.pem"), &["6:6 `"]),
        ("a key as an authority", https.replace("one.pem", "one.key"), &["6:6 `"]),
        ("no port", https.replace(":3129", ""), &["5:7 the port is missing"]),
        (
            "an authority without TLS",
            https.replace("https", "http"),
            &["6:1 `ca` has no meaning without `https://`"],
        ),
        (
            "a name without TLS",
            "url = \"socks5://proxy.example:1080\"\nserver_name = \"a.example\"".to_owned(),
            &["6:1 `server_name` has no meaning without `https://`"],
        ),
    ];
    for (case, hop, want) in cases {
        let text = format!("{POLICY}[next_hop.corp]\n{hop}\n{CLIENT}");
        let (found, _) = problems(&text, directory.path());
        assert_eq!(found.len(), want.len(), "{case}: {found:?}");
        for (found, want) in found.iter().zip(*want) {
            assert!(found.starts_with(want), "{case}: {found}");
        }
    }
}

#[test]
fn what_a_policy_may_say_of_one() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("nothing but the name", "allow = [\"a.example.com\", \"10.0.0.0/8\"]", &[]),
        (
            "a rule about addresses",
            "allow = [{ host = \"a.example.com\", addresses = [\"10.0.0.0/8\"] }]",
            &["6:10 `addresses` cannot be checked"],
        ),
        (
            "resolved here",
            "resolve = \"local\"\nallow = [{ host = \"a.example.com\", addresses = [\"10.0.0.0/8\"] }]",
            &[],
        ),
        (
            "a default",
            "addresses = [\"10.0.0.0/8\"]\nallow = [\"a.example.com\"]",
            &["4:9 `addresses` cannot be checked"],
        ),
        (
            "a group",
            "allow = [\"@g\"]\n[groups.g]\naddresses = [\"10.0.0.0/8\"]\nentries = [\"a.example.com\"]",
            &["9:12 `addresses` cannot be checked"],
        ),
        (
            "an unknown word",
            "resolve = \"here\"\nallow = [\"a.example.com\"]",
            &["6:11 `here` is not a value of `resolve`"],
        ),
        (
            "a PROXY header",
            "proxy_protocol = \"v2\"\nallow = [\"a.example.com\"]",
            &["6:1 `proxy_protocol` has no meaning behind a next hop"],
        ),
        (
            "metadata",
            "metadata = [\"169.254.169.254\"]\nallow = [\"a.example.com\"]",
            &[
                "6:1 `metadata` has no meaning behind a next hop",
                "6:13 [policy.p] opens the metadata service",
            ],
        ),
    ];
    for (case, policy, want) in cases {
        let text = format!(
            "[next_hop.corp]\nurl = \"http://192.0.2.1:3128\"\n\n[policy.p]\nnext_hop = \"corp\"\n{policy}\n{CLIENT}"
        );
        let (found, _) = problems(&text, Path::new("/nonexistent"));
        assert_eq!(found.len(), want.len(), "{case}: {found:?}");
        for (found, want) in found.iter().zip(*want) {
            assert!(found.starts_with(want), "{case}: {found}");
        }
    }
    let unknown = format!(
        "[next_hop.corp]\nurl = \"http://192.0.2.1:3128\"\n{}{CLIENT}",
        POLICY.replace("corp", "crop")
    );
    let (found, _) = problems(&unknown, Path::new("/nonexistent"));
    assert_eq!(found, ["4:12 there is no next hop `crop`"]);
    let alone = format!("{}{CLIENT}", POLICY.replace("next_hop = \"corp\"", "resolve = \"local\""));
    let (found, _) = problems(&alone, Path::new("/nonexistent"));
    assert_eq!(found, ["2:1 `resolve` has no meaning without `next_hop`"]);
    let unused = format!(
        "[next_hop.corp]\nurl = \"http://192.0.2.1:3128\"\n{}{CLIENT}",
        POLICY.replace("next_hop = \"corp\"\n", "")
    );
    let (found, _) = problems(&unused, Path::new("/nonexistent"));
    assert_eq!(found, ["1:11 next hop `corp` is not used"]);
}
