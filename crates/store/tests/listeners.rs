//! Listeners with TLS: their files are read when the configuration is.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use exeat_policy::Revision;
use exeat_store::{Options, Problem, Report, Settings, load_text};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;

/// A folder with two certificates and their keys, and files that are neither.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let put = |name: &str, text: &str, mode: u32| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for name in ["one", "two"] {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed([format!("{name}.example.com")]).unwrap();
        put(&format!("{name}.pem"), &cert.pem(), 0o644);
        put(&format!("{name}.key"), &signing_key.serialize_pem(), 0o600);
    }
    put("open.key", &fs::read_to_string(folder.path().join("one.key")).unwrap(), 0o644);
    put("not.pem", "hello\n", 0o600);
    put("broken.pem", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n", 0o600);
    put("odd.key", "-----BEGIN PRIVATE KEY-----\nc2VjcmV0LWJ5dGVz\n-----END PRIVATE KEY-----\n", 0o600);
    folder
}

fn load(listen: &str, folder: &Path) -> Result<(Settings, Report), Report> {
    let text =
        format!("[proxy]\nlisten = [{listen}]\nanonymous = \"p\"\n[policy.p]\nallow = [\"a.example.com\"]\n");
    load_text("t.toml", &text, folder, &Options::new(Revision(1)))
        .map(|loaded| (loaded.settings, loaded.warnings))
}

fn tls(cert: &str, key: &str) -> String {
    format!("{{ address = \"127.0.0.1:2\", tls = {{ cert = \"{cert}\", key = \"{key}\" }} }}")
}

#[test]
fn plain_and_tls_listeners_stand_side_by_side() {
    let folder = folder();
    let listen = format!("\"127.0.0.1:1\", {}", tls("one.pem", "one.key"));
    let (settings, warnings) = load(&listen, folder.path()).unwrap();
    assert!(warnings.is_empty(), "{warnings}");
    let [plain, tls] = settings.listen.as_slice() else { panic!("{:?}", settings.listen) };
    assert!(plain.tls.is_none());
    let files = tls.tls.as_ref().unwrap();
    assert_eq!(files.cert, folder.path().join("one.pem"), "paths start from the file's folder");
    assert_eq!(files.key, folder.path().join("one.key"));
}

#[test]
fn a_pair_that_cannot_serve_is_an_error_at_its_place() {
    let folder = folder();
    let cases = [
        ("absent.pem", "one.key", "2:53 `DIR/absent.pem` cannot be read: no such file or directory"),
        ("one.pem", "absent.key", "2:70 `DIR/absent.key` cannot be read: no such file or directory"),
        ("not.pem", "one.key", "2:53 `DIR/not.pem` has no `-----BEGIN CERTIFICATE-----`"),
        ("one.key", "one.key", "2:53 `DIR/one.key` has no `-----BEGIN CERTIFICATE-----`"),
        ("one.pem", "one.pem", "2:70 `DIR/one.pem` has no `-----BEGIN PRIVATE KEY-----`"),
        ("broken.pem", "one.key", "2:53 `DIR/broken.pem` is not PEM"),
        ("one.pem", "two.key", "2:70 the key is not that of the certificate"),
    ];
    for (cert, key, want) in cases {
        let report = load(&tls(cert, key), folder.path()).unwrap_err();
        let got: Vec<String> = report.problems().iter().map(|problem| line(problem, folder.path())).collect();
        let want = want.replace("2:70", &format!("2:{}", 60 + cert.len() + 3));
        assert_eq!(got, [want], "{cert} {key}");
    }
    let report = load(&tls("one.pem", "odd.key"), folder.path()).unwrap_err().to_string();
    assert!(report.contains("is not usable") && !report.contains("secret-bytes"), "{report}");
}

#[test]
fn whose_certificates_are_asked_for_is_read_at_the_start() {
    let folder = folder();
    for (name, keys, want) in [
        (
            "an authority",
            "client_ca = \"two.pem\"",
            "2:58 no certificate of a client can be revoked without `crl`",
        ),
        (
            "none there",
            "client_ca = \"absent.pem\", crl = [\"absent.pem\"]",
            "2:58 `DIR/absent.pem` cannot be read: no such file or directory",
        ),
        (
            "none in it",
            "client_ca = \"not.pem\", crl = [\"not.pem\"]",
            "2:58 `DIR/not.pem` has no `-----BEGIN CERTIFICATE-----`",
        ),
        (
            "no list in it",
            "client_ca = \"two.pem\", crl = [\"two.pem\"]",
            "2:75 `DIR/two.pem` has no `-----BEGIN X509 CRL-----`",
        ),
        ("no list", "client_ca = \"two.pem\", crl = []", "2:69 `crl` lists 1 to 64 files"),
        ("a list of nobody", "crl = [\"two.pem\"]", "2:46 `crl` means nothing without `client_ca`"),
        ("a word of nobody", "client = \"optional\"", "2:46 `client` means nothing without `client_ca`"),
        (
            "another word",
            "client_ca = \"two.pem\", crl = [\"x\"], client = \"maybe\"",
            "2:91 `maybe` is not a value of `client`",
        ),
    ] {
        let listen = tls("one.pem", "one.key").replace("cert =", &format!("{keys}, cert ="));
        let report = match load(&listen, folder.path()) {
            Ok((settings, warnings)) => {
                assert!(settings.listen[0].tls.as_ref().unwrap().clients.is_some(), "{name}");
                warnings
            }
            Err(report) => report,
        };
        let got: Vec<String> = report.problems().iter().map(|problem| line(problem, folder.path())).collect();
        assert_eq!(got, [want], "{name}");
    }
}

#[test]
fn a_key_that_everybody_can_read_is_warned_of() {
    let folder = folder();
    let (_, warnings) = load(&tls("one.pem", "open.key"), folder.path()).unwrap();
    let got: Vec<&str> = warnings.problems().iter().map(Problem::message).collect();
    assert_eq!(got, ["every user of this machine can read the key"]);
}

fn line(problem: &Problem, folder: &Path) -> String {
    let place = problem.location().unwrap();
    let message = problem.message().replace(&*folder.to_string_lossy(), "DIR");
    format!("{}:{} {message}", place.line, place.column)
}
