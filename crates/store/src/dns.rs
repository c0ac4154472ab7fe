//! `[dns]`: the policy server for names.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;

use exeat_dns::{DeniedAnswer, Extra, Ranges, RangesError, ServerConfig};
use ipnet::{Ipv4Net, Ipv6Net};
use toml::de::DeValue;

use crate::keys;
use crate::listeners;
use crate::notes::Notes;
use crate::problem::{Code, Finding, shown};
use crate::reader::{self, Fields, Value, What};
use crate::sections::{ADDRESSES_MAX, DNS_PORT, check_length};
use crate::settings::{DnsListener, DnsSettings};
use crate::suggest::{closest, listed};
use crate::tap;
use crate::tap_out;

/// Questions a second, and names a minute; 0 sets no bound. Above a million nothing would be bounded.
const RATE: RangeInclusive<u64> = 0..=1_000_000;

/// TCP connections: none would leave long answers unread; above is more than descriptors usually go.
const CONNECTIONS: RangeInclusive<u64> = 1..=1_000_000;

/// What the help shows for networks.
const RANGES_HELP: &str =
    "write virtual = [\"198.18.0.0/15\", \"fd65:7865:6174::/96\"], with networks that nothing else uses";

/// What the help shows as an example.
const LISTEN_HELP: &str =
    "write listen = [\"10.99.0.1\"], or { address = \"10.99.0.1\", interface = \"br0\" }";

/// Reads `[dns]`.
pub(crate) fn read(fields: &Fields<'_, '_>, base_dir: &Path, notes: &mut Notes) -> DnsSettings {
    let default = ServerConfig::default();
    let mut count = |key, range: &RangeInclusive<u64>, default| {
        let read = fields.integer(key, range, notes).and_then(|value| usize::try_from(value).ok());
        read.unwrap_or(default)
    };
    let queries_per_second = count("queries_per_second", &RATE, default.queries_per_second);
    let names_per_minute = count("names_per_minute", &RATE, default.names_per_minute);
    let connections = count("connections", &CONNECTIONS, default.connections);
    let words = DeniedAnswer::ALL.map(|(word, _)| word);
    let parse = |text: &str| DeniedAnswer::ALL.into_iter().find(|(word, _)| *word == text).map(|(_, it)| it);
    let settings = DnsSettings {
        listen: read_listen(fields, notes),
        virtual_ranges: read_mode(fields, notes),
        tap: fields.get("tap").and_then(|value| tap::read(value, base_dir, notes)),
        tap_out: fields.get("tap_out").and_then(|value| tap_out::read(value, base_dir, notes)),
        server: ServerConfig {
            denied: fields.word("denied", &words, parse, notes).unwrap_or(default.denied),
            types: read_types(fields, notes),
            queries_per_second,
            names_per_minute,
            connections,
        },
    };
    tap::check(fields, &settings, notes);
    tap_out::check(fields, &settings, notes);
    settings
}

/// Whether names get addresses that stand for them, and of which networks.
fn read_mode(fields: &Fields<'_, '_>, notes: &mut Notes) -> Option<Ranges> {
    let parse =
        |text: &str| [("resolve", false), ("virtual", true)].into_iter().find(|(word, _)| *word == text);
    let mode = fields.word("mode", &["resolve", "virtual"], parse, notes);
    let is_virtual = mode.is_some_and(|(_, is_virtual)| is_virtual);
    let written = fields.get("virtual").map(|value| read_ranges(value, notes));
    match (is_virtual, fields.key_span("virtual")) {
        (false, Some(span)) => {
            let finding =
                Finding::error(Code::Conflict, "`virtual` has no meaning without mode = \"virtual\"");
            notes.push(span, finding.help("remove it, or write mode = \"virtual\""));
            None
        }
        (false, None) => None,
        // What could not be read has been told.
        (true, _) => Some(written.flatten().unwrap_or_default()),
    }
}

/// Reads a network of each family.
fn read_ranges(value: &Value<'_>, notes: &mut Notes) -> Option<Ranges> {
    let list = reader::list(value, What::Key("virtual"), "networks", notes)?;
    let texts =
        list.iter().map(|value| reader::string(value, What::Element("a network of `virtual`"), notes));
    let texts: Vec<&str> = texts.collect::<Option<_>>()?;
    let v4: Vec<Ipv4Net> = texts.iter().filter_map(|text| text.parse().ok()).collect();
    let v6: Vec<Ipv6Net> = texts.iter().filter_map(|text| text.parse().ok()).collect();
    let problem = match (v4.as_slice(), v6.as_slice(), texts.len()) {
        ([v4], [v6], 2) => match Ranges::new(*v4, *v6) {
            Ok(ranges) => return Some(ranges),
            Err(error @ (RangesError::Small | RangesError::Narrow)) => error.to_string(),
        },
        _ => "`virtual` is not a network of each family".to_owned(),
    };
    notes.push(value.span(), Finding::error(Code::InvalidValue, problem).help(RANGES_HELP));
    None
}

fn read_listen(fields: &Fields<'_, '_>, notes: &mut Notes) -> Vec<DnsListener> {
    let Some(list) = fields.list("listen", "addresses", notes) else { return Vec::new() };
    check_length(fields, "listen", list.len(), LISTEN_HELP, notes);
    let mut read: Vec<DnsListener> = Vec::new();
    for value in list.iter().take(ADDRESSES_MAX) {
        let Some(listener) = read_listener(value, notes) else { continue };
        let is_same = |other: &DnsListener| {
            let is_one_device = other.interface == listener.interface;
            other.address == listener.address
                && (is_one_device || other.interface.is_none() || listener.interface.is_none())
        };
        if read.iter().any(is_same) {
            let message = format!("`{}` is listed twice", listener.address);
            notes.push(value.span(), Finding::error(Code::Duplicate, message).help("remove one"));
        }
        read.push(listener);
    }
    read
}

fn read_listener(value: &Value<'_>, notes: &mut Notes) -> Option<DnsListener> {
    let DeValue::Table(table) = value.get_ref() else {
        return Some(DnsListener { address: read_address(value, notes)?, interface: None });
    };
    let title = "a listener of `[dns]`";
    let fields = Fields::check(table, value.span(), title, keys::DNS_LISTENER, notes);
    let address = fields.required("address", title, LISTEN_HELP, notes);
    let address = address.and_then(|value| read_address(value, notes));
    let interface = match fields.get("interface") {
        Some(_) => Some(listeners::read_interface(&fields, notes)?),
        None => None,
    };
    Some(DnsListener { address: address?, interface })
}

/// Reads an address, with the port of name servers unless another is written.
fn read_address(value: &Value<'_>, notes: &mut Notes) -> Option<SocketAddr> {
    let text = reader::string(value, What::Element("an address of `listen`"), notes)?;
    let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, DNS_PORT));
    let address = address.or_else(|_| text.parse()).ok();
    if address.is_none() {
        let finding = Finding::error(Code::InvalidValue, format!("`{}` is not an address", shown(text)));
        notes.push(value.span(), finding.help(LISTEN_HELP));
    }
    address
}

fn read_types(fields: &Fields<'_, '_>, notes: &mut Notes) -> Vec<Extra> {
    let Some(list) = fields.list("types", "types of record", notes) else { return Vec::new() };
    let names = || Extra::ALL.into_iter().map(|(name, _)| name);
    let mut types = Vec::new();
    for value in list {
        let Some(text) = reader::string(value, What::Element("a type of record"), notes) else { continue };
        match Extra::ALL.into_iter().find(|(name, _)| *name == text) {
            Some((_, found)) if types.contains(&found) => {
                let message = format!("`{text}` is listed twice");
                notes.push(value.span(), Finding::error(Code::Duplicate, message).help("remove one"));
            }
            Some((_, found)) => types.push(found),
            None => notes.push(value.span(), unknown_type(text, &listed(names()), closest(text, names()))),
        }
    }
    types
}

fn unknown_type(text: &str, known: &str, guess: Option<&str>) -> Finding {
    let finding = Finding::error(Code::InvalidValue, format!("`{}` cannot be passed on", shown(text)));
    let is_always = ["A", "AAAA", "HTTPS", "SVCB", "PTR"].contains(&text.to_ascii_uppercase().as_str());
    if is_always {
        return finding.help("leave it out: addresses, and how to connect, can always be asked for");
    }
    let guess = guess.map(|guess| format!("did you mean \"{guess}\"? ")).unwrap_or_default();
    finding.help(format!("{guess}the types are {known}"))
}

#[cfg(test)]
mod tests {
    use exeat_policy::Revision;

    use super::*;
    use crate::{Options, load_text};

    fn load(text: &str) -> Result<DnsSettings, String> {
        let loaded = load_text("t.toml", text, Path::new(""), &Options::new(Revision(1)));
        loaded.map(|loaded| loaded.settings.dns).map_err(|report| {
            let problems = report.problems().iter();
            let texts = problems.map(|p| format!("{} | {}", p.message(), p.help().unwrap_or_default()));
            texts.collect::<Vec<_>>().join("; ")
        })
    }

    fn at(address: &str, interface: Option<&str>) -> DnsListener {
        DnsListener { address: address.parse().unwrap(), interface: interface.map(str::to_owned) }
    }

    #[test]
    fn nothing_listens_unless_told() {
        assert_eq!(load(""), Ok(DnsSettings::default()));
        assert_eq!(load("[dns]\n"), Ok(DnsSettings::default()));
    }

    #[test]
    fn everything_that_can_be_set() {
        let text = "[dns]\nlisten = [\"10.99.0.1\", \"[::1]:5353\", { address = \"10.99.0.2\", interface = \"br0\" }]\n\
                    denied = \"refused\"\ntypes = [\"TXT\", \"MX\"]\nqueries_per_second = 0\nnames_per_minute = 7\nconnections = 9\n";
        let types = Extra::ALL.into_iter().filter(|(name, _)| ["MX", "TXT"].contains(name));
        let mut types = types.map(|(_, it)| it).collect::<Vec<_>>();
        types.reverse();
        let want = DnsSettings {
            listen: vec![at("10.99.0.1:53", None), at("[::1]:5353", None), at("10.99.0.2:53", Some("br0"))],
            server: ServerConfig {
                denied: DeniedAnswer::Refused,
                types,
                queries_per_second: 0,
                names_per_minute: 7,
                connections: 9,
            },
            virtual_ranges: None,
            tap: None,
            tap_out: None,
        };
        assert_eq!(load(text), Ok(want));
    }

    #[test]
    fn addresses_may_stand_for_names() {
        let redirected =
            "[proxy]\nlisten = [{ address = \"127.0.0.1:1\", redirected = true }]\n[dns]\nmode = ";
        let ranges = |rest: &str| load(&format!("{redirected}{rest}")).map(|dns| dns.virtual_ranges);
        assert_eq!(ranges("\"resolve\""), Ok(None));
        assert_eq!(ranges("\"virtual\""), Ok(Some(Ranges::default())));
        let own = Ranges::new("10.200.0.0/16".parse().unwrap(), "fd01::/64".parse().unwrap()).unwrap();
        let written = "\"virtual\"\nvirtual = [\"fd01::/64\", \"10.200.0.0/16\"]";
        assert_eq!(ranges(written), Ok(Some(own)));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_correction() {
        for (text, want) in [
            ("listen = []", format!("`listen` is empty | {LISTEN_HELP}")),
            ("listen = [\"localhost\"]", format!("`localhost` is not an address | {LISTEN_HELP}")),
            ("listen = [\"::1\", \"[::1]:53\"]", "`[::1]:53` is listed twice | remove one".to_owned()),
            (
                "listen = [{ address = \"10.0.0.1\", tls = {} }]",
                "unknown key `tls` in a listener of `[dns]`".to_owned(),
            ),
            (
                "denied = \"nxdomian\"",
                "`nxdomian` is not a value of `denied` | did you mean \"nxdomain\"? write \"nxdomain\" or \"refused\" or \"sinkhole\"".to_owned(),
            ),
            ("types = [\"TXT\", \"TXT\"]", "`TXT` is listed twice | remove one".to_owned()),
            (
                "types = [\"AAAA\"]",
                "`AAAA` cannot be passed on | leave it out: addresses, and how to connect, can always be asked for".to_owned(),
            ),
            (
                "types = [\"ANY\"]",
                "`ANY` cannot be passed on | ".to_owned(),
            ),
            ("types = [\"txt\"]", "`txt` cannot be passed on | did you mean \"TXT\"? ".to_owned()),
            ("mode = \"virtal\"", "`virtal` is not a value of `mode` | did you mean \"virtual\"? ".to_owned()),
            (
                "mode = \"virtual\"",
                "no listener takes the connections to virtual addresses | add { address = \"0.0.0.0:3130\", redirected = true }"
                    .to_owned(),
            ),
            ("virtual = [\"198.18.0.0/15\", \"fd00::/64\"]", "`virtual` has no meaning without mode = \"virtual\"".to_owned()),
            (
                "mode = \"virtual\"\nvirtual = [\"198.18.0.0/15\"]",
                format!("`virtual` is not a network of each family | {RANGES_HELP}"),
            ),
            (
                "mode = \"virtual\"\nvirtual = [\"198.18.0.0/30\", \"fd00::/64\"]",
                format!("the IPv4 network is smaller than a /28 | {RANGES_HELP}"),
            ),
            ("connections = 0", "`connections` is out of range".to_owned()),
        ] {
            let error = load(&format!("[dns]\n{text}\n")).unwrap_err();
            assert!(error.starts_with(&want) || error.contains(&want), "{text}: {error}");
        }
    }
}
