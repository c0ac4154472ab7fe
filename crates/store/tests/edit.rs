//! Adding clients to a file.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink};

use exeat_policy::{Label, Labels};
use exeat_store::{EditError, Existing, NewClient, add_client, write_atomically};

/// The hash of the password to add; `NEW` stands for it in the cases.
const HASH: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

fn add(
    text: &str,
    name: &str,
    policies: &[&str],
    labels: &[(Label, &str)],
    existing: Existing,
) -> Result<String, EditError> {
    let policies: Vec<String> = policies.iter().map(ToString::to_string).collect();
    let mut set = Labels::default();
    labels.iter().for_each(|(label, value)| set.set(*label, *value));
    add_client(text, &NewClient { name, password_hash: HASH, policies: &policies, labels: &set }, existing)
}

/// Name, text, client, policies, labels, and the text that comes of them.
type Case<'c> = (&'c str, &'c str, &'c str, &'c [&'c str], &'c [(Label, &'c str)], &'c str);

#[test]
fn a_client_is_added_and_everything_else_stays() {
    let labels = [(Label::Organization, "gsa"), (Label::App, "ledger")];
    let cases: [Case<'_>; 7] = [
        ("to nothing", "", "a", &["p"], &[], "[client.a]\npasswords = [\"NEW\"]\npolicies = [\"p\"]\n"),
        (
            "to a file without clients",
            "# top\n[proxy] # why\ndisclose = true\n# end\n",
            "a",
            &["p", "q"],
            &labels,
            "# top\n[proxy] # why\ndisclose = true\n\n[client.a]\npasswords = [\"NEW\"]\npolicies = [\"p\", \"q\"]\nlabels = { organization = \"gsa\", app = \"ledger\" }\n# end\n",
        ),
        (
            "after the last client, before what follows",
            "[client.z] # first\npasswords = [\"sha256:old\"]\n\n# about the policy\n[policy.p]\nallow = []\n",
            "a",
            &[],
            &[],
            "[client.z] # first\npasswords = [\"sha256:old\"]\n\n[client.a]\npasswords = [\"NEW\"]\n\n# about the policy\n[policy.p]\nallow = []\n",
        ),
        (
            "under a header of its own",
            "[client]\n[client.z]\npasswords = []\n",
            "a",
            &[],
            &[],
            "[client]\n[client.z]\npasswords = []\n\n[client.a]\npasswords = [\"NEW\"]\n",
        ),
        ("a name that needs quotes", "", "a b", &[], &[], "[client.\"a b\"]\npasswords = [\"NEW\"]\n"),
        (
            "beside an inline table",
            "client = { z = { passwords = [\"sha256:old\"] } } # why\n",
            "a",
            &[],
            &[],
            "client = { z = { passwords = [\"sha256:old\"] }, a = { passwords = [\"NEW\"] } } # why\n",
        ),
        (
            "with CRLF",
            "[proxy]\r\ndisclose = true\r\n",
            "a",
            &[],
            &[],
            "[proxy]\r\ndisclose = true\r\n\r\n[client.a]\r\npasswords = [\"NEW\"]\r\n",
        ),
    ];
    for (name, text, client, policies, labels, want) in cases {
        let want = want.replace("NEW", HASH);
        assert_eq!(add(text, client, policies, labels, Existing::Refuse).unwrap(), want, "{name}");
    }
}

#[test]
fn a_second_password_is_added_behind_the_first() {
    let cases = [
        ("on one line", "passwords = [\"sha256:old\"] # why", "passwords = [\"sha256:old\", \"NEW\"] # why"),
        ("to an empty list", "passwords = []", "passwords = [\"NEW\"]"),
        (
            "over lines, with comments that stay with theirs",
            "passwords = [ # current\n    \"sha256:old\", # since May\n    # end\n]",
            "passwords = [ # current\n    \"sha256:old\", # since May\n    # end\n    \"NEW\",\n]",
        ),
        (
            "over lines, without a trailing comma",
            "passwords = [\n  \"sha256:old\"\n]",
            "passwords = [\n  \"sha256:old\",\n  \"NEW\",\n]",
        ),
        (
            "over lines, a comment and no trailing comma",
            "passwords = [\n  \"sha256:old\" # since May\n]",
            "passwords = [\n  \"sha256:old\", # since May\n  \"NEW\",\n]",
        ),
    ];
    for (name, text, want) in cases {
        let (text, want) = (
            format!("[client.a]\n{text}\npolicies = [\"p\"]\n"),
            format!("[client.a]\n{want}\npolicies = [\"p\"]\n"),
        );
        let want = want.replace("NEW", HASH);
        assert_eq!(add(&text, "a", &["ignored"], &[], Existing::AddPassword).unwrap(), want, "{name}");
    }
}

#[test]
fn what_cannot_be_added_is_refused_with_the_reason() {
    let one = "[client.a]\npasswords = [\"sha256:old\"]\n";
    let two = "[client.a]\npasswords = [\"sha256:old\", \"sha256:older\"]\n";
    let cases = [
        (
            "there already",
            one,
            "a",
            Existing::Refuse,
            "client `a` exists: add a second password to it with --rotate, or choose another name",
        ),
        (
            "two passwords",
            two,
            "a",
            Existing::AddPassword,
            "client `a` has 2 passwords: remove the old one first",
        ),
        (
            "not TOML",
            "[client",
            "a",
            Existing::Refuse,
            "the configuration is not valid TOML: run `exeat check`",
        ),
        (
            "clients are no table",
            "client = 1",
            "a",
            Existing::Refuse,
            "`client` is not written as a table: run `exeat check`",
        ),
        (
            "the client is no table",
            "[client]\na = 1",
            "a",
            Existing::AddPassword,
            "`client.a` is not written as a table: run `exeat check`",
        ),
        (
            "passwords are no list",
            "[client.a]\npasswords = 1",
            "a",
            Existing::AddPassword,
            "`client.a.passwords` is not written as a list: run `exeat check`",
        ),
        (
            "a colon",
            "",
            "a:b",
            Existing::Refuse,
            "`a:b` is not a usable name: the user name of Basic credentials has no colon and no control character",
        ),
        ("empty", "", "", Existing::Refuse, "a name must not be empty: write a name in the header"),
    ];
    for (name, text, client, existing, want) in cases {
        assert_eq!(add(text, client, &[], &[], existing).unwrap_err().to_string(), want, "{name}");
    }
}

#[test]
fn a_password_in_clear_is_never_written() {
    let labels = Labels::default();
    let client = NewClient { name: "a", password_hash: "hunter2", policies: &[], labels: &labels };
    let error = add_client("", &client, Existing::Refuse).unwrap_err();
    assert_eq!(error.to_string(), "the password hash is not one that `exeat client hash` prints");
    assert!(!format!("{error:?}").contains("hunter2"));
}

#[test]
fn a_file_is_replaced_in_one_step_with_its_permissions_and_through_links() {
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("exeat.toml"), folder.path().join("link.toml"));
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    // Only root can give a file away; for others both are the same already.
    let _only_root = chown(&path, Some(12345), Some(54321));
    let before = fs::metadata(&path).unwrap();
    symlink(&path, &link).unwrap();
    write_atomically(&link, "new").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    let after = fs::metadata(&path).unwrap();
    assert_eq!(
        (after.permissions().mode() & 0o7777, after.uid(), after.gid()),
        (0o640, before.uid(), before.gid())
    );
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left behind");
    assert!(write_atomically(&folder.path().join("none.toml"), "new").is_err());
}

/// A device or a socket would be gone if a file took its place.
#[test]
fn only_a_file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = write_atomically(&path, "text").unwrap_err();
    assert_eq!(error.source.to_string(), "not a regular file");
    assert!(fs::metadata(&path).unwrap().file_type().is_socket());
}

#[test]
fn an_entry_is_added_behind_the_others_and_comments_stay() {
    for (name, text, want) in [
        (
            "a line each",
            "[policy.web]\nallow = [\n  \"example.com\", # the site\n  # last words\n]\n",
            Ok(
                "[policy.web]\nallow = [\n  \"example.com\", # the site\n  # last words\n  \"new.example.org:8443\",\n]\n",
            ),
        ),
        (
            "one line",
            "[policy]\nweb = { allow = [\"example.com\"] } # why\n",
            Ok("[policy]\nweb = { allow = [\"example.com\", \"new.example.org:8443\"] } # why\n"),
        ),
        (
            "none yet",
            "[policy.web]\r\nmode = \"enforce\"\r\n",
            Ok("[policy.web]\r\nmode = \"enforce\"\r\nallow = [\"new.example.org:8443\"]\r\n"),
        ),
        ("another policy", "[policy.other]\nallow = []\n", Err("`policy.web` is not written as a table")),
        (
            "no list",
            "[policy.web]\nallow = \"example.com\"\n",
            Err("`policy.web.allow` is not written as a list"),
        ),
        ("not TOML", "[policy.web\n", Err("the configuration is not valid TOML")),
    ] {
        let added = exeat_store::add_entry(text, "web", "new.example.org:8443");
        match (added, want) {
            (Ok(added), Ok(want)) => assert_eq!(added, want, "{name}"),
            (Err(error), Err(want)) => assert!(error.to_string().starts_with(want), "{name}: {error}"),
            (added, want) => panic!("{name}: {added:?} and not {want:?}"),
        }
    }
}
