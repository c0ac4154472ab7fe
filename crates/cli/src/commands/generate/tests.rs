use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command as Process;
use std::time::Duration;

use clap::Parser;
use exeat_store::{Mount, Report};
use serde_json::Value;

use super::*;
use crate::args::{Cli, Command};

/// What a configuration with clients needs whose files lie in `/srv/exeat`.
fn needs() -> Surroundings {
    let mount = |source: &str, target: &str| Mount { source: source.into(), target: target.into() };
    Surroundings {
        port: 3128,
        tls: false,
        needs_certificate: false,
        files: vec![
            mount("/srv/exeat/batch.toml", "/etc/exeat/exeat.toml"),
            mount("/srv/exeat/hosts.txt", "/etc/exeat/hosts.txt"),
            mount("/srv/exeat/../ca.pem", "/srv/ca.pem"),
        ],
        has_secrets: true,
        folders: vec!["/run/exeat".into(), "/var/lib/exeat".into()],
        socket: Some("/run/exeat/api.sock".into()),
        needs_credentials: true,
        drain_timeout: Duration::from_secs(30),
        warnings: Report::default(),
    }
}

fn generate(words: &[&str], needs: &Surroundings) -> Vec<Generated> {
    all_files(words, needs).unwrap()
}

fn all_files(words: &[&str], needs: &Surroundings) -> anyhow::Result<Vec<Generated>> {
    match parsed(words) {
        GenerateCommand::Docker(args) => docker::files(&args, needs),
        GenerateCommand::Compose(args) => compose::files(&args, needs),
        GenerateCommand::Kubernetes(args) => kubernetes::files(&args, needs),
    }
}

fn parsed(words: &[&str]) -> GenerateCommand {
    let cli = Cli::try_parse_from(["exeat", "generate"].iter().chain(words)).unwrap();
    let Command::Generate(command) = cli.command else { panic!("{words:?}") };
    command
}

fn printed_of(words: &[&str], needs: &Surroundings) -> String {
    generate(words, needs).iter().map(printed).collect()
}

/// The objects of a file, without those that are remarks.
fn objects(text: &str) -> Vec<Value> {
    let documents =
        text.split("---\n").filter(|document| document.lines().any(|line| !line.starts_with('#')));
    documents.map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

#[test]
fn snapshots_show_what_is_generated() {
    let mut different = Vec::new();
    let kubernetes = [
        "kubernetes",
        "--namespace",
        "batch",
        "--workload-label",
        "app=sandbox",
        "--service-ip",
        "10.96.0.50",
    ];
    for (name, words) in
        [("egress.sh", &["docker"][..]), ("compose.yaml", &["compose"]), ("kubernetes.yaml", &kubernetes)]
    {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/commands/generate/snapshots").join(name);
        let got = printed_of(words, &needs());
        let want = fs::read_to_string(&path).unwrap_or_default();
        if got != want {
            let new = std::env::temp_dir().join(name);
            fs::write(&new, &got).unwrap();
            different.push(format!("{} differs from {}", path.display(), new.display()));
        }
    }
    assert_eq!(different, [""; 0]);
}

mod policy {
    //! A reading of network policies that is independent of what wrote them.

    use serde_json::Value;

    /// One end of a connection: a pod in a namespace, or an address outside of the cluster.
    #[derive(Clone, Copy, Debug)]
    pub(super) enum End {
        Pod(&'static str, &'static [(&'static str, &'static str)]),
        Address,
    }

    fn selects(selector: &Value, labels: &[(&str, &str)]) -> bool {
        let selector = selector.as_object().unwrap();
        assert!(selector.keys().all(|key| key == "matchLabels"), "{selector:?}");
        let wanted = selector.get("matchLabels").and_then(Value::as_object);
        wanted
            .into_iter()
            .flatten()
            .all(|(key, value)| labels.iter().any(|(name, has)| name == key && Some(*has) == value.as_str()))
    }

    fn is_peer(peer: &Value, end: End) -> bool {
        let fields = peer.as_object().unwrap();
        assert!(fields.keys().all(|key| key == "namespaceSelector" || key == "podSelector"), "{peer}");
        let End::Pod(namespace, labels) = end else { return false };
        // Both selectors of one peer have to hold; the namespace's label is its name.
        selects(&peer["namespaceSelector"], &[("kubernetes.io/metadata.name", namespace)])
            && selects(&peer["podSelector"], labels)
    }

    fn lets(rules: &Value, key: &str, end: End, protocol: &str, port: u16) -> bool {
        rules.as_array().unwrap().iter().any(|rule| {
            let peers = rule.get(key).and_then(Value::as_array);
            let ports = rule.get("ports").and_then(Value::as_array);
            peers.is_none_or(|peers| peers.iter().any(|peer| is_peer(peer, end)))
                && ports.is_none_or(|ports| {
                    ports.iter().any(|one| one["protocol"] == protocol && one["port"] == port)
                })
        })
    }

    /// Whether the policies that select `end` for a direction let it through, or none selects it.
    fn passes(policies: &[Value], direction: &str, end: End, other: End, protocol: &str, port: u16) -> bool {
        let End::Pod(namespace, labels) = end else { return true };
        let of_end = policies.iter().filter(|policy| {
            policy["metadata"]["namespace"] == namespace
                && policy["spec"]["policyTypes"].as_array().unwrap().contains(&direction.into())
                && selects(&policy["spec"]["podSelector"], labels)
        });
        let (rules, key) = if direction == "Egress" { ("egress", "to") } else { ("ingress", "from") };
        let of_end: Vec<_> = of_end.collect();
        of_end.is_empty()
            || of_end.iter().any(|policy| lets(&policy["spec"][rules], key, other, protocol, port))
    }

    pub(super) fn connects(policies: &[Value], from: End, to: End, protocol: &str, port: u16) -> bool {
        passes(policies, "Egress", from, to, protocol, port)
            && passes(policies, "Ingress", to, from, protocol, port)
    }
}

#[test]
fn pods_reach_the_proxy_and_nothing_else() {
    use policy::End::{Address, Pod};
    const EXEAT: (&str, &str) = ("app.kubernetes.io/name", "exeat");
    let proxy = Pod("exeat", &[EXEAT]);
    let workload = Pod("batch", &[("app", "sandbox"), ("tier", "a")]);
    let unlabelled = Pod("batch", &[("app", "other")]);
    let dns = Pod("kube-system", &[("k8s-app", "kube-dns")]);
    let named = &["kubernetes", "--namespace", "batch", "--workload-label", "app=sandbox"][..];
    let all = &["kubernetes", "--namespace", "batch"][..];
    let same = &["kubernetes", "--namespace", "exeat", "--workload-label", "app=sandbox"][..];
    let here = Pod("exeat", &[("app", "sandbox")]);
    let cases = [
        ("workload to proxy", named, workload, proxy, "TCP", 3128, true),
        ("workload to the proxy's other ports", named, workload, proxy, "TCP", 9128, false),
        ("workload to proxy over UDP", named, workload, proxy, "UDP", 3128, false),
        ("workload to another pod beside the proxy", named, workload, Pod("exeat", &[]), "TCP", 3128, false),
        ("workload to a pod that looks like it", named, workload, Pod("batch", &[EXEAT]), "TCP", 3128, false),
        ("workload to the name server", named, workload, dns, "UDP", 53, false),
        ("workload to the name server over TCP", named, workload, dns, "TCP", 53, false),
        ("workload to its neighbour", named, workload, workload, "TCP", 3128, false),
        ("workload to the internet", named, workload, Address, "TCP", 443, false),
        ("pod without the label to proxy", named, unlabelled, proxy, "TCP", 3128, false),
        ("pod without the label to the internet", named, unlabelled, Address, "TCP", 443, false),
        ("the same pod where none is needed", all, unlabelled, proxy, "TCP", 3128, true),
        ("and to the internet", all, unlabelled, Address, "TCP", 443, false),
        (
            "workload of another namespace to proxy",
            named,
            Pod("web", &[("app", "sandbox")]),
            proxy,
            "TCP",
            3128,
            false,
        ),
        ("proxy to the internet", named, proxy, Address, "TCP", 443, true),
        ("proxy to the name server", named, proxy, dns, "UDP", 53, true),
        ("another namespace to the internet", named, Pod("web", &[]), Address, "TCP", 443, true),
        ("one namespace: workload to proxy", same, here, proxy, "TCP", 3128, true),
        ("one namespace: workload to the internet", same, here, Address, "TCP", 443, false),
        ("one namespace: proxy to the internet", same, proxy, Address, "TCP", 443, true),
    ];
    for (name, words, from, to, protocol, port, want) in cases {
        let objects = objects(&generate(words, &needs())[0].text);
        let policies: Vec<Value> =
            objects.into_iter().filter(|object| object["kind"] == "NetworkPolicy").collect();
        assert_eq!(policies.len(), 3);
        assert_eq!(policy::connects(&policies, from, to, protocol, port), want, "{name}");
    }
}

#[test]
fn what_the_proxy_gets_follows_the_configuration() {
    let container = |needs: &Surroundings| {
        let objects = objects(&generate(&["kubernetes"], needs)[0].text);
        let deployment = objects.into_iter().find(|object| object["kind"] == "Deployment").unwrap();
        deployment["spec"]["template"]["spec"].clone()
    };
    let plain = container(&needs());
    assert_eq!(plain["containers"][0]["livenessProbe"]["httpGet"]["scheme"], "HTTP");
    assert_eq!(plain["containers"][0]["readinessProbe"]["exec"]["command"][3], "/run/exeat/api.sock");
    assert_eq!(plain["securityContext"]["sysctls"], Value::Null);
    let other = container(&Surroundings { port: 443, tls: true, socket: None, ..needs() });
    assert_eq!(other["containers"][0]["livenessProbe"]["httpGet"]["scheme"], "HTTPS");
    assert_eq!(other["containers"][0]["readinessProbe"]["httpGet"]["path"], "/healthz");
    assert_eq!(other["securityContext"]["sysctls"][0]["value"], "443");
    let closed = container(&Surroundings { tls: true, needs_certificate: true, socket: None, ..needs() });
    for probe in ["livenessProbe", "readinessProbe"] {
        let want = serde_json::json!({ "tcpSocket": { "port": "proxy" } });
        assert_eq!(closed["containers"][0][probe], want, "the kubelet has no certificate: {probe}");
    }
}

#[test]
fn a_configuration_without_secrets_travels_in_the_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("a.toml");
    let text = "# \"é\"\n[proxy]\t\n\nlisten = [ \"0.0.0.0:3128\" ]  \n";
    fs::write(&source, text).unwrap();
    let files = vec![Mount { source: source.clone(), target: "/etc/exeat/exeat.toml".into() }];
    let open = Surroundings { files, has_secrets: false, ..needs() };
    let kinds = |objects: &[Value]| -> Vec<String> {
        objects.iter().map(|object| object["kind"].as_str().unwrap().to_owned()).collect()
    };
    let got = objects(&generate(&["kubernetes"], &open)[0].text);
    assert!(kinds(&got).contains(&"ConfigMap".to_owned()));
    let map = got.iter().find(|object| object["kind"] == "ConfigMap").unwrap();
    assert_eq!(map["data"]["exeat.toml"], text);
    let secret = generate(&["kubernetes"], &Surroundings { has_secrets: true, ..open })[0].text.clone();
    assert!(!kinds(&objects(&secret)).contains(&"ConfigMap".to_owned()));
    assert!(!secret.contains("0.0.0.0"), "{secret}");

    fs::write(&source, "#".repeat(1024 * 1024)).unwrap();
    let files = vec![Mount { source, target: "/etc/exeat/exeat.toml".into() }];
    let error =
        all_files(&["kubernetes"], &Surroundings { files, has_secrets: false, ..needs() }).unwrap_err();
    assert!(error.to_string().contains("a ConfigMap holds 1048576"), "{error}");
}

#[test]
fn the_url_says_how_the_listener_is_reached() {
    let first = |words: &[&str], needs: &Surroundings| {
        let text = printed_of(words, needs);
        let start = text.find("http_proxy").unwrap();
        text[start..].split("http").nth(2).unwrap().split(['\n', '"']).next().unwrap().to_owned()
    };
    let open = || Surroundings { needs_credentials: false, ..needs() };
    let ipv6 = ["kubernetes", "--service-ip", "2001:db8::5"];
    let same = ["kubernetes", "--proxy-namespace", "default"];
    let cases: [(&str, &[&str], Surroundings, &str); 7] = [
        ("plain", &["docker"], open(), "://exeat:3128"),
        ("TLS", &["compose"], Surroundings { tls: true, ..open() }, "s://exeat:3128"),
        ("another port", &["compose"], Surroundings { port: 8080, ..open() }, "://exeat:8080"),
        ("clients", &["docker"], needs(), "://${EXEAT_CREDENTIALS}@exeat:3128"),
        ("service", &ipv6, open(), "://[2001:db8::5]:3128"),
        (
            "service of the same namespace",
            &same,
            needs(),
            "://$(EXEAT_CREDENTIALS)@$(EXEAT_SERVICE_HOST):3128",
        ),
        ("service elsewhere", &["kubernetes"], open(), "://PROXY_ADDRESS:3128"),
    ];
    for (name, words, needs, want) in cases {
        assert_eq!(first(words, &needs), want, "{name}");
    }
}

#[test]
fn what_is_missing_for_kubernetes_is_said() {
    for (words, want) in [
        (&["kubernetes", "--service-ip", "10.96.0.50"][..], None),
        (&["kubernetes"], Some("choose one with --service-ip")),
        (&["kubernetes", "--proxy-namespace", "default"], Some("choose another --proxy-namespace")),
    ] {
        let GenerateCommand::Kubernetes(args) = parsed(words) else { panic!() };
        let remarks = kubernetes::remarks(&args);
        assert_eq!(remarks.len(), usize::from(want.is_some()), "{remarks:?}");
        assert!(want.is_none_or(|want| remarks[0].contains(want)), "{remarks:?}");
    }
}

/// Runs the script with a `docker` that notes what it was given, a line for each word.
fn run_script(needs: &Surroundings, words: &[&str], credentials: Option<&str>) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let (script, docker) = (folder.path().join("egress.sh"), folder.path().join("docker"));
    fs::write(&script, &generate(&["docker"], needs)[0].text).unwrap();
    fs::write(&docker, "#!/bin/sh\nprintf '%s\\n' \"$@\" >> \"${0%/*}/log\"\n").unwrap();
    fs::set_permissions(&docker, fs::Permissions::from_mode(0o755)).unwrap();
    let mut process = Process::new("sh");
    process.arg(&script).args(words).env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()));
    match credentials {
        Some(value) => process.env("EXEAT_CREDENTIALS", value),
        None => process.env_remove("EXEAT_CREDENTIALS"),
    };
    let ended = process.output().unwrap().status.success();
    (ended, fs::read_to_string(folder.path().join("log")).unwrap_or_default())
}

#[test]
fn the_script_gives_docker_each_word_whole() {
    let name = "it's a $LIST, \"b\".txt";
    let (source, target) = (format!("/srv/exeat/{name}").into(), format!("/etc/exeat/{name}").into());
    let odd = Surroundings { files: vec![Mount { source, target }], ..needs() };
    let (ended, log) = run_script(&odd, &["up"], None);
    assert!(ended);
    let list = "type=bind,\"source=/srv/exeat/it's a $LIST, \"\"b\"\".txt\",\"target=/etc/exeat/it's a $LIST, \"\"b\"\".txt\",readonly";
    assert!(log.lines().any(|line| line == list), "{log}");
    assert!(log.contains("network\ncreate\n--internal\n"), "{log}");
    assert!(!log.contains("--publish"), "{log}");

    let (ended, log) = run_script(&needs(), &["run", "image", "a b", "$c"], Some("x:$y"));
    assert!(ended);
    assert!(log.starts_with("run\n--rm\n--network\nexeat-inside\n--dns\n127.0.0.1\n"), "{log}");
    assert!(log.contains("\nhttps_proxy=http://x:$y@exeat:3128\n"), "{log}");
    assert!(log.ends_with("\nimage\na b\n$c\n"), "{log}");
}

#[test]
fn the_script_stops_before_docker_if_something_is_missing() {
    for (words, credentials) in
        [(&["run", "image"][..], None), (&["run", "image"], Some("")), (&[], None), (&["rm"], None)]
    {
        assert_eq!(run_script(&needs(), words, credentials), (false, String::new()), "{words:?}");
    }
    let open = Surroundings { needs_credentials: false, ..needs() };
    assert!(run_script(&open, &["run", "image"], None).0);
}

#[test]
fn nothing_is_generated_of_paths_that_are_no_line() {
    let files = vec![Mount { source: "/srv/a\nb".into(), target: "/etc/exeat/exeat.toml".into() }];
    let needs = Surroundings { files, ..needs() };
    for words in ["docker", "compose", "kubernetes"] {
        let got = all_files(&[words], &needs);
        assert!(got.is_err_and(|error| error.to_string().contains("is not a line of text")), "{words}");
    }
}
