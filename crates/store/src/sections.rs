//! `[proxy]`, `[resolver]`, `[audit]` and `[state]`.

use std::net::{IpAddr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use exeat_audit::Sink;
use exeat_dns::{ResolverConfig, Upstream};
use exeat_model::IpBlock;

use crate::entry;
use crate::listeners::{self, AnyListener};
use crate::names;
use crate::notes::Notes;
use crate::problem::{Code, Finding, shown};
use crate::reader::{self, Fields, Value, What};
use crate::settings::{AuditSettings, LISTEN_DEFAULT, Listener, SocketListener};

/// Where DNS servers listen (RFC 1035 §4.2).
pub(crate) const DNS_PORT: u16 = 53;

/// Servers or listeners of one instance: more than any machine has use for, few enough to start at once.
pub(crate) const ADDRESSES_MAX: usize = 64;

/// One query, from a fast local server to the patience of the clients in front.
const QUERY_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);

/// Tries for one query.
const QUERY_ATTEMPTS: RangeInclusive<u64> = 1..=10;

/// Names kept; 0 keeps none. Ten million take a few gigabytes.
const CACHE_ENTRIES: RangeInclusive<u64> = 0..=10_000_000;

/// What `[proxy]` says.
pub(crate) struct Proxy {
    pub(crate) listen: Vec<Listener>,
    pub(crate) sockets: Vec<SocketListener>,
    pub(crate) http2: bool,
    pub(crate) anonymous: Option<String>,
    pub(crate) disclose: bool,
    pub(crate) pac: bool,
    pub(crate) proxy_protocol_from: Vec<IpBlock>,
    pub(crate) central: bool,
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            listen: vec![Listener::plain(LISTEN_DEFAULT)],
            sockets: Vec::new(),
            http2: true,
            anonymous: None,
            disclose: true,
            pac: true,
            proxy_protocol_from: Vec::new(),
            central: false,
        }
    }
}

/// Reads `[proxy]`. Relative paths start from `base_dir`.
pub(crate) fn read_proxy(fields: &Fields<'_, '_>, base_dir: &Path, notes: &mut Notes) -> Proxy {
    let default = Proxy::default();
    let anonymous = fields.get("anonymous").and_then(|value| {
        if value.get_ref().as_str().is_none() {
            let help = "write the name of the policy for clients without credentials, or \"none\"";
            reader::wrong_type(value, What::Key("anonymous"), "a string", Some(help.to_owned()), notes);
        }
        value.get_ref().as_str()
    });
    let anonymous = anonymous.filter(|name| *name != names::NONE);
    let (listen, sockets) = read_listen(fields, base_dir, notes).unwrap_or((default.listen, default.sockets));
    Proxy {
        listen,
        sockets,
        http2: fields.boolean("http2", notes).unwrap_or(default.http2),
        anonymous: anonymous.map(str::to_owned),
        disclose: fields.boolean("disclose", notes).unwrap_or(default.disclose),
        pac: fields.boolean("pac", notes).unwrap_or(default.pac),
        proxy_protocol_from: entry::read_networks(fields, "proxy_protocol_from", notes).unwrap_or_default(),
        central: fields.boolean("central", notes).unwrap_or(default.central),
    }
}

fn read_listen(fields: &Fields<'_, '_>, base_dir: &Path, notes: &mut Notes) -> Option<Listeners> {
    let list = fields.list("listen", "addresses", notes)?;
    check_length(fields, "listen", list.len(), &format!("write listen = [\"{LISTEN_DEFAULT}\"]"), notes);
    let mut read = Listeners::default();
    for value in list.iter().take(ADDRESSES_MAX) {
        let Some(listener) = listeners::read(value, base_dir, notes) else { continue };
        if let Some(twice) = add(&mut read, listener) {
            notes.push(
                value.span(),
                Finding::error(Code::Duplicate, format!("`{twice}` is listed twice")).help("remove one"),
            );
        }
    }
    Some(read)
}

/// Those by TCP, and the unix sockets.
type Listeners = (Vec<Listener>, Vec<SocketListener>);

/// Returns what is there already. One address may be listened on once for each of several devices.
fn add((listen, sockets): &mut Listeners, listener: AnyListener) -> Option<String> {
    match listener {
        AnyListener::Tcp(new) => {
            let is_other = |other: &Listener| {
                other.address != new.address
                    || (other.interface.is_some()
                        && new.interface.is_some()
                        && other.interface != new.interface)
            };
            let twice = (!listen.iter().all(is_other)).then(|| new.address.to_string());
            listen.push(new);
            twice
        }
        AnyListener::Unix(new) => {
            let path = new.path.to_string_lossy();
            let twice = sockets.iter().any(|other| other.path == new.path).then(|| shown(&path).to_string());
            sockets.push(new);
            twice
        }
    }
}

/// Reads `[resolver]`.
pub(crate) fn read_resolver(fields: &Fields<'_, '_>, notes: &mut Notes) -> ResolverConfig {
    let default = ResolverConfig::default();
    let attempts =
        fields.integer("attempts", &QUERY_ATTEMPTS, notes).and_then(|count| usize::try_from(count).ok());
    ResolverConfig {
        servers: read_servers(fields, notes).unwrap_or(default.servers),
        timeout: fields.duration("timeout", &QUERY_TIMEOUT, notes).unwrap_or(default.timeout),
        attempts: attempts.unwrap_or(default.attempts),
        hosts_file: fields.boolean("hosts_file", notes).unwrap_or(default.hosts_file),
        cache_entries: fields
            .integer("cache_entries", &CACHE_ENTRIES, notes)
            .unwrap_or(default.cache_entries),
    }
}

fn read_servers(fields: &Fields<'_, '_>, notes: &mut Notes) -> Option<Vec<Upstream>> {
    let list = fields.list("servers", "servers", notes)?;
    check_length(fields, "servers", list.len(), "write servers = [\"system\"]", notes);
    let read = |value: &Value<'_>| {
        let text = reader::string(value, What::Element("a server"), notes)?;
        let server = parse_server(text);
        if server.is_none() {
            let finding =
                Finding::error(Code::InvalidValue, format!("`{}` is not a DNS server", shown(text)));
            notes.push(
                value.span(),
                finding.help("write \"system\", an address such as \"192.0.2.53\", or \"192.0.2.53:5353\""),
            );
        }
        server
    };
    Some(list.iter().take(ADDRESSES_MAX).filter_map(read).collect())
}

fn parse_server(text: &str) -> Option<Upstream> {
    if text == "system" {
        return Some(Upstream::System);
    }
    let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, DNS_PORT));
    address.or_else(|_| text.parse()).ok().filter(|address| address.port() != 0).map(Upstream::Address)
}

/// Reads `[audit]`. A relative file is relative to the configuration file.
pub(crate) fn read_audit(fields: &Fields<'_, '_>, base_dir: &Path, notes: &mut Notes) -> AuditSettings {
    let file = fields.string("file", notes);
    let stdout = fields.boolean("stdout", notes);
    let span = fields.get("file").map_or(fields.span(), toml::Spanned::span);
    if file == Some("") {
        notes.push(
            span.clone(),
            Finding::error(Code::InvalidValue, "`file` is empty").help("write file = \"audit.jsonl\""),
        );
    }
    if file.is_some() && stdout == Some(true) {
        let finding = Finding::error(Code::Conflict, "records go to a file or to standard output, not both");
        notes.push(span.clone(), finding.help("remove `file` or `stdout`"));
    } else if file.is_none() && stdout == Some(false) {
        let finding = Finding::error(Code::MissingKey, "records must go somewhere");
        notes.push(
            fields.key_span("stdout").unwrap_or_else(|| span.clone()),
            finding.help("write file = \"audit.jsonl\", or stdout = true"),
        );
    } else if let Some(file) = file.filter(|file| !file.is_empty()) {
        let path = base_dir.join(file);
        let folder = path.parent().unwrap_or(Path::new(""));
        let without = "without it the proxy does not start";
        warn_of_missing("the folder of the audit log", folder, without, &span, notes);
    }
    AuditSettings {
        sink: file.map_or(Sink::Stdout, |file| Sink::File(base_dir.join(file))),
        required: fields.boolean("required", notes).unwrap_or(false),
    }
}

/// Warns of a folder that is not there on this host. It may be made before the proxy starts, as by a service manager.
fn warn_of_missing(what: &str, folder: &Path, without: &str, span: &Range<usize>, notes: &mut Notes) {
    // A path without a folder is in the working directory.
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return;
    }
    let folder = folder.to_string_lossy();
    let finding = Finding::warning(Code::Unreadable, format!("{what}, `{}`, is not there", shown(&folder)));
    let help = format!("{without}: install -d -m 700 -o USER {}, for the USER it runs as", shown(&folder));
    notes.push(span.clone(), finding.help(help));
}

/// Reads `[state]`. A relative directory is relative to the configuration file.
pub(crate) fn read_state(fields: &Fields<'_, '_>, base_dir: &Path, notes: &mut Notes) -> Option<PathBuf> {
    let directory = fields.string("directory", notes)?;
    let span = fields.get("directory").map_or(fields.span(), toml::Spanned::span);
    if directory.is_empty() {
        let finding = Finding::error(Code::InvalidValue, "`directory` is empty");
        notes.push(span.clone(), finding.help("write directory = \"/var/lib/exeat\""));
    } else {
        let without = "without it revisions, quarantines and revocations end with the process";
        warn_of_missing("the directory of the state", &base_dir.join(directory), without, &span, notes);
    }
    Some(base_dir.join(directory))
}

pub(crate) fn check_length(fields: &Fields<'_, '_>, key: &str, len: usize, help: &str, notes: &mut Notes) {
    let span = fields.get(key).map_or(fields.span(), toml::Spanned::span);
    if len == 0 {
        notes.push(span, Finding::error(Code::InvalidValue, format!("`{key}` is empty")).help(help));
    } else if len > ADDRESSES_MAX {
        let finding = Finding::error(Code::TooLarge, format!("`{key}` has {len} elements"));
        notes.push(span, finding.help(format!("list at most {ADDRESSES_MAX}")));
    }
}
