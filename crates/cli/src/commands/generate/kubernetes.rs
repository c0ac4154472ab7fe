//! Network policies, and what runs the proxy in Kubernetes.

use std::fs;
use std::net::IpAddr;

use anyhow::{Context, bail};
use exeat_store::Surroundings;
use serde_json::{Value, json};

use super::{Generated, comment, mounts, shell::word, variables, yaml};
use crate::args::KubernetesArgs;

mod proxy;

/// The name of everything that is generated, and the label of the proxy's pods.
const NAME: &str = "exeat";

/// What stands for the proxy's address where it is not known.
const UNKNOWN_ADDRESS: &str = "PROXY_ADDRESS";

/// What a ConfigMap holds at most, in bytes.
const CONFIG_MAP_BYTES_MAX: usize = 1024 * 1024;

/// An object, and what the reader of the file should know of it.
struct Object {
    remark: String,
    value: Value,
}

impl Object {
    fn new(remark: &str, value: Value) -> Self {
        Self { remark: remark.to_owned(), value }
    }
}

/// What cannot work as it was asked for.
pub(super) fn remarks(args: &KubernetesArgs) -> Vec<String> {
    let mut remarks = Vec::new();
    if args.namespace == args.proxy_namespace {
        remarks.push(format!(
            "whoever may make pods in namespace `{}` can give them the label of the proxy's pods, which may reach everything; \
             choose another --proxy-namespace",
            args.namespace
        ));
    } else if args.service_ip.is_none() {
        remarks.push(format!(
            "the workload's variables say {UNKNOWN_ADDRESS}: its pods cannot resolve names, so they need the address of the \
             proxy's service; choose one with --service-ip, or look at `kubectl get service --namespace {} {NAME}`",
            args.proxy_namespace
        ));
    }
    remarks
}

pub(super) fn files(args: &KubernetesArgs, needs: &Surroundings) -> anyhow::Result<Vec<Generated>> {
    let files = config_files(needs)?;
    let mut objects = Vec::new();
    if args.namespace != args.proxy_namespace {
        objects.push(namespace(args));
    }
    objects.extend(policies(args, needs));
    let mut head = "Made by `exeat generate kubernetes`.\n".to_owned();
    if needs.has_secrets {
        head.push_str(&secret_command(args, &files));
    } else {
        objects.push(config_map(args, &files)?);
    }
    objects.extend(proxy::objects(args, needs, &files)?);
    let mut text = comment(&head);
    for object in &objects {
        text.push_str("---\n");
        text.push_str(&comment(&object.remark));
        text.push_str(&yaml::document(&object.value)?);
    }
    Ok(vec![
        Generated { name: "exeat.yaml", text, is_remark: false },
        Generated { name: "workload.txt", text: workload(args, needs)?, is_remark: true },
    ])
}

/// A file of the configuration: its key in the ConfigMap or Secret, where it is and where it has to be.
struct ConfigFile {
    key: String,
    source: String,
    target: String,
}

fn config_files(needs: &Surroundings) -> anyhow::Result<Vec<ConfigFile>> {
    let with_key = |(index, (source, target)): (usize, (String, String))| {
        // Keys are more narrow than names of files, and two files may have one name.
        let name = target.rsplit('/').next().unwrap_or_default();
        let name: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' })
            .collect();
        ConfigFile { key: if index == 0 { name } else { format!("{index}-{name}") }, source, target }
    };
    Ok(mounts(needs)?.into_iter().enumerate().map(with_key).collect())
}

fn metadata(namespace: &str, name: &str) -> Value {
    json!({ "name": name, "namespace": namespace, "labels": labels() })
}

fn labels() -> Value {
    json!({ "app.kubernetes.io/name": NAME })
}

fn namespace(args: &KubernetesArgs) -> Object {
    let labels = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
    let value = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": args.proxy_namespace, "labels": labels },
    });
    Object::new(
        "For the proxy alone: whoever may make pods here can give them its label, and its way out.",
        value,
    )
}

/// The pods that may use the proxy.
fn workload_selector(args: &KubernetesArgs) -> Value {
    match &args.workload_label {
        Some((key, value)) => json!({ "matchLabels": { key: value } }),
        None => json!({}),
    }
}

/// Every namespace has this label, and nobody can give it to another one.
fn namespace_selector(namespace: &str) -> Value {
    json!({ "matchLabels": { "kubernetes.io/metadata.name": namespace } })
}

fn policies(args: &KubernetesArgs, needs: &Surroundings) -> Vec<Object> {
    let policy = |namespace: &str, name: &str, spec: Value| {
        json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata(namespace, name),
            "spec": spec,
        })
    };
    let ports = json!([{ "protocol": "TCP", "port": needs.port }]);
    let proxy = json!({
        "namespaceSelector": namespace_selector(&args.proxy_namespace),
        "podSelector": { "matchLabels": labels() },
    });
    let workloads = json!({
        "namespaceSelector": namespace_selector(&args.namespace),
        "podSelector": workload_selector(args),
    });
    let closed = json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": [] });
    let workload = json!({
        "podSelector": workload_selector(args),
        "policyTypes": ["Egress"],
        "egress": [{ "to": [proxy], "ports": ports }],
    });
    let proxy = json!({
        "podSelector": { "matchLabels": labels() },
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{ "from": [workloads], "ports": ports }],
        "egress": [{}],
    });
    vec![
        Object::new(
            "No pod of the workloads' namespace reaches anything, in IPv4 or IPv6, name servers included.\n\
             Not covered: pods with hostNetwork, and clusters whose network plugin knows no policies.",
            policy(&args.namespace, "exeat-closed", closed),
        ),
        Object::new(
            "The workloads reach the proxy's pods at its port. Policies add up: another one that selects these pods\n\
             opens what it says.",
            policy(&args.namespace, "exeat-workload", workload),
        ),
        Object::new(
            "Only they reach the proxy. What it reaches in turn, its configuration decides.",
            policy(&args.proxy_namespace, "exeat-proxy", proxy),
        ),
    ]
}

/// The configuration and what it names, if nothing of it is secret.
fn config_map(args: &KubernetesArgs, files: &[ConfigFile]) -> anyhow::Result<Object> {
    let mut data = serde_json::Map::new();
    let mut bytes = 0;
    for file in files {
        let text =
            fs::read_to_string(&file.source).with_context(|| format!("cannot read `{}`", file.source))?;
        bytes += file.key.len() + text.len();
        data.insert(file.key.clone(), Value::String(text));
    }
    if bytes > CONFIG_MAP_BYTES_MAX {
        bail!(
            "the configuration and its files have {bytes} bytes, and a ConfigMap holds {CONFIG_MAP_BYTES_MAX}: put long lists into an image of your own"
        );
    }
    let value = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(&args.proxy_namespace, NAME),
        "data": data,
    });
    Ok(Object::new(
        "The configuration. After a change of it: kubectl rollout restart deployment exeat",
        value,
    ))
}

/// What is secret is not written into a manifest.
fn secret_command(args: &KubernetesArgs, files: &[ConfigFile]) -> String {
    let mut command =
        format!("kubectl create secret generic {NAME} --namespace {}", word(&args.proxy_namespace));
    for file in files {
        command.push_str(&format!(" \\\n    --from-file={}", word(&format!("{}={}", file.key, file.source))));
    }
    format!(
        "\nThe configuration holds secrets, so it is not in here. Once the namespace is there:\n\n  {command}\n"
    )
}

/// What goes into the pods of a workload: not an object, so it is not for `kubectl apply`.
fn workload(args: &KubernetesArgs, needs: &Surroundings) -> anyhow::Result<String> {
    let host = match args.service_ip {
        Some(IpAddr::V4(ip)) => ip.to_string(),
        Some(IpAddr::V6(ip)) => format!("[{ip}]"),
        // Kubernetes tells pods the addresses of the services of their own namespace.
        None if args.namespace == args.proxy_namespace => "$(EXEAT_SERVICE_HOST)".to_owned(),
        None => UNKNOWN_ADDRESS.to_owned(),
    };
    let mut text = "For the containers of a workload, in `spec.containers[*]` of its pods:\n\n".to_owned();
    let mut env = Vec::new();
    if needs.needs_credentials {
        text = format!(
            "The credentials of the workload, percent-encoded; give each workload its own:\n\n  \
             kubectl create secret generic exeat-credentials --namespace {} --from-literal=credentials=NAME:PASSWORD\n\n{text}",
            args.namespace
        );
        let key = json!({ "name": "exeat-credentials", "key": "credentials" });
        env.push(json!({ "name": variables::CREDENTIALS, "valueFrom": { "secretKeyRef": key } }));
    }
    let credentials = format!("$({})", variables::CREDENTIALS);
    let variables = variables::variables(needs, &host, &credentials).into_iter();
    env.extend(variables.map(|(name, value)| json!({ "name": name, "value": value })));
    text.push_str(&yaml::document(&json!({ "env": env }))?);
    if needs.tls {
        text.push_str("\nThe workload has to trust the certificate of the listener, which has to be for this address.\n");
    }
    Ok(text)
}
