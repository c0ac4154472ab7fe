//! What a configuration needs around it in a container, and what of it cannot work there.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::load::CONFIGURATION_PROBLEMS_MAX;
use crate::notes::Notes;
use crate::problem::{Code, Finding, shown};
use crate::report::Report;
use crate::secrets;
use crate::settings::{LISTEN_DEFAULT, Loaded};
use crate::source::Source;
use crate::syntax;

/// The folder of the configuration in a container. Nothing in it can be written.
pub const CONTAINER_DIRECTORY: &str = "/etc/exeat";

/// What the address of a unix socket begins with.
const SOCKET_PREFIX: &str = "unix:";

/// The user and group that the image runs as.
pub const CONTAINER_USER: u32 = 65532;

/// The keys whose values are files that are read, and whether those are secret; `*` stands for any key and for the
/// elements of a list.
const FILES_READ: [(&[&str], bool); 12] = [
    (&["groups", "*", "file"], false),
    (&["issuer", "*", "jwks", "ca"], false),
    (&["issuer", "*", "jwks", "file"], false),
    (&["issuer", "*", "signing_key"], true),
    (&["next_hop", "*", "ca"], false),
    (&["next_hop", "*", "cert"], false),
    (&["next_hop", "*", "key"], true),
    (&["next_hop", "*", "password_file"], true),
    (&["proxy", "listen", "*", "tls", "cert"], false),
    (&["proxy", "listen", "*", "tls", "client_ca"], false),
    (&["proxy", "listen", "*", "tls", "crl", "*"], false),
    (&["proxy", "listen", "*", "tls", "key"], true),
];

/// What runs the container.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Platform {
    /// Docker: the files are those of this machine.
    Docker,
    /// Kubernetes: the files are copied.
    Kubernetes,
}

/// What a configuration needs around it in a container.
#[derive(Debug)]
pub struct Surroundings {
    /// The port where clients connect.
    pub port: u16,
    /// Whether they speak TLS to it.
    pub tls: bool,
    /// Whether they have to show a certificate for that: then no probe can ask over it how the proxy is.
    pub needs_certificate: bool,
    /// The configuration, and then the files that it names, each once.
    pub files: Vec<Mount>,
    /// Whether any of the files holds a password, its hash, or a key.
    pub has_secrets: bool,
    /// The folders that are written to, as in the container, each once.
    pub folders: Vec<PathBuf>,
    /// The socket of the admin API, as in the container.
    pub socket: Option<PathBuf>,
    /// Whether clients have to send credentials: nobody is let in without proof, and the connection is not all there is.
    pub needs_credentials: bool,
    /// How long a stop may take.
    pub drain_timeout: Duration,
    /// What cannot work; holds no error.
    pub warnings: Report,
}

/// A file of this machine and its place in the container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mount {
    /// Where it is: absolute, or relative to the working directory.
    pub source: PathBuf,
    /// Where it has to be: absolute.
    pub target: PathBuf,
}

/// There is no listener that workloads could be led to.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoListener {
    /// None has the port that was asked for.
    #[error("no listener has the port {port}; `listen` has {}", listed(known))]
    Port {
        /// The port.
        port: u16,
        /// Those that there are.
        known: Vec<SocketAddr>,
    },
    /// None has an address.
    #[error("`listen` has unix sockets only, and workloads are led to an address: add one, such as \"0.0.0.0:{}\"", LISTEN_DEFAULT.port())]
    Address,
}

fn listed(addresses: &[SocketAddr]) -> String {
    match addresses {
        [] => "unix sockets only".to_owned(),
        addresses => addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// Finds what the configuration at `path` needs, and warns of what it says that cannot work in a container. `port`
/// chooses among its listeners; without, it is the first that others can reach.
///
/// # Errors
/// If no listener has that port, or an address at all.
pub fn surroundings(
    path: &Path,
    loaded: &Loaded,
    platform: Platform,
    port: Option<u16>,
) -> Result<Surroundings, NoListener> {
    let text = loaded.written.as_ref().map(|written| Arc::clone(&written.text)).unwrap_or_default();
    let mut source = Source::new(path.to_string_lossy().into(), &text);
    let mut right = String::new();
    let parsed = syntax::parse(source.text(), &mut right);
    let root = parsed.table.get_ref();
    let hidden = secrets::find(source.text(), root, false);
    let mut reading =
        Reading { root, base_dir: path.parent().unwrap_or(Path::new("")), platform, notes: Notes::default() };
    let listener = choose(loaded, port)?;
    reading.check_listener(listener.0, listener.1.address);
    reading.check_resolver();
    let mut files = vec![Mount { source: path.to_owned(), target: in_container(Path::new("exeat.toml")) }];
    reading.check_readable(path, None);
    let has_secrets = !hidden.is_empty() | reading.find_files(&mut files);
    let folders = reading.find_folders();
    if platform == Platform::Docker && loaded.settings.api.socket.is_none() {
        let finding = Finding::warning(Code::Suspicious, "without the admin API there is no health check");
        reading.notes.push_whole(finding.help("write socket = \"/run/exeat/api.sock\" in [api]"));
    }
    let socket = reading.strings(&["api", "socket"]).pop().map(|(socket, _)| in_container(Path::new(socket)));
    let notes = reading.notes;
    source.hide(hidden);
    Ok(Surroundings {
        port: listener.1.address.port(),
        tls: listener.1.tls.is_some(),
        needs_certificate: listener
            .1
            .tls
            .as_ref()
            .and_then(|tls| tls.clients.as_ref())
            .is_some_and(|clients| clients.is_required),
        files,
        has_secrets,
        folders,
        socket,
        needs_credentials: loaded.anonymous.is_none() && !is_known_without(loaded),
        drain_timeout: loaded.settings.limits.drain_timeout,
        warnings: Report::new(notes.finish(&source, CONFIGURATION_PROBLEMS_MAX)),
    })
}

/// Returns the files that the configuration at `path` names and that are read: absolute, or relative to the working directory.
#[must_use]
pub fn files_named(path: &Path, loaded: &Loaded) -> Vec<PathBuf> {
    let Some(written) = &loaded.written else { return Vec::new() };
    let source = Source::new(path.to_string_lossy().into(), &written.text);
    let mut right = String::new();
    let parsed = syntax::parse(source.text(), &mut right);
    let mut found = Vec::new();
    FILES_READ.iter().for_each(|(pattern, _)| in_table(parsed.table.get_ref(), pattern, &mut found));
    let base_dir = path.parent().unwrap_or(Path::new(""));
    found.into_iter().map(|(file, _)| base_dir.join(file)).collect()
}

/// Whether all that the configuration knows of are known by their connection: by where it comes from, or by a certificate.
fn is_known_without(loaded: &Loaded) -> bool {
    let mut known = loaded.workloads.principals().chain(loaded.certificates.principals());
    loaded.clients.is_empty() && loaded.issuers.is_empty() && known.next().is_some()
}

/// The listener that workloads connect to, and its number.
fn choose(loaded: &Loaded, port: Option<u16>) -> Result<(usize, &crate::Listener), NoListener> {
    let all = || loaded.settings.listen.iter().enumerate();
    let mut candidates: Vec<_> =
        all().filter(|(_, listener)| port.is_none_or(|port| listener.address.port() == port)).collect();
    candidates.sort_by_key(|(_, listener)| {
        let ip = listener.address.ip();
        (!ip.is_unspecified(), ip.is_loopback())
    });
    candidates.into_iter().next().ok_or_else(|| match port {
        Some(port) => NoListener::Port { port, known: all().map(|(_, listener)| listener.address).collect() },
        None => NoListener::Address,
    })
}

/// Returns where a path that the configuration names is in the container.
fn in_container(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in Path::new(CONTAINER_DIRECTORY).join(path).components() {
        match component {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => normal.push(component),
        }
    }
    normal
}

struct Reading<'v, 'i> {
    root: &'v DeTable<'i>,
    base_dir: &'v Path,
    platform: Platform,
    notes: Notes,
}

impl<'v> Reading<'v, '_> {
    /// The strings at a path of keys.
    fn strings(&self, path: &[&str]) -> Vec<(&'v str, Range<usize>)> {
        let mut found = Vec::new();
        in_table(self.root, path, &mut found);
        found
    }

    fn warn(&mut self, span: Option<Range<usize>>, message: String, help: String) {
        let finding = Finding::warning(Code::Suspicious, message).help(help);
        match span {
            Some(span) => self.notes.push(span, finding),
            None => self.notes.push_whole(finding),
        }
    }

    fn check_listener(&mut self, index: usize, address: SocketAddr) {
        let listen = self.root.get("proxy").and_then(|proxy| proxy.get_ref().get("listen"));
        let elements = listen.and_then(|listen| listen.get_ref().as_array()).into_iter().flatten();
        let addresses = elements.map(|element| element.get_ref().get("address").unwrap_or(element));
        let is_socket = |address: &&Spanned<DeValue<'_>>| {
            address.get_ref().as_str().is_some_and(|text| text.starts_with(SOCKET_PREFIX))
        };
        let span = addresses.filter(|address| !is_socket(address)).nth(index).map(Spanned::span);
        let (ip, port) = (address.ip(), address.port());
        if port == 0 {
            let help = format!("write a port, such as {}", LISTEN_DEFAULT.port());
            return self.warn(span, "port 0 is another one at each start".to_owned(), help);
        }
        let everywhere = match ip {
            IpAddr::V4(_) => format!("0.0.0.0:{port}"),
            IpAddr::V6(_) => format!("[::]:{port}"),
        };
        let help = match span {
            Some(_) => format!("write \"{everywhere}\""),
            None => format!("write listen = [\"{everywhere}\"] in [proxy]"),
        };
        if ip.is_loopback() {
            let message = format!("`{address}` is reached from within the proxy's own container only");
            self.warn(span, message, help);
        } else if !ip.is_unspecified() {
            self.warn(span, format!("the container will not have the address `{ip}`"), help);
        }
    }

    fn check_resolver(&mut self) {
        for (server, span) in self.strings(&["resolver", "servers", "*"]) {
            let ip = server.parse::<SocketAddr>().map(|address| address.ip()).or_else(|_| server.parse());
            if ip.is_ok_and(|ip: IpAddr| ip.is_loopback()) {
                let message = format!("no name server listens at `{}` within the container", shown(server));
                self.warn(Some(span), message, "write \"system\", or the server's own address".to_owned());
            }
        }
    }

    /// Adds the files that are read, and returns whether one of them is secret.
    fn find_files(&mut self, files: &mut Vec<Mount>) -> bool {
        let mut has_secrets = false;
        for (pattern, is_secret) in FILES_READ {
            for (file, span) in self.strings(pattern) {
                has_secrets |= is_secret;
                let mount = Mount { source: self.base_dir.join(file), target: in_container(Path::new(file)) };
                if !files.contains(&mount) {
                    self.check_readable(&mount.source, Some(span));
                    files.push(mount);
                }
            }
        }
        has_secrets
    }

    /// Docker shows the container this machine's files, with the owner and the mode that they have here.
    fn check_readable(&mut self, file: &Path, span: Option<Range<usize>>) {
        let Ok(metadata) = fs::metadata(file) else { return };
        let (mode, is_user) = (metadata.mode(), metadata.uid() == CONTAINER_USER);
        let is_group = metadata.gid() == CONTAINER_USER;
        let is_readable =
            mode & if is_user {
                0o400
            } else if is_group {
                0o040
            } else {
                0o004
            } != 0;
        if self.platform == Platform::Docker && !is_readable {
            let file = shown(&file.to_string_lossy());
            let message = format!("user {CONTAINER_USER} of the container cannot read `{file}`");
            self.warn(span, message, format!("chgrp {CONTAINER_USER} {file} && chmod 640 {file}"));
        }
    }

    /// Adds the folders of the unix sockets that workloads come to, and warns of each: nobody else is in them.
    fn find_sockets(&mut self, folders: &mut Vec<PathBuf>) {
        let mut listen = self.strings(&["proxy", "listen", "*"]);
        listen.extend(self.strings(&["proxy", "listen", "*", "address"]));
        for (address, span) in listen {
            let Some(path) = address.strip_prefix(SOCKET_PREFIX) else { continue };
            let target = in_container(Path::new(path));
            let path = shown(&target.to_string_lossy()).to_string();
            let Some(folder) = writable_folder(target.parent()) else {
                let help = "write \"unix:/run/exeat/workload.sock\"".to_owned();
                self.warn(Some(span), format!("`{path}` cannot be written in the container"), help);
                continue;
            };
            let help = format!(
                "let a volume that user {CONTAINER_USER} may write and that is in the workload's container, too, take the place \
                 of the generated `{}`",
                shown(&folder.to_string_lossy())
            );
            self.warn(
                Some(span),
                format!("`{path}` is reached from within the proxy's own container only"),
                help,
            );
            add(folders, folder);
        }
    }

    /// The folders that are written to and can be.
    fn find_folders(&mut self) -> Vec<PathBuf> {
        const SOCKET: &str = "write socket = \"/run/exeat/api.sock\"";
        const FILE: &str = "remove `file`: records then go to standard output, which is kept outside";
        const DIRECTORY: &str = "write directory = \"/var/lib/exeat\"";
        let mut folders = Vec::new();
        let keys: [(&[&str], &str, bool); 3] = [
            (&["api", "socket"], SOCKET, false),
            (&["audit", "file"], FILE, false),
            (&["state", "directory"], DIRECTORY, true),
        ];
        for (path, help, is_folder) in keys {
            for (value, span) in self.strings(path) {
                let target = in_container(Path::new(value));
                let parent = if is_folder { Some(target.as_path()) } else { target.parent() };
                let Some(folder) = writable_folder(parent) else {
                    let message =
                        format!("`{}` cannot be written in the container", shown(&target.to_string_lossy()));
                    self.warn(Some(span), message, help.to_owned());
                    continue;
                };
                let shown = shown(&folder.to_string_lossy());
                let message = format!("what is written to `{shown}` goes with the container");
                if help == FILE {
                    self.warn(Some(span), message, help.to_owned());
                } else if is_folder {
                    let help = format!(
                        "let a volume that user {CONTAINER_USER} may write take the place of the generated one"
                    );
                    self.warn(Some(span), message, help);
                }
                add(&mut folders, folder);
            }
        }
        self.find_sockets(&mut folders);
        folders
    }
}

/// The folder, if a volume can take its place.
fn writable_folder(folder: Option<&Path>) -> Option<&Path> {
    folder.filter(|folder| folder.parent().is_some() && !folder.starts_with(CONTAINER_DIRECTORY))
}

fn add(folders: &mut Vec<PathBuf>, folder: &Path) {
    if !folders.iter().any(|other| other == folder) {
        folders.push(folder.to_owned());
    }
}

fn in_table<'v>(table: &'v DeTable<'_>, path: &[&str], found: &mut Vec<(&'v str, Range<usize>)>) {
    let Some((first, rest)) = path.split_first() else { return };
    for (key, value) in table {
        if *first == "*" || key.get_ref() == first {
            in_value(value, rest, found);
        }
    }
}

fn in_value<'v>(value: &'v Spanned<DeValue<'_>>, path: &[&str], found: &mut Vec<(&'v str, Range<usize>)>) {
    match (value.get_ref(), path.split_first()) {
        (DeValue::String(text), None) => found.push((text, value.span())),
        (DeValue::Table(table), Some(_)) => in_table(table, path, found),
        (DeValue::Array(list), Some((&"*", rest))) => {
            list.iter().for_each(|value| in_value(value, rest, found));
        }
        // A list of files where one may stand: each of them.
        (DeValue::Array(list), None) => list.iter().for_each(|value| in_value(value, path, found)),
        (
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_),
            _,
        ) => {}
    }
}

#[cfg(test)]
mod tests;
