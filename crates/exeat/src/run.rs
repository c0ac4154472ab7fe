//! `exeat run`: a command inside, and the proxy for it outside.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use exeat_audit::AuditLog;
use exeat_cli::{Exit, Run, Summary, Terminal};
use exeat_dns::{Entrance, NoGate, Ranges, Resolver, Server, VirtualNames};
use exeat_identity::Authenticator;
use exeat_policy::Revision;
use exeat_proxy::{Door, Limits, Parts, Processes, Proxy};
use exeat_sandbox::{
    Failure, Held, NAMES, Outcome, PROXY, REDIRECTED, Sandbox, Signals, Sockets, give_back_text,
};
use exeat_store::{Loaded, Options, Purpose};
use tokio::runtime::{Builder, Runtime};

use crate::asking::Asker;
use crate::assemble::AUDIT_FLUSH_TIMEOUT;
use crate::cores::{Cores, DnsDoor};
use crate::descriptors;
use crate::processes::Inside;
use crate::question;
use crate::reloader::snapshot;

/// The command has standard error to itself as long as nothing is wrong.
const LOG_FILTER: &str = "warn";

/// How long the last log lines may take to be read.
const LOG_FLUSH_TIMEOUT: Duration = Duration::from_millis(200);

/// How often the traffic is looked at meanwhile, for which the proxy gives up counting after a minute, and text that was needed is
/// given back. What is needed again comes back in less than a millisecond.
const LOOK_AGAIN: Duration = Duration::from_secs(20);

/// How long the connections of a command that has ended may take to end. Nobody is at their other side.
const DRAIN: Duration = Duration::from_secs(1);

/// Runs the command, and returns its exit status.
pub(crate) fn run(command: &Run) -> ExitCode {
    let options = Options { listeners: listeners(), purpose: Purpose::Run, ..Options::new(Revision(1)) };
    confined(command, &options).unwrap_or_else(|error| {
        exeat_cli::print_error(&error);
        error.downcast_ref().map_or(Exit::NotRun.into(), |failure: &Failure| failure.status.into())
    })
}

/// What is listened on inside.
pub(crate) fn listeners() -> Vec<SocketAddr> {
    std::iter::once(PROXY).chain(REDIRECTED).chain(NAMES).collect()
}

fn confined(command: &Run, options: &Options) -> anyhow::Result<ExitCode> {
    // What the command may reach is read, and the proxy made, while the sandbox is.
    let found = command.look(options)?;
    if command.asks() {
        ensure!(Terminal::is_there(), "--ask needs a terminal to ask on; leave it out where there is none");
    }
    let beginning = command.begin()?;
    // Before there is another thread.
    let mut signals = Held::hold().context("cannot hold signals")?;
    let loaded = match found.map_or_else(|| command.load(options), Ok)? {
        Ok(loaded) => loaded,
        Err(report) => {
            exeat_cli::print_report(&report);
            return Ok(Exit::NotRun.into());
        }
    };
    exeat_cli::print_report(&loaded.warnings);
    let made = beginning.finish(&command.plan(&loaded)?)?;
    if command.asks() {
        question::outlive_the_background().context("cannot hold signals")?;
    }
    let ask = |proxy: &Proxy, inside: &Arc<Inside>| {
        let asker = command.asks().then(|| Asker::start(command, options, proxy, inside)).transpose();
        asker.context("cannot ask on the terminal")
    };
    let (summary, ended) = conduct(made, loaded, &mut signals, ask, || ())?;
    let outcome = ended.or_else(|failure| {
        let outcome = failure.outcome().ok_or_else(|| failure.clone())?;
        exeat_cli::print_error(&failure.into());
        Ok::<_, Failure>(outcome)
    })?;
    Ok(command.conclude(summary, &outcome).into())
}

/// Runs the command of a sandbox that is complete but for it, and returns what left it and how it ended. `ask` says who asks for
/// what no rule covers, if somebody does; `started` is called when the command runs.
pub(crate) fn conduct(
    (sandbox, sockets): (Sandbox, Sockets),
    loaded: Loaded,
    signals: &mut impl Signals,
    ask: impl FnOnce(&Proxy, &Arc<Inside>) -> anyhow::Result<Option<Asker>>,
    started: impl FnOnce(),
) -> anyhow::Result<(Summary, Result<Outcome, Failure>)> {
    let log = crate::start_log(LOG_FILTER)?;
    log.take_panics();
    let outside = Outside::start(loaded, sockets)?;
    let inside = Arc::new(Inside::new(sandbox.first_process(), sandbox.pauser().ok()));
    outside.proxy.tell_processes(Arc::clone(&inside) as Arc<dyn Processes>);
    let asker = ask(&outside.proxy, &inside)?;
    // What has ended is counted only for as long as somebody looks.
    let look = || drop(outside.proxy.traffic());
    look();
    let ended = sandbox.start().and_then(|()| {
        started();
        give_back_text();
        sandbox.wait(signals, LOOK_AGAIN, || {
            look();
            give_back_text();
        })
    });
    if let Some(asker) = asker {
        asker.stop();
    }
    let summary = outside.stop().with_processes(&inside.seen());
    log.finish(LOG_FLUSH_TIMEOUT);
    Ok((summary, ended))
}

/// The proxy of one command.
struct Outside {
    proxy: Proxy,
    cores: Cores,
    runtime: Runtime,
    writer: exeat_audit::AuditWriter,
}

impl Outside {
    fn start(loaded: Loaded, sockets: Sockets) -> anyhow::Result<Self> {
        let settings = loaded.settings.clone();
        let audit = &settings.audit;
        let (audit, writer) = AuditLog::start(audit.sink.clone(), audit.required)
            .with_context(|| format!("cannot open the audit log ({:?})", audit.sink))?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let here = runtime.enter();
        let limits = descriptors::raise_limit()
            .map_or(settings.limits, |most| descriptors::fit(settings.limits, most));
        let resolver = Resolver::new(settings.resolver).context("cannot set up the resolver")?;
        let names = Some(Arc::new(VirtualNames::new(Ranges::default(), Instant::now())));
        let proxy = Proxy::new(Parts {
            authenticator: Authenticator::new()?,
            resolver: resolver.clone(),
            audit,
            limits: Limits { drain_timeout: DRAIN, ..limits },
            http2: settings.http2,
            pac: settings.pac,
            proxy_protocol_from: Vec::new(),
            virtual_names: names.clone(),
            answers: None,
            snapshot: snapshot(loaded),
        })
        .context("cannot set up the proxy")?;
        let redirected = sockets.redirected.into_iter().map(|socket| (socket, true));
        let listeners: Result<Vec<_>, _> = std::iter::once((sockets.proxy, false))
            .chain(redirected)
            .map(|(socket, is_redirected)| {
                socket.set_nonblocking(true)?;
                Ok::<_, io::Error>((vec![socket], Door { is_redirected, ..Door::default() }))
            })
            .collect();
        let listeners = listeners.context("cannot use the sockets of the sandbox")?;
        // No address is told but one that stands for its name: the redirected connection says which.
        let server =
            Server::new(settings.dns.server, resolver, proxy.surroundings(), Arc::new(NoGate), names, None);
        let door = DnsDoor { entrance: Entrance::Open, server, is_for_one: true };
        let dns: io::Result<Vec<_>> = (sockets.names.into_iter())
            .map(|(udp, tcp)| {
                udp.set_nonblocking(true)?;
                tcp.set_nonblocking(true)?;
                Ok((vec![(udp, tcp)], door.clone()))
            })
            .collect();
        let dns = dns.context("cannot use the sockets of the sandbox")?;
        // One command needs no more than one thread for what leaves it.
        let cores = Cores::start(&proxy, listeners, Vec::new(), dns)?;
        drop(here);
        Ok(Self { proxy, cores, runtime, writer })
    }

    /// Ends what is left, has the last records written, and returns what there was.
    fn stop(self) -> Summary {
        self.runtime.block_on(self.proxy.drain());
        self.cores.stop();
        let summary = Summary::of(&self.proxy);
        drop(self.proxy);
        if !self.writer.shutdown(AUDIT_FLUSH_TIMEOUT) {
            tracing::error!("the last audit records could not be written");
        }
        summary
    }
}
