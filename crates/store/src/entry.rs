//! Entries of allow and deny lists: strings, and tables with settings.

use exeat_model::{
    DnsName, IpBlock, NameError, NamePattern, PatternError, Port, PortError, PortRange, PortSet, SuffixKind,
    Transport, suffix_kind,
};
use exeat_policy::{Announce, Answers, Class, Defaults, Destination, Entry, EntryError, Expect, Transports};
use toml::de::DeValue;

use crate::caps;
use crate::keys;
use crate::notes::Notes;
use crate::problem::{Code, Finding, shown};
use crate::reader::{self, Fields, Value, What};

/// Reads one entry of a list named `list`.
pub(crate) fn read(value: &Value<'_>, list: &str, notes: &mut Notes) -> Option<Entry> {
    match value.get_ref() {
        DeValue::String(text) => match Entry::parse(text) {
            Ok(entry) => Some(entry),
            Err(error) => {
                notes.push(value.span(), finding(text, &error));
                None
            }
        },
        DeValue::Table(table) => {
            let fields = Fields::check(table, value.span(), "an entry", keys::ENTRY, notes);
            read_table(&fields, notes)
        }
        DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_) => {
            let help = "write a host such as \"api.example.com\", or { host = \"…\", ports = [443] }";
            let what = format!("an entry of `{list}`");
            reader::wrong_type(
                value,
                What::Element(&what),
                "a string or a table",
                Some(help.to_owned()),
                notes,
            );
            None
        }
    }
}

fn read_table(fields: &Fields<'_, '_>, notes: &mut Notes) -> Option<Entry> {
    // Each part is read even if another is wrong, so that every problem is told at once.
    let destination = read_destination(fields, notes);
    let settings = read_defaults(fields, notes);
    let sni = read_names(fields, "sni", notes);
    let mut entry = destination?;
    if let (Some(_), Some(span)) = (&entry.settings.ports, fields.key_span("ports")) {
        let finding = Finding::error(Code::Conflict, "ports are given twice");
        notes.push(span, finding.help("leave them out of the host, or remove `ports`"));
    }
    entry.settings = Defaults { ports: entry.settings.ports.or(settings.ports), ..settings };
    entry.sni = sni;
    check_settings(&entry.destination, fields, notes);
    check_udp(&entry.settings, fields, notes);
    Some(entry)
}

/// What opens a connection can only be looked at where it is a stream.
fn check_udp(settings: &Defaults, fields: &Fields<'_, '_>, notes: &mut Notes) {
    if settings.transport != Some(Transports::Only(Transport::Udp)) {
        return;
    }
    for key in ["expect", "sni", "proxy_protocol", "verify"] {
        if let Some(span) = fields.key_span(key) {
            let finding = Finding::error(Code::Conflict, format!("`{key}` has no meaning for UDP"));
            notes
                .push(span, finding.help("remove it: datagrams have no first bytes that could be looked at"));
        }
    }
}

/// A reader of one of the keys that say what an entry speaks of.
type DestinationKey = (&'static str, fn(&str) -> Result<Entry, EntryError>);

/// The keys of which an entry has one.
const DESTINATIONS: [DestinationKey; 3] =
    [("host", Entry::parse), ("suffix", parse_suffix), ("network", parse_network)];

/// Reads the one of `host`, `suffix` and `network` that is there.
fn read_destination(fields: &Fields<'_, '_>, notes: &mut Notes) -> Option<Entry> {
    let mut given = DESTINATIONS.into_iter().filter(|(key, _)| fields.get(key).is_some());
    let Some((key, parse)) = given.next() else {
        let finding = Finding::error(Code::MissingKey, "an entry needs `host`, `suffix` or `network`");
        notes.push(fields.span(), finding.help("write { host = \"api.example.com\", ports = [443] }"));
        return None;
    };
    for (second, _) in given {
        let finding = Finding::error(Code::Conflict, format!("an entry has `{key}` or `{second}`, not both"));
        let span = fields.key_span(second).unwrap_or_else(|| fields.span());
        notes.push(span, finding.help("write an entry for each"));
    }
    let text = fields.string(key, notes)?;
    match parse(text) {
        Ok(entry) => Some(entry),
        Err(error) => {
            let span = fields.get(key).map_or(fields.span(), toml::Spanned::span);
            notes.push(span, finding(text, &error));
            None
        }
    }
}

/// `{ suffix = "gov" }`: every name below a public suffix, on purpose.
fn parse_suffix(text: &str) -> Result<Entry, EntryError> {
    let bare = text.strip_prefix("*.").or_else(|| text.strip_prefix('.')).unwrap_or(text);
    match NamePattern::parse(bare) {
        Ok(NamePattern::Exact(name)) => {
            let mut entry = Entry::new(Destination::Name(NamePattern::Subdomains(name)));
            entry.suffix = true;
            Ok(entry)
        }
        Ok(NamePattern::Subdomains(_) | NamePattern::Any) => {
            Err(EntryError::Pattern { text: text.to_owned(), source: PatternError::Wildcard })
        }
        Err(source) => Err(EntryError::Pattern { text: text.to_owned(), source }),
    }
}

fn parse_network(text: &str) -> Result<Entry, EntryError> {
    match IpBlock::parse(text) {
        Ok(block) => Ok(Entry::new(Destination::Network(block))),
        Err(source) => Err(EntryError::Network { text: text.to_owned(), source }),
    }
}

/// Refuses settings that say nothing for this kind of destination, because their author expects something.
fn check_settings(destination: &Destination, fields: &Fields<'_, '_>, notes: &mut Notes) {
    let (pointless, why): (&[&str], &str) = match destination {
        Destination::Name(_) => return,
        Destination::AnyPublic => {
            (&["addresses", "sni"], "`@any-public` is every global address and any name")
        }
        Destination::Network(_) => {
            (&["addresses", "sni", "answers", "verify"], "a network matches targets given as addresses")
        }
        Destination::Group(_) => (
            &[
                "ports",
                "transport",
                "addresses",
                "expect",
                "sni",
                "answers",
                "proxy_protocol",
                "verify",
                "class",
                "idle_timeout",
                "max_age",
                "max_bytes_up",
                "max_bytes_down",
            ],
            "a group carries its own settings: set them in [groups.NAME] or on its entries",
        ),
    };
    for key in pointless {
        if let Some(span) = fields.key_span(key) {
            let finding = Finding::error(
                Code::Conflict,
                format!("`{key}` has no meaning for `{}`", shown(&destination.to_string())),
            );
            notes.push(span, finding.help(format!("remove it: {why}")));
        }
    }
}

/// Reads the settings that entries, groups and policies share.
pub(crate) fn read_defaults(fields: &Fields<'_, '_>, notes: &mut Notes) -> Defaults {
    Defaults {
        ports: read_ports(fields, notes),
        transport: fields.word("transport", &Transports::ALL.map(Transports::word), Transports::parse, notes),
        addresses: read_addresses(fields, notes),
        expect: fields.word("expect", &["tls", "http", "any"], Expect::parse, notes),
        answers: fields.word("answers", &["refuse", "filter"], Answers::parse, notes),
        announce: read_announce(fields, notes),
        verify: fields.boolean("verify", notes),
        class: fields.word("class", &Class::ALL.map(Class::word), Class::parse, notes),
        caps: caps::read(fields, notes),
    }
}

/// Reads `proxy_protocol = "v2"`.
pub(crate) fn read_announce(fields: &Fields<'_, '_>, notes: &mut Notes) -> Option<Announce> {
    fields.word("proxy_protocol", &Announce::ALL.map(Announce::word), Announce::parse, notes)
}

/// Reads `ports = [443, "8000-8010"]`.
fn read_ports(fields: &Fields<'_, '_>, notes: &mut Notes) -> Option<PortSet> {
    let list = fields.list("ports", "ports", notes)?;
    if list.is_empty() {
        push_empty(fields, "ports", "no port", notes);
    }
    let ranges = list.iter().filter_map(|value| read_port(value, notes));
    Some(PortSet::from_ranges(ranges.collect::<Vec<_>>()))
}

fn read_port(value: &Value<'_>, notes: &mut Notes) -> Option<PortRange> {
    if let DeValue::String(text) = value.get_ref() {
        let parsed = PortRange::parse(text);
        if let Err(error) = &parsed {
            let finding =
                Finding::error(Code::InvalidValue, format!("`{}` is not a port or a range", shown(text)));
            let help = match error {
                PortError::Reversed { .. } => error.to_string(),
                PortError::Empty
                | PortError::NotDigits
                | PortError::LeadingZero
                | PortError::Zero
                | PortError::TooLarge => {
                    format!("{error}; write 443 or \"8000-8010\"")
                }
            };
            notes.push(value.span(), finding.help(help));
        }
        return parsed.ok();
    }
    let number = reader::integer(value, What::Element("a port"), &(1..=u64::from(u16::MAX)), notes)?;
    u16::try_from(number).ok().and_then(Port::new).map(PortRange::from)
}

/// Reads `addresses = ["10.20.0.0/16"]`.
fn read_addresses(fields: &Fields<'_, '_>, notes: &mut Notes) -> Option<Vec<IpBlock>> {
    let blocks = read_networks(fields, "addresses", notes);
    if fields.list("addresses", "networks", &mut Notes::default()).is_some_and(<[_]>::is_empty) {
        push_empty(fields, "addresses", "no address", notes);
    }
    blocks
}

/// Reads a list of networks.
pub(crate) fn read_networks(fields: &Fields<'_, '_>, key: &str, notes: &mut Notes) -> Option<Vec<IpBlock>> {
    let list = fields.list(key, "networks", notes)?;
    let read = |value: &Value<'_>| {
        let text = reader::string(value, What::Element("a network"), notes)?;
        match IpBlock::parse(text) {
            Ok(block) => Some(block),
            Err(error) => {
                let finding =
                    Finding::error(Code::InvalidValue, format!("`{}` is not a network", shown(text)));
                let help = error
                    .correction()
                    .map(|write| format!("write \"{write}\""))
                    .unwrap_or_else(|| error.to_string());
                notes.push(value.span(), finding.help(help));
                None
            }
        }
    };
    Some(list.iter().filter_map(read).collect())
}

/// Reads a list of names that may not be patterns.
fn read_names(fields: &Fields<'_, '_>, key: &str, notes: &mut Notes) -> Vec<DnsName> {
    let list = fields.list(key, "names", notes).unwrap_or_default();
    let read = |value: &Value<'_>| {
        let text = reader::string(value, What::Element("a name"), notes)?;
        match DnsName::parse(text) {
            Ok(name) => Some(name),
            Err(source) => {
                let error = EntryError::Pattern { text: text.to_owned(), source: PatternError::Name(source) };
                let finding = finding(text, &error);
                notes.push(
                    value.span(),
                    Finding { message: format!("`{}` is not a host name", shown(text)), ..finding },
                );
                None
            }
        }
    };
    list.iter().filter_map(read).collect()
}

fn push_empty(fields: &Fields<'_, '_>, key: &str, covers: &str, notes: &mut Notes) {
    let finding = Finding::error(Code::InvalidValue, format!("an empty `{key}` covers {covers}"));
    let span = fields.key_span(key).unwrap_or_else(|| fields.span());
    notes.push(span, finding.help(format!("list what is meant, or remove `{key}`")));
}

/// The words for a text that is not an entry.
pub(crate) fn finding(text: &str, error: &EntryError) -> Finding {
    let shown_text = shown(&without_userinfo(text));
    let message = match error {
        EntryError::Empty | EntryError::GroupPorts { .. } => error.to_string(),
        EntryError::Pattern { .. } => format!("`{shown_text}` is not a host pattern"),
        EntryError::Url { .. } => format!("`{shown_text}` is a URL, not a host"),
        EntryError::Network { .. } => format!("`{shown_text}` is not a network"),
        EntryError::Ports { text, .. } => format!("`{}` is not a list of ports", shown(text)),
    };
    let finding = Finding::error(Code::InvalidEntry, message);
    match help(text, error) {
        Some(help) => finding.help(help),
        None => finding,
    }
}

/// The correction: as the policy proposes it, or better where only the text as a whole tells what was meant.
fn help(text: &str, error: &EntryError) -> Option<String> {
    if let Some(name) = hosts_file_name(text) {
        return Some(format!("write the name alone: \"{}\"", shown(name)));
    }
    if text.trim() != text {
        return Some(format!("remove the spaces around it: \"{}\"", shown(text.trim())));
    }
    if let EntryError::Pattern { source: PatternError::Name(NameError::NotAscii), .. } = error {
        return Some(ascii_help(text));
    }
    if let Some(rest) = text.strip_prefix('.') {
        return Some(dot_help(rest));
    }
    if let EntryError::Network { source, .. } = error {
        let write =
            source.correction().map(|block| text.replacen(text.split(':').next().unwrap_or(text), &block, 1));
        return Some(
            write
                .filter(|_| !text.contains("::"))
                .map_or_else(|| shown(&source.to_string()), |write| format!("write \"{}\"", shown(&write))),
        );
    }
    error.correction().map(|correction| long_shown(&correction))
}

/// What a dot before a name stands for elsewhere: in some files the names below it, in others it, too.
fn dot_help(rest: &str) -> String {
    let name = rest.split(':').next().unwrap_or(rest);
    let is_suffix = DnsName::parse(name).is_ok_and(|name| suffix_kind(&name) == SuffixKind::Icann);
    let rest = shown(rest);
    if is_suffix {
        return format!(
            "name a registered domain, or write {{ suffix = \"{}\" }} if you mean all of it",
            shown(name)
        );
    }
    format!("write \"*.{rest}\" for every name below it, and \"{rest}\" beside it if it is meant, too")
}

/// Names outside ASCII are written as their A-labels (RFC 5890 §2.3.2.1), which is what the wire carries.
fn ascii_help(text: &str) -> String {
    let (host, ports) = text.split_at(text.find(':').unwrap_or(text.len()));
    let (wildcard, name) = host.strip_prefix("*.").map_or(("", host), |name| ("*.", name));
    match idna::domain_to_ascii_strict(name) {
        Ok(ascii) if DnsName::parse(&ascii).is_ok() => {
            format!("write its ASCII form: \"{wildcard}{ascii}{}\"", shown(ports))
        }
        Ok(_) | Err(_) => "write the name in its ASCII form, which starts with \"xn--\"".to_owned(),
    }
}

/// The name of a line in the format of `/etc/hosts`, which blocklists are often published in.
fn hosts_file_name(text: &str) -> Option<&str> {
    let mut words = text.split_whitespace();
    let address = words.next()?;
    address.parse::<std::net::IpAddr>().ok()?;
    words.next()
}

/// `https://user:password@host` without the part before the `@`.
fn without_userinfo(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    match authority.rfind('@').and_then(|at| rest.get(at + 1..)) {
        Some(rest) => format!("{scheme}://{rest}"),
        None => text.to_owned(),
    }
}

/// As [`shown`], for a sentence that quotes the operator's text.
fn long_shown(text: &str) -> String {
    const SENTENCE_CHARS_MAX: usize = 240;
    let printable = text.chars().filter(|&c| !crate::problem::is_unprintable(c));
    printable.take(SENTENCE_CHARS_MAX).collect()
}
