//! The proxy itself: its service and its deployment.

use exeat_store::{CONTAINER_DIRECTORY, CONTAINER_USER, Surroundings};
use serde_json::{Value, json};

use super::{ConfigFile, NAME, Object, labels, metadata};
use crate::args::KubernetesArgs;
use crate::commands::generate::{COMMAND, folders, grace_seconds, health};

/// Ports below this one need a privilege unless the pod says otherwise.
const PORT_UNPRIVILEGED_MIN: u16 = 1024;

/// The mode of secrets: read by their owner and by the group of the container.
const MODE: u32 = 0o440;

pub(super) fn objects(
    args: &KubernetesArgs,
    needs: &Surroundings,
    files: &[ConfigFile],
) -> anyhow::Result<[Object; 2]> {
    Ok([service(args, needs), deployment(args, needs, files)?])
}

fn service(args: &KubernetesArgs, needs: &Surroundings) -> Object {
    let mut spec = json!({
        "selector": labels(),
        "ports": [{ "name": "proxy", "protocol": "TCP", "port": needs.port, "targetPort": "proxy" }],
    });
    if let (Some(ip), Value::Object(spec)) = (args.service_ip, &mut spec) {
        spec.insert("clusterIP".to_owned(), Value::String(ip.to_string()));
    }
    let value = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(&args.proxy_namespace, NAME),
        "spec": spec,
    });
    Object::new("The address by which workloads find the proxy.", value)
}

fn deployment(args: &KubernetesArgs, needs: &Surroundings, files: &[ConfigFile]) -> anyhow::Result<Object> {
    let value = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(&args.proxy_namespace, NAME),
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": labels() },
            "template": { "metadata": { "labels": labels() }, "spec": pod(args, needs, files)? },
        },
    });
    let remark = "Limits, quarantine and revisions are each process's own: more replicas mean more of them.";
    Ok(Object::new(remark, value))
}

fn pod(args: &KubernetesArgs, needs: &Surroundings, files: &[ConfigFile]) -> anyhow::Result<Value> {
    let folders = folders(needs)?;
    let mut security = json!({
        "runAsNonRoot": true,
        "runAsUser": CONTAINER_USER,
        "runAsGroup": CONTAINER_USER,
        "fsGroup": CONTAINER_USER,
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    if let (..PORT_UNPRIVILEGED_MIN, Value::Object(security)) = (needs.port, &mut security) {
        let sysctl =
            json!({ "name": "net.ipv4.ip_unprivileged_port_start", "value": needs.port.to_string() });
        security.insert("sysctls".to_owned(), json!([sysctl]));
    }
    Ok(json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": grace_seconds(needs),
        "securityContext": security,
        "containers": [container(args, needs, files, &folders)?],
        "volumes": volumes(needs, files, &folders),
    }))
}

fn container(
    args: &KubernetesArgs,
    needs: &Surroundings,
    files: &[ConfigFile],
    folders: &[String],
) -> anyhow::Result<Value> {
    let scheme = if needs.tls { "HTTPS" } else { "HTTP" };
    let alive = match needs.needs_certificate {
        false => json!({ "httpGet": { "path": "/healthz", "port": "proxy", "scheme": scheme } }),
        // The kubelet has no certificate to show.
        true => json!({ "tcpSocket": { "port": "proxy" } }),
    };
    // What `/readyz` says, which listens on loopback only.
    let ready = match health(needs)? {
        Some(command) => json!({ "exec": { "command": command }, "timeoutSeconds": 5 }),
        None => alive.clone(),
    };
    Ok(json!({
        "name": NAME,
        "image": args.common.image,
        "args": COMMAND,
        "ports": [{ "name": "proxy", "protocol": "TCP", "containerPort": needs.port }],
        "livenessProbe": alive,
        "readinessProbe": ready,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        "volumeMounts": volume_mounts(files, folders),
    }))
}

/// A path below the folder of the configuration.
fn below(file: &ConfigFile) -> Option<&str> {
    file.target.strip_prefix(CONTAINER_DIRECTORY)?.strip_prefix('/')
}

fn volume_mounts(files: &[ConfigFile], folders: &[String]) -> Vec<Value> {
    let mut mounts =
        vec![json!({ "name": "configuration", "mountPath": CONTAINER_DIRECTORY, "readOnly": true })];
    // A folder of the image would be hidden by a volume.
    mounts.extend(files.iter().filter(|file| below(file).is_none()).map(
        |file| json!({ "name": "files", "mountPath": file.target, "subPath": file.key, "readOnly": true }),
    ));
    let folders = folders.iter().enumerate();
    mounts.extend(folders.map(|(index, path)| json!({ "name": folder_name(index), "mountPath": path })));
    mounts
}

fn folder_name(index: usize) -> String {
    format!("folder-{index}")
}

fn volumes(needs: &Surroundings, files: &[ConfigFile], folders: &[String]) -> Vec<Value> {
    let volume = |name: &str, items: Vec<Value>| {
        if needs.has_secrets {
            json!({ "name": name, "secret": { "secretName": NAME, "defaultMode": MODE, "items": items } })
        } else {
            json!({ "name": name, "configMap": { "name": NAME, "defaultMode": MODE, "items": items } })
        }
    };
    let item = |file: &ConfigFile, path: &str| json!({ "key": file.key, "path": path });
    let inside = files.iter().filter_map(|file| Some(item(file, below(file)?))).collect();
    let mut volumes = vec![volume("configuration", inside)];
    let outside: Vec<Value> =
        files.iter().filter(|file| below(file).is_none()).map(|file| item(file, &file.key)).collect();
    if !outside.is_empty() {
        volumes.push(volume("files", outside));
    }
    volumes.extend((0..folders.len()).map(|index| json!({ "name": folder_name(index), "emptyDir": {} })));
    volumes
}
