//! `jwks = { url = "https://…" }` of `[issuer.NAME]`: keys that the proxy fetches, with `ca` and `refresh`. No message
//! repeats the URL, which may hold what is nobody's business.

use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use exeat_identity::Keyring;
use exeat_model::{Authority, Port};
use exeat_proxy::{AUTHORITIES_MAX, HopTls, HopTlsError, HopTlsFiles, KeyServer, KeySource};
use toml::Spanned;

use crate::document::Cx;
use crate::listeners::pem_finding;
use crate::notes::Notes;
use crate::problem::{Code, Finding};
use crate::reader::Fields;

/// The keys that say something of a URL alone.
const KEYS: [&str; 2] = ["ca", "refresh"];

/// How often keys may be fetched: every second, for tests, or once a day.
const REFRESHES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// How often they are fetched unless told otherwise: a key that is taken away is used for no longer than that.
const REFRESH: Duration = Duration::from_secs(5 * 60);

/// Longest path and query, in bytes.
const PATH_BYTES_MAX: usize = 2048;

/// How to write a URL.
const URL_HELP: &str = "write url = \"https://issuer.example/jwks.json\"";

/// Keys that are fetched.
pub(crate) struct Remote {
    pub(crate) server: KeyServer,
    ca: Option<PathBuf>,
    refresh: Duration,
}

impl Remote {
    /// Returns what keeps the keys of `issuer` in `keyring`.
    pub(crate) fn source(self, issuer: Arc<str>, keyring: Arc<Keyring>) -> Arc<KeySource> {
        Arc::new(KeySource::new(issuer, self.server, self.ca, self.refresh, keyring))
    }
}

/// Reports what has no meaning without `url`.
pub(crate) fn refuse_without_url(fields: &Fields<'_, '_>, notes: &mut Notes) {
    for key in KEYS {
        if let Some(span) = fields.key_span(key) {
            let finding = Finding::error(Code::Conflict, format!("`{key}` has no meaning without `url`"));
            notes.push(span, finding.help("remove it"));
        }
    }
}

/// Reads what a table with `url` says. `None` after an error, which has been reported.
pub(crate) fn read(fields: &Fields<'_, '_>, cx: &mut Cx<'_, '_>) -> Option<Remote> {
    let ca = fields.string("ca", cx.notes).map(|path| cx.base_dir.join(path));
    let refresh = fields.duration("refresh", &REFRESHES, cx.notes).unwrap_or(REFRESH);
    let text = fields.string("url", cx.notes)?;
    let span = |key: &str| fields.get(key).map_or(fields.span(), Spanned::span);
    let (endpoint, path) =
        parse(text).map_err(|finding| cx.notes.push(span("url"), finding.help(URL_HELP))).ok()?;
    match HopTls::new(&HopTlsFiles { ca: ca.clone(), client: None }, &endpoint.host) {
        Ok(tls) => Some(Remote { server: KeyServer { endpoint, path, tls }, ca, refresh }),
        Err(error) => {
            let (key, finding) = finding(&error);
            let span: Range<usize> = span(key);
            cx.notes.push(span, finding);
            None
        }
    }
}

/// The host and port of a URL, and its path with the query.
fn parse(text: &str) -> Result<(Authority, String), Finding> {
    let invalid = |message: String| Finding::error(Code::InvalidValue, message);
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(invalid("this is not a URL".to_owned()));
    };
    if scheme != "https" {
        return Err(invalid(
            "keys are fetched over `https` alone: whoever can change them can be anybody".to_owned(),
        ));
    }
    let split = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(split);
    let endpoint = Authority::parse(authority, Port::new(443))
        .map_err(|error| invalid(format!("this URL has no usable host and port: {error}")))?;
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    // RFC 3986 §3.3, §3.4. A fragment is none of the server's business.
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%?".contains(&byte);
    match path.len() <= PATH_BYTES_MAX && path.bytes().all(is_fine) {
        true => Ok((endpoint, path)),
        false => Err(invalid(format!(
            "the path has at most {PATH_BYTES_MAX} bytes, and none that must be percent-encoded"
        ))),
    }
}

/// Where and how to report what is wrong.
fn finding(error: &HopTlsError) -> (&'static str, Finding) {
    match error {
        HopTlsError::Ca(path, error) => ("ca", pem_finding(path, error, "CERTIFICATE", AUTHORITIES_MAX)),
        HopTlsError::NoSystemRoots => {
            let help = "install them (Debian: ca-certificates), or write ca = \"corp-ca.pem\"";
            ("url", Finding::error(Code::Unreadable, error.to_string()).help(help))
        }
        HopTlsError::Name | HopTlsError::Client(_) | HopTlsError::Setup(_) => {
            ("url", Finding::error(Code::InvalidValue, error.to_string()))
        }
    }
}
