//! `[dns.tap]`: what other name servers on this host tell of their answers.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::api;
use crate::keys;
use crate::notes::Notes;
use crate::problem::{Code, Finding, shown};
use crate::reader::{self, Fields, Value, What};
use crate::sections::{ADDRESSES_MAX, DNS_PORT};
use crate::settings::{DnsSettings, TapSettings};
use crate::workloads;

/// What the help shows as an example.
const HELP: &str =
    "write tap = { socket = \"/run/exeat/dnstap.sock\", uid = \"unbound\", servers = [\"10.99.0.1\"] }";

const SERVERS_HELP: &str =
    "write the address that clients ask, with a port if it is not 53: servers = [\"10.99.0.1\"]";

/// Reads `[dns.tap]`. A relative socket is relative to the configuration file.
pub(crate) fn read(value: &Value<'_>, base_dir: &Path, notes: &mut Notes) -> Option<TapSettings> {
    let table = reader::table(value, What::Key("tap"), HELP, notes)?;
    let title = "[dns.tap]";
    let fields = Fields::check(table, value.span(), title, keys::DNS_TAP, notes);
    let uid = fields.required("uid", title, HELP, notes);
    let uid = uid.and_then(|value| workloads::user_id(value, What::Key("uid"), notes));
    let socket = fields.required("socket", title, HELP, notes);
    let socket = socket.and_then(|_| api::read_socket(&fields, base_dir, notes));
    let servers = fields.list("servers", "addresses", notes).unwrap_or_default();
    let servers = servers.iter().take(ADDRESSES_MAX).filter_map(|value| read_server(value, notes)).collect();
    Some(TapSettings { socket: socket?, uid: uid?, servers })
}

/// Reads an address that clients can ask, wherever they are.
fn read_server(value: &Value<'_>, notes: &mut Notes) -> Option<SocketAddr> {
    let text = reader::string(value, What::Element("an address of `servers`"), notes)?;
    let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, DNS_PORT));
    let address: Option<SocketAddr> = address.or_else(|_| text.parse()).ok();
    let is_one = |address: &SocketAddr| {
        let ip = address.ip();
        !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && address.port() != 0
    };
    let address = address.filter(is_one);
    if address.is_none() {
        let message = format!("`{}` is no address that clients can ask", shown(text));
        notes.push(value.span(), Finding::error(Code::InvalidValue, message).help(SERVERS_HELP));
    }
    address
}

/// Reports what cannot be had together with a tap.
pub(crate) fn check(fields: &Fields<'_, '_>, settings: &DnsSettings, notes: &mut Notes) {
    let (Some(tap), Some(span)) = (&settings.tap, fields.key_span("tap")) else { return };
    if settings.virtual_ranges.is_some() {
        let message =
            "`tap` opens the way to what names resolve to, and with mode = \"virtual\" nothing leads there";
        let finding = Finding::error(Code::Conflict, message);
        notes.push(span.clone(), finding.help("remove one of the two"));
    }
    if !settings.listen.is_empty() && !tap.servers.is_empty() {
        let message = "`servers` has no meaning with `listen`: what is sent to port 53 comes to that";
        notes.push(span, Finding::error(Code::Conflict, message).help("remove `servers`, or `listen`"));
    }
}

#[cfg(test)]
mod tests {
    use exeat_policy::Revision;

    use super::*;
    use crate::{Options, load_text};

    fn load(text: &str) -> Result<Option<TapSettings>, String> {
        let loaded = load_text("t.toml", text, Path::new("/etc/exeat"), &Options::new(Revision(1)));
        loaded.map(|loaded| loaded.settings.dns.tap).map_err(|report| {
            let problems = report.problems().iter();
            let texts = problems.map(|p| format!("{} | {}", p.message(), p.help().unwrap_or_default()));
            texts.collect::<Vec<_>>().join("; ")
        })
    }

    #[test]
    fn a_tap_is_a_socket_of_one_user() {
        assert_eq!(load("[dns]\n"), Ok(None));
        let want = |socket: &str, servers: &[&str]| TapSettings {
            socket: socket.into(),
            uid: 107,
            servers: servers.iter().map(|text| text.parse().unwrap()).collect(),
        };
        for (text, settings) in [
            ("socket = \"tap.sock\"\nuid = 107", want("/etc/exeat/tap.sock", &[])),
            (
                "socket = \"/run/tap.sock\"\nuid = 107\nservers = [\"10.99.0.1\", \"[fd00::1]:5353\"]",
                want("/run/tap.sock", &["10.99.0.1:53", "[fd00::1]:5353"]),
            ),
        ] {
            assert_eq!(load(&format!("[dns.tap]\n{text}\n")), Ok(Some(settings)), "{text}");
        }
    }

    #[test]
    fn the_firewall_needs_to_know_whom_clients_ask() {
        let firewall = "[firewall]\nbridges = [\"br0\"]\n[dns.tap]\nsocket = \"t\"\nuid = 1\n";
        let error = load(firewall).unwrap_err();
        assert!(error.contains("needs a name server"), "{error}");
        assert!(load(&format!("{firewall}servers = [\"10.99.0.1\"]\n")).is_ok());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_correction() {
        let redirected = "[proxy]\nlisten = [{ address = \"127.0.0.1:1\", redirected = true }]\n";
        for (text, want) in [
            ("[dns]\ntap = true", "tap = { socket"),
            ("[dns.tap]\nuid = 1", "`socket`"),
            ("[dns.tap]\nsocket = \"t\"", "`uid`"),
            ("[dns.tap]\nsocket = \"\"\nuid = 1", "`socket` is empty"),
            ("[dns.tap]\nsocket = \"t\"\nuid = \"nobody-at-all\"", "there is no user `nobody-at-all`"),
            ("[dns.tap]\nsocket = \"t\"\nuid = 1\nmode = 1", "unknown key `mode`"),
            (
                "[dns.tap]\nsocket = \"t\"\nuid = 1\nservers = [\"0.0.0.0\"]",
                "`0.0.0.0` is no address that clients can ask",
            ),
            ("[dns.tap]\nsocket = \"t\"\nuid = 1\nservers = [\"127.0.0.1\"]", "`127.0.0.1` is no address"),
            (
                "[dns.tap]\nsocket = \"t\"\nuid = 1\nservers = [\"ns.example.com\"]",
                "`ns.example.com` is no address",
            ),
            (
                "[dns]\nlisten = [\"10.0.0.1\"]\ntap = { socket = \"t\", uid = 1, servers = [\"10.0.0.2\"] }",
                "`servers` has no meaning with `listen`",
            ),
            (
                &format!("{redirected}[dns]\nmode = \"virtual\"\ntap = {{ socket = \"t\", uid = 1 }}"),
                "with mode = \"virtual\" nothing leads there",
            ),
        ] {
            let error = load(&format!("{text}\n")).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
