//! A configuration without a file: `exeat serve --allow HOST --deny HOST`.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use exeat_identity::{PasswordHash, hash_generated};
use exeat_policy::{
    Caps, Defaults, Entry, Labels, List, ListBuilder, Mode, Place, Severity as EntrySeverity, Side,
};

use crate::clients::Client;
use crate::document::Document;
use crate::entry;
use crate::load::{Options, compile};
use crate::policies::Policy;
use crate::problem::{Code, Finding, Problem, Severity};
use crate::report::Report;
use crate::sections::Proxy;
use crate::settings::{Listener, Loaded};
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
    /// The generated password of the client [`FLAGS_CLIENT`].
    pub password: &'f str,
    /// Whether the policy is enforced.
    pub mode: Mode,
}

/// Makes a configuration of one policy and one client. Places name the flag as the file and count its uses as
/// lines: `--allow:2`.
///
/// # Errors
/// A report of every value that is not an entry.
pub fn from_flags(flags: &Flags<'_>, options: &Options) -> Result<Loaded, Report> {
    let mut problems = Vec::new();
    let allow = read_list("--allow", flags.allow, Side::Allow, &mut problems);
    let deny = read_list("--deny", flags.deny, Side::Deny, &mut problems);
    problems.sort_by(|one, other| (one.file(), one.location()).cmp(&(other.file(), other.location())));
    if problems.iter().any(|problem| problem.severity() == Severity::Error) {
        return Err(Report::new(problems));
    }
    let default = Proxy::default();
    let listen = if flags.listen.is_empty() {
        default.listen
    } else {
        flags.listen.iter().copied().map(Listener::plain).collect()
    };
    // A hash made here always parses; without one nobody could authenticate, which is the safe side.
    let hashes = PasswordHash::parse(&hash_generated(flags.password.as_bytes())).into_iter().collect();
    let policy = Policy {
        name: FLAGS_CLIENT.to_owned(),
        span: 0..0,
        place: Place { file: "--allow".into(), line: 1, column: 0 },
        allow,
        deny,
        defaults: Defaults::default(),
        mode: flags.mode,
        bind: None,
        metadata: Vec::new(),
        next_hop: None,
    };
    let document = Document {
        proxy: Proxy { listen, ..default },
        anonymous_span: Range::default(),
        resolver: exeat_dns::ResolverConfig::default(),
        dns: crate::DnsSettings::default(),
        limits: exeat_proxy::Limits::default(),
        audit: crate::AuditSettings::default(),
        state: None,
        api: crate::ApiSettings::default(),
        groups: Vec::new(),
        policies: vec![policy],
        ceilings: Vec::new(),
        next_hops: Vec::new(),
        clients: vec![Client {
            name: FLAGS_CLIENT.to_owned(),
            span: 0..0,
            hashes,
            origins: None,
            policies: vec![(FLAGS_CLIENT.to_owned(), 0..0)],
            labels: Labels::default(),
            caps: Caps::default(),
        }],
        workloads: Vec::new(),
        certificates: Vec::new(),
        issuers: Vec::new(),
        broken: false,
    };
    match compile(document, options) {
        Ok(loaded) => Ok(Loaded { warnings: Report::new(problems), ..loaded }),
        Err(finding) => Err(Report::new(vec![Problem::of_file(&"--allow".into(), finding)])),
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
