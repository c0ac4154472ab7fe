//! What a configuration means once it is loaded.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use exeat_audit::Sink;
use exeat_dns::{ResolverConfig, Upstream};
use exeat_identity::{Accepted, Authenticator};
use exeat_model::{Authority, Host, Transport};
use exeat_policy::{Announce, Denial, EgressRequest, Labels, Reason, Revision, Verdict, decide, permit};
use exeat_proxy::Limits;
use exeat_store::{
    Flags, LISTEN_DEFAULT, Listener, Loaded, Options, Problem, Purpose, from_flags, load, load_text,
};

const HASH: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

fn options() -> Options {
    Options::new(Revision(7))
}

fn text(text: &str) -> Loaded {
    load_text("t.toml", text, Path::new("/etc/exeat"), &options()).unwrap_or_else(|report| panic!("{report}"))
}

fn messages(loaded: &Loaded) -> Vec<&str> {
    loaded.warnings.problems().iter().map(Problem::message).collect()
}

/// The place of the rule that allows, or the reason of the denial with the place of the rule that denies.
fn verdict(loaded: &Loaded, names: &[&str], labels: &Labels, target: &str) -> String {
    let bound = loaded.policy.bind(names, labels);
    let target = Authority::parse(target, None).unwrap();
    let request = EgressRequest { bound: &bound, target: &target, transport: Transport::Tcp };
    match decide(&loaded.policy, &request) {
        Verdict::Allow(allowed) => match &target.host {
            // An address is its own answer.
            Host::Address(address) => match permit(&loaded.policy, &request, &allowed, &[address.get()]) {
                Ok(_) => "allow".to_owned(),
                Err(denial) => denial.reason.token().to_owned(),
            },
            Host::Name(_) => "allow".to_owned(),
        },
        Verdict::Deny(Denial { reason, rule }) => {
            let place = rule.and_then(|rule| loaded.policy.rule(rule)).map(|rule| format!(" {}", rule.place));
            format!("{}{}", reason.token(), place.unwrap_or_default())
        }
    }
}

#[test]
fn the_example_of_the_documentation_loads_and_means_what_it_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/exeat.toml");
    let folder = path.parent().unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    let loaded = load(&path, &options()).unwrap();
    let others_can_read = "every user of this machine can read the password hashes";
    let want: &[&str] = if mode & 0o004 == 0 { &[] } else { &[others_can_read] };
    assert_eq!(messages(&loaded), want);

    let settings = &loaded.settings;
    assert_eq!(settings.listen, [Listener::plain(LISTEN_DEFAULT)]);
    assert_eq!((settings.anonymous.as_deref(), settings.disclose, settings.pac), (None, true, true));
    assert_eq!(settings.audit.sink, Sink::File(folder.join("audit.jsonl")));
    assert!(!settings.audit.required && loaded.anonymous.is_none());
    assert_eq!(settings.limits, Limits::default());
    assert_eq!(settings.resolver, ResolverConfig::default());
    assert_eq!((loaded.policy.revision(), loaded.clients.len()), (Revision(7), 1));

    let hosts = folder.join("hosts.txt");
    let place = |line: u32| format!("{}:{line}", hosts.display());
    let cases = [
        ("api.stripe.example:443", "allow".to_owned()),
        ("api.stripe.example:8443", format!("port_not_allowed {}:12:12", path.display())),
        ("evilapi.stripe.example:443", "host_not_allowed".to_owned()),
        ("a.hooks.stripe.example:8443", "allow".to_owned()),
        ("uploads.hooks.stripe.example:8443", format!("host_denied {}:20:10", path.display())),
        ("ledger.corp.example:5432", "allow".to_owned()),
        ("ads.example.net:443", format!("host_denied {}", place(3))),
        ("a.tracker.example:443", format!("host_denied {}", place(4))),
    ];
    for (target, want) in cases {
        assert_eq!(verdict(&loaded, &["payments"], &Labels::default(), target), want, "{target}");
    }
}

#[test]
fn the_file_to_start_from_loads_clean() {
    let text = include_str!("../../../docs/exeat.toml");
    let loaded =
        load_text("exeat.toml", text, Path::new(""), &options()).unwrap_or_else(|report| panic!("{report}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
}

#[test]
fn every_setting_arrives() {
    let loaded = text(&format!(
        "[proxy]\nlisten = [\"127.0.0.1:1\", \"[::1]:2\"]\nanonymous = \"p\"\ndisclose = false\npac = false\nproxy_protocol_from = [\"10.0.0.0/8\"]\n\
         [resolver]\nservers = [\"192.0.2.1\", \"[2001:db8::1]:54\", \"system\"]\ntimeout = \"500ms\"\nattempts = 3\n\
         hosts_file = true\ncache_entries = 5\n\
         [limits]\nconnections = 1_000\nhead_bytes = 0x4000\nidle_timeout = \"1h\"\n\
         [audit]\nfile = \"/var/log/exeat.jsonl\"\nrequired = true\n\
         [policy.p]\nallow = [\"a.example.com\"]\n[client.c]\npasswords = [\"{HASH}\"]\npolicies = [\"p\"]\n"
    ));
    let settings = &loaded.settings;
    let listen: Vec<String> = settings.listen.iter().map(|listener| listener.address.to_string()).collect();
    assert_eq!(listen, ["127.0.0.1:1", "[::1]:2"]);
    assert_eq!((settings.anonymous.as_deref(), settings.disclose, settings.pac), (Some("p"), false, false));
    assert_eq!(settings.proxy_protocol_from, [exeat_model::IpBlock::parse("10.0.0.0/8").unwrap()]);
    let want = ResolverConfig {
        servers: vec![
            Upstream::Address("192.0.2.1:53".parse().unwrap()),
            Upstream::Address("[2001:db8::1]:54".parse().unwrap()),
            Upstream::System,
        ],
        timeout: Duration::from_millis(500),
        attempts: 3,
        hosts_file: true,
        cache_entries: 5,
    };
    assert_eq!(settings.resolver, want);
    let want = Limits {
        connections: 1000,
        head_bytes: 16384,
        idle_timeout: Duration::from_secs(3600),
        ..Limits::default()
    };
    assert_eq!(settings.limits, want);
    assert_eq!(settings.audit.sink, Sink::File(PathBuf::from("/var/log/exeat.jsonl")));
    assert!(settings.audit.required);
    let anonymous = loaded.anonymous.as_ref().unwrap();
    assert_eq!((&*anonymous.name, anonymous.proof.name()), ("anonymous", "anonymous"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
}

#[test]
fn what_an_upstream_is_told_arrives() {
    let loaded = text(
        "[proxy]\nanonymous = \"p\"\n[policy.p]\nproxy_protocol = \"v2\"\n\
         allow = [\"192.0.2.1\", { network = \"192.0.2.2\", proxy_protocol = \"v2-principal\" }, \"@g\"]\n\
         [groups.g]\nproxy_protocol = \"off\"\nentries = [\"192.0.2.3\"]\n",
    );
    let bound = loaded.policy.bind(&["p"], &Labels::default());
    for (target, want) in [
        ("192.0.2.1:443", Announce::Client),
        ("192.0.2.2:443", Announce::ClientAndPrincipal),
        ("192.0.2.3:443", Announce::Nothing),
    ] {
        let target = Authority::parse(target, None).unwrap();
        let (request, address) =
            (EgressRequest { bound: &bound, target: &target, transport: Transport::Tcp }, &target.host);
        let (Verdict::Allow(allowed), Host::Address(address)) = (decide(&loaded.policy, &request), address)
        else {
            panic!("{target}")
        };
        let permit = permit(&loaded.policy, &request, &allowed, &[address.get()]).unwrap();
        assert_eq!(permit.announce(), want, "{target}");
    }
}

#[test]
fn own_listeners_are_the_floor() {
    let toml = "[proxy]\nlisten = [\"127.0.0.1:3128\"]\nanonymous = \"p\"\n[policy.p]\nallow = [\"127.0.0.0/8:1-65535\"]\n";
    let options = Options { listeners: vec!["127.0.0.1:9999".parse().unwrap()], ..options() };
    let loaded = load_text("t.toml", toml, Path::new(""), &options).unwrap();
    for (target, want) in [("127.0.0.1:3128", false), ("127.0.0.1:9999", false), ("127.0.0.1:80", true)] {
        let got = verdict(&loaded, &["p"], &Labels::default(), target);
        assert_eq!(got == "allow", want, "{target}: {got}");
    }
}

#[test]
fn a_file_that_others_can_read_is_warned_of_if_it_has_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("exeat.toml");
    let client = format!("[client.c]\npasswords = [\"{HASH}\"]\npolicies = [\"p\"]\n");
    let policy = "[proxy]\nanonymous = \"p\"\n[policy.p]\nallow = [\"a.example.com\"]\n";
    let warning = "every user of this machine can read the password hashes";
    let cases = [
        ("secrets, private", format!("{policy}{client}"), 0o640, vec![]),
        ("secrets, public", format!("{policy}{client}"), 0o644, vec![warning]),
        ("no secrets, public", policy.to_owned(), 0o644, vec![]),
    ];
    for (name, toml, mode, want) in cases {
        fs::write(&path, toml).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        assert_eq!(messages(&load(&path, &options()).unwrap()), want, "{name}");
    }
}

/// Of a file that is for commands alone, nobody is missing: the policy is named when it is used.
#[test]
fn what_is_for_a_command_needs_no_clients() {
    let nobody = "nobody can use this proxy: there is no client, and `anonymous` is \"none\"";
    let policies = "[policy.ci]\nallow = [\"example.com:443\"]\n[policy.nothing]\nallow = []\n";
    let for_proxy = [
        nobody,
        "policy `ci` is not used",
        "policy `nothing` is not used",
        "[policy.nothing] allows nothing",
    ];
    let with_http2 = format!("[proxy]\nhttp2 = false\n{policies}");
    let with_client = format!("{policies}[client.a]\npasswords = [\"{HASH}\"]\npolicies = [\"ci\"]\n");
    let cases: [(&str, &str, Purpose, &[&str]); 8] = [
        ("a proxy of it", policies, Purpose::Serve, &for_proxy),
        ("a command of it", policies, Purpose::Run, &[]),
        ("policies alone are for commands", policies, Purpose::AsWritten, &[]),
        ("[proxy] is for proxies", &with_http2, Purpose::AsWritten, &for_proxy),
        ("[proxy] and a command", &with_http2, Purpose::Run, &[]),
        ("clients are of proxies", &with_client, Purpose::AsWritten, &for_proxy[2..]),
        ("no policy is for nobody", "[limits]\n", Purpose::AsWritten, &for_proxy[..1]),
        (
            "what a policy forgets to say is told to all",
            "[policy.p]\n",
            Purpose::Run,
            &["[policy.p] allows nothing"],
        ),
    ];
    for (name, text, purpose, want) in cases {
        let options = Options { purpose, ..options() };
        let loaded = load_text("t.toml", text, Path::new(""), &options).unwrap();
        assert_eq!(messages(&loaded), want, "{name}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_a_report_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("exeat.toml");
    let got =
        |path: &Path| load(path, &options()).unwrap_err().problems().first().unwrap().message().to_owned();
    assert_eq!(got(&path), "cannot be read: no such file or directory");
    assert_eq!(got(folder.path()), "cannot be read: is a directory");
    fs::write(&path, b"[proxy]\n# \xff\n").unwrap();
    assert_eq!(got(&path), "line 2 is not UTF-8 text");
    let large = fs::File::create(&path).unwrap();
    large.set_len(exeat_store::CONFIGURATION_BYTES_MAX + 1).unwrap();
    assert_eq!(got(&path), "is larger than 16 MiB");
}

#[tokio::test]
async fn a_client_authenticates_with_its_password_and_has_its_policies_and_labels() {
    let password = "correct horse battery staple";
    let hash = exeat_identity::hash_generated(password.as_bytes());
    let loaded = text(&format!(
        "[policy.p]\nallow = [\"a.example.com\"]\n[policy.q]\nallow = [\"b.example.com\"]\nbind = {{ app = \"x\" }}\n\
         [client.c]\npasswords = [\"{hash}\"]\npolicies = [\"p\"]\nlabels = {{ app = \"x\" }}\n"
    ));
    let principal = authenticate(&loaded, "c", password).await.unwrap();
    assert_eq!((&*principal.name, principal.proof.name()), ("c", "password"));
    assert_eq!(loaded.policy.names(&principal.bound), ["p", "q"]);
    assert!(authenticate(&loaded, "c", "wrong").await.is_none());
    assert!(authenticate(&loaded, "d", password).await.is_none());
}

async fn authenticate(loaded: &Loaded, name: &str, password: &str) -> Option<Arc<exeat_identity::Principal>> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let value = format!("Basic {}", STANDARD.encode(format!("{name}:{password}")));
    let authenticator = Authenticator::new().unwrap();
    let accepted = Accepted {
        policy: &loaded.policy,
        clients: &loaded.clients,
        issuers: &loaded.issuers,
        anonymous: None,
        is_central: false,
    };
    let offered = accepted.offered(&[value.as_bytes()]);
    authenticator.authenticate(&accepted, &exeat_identity::Peer::default(), &offered).await.ok()
}

#[tokio::test]
async fn flags_make_one_policy_and_one_client() {
    let (allow, deny) =
        (["a.example.com".to_owned(), "*.example.org:8443".to_owned()], ["x.example.org".to_owned()]);
    let flags = Flags { allow: &allow, deny: &deny, password: Some("secret"), ..Flags::default() };
    let loaded = from_flags(&flags, &options()).unwrap();
    assert_eq!(loaded.settings.listen, [Listener::plain(LISTEN_DEFAULT)]);
    assert!(loaded.warnings.is_empty() && loaded.anonymous.is_none());
    let cases = [
        ("a.example.com:443", "allow".to_owned()),
        ("b.example.com:443", Reason::HostNotAllowed.token().to_owned()),
        ("y.example.org:8443", "allow".to_owned()),
        ("x.example.org:8443", "host_denied --deny:1".to_owned()),
    ];
    for (target, want) in cases {
        assert_eq!(verdict(&loaded, &["exeat"], &Labels::default(), target), want, "{target}");
    }
    let principal = authenticate(&loaded, "exeat", "secret").await.unwrap();
    assert_eq!(loaded.policy.names(&principal.bound), ["exeat"]);
}

#[test]
fn flags_that_are_no_entries_are_all_told() {
    let allow = [
        "https://a.example.com/".to_owned(),
        "b.example.com".to_owned(),
        "*.com".to_owned(),
        "@g".to_owned(),
    ];
    let deny = ["*.com".to_owned(), "foo*.com".to_owned()];
    let report =
        from_flags(&Flags { allow: &allow, deny: &deny, ..Flags::default() }, &options()).unwrap_err();
    let got: Vec<String> = report
        .problems()
        .iter()
        .map(|problem| {
            format!("{}:{} {}", problem.file(), problem.location().unwrap().line, problem.message())
        })
        .collect();
    let want = [
        "--allow:1 `https://a.example.com/` is a URL, not a host",
        "--allow:3 `*.com` covers a whole public suffix",
        "--allow:4 there is no group `g`",
        "--deny:2 `foo*.com` is not a host pattern",
    ];
    assert_eq!(got, want);
}
