//! `[dns.tap_out]`: who is told, by dnstap, what is asked here and what was decided.

use std::path::Path;

use crate::api;
use crate::keys;
use crate::notes::Notes;
use crate::problem::{Code, Finding};
use crate::reader::{self, Fields, Value, What};
use crate::settings::{DnsSettings, TapOutSettings};
use crate::workloads;

/// What the help shows as an example.
const HELP: &str = "write tap_out = { socket = \"/run/collector/dnstap.sock\", uid = \"collector\" }";

/// Octets of the longest name of a name server: as many as the host's own may have, four times over.
const IDENTITY_BYTES_MAX: usize = 256;

/// Reads `[dns.tap_out]`. A relative socket is relative to the configuration file.
pub(crate) fn read(value: &Value<'_>, base_dir: &Path, notes: &mut Notes) -> Option<TapOutSettings> {
    let table = reader::table(value, What::Key("tap_out"), HELP, notes)?;
    let title = "[dns.tap_out]";
    let fields = Fields::check(table, value.span(), title, keys::DNS_TAP_OUT, notes);
    let uid = fields.required("uid", title, HELP, notes);
    let uid = uid.and_then(|value| workloads::user_id(value, What::Key("uid"), notes));
    let socket = fields.required("socket", title, HELP, notes);
    let socket = socket.and_then(|_| api::read_socket(&fields, base_dir, notes));
    let identity = fields.string("identity", notes).map(str::to_owned);
    if let Some(length) = identity.as_ref().map(String::len).filter(|length| *length > IDENTITY_BYTES_MAX) {
        let message = format!("`identity` has {length} bytes");
        let finding = Finding::error(Code::TooLarge, message);
        let span = fields.get("identity").map_or(fields.span(), toml::Spanned::span);
        notes.push(span, finding.help(format!("write at most {IDENTITY_BYTES_MAX}")));
    }
    Some(TapOutSettings { socket: socket?, uid: uid?, identity })
}

/// Reports what cannot be had together.
pub(crate) fn check(fields: &Fields<'_, '_>, settings: &DnsSettings, notes: &mut Notes) {
    let (Some(tap), Some(out)) = (&settings.tap, &settings.tap_out) else { return };
    if tap.socket == out.socket {
        let message = "`tap_out` would tell Exeat itself, which listens there for `tap`";
        let finding = Finding::error(Code::Conflict, message);
        notes.push(
            fields.key_span("tap_out").unwrap_or(fields.span()),
            finding.help("write the socket of a collector"),
        );
    }
}

#[cfg(test)]
mod tests {
    use exeat_policy::Revision;

    use super::*;
    use crate::{Options, load_text};

    fn load(text: &str) -> Result<Option<TapOutSettings>, String> {
        let loaded = load_text("t.toml", text, Path::new("/etc/exeat"), &Options::new(Revision(1)));
        loaded.map(|loaded| loaded.settings.dns.tap_out).map_err(|report| {
            let problems = report.problems().iter();
            let texts = problems.map(|p| format!("{} | {}", p.message(), p.help().unwrap_or_default()));
            texts.collect::<Vec<_>>().join("; ")
        })
    }

    #[test]
    fn a_collector_is_a_socket_of_one_user() {
        assert_eq!(load("[dns]\n"), Ok(None));
        for (text, socket, identity) in [
            ("socket = \"c.sock\"\nuid = 107", "/etc/exeat/c.sock", None),
            ("socket = \"/run/c.sock\"\nuid = 107\nidentity = \"gw1\"", "/run/c.sock", Some("gw1")),
            ("socket = \"/run/c.sock\"\nuid = 107\nidentity = \"\"", "/run/c.sock", Some("")),
        ] {
            let identity = identity.map(str::to_owned);
            let want = TapOutSettings { socket: socket.into(), uid: 107, identity };
            assert_eq!(load(&format!("[dns.tap_out]\n{text}\n")), Ok(Some(want)), "{text}");
        }
        let both = |out: &str| {
            let text =
                format!("[dns.tap]\nsocket = \"t\"\nuid = 1\n[dns.tap_out]\nsocket = \"{out}\"\nuid = 1\n");
            load(&text).map(|found| found.is_some())
        };
        assert_eq!(both("c"), Ok(true));
        assert!(both("t").unwrap_err().contains("would tell Exeat itself"));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_correction() {
        let long = format!("[dns.tap_out]\nsocket = \"t\"\nuid = 1\nidentity = \"{}\"", "x".repeat(257));
        for (text, want) in [
            ("[dns]\ntap_out = true", "tap_out = { socket"),
            ("[dns.tap_out]\nuid = 1", "`socket`"),
            ("[dns.tap_out]\nsocket = \"t\"", "`uid`"),
            ("[dns.tap_out]\nsocket = \"\"\nuid = 1", "`socket` is empty"),
            ("[dns.tap_out]\nsocket = \"t\"\nuid = \"nobody-at-all\"", "there is no user `nobody-at-all`"),
            ("[dns.tap_out]\nsocket = \"t\"\nuid = 1\nservers = []", "unknown key `servers`"),
            (&long, "`identity` has 257 bytes | write at most 256"),
        ] {
            let error = load(&format!("{text}\n")).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
