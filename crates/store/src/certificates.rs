//! `[certificate.NAME]`: principals that are known by a client certificate.

use std::collections::HashMap;
use std::ops::Range;

use exeat_identity::{Certificates, Holder, Match};
use exeat_model::DnsName;
use exeat_policy::{Caps, Labels, PolicySet};

use crate::caps;
use crate::clients;
use crate::document::{Cx, Document, Named};
use crate::names;
use crate::notes::Notes;
use crate::policies;
use crate::problem::{Code, Finding, shown};
use crate::reader::Fields;

/// The keys that say which certificates are meant.
const MATCH_KEYS: [&str; 4] = ["spiffe", "dns", "cn", "cloud_foundry"];

/// Longest name that is matched, in bytes: what is longer is taken from no certificate.
const VALUE_BYTES_MAX: usize = 512;

/// A holder as its table says.
pub(crate) struct Certificate {
    pub(crate) name: String,
    pub(crate) span: Range<usize>,
    /// Nothing if a part of it cannot be read.
    matches: Option<Match>,
    same_address: bool,
    pub(crate) policies: Vec<(String, Range<usize>)>,
    pub(crate) labels: Labels,
    caps: Caps,
}

impl Certificate {
    /// Whether certificates bring labels that its own table does not say.
    pub(crate) fn brings_labels(&self) -> bool {
        self.matches.as_ref().is_some_and(|matches| matches.cloud_foundry)
    }
}

/// Reads a holder of certificates.
pub(crate) fn read(named: &Named<'_, '_>, cx: &mut Cx<'_, '_>) -> Certificate {
    if let Err(finding) = names::check_workload(named.name) {
        cx.notes.push(named.span.clone(), finding);
    }
    let fields = &named.fields;
    let labels = fields.get("labels").and_then(|value| policies::read_labels(value, "labels", cx.notes));
    Certificate {
        name: named.name.to_owned(),
        span: named.span.clone(),
        matches: read_match(named, cx.notes),
        same_address: fields.boolean("same_address", cx.notes).unwrap_or(false),
        policies: clients::read_policies(fields, cx.notes),
        labels: labels.unwrap_or_default(),
        caps: caps::read(fields, cx.notes),
    }
}

fn read_match(named: &Named<'_, '_>, notes: &mut Notes) -> Option<Match> {
    let fields = &named.fields;
    let cloud_foundry = match fields.get("cloud_foundry") {
        Some(_) => fields.boolean("cloud_foundry", notes)?,
        None => false,
    };
    let is_given = |key: &str| fields.get(key).is_some() && (key != "cloud_foundry" || cloud_foundry);
    if !MATCH_KEYS.iter().any(|key| is_given(key)) {
        let message = format!("{} does not say which certificates it means", named.title);
        let help = "write spiffe = \"spiffe://…\", dns = \"…\", cn = \"…\" or cloud_foundry = true";
        notes.push(named.span.clone(), Finding::error(Code::MissingKey, message).help(help));
        return None;
    }
    let spiffe = text(fields, "spiffe", is_spiffe, SPIFFE_HELP, notes);
    let dns = text(fields, "dns", |name| DnsName::parse(name).is_ok(), DNS_HELP, notes);
    let cn = text(fields, "cn", |name| !name.chars().any(char::is_control), CN_HELP, notes);
    let dns = dns?.and_then(|name| DnsName::parse(&name).ok()).map(|name| name.as_str().to_owned());
    Some(Match { spiffe: spiffe?, dns, common_name: cn?, cloud_foundry })
}

const SPIFFE_HELP: &str =
    "write \"spiffe://example.org/jobs/1\", or \"spiffe://example.org/jobs/*\" for all below";
const DNS_HELP: &str = "write a name that stands in the certificate, such as \"job.example.org\"";
const CN_HELP: &str = "write the common name as it stands in the certificate";

/// Returns `Some(None)` if the key is not there, and `None` if its value is wrong.
fn text(
    fields: &Fields<'_, '_>,
    key: &str,
    is_fine: impl Fn(&str) -> bool,
    help: &str,
    notes: &mut Notes,
) -> Option<Option<String>> {
    let Some(value) = fields.get(key) else { return Some(None) };
    let text = fields.string(key, notes)?;
    if !(1..=VALUE_BYTES_MAX).contains(&text.len()) || !is_fine(text) {
        let message = format!("`{}` is not a value of `{key}`", shown(text));
        notes.push(value.span(), Finding::error(Code::InvalidValue, message).help(help));
        return None;
    }
    Some(Some(text.to_owned()))
}

/// Whether a text is a SPIFFE ID (SPIFFE-ID §2), or what all of a path are below.
fn is_spiffe(text: &str) -> bool {
    let Some((domain, path)) = text.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')) else {
        return false;
    };
    let path = path.strip_suffix('*').map_or(path, |above| above.strip_suffix('/').unwrap_or(above));
    let is_whole = !text.ends_with('*') || text.ends_with("/*");
    let is_domain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
    let is_segment = |segment: &str| {
        let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        !segment.is_empty() && !matches!(segment, "." | "..") && segment.chars().all(is_fine)
    };
    let is_path = path.split('/').all(is_segment) || (path.is_empty() && text.ends_with("/*"));
    !domain.is_empty() && domain.chars().all(is_domain) && is_whole && is_path
}

/// Checks what holders say of each other, and of those who have their names.
pub(crate) fn check(document: &Document, notes: &mut Notes) {
    let mut taken: HashMap<&Match, &str> = HashMap::new();
    for holder in &document.certificates {
        if let Some(matches) = &holder.matches
            && let Some(other) = taken.insert(matches, &holder.name)
        {
            let message = format!("[certificate.{}] means the same certificates", shown(other));
            let finding = Finding::error(Code::Duplicate, message);
            notes.push(holder.span.clone(), finding.help("remove one of them"));
        }
        let is_client = document.clients.iter().any(|client| client.name == holder.name);
        if is_client || document.workloads.iter().any(|workload| workload.name == holder.name) {
            let message = format!("there is a client or a workload `{}`, too", shown(&holder.name));
            let finding = Finding::error(Code::Conflict, message);
            notes.push(holder.span.clone(), finding.help("records tell them by their names: rename one"));
        }
    }
    let asks =
        |listener: &crate::settings::Listener| listener.tls.as_ref().is_some_and(|tls| tls.clients.is_some());
    if let Some(first) = document.certificates.first().filter(|_| !document.proxy.listen.iter().any(asks)) {
        let finding = Finding::warning(Code::Unused, "no listener asks for client certificates");
        let help = "add client_ca = \"ca.pem\" to the `tls` of a listener";
        notes.push(first.span.clone(), finding.help(help));
    }
}

/// Returns the holders, bound to `policy`.
pub(crate) fn bind(holders: Vec<Certificate>, policy: &PolicySet) -> Certificates {
    let mut bound = Certificates::new();
    for Certificate { name, matches, same_address, policies, labels, caps, .. } in holders {
        let Some(matches) = matches else { continue };
        let policies = policies.into_iter().map(|(name, _)| name).collect();
        bound.insert(Holder { name: name.into(), matches, same_address, policies, labels, caps }, policy);
    }
    bound
}
