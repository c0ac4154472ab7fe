//! TLS to a next hop: `ca`, `server_name`, `cert` and `key` of `[next_hop.NAME]`.

use std::error::Error as _;
use std::ops::Range;
use std::path::PathBuf;

use exeat_model::Host;
use exeat_proxy::{AUTHORITIES_MAX, HopTls, HopTlsError, HopTlsFiles, TlsFiles};
use toml::Spanned;

use crate::document::{Cx, Named};
use crate::listeners::{pem_finding, tls_files_finding, warn_if_readable};
use crate::next_hops::Url;
use crate::problem::{Code, Finding, shown};

/// The keys that say something of TLS alone.
const KEYS: [&str; 4] = ["ca", "server_name", "cert", "key"];

/// Reads what a next hop at `url` says of TLS, and the files. `None` if its protocol needs none, or after an error,
/// which has been reported.
pub(crate) fn read(named: &Named<'_, '_>, url: &Url, cx: &mut Cx<'_, '_>) -> Option<HopTls> {
    if !url.is_tls {
        for key in KEYS {
            if let Some(span) = named.fields.key_span(key) {
                let message = format!("`{key}` has no meaning without `https://`");
                let finding = Finding::error(Code::Conflict, message);
                cx.notes.push(span, finding.help("write url = \"https://…\", or remove it"));
            }
        }
        return None;
    }
    let ca = path(named, "ca", cx);
    let client = read_client(named, cx);
    let name = read_name(named, url, cx)?;
    let files = HopTlsFiles { ca, client: client? };
    match HopTls::new(&files, &name) {
        Ok(tls) => {
            if let Some(client) = &files.client {
                warn_if_readable(&client.key, value_span(named, "key"), cx.notes);
            }
            Some(tls)
        }
        Err(error) => {
            let (span, finding) = finding(named, url, &error);
            cx.notes.push(span, finding);
            None
        }
    }
}

fn path(named: &Named<'_, '_>, key: &str, cx: &mut Cx<'_, '_>) -> Option<PathBuf> {
    named.fields.string(key, cx.notes).map(|path| cx.base_dir.join(path))
}

/// The client certificate: `None` after an error, `Some(None)` if there is none to be shown.
fn read_client(named: &Named<'_, '_>, cx: &mut Cx<'_, '_>) -> Option<Option<TlsFiles>> {
    match (path(named, "cert", cx), path(named, "key", cx)) {
        (None, None) => Some(None),
        (Some(cert), Some(key)) => Some(Some(TlsFiles { cert, key, clients: None })),
        (cert, _) => {
            let (key, other) = if cert.is_some() { ("cert", "key") } else { ("key", "cert") };
            let finding = Finding::error(Code::MissingKey, format!("`{key}` needs `{other}`"));
            cx.notes.push(value_span(named, key), finding.help("write both, or neither"));
            None
        }
    }
}

/// The name that its certificate must be for: the one of its URL unless another is written.
fn read_name(named: &Named<'_, '_>, url: &Url, cx: &mut Cx<'_, '_>) -> Option<Host> {
    let Some(text) = named.fields.string("server_name", cx.notes) else {
        // Of another type than a string; that has been reported.
        return named.fields.get("server_name").is_none().then(|| url.endpoint.host.clone());
    };
    let parsed = Host::parse(text).ok();
    if parsed.is_none() {
        let finding =
            Finding::error(Code::InvalidValue, format!("`{}` is not a host name or an address", shown(text)));
        let help = "write the name that the next hop's certificate is for";
        cx.notes.push(value_span(named, "server_name"), finding.help(help));
    }
    parsed
}

/// Where and how to report what is wrong.
fn finding(named: &Named<'_, '_>, url: &Url, error: &HopTlsError) -> (Range<usize>, Finding) {
    match error {
        HopTlsError::Ca(path, error) => {
            (value_span(named, "ca"), pem_finding(path, error, "CERTIFICATE", AUTHORITIES_MAX))
        }
        HopTlsError::Client(error) => {
            let (key, finding) = tls_files_finding(error);
            (value_span(named, key), finding)
        }
        HopTlsError::NoSystemRoots => {
            let help = "install them (Debian: ca-certificates), or write ca = \"corp-ca.pem\"";
            (url.span.clone(), Finding::error(Code::Unreadable, error.to_string()).help(help))
        }
        HopTlsError::Name => {
            let help = "write server_name = \"…\" with the name that its certificate is for";
            (url.span.clone(), Finding::error(Code::InvalidValue, error.to_string()).help(help))
        }
        HopTlsError::Setup(_) => {
            let why = error.source().map(ToString::to_string).unwrap_or_default();
            (url.span.clone(), Finding::error(Code::InvalidValue, format!("{error}: {why}")))
        }
    }
}

fn value_span(named: &Named<'_, '_>, key: &str) -> Range<usize> {
    named.fields.get(key).map_or(named.span.clone(), Spanned::span)
}
