//! `[policy.NAME]` and `[ceiling.NAME]`.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use exeat_model::{CanonicalIp, METADATA_ADDRESSES};
use exeat_policy::{Defaults, Label, Labels, List, ListBuilder, Mode, NextHop, Place, Resolve, Side};
use toml::de::DeValue;

use crate::caps;
use crate::document::{Cx, Named};
use crate::entry;
use crate::names;
use crate::notes::Notes;
use crate::problem::{Code, Finding, shown};
use crate::reader::{self, Fields, Value, What};
use crate::suggest::{closest, listed};

/// Longest value of a label, in bytes: labels are repeated in every audit record.
const LABEL_BYTES_MAX: usize = 256;

/// A policy or a ceiling as its table says.
pub(crate) struct Policy {
    pub(crate) name: String,
    pub(crate) span: Range<usize>,
    pub(crate) place: Place,
    pub(crate) allow: List,
    pub(crate) deny: List,
    pub(crate) defaults: Defaults,
    pub(crate) mode: Mode,
    pub(crate) bind: Option<Labels>,
    pub(crate) metadata: Vec<(CanonicalIp, Place)>,
    /// The way out, and where its name stands.
    pub(crate) next_hop: Option<(NextHop, Range<usize>)>,
    /// Where it says that it allows nothing.
    pub(crate) empty: Option<Range<usize>>,
}

/// Reads a policy.
pub(crate) fn read_policy(named: &Named<'_, '_>, cx: &mut Cx<'_, '_>) -> Policy {
    if named.name == names::NONE {
        let finding = Finding::error(Code::Conflict, "a policy cannot be named `none`");
        cx.notes.push(
            named.span.clone(),
            finding.help("`anonymous = \"none\"` means that there is no such policy"),
        );
    }
    let mode = named.fields.word("mode", &["enforce", "report"], Mode::parse, cx.notes).unwrap_or_default();
    let mut policy = read(named, mode, cx);
    policy.next_hop = read_next_hop(named, cx.notes);
    check_metadata_stays_here(named, &policy, cx.notes);
    check_announce_is_for_upstreams(named, &policy, cx.notes);
    if mode == Mode::Report {
        let span = named.fields.get("mode").map_or(named.span.clone(), toml::Spanned::span);
        let finding =
            Finding::warning(Code::Suspicious, format!("policy `{}` does not enforce", shown(named.name)));
        let finding = finding.label("lets everything public through, and records it");
        cx.notes.push(span, finding.help("write mode = \"enforce\" once the records look right"));
    }
    if named.fields.get("allow").is_none()
        && policy.deny.is_empty()
        && mode == Mode::Enforce
        && policy.metadata.is_empty()
    {
        warn_empty(&named.title, named.span.clone(), cx.notes);
    }
    policy
}

/// Reads a ceiling. One that binds nobody, or that forgets to say what it allows, is an error: its author
/// relies on it.
pub(crate) fn read_ceiling(named: &Named<'_, '_>, cx: &mut Cx<'_, '_>) -> Policy {
    let help = "write bind = { organization = \"…\" } for those it holds for";
    named.fields.required("bind", &named.title, help, cx.notes);
    let help = "write allow = [\"@any-public\"] if it only denies; without, nothing is allowed";
    named.fields.required("allow", &named.title, help, cx.notes);
    let ceiling = read(named, Mode::Enforce, cx);
    if let Some(span) = &ceiling.empty {
        warn_empty(&named.title, span.clone(), cx.notes);
    }
    ceiling
}

fn read(named: &Named<'_, '_>, mode: Mode, cx: &mut Cx<'_, '_>) -> Policy {
    if let Err(finding) = names::check(named.name) {
        cx.notes.push(named.span.clone(), finding);
    }
    let fields = &named.fields;
    let defaults = entry::read_defaults(fields, cx.notes);
    let allow = read_list(fields, "allow", Some(Side::Allow), &defaults, cx);
    let written_empty = |value: &&Value<'_>| value.get_ref().as_array().is_some_and(|list| list.is_empty());
    let empty = fields.get("allow").filter(written_empty).filter(|_| mode == Mode::Enforce);
    Policy {
        name: named.name.to_owned(),
        span: named.span.clone(),
        place: cx.place(named.span.start),
        allow,
        deny: read_list(fields, "deny", Some(Side::Deny), &defaults, cx),
        mode,
        bind: read_bind(fields, cx.notes),
        metadata: read_metadata(named, cx),
        next_hop: None,
        empty: empty.map(toml::Spanned::span),
        defaults,
    }
}

fn read_next_hop(named: &Named<'_, '_>, notes: &mut Notes) -> Option<(NextHop, Range<usize>)> {
    let fields = &named.fields;
    let resolve = fields.word("resolve", &["local", "next_hop"], Resolve::parse, notes);
    let Some(name) = fields.string("next_hop", notes) else {
        if let Some(span) = fields.key_span("resolve").filter(|_| fields.get("next_hop").is_none()) {
            let finding = Finding::error(Code::Conflict, "`resolve` has no meaning without `next_hop`");
            notes.push(span, finding.help("remove it: without a next hop, names are resolved here"));
        }
        return None;
    };
    let span = fields.get("next_hop").map_or(named.span.clone(), toml::Spanned::span);
    Some((NextHop { name: name.to_owned(), resolve: resolve.unwrap_or_default() }, span))
}

/// A metadata service is one of this machine: a next hop would be asked for its own.
fn check_metadata_stays_here(named: &Named<'_, '_>, policy: &Policy, notes: &mut Notes) {
    if let Some(span) = named.fields.key_span("metadata").filter(|_| policy.next_hop.is_some()) {
        let finding = Finding::error(Code::Conflict, "`metadata` has no meaning behind a next hop");
        notes.push(span, finding.help("open it in a policy without `next_hop`"));
    }
}

/// Behind a next hop this proxy dials no upstream.
fn check_announce_is_for_upstreams(named: &Named<'_, '_>, policy: &Policy, notes: &mut Notes) {
    if let Some(span) = named.fields.key_span("proxy_protocol").filter(|_| policy.next_hop.is_some()) {
        let finding = Finding::error(Code::Conflict, "`proxy_protocol` has no meaning behind a next hop");
        notes.push(span, finding.help("set it in [next_hop.NAME] for the next hop itself, or remove it"));
    }
}

/// Warns of clients whose policy says that it allows nothing. A command may well be meant to reach nothing.
pub(crate) fn warn_said_empty(policies: &[Policy], notes: &mut Notes) {
    for policy in policies {
        if let Some(span) = &policy.empty {
            warn_empty(&format!("[policy.{}]", shown(&policy.name)), span.clone(), notes);
        }
    }
}

fn warn_empty(title: &str, span: Range<usize>, notes: &mut Notes) {
    let finding = Finding::warning(Code::Suspicious, format!("{title} allows nothing"));
    notes.push(span, finding.help("list what it allows, such as allow = [\"api.example.com\"]"));
}

/// Reads a list of entries. `side` is `None` for a group, which may stand on both.
pub(crate) fn read_list(
    fields: &Fields<'_, '_>,
    key: &str,
    side: Option<Side>,
    defaults: &Defaults,
    cx: &mut Cx<'_, '_>,
) -> List {
    let mut builder = ListBuilder::new(Arc::clone(cx.source.name()), defaults.clone());
    for value in fields.list(key, "entries", cx.notes).unwrap_or_default() {
        let Some(entry) = entry::read(value, key, cx.notes) else { continue };
        if side == Some(Side::Deny) {
            check_deny(value, cx.notes);
        }
        let place = cx.place(value.span().start);
        builder.push(entry, place.line, place.column);
    }
    builder.finish()
}

/// A deny entry with a condition on the connection would deny less than it seems to.
fn check_deny(value: &Value<'_>, notes: &mut Notes) {
    let DeValue::Table(table) = value.get_ref() else { return };
    let of_connections = ["addresses", "expect", "sni", "answers", "proxy_protocol", "verify", "class"];
    let of_connections = of_connections.map(|key| (key, "a deny holds whatever opens the connection"));
    let of_flows = caps::KEYS.map(|key| (key, "what is denied has no flows"));
    for (key, why) in of_connections.into_iter().chain(of_flows) {
        if let Some((key, _)) = table.get_key_value(key) {
            let finding =
                Finding::error(Code::Conflict, format!("`{}` has no meaning in a deny list", key.get_ref()));
            notes.push(key.span(), finding.help(format!("remove it: {why}")));
        }
    }
}

fn read_bind(fields: &Fields<'_, '_>, notes: &mut Notes) -> Option<Labels> {
    let value = fields.get("bind")?;
    let labels = read_labels(value, "bind", notes)?;
    if value.get_ref().as_table().is_some_and(|table| table.is_empty()) {
        let finding = Finding::error(Code::InvalidValue, "an empty `bind` binds nobody");
        notes.push(value.span(), finding.help("name a label, such as { space = \"payments-prod\" }"));
    }
    Some(labels)
}

/// Reads labels: a table of strings under known keys.
pub(crate) fn read_labels(value: &Value<'_>, key: &str, notes: &mut Notes) -> Option<Labels> {
    let help = format!("write {key} = {{ space = \"…\" }}");
    let table = reader::table(value, What::Key(key), &help, notes)?;
    let known = || Label::ALL.into_iter().map(Label::key);
    let mut labels = Labels::default();
    for (name, value) in table {
        let Some(label) = Label::parse(name.get_ref()) else {
            let finding =
                Finding::error(Code::UnknownReference, format!("unknown label `{}`", shown(name.get_ref())));
            let guess = closest(name.get_ref(), known()).map(|guess| format!("did you mean `{guess}`? "));
            let help = format!("{}the labels are {}", guess.unwrap_or_default(), listed(known()));
            notes.push(name.span(), finding.help(help));
            continue;
        };
        let Some(text) = reader::string(value, What::Key(label.key()), notes) else { continue };
        if text.is_empty() || text.len() > LABEL_BYTES_MAX {
            let message =
                format!("a value of `{label}` has 1 to {LABEL_BYTES_MAX} bytes, not {}", text.len());
            notes.push(
                value.span(),
                Finding::error(Code::InvalidValue, message).help("write a name, or remove the label"),
            );
            continue;
        }
        labels.set(label, text);
    }
    Some(labels)
}

/// Reads `metadata`, the one way to a cloud's metadata service.
fn read_metadata(named: &Named<'_, '_>, cx: &mut Cx<'_, '_>) -> Vec<(CanonicalIp, Place)> {
    let mut opened = Vec::new();
    for value in named.fields.list("metadata", "addresses", cx.notes).unwrap_or_default() {
        let Some(text) = reader::string(value, What::Element("a metadata address"), cx.notes) else {
            continue;
        };
        let address = text.parse::<IpAddr>().ok().filter(|address| METADATA_ADDRESSES.contains(address));
        let Some(address) = address else {
            let finding =
                Finding::error(Code::InvalidValue, format!("`{}` is not a metadata address", shown(text)));
            let help =
                "`metadata` is for the services of clouds, such as \"169.254.169.254\"; others go to `allow`";
            cx.notes.push(value.span(), finding.help(help));
            continue;
        };
        let message = format!("{} opens the metadata service at {address}", named.title);
        let finding =
            Finding::warning(Code::Suspicious, message).label("gives out the machine's credentials");
        cx.notes.push(value.span(), finding.help("remove it unless the workload needs these credentials"));
        opened.push((CanonicalIp::new(address), cx.place(value.span().start)));
    }
    opened
}
