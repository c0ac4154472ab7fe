//! A configuration without a file: `exeat serve --allow HOST --deny HOST`, and the same of `exeat run`.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use exeat_firewall::{Device, Group};
use exeat_identity::{PasswordHash, hash_generated};
use exeat_policy::{
    Caps, Defaults, Entry, Labels, List, ListBuilder, Mode, Place, Severity as EntrySeverity, Side,
};

use crate::clients::Client;
use crate::document::Document;
use crate::entry;
use crate::firewall::{LOOPBACK, LOOPBACK_HELP};
use crate::load::{Options, compile};
use crate::policies::Policy;
use crate::problem::{Code, Finding, Problem, Severity};
use crate::report::Report;
use crate::sections::Proxy;
use crate::settings::{ApiSettings, DnsListener, DnsSettings, FirewallSettings, Listener, Loaded};
use crate::source::Source;

/// The name of the one client, and of its policy.
pub const FLAGS_CLIENT: &str = "exeat";

/// What the command line says instead of a file.
#[derive(Clone, Debug, Default)]
pub struct Flags<'f> {
    /// The value of each `--allow`, in order: text entries, groups but `@any-public` excepted.
    pub allow: &'f [String],
    /// The value of each `--deny`, in order.
    pub deny: &'f [String],
    /// The addresses to listen on; empty means [`crate::LISTEN_DEFAULT`].
    pub listen: &'f [SocketAddr],
    /// The generated password of the client [`FLAGS_CLIENT`]. Without one there is no such client, and whoever reaches a
    /// listener is under the policy.
    pub password: Option<&'f str>,
    /// Whether the policy is enforced.
    pub mode: Mode,
}

/// What the command line says of the clients of network devices, and of processes of this host.
#[derive(Clone, Debug)]
pub struct AttachFlags<'f> {
    /// What they may reach, in order: text entries, groups but `@any-public` excepted. A dot at the end of a name is fine.
    pub allow: &'f [String],
    /// The value of each `--deny`, in order.
    pub deny: &'f [String],
    /// The bridges.
    pub bridges: &'f [String],
    /// The other devices.
    pub interfaces: &'f [String],
    /// The control groups of this host.
    pub groups: &'f [Group],
    /// Where names are asked for by clients of the devices, and the device of each.
    pub addresses: &'f [(IpAddr, String)],
    /// The socket of the admin API.
    pub socket: &'f Path,
    /// Whether the policy is enforced.
    pub mode: Mode,
}

/// Makes a configuration of one policy, which holds for every client of these devices and every process of these groups, and no proxy.
///
/// # Errors
/// A report of every value that is not an entry or a device.
pub fn from_attach_flags(flags: &AttachFlags<'_>, options: &Options) -> Result<Loaded, Report> {
    let mut problems = Vec::new();
    let allow: Vec<String> = flags.allow.iter().map(|entry| without_final_dot(entry)).collect();
    let policy = policy(&allow, flags.deny, flags.mode, &mut problems)?;
    let mut devices: Vec<Device> = Vec::new();
    for (names, is_bridge) in [(flags.bridges, true), (flags.interfaces, false)] {
        for name in names {
            let finding = match Device::new(name, is_bridge) {
                Some(device) if devices.iter().any(|other| other.name() == device.name()) => {
                    Finding::error(Code::Duplicate, format!("`{name}` is named twice")).help("name it once")
                }
                Some(device) if device.is_loopback() => {
                    Finding::error(Code::InvalidValue, LOOPBACK).help(LOOPBACK_HELP)
                }
                Some(device) => {
                    devices.push(device);
                    continue;
                }
                None => {
                    let message = format!("`{name}` is not the name of a network device");
                    Finding::error(Code::InvalidValue, message)
                }
            };
            return Err(Report::new(vec![Problem::of_file(&"the command line".into(), finding)]));
        }
    }
    // Whoever asks from elsewhere would be answered, and have names opened, as the clients are.
    let listen = flags.addresses.iter().map(|(address, device)| DnsListener {
        address: SocketAddr::new(*address, crate::sections::DNS_PORT),
        interface: Some(device.clone()),
    });
    let document = Document {
        proxy: Proxy { listen: Vec::new(), anonymous: Some(FLAGS_CLIENT.to_owned()), ..Proxy::default() },
        dns: DnsSettings { listen: listen.collect(), ..DnsSettings::default() },
        firewall: Some(FirewallSettings::of(devices, flags.groups.to_vec())),
        api: ApiSettings { socket: Some(flags.socket.to_owned()), listen: None },
        ..document(policy)
    };
    finish(document, problems, options)
}

/// A text entry whose name may be written with the dot that ends it in a zone file.
fn without_final_dot(entry: &str) -> String {
    match entry.split_once(".:") {
        Some((name, ports)) => format!("{name}:{ports}"),
        None => entry.strip_suffix('.').unwrap_or(entry).to_owned(),
    }
}

/// Makes a configuration of one policy and one client. Places name the flag as the file and count its uses as
/// lines: `--allow:2`.
///
/// # Errors
/// A report of every value that is not an entry.
pub fn from_flags(flags: &Flags<'_>, options: &Options) -> Result<Loaded, Report> {
    let mut problems = Vec::new();
    let policy = policy(flags.allow, flags.deny, flags.mode, &mut problems)?;
    let default = Proxy::default();
    let listen = if flags.listen.is_empty() {
        default.listen
    } else {
        flags.listen.iter().copied().map(Listener::plain).collect()
    };
    let anonymous = flags.password.is_none().then(|| FLAGS_CLIENT.to_owned());
    let document = Document {
        proxy: Proxy { listen, anonymous, ..default },
        clients: flags.password.map(client).into_iter().collect(),
        ..document(policy)
    };
    finish(document, problems, options)
}

/// The one policy of a command line.
fn policy(
    allow: &[String],
    deny: &[String],
    mode: Mode,
    problems: &mut Vec<Problem>,
) -> Result<Policy, Report> {
    let allow = read_list("--allow", allow, Side::Allow, problems);
    let deny = read_list("--deny", deny, Side::Deny, problems);
    problems.sort_by(|one, other| (one.file(), one.location()).cmp(&(other.file(), other.location())));
    if problems.iter().any(|problem| problem.severity() == Severity::Error) {
        return Err(Report::new(std::mem::take(problems)));
    }
    Ok(Policy {
        name: FLAGS_CLIENT.to_owned(),
        span: 0..0,
        place: Place { file: "--allow".into(), line: 1, column: 0 },
        allow,
        deny,
        defaults: Defaults::default(),
        mode,
        bind: None,
        metadata: Vec::new(),
        next_hop: None,
        empty: None,
    })
}

/// A document that has nothing but a policy.
fn document(policy: Policy) -> Document {
    Document {
        proxy: Proxy::default(),
        anonymous_span: Range::default(),
        resolver: exeat_dns::ResolverConfig::default(),
        dns: DnsSettings::default(),
        firewall: None,
        limits: exeat_proxy::Limits::default(),
        audit: crate::AuditSettings::default(),
        state: None,
        api: ApiSettings::default(),
        groups: Vec::new(),
        policies: vec![policy],
        ceilings: Vec::new(),
        next_hops: Vec::new(),
        clients: Vec::new(),
        workloads: Vec::new(),
        certificates: Vec::new(),
        issuers: Vec::new(),
        is_for_proxy: true,
        broken: false,
    }
}

fn finish(document: Document, problems: Vec<Problem>, options: &Options) -> Result<Loaded, Report> {
    match compile(document, options) {
        Ok(loaded) => Ok(Loaded { warnings: Report::new(problems), ..loaded }),
        Err(finding) => Err(Report::new(vec![Problem::of_file(&"--allow".into(), finding)])),
    }
}

/// The client of this password.
fn client(password: &str) -> Client {
    Client {
        name: FLAGS_CLIENT.to_owned(),
        span: 0..0,
        // A hash made here always parses; without one nobody could authenticate, which is the safe side.
        hashes: PasswordHash::parse(&hash_generated(password.as_bytes())).into_iter().collect(),
        origins: None,
        policies: vec![(FLAGS_CLIENT.to_owned(), 0..0)],
        labels: Labels::default(),
        caps: Caps::default(),
    }
}

fn read_list(flag: &str, values: &[String], side: Side, problems: &mut Vec<Problem>) -> List {
    let file: Arc<str> = flag.into();
    let mut builder = ListBuilder::new(Arc::clone(&file), Defaults::default());
    let mut report = |line: u32, text: &str, finding: Finding| {
        let source = Source::of_line(Arc::clone(&file), text, line);
        problems.push(source.problem(&(0..text.len()), finding));
    };
    for (line, text) in (1_u32..).zip(values) {
        match Entry::parse(text) {
            Ok(entry) => builder.push(entry, line, 0),
            Err(error) => report(line, text, entry::finding(text, &error)),
        }
    }
    let list = builder.finish();
    let text_of = |line: u32| usize::try_from(line).ok().and_then(|line| values.get(line.checked_sub(1)?));
    for (group, place) in list.groups() {
        let finding = Finding::error(Code::UnknownReference, format!("there is no group `{group}`"));
        let help = "groups need a configuration file; `@any-public` is always there";
        report(place.line, text_of(place.line).map_or("", String::as_str), finding.help(help));
    }
    for problem in list.problems(side) {
        let finding = match problem.severity {
            EntrySeverity::Error => Finding::error(Code::InvalidEntry, problem.message),
            EntrySeverity::Warning => Finding::warning(Code::Suspicious, problem.message),
        };
        let text = text_of(problem.place.line).map_or("", String::as_str);
        report(problem.place.line, text, finding.help(problem.correction));
    }
    list
}
