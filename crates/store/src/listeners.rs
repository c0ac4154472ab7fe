//! `listen`: where clients connect, and the certificate of the listeners that speak TLS.

use std::error::Error as _;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use exeat_identity::{Demand, Proof};
use exeat_proxy::{
    AUTHORITIES_MAX, CHAIN_MAX, CRL_FILES_MAX, ClientFiles, PemError, TlsFiles, TlsFilesError,
};
use toml::de::DeValue;

use crate::files::reason;
use crate::keys;
use crate::notes::Notes;
use crate::problem::{Code, Finding, shown};
use crate::reader::{self, Fields, Value, What};
use crate::settings::{LISTEN_DEFAULT, Listener, SocketListener};
use crate::suggest::{closest, listed};
use crate::workloads;

/// Others may read the file.
const MODE_WORLD_READABLE: u32 = 0o004;

/// How a listener with TLS is written.
const TABLE_HELP: &str =
    "write { address = \"0.0.0.0:3129\", tls = { cert = \"proxy.pem\", key = \"proxy.key\" } }";

/// How a unix socket with more than a path is written.
const SOCKET_HELP: &str =
    "write { address = \"unix:/run/exeat/proxy.sock\", mode = \"0660\", group = \"ci\" }";

/// What the address of a unix socket begins with.
const UNIX: &str = "unix:";

/// The permissions of a unix socket unless told: those of its owner and its group.
const SOCKET_MODE: u32 = 0o660;

/// Longest path of a unix socket, in bytes (unix(7)); one more ends it.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// One of either kind.
pub(crate) enum AnyListener {
    Tcp(Listener),
    Unix(SocketListener),
}

/// Where a listener is.
enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Reads one element of `listen`: an address, or a table with an address and more. Relative paths start from `base_dir`.
pub(crate) fn read(value: &Value<'_>, base_dir: &Path, notes: &mut Notes) -> Option<AnyListener> {
    let DeValue::Table(table) = value.get_ref() else {
        return Some(match read_address(value, base_dir, notes)? {
            Address::Tcp(address) => AnyListener::Tcp(Listener::plain(address)),
            Address::Unix(path) => AnyListener::Unix(SocketListener {
                path,
                mode: SOCKET_MODE,
                owner: None,
                group: None,
                demand: Demand::default(),
            }),
        });
    };
    let title = "a listener";
    let fields = Fields::check(table, value.span(), title, keys::LISTENER, notes);
    let address = fields.required("address", title, TABLE_HELP, notes);
    let address = address.and_then(|value| read_address(value, base_dir, notes));
    let tls = match fields.get("tls") {
        Some(value) => Some(read_tls(value, base_dir, notes)?),
        None => None,
    };
    // A proof that could not be read must not be one less.
    let demand = match fields.get("demand") {
        Some(_) => read_demand(&fields, notes)?,
        None => Demand::default(),
    };
    let interface = match fields.get("interface") {
        Some(_) => Some(read_interface(&fields, notes)?),
        None => None,
    };
    let asks = tls.as_ref().is_some_and(|tls| tls.clients.is_some());
    if demand.has(Proof::Certificate) && !asks {
        let span = fields.get("demand").map_or(fields.span(), toml::Spanned::span);
        let finding = Finding::error(Code::Conflict, "a certificate is demanded, and none is asked for");
        notes.push(span, finding.help("add client_ca = \"ca.pem\" to `tls`, or demand something else"));
    }
    let is_redirected = fields.boolean("redirected", notes).unwrap_or(false);
    if is_redirected {
        let why = "has no meaning for redirected connections, whose clients know of no proxy";
        refuse(&fields, &["tls"], why, notes);
        if demand.has(Proof::Password) || demand.has(Proof::Token) {
            refuse(&fields, &["demand"], "asks for credentials, and redirected clients have none", notes);
        }
    }
    match address? {
        Address::Tcp(address) => {
            refuse(&fields, &["mode", "owner", "group"], "is for unix sockets alone", notes);
            Some(AnyListener::Tcp(Listener { address, tls, interface, demand, is_redirected }))
        }
        Address::Unix(path) => {
            refuse(&fields, &["tls", "interface", "redirected"], "is not for unix sockets", notes);
            let id = |key, read: fn(&Value<'_>, What<'_>, &mut Notes) -> Option<u32>, notes: &mut Notes| {
                fields.get(key).and_then(|value| read(value, What::Key(key), notes))
            };
            Some(AnyListener::Unix(SocketListener {
                path,
                mode: read_mode(&fields, notes),
                owner: id("owner", workloads::user_id, notes),
                group: id("group", group_id, notes),
                demand,
            }))
        }
    }
}

/// Reports keys that mean nothing for this kind of listener.
fn refuse(fields: &Fields<'_, '_>, keys: &[&str], why: &str, notes: &mut Notes) {
    for key in keys {
        if let Some(span) = fields.key_span(key) {
            notes.push(span, Finding::error(Code::Conflict, format!("`{key}` {why}")).help("remove it"));
        }
    }
}

fn read_demand(fields: &Fields<'_, '_>, notes: &mut Notes) -> Option<Demand> {
    let list = fields.list("demand", "proofs", notes)?;
    let words = || Proof::DEMANDED.into_iter().map(Proof::name);
    let mut demand = Demand::default();
    let mut is_whole = true;
    for value in list {
        let Some(text) = reader::string(value, What::Element("a proof"), notes) else {
            is_whole = false;
            continue;
        };
        match Proof::DEMANDED.into_iter().find(|proof| proof.name() == text) {
            Some(proof) => demand = demand.and(proof),
            None => {
                let finding = Finding::error(Code::InvalidValue, format!("`{}` is not a proof", shown(text)));
                let guess = closest(text, words()).map(|guess| format!("did you mean \"{guess}\"? "));
                let help = format!("{}the proofs are {}", guess.unwrap_or_default(), listed(words()));
                notes.push(value.span(), finding.help(help));
                is_whole = false;
            }
        }
    }
    is_whole.then_some(demand)
}

pub(crate) fn read_interface(fields: &Fields<'_, '_>, notes: &mut Notes) -> Option<String> {
    let text = fields.string("interface", notes)?;
    // What the kernel takes as a name (netdevice(7)).
    let is_name = (1..=15).contains(&text.len())
        && !text.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':'));
    if !is_name {
        let span = fields.get("interface").map_or(fields.span(), toml::Spanned::span);
        let finding =
            Finding::error(Code::InvalidValue, format!("`{}` is not a network device", shown(text)));
        notes.push(span, finding.help("write a name that `ip link` shows, such as \"veth1\""));
    }
    is_name.then(|| text.to_owned())
}

fn read_mode(fields: &Fields<'_, '_>, notes: &mut Notes) -> u32 {
    let parse = |text: &str| {
        let is_octal =
            (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777)
    };
    let Some(text) = fields.string("mode", notes) else { return SOCKET_MODE };
    parse(text).unwrap_or_else(|| {
        let span = fields.get("mode").map_or(fields.span(), toml::Spanned::span);
        let finding = Finding::error(Code::InvalidValue, format!("`{}` is not a file mode", shown(text)));
        notes.push(span, finding.help("write three octal digits, such as \"0660\""));
        SOCKET_MODE
    })
}

/// Reads a group of this host, by number or name.
fn group_id(value: &Value<'_>, what: What<'_>, notes: &mut Notes) -> Option<u32> {
    let Some(name) = value.get_ref().as_str() else {
        let read = reader::integer(value, what, &(0..=u64::from(u32::MAX - 1)), notes)?;
        return u32::try_from(read).ok();
    };
    let found = nix::unistd::Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw());
    if found.is_none() {
        let message = format!("there is no group `{}` on this host", shown(name));
        let help = "write the number of the group, or a name that `getent group` knows";
        notes.push(value.span(), Finding::error(Code::UnknownReference, message).help(help));
    }
    found
}

fn read_address(value: &Value<'_>, base_dir: &Path, notes: &mut Notes) -> Option<Address> {
    let text = reader::string(value, What::Element("an address of `listen`"), notes)?;
    if let Some(path) = text.strip_prefix(UNIX) {
        let path = Some(base_dir.join(path)).filter(|_| !path.is_empty() && !path.contains('\0'));
        let path = path.filter(|path| path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX);
        if path.is_none() {
            let message = format!("`{}` is not the path of a unix socket", shown(text));
            let help = format!("{SOCKET_HELP}; the path has at most {SOCKET_PATH_BYTES_MAX} bytes");
            notes.push(value.span(), Finding::error(Code::InvalidValue, message).help(help));
        }
        return path.map(Address::Unix);
    }
    let parsed = text.parse().ok();
    if parsed.is_none() {
        let finding =
            Finding::error(Code::InvalidValue, format!("`{}` is not an address and a port", shown(text)));
        notes.push(value.span(), finding.help(address_help(text)));
    }
    parsed.map(Address::Tcp)
}

/// Returns what to write in place of a text that is not an address and a port.
#[must_use]
pub fn address_help(text: &str) -> String {
    if text.parse().is_ok_and(|port: u16| port > 0) {
        return format!("add an address: \"127.0.0.1:{text}\"");
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return format!("add the port: \"{}\"", SocketAddr::new(address, LISTEN_DEFAULT.port()));
    }
    match text.rsplit_once(':') {
        Some(("localhost", port)) if port.parse::<u16>().is_ok() => {
            format!("write \"127.0.0.1:{port}\" or \"[::1]:{port}\"")
        }
        Some(("" | "*", port)) if port.parse::<u16>().is_ok() => {
            format!("write \"0.0.0.0:{port}\" or \"[::]:{port}\" to listen on every address")
        }
        Some(_) | None => "write \"127.0.0.1:3128\", or \"[::1]:3128\" for IPv6".to_owned(),
    }
}

/// Reads `tls`, and the files as the listener will.
fn read_tls(value: &Value<'_>, base_dir: &Path, notes: &mut Notes) -> Option<TlsFiles> {
    let table = reader::table(value, What::Key("tls"), TABLE_HELP, notes)?;
    let title = "`tls`";
    let fields = Fields::check(table, value.span(), title, keys::LISTENER_TLS, notes);
    let mut path = |key| {
        let value = fields.required(key, title, TABLE_HELP, notes)?;
        Some((base_dir.join(reader::string(value, What::Key(key), notes)?), value.span()))
    };
    let (cert, key) = (path("cert"), path("key"));
    let ((cert, cert_span), (key, key_span)) = (cert?, key?);
    let clients = read_client_files(&fields, base_dir, notes)?;
    let files = TlsFiles { cert, key, clients };
    match files.check() {
        Ok(()) => warn_if_readable(&files.key, key_span, notes),
        Err(error) => {
            let (key, finding) = tls_files_finding(&error);
            let span = match key {
                "cert" => cert_span,
                "key" => key_span,
                other => fields.get(other).map_or(key_span, toml::Spanned::span),
            };
            notes.push(span, finding);
        }
    }
    Some(files)
}

/// Reads whose certificates are asked for. `Some(None)` if none are, `None` if something is wrong.
fn read_client_files(
    fields: &Fields<'_, '_>,
    base_dir: &Path,
    notes: &mut Notes,
) -> Option<Option<ClientFiles>> {
    if fields.get("client_ca").is_none() {
        for key in ["crl", "client"] {
            if let Some(span) = fields.key_span(key) {
                let finding =
                    Finding::error(Code::Conflict, format!("`{key}` means nothing without `client_ca`"));
                notes.push(span, finding.help("add client_ca = \"ca.pem\", or remove it"));
            }
        }
        return Some(None);
    }
    let ca = base_dir.join(fields.string("client_ca", notes)?);
    let mut crl = Vec::new();
    if fields.get("crl").is_some() {
        let list = fields.list("crl", "files", notes)?;
        if list.len() > CRL_FILES_MAX || list.is_empty() {
            let span = fields.key_span("crl").unwrap_or_else(|| fields.span());
            let finding =
                Finding::error(Code::InvalidValue, format!("`crl` lists 1 to {CRL_FILES_MAX} files"));
            notes.push(span, finding.help("write crl = [\"crl.pem\"], or remove it"));
        }
        for value in list {
            crl.push(base_dir.join(reader::string(value, What::Element("a file of `crl`"), notes)?));
        }
    } else {
        let finding =
            Finding::warning(Code::Suspicious, "no certificate of a client can be revoked without `crl`");
        notes.push(
            fields.get("client_ca").map_or(fields.span(), toml::Spanned::span),
            finding.help("add crl = [\"crl.pem\"]"),
        );
    }
    let parse = |word: &str| match word {
        "required" => Some(true),
        "optional" => Some(false),
        _ => None,
    };
    let is_required = match fields.get("client") {
        Some(_) => fields.word("client", &["required", "optional"], parse, notes)?,
        None => true,
    };
    Some(Some(ClientFiles { ca, crl, is_required }))
}

/// What is wrong with a certificate and its key, and which of `cert` and `key` says so.
pub(crate) fn tls_files_finding(error: &TlsFilesError) -> (&'static str, Finding) {
    match error {
        TlsFilesError::Cert(path, error) => ("cert", pem_finding(path, error, "CERTIFICATE", CHAIN_MAX)),
        TlsFilesError::Key(path, error) => ("key", pem_finding(path, error, "PRIVATE KEY", CHAIN_MAX)),
        TlsFilesError::ClientCa(path, error) => {
            ("client_ca", pem_finding(path, error, "CERTIFICATE", AUTHORITIES_MAX))
        }
        TlsFilesError::Crl(path, error) => ("crl", pem_finding(path, error, "X509 CRL", AUTHORITIES_MAX)),
        TlsFilesError::Mismatch => {
            let finding = Finding::error(Code::Conflict, error.to_string());
            ("key", finding.help("`cert` must begin with the certificate that was issued for `key`"))
        }
    }
}

/// Warns of a key that others than its owner can read.
pub(crate) fn warn_if_readable(key: &Path, span: Range<usize>, notes: &mut Notes) {
    let mode = std::fs::metadata(key).map_or(0, |metadata| metadata.mode());
    if mode & MODE_WORLD_READABLE != 0 {
        let finding = Finding::warning(Code::Permissions, "every user of this machine can read the key");
        notes.push(span, finding.help(format!("chmod o-r {}", shown(&key.to_string_lossy()))));
    }
}

/// What is wrong with a file that should have a section of this kind, and `most` certificates at most.
pub(crate) fn pem_finding(path: &Path, error: &PemError, section: &str, most: usize) -> Finding {
    let path = path.to_string_lossy();
    let path = shown(&path);
    match error {
        PemError::Unreadable(source) => {
            let finding =
                Finding::error(Code::Unreadable, format!("`{path}` cannot be read: {}", reason(source)));
            finding.help(format!(
                "name a file in PEM with `-----BEGIN {section}-----` that this user can read; a relative path begins at the \
                 folder of the configuration"
            ))
        }
        PemError::TooLarge => Finding::error(Code::TooLarge, format!("`{path}` {error}"))
            .help(format!("a file of at most 1 MiB with at most {most} certificates")),
        PemError::Missing => {
            Finding::error(Code::InvalidValue, format!("`{path}` has no `-----BEGIN {section}-----`"))
        }
        PemError::Syntax => Finding::error(Code::Syntax, format!("`{path}` {error}")),
        PemError::Unusable(_) => {
            let why = error.source().map(ToString::to_string).unwrap_or_default();
            Finding::error(Code::InvalidValue, format!("`{path}` {error}: {why}"))
        }
    }
}
