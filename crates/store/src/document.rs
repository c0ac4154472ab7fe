//! The configuration file as a whole: syntax, sections, and what each of them says.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use exeat_dns::ResolverConfig;
use exeat_policy::Place;
use exeat_proxy::Limits;
use toml::de::DeTable;

use crate::api;
use crate::certificates::{self, Certificate};
use crate::clients::{self, Client};
use crate::dns;
use crate::files::Files;
use crate::firewall;
use crate::groups::{self, Group};
use crate::issuers::{self, Issuer};
use crate::keys::{self, Section};
use crate::limits;
use crate::next_hops::{self, NextHop};
use crate::notes::Notes;
use crate::policies::{self, Policy};
use crate::problem::{Code, Finding, Severity, shown};
use crate::reader::{self, Fields, What};
use crate::secrets;
use crate::sections::{self, Proxy};
use crate::settings::{ApiSettings, AuditSettings, DnsSettings, FirewallSettings};
use crate::source::Source;
use crate::suggest::{closest, listed};
use crate::syntax::{self, Parsed};
use crate::verified;
use crate::workloads::{self, Workload};

/// Everything a configuration file says, before references between its parts are looked at.
pub(crate) struct Document {
    pub(crate) proxy: Proxy,
    /// Where `anonymous` stands.
    pub(crate) anonymous_span: Range<usize>,
    pub(crate) resolver: ResolverConfig,
    pub(crate) dns: DnsSettings,
    pub(crate) firewall: Option<FirewallSettings>,
    pub(crate) limits: Limits,
    pub(crate) audit: AuditSettings,
    pub(crate) state: Option<PathBuf>,
    pub(crate) api: ApiSettings,
    pub(crate) groups: Vec<Group>,
    pub(crate) policies: Vec<Policy>,
    pub(crate) ceilings: Vec<Policy>,
    pub(crate) next_hops: Vec<NextHop>,
    pub(crate) clients: Vec<Client>,
    pub(crate) workloads: Vec<Workload>,
    pub(crate) certificates: Vec<Certificate>,
    pub(crate) issuers: Vec<Issuer>,
    /// Whether it says how a proxy is reached or who may use one, or has no policy that a command could be under.
    pub(crate) is_for_proxy: bool,
    /// Whether the text is broken, so that parts of it may be missing here.
    pub(crate) broken: bool,
}

/// What the readers of one file share.
pub(crate) struct Cx<'c, 't> {
    pub(crate) source: &'c Source<'t>,
    /// The folder that relative paths start from.
    pub(crate) base_dir: &'c Path,
    pub(crate) notes: &'c mut Notes,
    pub(crate) files: &'c mut Files,
}

impl Cx<'_, '_> {
    /// Returns the place of a rule that starts at this offset.
    pub(crate) fn place(&self, offset: usize) -> Place {
        let (line, column) = self.source.position(offset);
        Place { file: Arc::clone(self.source.name()), line, column }
    }
}

/// A table with a name of the operator's choice.
pub(crate) struct Named<'v, 'i> {
    pub(crate) name: &'v str,
    /// `[policy.payments]`, for messages.
    pub(crate) title: String,
    /// The name in the header.
    pub(crate) span: Range<usize>,
    pub(crate) fields: Fields<'v, 'i>,
}

/// Reads a whole file. `source` learns what of its text is secret.
pub(crate) fn read(
    source: &mut Source<'_>,
    base_dir: &Path,
    notes: &mut Notes,
    files: &mut Files,
) -> Document {
    let text = source.text();
    let mut right = String::new();
    let Parsed { table, errors, broken } = syntax::parse(text, &mut right);
    let root = table.get_ref();
    // Of a key that is set twice the tree has only one value: then too, secrets are looked for line by line.
    source.hide(secrets::find(text, root, !errors.is_empty()));
    let document = read_sections(root, broken, &mut Cx { source, base_dir, notes, files });
    if broken {
        // What is missing may be what is broken.
        notes.retain(|finding| finding.code != Code::MissingKey && finding.severity == Severity::Error);
    }
    errors.into_iter().for_each(|(span, finding)| notes.push(span, finding));
    document
}

fn read_sections(root: &DeTable<'_>, broken: bool, cx: &mut Cx<'_, '_>) -> Document {
    check_sections(root, cx.notes);
    let proxy = single(root, &keys::PROXY, cx);
    let resolver = single(root, &keys::RESOLVER, cx);
    let dns = single(root, &keys::DNS, cx);
    let firewall = single(root, &keys::FIREWALL, cx);
    let audit = single(root, &keys::AUDIT, cx);
    let state = single(root, &keys::STATE, cx);
    let limits = single(root, &keys::LIMITS_SECTION, cx);
    let api = single(root, &keys::API, cx);
    let mode_span = dns.as_ref().and_then(|fields| fields.key_span("mode"));
    let dns = dns.map(|fields| dns::read(&fields, cx.base_dir, cx.notes)).unwrap_or_default();
    let anonymous = proxy.as_ref().and_then(|fields| fields.get("anonymous"));
    let document = Document {
        anonymous_span: anonymous.map(toml::Spanned::span).unwrap_or_default(),
        proxy: proxy.map(|fields| sections::read_proxy(&fields, cx.base_dir, cx.notes)).unwrap_or_default(),
        resolver: resolver.map(|fields| sections::read_resolver(&fields, cx.notes)).unwrap_or_default(),
        firewall: firewall.and_then(|fields| firewall::read(&fields, &dns, cx.notes)),
        dns,
        limits: limits.map(|fields| limits::read(&fields, cx.notes)).unwrap_or_default(),
        audit: audit.map(|fields| sections::read_audit(&fields, cx.base_dir, cx.notes)).unwrap_or_default(),
        state: state.and_then(|fields| sections::read_state(&fields, cx.base_dir, cx.notes)),
        api: api.map(|fields| api::read(&fields, cx.base_dir, cx.notes)).unwrap_or_default(),
        groups: each(root, &keys::GROUPS, cx, groups::read),
        policies: each(root, &keys::POLICY, cx, policies::read_policy),
        ceilings: each(root, &keys::CEILING, cx, policies::read_ceiling),
        next_hops: each(root, &keys::NEXT_HOP, cx, next_hops::read),
        clients: each(root, &keys::CLIENT, cx, clients::read),
        workloads: each(root, &keys::WORKLOAD, cx, workloads::read),
        certificates: each(root, &keys::CERTIFICATE, cx, certificates::read),
        issuers: each(root, &keys::ISSUER, cx, issuers::read),
        is_for_proxy: !root.contains_key(keys::POLICY.name)
            || keys::OF_PROXIES.iter().any(|section| root.contains_key(section.name)),
        broken,
    };
    if let Some(span) = mode_span {
        check_virtual(&document, span, cx.notes);
    }
    verified::check(root, &document, cx.notes);
    document
}

/// Addresses that stand for names lead nowhere without somebody who takes connections to them.
fn check_virtual(document: &Document, mode: Range<usize>, notes: &mut Notes) {
    let is_taken = document.proxy.listen.iter().any(|listener| listener.is_redirected);
    if document.dns.virtual_ranges.is_some() && !is_taken {
        let finding =
            Finding::error(Code::Conflict, "no listener takes the connections to virtual addresses");
        let help = "add { address = \"0.0.0.0:3130\", redirected = true } to `listen` of [proxy], and have the kernel \
                    redirect to it";
        notes.push(mode, finding.help(help));
    }
}

/// Reports top-level keys that are not sections.
fn check_sections(root: &DeTable<'_>, notes: &mut Notes) {
    let known = || keys::SECTIONS.iter().map(|section| section.name);
    for key in root.keys().filter(|key| !known().any(|name| name == key.get_ref())) {
        let name: &str = key.get_ref();
        let sections = format!("the sections are {}", listed(known()));
        let help = match (closest(name, known()), keys::sections_of(name)) {
            (Some(guess), _) => format!("did you mean `{guess}`? {sections}"),
            (None, Some(belongs)) => format!("`{name}` belongs in {belongs}"),
            (None, None) => sections,
        };
        notes.push(
            key.span(),
            Finding::error(Code::UnknownKey, format!("unknown section `{}`", shown(name))).help(help),
        );
    }
}

/// Returns the fields of a section that is one table.
fn single<'v, 'i>(root: &'v DeTable<'i>, section: &Section, cx: &mut Cx<'_, '_>) -> Option<Fields<'v, 'i>> {
    let value = root.get(section.name)?;
    let title = format!("[{}]", section.name);
    let table = reader::table(
        value,
        What::Key(section.name),
        &format!("write {title} on a line of its own"),
        cx.notes,
    )?;
    Some(Fields::check(table, value.span(), &title, section.keys, cx.notes))
}

/// Reads every table of a section of named tables.
fn each<T>(
    root: &DeTable<'_>,
    section: &Section,
    cx: &mut Cx<'_, '_>,
    read: fn(&Named<'_, '_>, &mut Cx<'_, '_>) -> T,
) -> Vec<T> {
    let Some(value) = root.get(section.name) else { return Vec::new() };
    let help = format!("write {} on a line of its own", section.title());
    let Some(tables) = reader::table(value, What::Key(section.name), &help, cx.notes) else {
        return Vec::new();
    };
    let mut read_all = Vec::with_capacity(tables.len());
    for (key, value) in tables {
        let name: &str = key.get_ref();
        let what = format!("{}.{name}", section.name);
        let Some(table) = reader::table(value, What::Key(&what), &help, cx.notes) else { continue };
        let title = format!("[{}.{}]", section.name, shown(name));
        let fields = Fields::check(table, key.span(), &title, section.keys, cx.notes);
        read_all.push(read(&Named { name, title, span: key.span(), fields }, cx));
    }
    read_all
}
