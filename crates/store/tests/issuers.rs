//! `[issuer.NAME]`: what is accepted, what is said of mistakes, and that no message repeats a private key.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use exeat_identity::{SignatureAlgorithm, SigningKey};
use exeat_policy::Revision;
use exeat_store::{Colour, Options, load_text};

const POLICY: &str = "[policy.p]\nallow = [\"a.example.com\"]\n";
/// Lines 3 to 6 of every document; the case's own begin at 7.
const REST: &str = "issuer = \"i\"\naudience = \"a\"\nceiling = \"p\"\n";
/// The example of RFC 7517, appendix A.1, and the private part of it from A.2.
const X: &str = "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4";
const Y: &str = "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM";
const D: &str = "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE";

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

fn key(more: &str) -> String {
    format!("{{ kty = \"EC\", crv = \"P-256\", x = \"{X}\", y = \"{Y}\"{more} }}")
}

fn inline(keys: &str) -> String {
    format!("jwks = {{ keys = [{keys}] }}")
}

#[test]
fn what_an_issuer_may_say() {
    let directory = tempfile::tempdir().unwrap();
    let json = format!("{{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"{X}\",\"y\":\"{Y}\"}}");
    let write = |name: &str, text: String| fs::write(directory.path().join(name), text).unwrap();
    write("jwks.json", format!("{{\"keys\":[{json}]}}"));
    let named = json.replace('}', ",\"kid\":\"a\"}");
    write("mixed.json", format!("{{\"keys\":[{{\"kty\":\"EC2\"}},{named}]}}"));
    write("other.json", "{\"keys\":[{\"kty\":\"EC2\"}]}".to_owned());
    write("twice.json", "{\"keys\":[],\"keys\":[]}".to_owned());
    write("large.json", " ".repeat(300 * 1024));
    let signing = SigningKey::generate(SignatureAlgorithm::EdDsa, Some("own")).unwrap();
    write("issuer.pem", signing.to_pem().to_string());
    fs::set_permissions(directory.path().join("issuer.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    write("own.json", format!("{{\"keys\":[{}]}}", signing.to_jwk()));
    let authority = rcgen::generate_simple_self_signed(["ca.example.com".to_owned()]).unwrap();
    write("ca.pem", authority.cert.pem());
    let url = |url: &str| format!("jwks = {{ url = \"{url}\", ca = \"ca.pem\" }}");
    let right = inline(&key(""));
    let with = |line: &str| format!("{right}\n{line}");
    let cases: Vec<(&str, String, &[&str])> = vec![
        ("keys in place", right.clone(), &[]),
        ("two keys", inline(&format!("{}, {}", key(", kid = \"a\""), key(", kid = \"b\""))), &[]),
        ("a file", "jwks = { file = \"jwks.json\" }".to_owned(), &[]),
        (
            "a file with a key for others",
            "jwks = { file = \"mixed.json\" }".to_owned(),
            &["7:17 `mixed.json`: key 1 is left out: a key is EC with P-256, OKP with Ed25519, or RSA"],
        ),
        (
            "a file with keys for others alone",
            "jwks = { file = \"other.json\" }".to_owned(),
            &["7:17 `other.json`: key 1 cannot be used: a key is EC with P-256, OKP with Ed25519, or RSA"],
        ),
        (
            "a key in place for others",
            inline(&format!("{}, {}", key(", kid = \"a\""), key(", kid = \"b\", use = \"enc\""))),
            &["7:162 key 2 cannot be used: `use` or `key_ops` says that it is not for checking signatures"],
        ),
        (
            "everything",
            with(
                "policies = [\"p\"]\nmax_lifetime = \"1h\"\nleeway = \"0s\"\nuser_prefix = \"job_\"\npassword_prefix = \"t.\"\nenforce_container_binding = true",
            ),
            &[],
        ),
        ("no keys", String::new(), &["3:9 [issuer.i] needs `jwks`"]),
        (
            "keys of another type",
            "jwks = \"jwks.json\"".to_owned(),
            &["7:8 `jwks` must be a table, not a string"],
        ),
        (
            "both",
            "jwks = { file = \"jwks.json\", keys = [] }".to_owned(),
            &["7:8 `jwks` has one of `file`, `keys` and `url`"],
        ),
        ("neither", "jwks = {}".to_owned(), &["7:8 `jwks` has one of `file`, `keys` and `url`"]),
        ("a URL", url("https://x.example/jwks?v=1"), &[]),
        ("a URL with a port", url("https://10.0.0.1:8443"), &[]),
        ("not TLS", url("http://x.example/jwks"), &["7:16 keys are fetched over `https` alone"]),
        ("no URL", url("x.example/jwks"), &["7:16 this is not a URL"]),
        ("a password in it", url("https://u:p@x.example/"), &["7:16 this URL has no usable host and port"]),
        ("a fragment", url("https://x.example/#k"), &["7:16 the path has at most 2048 bytes"]),
        ("a space", url("https://x.example/a b"), &["7:16 the path has at most 2048 bytes"]),
        (
            "no such authorities",
            "jwks = { url = \"https://x.example/\", ca = \"none.pem\" }".to_owned(),
            &["7:43 `"],
        ),
        (
            "too often",
            "jwks = { url = \"https://x.example/\", ca = \"ca.pem\", refresh = \"10ms\" }".to_owned(),
            &["7:63 `refresh` is out of range"],
        ),
        (
            "of a URL, without one",
            "jwks = { file = \"jwks.json\", refresh = \"10s\" }".to_owned(),
            &["7:30 `refresh` has no meaning without `url`"],
        ),
        (
            "a signing key",
            with("signing_key = \"issuer.pem\""),
            &["8:15 the public half of the signing key is not among"],
        ),
        ("its own", "jwks = { file = \"own.json\" }\nsigning_key = \"issuer.pem\"".to_owned(), &[]),
        ("no such file of it", with("signing_key = \"none.pem\""), &["8:15 the keys in `"]),
        ("a file that is none", with("signing_key = \"jwks.json\""), &["8:15 `"]),
        ("an empty set", inline(""), &["7:17 there is no key"]),
        ("no such file", "jwks = { file = \"none.json\" }".to_owned(), &["7:17 the keys in"]),
        (
            "a file that is none",
            "jwks = { file = \"twice.json\" }".to_owned(),
            &["7:17 `twice.json`: not a JWK set"],
        ),
        ("a large file", "jwks = { file = \"large.json\" }".to_owned(), &["7:17 "]),
        (
            "a key of another kind",
            inline("{ kty = \"EC\", crv = \"P-384\" }"),
            &["7:18 key 1 cannot be used: a key is EC with P-256, OKP with Ed25519, or RSA"],
        ),
        (
            "a private key",
            inline(&key(&format!(", d = \"{D}\""))),
            &["7:18 key 1 cannot be used: this is a private or secret key"],
        ),
        (
            "half a key",
            inline(&format!("{{ kty = \"OKP\", crv = \"Ed25519\", x = \"AAAA\" }}, {}", key(""))),
            &["7:18 key 1 cannot be used: `x` is missing or not usable"],
        ),
        (
            "two keys without names",
            inline(&format!("{}, {}", key(", kid = \"a\""), key(""))),
            &["7:162 key 2 needs a `kid` of its own"],
        ),
        ("an unknown policy", with("policies = [\"q\"]"), &["8:13 there is no policy `q`"]),
        ("a long leeway", with("leeway = \"31s\""), &["8:10 `leeway` is out of range"]),
        ("a long life", with("max_lifetime = \"32d\""), &["8:16 `max_lifetime` is out of range"]),
        ("an empty prefix", with("user_prefix = \"\""), &["8:15 `user_prefix` has 1 to 256 bytes"]),
        ("a colon", with("password_prefix = \"jwt:\""), &["8:19 `password_prefix` has a colon"]),
        ("an unknown key", with("key = \"x\""), &["8:1 unknown key `key` in [issuer.i]"]),
        (
            "the same issuer again",
            with(&format!("[issuer.j]\n{REST}{right}")),
            &["9:10 `i` is the issuer of another section too"],
        ),
        (
            "a client named like a token",
            with(
                "[client.container_x]\npasswords = [\"sha256:0000000000000000000000000000000000000000000000000000000000000000\"]\npolicies = [\"p\"]",
            ),
            &["8:9 client `container_x` is named like the tokens of `i`"],
        ),
    ];
    for (name, lines, want) in cases {
        let (got, report) = problems(&format!("{POLICY}[issuer.i]\n{REST}{lines}\n"), directory.path());
        assert_eq!(got.len(), want.len(), "{name}: {report}");
        for (got, want) in got.iter().zip(want) {
            assert!(got.starts_with(want), "{name}: {got:?} instead of {want:?}");
        }
        assert!(!report.contains(D), "{name}: {report}");
    }
    let (got, report) = problems(&format!("{POLICY}[issuer.i]\n{right}\n"), directory.path());
    assert_eq!(
        got,
        [
            "3:9 [issuer.i] needs `issuer`",
            "3:9 [issuer.i] needs `audience`",
            "3:9 [issuer.i] needs `ceiling`"
        ],
        "{report}"
    );
    let unknown = format!("{POLICY}[issuer.i]\n{}{right}\n", REST.replace("\"p\"", "\"q\""));
    assert!(problems(&unknown, directory.path()).0.iter().any(|line| line == "6:11 there is no policy `q`"));
}

#[test]
fn an_entry_may_be_for_a_class_of_data() {
    let policy = |entry: &str| format!("[proxy]\nanonymous = \"p\"\n[policy.p]\n{entry}\n");
    for (entry, want) in [
        ("allow = [{ host = \"a.example.com\", class = \"hipaa\" }]", None),
        ("class = \"hipaa\"\nallow = [\"a.example.com\"]", None),
        (
            "allow = [{ host = \"a.example.com\", class = \"pci\" }]",
            Some("4:44 `pci` is not a value of `class`"),
        ),
        (
            "allow = [\"b.example.com\"]\ndeny = [{ host = \"a.example.com\", class = \"hipaa\" }]",
            Some("5:35 `class` has no meaning in a deny list"),
        ),
    ] {
        let (got, report) = problems(&policy(entry), Path::new(""));
        assert_eq!(got.first().map(String::as_str), want, "{report}");
    }
}

#[test]
fn the_keys_are_part_of_what_was_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jwks.json");
    let text = format!("{POLICY}[issuer.i]\n{REST}jwks = {{ file = \"jwks.json\" }}\n");
    let mut written = Vec::new();
    for kid in ["one", "two"] {
        let key =
            format!("{{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"{X}\",\"y\":\"{Y}\",\"kid\":\"{kid}\"}}");
        fs::write(&path, format!("{{\"keys\":[{key}]}}")).unwrap();
        let loaded = load_text("t.toml", &text, directory.path(), &Options::new(Revision(1))).unwrap();
        assert!(!loaded.issuers.is_empty());
        written.push(loaded.written.unwrap());
    }
    assert_ne!(written[0], written[1], "a changed file is another revision");
}
