//! `listen`: where clients connect, and the certificate of the listeners that speak TLS.

use std::error::Error as _;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use exeat_proxy::{CHAIN_MAX, PemError, TlsFiles, TlsFilesError};
use toml::de::DeValue;

use crate::files::reason;
use crate::keys;
use crate::notes::Notes;
use crate::problem::{Code, Finding, shown};
use crate::reader::{self, Fields, Value, What};
use crate::settings::{LISTEN_DEFAULT, Listener};

/// Others may read the file.
const MODE_WORLD_READABLE: u32 = 0o004;

/// How a listener with TLS is written.
const TABLE_HELP: &str =
    "write { address = \"0.0.0.0:3129\", tls = { cert = \"proxy.pem\", key = \"proxy.key\" } }";

/// Reads one element of `listen`: an address, or a table with an address and perhaps `tls`. Relative paths start from
/// `base_dir`.
pub(crate) fn read(value: &Value<'_>, base_dir: &Path, notes: &mut Notes) -> Option<Listener> {
    let DeValue::Table(table) = value.get_ref() else {
        return read_address(value, notes).map(Listener::plain);
    };
    let title = "a listener";
    let fields = Fields::check(table, value.span(), title, keys::LISTENER, notes);
    let address = fields.required("address", title, TABLE_HELP, notes);
    let address = address.and_then(|value| read_address(value, notes));
    let tls = match fields.get("tls") {
        Some(value) => Some(read_tls(value, base_dir, notes)?),
        None => None,
    };
    Some(Listener { address: address?, tls })
}

fn read_address(value: &Value<'_>, notes: &mut Notes) -> Option<SocketAddr> {
    let text = reader::string(value, What::Element("an address of `listen`"), notes)?;
    let parsed = text.parse().ok();
    if parsed.is_none() {
        let finding =
            Finding::error(Code::InvalidValue, format!("`{}` is not an address and a port", shown(text)));
        notes.push(value.span(), finding.help(address_help(text)));
    }
    parsed
}

pub(crate) fn address_help(text: &str) -> String {
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
    let files = TlsFiles { cert, key };
    match files.check() {
        Ok(()) => warn_if_readable(&files.key, key_span, notes),
        Err(error) => {
            let (key, finding) = tls_files_finding(&error);
            notes.push(if key == "cert" { cert_span } else { key_span }, finding);
        }
    }
    Some(files)
}

/// What is wrong with a certificate and its key, and which of `cert` and `key` says so.
pub(crate) fn tls_files_finding(error: &TlsFilesError) -> (&'static str, Finding) {
    match error {
        TlsFilesError::Cert(path, error) => ("cert", pem_finding(path, error, "CERTIFICATE", CHAIN_MAX)),
        TlsFilesError::Key(path, error) => ("key", pem_finding(path, error, "PRIVATE KEY", CHAIN_MAX)),
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
            Finding::error(Code::Unreadable, format!("`{path}` cannot be read: {}", reason(source)))
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
