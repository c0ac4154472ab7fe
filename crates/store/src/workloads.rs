//! `[workload.NAME]`: principals that are known by where they come from.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

use exeat_identity::{Origin, Principal, Proof, Workload as Known, Workloads};
use exeat_model::IpBlock;
use exeat_policy::{Caps, Labels, PolicySet};
use exeat_proxy::UNMAPPED_USER;
use nix::unistd::User;
use toml::Spanned;
use toml::de::DeValue;

use crate::caps;
use crate::clients;
use crate::document::{Cx, Document, Named};
use crate::entry;
use crate::names;
use crate::notes::Notes;
use crate::policies;
use crate::problem::{Code, Finding, shown};
use crate::reader::{self, Fields, Value, What};
use crate::suggest::closest;

/// The keys that say where a workload is.
const ORIGIN_KEYS: [&str; 5] = ["addresses", "interface", "uid", "socket", "cgroup"];

/// Longest id of a container, in bytes: tokens repeat it.
const CONTAINER_BYTES_MAX: usize = 256;

/// A workload as its table says.
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) span: Range<usize>,
    /// Where it is; empty if a part of that cannot be read.
    origins: Vec<(Origin, Range<usize>)>,
    container: Option<String>,
    /// Whether to come from there proves who asks.
    pub(crate) alone: bool,
    pub(crate) policies: Vec<(String, Range<usize>)>,
    pub(crate) labels: Labels,
    caps: Caps,
    socket_span: Range<usize>,
    interface_span: Range<usize>,
}

/// Reads a workload.
pub(crate) fn read(named: &Named<'_, '_>, cx: &mut Cx<'_, '_>) -> Workload {
    if let Err(finding) = names::check_workload(named.name) {
        cx.notes.push(named.span.clone(), finding);
    }
    let fields = &named.fields;
    let labels = fields.get("labels").and_then(|value| policies::read_labels(value, "labels", cx.notes));
    let span_of = |key: &str| fields.get(key).map(Spanned::span).unwrap_or_default();
    Workload {
        name: named.name.to_owned(),
        span: named.span.clone(),
        origins: read_origins(named, cx).unwrap_or_default(),
        container: read_container(fields, cx.notes),
        alone: fields.boolean("alone", cx.notes).unwrap_or(true),
        policies: clients::read_policies(fields, cx.notes),
        labels: labels.unwrap_or_default(),
        caps: caps::read(fields, cx.notes),
        socket_span: span_of("socket"),
        interface_span: span_of("interface"),
    }
}

fn read_container(fields: &Fields<'_, '_>, notes: &mut Notes) -> Option<String> {
    let text = fields.string("container", notes)?;
    if text.is_empty() || text.len() > CONTAINER_BYTES_MAX || text.chars().any(char::is_control) {
        let message =
            format!("the id of a container has 1 to {CONTAINER_BYTES_MAX} bytes, and no control character");
        let span = fields.get("container").map_or(fields.span(), Spanned::span);
        notes.push(
            span,
            Finding::error(Code::InvalidValue, message).help("write the id that its tokens carry"),
        );
        return None;
    }
    Some(text.to_owned())
}

/// Reads where it is: one origin for each of its networks, or one without a network.
fn read_origins(named: &Named<'_, '_>, cx: &mut Cx<'_, '_>) -> Option<Vec<(Origin, Range<usize>)>> {
    let fields = &named.fields;
    if ORIGIN_KEYS.iter().all(|key| fields.get(key).is_none()) {
        let message = format!("{} does not say where it is", named.title);
        let help = "write addresses = [\"…\"], interface = \"…\", uid = …, socket = \"…\" or cgroup = \"…\"";
        cx.notes.push(named.span.clone(), Finding::error(Code::MissingKey, message).help(help));
        return None;
    }
    let text = |key, notes: &mut Notes| fields.get(key).map(|_| fields.string(key, notes));
    let (interface, socket) = (text("interface", cx.notes), text("socket", cx.notes));
    let (user, cgroup) = (read_user(fields, cx.notes), read_cgroup(fields, cx.notes));
    let networks = read_networks(fields, cx.notes);
    // What could not be read must not widen the rest.
    let origin = Origin {
        interface: interface.map_or(Some(None), |read| read.map(|name| Some(name.into())))?,
        socket: socket.map_or(Some(None), |read| read.map(|path| Some(cx.base_dir.join(path).into())))?,
        user: user?,
        cgroup: cgroup?,
        network: None,
    };
    Some(match networks? {
        None => vec![(origin, named.span.clone())],
        Some(networks) => {
            let one = |(network, span)| (Origin { network: Some(network), ..origin.clone() }, span);
            networks.into_iter().map(one).collect()
        }
    })
}

/// Networks with their places.
type Networks = Vec<(ipnet::IpNet, Range<usize>)>;

/// `None` if something is wrong with the key, `Some(None)` if it is not there.
fn read_networks(fields: &Fields<'_, '_>, notes: &mut Notes) -> Option<Option<Networks>> {
    if fields.get("addresses").is_none() {
        return Some(None);
    }
    let blocks: Vec<IpBlock> = entry::read_networks(fields, "addresses", notes)?;
    let list = fields.list("addresses", "networks", &mut Notes::default())?;
    if list.is_empty() {
        let span = fields.key_span("addresses").unwrap_or_else(|| fields.span());
        let finding = Finding::error(Code::InvalidValue, "an empty `addresses` is no place");
        notes.push(span, finding.help("write a network, such as \"10.99.0.0/24\""));
    }
    if blocks.len() != list.len() {
        return None;
    }
    let each = blocks
        .iter()
        .zip(list)
        .flat_map(|(block, value)| block.networks().into_iter().map(move |network| (network, value.span())));
    Some(Some(each.collect()))
}

fn read_user(fields: &Fields<'_, '_>, notes: &mut Notes) -> Option<Option<u32>> {
    let Some(value) = fields.get("uid") else { return Some(None) };
    user_id(value, What::Key("uid"), notes).map(Some)
}

/// Reads a user of this host, by number or name.
pub(crate) fn user_id(value: &Value<'_>, what: What<'_>, notes: &mut Notes) -> Option<u32> {
    let number = match value.get_ref() {
        DeValue::String(name) => match User::from_name(name) {
            Ok(Some(user)) => user.uid.as_raw(),
            Ok(None) | Err(_) => {
                let message = format!("there is no user `{}` on this host", shown(name));
                let finding = Finding::error(Code::UnknownReference, message);
                notes.push(
                    value.span(),
                    finding.help("write the number of the user, or a name that `getent passwd` knows"),
                );
                return None;
            }
        },
        DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => {
            let read = reader::integer(value, what, &(0..=u64::from(u32::MAX - 1)), notes)?;
            u32::try_from(read).ok()?
        }
    };
    if number == UNMAPPED_USER {
        let message =
            format!("{UNMAPPED_USER} is the number that the kernel shows for every user without one here");
        notes.push(
            value.span(),
            Finding::error(Code::InvalidValue, message).help("give the workload a user of its own"),
        );
        return None;
    }
    Some(number)
}

fn read_cgroup(fields: &Fields<'_, '_>, notes: &mut Notes) -> Option<Option<Box<str>>> {
    if fields.get("cgroup").is_none() {
        return Some(None);
    }
    let text = fields.string("cgroup", notes)?;
    let trimmed = text.strip_suffix('/').unwrap_or(text);
    let is_path = trimmed.len() > 1
        && trimmed.starts_with('/')
        && !trimmed.chars().any(char::is_control)
        && trimmed.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..");
    if !is_path {
        let message = format!("`{}` is not a control group", shown(text));
        let span = fields.get("cgroup").map_or(fields.span(), Spanned::span);
        let help = "write its path below /sys/fs/cgroup, such as \"/system.slice/ci.service\"";
        notes.push(span, Finding::error(Code::InvalidValue, message).help(help));
        return None;
    }
    Some(Some(trimmed.into()))
}

/// Checks what workloads say of each other, of listeners and of clients, and what clients say of them.
pub(crate) fn check(document: &Document, notes: &mut Notes) {
    let mut taken: HashMap<&Origin, &str> = HashMap::new();
    for workload in &document.workloads {
        for (origin, span) in &workload.origins {
            if let Some(other) = taken.insert(origin, &workload.name) {
                let message = format!("workload `{}` is at this place, too", shown(other));
                let finding = Finding::error(Code::Duplicate, message);
                notes.push(
                    span.clone(),
                    finding.help("one place is one workload: remove it from one of them"),
                );
            }
        }
        if document.clients.iter().any(|client| client.name == workload.name) {
            let message = format!("there is a client `{}`, too", shown(&workload.name));
            let finding = Finding::error(Code::Conflict, message);
            notes.push(workload.span.clone(), finding.help("records tell them by their names: rename one"));
        }
        check_listeners(workload, document, notes);
    }
    check_clients(document, notes);
}

fn check_listeners(workload: &Workload, document: &Document, notes: &mut Notes) {
    let Some((origin, _)) = workload.origins.first() else { return };
    let sockets: HashSet<&Path> = document.proxy.sockets.iter().map(|socket| &*socket.path).collect();
    if let Some(path) = origin.socket.as_deref().filter(|path| !sockets.contains(path)) {
        let path = path.to_string_lossy();
        let message = format!("nothing listens on the unix socket `{}`", shown(&path));
        let finding = Finding::error(Code::UnknownReference, message);
        notes.push(
            workload.socket_span.clone(),
            finding.help(format!("add \"unix:{}\" to proxy.listen", shown(&path))),
        );
    }
    let devices = || document.proxy.listen.iter().filter_map(|listener| listener.interface.as_deref());
    if let Some(name) = origin.interface.as_deref().filter(|name| !devices().any(|device| device == *name)) {
        let message = format!("no listener takes the connections of `{}` alone", shown(name));
        let finding = Finding::error(Code::UnknownReference, message);
        let help = format!("write listen = [{{ address = \"…\", interface = \"{}\" }}]", shown(name));
        notes.push(workload.interface_span.clone(), finding.help(help));
    }
}

fn check_clients(document: &Document, notes: &mut Notes) {
    let known = || document.workloads.iter().map(|workload| workload.name.as_str());
    let names: HashSet<&str> = known().collect();
    let origins = document.clients.iter().flat_map(|client| client.origins.iter().flatten());
    for (name, span) in origins.filter(|(name, _)| !names.contains(name.as_str())) {
        let guess = if notes.is_full() { None } else { closest(name, known()) };
        let define = format!("define [workload.{}]", shown(name));
        let help = guess.map_or(define, |guess| format!("did you mean \"{guess}\"?"));
        let finding =
            Finding::error(Code::UnknownReference, format!("there is no workload `{}`", shown(name)));
        notes.push(span.clone(), finding.help(help));
    }
}

/// Returns the workloads, bound to `policy`.
pub(crate) fn bind(workloads: Vec<Workload>, policy: &PolicySet) -> Workloads {
    let mut bound = Workloads::new();
    for workload in workloads {
        let Workload { name, origins, container, alone, policies, labels, caps, .. } = workload;
        let names: Vec<&str> = policies.iter().map(|(name, _)| name.as_str()).collect();
        let principal = Principal {
            name: name.as_str().into(),
            proof: Proof::Origin,
            bound: policy.bind(&names, &labels).within(caps),
            labels,
            token: None,
        };
        let known = Known::new(principal.into(), container.as_deref().unwrap_or(&name), alone);
        bound.insert(known, origins.into_iter().map(|(origin, _)| origin));
    }
    bound
}
