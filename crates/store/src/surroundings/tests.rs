use std::os::unix::fs::PermissionsExt as _;

use exeat_policy::Revision;

use super::*;
use crate::{Options, load};

/// What a text needs that stands in `exeat.toml`, beside files that it may name.
fn needs(text: &str, platform: Platform, port: Option<u16>) -> Result<Surroundings, NoListener> {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, mode: u32| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    write("hosts.txt", "example.com\n", 0o644);
    write("sub/more.txt", "example.org\n", 0o640);
    write("password", "x\n", 0o644);
    let pair = rcgen::generate_simple_self_signed(["exeat".to_owned()]).unwrap();
    write("cert.pem", &pair.cert.pem(), 0o644);
    write("key.pem", &pair.signing_key.serialize_pem(), 0o600);
    let path = write("exeat.toml", text, 0o644);
    let loaded = load(&path, &Options::new(Revision(1))).unwrap();
    let mut needs = surroundings(&path, &loaded, platform, port)?;
    for file in &mut needs.files {
        file.source = file.source.strip_prefix(folder.path()).unwrap().to_owned();
    }
    Ok(needs)
}

fn warnings(needs: &Surroundings) -> Vec<String> {
    let warning = |problem: &crate::Problem| {
        let place = problem.location().map(|place| format!("{}:{} ", place.line, place.column));
        format!("{}{} | {}", place.unwrap_or_default(), problem.message(), problem.help().unwrap_or_default())
    };
    assert!(!needs.warnings.has_errors());
    needs.warnings.problems().iter().map(warning).collect()
}

#[test]
fn what_cannot_work_is_told_with_its_place_and_the_correction() {
    use Platform::{Docker, Kubernetes};
    let health =
        "without the admin API there is no health check | write socket = \"/run/exeat/api.sock\" in [api]";
    let fine = "[proxy]\nlisten = [\"0.0.0.0:3128\"]\n[api]\nsocket = \"/run/exeat/api.sock\"\n";
    let cases: [(&str, Platform, &str, &[&str]); 16] = [
        ("fine", Docker, fine, &[]),
        (
            "fine in both families",
            Docker,
            "[proxy]\nlisten = [\"[::]:3128\"]\n[api]\nsocket = \"/run/e/s\"\n",
            &[],
        ),
        ("no socket, Docker", Docker, "[proxy]\nlisten = [\"0.0.0.0:3128\"]\n", &[health]),
        ("no socket, Kubernetes", Kubernetes, "[proxy]\nlisten = [\"0.0.0.0:3128\"]\n", &[]),
        (
            "loopback",
            Kubernetes,
            "[proxy]\nlisten = [\"127.0.0.1:3128\"]\n",
            &[
                "2:11 `127.0.0.1:3128` is reached from within the proxy's own container only | write \"0.0.0.0:3128\"",
            ],
        ),
        (
            "loopback by default",
            Kubernetes,
            "",
            &[
                "`127.0.0.1:3128` is reached from within the proxy's own container only | write listen = [\"0.0.0.0:3128\"] in [proxy]",
            ],
        ),
        ("loopback beside another", Kubernetes, "[proxy]\nlisten = [\"127.0.0.1:1\", \"0.0.0.0:2\"]\n", &[]),
        (
            "another machine's address, in a table",
            Kubernetes,
            "[proxy]\nlisten = [\"127.0.0.1:1\", { address = \"[2001:db8::1]:2\" }]\n",
            &["2:38 the container will not have the address `2001:db8::1` | write \"[::]:2\""],
        ),
        (
            "port 0",
            Kubernetes,
            "[proxy]\nlisten = [\"0.0.0.0:0\"]\n",
            &["2:11 port 0 is another one at each start | write a port, such as 3128"],
        ),
        (
            "a loopback address behind a unix socket",
            Kubernetes,
            "[proxy]\nlisten = [\"unix:/run/x/s\", \"127.0.0.1:1\"]\n",
            &[
                "2:11 `/run/x/s` is reached from within the proxy's own container only | let a volume that user 65532 may write and that is in the workload's container, too, take the place of the generated `/run/x`",
                "2:28 `127.0.0.1:1` is reached from within the proxy's own container only | write \"0.0.0.0:1\"",
            ],
        ),
        (
            "a unix socket in a table",
            Kubernetes,
            "[proxy]\nlisten = [{ address = \"unix:/run/x/s\" }, \"0.0.0.0:1\"]\n",
            &[
                "2:23 `/run/x/s` is reached from within the proxy's own container only | let a volume that user 65532 may write and that is in the workload's container, too, take the place of the generated `/run/x`",
            ],
        ),
        (
            "a unix socket beside the configuration",
            Kubernetes,
            "[proxy]\nlisten = [\"unix:s\", \"0.0.0.0:1\"]\n",
            &[
                "2:11 `/etc/exeat/s` cannot be written in the container | write \"unix:/run/exeat/workload.sock\"",
            ],
        ),
        (
            "resolver on loopback",
            Kubernetes,
            "[proxy]\nlisten = [\"0.0.0.0:1\"]\n[resolver]\nservers = [\"192.0.2.1\", \"127.0.0.53\", \"[::1]:53\"]\n",
            &[
                "4:25 no name server listens at `127.0.0.53` within the container | write \"system\", or the server's own address",
                "4:39 no name server listens at `[::1]:53` within the container | write \"system\", or the server's own address",
            ],
        ),
        (
            "relative files that are written",
            Kubernetes,
            "[proxy]\nlisten = [\"0.0.0.0:1\"]\n[audit]\nfile = \"audit.jsonl\"\n[api]\nsocket = \"s\"\n[state]\ndirectory = \"state\"\n",
            &[
                "4:8 `/etc/exeat/audit.jsonl` cannot be written in the container | remove `file`: records then go to standard output, which is kept outside",
                "6:10 `/etc/exeat/s` cannot be written in the container | write socket = \"/run/exeat/api.sock\"",
                "8:13 `/etc/exeat/state` cannot be written in the container | write directory = \"/var/lib/exeat\"",
            ],
        ),
        (
            "what goes with the container",
            Kubernetes,
            "[proxy]\nlisten = [\"0.0.0.0:1\"]\n[audit]\nfile = \"/var/log/exeat/a\"\n[state]\ndirectory = \"/var/lib/exeat\"\n",
            &[
                "4:8 what is written to `/var/log/exeat` goes with the container | remove `file`: records then go to standard output, which is kept outside",
                "6:13 what is written to `/var/lib/exeat` goes with the container | let a volume that user 65532 may write take the place of the generated one",
            ],
        ),
        (
            "a file in the root folder",
            Kubernetes,
            "[proxy]\nlisten = [\"0.0.0.0:1\"]\n[api]\nsocket = \"/s\"\n",
            &["4:10 `/s` cannot be written in the container | write socket = \"/run/exeat/api.sock\""],
        ),
    ];
    for (name, platform, text, want) in cases {
        assert_eq!(warnings(&needs(text, platform, None).unwrap()), want, "{name}");
    }
}

#[test]
fn a_file_that_the_container_cannot_read_is_told_where_files_are_shared() {
    let text = "[proxy]\nlisten = [\"0.0.0.0:1\"]\n[api]\nsocket = \"/run/e/s\"\n[groups.a]\nfile = \"sub/more.txt\"\n[policy.p]\nallow = [\"@a\"]\n";
    let got = warnings(&needs(text, Platform::Docker, None).unwrap());
    assert_eq!(got.len(), 1, "{got:?}");
    assert!(got[0].starts_with("6:8 user 65532 of the container cannot read `/"), "{got:?}");
    assert!(got[0].contains("/sub/more.txt && chmod 640 "), "{got:?}");
    assert_eq!(warnings(&needs(text, Platform::Kubernetes, None).unwrap()), [""; 0]);
}

#[test]
fn files_and_folders_have_their_place_in_the_container() {
    let text = r#"
[proxy]
listen = ["0.0.0.0:3128", "unix:/run/boxes/a", { address = "unix:/run/exeat/b" }]
[audit]
file = "/var/log/exeat/audit.jsonl"
[api]
socket = "/run/exeat/../exeat/api.sock"
[state]
directory = "/var/log/exeat"
[groups.a]
file = "hosts.txt"
[groups.b]
file = "sub/../sub/more.txt"
[groups.c]
file = "hosts.txt"
[policy.p]
allow = ["@a", "@b", "@c"]
"#;
    let got = needs(text, Platform::Kubernetes, None).unwrap();
    let files: Vec<_> =
        got.files.iter().map(|file| (file.source.to_str().unwrap(), file.target.to_str().unwrap())).collect();
    let want = [
        ("exeat.toml", "/etc/exeat/exeat.toml"),
        ("hosts.txt", "/etc/exeat/hosts.txt"),
        ("sub/../sub/more.txt", "/etc/exeat/sub/more.txt"),
    ];
    assert_eq!(files, want);
    assert_eq!(got.folders, ["/run/exeat", "/var/log/exeat", "/run/boxes"].map(Path::new));
    assert_eq!(got.socket.as_deref(), Some(Path::new("/run/exeat/api.sock")));
}

#[test]
fn paths_outside_of_the_folder_stay_outside() {
    for (path, want) in [
        ("a", "/etc/exeat/a"),
        ("./a//b/.", "/etc/exeat/a/b"),
        ("../a", "/etc/a"),
        ("../../../../a", "/a"),
        ("/srv/a", "/srv/a"),
    ] {
        assert_eq!(in_container(Path::new(path)), Path::new(want), "{path}");
    }
}

#[test]
fn secrets_are_noticed_wherever_they_stand() {
    let fine = "[proxy]\nlisten = [\"0.0.0.0:1\"]\n";
    let hop = "[next_hop.corp]\nurl = \"http://192.0.2.1:3128\"\n";
    let hash = format!("sha256:{}", "0".repeat(64));
    let cases = [
        ("none", String::new(), false),
        ("hash of a client", format!("[client.a]\npasswords = [\"{hash}\"]\npolicies = []\n"), true),
        ("next hop without", hop.to_owned(), false),
        ("password in a URL", hop.replace("//", "//user:word@"), true),
        ("password file", format!("{hop}username = \"u\"\npassword_file = \"password\"\n"), true),
        ("group file", "[groups.a]\nfile = \"hosts.txt\"\n".to_owned(), false),
    ];
    for (name, text, want) in cases {
        let got = needs(&format!("{fine}{text}"), Platform::Kubernetes, None).unwrap();
        assert_eq!(got.has_secrets, want, "{name}");
    }
}

#[test]
fn a_listener_with_tls_brings_its_files() {
    let text =
        "[proxy]\nlisten = [{ address = \"0.0.0.0:1\", tls = { cert = \"cert.pem\", key = \"key.pem\" } }]\n";
    let got = needs(text, Platform::Kubernetes, None).unwrap();
    assert!(got.tls && got.has_secrets);
    let names: Vec<_> = got.files.iter().map(|file| file.target.to_str().unwrap()).collect();
    assert_eq!(names, ["/etc/exeat/exeat.toml", "/etc/exeat/cert.pem", "/etc/exeat/key.pem"]);
    assert!(!got.needs_certificate);
    assert!(!needs("[proxy]\nlisten = [\"0.0.0.0:1\"]\n", Platform::Kubernetes, None).unwrap().tls);
    for (client, want) in [("", true), (", client = \"required\"", true), (", client = \"optional\"", false)]
    {
        let text = text.replace("\"key.pem\"", &format!("\"key.pem\", client_ca = \"cert.pem\"{client}"));
        let got = needs(&text, Platform::Kubernetes, None).unwrap();
        assert_eq!(got.needs_certificate, want, "{client}");
    }
}

#[test]
fn a_listener_is_the_one_that_others_reach_or_that_was_asked_for() {
    let list = |addresses: &str| format!("[proxy]\nlisten = [{addresses}]\n");
    let three = list("\"127.0.0.1:1\", \"192.0.2.1:2\", \"0.0.0.0:3\"");
    let cases = [
        ("the open one", three.clone(), None, Ok(3)),
        ("by its port", three.clone(), Some(1), Ok(1)),
        ("one address rather than loopback", list("\"[::1]:1\", \"192.0.2.1:2\""), None, Ok(2)),
        (
            "unix sockets only",
            list("\"unix:/run/x/s\""),
            None,
            Err("`listen` has unix sockets only, and workloads are led to an address: add one, such as \"0.0.0.0:3128\""
                .to_owned()),
        ),
        (
            "a port of unix sockets only",
            list("\"unix:/run/x/s\""),
            Some(4),
            Err("no listener has the port 4; `listen` has unix sockets only".to_owned()),
        ),
        (
            "none",
            three,
            Some(4),
            Err("no listener has the port 4; `listen` has 127.0.0.1:1, 192.0.2.1:2, 0.0.0.0:3".to_owned()),
        ),
    ];
    for (name, text, port, want) in cases {
        let got = needs(&text, Platform::Kubernetes, port);
        assert_eq!(got.map(|needs| needs.port).map_err(|error| error.to_string()), want, "{name}");
    }
}

#[test]
fn credentials_are_needed_unless_a_policy_is_for_those_without() {
    let fine = "[proxy]\nlisten = [\"0.0.0.0:1\"]\n";
    let open = format!("{fine}anonymous = \"p\"\n[policy.p]\nallow = [\"example.com\"]\n");
    assert!(needs(fine, Platform::Docker, None).unwrap().needs_credentials);
    assert!(!needs(&open, Platform::Docker, None).unwrap().needs_credentials);
    let placed = format!("{fine}[workload.batch]\naddresses = [\"10.99.0.0/24\"]\n");
    assert!(!needs(&placed, Platform::Docker, None).unwrap().needs_credentials);
    let mixed = format!("{placed}[client.app]\npasswords = [\"sha256:{:064}\"]\n", 1);
    assert!(needs(&mixed, Platform::Docker, None).unwrap().needs_credentials);
}
