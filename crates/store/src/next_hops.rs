//! `[next_hop.NAME]`: other proxies through which the traffic of a policy leaves. No message repeats a URL, since it may
//! hold a password.

use std::io::Read as _;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use exeat_model::{Authority, AuthorityError, CanonicalIp, Host};
use exeat_policy::{Announce, Floor, HopSpec, Place};
use exeat_proxy::{HOP_CREDENTIAL_BYTES_MAX, HopCredentials, HopProtocol, HopTls};
use percent_encoding::percent_decode_str;
use toml::Spanned;

use crate::document::{Cx, Document, Named};
use crate::entry;
use crate::files::reason;
use crate::floor::floor;
use crate::names;
use crate::next_hop_tls;
use crate::notes::Notes;
use crate::problem::{Code, Finding, shown};
use crate::regular::open_regular;
use crate::suggest::closest;

/// Largest password file, in bytes: a password, and the end of its line.
const PASSWORD_FILE_BYTES_MAX: u64 = HOP_CREDENTIAL_BYTES_MAX as u64 + 2;

/// Others may read the file.
const MODE_WORLD_READABLE: u32 = 0o004;

/// How to write a URL.
const URL_HELP: &str =
    "write url = \"http://proxy.example:3128\", with https:// for TLS, or url = \"socks5://192.0.2.1:1080\"";

/// A next hop as its table says.
pub(crate) struct NextHop {
    pub(crate) name: String,
    pub(crate) span: Range<usize>,
    pub(crate) place: Place,
    /// `None` if its URL is an error, which has been reported.
    pub(crate) url: Option<Url>,
    /// What its protocol is spoken through, where its URL says TLS.
    tls: Option<HopTls>,
    credentials: Option<HopCredentials>,
    announce: Announce,
}

/// What a URL says, credentials apart.
pub(crate) struct Url {
    pub(crate) protocol: HopProtocol,
    pub(crate) is_tls: bool,
    pub(crate) endpoint: Authority,
    pub(crate) span: Range<usize>,
}

impl NextHop {
    /// Returns what the policy has to know of it.
    pub(crate) fn spec(&self) -> Option<HopSpec> {
        let endpoint = self.url.as_ref()?.endpoint.clone();
        Some(HopSpec { name: self.name.as_str().into(), place: self.place.clone(), endpoint })
    }
}

/// Reads a next hop.
pub(crate) fn read(named: &Named<'_, '_>, cx: &mut Cx<'_, '_>) -> NextHop {
    if let Err(finding) = names::check(named.name) {
        cx.notes.push(named.span.clone(), finding);
    }
    named.fields.required("url", &named.title, URL_HELP, cx.notes);
    let (url, userinfo) = read_url(named, cx.notes).unzip();
    let credentials = read_credentials(named, userinfo.flatten(), cx);
    let tls = url.as_ref().and_then(|url| next_hop_tls::read(named, url, cx));
    let announce = entry::read_announce(&named.fields, cx.notes).unwrap_or_default();
    NextHop {
        name: named.name.to_owned(),
        span: named.span.clone(),
        place: cx.place(named.span.start),
        url,
        tls,
        credentials,
        announce,
    }
}

/// The URL, and the user and the password in it.
fn read_url<'v>(named: &Named<'v, '_>, notes: &mut Notes) -> Option<(Url, Option<&'v str>)> {
    let text = named.fields.string("url", notes)?;
    let span = named.fields.get("url").map_or(named.span.clone(), Spanned::span);
    let parsed = parse_url(text);
    match parsed {
        Ok(Parsed { scheme, endpoint, userinfo }) => {
            let url = Url { protocol: scheme.protocol(), is_tls: scheme == Scheme::Https, endpoint, span };
            Some((url, userinfo))
        }
        Err(finding) => {
            notes.push(span, finding);
            None
        }
    }
}

/// How a URL begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Scheme {
    Http,
    Https,
    Socks5,
}

impl Scheme {
    const fn protocol(self) -> HopProtocol {
        match self {
            Self::Http | Self::Https => HopProtocol::Http,
            Self::Socks5 => HopProtocol::Socks5,
        }
    }

    /// The port that is usual.
    const fn usual_port(self) -> &'static str {
        match self {
            Self::Http => "3128",
            Self::Https => "443",
            Self::Socks5 => "1080",
        }
    }
}

struct Parsed<'t> {
    scheme: Scheme,
    endpoint: Authority,
    userinfo: Option<&'t str>,
}

fn parse_url(text: &str) -> Result<Parsed<'_>, Finding> {
    let invalid = |message: &str| Finding::error(Code::InvalidValue, message.to_owned());
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(invalid("this is not the URL of a proxy").help(URL_HELP));
    };
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        "socks5" | "socks5h" => Scheme::Socks5,
        "socks4" | "socks4a" | "socks" => {
            return Err(invalid("this version of SOCKS is not supported").help("write \"socks5://…\""));
        }
        _ => return Err(invalid("this scheme is not supported").help(URL_HELP)),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (userinfo, authority) = match rest.rsplit_once('@') {
        Some((userinfo, authority)) => (Some(userinfo), authority),
        None => (None, rest),
    };
    if authority.contains(['/', '?', '#']) {
        return Err(invalid("the URL of a proxy has no path").help(URL_HELP));
    }
    match Authority::parse(authority, None) {
        Ok(endpoint) => Ok(Parsed { scheme, endpoint, userinfo }),
        Err(AuthorityError::PortMissing) => {
            let port = scheme.usual_port();
            Err(invalid("the port is missing").help(format!("add the port, such as :{port}")))
        }
        Err(error) => Err(invalid(&format!("this URL has no usable host and port: {error}")).help(URL_HELP)),
    }
}

fn read_credentials(
    named: &Named<'_, '_>,
    in_url: Option<&str>,
    cx: &mut Cx<'_, '_>,
) -> Option<HopCredentials> {
    let fields = &named.fields;
    let username = fields.string("username", cx.notes);
    let password_file = fields.string("password_file", cx.notes);
    let span_of = |key: &str| fields.get(key).map_or(named.span.clone(), Spanned::span);
    let (user, password, span) = match (in_url, username, password_file) {
        (None, None, None) => return None,
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
            let finding = Finding::error(Code::Conflict, "credentials stand in the URL and beside it");
            cx.notes.push(span_of("url"), finding.help("remove them from the URL"));
            return None;
        }
        (Some(userinfo), None, None) => {
            let span = span_of("url");
            let Some((user, password)) = decode(userinfo) else {
                let finding =
                    Finding::error(Code::InvalidValue, "the credentials in the URL are not UTF-8 text");
                cx.notes.push(span, finding.help("move them to `username` and `password_file`"));
                return None;
            };
            (user, password, span)
        }
        (None, Some(user), Some(file)) => {
            let span = span_of("password_file");
            (user.to_owned(), read_password(&cx.base_dir.join(file), span, cx)?, span_of("username"))
        }
        (None, username, _) => {
            let (key, other) = if username.is_some() {
                ("username", "password_file")
            } else {
                ("password_file", "username")
            };
            let finding = Finding::error(Code::MissingKey, format!("`{key}` needs `{other}`"));
            cx.notes.push(span_of(key), finding.help("write both, or neither"));
            return None;
        }
    };
    let credentials = HopCredentials::new(&user, &password);
    if credentials.is_none() {
        let message = format!(
            "a user and a password have up to {HOP_CREDENTIAL_BYTES_MAX} bytes, no control characters, and the user no colon"
        );
        let finding = Finding::error(Code::InvalidValue, message);
        cx.notes.push(span, finding.help("use credentials that the proxy protocols can carry"));
    }
    credentials
}

/// `user:password`, percent-encoded (RFC 3986 §3.2.1).
fn decode(userinfo: &str) -> Option<(String, String)> {
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().ok().map(|text| text.into_owned());
    Some((decoded(user)?, decoded(password)?))
}

/// The first line of a file. The path is shown, what is in it never.
fn read_password(path: &Path, span: Range<usize>, cx: &mut Cx<'_, '_>) -> Option<String> {
    let (name, notes) = (path.display().to_string(), &mut *cx.notes);
    let mut failed = |message: String, help: &str| {
        notes.push(span.clone(), Finding::error(Code::Unreadable, message).help(help));
    };
    let read = open_regular(path).and_then(|file| {
        let metadata = file.metadata()?;
        let mut bytes = Vec::new();
        file.take(PASSWORD_FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok((bytes, metadata))
    });
    let (bytes, metadata) = match read {
        Ok(read) => read,
        Err(error) => {
            let message = format!("the password file `{}` cannot be read: {}", shown(&name), reason(&error));
            failed(message, "relative paths start from the folder of the configuration file");
            return None;
        }
    };
    cx.files.note_secret(&name, &bytes);
    let text = String::from_utf8(bytes).ok().filter(|text| text.len() as u64 <= PASSWORD_FILE_BYTES_MAX);
    let Some(text) = text else {
        failed(
            format!("the password file `{}` holds no password", shown(&name)),
            "put the password alone into the file",
        );
        return None;
    };
    if metadata.mode() & MODE_WORLD_READABLE != 0 {
        let finding =
            Finding::warning(Code::Permissions, "every user of this machine can read this password");
        notes.push(span, finding.help(format!("chmod o-r {}", shown(&name))));
    }
    let password =
        text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    Some(password.to_owned())
}

/// Checks what policies say of next hops, and that no next hop is this proxy itself.
pub(crate) fn check(document: &Document, bound: &[SocketAddr], notes: &mut Notes) {
    for policy in &document.policies {
        let Some((next_hop, span)) = &policy.next_hop else { continue };
        let known = || document.next_hops.iter().map(|hop| hop.name.as_str());
        if !known().any(|name| name == next_hop.name) {
            let help = match closest(&next_hop.name, known()) {
                Some(guess) => format!("did you mean \"{guess}\"?"),
                None => format!("define [next_hop.{}]", shown(&next_hop.name)),
            };
            let message = format!("there is no next hop `{}`", shown(&next_hop.name));
            notes.push(span.clone(), Finding::error(Code::UnknownReference, message).help(help));
        }
    }
    // If the addresses of this host cannot be listed, compiling says so.
    let listen = document.proxy.listen.iter().map(|listener| &listener.address);
    let own = floor(listen.chain(&document.api.listen).chain(bound).copied()).unwrap_or_default();
    for hop in &document.next_hops {
        let Some(url) = &hop.url else { continue };
        if is_ours(&url.endpoint, &own) {
            let finding = Finding::error(Code::Conflict, "this next hop is this proxy itself");
            let finding = finding.label("one of the addresses that it listens on");
            notes.push(
                url.span.clone(),
                finding.help("name another proxy: requests would go round in a circle"),
            );
        }
    }
}

/// What the name of another host resolves to is looked at when it is dialled.
fn is_ours(endpoint: &Authority, own: &Floor) -> bool {
    let port = endpoint.port;
    let mut listeners = own.listeners.iter().filter(|listener| listener.port() == port.get());
    match &endpoint.host {
        Host::Address(ip) => {
            let unspecified = ip.get().is_unspecified() && listeners.next().is_some();
            unspecified || own.contains(*ip, port)
        }
        Host::Name(name) => {
            name.as_str() == "localhost"
                && listeners.any(|listener| CanonicalIp::new(listener.ip()).get().is_loopback())
        }
    }
}

/// Warns of next hops that no policy uses.
pub(crate) fn warn_unused(document: &Document, notes: &mut Notes) {
    for hop in &document.next_hops {
        let used =
            document.policies.iter().any(|p| p.next_hop.as_ref().is_some_and(|(n, _)| n.name == hop.name));
        if !used {
            let finding =
                Finding::warning(Code::Unused, format!("next hop `{}` is not used", shown(&hop.name)));
            let help = format!("write next_hop = \"{}\" in a policy, or remove it", shown(&hop.name));
            notes.push(hop.span.clone(), finding.help(help));
        }
    }
}

/// The next hops as the proxy uses them.
pub(crate) fn hops(next_hops: Vec<NextHop>) -> exeat_proxy::Hops {
    let hop = |hop: NextHop| {
        let url = hop.url?;
        let made = exeat_proxy::Hop::new(url.protocol, hop.credentials).announcing(hop.announce);
        // Where TLS is asked for and cannot be had, there is no hop.
        let made = if url.is_tls { made.through(hop.tls?) } else { made };
        Some((Arc::from(hop.name), Arc::new(made)))
    };
    next_hops.into_iter().filter_map(hop).collect()
}
