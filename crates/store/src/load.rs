//! From a file, a text or command-line flags to a [`Loaded`] configuration.

use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use exeat_identity::{Clients, Principal, Proof};
use exeat_policy::{Builder, CeilingSpec, Labels, PolicySet, PolicySpec, Revision};

use crate::certificates;
use crate::clients::Client;
use crate::document::{self, Document};
use crate::files::{Files, reason};
use crate::floor::floor;
use crate::issuers::{self, Keys};
use crate::names;
use crate::next_hops;
use crate::notes::Notes;
use crate::policies::Policy;
use crate::problem::{Code, Finding, Problem, shown};
use crate::references::{self, Places};
use crate::report::Report;
use crate::settings::{Loaded, Settings};
use crate::source::Source;
use crate::workloads;
use crate::written::Written;

/// Largest configuration file, in bytes. Lists that need more go to group files.
pub const CONFIGURATION_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Problems reported of one configuration file: all of them, unless the file is something else entirely.
pub const CONFIGURATION_PROBLEMS_MAX: usize = 100;

/// Others may read the file.
const MODE_WORLD_READABLE: u32 = 0o004;

/// What a load needs to know besides the configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Options {
    /// The number of the snapshot to build.
    pub revision: Revision,
    /// Listeners that are bound already, for the floor, besides those that the configuration names. A
    /// configured port 0 becomes known only once it is bound.
    pub listeners: Vec<SocketAddr>,
    /// Who uses the configuration.
    pub purpose: Purpose,
}

impl Options {
    /// Options for a first load of a proxy.
    #[must_use]
    pub fn new(revision: Revision) -> Self {
        Self { revision, listeners: Vec::new(), purpose: Purpose::Serve }
    }
}

/// Who uses a configuration. What is worth a warning to a proxy need not be to a confined command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// A proxy, which serves those whom the configuration names.
    Serve,
    /// One confined command, which is told the policy that it is under. Who else could use what is no matter.
    Run,
    /// What the file is for: a command, if it says nothing of how a proxy is reached, nor of who may use one.
    AsWritten,
}

/// Reads a configuration file and the group files it names.
///
/// # Errors
/// A report of every problem found in any of the files, warnings included.
pub fn load(path: &Path, options: &Options) -> Result<Loaded, Report> {
    let name: Arc<str> = path.to_string_lossy().into();
    let (text, metadata) =
        read_text(path).map_err(|finding| Report::new(vec![Problem::of_file(&name, finding)]))?;
    let base_dir = path.parent().unwrap_or(Path::new(""));
    load_source(name, &text, base_dir, Some(&metadata), options)
}

/// Reads a text as [`load`] would if it stood in the file at `path`. That file is looked at for its permissions only,
/// and need not be there.
///
/// # Errors
/// As [`load`].
pub fn load_as(path: &Path, text: &str, options: &Options) -> Result<Loaded, Report> {
    let metadata = fs::metadata(path).ok();
    let base_dir = path.parent().unwrap_or(Path::new(""));
    load_source(path.to_string_lossy().into(), text, base_dir, metadata.as_ref(), options)
}

/// Reads a configuration from text. `name` stands for the file in places and reports; relative paths in the text
/// start from `base_dir`.
///
/// # Errors
/// As [`load`].
pub fn load_text(name: &str, text: &str, base_dir: &Path, options: &Options) -> Result<Loaded, Report> {
    load_source(name.into(), text, base_dir, None, options)
}

fn load_source(
    name: Arc<str>,
    text: &str,
    base_dir: &Path,
    metadata: Option<&Metadata>,
    options: &Options,
) -> Result<Loaded, Report> {
    // Positions must count from what the operator sees, which is after a byte order mark.
    // One mark says how the file is encoded. The parser takes one as well, and is to find fault with a second.
    let text = text.strip_prefix('\u{feff}').filter(|rest| !rest.starts_with('\u{feff}')).unwrap_or(text);
    let mut source = Source::new(name, text);
    let (mut notes, mut files) = (Notes::default(), Files::default());
    let document = document::read(&mut source, base_dir, &mut notes, &mut files);
    if !document.broken {
        next_hops::check(&document, &options.listeners, &mut notes);
        let mut places = Places { source: &source, notes: &mut notes, files: &mut files };
        references::check(&document, options.purpose, &mut places);
    }
    if metadata.is_some_and(|metadata| metadata.mode() & MODE_WORLD_READABLE != 0)
        && !document.clients.is_empty()
    {
        let finding =
            Finding::warning(Code::Permissions, "every user of this machine can read the password hashes");
        notes.push_whole(finding.help(format!("chmod o-r {}", shown(source.name()))));
    }
    let compiled = if notes.has_errors() || files.has_errors() {
        None
    } else {
        compile(document, options).map_err(|finding| notes.push_whole(finding)).ok()
    };
    if let Some(loaded) = &compiled {
        let mut places = Places { source: &source, notes: &mut notes, files: &mut files };
        references::lint(&loaded.policy, &mut places);
    }
    let read = files.take_read();
    let mut problems = notes.finish(&source, CONFIGURATION_PROBLEMS_MAX);
    problems.extend(files.finish());
    let report = Report::new(problems);
    match compiled {
        Some(loaded) => Ok(Loaded { warnings: report, written: Some(Written::new(text, read)), ..loaded }),
        None => Err(report),
    }
}

/// Puts the parts of a checked document together.
pub(crate) fn compile(document: Document, options: &Options) -> Result<Loaded, Finding> {
    let Document {
        proxy,
        resolver,
        dns,
        firewall,
        limits,
        audit,
        state,
        api,
        groups,
        policies,
        ceilings,
        next_hops,
        clients,
        workloads,
        certificates,
        issuers,
        ..
    } = document;
    let mut builder = Builder::new();
    for group in groups {
        builder.group(&group.name, group.place, group.list);
    }
    next_hops.iter().filter_map(next_hops::NextHop::spec).for_each(|hop| builder.hop(hop));
    policies.into_iter().for_each(|policy| builder.policy(policy_spec(policy)));
    ceilings.into_iter().for_each(|ceiling| builder.ceiling(ceiling_spec(ceiling)));
    for issuer in &issuers {
        if let Some(Keys::Remote(remote)) = &issuer.keys {
            builder.key_server(remote.server.endpoint.clone());
        }
    }
    let (issuers, key_sources) = issuers::issuers(issuers);
    let listeners = proxy.listen.iter().map(|listener| &listener.address);
    let listeners = listeners.chain(dns.listen.iter().map(|listener| &listener.address));
    let listeners = listeners.chain(&api.listen).chain(&options.listeners).copied();
    builder.floor(floor(listeners).map_err(|error| {
        Finding::error(
            Code::Unreadable,
            format!("cannot list the addresses of this host: {}", reason(&error)),
        )
    })?);
    let policy = builder.finish(options.revision).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(|error| format!("{}: {error}", error.place())).collect();
        Finding::error(Code::InvalidEntry, errors.join("; "))
    })?;
    Ok(Loaded {
        clients: bind_clients(clients, &policy),
        workloads: workloads::bind(workloads, &policy),
        certificates: certificates::bind(certificates, &policy),
        issuers,
        key_sources,
        anonymous: proxy.anonymous.as_deref().map(|name| anonymous(name, &policy)),
        policy,
        hops: next_hops::hops(next_hops),
        settings: Settings {
            listen: proxy.listen,
            sockets: proxy.sockets,
            http2: proxy.http2,
            anonymous: proxy.anonymous,
            disclose: proxy.disclose,
            pac: proxy.pac,
            proxy_protocol_from: proxy.proxy_protocol_from,
            central: proxy.central,
            limits,
            resolver,
            dns,
            firewall,
            audit,
            state,
            api,
        },
        warnings: Report::default(),
        written: None,
    })
}

fn policy_spec(policy: Policy) -> PolicySpec {
    let Policy { name, place, allow, deny, defaults, mode, bind, metadata, next_hop, .. } = policy;
    let next_hop = next_hop.map(|(next_hop, _)| next_hop);
    PolicySpec { name, place, allow, deny, defaults, mode, bind, metadata, next_hop }
}

fn ceiling_spec(ceiling: Policy) -> CeilingSpec {
    let Policy { name, place, allow, deny, defaults, bind, metadata, .. } = ceiling;
    CeilingSpec { name, place, allow, deny, defaults, bind: bind.unwrap_or_default(), metadata }
}

fn bind_clients(clients: Vec<Client>, policy: &PolicySet) -> Clients {
    let mut bound = Clients::new();
    for client in clients {
        let names: Vec<&str> = client.policies.iter().map(|(name, _)| name.as_str()).collect();
        let principal = Principal {
            name: client.name.as_str().into(),
            proof: Proof::Password,
            bound: policy.bind(&names, &client.labels).within(client.caps),
            labels: client.labels,
            token: None,
        };
        bound.insert(&client.name, Arc::new(principal), client.hashes);
        if let Some(origins) = client.origins {
            bound.tie(&client.name, origins.into_iter().map(|(name, _)| name.into()).collect());
        }
    }
    bound
}

/// Who has no credentials, under this policy.
pub(crate) fn anonymous(name: &str, policy: &PolicySet) -> Arc<Principal> {
    let labels = Labels::default();
    Arc::new(Principal {
        name: names::ANONYMOUS.into(),
        proof: Proof::Anonymous,
        bound: policy.bind(&[name], &labels),
        labels,
        token: None,
    })
}

/// Reads a whole file of bounded size as text.
pub(crate) fn read_text(path: &Path) -> Result<(String, Metadata), Finding> {
    let unreadable = |error: io::Error| {
        let finding = Finding::error(Code::Unreadable, format!("cannot be read: {}", reason(&error)));
        if error.kind() == io::ErrorKind::NotFound {
            return finding.help(
                "name the file that is meant; with nothing at hand, `exeat serve --allow example.com` needs none, and \
                 `exeat suggest` makes one of what was reached",
            );
        }
        finding
    };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(CONFIGURATION_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > CONFIGURATION_BYTES_MAX {
        let mib = CONFIGURATION_BYTES_MAX / (1024 * 1024);
        let finding = Finding::error(Code::TooLarge, format!("is larger than {mib} MiB"));
        return Err(finding.help("move long lists to group files: [groups.NAME] with file = \"…\""));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes().iter().take(valid).filter(|&&byte| byte == b'\n').count() + 1;
        Finding::error(Code::Syntax, format!("line {line} is not UTF-8 text")).help("save the file as UTF-8")
    })?;
    Ok((text, metadata))
}
